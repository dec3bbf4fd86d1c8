// The view "what if": edit an input, set a state or a value, cut an edge, and see the difference that it makes everywhere.

import { h, numberField, say, select } from "./dom.mjs";
import { HeatMap } from "./heatmap.mjs";
import { cutText, cuttable, featureName, pinText, stateText, strongest, vocabulary } from "./pins.mjs";
import { listed, number, token, valueName } from "./words.mjs";

const EVERY = "every";

export class WhatIfView {
    constructor(store) {
        this.store = store;
        this.refusal = h("p", { class: "card", role: "note" });
        this.forms = h("div", { class: "forms" });
        this.list = h("ul", { class: "pins" });
        this.sentence = h("p", { class: "sentence", role: "status" });
        this.same = h("p", { class: "quiet" });
        this.maps = h("div", { class: "maps" });
        this.body = h(
            "div",
            { class: "whatif" },
            h("section", { class: "card" }, h("h2", {}, "Change something"), this.forms),
            h(
                "section",
                { class: "card" },
                h("h2", {}, "What it changes"),
                this.list,
                this.sentence,
                this.same,
                this.maps,
            ),
        );
        this.element = h("div", {}, this.refusal, this.body);
    }

    #add(pin) {
        const pins = [...this.store.state.pins.filter((one) => !samePlace(one, pin)), pin];
        this.store.set({ pins, show: this.store.state.show === "before" ? "difference" : this.store.state.show });
    }

    #form(title, fields, make) {
        const button = h("button", { class: "primary", type: "submit" }, "Apply");
        const submitted = (event) => {
            event.preventDefault();
            const pin = make();
            if (pin) this.#add(pin);
        };
        return h(
            "form",
            { class: "form", onsubmit: submitted },
            h("h3", {}, title),
            h("div", { class: "fields" }, ...fields.map((field) => field.label), button),
        );
    }

    #build(network) {
        this.network = network;
        this.names = [...new Set(network.boxes.flatMap((box) => network.shown(box.name)))].filter(
            (name) => name === "x" || name === "y" || network.json.program.names[name] !== undefined,
        );
        this.forms.replaceChildren(
            this.#input(network),
            this.#state(network),
            this.#value(network),
            this.#cut(network),
        );
        const pick = (step, unit) => this.store.set({ step, unit });
        this.heat = this.names.map((name) => ({ name, map: new HeatMap(valueName(network, name), pick) }));
        this.maps.replaceChildren(...this.heat.map(({ map }) => map.element));
    }

    #input(network) {
        const step = numberField("at step", 0, { min: 0, max: network.steps - 1, step: 1 });
        this.stepField = step.element;
        if (network.isText && network.recorded("x").units === 1) {
            const value = select(
                "token",
                vocabulary(network).map(([id, text]) => [String(id), `“${token(text)}”`]),
                null,
                () => {},
            );
            return this.#form("Edit the input", [step, value], () => ({
                kind: "input",
                step: Number(step.element.value),
                feature: 0,
                value: Number(value.element.value),
            }));
        }
        const { units } = network.recorded("x");
        const feature = select(
            "feature",
            Array.from({ length: units }, (_, k) => [String(k), featureName(network, k)]),
            "0",
            () => {},
        );
        const value = numberField("value", 0);
        return this.#form("Edit the input", [step, feature, value], () => ({
            kind: "input",
            step: Number(step.element.value),
            feature: Number(feature.element.value),
            value: Number(value.element.value),
        }));
    }

    #state(network) {
        const names = Object.keys(network.json.initial);
        const name = select(
            "state",
            names.map((one) => [one, stateText(network, one)]),
            names[0],
            () => {},
        );
        const step = numberField("before step", 0, { min: 0, max: network.steps - 1, step: 1 });
        this.stateStepField = step.element;
        const unit = numberField("unit (empty: all)", "", { min: 0, step: 1 });
        const value = numberField("value", 0);
        return this.#form("Set a state: 0 forgets it", [name, step, unit, value], () => ({
            kind: "state",
            name: name.element.value,
            step: Number(step.element.value),
            unit: whole(unit.element.value),
            value: Number(value.element.value),
        }));
    }

    #value(network) {
        const names = Object.keys(network.json.program.names).filter((one) => network.json.record[one]);
        const name = select(
            "value",
            names.map((one) => [one, valueName(network, one)]),
            names.find((one) => /forget/.test(one)) ?? names[0],
            () => {},
        );
        const unit = numberField("unit (empty: all)", "", { min: 0, step: 1 });
        const step = select(
            "at",
            [
                [EVERY, "every step"],
                ["cursor", "the step of the cursor"],
            ],
            EVERY,
            () => {},
        );
        const value = numberField("value", 0);
        return this.#form("Pin a gate or another value", [name, unit, step, value], () => ({
            kind: "value",
            name: name.element.value,
            unit: within(whole(unit.element.value), network.recorded(name.element.value).units),
            step: step.element.value === EVERY ? null : this.store.state.step,
            value: Number(value.element.value),
        }));
    }

    #cut(network) {
        const can = cuttable(network);
        if (!can.length) return h("p", { class: "quiet" }, "No edge of this network can be cut on this page.");
        const edge = select(
            "edge",
            can.map((i) => [String(i), cutText(network, i)]),
            String(can[0]),
            () => {},
        );
        const step = numberField("from step", 0, { min: 0, max: network.steps - 1, step: 1 });
        return this.#form("Cut an edge: zeros are read in its place", [edge, step], () => ({
            kind: "cut",
            edge: Number(edge.element.value),
            step: Number(step.element.value),
        }));
    }

    update(state, theme) {
        const { network } = this.store;
        const reason = network.whyNoChange;
        this.refusal.hidden = !reason;
        this.body.hidden = Boolean(reason);
        if (reason) {
            say(this.refusal, `“What if” is switched off for this network: ${reason}.`);
            return;
        }
        if (this.network !== network) this.#build(network);
        if (this.step !== state.step && document.activeElement !== this.stepField) this.stepField.value = state.step;
        if (this.step !== state.step && document.activeElement !== this.stateStepField)
            this.stateStepField.value = state.step;
        this.step = state.step;
        this.#pins(state);
        const show = state.pins.length ? state.show : "before";
        const same = [];
        for (const { name, map } of this.heat) {
            const values = network.values(name, show, state.pins);
            map.element.hidden = show === "difference" && values.data.every((value) => value === 0);
            if (map.element.hidden) same.push(valueName(network, name));
            map.draw(values, theme, show);
            map.move(state.step, state.unit);
        }
        say(this.same, same.length ? `The same as before, at every step: ${listed(same)}.` : "");
    }

    #pins(state) {
        const key = `${state.network} ${JSON.stringify(state.pins)}`;
        if (this.key === key) return;
        this.key = key;
        const { network } = this.store;
        const remove = (pin) => this.store.set({ pins: this.store.state.pins.filter((one) => one !== pin) });
        this.list.replaceChildren(
            ...state.pins.map((pin) =>
                h(
                    "li",
                    {},
                    h("span", {}, pinText(network, pin)),
                    h(
                        "button",
                        { onclick: () => remove(pin), "aria-label": `take back: ${pinText(network, pin)}` },
                        "Take back",
                    ),
                ),
            ),
        );
        if (!state.pins.length) say(this.sentence, "Nothing is changed yet: the maps show the values as they are.");
        else {
            const { name, step, unit, amount } = strongest(network, this.names, state.pins);
            say(
                this.sentence,
                name
                    ? `Most changed is unit ${unit} of ${valueName(network, name)} at step ${step}: by ${number(amount)}.`
                    : "That changes nothing, at no step.",
            );
        }
    }
}

const whole = (text) => (text === "" ? null : Math.max(0, Math.floor(Number(text)) || 0));
const within = (unit, units) => (unit === null ? null : Math.min(unit, units - 1));

function samePlace(a, b) {
    const place = ({ value, ...rest }) => JSON.stringify(rest);
    return place(a) === place(b);
}
