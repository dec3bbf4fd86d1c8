// The cursor's controls, shared by all views: step, layer, unit, playing; and what the pins show.

import { h, press, say, select } from "./dom.mjs";
import { fieldButtons } from "./details.mjs";
import { capital, inputPhrase, shortName } from "./words.mjs";

export class Controls {
    constructor(store, player) {
        this.store = store;
        this.player = player;
        this.playButton = h("button", { class: "play", onclick: () => player.toggle(), title: "key: space" }, "Play");
        const back = h(
            "button",
            { onclick: () => this.#move(-1), "aria-label": "One step back", title: "key: ←" },
            "◀",
        );
        const on = h("button", { onclick: () => this.#move(1), "aria-label": "One step on", title: "key: →" }, "▶");
        this.slider = h("input", {
            type: "range",
            min: 0,
            step: 1,
            "aria-label": "Step",
            oninput: () => store.set({ step: Number(this.slider.value), beat: null }),
        });
        this.step = h("span", { class: "step" });
        this.reads = h("span", { class: "quiet reads" });
        const speed = select(
            "speed",
            [
                ["0.5", "slow"],
                ["1", "normal"],
                ["3", "fast"],
            ],
            "1",
            (value) => {
                player.speed = Number(value);
            },
        );
        this.boxes = h("div", { class: "chips boxes", role: "group", "aria-label": "Layer" });
        this.fields = h("div", { class: "chips", role: "group", "aria-label": "Which of its values" });
        this.unit = h("input", {
            type: "number",
            min: 0,
            step: 1,
            oninput: () => this.unit.value !== "" && store.set({ unit: Number(this.unit.value) }),
        });
        const unit = h("label", { class: "field inline" }, h("span", {}, "unit"), this.unit);
        this.element = h(
            "section",
            { class: "controls", "aria-label": "Cursor" },
            h("div", { class: "row time" }, this.playButton, back, on, this.slider, this.step, speed.label),
            h("div", { class: "row" }, this.boxes, h("span", { class: "spacer" }), this.fields, unit, this.reads),
        );
    }

    #move(by) {
        this.store.set({ step: this.store.state.step + by, beat: null });
    }

    update(state) {
        const { network } = this.store;
        if (this.network !== network) {
            this.network = network;
            this.slider.max = network.steps - 1;
            this.buttons = network.boxes
                .filter((box) => box.kind !== "junction")
                .map((box) => ({
                    name: box.name,
                    button: h(
                        "button",
                        { class: "chip", onclick: () => this.store.set({ box: box.name, beat: null }) },
                        shortName(network, box.name),
                    ),
                }));
            this.boxes.replaceChildren(...this.buttons.map(({ button }) => button));
        }
        if (this.box !== state.box || this.shown !== network) {
            [this.box, this.shown] = [state.box, network];
            const inside = this.fields.contains(document.activeElement);
            this.fields.replaceChildren(...fieldButtons(network, state, this.store));
            if (inside) this.fields.firstChild?.focus();
            this.unit.max = network.units(state.box) - 1;
        }
        [...this.fields.children].forEach((button) => press(button, button.dataset.field === state.field));
        for (const { name, button } of this.buttons) press(button, name === state.box);
        if (this.slider.value !== String(state.step)) this.slider.value = state.step;
        if (document.activeElement !== this.unit) this.unit.value = state.unit;
        say(this.step, `step ${state.step} (0 to ${network.steps - 1})`);
        say(this.reads, capital(network.isText ? `reads ${inputPhrase(network, state.step)}` : ""));
        say(this.playButton, this.player.playing ? "Pause" : "Play");
        press(this.playButton, this.player.playing);
    }
}

/** While something is changed: what the numbers of all views are. */
export class Banner {
    constructor(store) {
        this.store = store;
        this.text = h("span", {});
        this.buttons = ["before", "after", "difference"].map((show) => ({
            show,
            button: h("button", { class: "chip", onclick: () => store.set({ show }) }, show),
        }));
        const clear = h("button", { onclick: () => store.set({ pins: [] }) }, "Take all back");
        this.element = h(
            "section",
            { class: "banner", hidden: true, "aria-label": "What if" },
            this.text,
            h("span", { class: "chips" }, ...this.buttons.map(({ button }) => button)),
            clear,
        );
    }

    update(state) {
        this.element.hidden = !state.pins.length || Boolean(this.store.network.whyNoChange);
        say(this.text, `What if: ${state.pins.length} change${state.pins.length === 1 ? "" : "s"}. All views show`);
        for (const { show, button } of this.buttons) press(button, show === state.show);
    }
}
