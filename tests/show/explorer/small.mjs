// A network of two units by hand: layer0 is h = tanh(x + u * h), layer1 reads it, and its own h of the step before. Each reading
// is multiplied by its gate, as the real programs have it.

const bytes = (numbers) => Buffer.from(Float64Array.from(numbers).buffer).toString("base64");
export const array = (numbers, shape) => ({ dtype: "float64", shape, data: bytes(numbers) });
export const U = [0.5, -0.7];
export const XS = [0.3, -0.2, 0.9, 0.1, -0.8];

/** The same in plain arithmetic; `change(name, step, value)` may give another value for what is read or made. */
export function plain(change = (name, step, value) => value) {
    const hs = [[], []];
    XS.forEach((x, step) => {
        for (const layer of [0, 1]) {
            const below = change(`read/${2 * layer}`, step, layer ? hs[0][step] : change("x", step, x));
            const own = change(
                `read/${2 * layer + 1}`,
                step,
                change(`state${layer}`, step, step ? hs[layer][step - 1] : 0),
            );
            hs[layer].push(change(`h${layer}`, step, Math.tanh(below + U[layer] * own)));
        }
    });
    return hs;
}

const value = (op, inputs, shape = ["B", 1], attributes = {}) => ({
    op,
    inputs,
    shape,
    dtype: "float64",
    attributes,
    line: null,
});

function program() {
    const values = [
        value("input", [], ["B", 1], { name: "x" }),
        value("input", [], ["B", 1], { name: "state/layer0/h" }),
        value("input", [], ["B", 1], { name: "state/layer1/h" }),
        ...[0, 1, 2, 3].map((i) => value("input", [], [], { name: `read/${i}` })),
        value("input", [], [], { name: "parameter/u0" }),
        value("input", [], [], { name: "parameter/u1" }),
    ];
    const add = (...rest) => values.push(value(...rest)) - 1;
    const layer = (below, state, gate, weight) =>
        add("tanh", [add("add", [add("mul", [below, gate]), add("mul", [add("mul", [state, gate + 1]), weight])])]);
    const low = layer(0, 1, 3, 7);
    const high = layer(low, 2, 5, 8);
    return {
        values,
        inputs: {
            x: 0,
            "state/layer0/h": 1,
            "state/layer1/h": 2,
            "read/0": 3,
            "read/1": 4,
            "read/2": 5,
            "read/3": 6,
            "parameter/u0": 7,
            "parameter/u1": 8,
        },
        outputs: { y: high, "state/layer0/h": low, "state/layer1/h": high },
        names: { "layer0.h": low, "layer1.h": high, "layer0.y": low, "layer1.y": high },
        parameters: { "parameter/u0": array([U[0]], []), "parameter/u1": array([U[1]], []) },
        random: [],
        unsupported: null,
    };
}

const box = (name, kind) => ({ name, kind, title: name, subtitle: "" });
const edge = (source, target, role, delay = 0, fields = []) => ({
    source,
    target,
    role,
    delay,
    fields,
    becomes: "",
    size: [1],
    label: "1",
});
const cell = (name) => ({
    box: name,
    path: name,
    class: "Cell",
    file: "cell.py",
    first_line: 1,
    source: ["h = tanh(x + u * h)"],
    states: ["h"],
    values: [],
});

export function small() {
    const [low, high] = plain();
    const T = XS.length;
    return {
        name: "small",
        title: "small",
        code: "",
        wiring: "stack",
        input: { kind: "numbers", labels: null, names: null },
        steps: T,
        boxes: [box("x(t)", "input"), box("layer0", "cell"), box("layer1", "cell"), box("y(t)", "output")],
        edges: [
            edge("x(t)", "layer0", "input"),
            edge("layer0", "layer0", "state", 1, ["h"]),
            edge("layer0", "layer1", "input"),
            edge("layer1", "layer1", "state", 1, ["h"]),
            edge("layer1", "y(t)", "input"),
        ],
        cells: [cell("layer0"), cell("layer1")],
        record: {
            x: array(XS, [T, 1]),
            y: array(high, [T, 1]),
            "layer0.h": array(low, [T, 1]),
            "layer1.h": array(high, [T, 1]),
            "layer0.y": array(low, [T, 1]),
            "layer1.y": array(high, [T, 1]),
        },
        initial: { "layer0/h": array([0], [1]), "layer1/h": array([0], [1]) },
        program: program(),
        reach: null,
        truncated: null,
        gradient: "FullBPTT()",
    };
}
