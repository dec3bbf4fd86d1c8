// One network of the page: its boxes and edges, its values over time, and what a change ("pins") makes of them.

import { at, decode, series } from "./arrays.mjs";
import { Runner, whyNot } from "./program.mjs";

export class Network {
    constructor(json) {
        this.json = json;
        for (const key of ["name", "title", "code", "wiring", "input", "steps", "boxes", "edges", "cells"])
            this[key] = json[key];
        this.truncated = json.truncated ?? null;
        this.row = new Map(this.boxes.map((box, row) => [box.name, row]));
        this.cellOf = new Map(this.cells.map((cell) => [cell.box, cell]));
        this.whyNoChange = whyNot(json.program);
        this.decoded = new Map();
        this.components = new Map();
        this.runs = new Map();
        this.differences = new Map();
    }

    // Names of values.

    /** The record's name of a component of the state of a cell, after a step. */
    stateName(box, component) {
        const { path } = this.cellOf.get(box);
        return path ? `${path}.${component}` : component;
    }

    /** The record's name of what a box gives; null if the record has none. */
    outputName(box) {
        const { kind } = this.boxes[this.row.get(box)];
        if (kind === "input") return "x";
        if (kind === "output") return "y";
        const cell = this.cellOf.get(box);
        const name = cell
            ? this.outputComponent(box)
                ? this.stateName(box, this.outputComponent(box))
                : this.stateName(box, "y")
            : box;
        return this.json.record[name] ? name : null;
    }

    /** The component of its state that a cell also gives as its output, if one is: the one with the same numbers. */
    outputComponent(box) {
        const cell = this.cellOf.get(box);
        if (!cell) return null;
        if (!this.components.has(box)) {
            const numbers = (name) => this.json.record[this.stateName(box, name)]?.data;
            this.components.set(
                box,
                cell.states.find((part) => numbers(part) !== undefined && numbers(part) === numbers("y")) ?? null,
            );
        }
        return this.components.get(box);
    }

    /** The components of its source's state that an edge carries; of an output that is none, "". */
    componentsOf(edge) {
        if (edge.role !== "state" && !edge.fields.length) return [this.outputComponent(edge.source) ?? ""];
        const states = this.cellOf.get(edge.source)?.states ?? [];
        const named = states.filter((part) =>
            edge.fields.some((field) => part === field || part.startsWith(`${field}.`)),
        );
        return named.length || edge.role !== "state" ? named : states;
    }

    /** The record's names of what an edge carries. */
    carried(edge) {
        const names = this.componentsOf(edge).map((part) =>
            part ? this.stateName(edge.source, part) : this.outputName(edge.source),
        );
        return names.filter(Boolean);
    }

    /** The names of what a box shows: the components of a cell's state, or what it gives. */
    shown(box) {
        const cell = this.cellOf.get(box);
        const names = cell ? cell.states.map((part) => this.stateName(box, part)) : [this.outputName(box)];
        return names.filter((name) => name && this.json.record[name]);
    }

    /** All names of the record. */
    get names() {
        return Object.keys(this.json.record);
    }

    // Numbers.

    /** A value as it was recorded: {data, steps, units}. */
    recorded(name) {
        if (!this.decoded.has(name)) {
            const array = this.json.record[name];
            this.decoded.set(name, array ? series(array) : null);
        }
        return this.decoded.get(name);
    }

    /** A value as it was ("before"), as it is with the pins ("after"), or what these do to it ("difference"). */
    values(name, show = "before", pins = []) {
        const recorded = this.recorded(name);
        if (!recorded || show === "before" || !pins.length || this.whyNoChange) return recorded;
        const { record, key } = this.changed(pins);
        if (!record[name]) return recorded;
        if (show === "after") return record[name];
        const kept = `${key} ${name}`;
        if (!this.differences.has(kept))
            this.differences.set(kept, difference(record[name], this.unchanged.record[name]));
        return this.differences.get(kept);
    }

    /** The run without changes, computed in the page. */
    get unchanged() {
        return this.changed([]);
    }

    /** The run with changes. */
    changed(pins) {
        const key = JSON.stringify(pins);
        if (!this.runs.has(key)) {
            if (this.runs.size > 8) {
                this.runs.clear();
                this.differences.clear();
            }
            this.runner ??= new Runner(this.json);
            this.runs.set(key, { key, record: this.runner.run(pins) });
        }
        return this.runs.get(key);
    }

    /** One step of a value; before the first step, of a component of a state, the initial one; null if there is none. */
    moment(name, step, show = "before", pins = []) {
        if (step < 0) return this.#still(this.initialOf(name), show);
        const values = this.values(name, show, pins);
        return values && step < values.steps ? at(values, step) : null;
    }

    /** What a delayed reading of a box gives before the first step. */
    past(box, step, show = "before") {
        const key = Object.keys(this.json.initial).find((one) => {
            const [source, slot] = one.split(".delayed/");
            return slot === String(-step - 1) && source.replaceAll("/", ".") === (box === "x(t)" ? "x" : box);
        });
        return this.#still(key ?? null, show);
    }

    /** An initial value, which no pin changes; a state that is set before step 0 is shown at that step. */
    #still(key, show) {
        if (key === null) return null;
        const { data } = decode(this.json.initial[key]);
        return show === "difference" ? new Float64Array(data.length) : data;
    }

    /** The name, among the initial states, of the state that the record keeps as `name`; null if it is none. */
    initialOf(name) {
        const plain = name.replace(/(^|\.)state\.(?=\d)/, "$1");
        return Object.keys(this.json.initial).find((key) => [name, plain].includes(key.replaceAll("/", "."))) ?? null;
    }

    /** The record's name of an initial state; null for a delayed output. */
    stateOf(key) {
        return this.names.find((name) => this.initialOf(name) === key) ?? null;
    }

    /** How many units the widest value of a box has. */
    units(box) {
        return Math.max(1, ...this.shown(box).map((name) => this.recorded(name).units));
    }

    // The input.

    /** What the network reads at a step, in a few characters. */
    label(step) {
        if (step < 0 || step >= this.steps) return "";
        const label = this.input.labels?.[step];
        if (label !== undefined && label !== null) return label;
        const x = this.recorded("x");
        return x.units === 1 ? Number(x.data[step]).toPrecision(3) : `x(${step})`;
    }

    get isText() {
        return this.input.kind === "tokens" && Boolean(this.input.labels);
    }
}

function difference(after, before) {
    const data = new Float64Array(after.data.length);
    for (let i = 0; i < data.length; i++) {
        const [a, b] = [after.data[i], before.data[i]];
        data[i] = Object.is(a, b) || a === b ? 0 : a - b;
    }
    return { data, steps: after.steps, units: after.units };
}
