// What is at the cursor, in a sentence and in numbers: what the chosen box reads and makes, and who reads that.

import { size } from "./arrays.mjs";
import { h, say } from "./dom.mjs";
import { drawStrip } from "./strips.mjs";
import { fieldsOf } from "./store.mjs";
import {
    boxName,
    boxSentence,
    capital,
    entering,
    madeAndRead,
    number,
    partsOf,
    readersSentences,
    valueName,
} from "./words.mjs";

/** What an edge brings, a line for each value; the parts of a sum, each. */
function readLines(network, edge, as, back) {
    if (network.boxes[network.row.get(edge.source)].kind === "junction") {
        const sum = edge.source.startsWith("⊕");
        const parts = partsOf(network, edge.source, back).flatMap((part) =>
            readLines(network, part.edge, sum ? "in the sum" : as, part.back),
        );
        if (!sum) return parts;
        return [
            {
                group: "Reads",
                as,
                text: "the sum",
                name: edge.source,
                parts,
                back,
                box: edge.source,
                field: "",
                own: false,
                edge,
            },
            ...parts,
        ];
    }
    const own = edge.role === "state";
    return network.componentsOf(edge).map((field, i) => {
        const what = edge.source === "x(t)" ? "x" : `${field || "output"} of ${boxName(network, edge.source)}`;
        return {
            group: "Reads",
            as,
            text: own ? `own ${field}` : what,
            name: network.carried(edge)[i],
            back,
            box: edge.source,
            field,
            own,
            edge,
        };
    });
}

/** How many features a cell has as its input, all that it reads side by side: ", 24 features as input". */
function features(network, box) {
    const sizes = entering(network, box)
        .filter((edge) => edge.role === "input")
        .map((edge) => (edge.size ? size(edge.size) : NaN));
    const sum = sizes.reduce((a, b) => a + b, 0);
    return network.cellOf.has(box) && sum ? `, ${sum} features as input` : "";
}

const roleOf = (edge) =>
    edge.role === "state"
        ? "as state"
        : edge.role === "hand-over"
          ? `as previous ${edge.becomes || edge.fields[0]}`
          : "as input";

/** What a box reads and makes: {group, as, text, name, back, box, field}; `back` is how many steps ago it was made. */
function lines(network, box) {
    const found = entering(network, box)
        .flatMap((edge) => readLines(network, edge, roleOf(edge), edge.delay))
        .filter(({ name }) => name);
    for (const name of network.shown(box)) {
        const field = network.cellOf.get(box)?.states.find((part) => network.stateName(box, part) === name) ?? "";
        const text = field || (box === "x(t)" ? "x" : box === "y(t)" ? "y" : "its output");
        found.push({
            group: box === "x(t)" || box === "y(t)" ? "Is" : "Makes",
            as: "",
            text,
            name,
            back: 0,
            box,
            field,
        });
    }
    return found;
}

/** The numbers of a row as they were recorded: of a sum, those of its parts, added; null for zeros that nobody keeps. */
function momentOf(row, network, state) {
    if (row.parts) {
        const parts = row.parts.map((part) => momentOf(part, network, state)).filter(Boolean);
        return Float64Array.from(parts[0] ?? [], (_, unit) => parts.reduce((sum, part) => sum + part[unit], 0));
    }
    const step = state.step - row.back;
    return step < 0 && !row.own ? network.past(row.box, step) : network.moment(row.name, step);
}

/** What a number is with the changes that are made: as it was made, and as it is read if that itself is changed. */
function after(row, network, state, unit, before) {
    if (row.parts)
        return row.parts.reduce(
            (sum, part) => sum + after(part, network, state, unit, momentOf(part, network, state)?.[unit] ?? 0),
            0,
        );
    const step = state.step - row.back;
    let value = before + (step < 0 ? 0 : network.moment(row.name, step, "difference", state.pins)[unit]);
    for (const pin of row.group === "Reads" ? state.pins : []) {
        const set =
            pin.kind === "state" && row.own && pin.step === state.step && pin.name === network.initialOf(row.name);
        if (set && (pin.unit === null || pin.unit === undefined || pin.unit === unit)) value = pin.value;
        if (pin.kind === "cut" && row.edge === network.edges[pin.edge] && state.step >= (pin.step ?? 0)) value = 0;
    }
    return value;
}

export class Details {
    constructor(store) {
        this.store = store;
        this.heading = h("h2", { tabindex: -1 });
        this.sentence = h("p", { class: "sentence" });
        this.readers = h("div", { class: "readers" });
        this.caption = h("caption");
        this.which = h("summary");
        this.numbers = h("p", { class: "numbers" });
        this.all = h("details", { ontoggle: () => this.#list() }, this.which, this.numbers);
        const head = h(
            "tr",
            {},
            ...["value", "of step", "number", "all units"].map((text) => h("th", { scope: "col" }, text)),
        );
        this.table = h("table", { class: "values" }, this.caption, h("thead", {}, head));
        this.element = h(
            "section",
            { class: "details card", "aria-label": "At the cursor" },
            this.heading,
            this.sentence,
            this.readers,
            this.table,
            this.all,
        );
    }

    update(network, state, theme) {
        if (this.network !== network || this.box !== state.box || this.field !== state.field)
            this.#build(network, state);
        const { box, field, step } = state;
        say(
            this.heading,
            field
                ? `${field} of ${boxName(network, box)} at step ${step}`
                : `${capital(boxName(network, box))
                      .replace(/^The input x$/, "Input x")
                      .replace(/^The output y$/, "Output y")} at step ${step}`,
        );
        say(this.sentence, field ? madeAndRead(network, box, field, step) : boxSentence(network, box, step));
        this.#readers(network, state);
        say(this.caption, `Unit ${state.unit}${state.pins.length ? ": before → after" : ""}`);
        for (const row of this.rows) this.#number(row, network, state, theme);
        this.state = state;
        say(this.which, `All numbers of ${this.all.dataset.what} at step ${step}`);
        if (this.all.open) this.#list();
    }

    #build(network, state) {
        Object.assign(this, { network, box: state.box, field: state.field });
        const focused = this.element.contains(document.activeElement)
            ? (document.activeElement.dataset.key ?? "")
            : null;
        this.rows = lines(network, state.box).map((line) => this.#row(line));
        const groups = [...new Set(this.rows.map(({ group }) => group))].map((group) => {
            const title = group === "Reads" ? `Reads${features(network, state.box)}` : group;
            const head = h("tr", { class: "group" }, h("th", { scope: "rowgroup", colspan: 4 }, title));
            return h(
                "tbody",
                {},
                head,
                ...this.rows.filter((row) => row.group === group).map(({ element }) => element),
            );
        });
        this.table.querySelectorAll("tbody").forEach((body) => body.remove());
        this.table.append(...groups);
        const names = network.shown(state.box);
        const chosen = state.field && network.stateName(state.box, state.field);
        this.listed = names.find((name) => name === chosen) ?? names[0] ?? "";
        this.all.hidden = !this.listed;
        this.all.dataset.what = valueName(network, this.listed);
        if (focused !== null) {
            const again = [...this.element.querySelectorAll("button")].find((button) => button.dataset.key === focused);
            (again ?? this.heading).focus({ preventScroll: true });
        }
    }

    #row(line) {
        const pick = () => {
            const step = this.state.step - line.back;
            if (step >= 0) this.store.set({ box: line.box, field: line.field, step });
        };
        const chosen = line.group === "Makes" && line.field === this.field && this.field !== "";
        const button = h(
            "button",
            {
                class: "chip",
                onclick: pick,
                "data-key": `${line.group} ${line.text} ${line.back}`,
                title: "who made it, and who reads it",
            },
            line.text,
        );
        if (chosen) button.setAttribute("aria-current", "true");
        const [step, value, strip] = [
            h("td"),
            h("td", { class: "number" }),
            h("canvas", { class: "mini", height: 1, "aria-hidden": "true" }),
        ];
        return {
            ...line,
            step,
            value,
            strip,
            element: h(
                "tr",
                {},
                h("td", {}, button, line.as ? h("span", { class: "kind" }, ` ${line.as}`) : null),
                step,
                value,
                h("td", {}, strip),
            ),
        };
    }

    #number(row, network, state, theme) {
        const step = state.step - row.back;
        say(row.step, step < 0 ? "initial" : String(step));
        const moment = momentOf(row, network, state);
        const unit = moment ? Math.min(state.unit, moment.length - 1) : 0;
        const before = moment ? moment[unit] : 0;
        const changed = state.pins.length && !network.whyNoChange;
        say(
            row.value,
            changed ? `${number(before)} → ${number(after(row, network, state, unit, before))}` : number(before),
        );
        row.strip.hidden = Boolean(row.parts); // a sum is not recorded: its parts are
        if (row.parts) return;
        const show = changed ? state.show : "before";
        const values = network.values(row.name, show, state.pins);
        if (row.strip.width !== Math.max(1, values.units)) row.strip.width = Math.max(1, values.units);
        const context = row.strip.getContext("2d");
        context.clearRect(0, 0, row.strip.width, 1);
        drawStrip(context, values, step, theme, show, { x: 0, y: 0, width: row.strip.width, height: 1 });
    }

    #readers(network, state) {
        const texts = state.field ? [] : readersSentences(network, state.box, state.step);
        while (this.readers.children.length > texts.length) this.readers.lastChild.remove();
        texts.forEach((text, i) => {
            if (!this.readers.children[i]) this.readers.append(h("p"));
            say(this.readers.children[i], text);
        });
    }

    /** All units of a value as text, for people who copy or listen. */
    #list() {
        if (!this.all.open || !this.listed) return;
        const moment = this.network.moment(this.listed, this.state.step, this.state.show, this.state.pins);
        say(this.numbers, Array.from(moment, (value, unit) => `${unit}: ${number(value)}`).join("   "));
    }
}

/** Buttons for what a box makes: the box as a whole, or one component. */
export function fieldButtons(network, state, store) {
    return fieldsOf(network, state.box).map((field) =>
        h(
            "button",
            { class: "chip", "data-field": field, onclick: () => store.set({ field }) },
            field || "the whole step",
        ),
    );
}
