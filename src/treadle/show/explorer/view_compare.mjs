// The view "side by side": two networks on the same input, with one cursor: their wiring, what the chosen box reads in each,
// its state over time, and the code that builds it.

import { copyButton } from "./copying.mjs";
import { h, say, select } from "./dom.mjs";
import { HeatMap } from "./heatmap.mjs";
import { columnsWithin, FOLDED, Picture } from "./picture.mjs";
import { fitted } from "./store.mjs";
import { boxName, boxSentence, capital, madeAndRead, valueName } from "./words.mjs";

class Side {
    constructor(store, key) {
        this.store = store;
        this.key = key;
        this.chooser = h("span");
        this.name = h("h2");
        this.title = h("p", { class: "quiet" });
        this.sentence = h("p", { class: "sentence" });
        this.picture = h("div", {
            class: "scroller",
            tabindex: 0,
            role: "group",
            "aria-label": `Wiring, ${key === "network" ? "left" : "right"}`,
        });
        this.maps = h("div", { class: "maps" });
        this.code = h("pre", { tabindex: 0, "aria-label": "treadle code" });
        const copied = copyButton("Copy as treadle code", () => this.code.textContent);
        this.element = h(
            "section",
            { class: "card side" },
            h("div", { class: "card-head" }, this.name, this.chooser),
            this.title,
            this.sentence,
            this.picture,
            this.maps,
            h("div", { class: "card-head" }, h("h3", {}, "In code"), copied),
            this.code,
        );
    }

    update(state, theme, columns) {
        const network = this.key === "network" ? this.store.network : this.store.other;
        // The same cursor, as far as this network has it; a change that was made to one network is no change of another.
        const pins = this.key === "network" || network === this.store.network ? state.pins : [];
        const own = fitted({ ...state, network: network.name, pins, beat: null }, this.store.networks);
        if (this.network !== network || this.columns !== columns) this.#build(network, columns);
        if (this.box !== own.box) this.#maps(network, own);
        this.shown.update(own, theme);
        say(
            this.sentence,
            own.field ? madeAndRead(network, own.box, own.field, own.step) : boxSentence(network, own.box, own.step),
        );
        for (const { name, map } of this.heat) {
            map.draw(network.values(name, own.show, own.pins), theme, own.show);
            map.move(own.step, own.unit);
        }
    }

    #build(network, columns) {
        Object.assign(this, { network, columns, box: null });
        const options = this.store.networks.map((one) => [one.name, one.name]);
        this.chooser.replaceChildren(
            select(this.key === "network" ? "left" : "right", options, network.name, (name) =>
                this.store.set({ [this.key]: name }),
            ).label,
        );
        say(this.name, network.name);
        say(this.title, network.title);
        say(this.code, network.code);
        this.shown = new Picture(network, columns, (changes) => this.store.set(changes));
        this.picture.replaceChildren(this.shown.element);
    }

    #maps(network, own) {
        this.box = own.box;
        const pick = (step, unit) => this.store.set({ step, unit });
        this.heat = network.shown(own.box).map((name) => ({ name, map: new HeatMap(valueName(network, name), pick) }));
        this.maps.replaceChildren(...this.heat.map(({ map }) => map.element));
    }
}

export class CompareView {
    constructor(store) {
        this.store = store;
        this.sides = [new Side(store, "network"), new Side(store, "other")];
        this.verdict = h("p", { class: "card sentence verdict" });
        this.element = h("div", { class: "compare" }, this.verdict, ...this.sides.map((side) => side.element));
    }

    update(state, theme) {
        const { network, other } = this.store;
        const room = Math.min(...this.sides.map((side) => side.picture.clientWidth));
        const columns = room < 420 ? FOLDED : Math.min(columnsWithin(network, room), columnsWithin(other, room));
        for (const side of this.sides) side.update(state, theme, columns);
        this.verdict.hidden = this.store.networks.length < 2;
        if (network === other)
            return say(this.verdict, "Both sides show the same network: choose another one for the right side.");
        const [left, right] = [network, other].map((one) =>
            one.row.has(state.box) ? boxSentence(one, state.box, state.step) : null,
        );
        const name = capital(boxName(left === null ? other : network, state.box));
        if (left === null || right === null) return say(this.verdict, `${name} is in one of the two networks alone.`);
        say(
            this.verdict,
            left === right
                ? `${name} reads the same in ${network.name} and in ${other.name}. Choose another layer, or other networks.`
                : `${name} does not read the same in ${network.name} as in ${other.name}.`,
        );
    }
}
