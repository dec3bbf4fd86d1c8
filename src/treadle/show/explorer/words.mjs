// The sentences of the page: who reads what, who made it, and numbers as people write them.

const MINUS = "−";

/** A number as text, right to a millionth (of itself, where it is large); the minus is a minus. */
export function number(value, digits = 6) {
    if (value === null || value === undefined) return "none";
    if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value > 0 ? "∞" : `${MINUS}∞`;
    const size = Math.abs(value);
    const text =
        Number.isInteger(value) && size < 1e9
            ? String(value)
            : size >= 1e6
              ? value.toExponential(6)
              : size < 1e-4
                ? value.toExponential(2)
                : value.toFixed(digits);
    return text.replaceAll("-", MINUS);
}

/** A number with two digits that count, for the ends of scales. */
export function short(value) {
    return Number(value.toPrecision(2)).toString().replaceAll("-", MINUS);
}

/** A token as it can be seen: a space and a line break have signs. */
export function token(text) {
    if (text === " ") return "␣";
    return text.replaceAll("\n", "⏎").replaceAll("\t", "⇥");
}

/** What a box is called: the end of its path if no other box ends so, and "layer0" is "layer 0". */
export function boxName(network, name) {
    const known = { "x(t)": "the input x", "y(t)": "the output y", cell: "the cell" }[name];
    if (known) return known;
    if (name.startsWith("⊕")) return "the sum";
    if (name.startsWith("∥")) return "the concatenation";
    const end = name.split(".").at(-1);
    const alone = network.boxes.filter((box) => box.name.split(".").at(-1) === end).length === 1;
    return (alone ? end : name).replace(/(^|\.)layer(\d+)\b/g, "$1layer $2");
}

/** A name within a picture. */
export function shortName(network, name) {
    return name === "x(t)" ? "x" : name === "y(t)" ? "y" : boxName(network, name).replace(/^the (?=cell)/, "");
}

/** "layer0.h", a name of the record, as "h of layer 0". */
export function valueName(network, name) {
    const at = name.lastIndexOf(".");
    if (network.row.has(name)) return boxName(network, name);
    return network.row.has(name.slice(0, at))
        ? `${name.slice(at + 1)} of ${boxName(network, name.slice(0, at))}`
        : name;
}

export function listed(parts) {
    return parts.length < 2 ? parts.join("") : `${parts.slice(0, -1).join(", ")} and ${parts.at(-1)}`;
}

export function capital(text) {
    return text.charAt(0).toUpperCase() + text.slice(1);
}

/** What an edge carries, "h of layer 0 at step 5"; `moment(back, source)` says in words when that was made. */
function carriedName(network, edge, moment, back) {
    const now = moment(back, edge.source);
    if (edge.source === "x(t)") return `x ${now}`;
    const { kind } = network.boxes[network.row.get(edge.source)];
    if (kind === "junction") {
        const parts = partsOf(network, edge.source, back);
        const names = parts.map((part) => carriedName(network, part.edge, moment, part.back));
        return edge.source.startsWith("⊕")
            ? `the sum of ${summed(network, parts, names)}`
            : `${listed(names)}, side by side,`;
    }
    const fields = network.componentsOf(edge).filter(Boolean);
    const of = boxName(network, edge.source);
    return fields.length ? `${fields.join(", ")} of ${of} ${now}` : `the output of ${of} ${now}`;
}

/** What is added in a sum, sums within it opened, or put side by side: [{edge, back}]. */
export function partsOf(network, junction, back) {
    return entering(network, junction).flatMap((edge) => {
        const inner = junction.startsWith("⊕") && edge.source.startsWith("⊕");
        return inner ? partsOf(network, edge.source, back + edge.delay) : [{ edge, back: back + edge.delay }];
    });
}

/** The parts of a sum: "h of layer 0, layer 1 and layer 2 at step 5" where they differ in their layers alone. */
function summed(network, parts, names) {
    const boxes = parts.map(({ edge }) => boxName(network, edge.source));
    const rests = names.map((name, i) => name.replace(` ${boxes[i]} `, " … "));
    if (new Set(rests).size > 1 || new Set(boxes).size < boxes.length || !rests[0]?.includes(" … "))
        return listed(names);
    return rests[0].replace("…", listed(boxes));
}

const ownName = (edge) => edge.fields.join(", ");
const asState = (edge) => (edge.fields.join() === "state" ? "" : " as state");
const replaced = (edge) => `in place of its own previous ${edge.becomes || edge.fields[0]}`;

/** When something was made that is read at a step, so many steps later; before the first step there are zeros, mostly. */
function asOf(network, step) {
    return (back, source) => {
        if (step >= back) return `at step ${step - back}`;
        const past = network.past(source, step - back);
        return !past || past.every((value) => value === 0) ? "before the first step (zeros)" : "before the first step";
    };
}

/** What an edge brings to its target at any step: "h of layer 0 of the same step as input". */
export function readAlways(network, edge) {
    const moments = ["of the same step", "of the step before"];
    const moment = (back) => moments[back] ?? `of ${back} steps before`;
    if (edge.role === "state") return `its own ${ownName(edge)} ${moment(edge.delay)}${asState(edge)}`;
    const what = carriedName(network, edge, moment, edge.delay);
    return edge.role === "hand-over" ? `${what} ${replaced(edge)}` : `${what} as input`;
}

/** All that a box reads at a step: its inputs, the states of others that take the place of its own, and its own state. */
function readPhrases(network, box, step) {
    const edges = entering(network, box);
    const carried = (edge) => carriedName(network, edge, asOf(network, step), edge.delay);
    const inputs = edges.filter((edge) => edge.role === "input").map(carried);
    const handed = edges
        .filter((edge) => edge.role === "hand-over")
        .map((edge) => `${carried(edge)} ${replaced(edge)}`);
    const own = edges
        .filter((edge) => edge.role === "state")
        .map((edge) =>
            step < edge.delay
                ? `its own initial ${ownName(edge)}${asState(edge)}`
                : `its own ${ownName(edge)} of step ${step - edge.delay}${asState(edge)}`,
        );
    const together = inputs.length > 1 ? `${listed(inputs)}, side by side, as input` : `${inputs.join("")} as input`;
    return [...(inputs.length ? [together] : []), ...handed, ...own];
}

/** Who reads, at the end of an edge, what its source made at a step, as the maker sees it; through a sum, who reads that. */
function givenPhrases(network, edge, step, through = "") {
    const read = step + edge.delay;
    const { kind } = network.boxes[network.row.get(edge.target)];
    if (kind === "junction") {
        const part = edge.target.startsWith("⊕") ? " in a sum" : through;
        return leaving(network, edge.target).flatMap((next) => givenPhrases(network, next, read, part));
    }
    if (kind === "output")
        return [`${through.trim()} as the network’s output y${edge.delay ? ` at step ${read}` : ""}`.trim()];
    const to = boxName(network, edge.target);
    const as =
        edge.role === "state"
            ? " as state"
            : edge.role === "hand-over"
              ? ` in place of its previous ${edge.becomes || edge.fields[0]}`
              : " as input";
    return [`by ${to} at step ${read}${through}${as}${read >= network.steps ? " (after the end)" : ""}`];
}

const rank = { input: 0, "hand-over": 1, state: 2 };

/** The edges that enter a box, inputs first. */
export function entering(network, box) {
    return network.edges.filter((edge) => edge.target === box).sort((a, b) => rank[a.role] - rank[b.role]);
}

function leaving(network, box) {
    return network.edges.filter((edge) => edge.source === box).sort((a, b) => a.delay - b.delay);
}

/** A box at a step in one sentence: "Layer 1 at step 5 reads h of layer 0 at step 5 as input, and …". */
export function boxSentence(network, box, step) {
    const { kind } = network.boxes[network.row.get(box)];
    if (kind === "input") return `The input x at step ${step}: ${inputPhrase(network, step)}.`;
    const name = ({ edge, back }) => carriedName(network, edge, asOf(network, step), back);
    const found =
        kind === "junction"
            ? partsOf(network, box, 0)
            : entering(network, box).map((edge) => ({ edge, back: edge.delay }));
    const parts = found.map(name);
    if (kind === "output")
        return `The output y at step ${step} is ${listed(parts)}${parts.length > 1 ? ", side by side" : ""}.`;
    if (kind === "junction")
        return `The ${box.startsWith("⊕") ? "sum" : "concatenation"} at step ${step} takes ${summed(network, found, parts)}.`;
    const reads = readPhrases(network, box, step);
    const joined = reads.length > 1 ? `${reads.slice(0, -1).join(", ")}, and ${reads.at(-1)}` : reads.join("");
    return `${capital(boxName(network, box))} at step ${step} reads ${joined}.`;
}

/** Who reads what a box makes at a step, one sentence for each thing it makes. */
export function readersSentences(network, box, step) {
    const signals = new Map();
    for (const edge of leaving(network, box)) {
        for (const field of network.componentsOf(edge)) signals.set(field, [...(signals.get(field) ?? []), edge]);
    }
    return [...signals].map(
        ([field, edges]) =>
            `${madeName(network, box, field)} at step ${step} is read ${readers(network, edges, step)}.`,
    );
}

const readers = (network, edges, step) => listed(edges.flatMap((edge) => givenPhrases(network, edge, step)));

/** What a box makes, at the beginning of a sentence. */
function madeName(network, box, field) {
    if (box === "x(t)") return "x";
    return field ? `${field} of ${boxName(network, box)}` : `The output of ${boxName(network, box)}`;
}

/** One value in a sentence: who made it and who reads it. */
export function madeAndRead(network, box, field, step) {
    const maker = box === "x(t)" ? "is given from outside" : `is made by ${boxName(network, box)} at step ${step}`;
    const edges = leaving(network, box).filter((edge) => network.componentsOf(edge).includes(field));
    return `${madeName(network, box, field)} at step ${step} ${maker}, and ${edges.length ? `read ${readers(network, edges, step)}` : "nobody reads it"}.`;
}

/** What the network reads at a step. */
export function inputPhrase(network, step) {
    if (network.input.kind === "tokens") return `the token “${token(network.label(step))}”`;
    const x = network.recorded("x");
    const names = network.input.names;
    const shown = Array.from(x.data.subarray(step * x.units, step * x.units + Math.min(x.units, 6)));
    const text = shown.map((value, i) => (names?.[i] ? `${names[i]} ${number(value)}` : number(value))).join(", ");
    return x.units > 6 ? `${x.units} numbers, ${text}, …` : text;
}
