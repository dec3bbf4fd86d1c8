// The view "gradients": how strongly an output depends on each layer at each earlier step, and where truncation cuts that.

import { at, series } from "./arrays.mjs";
import { colours } from "./colours.mjs";
import { h, press, say, select } from "./dom.mjs";
import { axis, Lines, palette } from "./text.mjs";
import { number, valueName } from "./words.mjs";

/** The first step that the gradient of the output of `step` reaches, with truncated backpropagation. */
export function firstReached(step, { steps, horizon }) {
    return Math.max(0, step - (step % steps) + steps - (horizon ?? steps));
}

export class GradientView {
    constructor(store) {
        this.store = store;
        this.sentence = h("p", { class: "sentence" });
        this.strongest = h("p", { class: "sentence" });
        this.cutSentence = h("p");
        this.chooser = h("span");
        this.logButton = h("button", { onclick: () => store.set({ log: !store.state.log }) }, "Logarithmic colours");
        this.window = h("input", {
            type: "number",
            min: 0,
            step: 1,
            value: 0,
            oninput: () => store.set({ cut: Math.max(0, Math.floor(Number(this.window.value)) || 0) }),
        });
        const field = h("label", { class: "field" }, h("span", {}, "truncate after (steps, 0: never)"), this.window);
        this.rowsList = h("div", { class: "reach-rows" });
        this.lines = new Lines((step) => store.set({ step }));
        this.numbers = h("tbody");
        this.caption = h("caption");
        const table = h(
            "table",
            { class: "values" },
            this.caption,
            h(
                "thead",
                {},
                h(
                    "tr",
                    {},
                    h("th", { scope: "col" }, "value"),
                    h("th", { scope: "col" }, "size of the derivative"),
                    h("th", { scope: "col" }, "of the strongest gradient"),
                    h("th", { scope: "col" }, "strongest at step"),
                ),
            ),
            this.numbers,
        );
        this.scale = h("span");
        this.none = h("p", { class: "card" }, "The page was made without the gradients of this network.");
        this.body = h(
            "div",
            { class: "gradient-view" },
            h(
                "section",
                { class: "card wide" },
                h(
                    "div",
                    { class: "card-head" },
                    h("h2", {}, "What does an output depend on?"),
                    h("div", { class: "row" }, this.chooser, field, this.logButton),
                ),
                this.strongest,
                this.sentence,
                this.cutSentence,
                this.rowsList,
            ),
            h("section", { class: "card" }, h("h2", {}, "Over time, on a logarithmic scale"), this.lines.element),
            h("section", { class: "card" }, h("h2", {}, "In numbers"), table),
        );
        this.element = h("div", {}, this.body, this.none);
    }

    #build(network) {
        this.network = network;
        this.reach = network.json.reach;
        this.norms = this.reach ? series(this.reach.norms) : null;
        const options = (this.reach?.outputs ?? []).map((step) => [String(step), `y of step ${step}`]);
        this.choice = select("output", options, options.at(-1)?.[0], (value) =>
            this.store.set({ output: Number(value) }),
        );
        this.chooser.replaceChildren(this.choice.label);
        this.rows = (this.reach?.rows ?? []).map((name) => {
            const canvas = h("canvas", { class: "map", role: "img" });
            const [shade, column] = [h("span", { class: "cut-shade" }), h("span", { class: "cursor-column" })];
            const mark = h("span", { class: "strongest", "aria-hidden": "true" });
            const frame = h("div", { class: "map-frame thin" }, canvas, shade, column, mark);
            frame.addEventListener("pointerdown", (event) => {
                const box = frame.getBoundingClientRect();
                this.store.set({ step: Math.floor(((event.clientX - box.left) / box.width) * network.steps) });
            });
            const [value, part, top] = [0, 1, 2].map(() => h("td", { class: "number" }));
            const choose = h("button", { class: "chip", onclick: () => this.#choose(name) }, valueName(network, name));
            return {
                name,
                canvas,
                shade,
                column,
                value,
                part,
                top,
                mark,
                choose,
                line: h("div", { class: "reach-row" }, choose, frame),
                tr: h("tr", {}, h("th", { scope: "row" }, valueName(network, name)), value, part, top),
            };
        });
        this.rowsList.replaceChildren(
            ...this.rows.map(({ line }) => line),
            h("div", { class: "reach-row" }, h("span"), axis(network.steps)),
            h(
                "div",
                { class: "reach-row" },
                h("span"),
                h(
                    "span",
                    { class: "legend" },
                    "little",
                    h("span", { class: "ramp amount", "aria-hidden": "true" }),
                    this.scale,
                    h("span", { class: "strongest-key", "aria-hidden": "true" }),
                    "the step that matters most, in each row",
                ),
            ),
        );
        this.numbers.replaceChildren(...this.rows.map(({ tr }) => tr));
        this.drawn = "";
    }

    /** The cursor goes to the value of a row. */
    #choose(name) {
        const { network } = this;
        for (const { box, states } of network.cells) {
            const field = states.find((part) => network.stateName(box, part) === name);
            if (field) return this.store.set({ box, field });
        }
        this.store.set({ box: network.row.has(name) ? name : "x(t)", field: "" });
    }

    /** Which row is that of the cursor: the chosen value, the first one of the chosen box, or the topmost. */
    #chosenRow({ box, field }) {
        const { network } = this;
        const wanted = field && network.cellOf.has(box) ? network.stateName(box, field) : network.outputName(box);
        return Math.max(
            0,
            this.rows.findIndex(({ name }) => name === wanted),
        );
    }

    /** The output whose gradient is shown: the chosen one, or the last. */
    chosen(state) {
        const { outputs } = this.reach;
        const wanted = state.output ?? outputs.at(-1);
        return outputs.reduce(
            (best, step) => (Math.abs(step - wanted) < Math.abs(best - wanted) ? step : best),
            outputs.at(-1),
        );
    }

    update(state, theme) {
        const { network } = this.store;
        this.theme = theme;
        if (this.network !== network) this.#build(network);
        this.body.hidden = !this.reach?.outputs.length;
        this.none.hidden = !this.body.hidden;
        if (this.body.hidden) return;
        const output = this.chosen(state);
        this.choice.element.value = String(output);
        press(this.logButton, state.log);
        say(this.scale, state.log ? "much (by the logarithm)" : "much (by the square root)");
        this.truncation = this.#truncation(network, state);
        if (document.activeElement !== this.window) this.window.value = this.truncation?.steps ?? 0;
        const moment = at(this.norms, this.reach.outputs.indexOf(output));
        const of = (row) => moment.subarray(row * network.steps, (row + 1) * network.steps);
        const largest = Math.max(...moment);
        this.#draw(network, state, theme, output, of, largest);
        this.#say(network, state, output, of, largest);
    }

    #truncation({ truncated }, { cut }) {
        const steps = cut ?? truncated?.steps;
        if (!steps) return null;
        return { steps, horizon: truncated?.steps === steps ? truncated.horizon : steps };
    }

    #draw(network, state, theme, output, of, largest) {
        const cut = this.truncation;
        const first = cut ? firstReached(output, cut) : 0;
        const drawn = `${output} ${state.log} ${theme}`;
        const own = this.#chosenRow(state);
        this.rows.forEach(({ name, canvas, shade, column, value, part, top, mark, choose }, row) => {
            const norms = of(row);
            if (this.drawn !== drawn) {
                paintAmounts(canvas, norms, largest, state.log, theme);
                canvas.setAttribute(
                    "aria-label",
                    `How strongly y of step ${output} depends on ${valueName(network, name)} at each step`,
                );
            }
            const best = strongestOf(norms);
            mark.style.left = `${((best + 0.5) / network.steps) * 100}%`;
            mark.hidden = !norms[best];
            press(choose, row === own);
            say(top, norms[best] ? String(best) : "none");
            shade.hidden = !first;
            shade.style.width = `${(first / network.steps) * 100}%`;
            column.style.transform = `translateX(${(state.step / network.steps) * 100}%)`;
            column.style.setProperty("--width", `${100 / network.steps}%`);
            say(value, number(norms[state.step]));
            say(part, largest ? `${number((100 * norms[state.step]) / largest, 2)} %` : "0 %");
        });
        this.drawn = drawn;
        const shades = palette(theme);
        const dashes = [[], [14, 5], [2, 4], [14, 4, 2, 4], [6, 4], [6, 3, 2, 3, 2, 3], [20, 3, 6, 3], [3, 8]];
        const lines = this.rows.map(({ name }, row) => ({
            name: valueName(network, name),
            numbers: of(row),
            colour: shades[row % shades.length],
            dash: dashes[row % dashes.length],
        }));
        this.lines.draw(
            `${network.name} ${drawn}`,
            lines,
            `The size of the derivative of y of step ${output} with respect to each value, over steps`,
            { log: true, height: 190 },
        );
        this.lines.move(state.step);
    }

    #say(network, state, output, of, largest) {
        const own = this.#chosenRow(state);
        const norms = of(own);
        const top = strongestOf(norms);
        const ownName = valueName(network, this.rows[own].name);
        say(
            this.strongest,
            norms[top]
                ? `Of ${ownName}, step ${top} matters most for y of step ${output}: ${number(norms[top])}.`
                : `Of ${ownName}, no step matters for y of step ${output}.`,
        );
        let [best, where] = [-1, null];
        this.rows.forEach(({ name }, row) => {
            const value = of(row)[state.step];
            if (value > best) [best, where] = [value, name];
        });
        const { step } = state;
        const far = output - step;
        say(this.caption, `The derivative of y of step ${output} with respect to values of step ${step}`);
        if (step > output)
            say(
                this.sentence,
                `Step ${step} comes after step ${output}: the output of step ${output} cannot depend on it.`,
            );
        else {
            const back = far === 0 ? "the same step" : far === 1 ? "1 step earlier" : `${far} steps earlier`;
            say(
                this.sentence,
                `y of step ${output} depends on step ${step} (${back}) most through ${valueName(network, where)}: ${number(best)}, ${number((100 * best) / (largest || 1), 2)} % of the strongest gradient.`,
            );
        }
        const cut = this.truncation;
        if (!cut)
            say(
                this.cutSentence,
                `Nothing is cut: the gradient goes back through all steps to step 0. That is ${this.network.json.gradient ?? "FullBPTT()"}, full backpropagation through time.`,
            );
        else {
            const first = firstReached(output, cut);
            const block = [
                output - (output % cut.steps),
                Math.min(this.network.steps, output - (output % cut.steps) + cut.steps) - 1,
            ];
            const reach = first
                ? `what lies before step ${first} gets no gradient, however much it matters (hatched)`
                : "that reaches the beginning, so nothing is cut";
            say(
                this.cutSentence,
                `With TruncatedBPTT(${cut.steps}${cut.horizon !== cut.steps ? `, ${cut.horizon}` : ""}), step ${output} is in the block of steps ${block[0]} to ${block[1]}, whose gradient goes back to step ${first}: ${reach}.`,
            );
        }
    }
}

/** The step at which a row is strongest. */
function strongestOf(norms) {
    return norms.reduce((best, norm, step) => (norm > norms[best] ? step : best), 0);
}

function paintAmounts(canvas, norms, largest, log, theme) {
    Object.assign(canvas, { width: norms.length, height: 1 });
    const context = canvas.getContext("2d");
    const image = context.createImageData(norms.length, 1);
    const map = colours("amount", theme);
    norms.forEach((norm, step) => {
        const part = largest ? norm / largest : 0;
        const shown = !log ? Math.sqrt(part) : part > 0 ? Math.max(0, 1 + Math.log10(part) / 6) : 0;
        const colour = 3 * Math.round(255 * Math.min(1, shown));
        image.data.set([map[colour], map[colour + 1], map[colour + 2], 255], 4 * step);
    });
    context.putImageData(image, 0, 0);
}
