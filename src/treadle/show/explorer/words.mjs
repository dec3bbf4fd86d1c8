// The sentences of the page: who reads what, who made it, and numbers as people write them.

const MINUS = "−";

/** A number as text, with six digits; the minus is a minus. */
export function number(value, digits = 4) {
  if (value === null || value === undefined) return "none";
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value > 0 ? "∞" : `${MINUS}∞`;
  if (value === 0) return "0";
  const small = Math.abs(value) < 1e-4 || Math.abs(value) >= 1e6;
  const text = small ? value.toExponential(2) : Number.isInteger(value) ? String(value) : value.toFixed(digits);
  return text.replaceAll("-", MINUS);
}

/** A token as it can be seen: a space and a line break have signs. */
export function token(text) {
  if (text === " ") return "␣";
  return text.replaceAll("\n", "⏎").replaceAll("\t", "⇥");
}

/** "layer0" as "layer 0"; other names stay. */
export function boxName(name) {
  if (name === "x(t)") return "the input x";
  if (name === "y(t)") return "the output y";
  if (name === "cell") return "the cell";
  if (name.startsWith("⊕")) return "the sum";
  if (name.startsWith("∥")) return "the concatenation";
  return name.replace(/(^|\.)layer(\d+)\b/g, "$1layer $2");
}

/** A name within a picture. */
export function shortName(name) {
  return name === "x(t)" ? "x" : name === "y(t)" ? "y" : boxName(name).replace(/^the (?=cell)/, "");
}

export function listed(parts) {
  return parts.length < 2 ? parts.join("") : `${parts.slice(0, -1).join(", ")} and ${parts.at(-1)}`;
}

export function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** "h of layer 0", "the input x": what an edge carries, without its step. */
export function carriedName(network, edge) {
  if (edge.source === "x(t)") return "x";
  const fields = edge.fields.length ? edge.fields : [network.outputComponent(edge.source)].filter(Boolean);
  const of = boxName(edge.source);
  if (fields.length) return `${fields.join(", ")} of ${of}`;
  const { kind } = network.boxes[network.row.get(edge.source)];
  return kind === "junction" ? of : `the output of ${of}`;
}

function when(step) {
  return step < 0 ? "before the first step" : `at step ${step}`;
}

/** What an edge brings to its target, as the target sees it; `moment` says when it was made. */
function readAs(network, edge, moment) {
  if (edge.role === "state") return `its own ${edge.fields.join(", ")} ${moment.replace(/^at /, "of ")} as state`;
  const what = `${carriedName(network, edge)} ${moment}`;
  return edge.role === "hand-over" ? `${what} in place of its own previous ${edge.becomes || edge.fields[0]}` : `${what} as input`;
}

/** What an edge brings to its target at a step. */
export function readPhrase(network, edge, step) {
  const made = step - edge.delay;
  if (made >= 0) return readAs(network, edge, when(made));
  if (edge.role === "state") return `its own initial ${edge.fields.join(", ")} as state`;
  return `${readAs(network, edge, when(made))} (zeros: there is no such step yet)`;
}

/** The same at any step: "h of layer 0 of the same step as input". */
export function readAlways(network, edge) {
  const moments = ["of the same step", "of the step before"];
  return readAs(network, edge, moments[edge.delay] ?? `of ${edge.delay} steps before`);
}

/** What reads what a box makes, as the maker sees it. */
function givenPhrase(network, edge, step) {
  const read = step + edge.delay;
  const to = edge.target === edge.source ? "itself" : boxName(edge.target);
  const later = read >= network.steps ? " (after the end)" : "";
  const as = edge.role === "state" ? "as state" : edge.role === "hand-over" ? `in place of its previous ${edge.becomes || edge.fields[0]}` : "as input";
  if (edge.target === "y(t)") return `as the network’s output y${edge.delay ? ` at step ${read}` : ""}`;
  return `by ${to} at step ${read} ${as}${later}`;
}

const rank = { input: 0, "hand-over": 1, state: 2 };

/** The edges that enter a box, inputs first. */
export function entering(network, box) {
  return network.edges.filter((edge) => edge.target === box).sort((a, b) => rank[a.role] - rank[b.role]);
}

export function leaving(network, box) {
  return network.edges.filter((edge) => edge.source === box).sort((a, b) => a.delay - b.delay);
}

/** A box at a step in one sentence: "Layer 1 at step 5 reads h of layer 0 of step 5 as input, and …". */
export function boxSentence(network, box, step) {
  const { kind } = network.boxes[network.row.get(box)];
  if (kind === "input") return `The input x at step ${step}: ${inputPhrase(network, step)}.`;
  const reads = entering(network, box).map((edge) => readPhrase(network, edge, step));
  if (kind === "output") return `The output y at step ${step} is ${listed(entering(network, box).map((edge) => `${carriedName(network, edge)} ${when(step - edge.delay)}`))}.`;
  const verb = kind === "junction" ? (box.startsWith("⊕") ? "adds" : "puts side by side") : "reads";
  const parts = kind === "junction" ? reads.map((text) => text.replace(/ as input/, "")) : reads;
  return `${capital(boxName(box))} at step ${step} ${verb} ${parts.length > 1 ? `${parts.slice(0, -1).join(", ")}, and ${parts.at(-1)}` : parts.join("")}.`;
}

/** Who reads what a box makes at a step, one sentence for each thing it makes. */
export function readersSentences(network, box, step) {
  const signals = new Map();
  const output = network.outputComponent(box);
  for (const edge of leaving(network, box)) {
    const fields = edge.fields.length ? edge.fields : [output ?? ""];
    for (const field of fields) signals.set(field, [...(signals.get(field) ?? []), edge]);
  }
  return [...signals].map(([field, edges]) => valueSentence(network, box, field, step, edges));
}

function valueSentence(network, box, field, step, edges) {
  const name = field ? `${capital(field)} of ${boxName(box)}` : capital(box === "x(t)" ? "x" : `the output of ${boxName(box)}`);
  const said = (field ? name.charAt(0).toLowerCase() + name.slice(1) : name);
  return `${field ? said : name} at step ${step} is read ${listed(edges.map((edge) => givenPhrase(network, edge, step)))}.`;
}

/** One value in a sentence: who made it and who reads it. */
export function madeAndRead(network, box, field, step) {
  const maker = step < 0 ? `is the initial state: nothing made it` : box === "x(t)" ? "is given from outside" : `is made by ${boxName(box)} at step ${step}`;
  const output = network.outputComponent(box);
  const edges = leaving(network, box).filter((edge) => (edge.fields.length ? edge.fields : [output ?? ""]).includes(field));
  const readers = edges.map((edge) => givenPhrase(network, edge, step));
  const what = field ? `${field} of ${boxName(box)}` : box === "x(t)" ? "x" : `the output of ${boxName(box)}`;
  const moment = when(step);
  return `${field ? what : capital(what)} ${moment} ${maker}${readers.length ? `, and read ${listed(readers)}` : ", and nobody reads it"}.`;
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
