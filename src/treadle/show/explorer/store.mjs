// The one state of the page: which network, which cursor (layer, unit, step), which view. It lives in the URL's hash,
// so a link restores it.

const SHOWN = ["before", "after", "difference"];
const VIEWS = ["wiring", "cell", "gradients", "whatif", "compare"];

/** What the page shows when nothing else is said. */
export function beginning(networks) {
    const first = networks[0];
    const box = first.cells[0]?.box ?? first.boxes[0].name;
    return {
        view: "wiring",
        network: first.name,
        other: (networks[1] ?? first).name,
        step: Math.min(5, first.steps - 1),
        box,
        field: "",
        unit: 0,
        output: null,
        pins: [],
        show: "before",
        beat: null,
        tour: null,
        cut: null, // truncate gradients after so many steps; null is what the network was made with
        log: false,
        over: null, // which value is shown over what is read
        all: false, // whether every value of a cell has a map
    };
}

/** A state made valid: what a link, a key or a click asks for, within what there is. */
export function fitted(state, networks) {
    const network = networks.find((one) => one.name === state.network) ?? networks[0];
    const other = networks.find((one) => one.name === state.other) ?? networks[0];
    const box = network.row.has(state.box) ? state.box : (network.cells.at(-1)?.box ?? network.boxes[0].name);
    const units = network.units(box);
    const whole = (value, most) => Math.max(0, Math.min(most, Math.round(Number(value)) || 0));
    return {
        ...state,
        view: VIEWS.includes(state.view) ? state.view : "wiring",
        network: network.name,
        other: other.name,
        box,
        step: whole(state.step, network.steps - 1),
        unit: whole(state.unit, units - 1),
        field: fieldsOf(network, box).includes(state.field) ? state.field : "",
        show: state.pins.length && SHOWN.includes(state.show) ? state.show : "before",
        cut: state.cut === null ? null : whole(state.cut, network.steps),
        tour: Number.isInteger(state.tour) && state.tour >= 0 ? state.tour : null,
    };
}

/** What a box makes that can be chosen: components of its state, or "" for the box itself. */
export function fieldsOf(network, box) {
    return ["", ...(network.cellOf.get(box)?.states ?? [])];
}

const SHORT = {
    view: "v",
    network: "n",
    other: "o",
    step: "t",
    box: "b",
    field: "f",
    unit: "u",
    output: "g",
    show: "s",
    cut: "cut",
    over: "w",
    tour: "tour",
};

/** A state as the hash of a link. */
export function toHash(state) {
    const parameters = new URLSearchParams();
    for (const [key, short] of Object.entries(SHORT)) {
        if (state[key] !== null && state[key] !== "") parameters.set(short, state[key]);
    }
    if (state.log) parameters.set("log", "1");
    if (state.all) parameters.set("all", "1");
    if (state.pins.length) parameters.set("p", JSON.stringify(state.pins));
    return `#${parameters}`;
}

/** The changes that a link's hash asks for; what cannot be read is left out. */
export function fromHash(hash) {
    const parameters = new URLSearchParams(hash.replace(/^#/, ""));
    const found = {};
    for (const [key, short] of Object.entries(SHORT)) {
        if (parameters.has(short)) found[key] = parameters.get(short);
    }
    for (const key of ["step", "unit", "output", "cut", "tour"]) {
        if (key in found) found[key] = Number.isFinite(Number(found[key])) ? Number(found[key]) : null;
    }
    if (parameters.has("log")) found.log = true;
    if (parameters.has("all")) found.all = true;
    try {
        const pins = JSON.parse(parameters.get("p") ?? "[]");
        found.pins = Array.isArray(pins) ? pins.filter(isPin) : [];
    } catch {
        found.pins = [];
    }
    return found;
}

function isPin(pin) {
    if (!pin || typeof pin !== "object") return false;
    const number = (value) => typeof value === "number" && Number.isFinite(value);
    switch (pin.kind) {
        case "input":
            return number(pin.step) && number(pin.value);
        case "state":
            return typeof pin.name === "string" && number(pin.step) && number(pin.value);
        case "value":
            return typeof pin.name === "string" && number(pin.value);
        case "cut":
            return Number.isInteger(pin.edge) && pin.edge >= 0;
        default:
            return false;
    }
}

export class Store {
    constructor(networks, state) {
        this.networks = networks;
        this.state = fitted({ ...beginning(networks), ...state }, networks);
        this.listeners = [];
    }

    /** Change some of the state; everybody who listens hears what it was before. */
    set(changes) {
        const before = this.state;
        this.state = fitted({ ...before, ...changes }, this.networks);
        for (const listener of this.listeners) listener(this.state, before);
    }

    listen(listener) {
        this.listeners.push(listener);
    }

    get network() {
        return this.networks.find((network) => network.name === this.state.network);
    }

    get other() {
        return this.networks.find((network) => network.name === this.state.other);
    }
}
