// The guided tour: twelve steps that answer "how do the layers of a multi-layer LSTM connect: input or initial hidden
// state?" from zero. Each step says something and moves the cursor and the view to where it can be seen.

import { h, say } from "./dom.mjs";
import { cuttable } from "./pins.mjs";

/** The steps: {title, text, state}, for networks that are on the page. */
export function steps(networks) {
    const called = (name) => networks.find((one) => (one.wiring ?? one.name) === name && one.cells.length > 1);
    const stack = called("stack") ?? networks.find((one) => one.cells.length > 1) ?? networks[0];
    const relay = called("relay");
    const [low, high] = [stack.cells[0]?.box, stack.cells[1]?.box ?? stack.cells[0]?.box];
    const at = Math.min(5, stack.steps - 1);
    const cut = cuttable(stack).find((i) => stack.edges[i].source === low && stack.edges[i].target === high);
    const canCut = cut !== undefined && !stack.whyNoChange;
    const base = {
        network: stack.name,
        view: "wiring",
        step: at,
        box: low,
        field: "",
        unit: 0,
        beat: null,
        pins: [],
        show: "before",
    };
    return [
        {
            title: "One step at a time",
            text: "A recurrent network reads a sequence one step at a time. Each column is one step. The picture has them side by side; the marked column is the cursor. Move it with ← and →.",
            state: { ...base, box: "x(t)" },
        },
        {
            title: "A cell reads the input and its own memory",
            text: "In each step, the lowest layer gets two things: the input of this step, from below, and its own memory of the step before, from the left. From these it makes a new memory.",
            state: base,
        },
        {
            title: "The memory is two vectors, h and c",
            text: "An LSTM remembers two vectors. c, the cell state, is the memory itself. h, the hidden state, is the part of it that the cell shows. Here they are over time, a row for each unit, beside the cell’s own source.",
            state: { ...base, view: "cell" },
        },
        {
            title: "c has one reader",
            text: "Where does c go? Only to the right: the same layer reads it in the next step. In this network no other layer ever sees it.",
            state: { ...base, field: "c" },
        },
        {
            title: "h has two readers",
            text: "And h? It goes to the right as well. But it also goes up: the next layer reads it, in the same step. This is all that connects two layers.",
            state: { ...base, field: "h" },
        },
        {
            title: "The answer: as input",
            text: "Look at it from the next layer. It reads h of the layer below as its input, in the place where the lowest layer reads the network’s input. Its state is its own, of the step before. So layers connect by the input, not by the state.",
            state: { ...base, box: high },
        },
        {
            title: "And the initial state?",
            text: "At step 0 there is no step before. Each layer then starts from an initial state of its own, usually zeros. The layer below does not give it one.",
            state: { ...base, box: high, step: 0 },
        },
        {
            title: "Watch it move",
            text: "Box after box, from below to above, then the next step. Press “Next box” (key .) and watch what travels where. Space plays it.",
            state: { ...base, beat: stack.row.get(high), box: high },
        },
        relay
            ? {
                  title: "The other reading: relay",
                  text: "One could also build the other answer. In relay, layer 1 reads the same input as layer 0, and h of layer 0 takes the place of its own previous h: layers connect by the state. Only c stays its own. It is another network, and not what torch.nn.LSTM does.",
                  state: { ...base, view: "compare", other: relay.name, box: high },
              }
            : {
                  title: "The other reading",
                  text: "One could also build the other answer: h of the layer below takes the place of the previous h. treadle calls this wiring “relay”. It is another network, and not what torch.nn.LSTM does.",
                  state: { ...base, box: high },
              },
        {
            title: "What if the link is cut?",
            text: canCut
                ? "Here the upper layer reads zeros in place of h of the layer below, from step 3 on. Layer 0 does not change at all; all above it does. Take the change back, or try one of your own."
                : "In the view “what if” you can edit an input, set a state or pin a gate, and see the difference everywhere.",
            state: {
                ...base,
                view: "whatif",
                box: high,
                ...(canCut
                    ? { pins: [{ kind: "cut", edge: cut, step: Math.min(3, stack.steps - 1) }], show: "difference" }
                    : {}),
            },
        },
        {
            title: "How far back does it matter?",
            text: "The two ways that values go, up and on, are also the ways of the gradient, backwards. Dark means that the output depends strongly on a layer at that step. Truncated backpropagation cuts what is hatched: try 5 steps.",
            state: { ...base, view: "gradients", output: null, step: Math.max(0, stack.steps - 4) },
        },
        {
            title: "The answer in one sentence",
            text: "To the next layer goes h, as its input, in the same step; to the next step go h and c of the same layer, as its state. Now choose other networks, and ask each: what does layer 1 read?",
            state: { ...base, box: high },
        },
    ];
}

export class Tour {
    constructor(store) {
        this.store = store;
        this.steps = steps(store.networks);
        this.title = h("h2", { tabindex: -1, id: "tour-title" });
        this.text = h("p");
        this.count = h("span", { class: "quiet" });
        this.back = h("button", { onclick: () => this.go(this.at - 1) }, "Back");
        this.next = h("button", { class: "primary", onclick: () => this.go(this.at + 1) }, "Next");
        const skip = h("button", { onclick: () => this.end() }, "End the tour");
        this.element = h(
            "section",
            { class: "tour", "aria-labelledby": "tour-title", hidden: true },
            h("div", {}, this.title, this.text),
            h("div", { class: "row" }, this.count, skip, this.back, this.next),
        );
    }

    get at() {
        return this.store.state.tour;
    }

    get running() {
        return this.at !== null;
    }

    begin() {
        this.before = document.activeElement;
        this.go(0);
    }

    /** To a step of the tour; after the last one it ends. */
    go(step) {
        if (step >= this.steps.length) return this.end();
        const at = Math.max(0, step);
        this.store.set({ ...this.steps[at].state, tour: at });
        this.title.focus({ preventScroll: true });
        const shown = document.querySelector("main > :not([hidden])");
        const chosen = [...shown.querySelectorAll(".picture .chosen")].at(shown.matches(".wiring") ? 0 : -1);
        if (chosen) chosen.scrollIntoView({ block: "center", inline: "nearest" });
        else shown.scrollIntoView({ block: "start" });
    }

    end() {
        this.store.set({ tour: null });
        this.before?.focus?.();
    }

    update(state) {
        const running = state.tour !== null && state.tour >= 0 && state.tour < this.steps.length;
        this.element.hidden = !running;
        document.documentElement.classList.toggle("touring", running);
        if (!running) return;
        const { title, text } = this.steps[state.tour];
        say(this.title, title);
        say(this.text, text);
        say(this.count, `${state.tour + 1} of ${this.steps.length}`);
        this.back.disabled = state.tour === 0;
        say(this.next, state.tour === this.steps.length - 1 ? "Done" : "Next");
    }
}
