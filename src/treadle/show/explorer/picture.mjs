// The picture of a wiring, folded or unrolled over a window of steps: boxes with the numbers that they hold, and wires.
// It is made once for a network and a width; moving the cursor changes texts, classes and the strips of colour alone.

import { h, say, svg } from "./dom.mjs";
import { layOut, rounded } from "./layout.mjs";
import { drawStrip } from "./strips.mjs";
import { boxSentence, shortName, token } from "./words.mjs";

const HEAD = 26; // above the boxes: which step a column is
const STRIP = 9;
const calm = globalThis.matchMedia?.("(prefers-reduced-motion: reduce)");
let pictures = 0;

const styleOf = (edge) =>
    edge.role === "input" && edge.delay
        ? "late"
        : edge.role === "hand-over" && edge.delay
          ? "late-hand-over"
          : edge.role;

/** The kinds of edges of a network, for the legend. */
export function kinds(network) {
    const meaning = {
        input: "input, from this step",
        late: "input, from an earlier step",
        state: "state, to the same layer’s next step",
        "hand-over": "state, to another layer in the same step",
        "late-hand-over": "state, to another layer in a later step",
    };
    const found = new Set(network.edges.map(styleOf));
    return Object.entries(meaning).filter(([kind]) => found.has(kind));
}

/** A box and the junctions that it reads through in the same step. */
function withJunctions(network, box) {
    const found = new Set([box]);
    for (const name of found) {
        for (const edge of network.edges) {
            if (edge.target === name && !edge.delay && network.boxes[network.row.get(edge.source)].kind === "junction")
                found.add(edge.source);
        }
    }
    return found;
}

/** How wide and high a box is. */
function sizes(network, folded) {
    return (box) => {
        if (box.kind === "junction") return { width: 30, height: 30 };
        const strips = network.shown(box.name).length;
        const wide = folded ? 142 : 96;
        if (box.kind === "input" || box.kind === "output") return { width: wide, height: 40 };
        return { width: wide, height: (folded && box.subtitle ? 40 : 28) + Math.max(1, strips) * (STRIP + 5) + 2 };
    };
}

/** In place of a number of columns: one step, its past coming in from itself. */
export const FOLDED = 0;

function measured(network, columns) {
    const folded = columns === FOLDED;
    return layOut(network.boxes, network.edges, folded ? 1 : columns, sizes(network, folded), folded);
}

/** How many steps beside each other have room: two at least, where there are so many, and nine at most. */
export function columnsWithin(network, room) {
    const { pitch, width } = measured(network, 2);
    return Math.min(network.steps, Math.max(2, Math.min(9, 2 + Math.floor((room - width) / pitch))));
}

export class Picture {
    /** `pick({box, field, step})` is called where somebody clicks. */
    constructor(network, columns, pick) {
        const folded = columns === FOLDED;
        Object.assign(this, { network, folded, pick, id: `p${pictures++}` });
        this.layout = measured(network, columns);
        this.columns = this.layout.columns;
        this.height = this.layout.height + HEAD + 8;
        this.canvas = h("canvas", { class: "strips", "aria-hidden": "true" });
        this.svg = this.#svg();
        this.element = h("div", { class: `picture ${folded ? "folded" : "unrolled"}` }, this.svg, this.canvas);
        this.element.style.width = `${this.layout.width}px`;
        this.element.style.height = `${this.height}px`;
    }

    #svg() {
        const { width } = this.layout;
        this.label = svg("title", {});
        this.now = svg("rect", { class: "now", x: 0, y: 0, width: this.layout.pitch - 6, height: this.height, rx: 10 });
        this.wires = this.layout.paths.map((path) => this.#wire(path));
        this.heads = Array.from({ length: this.columns }, (_, column) =>
            svg("text", { class: "head", x: this.layout.middle(column), y: 16 }),
        );
        this.edgesOfTime = this.folded
            ? []
            : [
                  svg("text", { class: "aside start", x: 4, y: 16 }),
                  svg("text", { class: "aside end", x: width - 4, y: 16 }),
              ];
        this.boxes = Array.from({ length: this.columns }, (_, column) =>
            this.network.boxes.map((box) => this.#box(box, column)),
        ).flat();
        this.dots = svg("g", { class: "dots" });
        return svg(
            "svg",
            {
                width,
                height: this.height,
                viewBox: `0 0 ${width} ${this.height}`,
                role: "img",
                "aria-labelledby": `${this.id}-title`,
            },
            this.#title(),
            this.#markers(),
            this.folded ? null : this.now,
            svg(
                "g",
                { class: "wires", transform: `translate(0 ${HEAD})` },
                ...this.wires.flatMap((wire) => [wire.line, wire.hit]),
                ...this.wires.map((wire) => wire.text).filter(Boolean),
            ),
            ...this.heads,
            ...this.edgesOfTime,
            svg("g", { transform: `translate(0 ${HEAD})` }, ...this.boxes.map((box) => box.group), this.dots),
        );
    }

    #title() {
        this.label.id = `${this.id}-title`;
        return this.label;
    }

    #markers() {
        const marker = (kind) =>
            svg(
                "marker",
                {
                    id: `${this.id}-${kind}`,
                    viewBox: "0 0 10 10",
                    refX: 9,
                    refY: 5,
                    markerWidth: 9,
                    markerHeight: 9,
                    markerUnits: "userSpaceOnUse",
                    orient: "auto",
                },
                svg("path", { d: "M0 1L10 5L0 9z", class: `tip ${kind}` }),
            );
        return svg("defs", {}, ...["input", "late", "state", "hand-over", "late-hand-over"].map(marker));
    }

    #wire(path) {
        const kind = styleOf(path.edge);
        const tip = path.end === null ? null : `url(#${this.id}-${kind})`;
        const line = svg("path", { class: `wire ${kind}`, d: rounded(path.points), "marker-end": tip });
        const hit = svg("path", { class: "hit", d: rounded(path.points), onclick: () => this.#pickWire(path) });
        const text = this.#text(path);
        const what = text?.textContent;
        return { ...path, line, hit, text, what };
    }

    /** What a wire carries, in words, beside it; over time, inputs and states say it where they are chosen. */
    #text({ edge, label }) {
        if (!label) return null;
        const [x, y, anchor] = label;
        const what = edge.source === "x(t)" ? "x" : this.network.componentsOf(edge).join(", ");
        const said = this.folded ? edge.label : what;
        const when = this.folded || edge.role === "hand-over" ? "" : "if-lit";
        return said ? svg("text", { class: `carries ${anchor} ${when}`, x, y }, said) : null;
    }

    #pickWire({ edge, start }) {
        const made = start === null ? null : this.stepOf(start) - (this.folded ? edge.delay : 0);
        if (made === null || made < 0) return;
        const [field] = this.network.componentsOf(edge);
        this.pick({ box: edge.source, field, step: made });
    }

    #box(box, column) {
        const place = this.layout.place(box.name, column);
        const frame = svg("rect", {
            class: `box ${box.kind}`,
            x: place.x,
            y: place.y,
            width: place.width,
            height: place.height,
            rx: box.kind === "junction" ? 15 : 9,
        });
        const centre = place.x + place.width / 2;
        const junction = box.kind === "junction";
        const title = svg(
            "text",
            {
                class: "title",
                x: centre,
                y: place.y + (junction ? 20 : box.kind === "input" && this.network.isText ? 25 : 18),
            },
            junction ? box.title : shortName(this.network, box.name),
        );
        const subtitle =
            this.folded && box.subtitle && !junction
                ? svg("text", { class: "subtitle", x: centre, y: place.y + 32 }, box.subtitle)
                : null;
        const strips = this.#strips(box, place);
        const names = strips.map(({ name, x, y }) =>
            name ? svg("text", { class: "component end", x: x - 5, y: y + STRIP - 1 }, name) : null,
        );
        const group = svg(
            "g",
            { class: "node", onclick: () => this.pick({ box: box.name, field: "", step: this.stepOf(column) }) },
            frame,
            title,
            subtitle,
            ...names,
        );
        return { name: box.name, kind: box.kind, column, group, frame, title, strips };
    }

    /** Where the values of a box are drawn as strips of colour. */
    #strips(box, place) {
        if (box.kind === "junction") return [];
        const shown = this.network.shown(box.name);
        const cell = this.network.cellOf.has(box.name);
        const first =
            place.y + (box.kind === "input" || box.kind === "output" ? 25 : this.folded && box.subtitle ? 40 : 27);
        const inset = cell ? 22 : 10;
        return shown.map((record, i) => ({
            record,
            name: cell ? record.split(".").at(-1).slice(0, 5) : "",
            x: place.x + inset,
            y: first + i * (STRIP + 5),
            width: place.width - inset - 10,
        }));
    }

    /** The step that a column shows. */
    stepOf(column) {
        return this.begin + column;
    }

    /** Show a moment: the state of the page, in a theme. */
    update(state, theme) {
        const { network, columns } = this;
        this.begin = this.folded
            ? state.step
            : Math.max(0, Math.min(network.steps - columns, state.step - Math.floor(columns / 2)));
        const column = state.step - this.begin;
        this.now.setAttribute(
            "x",
            this.layout.middle(column) -
                this.layout.pitch / 2 +
                3 +
                (this.layout.aside.right - this.layout.aside.left) / 2,
        );
        this.heads.forEach((text, i) => {
            say(text, `step ${this.stepOf(i)}`);
            text.classList.toggle("current", i === column);
        });
        if (this.edgesOfTime.length) {
            say(this.edgesOfTime[0], this.begin === 0 ? "initial" : `← ${this.begin - 1}`);
            say(this.edgesOfTime[1], this.begin + columns === network.steps ? "end" : `${this.begin + columns} →`);
        }
        this.#mark(state, column);
        this.#draw(state, theme, column);
        say(
            this.label,
            `${network.title}. ${this.folded ? "One step" : `Steps ${this.begin} to ${this.begin + columns - 1}`}. ${boxSentence(network, state.box, state.step)}`,
        );
    }

    #pending(state, column, name, at) {
        return state.beat !== null && (at > column || (at === column && this.network.row.get(name) > state.beat));
    }

    /** Which boxes and wires belong to what is chosen. */
    #mark(state, column) {
        const { network } = this;
        const feeding = withJunctions(network, state.box);
        for (const wire of this.wires) {
            const { edge } = wire;
            const start = this.folded ? 0 : wire.start;
            const fields = network.componentsOf(edge);
            const read = feeding.has(edge.target) && wire.end === column;
            const given =
                edge.source === state.box &&
                (start === column || (this.folded && start !== null)) &&
                (!state.field || fields.includes(state.field));
            const lit = given || (!state.field && read);
            const future =
                state.beat !== null && (wire.end === null || this.#pending(state, column, edge.target, wire.end));
            wire.line.classList.toggle("lit", lit && !future);
            wire.line.classList.toggle("given", given && !read && !state.field);
            wire.line.classList.toggle("pending", future);
            if (wire.text && edge.role === "state") say(wire.text, given && state.field ? state.field : wire.what);
            wire.text?.classList.toggle("lit", lit && !future);
        }
        for (const box of this.boxes) {
            const chosen = box.name === state.box && box.column === column;
            box.frame.classList.toggle("chosen", chosen);
            box.group.classList.toggle("pending", this.#pending(state, column, box.name, box.column));
            if (box.kind === "input") say(box.title, this.#inputTitle(box.column));
        }
    }

    #inputTitle(column) {
        const step = this.stepOf(column);
        return this.network.isText ? `x = “${token(this.network.label(step))}”` : "x";
    }

    /** The strips of colour: a bar for each unit. */
    #draw(state, theme, column) {
        const scale = globalThis.devicePixelRatio || 1;
        const { canvas, network } = this;
        const [width, height] = [Math.ceil(this.layout.width * scale), Math.ceil(this.height * scale)];
        if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
        const context = canvas.getContext("2d");
        context.setTransform(scale, 0, 0, scale, 0, 0);
        context.clearRect(0, 0, this.layout.width, this.height);
        for (const box of this.boxes) {
            const hidden = this.#pending(state, column, box.name, box.column);
            for (const strip of box.strips) {
                if (box.kind === "input" && network.isText) continue;
                const values = network.values(strip.record, state.show, state.pins);
                const place = { ...strip, y: strip.y + HEAD, height: STRIP };
                if (!hidden) drawStrip(context, values, this.stepOf(box.column), theme, state.show, place);
                if (!hidden && box.name === state.box) markUnit(context, values.units, state.unit, place);
                context.strokeStyle = theme === "dark" ? "#596372" : "#b4bcc8";
                context.lineWidth = 0.6;
                context.strokeRect(place.x, place.y, place.width, STRIP);
            }
        }
    }

    /** Let a value travel along the wires that enter a box at the cursor. */
    flow(state, milliseconds) {
        cancelAnimationFrame(this.running);
        this.dots.replaceChildren();
        if (calm?.matches || state.beat === null) return;
        const column = state.step - this.begin;
        const name = this.network.boxes[state.beat].name;
        const moving = this.wires
            .filter((wire) => wire.edge.target === name && wire.end === column)
            .map((wire) => ({
                line: wire.line,
                length: wire.line.getTotalLength(),
                dot: svg("circle", { r: 5, class: `dot ${styleOf(wire.edge)}` }),
            }));
        this.dots.append(...moving.map(({ dot }) => dot));
        const begun = performance.now();
        const frame = (time) => {
            const part = Math.min(1, Math.max(0, (time - begun) / milliseconds));
            const eased = part * part * (3 - 2 * part);
            for (const { line, length, dot } of moving) {
                const { x, y } = line.getPointAtLength(length * eased);
                dot.setAttribute("cx", x);
                dot.setAttribute("cy", y);
            }
            if (part < 1) this.running = requestAnimationFrame(frame);
            else this.dots.replaceChildren();
        };
        this.running = requestAnimationFrame(frame);
    }
}

/** A mark at the unit of the cursor. */
function markUnit(context, units, chosen, { x, y, width }) {
    if (units < 2) return;
    context.fillStyle = "#c2185b";
    context.fillRect(x + ((Math.min(chosen, units - 1) + 0.5) / units) * width - 0.75, y - 2, 1.5, STRIP + 4);
}
