// The view "wiring": one step folded, and the same network over several steps; and what is at the cursor, in words.

import { scaleOf } from "./colours.mjs";
import { Details } from "./details.mjs";
import { h, press, say } from "./dom.mjs";
import { columnsWithin, FOLDED, kinds, Picture } from "./picture.mjs";
import { boxSentence } from "./words.mjs";

export class WiringView {
    constructor(store, player) {
        this.store = store;
        this.player = player;
        this.folded = h("div", { class: "scroller", tabindex: 0, role: "group", "aria-label": "One step" });
        this.unrolled = h("div", { class: "scroller", tabindex: 0, role: "group", "aria-label": "Over time" });
        this.key = h("ul", { class: "key", "aria-label": "What the lines mean" });
        this.everyone = h("ol", {
            class: "everyone",
            "aria-label": "What each box reads at this step, the topmost first",
        });
        this.details = new Details(store);
        const next = h("button", { onclick: () => this.player.nextBox(), title: "key: ." }, "Next box");
        this.whole = h(
            "button",
            { onclick: () => this.player.stop(), title: "show the whole step; key: ," },
            "Whole step",
        );
        this.element = h(
            "div",
            { class: "wiring" },
            h(
                "section",
                { class: "card over-time" },
                h(
                    "div",
                    { class: "card-head" },
                    h("h2", {}, "Over time"),
                    h("div", { class: "row" }, next, this.whole),
                ),
                this.unrolled,
                this.key,
            ),
            h(
                "section",
                { class: "card one-step" },
                h("h2", {}, "One step: who reads what"),
                h("div", { class: "one-step-body" }, this.folded, this.everyone),
            ),
            this.details.element,
        );
    }

    /** Make the pictures again where the network or the room has changed. */
    build(network) {
        const room = this.unrolled.clientWidth;
        if (this.network === network && this.room === room) return;
        Object.assign(this, { network, room });
        const pick = (changes) => this.store.set({ ...changes, beat: null });
        this.pictures = {
            folded: new Picture(network, FOLDED, pick),
            unrolled: new Picture(network, columnsWithin(network, room), pick),
        };
        this.folded.replaceChildren(this.pictures.folded.element);
        this.unrolled.replaceChildren(this.pictures.unrolled.element);
        this.key.replaceChildren(
            ...kinds(network).map(([kind, meaning]) =>
                h("li", { class: kind }, h("span", { class: "line", "aria-hidden": "true" }), meaning),
            ),
            ...bars(network),
        );
        this.sentences = network.boxes.toReversed().map((box) => ({
            box: box.name,
            button: h("button", { onclick: () => pick({ box: box.name, field: "" }) }),
        }));
        this.everyone.replaceChildren(...this.sentences.map(({ button }) => h("li", {}, button)));
    }

    update(state, theme) {
        this.build(this.store.network);
        for (const picture of Object.values(this.pictures)) picture.update(state, theme);
        this.details.update(this.network, state, theme);
        for (const { box, button } of this.sentences) {
            say(button, boxSentence(this.network, box, state.step));
            if (box === state.box) button.setAttribute("aria-current", "true");
            else button.removeAttribute("aria-current");
        }
        press(this.whole, state.beat === null);
    }

    flow(state, milliseconds) {
        for (const picture of Object.values(this.pictures ?? {})) picture.flow(state, milliseconds * 0.8);
    }
}

/** What the strips of colour in the boxes mean. */
function bars(network) {
    const ramp = (kind) => h("span", { class: `ramp ${kind}`, "aria-hidden": "true" });
    const used = new Set(
        network.boxes
            .flatMap(({ name }) => (name === "x(t)" && network.isText ? [] : network.shown(name)))
            .map((name) => scaleOf(network.recorded(name), "before").kind),
    );
    const meaning = { diverging: "units: below zero, above zero", amount: "units that are never negative" };
    return Object.entries(meaning)
        .filter(([kind]) => used.has(kind))
        .map(([kind, text]) => h("li", {}, ramp(kind), text));
}
