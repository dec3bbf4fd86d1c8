// The page's interpreter, and what changes of values mean, against plain arithmetic.

import assert from "node:assert/strict";
import { test } from "node:test";

import { plain, small, XS } from "./small.mjs";

const { Network } = await import(`${process.env.EXPLORER}/network.mjs`);
const { compute, erf, round } = await import(`${process.env.EXPLORER}/primitives.mjs`);

const near = (found, expected) => {
    assert.equal(found.length, expected.length);
    expected.forEach((value, i) =>
        assert.ok(Math.abs(found[i] - value) < 1e-14, `${i}: ${found[i]}, expected ${value}`),
    );
};

function check(pins, change) {
    const { record } = new Network(small()).changed(pins);
    const [low, high] = plain(change);
    near([...record["layer0.h"].data], low);
    near([...record["layer1.h"].data], high);
    near([...record.y.data], high);
}

test("without changes it computes what was recorded", () => {
    const network = new Network(small());
    for (const name of network.names) near([...network.unchanged.record[name].data], [...network.recorded(name).data]);
});

test("an input is edited at its step", () => {
    check([{ kind: "input", step: 2, feature: 0, value: -3 }], (name, step, value) =>
        name === "x" && step === 2 ? -3 : value,
    );
});

test("a state is set before its step", () => {
    check([{ kind: "state", name: "layer0/h", step: 3, unit: null, value: 0 }], (name, step, value) =>
        name === "state0" && step === 3 ? 0 : value,
    );
});

test("a value is pinned at one step, or at all", () => {
    check([{ kind: "value", name: "layer0.h", unit: 0, step: 1, value: 0.5 }], (name, step, value) =>
        name === "h0" && step === 1 ? 0.5 : value,
    );
    check([{ kind: "value", name: "layer0.h", unit: null, step: null, value: 0.5 }], (name, step, value) =>
        name === "h0" ? 0.5 : value,
    );
});

test("a cut edge is read as zeros from its step on", () => {
    check([{ kind: "cut", edge: 2, step: 2 }], (name, step, value) => (name === "read/2" && step >= 2 ? 0 : value));
});

test("changes add up, and differences are after minus before", () => {
    const pins = [
        { kind: "input", step: 0, feature: 0, value: 1 },
        { kind: "cut", edge: 3, step: 0 },
    ];
    const network = new Network(small());
    const before = plain()[1];
    const after = plain((name, step, value) => (name === "read/3" ? 0 : name === "x" && step === 0 ? 1 : value))[1];
    near(
        [...network.values("y", "difference", pins).data],
        after.map((value, step) => value - before[step]),
    );
    near([...network.values("y", "after", pins).data], after);
    assert.equal(network.values("y", "before", pins), network.recorded("y"));
});

test("what cannot be computed is said in a sentence", () => {
    const random = small();
    random.program.random = [3];
    assert.match(new Network(random).whyNoChange, /random numbers/);
    const opaque = small();
    opaque.program.values.push({
        op: "opaque",
        inputs: [0],
        shape: ["B", 1],
        dtype: "float64",
        attributes: { function: "aten.sort.default", arguments: [] },
    });
    assert.match(new Network(opaque).whyNoChange, /aten\.sort\.default/);
    assert.equal(new Network(small()).whyNoChange, null);
});

const given = (numbers, shape) => ({ data: Float64Array.from(numbers), shape });
const one = (op, shape, operands, attributes = {}, dtype = "float64") => [
    ...compute({ op, shape, dtype, attributes, inputs: [] }, operands).data,
];

test("half is rounded to even", () => {
    assert.deepEqual(
        [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 2.4, -2.6].map((x) => round(x) + 0),
        [-2, -2, 0, 0, 2, 2, 2, -3],
    );
});

test("the error function is the integral that it is named for", () => {
    for (const x of [-4, -2.6, -2.4, -0.3, 0, 0.01, 1, 2.49, 2.51, 5, 7]) {
        const steps = 20000;
        let sum = 0; // Simpson's rule
        for (let i = 0; i <= steps; i++)
            sum += Math.exp(-(((x * i) / steps) ** 2)) * (i === 0 || i === steps ? 1 : i % 2 ? 4 : 2);
        assert.ok(Math.abs(erf(x) - (2 / Math.sqrt(Math.PI)) * ((sum * x) / steps / 3)) < 1e-12, `erf(${x})`);
    }
});

test("smaller operands are broadcast over missing axes and axes of one", () => {
    const [a, b] = [given([1, 2, 3, 4, 5, 6], [2, 3]), given([10, 20], [2, 1])];
    assert.deepEqual(one("add", [2, 3], [a, b]), [11, 12, 13, 24, 25, 26]);
    assert.deepEqual(one("mul", [2, 3], [a, given([1, 10, 100], [3])]), [1, 20, 300, 4, 50, 600]);
    assert.deepEqual(one("expand", [2, 3], [b]), [10, 10, 10, 20, 20, 20]);
});

test("views, reductions and products are those of matrices", () => {
    const a = given([1, 2, 3, 4, 5, 6], [2, 3]);
    assert.deepEqual(one("permute", [3, 2], [a], { axes: [1, 0] }), [1, 4, 2, 5, 3, 6]);
    assert.deepEqual(one("slice", [2, 2], [a], { axis: 1, start: 0, step: 2 }), [1, 3, 4, 6]);
    assert.deepEqual(one("cat", [2, 4], [a, given([7, 8], [2, 1])], { axis: 1 }), [1, 2, 3, 7, 4, 5, 6, 8]);
    assert.deepEqual(one("sum", [2, 1], [a], { axes: [1] }), [6, 15]);
    assert.deepEqual(one("amax", [1, 3], [a], { axes: [0] }), [4, 5, 6]);
    assert.deepEqual(one("dot", [2, 2], [a, given([1, 0, 0, 1, 1, 1], [3, 2])]), [4, 5, 10, 11]);
    assert.deepEqual(one("where", [2, 3], [given([1, 0, 1], [3]), a, given([0], [])]), [1, 0, 3, 4, 0, 6]);
    assert.deepEqual(one("embedding", [1, 3], [a, given([1], [1])]), [4, 5, 6]);
});

test("numbers are rounded as their dtype says", () => {
    assert.deepEqual(one("add", [1], [given([0.1], [1]), given([0.2], [1])], {}, "float32"), [Math.fround(0.1 + 0.2)]);
    assert.deepEqual(one("cast", [3], [given([1.9, -1.9, 0], [3])], {}, "int64"), [1, -1, 0]);
    assert.deepEqual(one("cast", [3], [given([1.9, -1.9, 0], [3])], {}, "bool"), [1, 1, 0]);
    assert.deepEqual(one("maximum", [2], [given([1, 5], [2]), given([3, 2], [2])]), [3, 5]);
});

test("XS and the record have one length", () => assert.equal(new Network(small()).steps, XS.length));
