// What needs no browser: links, layouts and sentences.

import assert from "node:assert/strict";
import { test } from "node:test";

import { small } from "./small.mjs";

const { Network } = await import(`${process.env.EXPLORER}/network.mjs`);
const { Store, fromHash, toHash } = await import(`${process.env.EXPLORER}/store.mjs`);
const { layOut, rooms } = await import(`${process.env.EXPLORER}/layout.mjs`);
const { boxSentence, number, readersSentences, madeAndRead } = await import(`${process.env.EXPLORER}/words.mjs`);
const { firstReached } = await import(`${process.env.EXPLORER}/view_gradients.mjs`);

const networks = () => [new Network(small())];

test("a link restores the whole state", () => {
    const pins = [
        { kind: "value", name: "layer0.h", unit: null, step: null, value: 0.5 },
        { kind: "cut", edge: 2, step: 1 },
    ];
    const store = new Store(networks(), {
        view: "whatif",
        step: 3,
        box: "layer1",
        field: "h",
        pins,
        show: "difference",
        log: true,
        output: 4,
        cut: 2,
        over: "layer0.h",
        all: true,
    });
    const again = new Store(networks(), fromHash(toHash(store.state)));
    assert.deepEqual(again.state, store.state);
});

test("a link that asks for what there is not gives what there is", () => {
    const store = new Store(
        networks(),
        fromHash('#v=nonsense&n=none&t=999&b=layer9&u=-4&f=z&p=[{"kind":"cut","edge":-1},3,null,{}]'),
    );
    const { view, network, step, box, unit, field, pins } = store.state;
    assert.deepEqual(
        { view, network, step, box, unit, field, pins },
        { view: "wiring", network: "small", step: 4, box: "layer1", unit: 0, field: "", pins: [] },
    );
    for (const hash of ["", "#", "#p=[", "#t=x&u=&p={}", "#%E0%A4%A", "#cut=-3&tour=-1&s=none&g=x"])
        assert.equal(new Store(networks(), fromHash(hash)).state.network, "small");
});

test("who listens hears of each change once, with what was before", () => {
    const store = new Store(networks(), {});
    const heard = [];
    store.listen((state, before) => heard.push([before.step, state.step]));
    store.set({ step: 1 });
    store.set({ step: 77 });
    assert.deepEqual(heard, [
        [4, 1],
        [1, 4],
    ]);
});

test("rooms of spans that overlap differ", () => {
    const spans = [
        [0, 3],
        [1, 2],
        [2, 5],
        [4, 6],
        [0, 6],
    ].map(([low, high], key) => ({ key, low, high }));
    const found = rooms(spans);
    for (const a of spans)
        for (const b of spans)
            if (a.key < b.key && a.low < b.high && b.low < a.high) assert.notEqual(found.get(a.key), found.get(b.key));
});

test("every wire begins at its source and ends at its target, and boxes do not overlap", () => {
    const { boxes, edges } = small();
    const more = [
        ...edges,
        { source: "layer1", target: "layer0", role: "input", delay: 2, fields: [], label: "" },
        { source: "x(t)", target: "layer1", role: "input", delay: 0, fields: [], label: "" },
    ];
    for (const columns of [1, 4]) {
        const { paths, place, width, height } = layOut(boxes, more, columns, () => ({ width: 90, height: 50 }));
        const touches = ([x, y], box) =>
            x >= box.x - 1e-9 && x <= box.x + box.width + 1e-9 && y >= box.y - 1e-9 && y <= box.y + box.height + 1e-9;
        for (const { edge, start, end, points } of paths) {
            if (start !== null) assert.ok(touches(points[0], place(edge.source, start)), `${edge.source} begins`);
            if (end !== null) assert.ok(touches(points.at(-1), place(edge.target, end)), `${edge.target} ends`);
            for (const [x, y] of points) assert.ok(x >= 0 && x <= width && y >= -20 && y <= height);
        }
        const all = boxes.flatMap((box) => Array.from({ length: columns }, (_, column) => place(box.name, column)));
        all.forEach((a, i) =>
            all
                .slice(i + 1)
                .forEach((b) =>
                    assert.ok(
                        a.x + a.width <= b.x || b.x + b.width <= a.x || a.y + a.height <= b.y || b.y + b.height <= a.y,
                    ),
                ),
        );
    }
});

test("a layer's step in one sentence", () => {
    const [network] = networks();
    assert.equal(
        boxSentence(network, "layer1", 3),
        "Layer 1 at step 3 reads h of layer 0 at step 3 as input, and its own h of step 2 as state.",
    );
    assert.equal(
        boxSentence(network, "layer1", 0),
        "Layer 1 at step 0 reads h of layer 0 at step 0 as input, and its own initial h as state.",
    );
    assert.deepEqual(readersSentences(network, "layer0", 3), [
        "h of layer 0 at step 3 is read by layer 1 at step 3 as input and by layer 0 at step 4 as state.",
    ]);
    assert.equal(
        madeAndRead(network, "layer1", "h", 4),
        "h of layer 1 at step 4 is made by layer 1 at step 4, and read as the network’s output y and by layer 1 at step 5 as state (after the end).",
    );
});

test("numbers as people write them", () => {
    assert.deepEqual(
        [0, -0.25, 3, 1e-7, -Infinity, NaN].map((value) => number(value)),
        ["0", "−0.250000", "3", "1.00e−7", "−∞", "NaN"],
    );
});

test("truncation cuts where TruncatedBPTT does", () => {
    // Blocks of 2 steps, a horizon of 4: what is said of steps 6 and 7 goes back to step 4.
    assert.deepEqual(
        [0, 1, 2, 6, 7].map((step) => firstReached(step, { steps: 2, horizon: 4 })),
        [0, 0, 0, 4, 4],
    );
    assert.deepEqual(
        [0, 4, 5, 9].map((step) => firstReached(step, { steps: 5, horizon: null })),
        [0, 0, 5, 5],
    );
});
