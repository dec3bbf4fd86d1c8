// What is at the cursor, in a sentence and in numbers: what the chosen box reads and makes, and who reads that.

import { colours, placeOn, scaleOf } from "./colours.mjs";
import { h, say } from "./dom.mjs";
import { fieldsOf } from "./store.mjs";
import { boxName, boxSentence, capital, carriedName, entering, madeAndRead, number, readersSentences } from "./words.mjs";

/** What a box reads and makes: {kind, text, name, back, box, field}; `back` is how many steps ago it was made. */
function lines(network, box) {
  const found = [];
  for (const edge of entering(network, box)) {
    const fields = edge.fields.length ? edge.fields : [""];
    fields.forEach((field, i) => {
      const name = network.carried(edge)[i];
      if (!name) return;
      const own = edge.role === "state";
      const what = own ? `own ${field}` : edge.fields.length ? `${field} of ${boxName(edge.source)}` : carriedName(network, edge);
      const as = own ? "state" : edge.role === "hand-over" ? `previous ${edge.becomes || field}` : "input";
      found.push({ kind: `reads as ${as}`, text: what, name, back: edge.delay, box: edge.source, field: field || (network.outputComponent(edge.source) ?? "") });
    });
  }
  for (const name of network.shown(box)) {
    const field = network.cellOf.has(box) ? name.split(".").at(-1) : "";
    const text = field || (box === "x(t)" ? "x" : box === "y(t)" ? "y" : "its output");
    found.push({ kind: box === "x(t)" ? "is" : "makes", text, name, back: 0, box, field });
  }
  return found;
}

export class Details {
  constructor(store) {
    this.store = store;
    this.heading = h("h2", { tabindex: -1 });
    this.sentence = h("p", { class: "sentence" });
    this.readers = h("div", { class: "readers" });
    this.caption = h("caption");
    this.body = h("tbody");
    this.which = h("summary");
    this.numbers = h("p", { class: "numbers" });
    this.all = h("details", { ontoggle: () => this.#list() }, this.which, this.numbers);
    const head = h("tr", {}, ...["", "value", "of step", "number", "all units"].map((text) => (text ? h("th", { scope: "col" }, text) : h("td"))));
    this.table = h("table", { class: "values" }, this.caption, h("thead", {}, head), this.body);
    this.element = h("section", { class: "details card", "aria-label": "At the cursor" }, this.heading, this.sentence, this.readers, this.table, this.all);
  }

  update(network, state, theme) {
    if (this.network !== network || this.box !== state.box || this.field !== state.field) this.#build(network, state);
    const { box, field, step } = state;
    say(this.heading, field ? `${field} of ${boxName(box)} at step ${step}` : `${capital(boxName(box)).replace(/^The input x$/, "Input x").replace(/^The output y$/, "Output y")} at step ${step}`);
    say(this.sentence, field ? madeAndRead(network, box, field, step) : boxSentence(network, box, step));
    this.#readers(network, state);
    say(this.caption, `Unit ${state.unit}${state.pins.length ? ": before → after" : ""}`);
    for (const row of this.rows) this.#number(row, network, state, theme);
    this.state = state;
    say(this.which, `All numbers of ${this.all.dataset.what} at step ${step}`);
    if (this.all.open) this.#list();
  }

  #build(network, state) {
    Object.assign(this, { network, box: state.box, field: state.field });
    const focused = this.element.contains(document.activeElement) ? (document.activeElement.dataset.key ?? "") : null;
    this.rows = lines(network, state.box).map((line) => this.#row(line));
    this.body.replaceChildren(...this.rows.map(({ element }) => element));
    const names = network.shown(state.box);
    const own = names.find((name) => state.field && name.split(".").at(-1) === state.field) ?? names[0] ?? "";
    this.listed = own;
    this.all.hidden = !own;
    this.all.dataset.what = own;
    if (focused !== null) {
      const again = [...this.element.querySelectorAll("button")].find((button) => button.dataset.key === focused);
      (again ?? this.heading).focus({ preventScroll: true });
    }
  }

  #row(line) {
    const pick = () => {
      const step = this.state.step - line.back;
      if (step >= 0) this.store.set({ box: line.box, field: line.field, step });
    };
    const chosen = line.kind === "makes" && line.field === this.field && this.field !== "";
    const button = h("button", { class: "chip", onclick: pick, "data-key": `${line.kind} ${line.text} ${line.back}`, title: "who made it, and who reads it" }, line.text);
    if (chosen) button.setAttribute("aria-current", "true");
    const [step, value, strip] = [h("td"), h("td", { class: "number" }), h("canvas", { class: "mini", height: 1, "aria-hidden": "true" })];
    return { ...line, step, value, strip, element: h("tr", {}, h("td", { class: "kind" }, line.kind), h("td", {}, button), step, value, h("td", {}, strip)) };
  }

  #number(row, network, state, theme) {
    const step = state.step - row.back;
    say(row.step, step < 0 ? (row.kind === "reads as state" ? "initial" : "none: zeros") : String(step));
    const show = state.pins.length ? state.show : "before";
    const now = network.moment(row.name, step, show, state.pins);
    const unit = now ? Math.min(state.unit, now.length - 1) : 0;
    if (state.pins.length && !network.whyNoChange) {
      const before = network.moment(row.name, step);
      const after = network.moment(row.name, step, "after", state.pins);
      say(row.value, before ? `${number(before[unit])} → ${number(after[unit])}` : "0");
    } else say(row.value, now ? number(now[unit]) : "0");
    const values = network.values(row.name, show, state.pins);
    paintMini(row.strip, now, theme, scaleOf(values, show), values.units);
  }

  #readers(network, state) {
    const texts = state.field ? [] : readersSentences(network, state.box, state.step);
    while (this.readers.children.length > texts.length) this.readers.lastChild.remove();
    texts.forEach((text, i) => {
      if (!this.readers.children[i]) this.readers.append(h("p"));
      say(this.readers.children[i], text);
    });
  }

  /** All units of a value as text, for people who copy or listen. */
  #list() {
    if (!this.all.open || !this.listed) return;
    const moment = this.network.moment(this.listed, this.state.step, this.state.show, this.state.pins);
    say(this.numbers, Array.from(moment, (value, unit) => `${unit}: ${number(value, 6)}`).join("   "));
  }
}

function paintMini(canvas, moment, theme, scale, units) {
  const width = Math.max(1, units);
  if (canvas.width !== width) canvas.width = width;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, 1);
  const map = colours(scale.kind, theme);
  for (let i = 0; i < width; i++) {
    const colour = 3 * placeOn(scale, moment ? moment[i] : 0);
    image.data.set([map[colour], map[colour + 1], map[colour + 2], 255], 4 * i);
  }
  context.putImageData(image, 0, 0);
}

/** Buttons for what a box makes: the box as a whole, or one component. */
export function fieldButtons(network, state, store) {
  return fieldsOf(network, state.box).map((field) =>
    h("button", { class: "chip", "data-field": field, onclick: () => store.set({ field }) }, field || "the whole step"),
  );
}
