// One unit over what the network reads: tokens coloured by its activation, or a line beside those of a series.

import { colours, css, inkOn, placeOn, scaleOf } from "./colours.mjs";
import { h, svg } from "./dom.mjs";
import { number, token } from "./words.mjs";

/** Tokens, each on the colour of the unit's number after it was read. */
export class Tokens {
    constructor(pick) {
        this.pick = pick;
        this.element = h("p", { class: "tokens" });
    }

    draw(network, values, unit, theme, show) {
        const own = Math.min(unit, values.units - 1);
        if (this.network !== network) {
            this.spans = Array.from({ length: network.steps }, (_, step) => {
                const text = network.label(step);
                return h(
                    "span",
                    { onclick: () => this.pick(step), class: text.length > 1 ? "word" : "letter" },
                    token(text),
                );
            });
            this.element.replaceChildren(...this.spans);
        }
        if (this.values !== values || this.own !== own || this.theme !== theme || this.network !== network) {
            const scale = scaleOf(values, show);
            const map = colours(scale.kind, theme);
            this.spans.forEach((span, step) => {
                const value = values.data[step * values.units + own];
                const colour = placeOn(scale, value);
                span.style.background = css(map, colour);
                span.style.color = inkOn(map, colour);
                span.title = `step ${step}: ${number(value)}`;
            });
        }
        Object.assign(this, { network, values, own, theme });
    }

    move(step) {
        this.current?.classList.remove("current");
        this.current = this.spans[step];
        this.current.classList.add("current");
    }
}

/** Lines over time in a canvas: drawn once; the cursor is an overlay. */
export class Lines {
    constructor(pick) {
        this.canvas = h("canvas", { class: "lines", role: "img" });
        this.column = h("span", { class: "cursor-column" });
        this.frame = h(
            "div",
            { class: "map-frame", onpointerdown: (event) => this.#press(event) },
            this.canvas,
            this.column,
        );
        this.names = h("p", { class: "line-names" });
        this.axis = axis(0);
        this.element = h("div", {}, this.names, this.frame, this.axis);
        this.pick = pick;
    }

    /**
     * `lines`: [{name, numbers, colour, dash, scale}]. Lines of one `scale` share their ends, which zero is always between; with
     * `log`, numbers are drawn by their logarithm.
     */
    draw(key, lines, label, { log = false, height = 120 } = {}) {
        const width = this.frame.clientWidth || 600;
        const whole = `${key} ${width} ${log}`;
        if (this.key === whole) return;
        this.key = whole;
        this.steps = lines[0]?.numbers.length ?? 1;
        const dots = globalThis.devicePixelRatio || 1;
        this.frame.style.height = `${height}px`;
        Object.assign(this.canvas, { width: width * dots, height: height * dots });
        this.canvas.setAttribute("aria-label", label);
        const context = this.canvas.getContext("2d");
        context.setTransform(dots, 0, 0, dots, 0, 0);
        const shown = lines.map((line) => ({
            ...line,
            numbers: Array.from(line.numbers, (value) => (!log ? value : value > 0 ? Math.log10(value) : NaN)),
        }));
        const ends = new Map();
        for (const { scale, numbers } of shown) ends.set(scale, widened(ends.get(scale), numbers, log));
        for (const line of shown) stroke(context, line, ends.get(line.scale), width, height);
        this.axis.replaceChildren(...axis(this.steps).children);
        this.names.replaceChildren(...lines.map((line) => lineName(line, log ? null : ends.get(line.scale))));
    }

    move(step) {
        this.column.style.transform = `translateX(${(step / this.steps) * 100}%)`;
        this.column.style.setProperty("--width", `${100 / this.steps}%`);
    }

    #press(event) {
        const box = this.frame.getBoundingClientRect();
        this.pick(
            Math.max(0, Math.min(this.steps - 1, Math.floor(((event.clientX - box.left) / box.width) * this.steps))),
        );
    }
}

/** The ends of a scale, wide enough for more numbers. */
function widened(ends, numbers, log) {
    const finite = numbers.filter(Number.isFinite);
    let [low, high] = ends ?? (log ? [Infinity, -Infinity] : [0, 0]);
    low = Math.min(low, ...finite);
    high = Math.max(high, ...finite);
    return [log ? Math.max(low, high - 9) : low, high];
}

function stroke(context, { numbers, colour, dash = [], thick = 1.6 }, [low, high], width, height) {
    const y = (value) => height - 8 - ((value - low) / (high - low || 1)) * (height - 16);
    context.strokeStyle = colour;
    context.lineWidth = thick;
    context.setLineDash(dash);
    context.beginPath();
    let pen = false;
    numbers.forEach((value, step) => {
        const place = [((step + 0.5) / numbers.length) * width, Math.min(height + 20, y(value))];
        if (Number.isFinite(value)) context[pen ? "lineTo" : "moveTo"](...place);
        pen = Number.isFinite(value);
    });
    context.stroke();
}

function lineName({ name, colour, dash }, ends) {
    const pattern = dash?.length ? dash.join(" ") : null;
    const line = svg("line", {
        x1: 0,
        x2: 44,
        y1: 4,
        y2: 4,
        "stroke-width": 2.4,
        "stroke-dasharray": pattern,
        stroke: colour,
    });
    const mark = svg("svg", { width: 44, height: 8, "aria-hidden": "true" }, line);
    return h(
        "span",
        { class: "line-name" },
        mark,
        ends ? `${name}, ${number(ends[0], 2)} to ${number(ends[1], 2)}` : name,
    );
}

/** The numbers of steps below a map or lines: every tenth, or so many that they have room. */
export function axis(steps) {
    const every = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].find((one) => steps / one <= 8) ?? Math.ceil(steps / 8);
    const marks = [];
    for (let step = 0; step < steps; step += every) {
        const mark = h("span", {}, String(step));
        mark.style.left = `${((step + 0.5) / steps) * 100}%`;
        marks.push(mark);
    }
    return h("div", { class: "axis", "aria-hidden": "true" }, ...marks);
}

/** Eight colours that people with any colour blindness tell apart (Okabe and Ito), on light and on dark ground. */
export function palette(theme) {
    return theme === "dark"
        ? ["#56b4e9", "#e69f00", "#2fc79a", "#f0e442", "#e58fc0", "#ff8a4c", "#9db4ff", "#c9d1d9"]
        : ["#0067a5", "#b35900", "#00795c", "#8a6d00", "#a83279", "#c93c00", "#4b53b8", "#4a5562"];
}
