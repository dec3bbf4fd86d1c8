// The view "inside the cell": its own source with this step's numbers beside each line, heat maps of its values, and one
// unit over what the network reads.

import { colours, css, placeOn, scaleOf } from "./colours.mjs";
import { h, press, say, select } from "./dom.mjs";
import { HeatMap } from "./heatmap.mjs";
import { Lines, palette, Tokens } from "./text.mjs";
import { boxName, capital, number } from "./words.mjs";

/** The cell that a view shows: the chosen box, or the nearest one below it. */
function cellAt(network, box) {
    const found = network.cellOf.get(box);
    if (found) return found;
    const row = network.row.get(box);
    return network.cells.filter((cell) => network.row.get(cell.box) <= row).at(-1) ?? network.cells[0] ?? null;
}

const KEYWORDS =
    /\b(def|return|if|elif|else|for|in|not|is|None|True|False|and|or|self|lambda|while|with|as|raise|import|from|class)\b/;

/** A line of Python with its words marked. */
function coloured(line) {
    const comment = line.indexOf("#");
    const code = comment < 0 ? line : line.slice(0, comment);
    const parts = code.split(/(\b[A-Za-z_]\w*\b|"[^"]*"|'[^']*')/).map((part) => {
        if (/^["']/.test(part)) return h("span", { class: "string" }, part);
        return KEYWORDS.test(part) && /^\w+$/.test(part) ? h("span", { class: "keyword" }, part) : part;
    });
    return comment < 0 ? parts : [...parts, h("span", { class: "comment" }, line.slice(comment))];
}

export class CellView {
    constructor(store) {
        this.store = store;
        this.heading = h("h2");
        this.where = h("span", { class: "quiet" });
        this.source = h("div", {
            class: "listing",
            tabindex: 0,
            role: "group",
            "aria-label": "The cell’s source, with the numbers of this step",
        });
        this.everything = h(
            "button",
            { "aria-pressed": "false", onclick: () => store.set({ all: !store.state.all }) },
            "Every value",
        );
        this.maps = h("div", { class: "maps" });
        this.overTitle = h("h2");
        this.chooser = h("span");
        this.overNumber = h("p", { class: "quiet" });
        this.over = h("div");
        this.tokens = new Tokens((step) => store.set({ step }));
        this.lines = new Lines((step) => store.set({ step }));
        this.empty = h("p", { class: "card" }, "This network has no cell: nothing in it has a memory.");
        this.body = h(
            "div",
            { class: "cell-view" },
            h(
                "section",
                { class: "card wide" },
                h("div", { class: "card-head" }, this.heading, this.where),
                this.source,
            ),
            h(
                "section",
                { class: "card wide" },
                h("div", { class: "card-head" }, h("h2", {}, "Units × time"), this.everything),
                this.maps,
            ),
            h(
                "section",
                { class: "card wide" },
                h("div", { class: "card-head" }, this.overTitle, this.chooser),
                this.overNumber,
                this.over,
            ),
        );
        this.element = h("div", {}, this.body, this.empty);
    }

    update(state, theme) {
        const { network } = this.store;
        const cell = cellAt(network, state.box);
        this.body.hidden = !cell;
        this.empty.hidden = Boolean(cell);
        if (!cell) return;
        if (this.cell !== cell || this.all !== state.all) this.#build(network, cell, state.all);
        press(this.everything, state.all);
        say(this.heading, `Inside ${boxName(network, cell.box)}`);
        this.#numbers(network, state, theme);
        for (const { name, map } of this.heat) {
            map.draw(network.values(name, state.show, state.pins), theme, state.show);
            map.move(state.step, state.unit);
        }
        this.#over(network, cell, state, theme);
    }

    #build(network, cell, all) {
        Object.assign(this, { cell, all });
        say(this.where, cell.file ? `${cell.class}, ${cell.file}` : cell.class);
        const known = cell.values.filter((value) => network.json.record[value.record]);
        this.#listing(known);
        const main = known.filter((value) => all || value.kind !== "other");
        this.everything.hidden = known.every((value) => value.kind !== "other");
        const chosen = main.length ? main : known;
        const pick = (step, unit) =>
            this.store.set({ step, unit, ...(this.store.state.box === cell.box ? {} : { box: cell.box }) });
        const unique = [...new Map(chosen.map((value) => [value.record, value])).values()];
        this.heat = unique.map((value) => ({ name: value.record, map: new HeatMap(value.name, pick) }));
        this.maps.replaceChildren(...this.heat.map(({ map }) => map.element));
        const names = [
            ...new Set([
                ...cell.states.map((part) => network.stateName(cell.box, part)),
                ...known.map((value) => value.record),
            ]),
        ];
        const options = names
            .filter((name) => network.json.record[name])
            .map((name) => [name, this.#short(cell, name)]);
        this.options = options.map(([name]) => name);
        this.choice = select("value", options, null, (over) => this.store.set({ over }));
        this.chooser.replaceChildren(this.choice.label);
        this.over.replaceChildren(network.isText ? this.tokens.element : this.lines.element);
    }

    #short(cell, name) {
        return cell.path && name.startsWith(`${cell.path}.`) ? name.slice(cell.path.length + 1) : name;
    }

    /** The source of all that the step runs through, a line an item, with a place for each number. */
    #listing(known) {
        this.places = [];
        const { cell } = this;
        const sources = cell.sources ?? [
            { function: "", file: cell.file, first_line: cell.first_line, lines: cell.source },
        ];
        this.source.replaceChildren(
            ...sources.flatMap((source, number) => {
                const margin = Math.min(...source.lines.filter((line) => line.trim()).map((line) => line.search(/\S/)));
                const items = source.lines
                    .map((line) => line.slice(margin))
                    .map((line, i) =>
                        this.#line(
                            line,
                            source.first_line + i,
                            known.filter(
                                (value) => value.line === source.first_line + i && (value.source ?? 0) === number,
                            ),
                        ),
                    );
                const list = h("ol", { class: "source" }, ...items);
                return sources.length > 1 ? [h("h3", {}, `${source.function}, ${source.file}`), list] : [list];
            }),
        );
    }

    #line(line, number, values) {
        const chips = values.map((value) => {
            const swatch = h("span", { class: "swatch", "aria-hidden": "true" });
            const text = h("span", { class: "number" });
            this.places.push({ name: value.record, swatch, text });
            return h("span", { class: "beside" }, swatch, `${value.name} = `, text);
        });
        return h(
            "li",
            { value: number },
            h(
                "div",
                {},
                h("code", {}, ...coloured(line)),
                chips.length ? h("span", { class: "chips" }, ...chips) : null,
            ),
        );
    }

    #numbers(network, state, theme) {
        for (const { name, swatch, text } of this.places) {
            const values = network.values(name, state.show, state.pins);
            const unit = Math.min(state.unit, values.units - 1);
            const value = values.data[state.step * values.units + unit];
            say(text, number(value));
            const scale = scaleOf(values, state.show);
            swatch.style.background = css(colours(scale.kind, theme), placeOn(scale, value));
        }
    }

    #over(network, cell, state, theme) {
        const over =
            [state.over, network.outputName(cell.box)].find((name) => this.options.includes(name)) ?? this.options[0];
        this.choice.element.value = over;
        const values = network.values(over, state.show, state.pins);
        if (!values) return;
        const unit = Math.min(state.unit, values.units - 1);
        const short = this.#short(cell, over);
        say(this.overTitle, `Unit ${unit} of ${short} over the ${network.isText ? "text" : "series"}`);
        const value = values.data[state.step * values.units + unit];
        say(
            this.overNumber,
            `${capital(boxName(network, cell.box))}, ${short}, unit ${unit} at step ${state.step}: ${number(value)}`,
        );
        if (network.isText) {
            this.tokens.draw(network, values, unit, theme, state.show);
            this.tokens.move(state.step);
            return;
        }
        const x = network.recorded("x");
        const column = (from, k) =>
            Float64Array.from({ length: from.steps }, (_, step) => from.data[step * from.units + k]);
        const shades = palette(theme);
        const read = Array.from({ length: Math.min(3, x.units) }, (_, k) => ({
            name: network.input.names?.[k] ?? (x.units > 1 ? `x, feature ${k}` : "x"),
            numbers: column(x, k),
            colour: shades[k + 1],
            scale: "read",
            dash: [4, 3],
            thick: 1.1,
        }));
        const key = `${network.name} ${over} ${unit} ${theme} ${state.show} ${JSON.stringify(state.pins)}`;
        if (this.lineKey !== key) {
            this.lineKey = key;
            this.made = [
                ...read,
                {
                    name: `unit ${unit} of ${short}`,
                    numbers: column(values, unit),
                    colour: shades[0],
                    scale: "unit",
                    thick: 2.2,
                },
            ];
        }
        this.lines.draw(
            key,
            this.made,
            `Unit ${unit} of ${short} and the series that the network reads, over ${network.steps} steps`,
        );
        this.lines.move(state.step);
    }
}
