// A network's traced program, run over time in the page: as it was recorded, or with something changed ("pins").

import { at, decode, series, size } from "./arrays.mjs";
import { compute, empty, refusal } from "./primitives.mjs";

/** Why the program of a network cannot be run here, in one sentence; null if it can. */
export function whyNot(program) {
    if (!program) return "this network has no program: its step could not be traced";
    if (program.unsupported) return program.unsupported;
    if (program.random?.length) return "the step draws random numbers, which the page cannot draw as PyTorch does";
    for (const value of program.values) {
        const reason = refusal(value);
        if (reason) return reason;
    }
    return null;
}

/** A program made ready: parameters decoded, and what is made of parameters alone computed once. */
export class Runner {
    constructor(network) {
        this.network = network;
        this.program = network.program;
        this.values = this.program.values;
        this.inputs = Object.entries(this.program.inputs);
        this.fixed = this.#fixed();
        this.order = [...this.values.keys()].filter((i) => !this.fixed[i] && this.values[i].op !== "input");
    }

    /** The values that do not depend on x or on a state, by index. */
    #fixed() {
        const known = new Array(this.values.length);
        for (const [name, array] of Object.entries(this.program.parameters)) {
            const { data, shape } = decode(array);
            const index = this.program.inputs[name];
            if (index !== undefined) known[index] = { data, shape };
        }
        const pinned = new Set(Object.values(this.program.names));
        this.values.forEach((value, i) => {
            if (known[i] || value.op === "input" || pinned.has(i)) return;
            if (value.inputs.every((operand) => known[operand])) {
                known[i] = compute(
                    value,
                    value.inputs.map((operand) => known[operand]),
                );
            }
        });
        return known;
    }

    /** The record of a run: name → {data, steps, units}, as the recorded one, with the changes that `pins` say. */
    run(pins = []) {
        const { steps, record, initial } = this.network;
        const x = series(record.x);
        const states = new Map(Object.entries(initial).map(([name, array]) => [name, decode(array).data]));
        const found = {};
        for (let step = 0; step < steps; step++) {
            const known = this.#step(step, this.#input(x, step, pins), states, pins);
            const { names, inputs, outputs } = this.program;
            for (const [name, index] of Object.entries({ ...names, x: inputs.x, y: outputs.y })) {
                keep(found, name, known[index].data, steps, step);
            }
            for (const [name, index] of Object.entries(outputs)) {
                if (name !== "y") states.set(name.replace(/^state\//, ""), known[index].data);
            }
        }
        return found;
    }

    #input(x, step, pins) {
        const data = Float64Array.from(at(x, step));
        for (const pin of pins) if (pin.kind === "input" && pin.step === step) data[pin.feature ?? 0] = pin.value;
        return data;
    }

    /** The state from which a step starts, some of it set by pins. */
    #state(name, data, step, pins) {
        const active = pins.filter((pin) => pin.kind === "state" && pin.name === name && pin.step === step);
        return active.length ? overwritten(data, active) : data;
    }

    #step(step, x, states, pins) {
        const known = this.fixed.slice();
        for (const [name, index] of this.inputs) {
            if (!known[index]) known[index] = this.#given(name, index, step, x, states, pins);
        }
        const set = this.#pinned(step, pins);
        const pin = (index) => {
            if (set.has(index))
                known[index] = { data: overwritten(known[index].data, set.get(index)), shape: known[index].shape };
        };
        for (const [, index] of this.inputs) pin(index);
        for (const index of this.order) {
            const value = this.values[index];
            known[index] = compute(
                value,
                value.inputs.map((operand) => known[operand]),
            );
            pin(index);
        }
        return known;
    }

    #given(name, index, step, x, states, pins) {
        const shape = this.values[index].shape.map((dim) => (dim === "B" ? 1 : dim));
        if (name.startsWith("read/")) {
            const isCut = pins.some(
                (pin) => pin.kind === "cut" && `read/${pin.edge}` === name && step >= (pin.step ?? 0),
            );
            return { data: new Float64Array(size(shape)).fill(isCut ? 0 : 1), shape };
        }
        const data =
            name === "x"
                ? x
                : this.#state(name.replace(/^state\//, ""), states.get(name.replace(/^state\//, "")), step, pins);
        const typed = empty(this.values[index].dtype, size(shape));
        typed.set(data);
        return { data: typed, shape };
    }

    /** The values that pins set at this step, by index. */
    #pinned(step, pins) {
        const set = new Map();
        for (const pin of pins) {
            if (pin.kind !== "value" || (pin.step !== null && pin.step !== undefined && pin.step !== step)) continue;
            const index = this.program.names[pin.name];
            if (index !== undefined) set.set(index, [...(set.get(index) ?? []), pin]);
        }
        return set;
    }
}

function overwritten(data, pins) {
    const copy = data.slice();
    for (const { unit, value } of pins) {
        if (unit === null || unit === undefined) copy.fill(value);
        else copy[unit] = value;
    }
    return copy;
}

function keep(found, name, data, steps, step) {
    found[name] ??= { data: new Float64Array(steps * data.length), steps, units: data.length };
    found[name].data.set(data, step * data.length);
}
