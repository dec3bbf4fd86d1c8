// What can be changed in "what if", and how a change is said in words.

import { boxName, number, readAlways, token, valueName } from "./words.mjs";

/** A change in words. */
export function pinText(network, pin) {
    switch (pin.kind) {
        case "input":
            return network.isText && network.recorded("x").units === 1
                ? `the token of step ${pin.step} is “${tokenOf(network, pin.value)}”`
                : `${featureName(network, pin.feature ?? 0)} of step ${pin.step} is ${number(pin.value)}`;
        case "state":
            return `${unitOf(pin)}${stateText(network, pin.name)} before step ${pin.step} is ${number(pin.value)}`;
        case "value":
            return `${unitOf(pin)}${valueName(network, pin.name)} is ${number(pin.value)} at ${pin.step === null || pin.step === undefined ? "every step" : `step ${pin.step}`}`;
        case "cut":
            return `cut ${pin.step ? `from step ${pin.step} on` : "at every step"}: ${cutText(network, pin.edge)}`;
        default:
            return "";
    }
}

const unitOf = (pin) => (pin.unit === null || pin.unit === undefined ? "" : `unit ${pin.unit} of `);

/** "layer0/h", an initial state, as people say it. */
export function stateText(network, key) {
    const name = network.stateOf(key);
    if (name) return valueName(network, name);
    const [box, slot] = key.split(".delayed/");
    const made = box === "x" ? "x" : `the output of ${boxName(network, box.replaceAll("/", "."))}`;
    return `${made}, ${Number(slot) + 1} step${slot === "0" ? "" : "s"} earlier,`;
}

export function featureName(network, feature) {
    return network.input.names?.[feature] ?? `x[${feature}]`;
}

/** The edge that a cut cuts, in words. */
export function cutText(network, index) {
    const edge = network.edges[index];
    if (!edge) return "an edge that is not here";
    return `${boxName(network, edge.target)} reads ${readAlways(network, edge)}`;
}

/** Which edges the page can cut: those whose reading has a gate in the program. */
export function cuttable(network) {
    return [...network.edges.keys()].filter((i) => `read/${i}` in (network.json.program?.inputs ?? {}));
}

/** The tokens that occur, by number: what an input can be changed to. */
export function vocabulary(network) {
    const x = network.recorded("x");
    const found = new Map();
    for (let step = 0; step < network.steps; step++) found.set(x.data[step], network.label(step));
    return [...found].sort((a, b) => a[0] - b[0]);
}

function tokenOf(network, value) {
    return token(vocabulary(network).find(([number]) => number === value)?.[1] ?? String(value));
}

/** The largest amount of a difference at each step, and where over all values it is strongest. */
export function strongest(network, names, pins) {
    let found = { name: null, step: 0, unit: 0, amount: 0 };
    for (const name of names) {
        const { data, units } = network.values(name, "difference", pins);
        data.forEach((value, i) => {
            if (Math.abs(value) > found.amount)
                found = { name, step: Math.floor(i / units), unit: i % units, amount: Math.abs(value) };
        });
    }
    return found;
}
