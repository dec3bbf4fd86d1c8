// A heat map, units × time, drawn once into a canvas; the cursor is an overlay that only moves.

import { scaleOf } from "./colours.mjs";
import { h, say } from "./dom.mjs";
import { sheet } from "./strips.mjs";
import { number, short } from "./words.mjs";

/** Draw a series into a canvas, a pixel for each number: time goes to the right, units downwards. */
function paint(canvas, values, theme, show) {
    Object.assign(canvas, { width: Math.max(1, values.steps), height: Math.max(1, values.units) });
    const context = canvas.getContext("2d");
    context.setTransform(0, 1, 1, 0, 0, 0); // a sheet has time going down
    context.drawImage(sheet(values, theme, show), 0, 0);
}

/** The legend of a scale: its ends, and the colours between. */
export function legend({ kind, low, high }) {
    return h(
        "span",
        { class: "legend" },
        h("span", {}, short(low)),
        h("span", { class: `ramp ${kind}`, "aria-hidden": "true" }),
        h("span", {}, short(high)),
    );
}

export class HeatMap {
    /** `pick(step, unit)` is called where somebody clicks or drags. */
    constructor(title, pick) {
        this.canvas = h("canvas", { class: "map" });
        this.column = h("span", { class: "cursor-column" });
        this.line = h("span", { class: "cursor-row" });
        this.frame = h(
            "div",
            { class: "map-frame", onpointerdown: (event) => this.#press(event) },
            this.canvas,
            this.column,
            this.line,
        );
        this.readout = h("span", { class: "readout" });
        this.scale = h("span", {});
        this.element = h(
            "figure",
            { class: "heat" },
            h("figcaption", {}, h("span", { class: "heat-title" }, title), this.scale, this.readout),
            this.frame,
        );
        this.title = title;
        this.pick = pick;
    }

    /** Draw the values; nothing is done where they are those that are drawn already. */
    draw(values, theme, show) {
        if (this.values === values && this.theme === theme && this.show === show) return;
        Object.assign(this, { values, theme, show });
        paint(this.canvas, values, theme, show);
        this.frame.style.height = `${Math.max(22, Math.min(values.units * (values.units < 12 ? 11 : 5), 132))}px`;
        this.scale.replaceChildren(legend(scaleOf(values, show)));
        this.canvas.setAttribute("role", "img");
        this.canvas.setAttribute(
            "aria-label",
            `${this.title}: ${values.units} units over ${values.steps} steps; the numbers of the cursor are beside the title`,
        );
    }

    /** Move the cursor. */
    move(step, unit) {
        const { steps, units, data } = this.values;
        const own = Math.min(unit, units - 1);
        this.column.style.transform = `translateX(${(step / steps) * 100}%)`;
        this.column.style.setProperty("--width", `${100 / steps}%`);
        this.line.style.transform = `translateY(${(own / units) * 100}%)`;
        this.line.style.setProperty("--height", `${100 / units}%`);
        say(this.readout, `unit ${own} at step ${step}: ${number(data[step * units + own])}`);
    }

    #press(event) {
        const place = (moved) => {
            const box = this.frame.getBoundingClientRect();
            const within = (part, whole, count) => Math.max(0, Math.min(count - 1, Math.floor((part / whole) * count)));
            this.pick(
                within(moved.clientX - box.left, box.width, this.values.steps),
                within(moved.clientY - box.top, box.height, this.values.units),
            );
        };
        place(event);
        this.frame.setPointerCapture(event.pointerId);
        this.frame.onpointermove = place;
        this.frame.onpointerup = () => {
            this.frame.onpointermove = null;
        };
    }
}
