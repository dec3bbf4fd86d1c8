// Where the boxes and edges of a network go. Boxes stand above each other in the order in which they are stepped. The
// space around them has a fixed meaning: to the left of a box is the past, to its right this step. An edge to the next
// box goes straight up; any other turns above its source, follows a lane beside the boxes, and enters from the side.

const LANE = 13;
const LEVEL = 11;
const GAP = 36;
const LOOP = 26;
const PORT = 18; // between neighbouring entrances on a side: a label fits
const ENTERED = 0.52; // the part of a box with memory, from below, that others enter; its own state comes in above

/** A number for each span {key, low, high}: those that overlap get different ones, short spans low ones. */
export function rooms(spans) {
    const numbers = new Map();
    const guests = [];
    for (const { key, low, high } of [...spans].sort((a, b) => a.high - a.low - (b.high - b.low))) {
        const taken = new Set(
            guests.filter((guest) => guest.low < high && low < guest.high).map((guest) => guest.room),
        );
        let room = 0;
        while (taken.has(room)) room++;
        numbers.set(key, room);
        guests.push({ room, low, high });
    }
    return numbers;
}

const signal = (edge) => `${edge.source}|${edge.role === "hand-over"}|${edge.fields}`;
const net = (edge) => `${signal(edge)}|${edge.delay}`;

/** What is known before sizes are: which edges go straight up, and the lane and the turn of each other one. */
function plan(boxes, edges) {
    const row = new Map(boxes.map((box, i) => [box.name, i]));
    const signals = new Map(boxes.map((box) => [box.name, []]));
    for (const edge of edges) {
        if (edge.role !== "state" && !signals.get(edge.source).includes(signal(edge)))
            signals.get(edge.source).push(signal(edge));
    }
    const straight = new Set();
    const taken = new Set();
    edges.forEach((edge, i) => {
        const next = edge.role !== "state" && !edge.delay && row.get(edge.target) === row.get(edge.source) + 1;
        if (next && !taken.has(edge.source) && signals.get(edge.source)[0] === signal(edge)) {
            straight.add(i);
            taken.add(edge.source);
        }
    });
    const spans = { left: new Map(), right: new Map() };
    edges.forEach((edge, i) => {
        if (straight.has(i) || edge.role === "state") return;
        const side = spans[edge.delay ? "left" : "right"];
        const rows = [row.get(edge.source) + 0.5, row.get(edge.target)];
        const span = side.get(net(edge)) ?? { key: net(edge), low: Infinity, high: -Infinity };
        side.set(net(edge), { ...span, low: Math.min(span.low, ...rows), high: Math.max(span.high, ...rows) });
    });
    const lanes = { left: rooms([...spans.left.values()]), right: rooms([...spans.right.values()]) };
    const levels = new Map();
    for (const box of boxes) {
        const turning = [
            ...new Set(
                edges
                    .filter((edge, i) => edge.source === box.name && !straight.has(i) && edge.role !== "state")
                    .map(net),
            ),
        ];
        turning.forEach((key, i) => levels.set(key, i));
        levels.set(box.name, turning.length);
    }
    return { row, signals, straight, lanes, levels };
}

const sideOf = (edge) => (edge.delay ? "left" : "right");

/** Edges that enter each box from a side, the lowest first: {"name|side": [index]}. */
function entrances(edges, { straight, lanes, row }) {
    const found = new Map();
    edges.forEach((edge, i) => {
        if (straight.has(i) || edge.role === "state") return;
        const key = `${edge.target}|${sideOf(edge)}`;
        found.set(key, [...(found.get(key) ?? []), i]);
    });
    const height = (i) => {
        const above = row.get(edges[i].source) >= row.get(edges[i].target);
        const lane = lanes[sideOf(edges[i])].get(net(edges[i]));
        return above ? 1000 - lane : lane;
    };
    for (const list of found.values()) list.sort((a, b) => height(a) - height(b));
    return found;
}

/**
 * The places of boxes and the paths of edges over `columns` steps; one column is the folded picture.
 *
 * `sizes(box)` says {width, height} of a box. Paths: {edge, index, start, end, points}, from column to column; null is a
 * column that is not drawn.
 */
export function layOut(boxes, edges, columns, sizes, folded = columns === 1) {
    const planned = plan(boxes, edges);
    const ports = entrances(edges, planned);
    const hasState = new Set(edges.filter((edge) => edge.role === "state").map((edge) => edge.target));
    const width = Math.max(...boxes.map((box) => sizes(box).width));
    const portRoom = (name, side) =>
        ((ports.get(`${name}|${side}`)?.length ?? 0) * PORT) / (side === "left" && hasState.has(name) ? ENTERED : 1);
    const count = (side) => Math.max(-1, ...planned.lanes[side].values()) + 1;
    const labels = folded ? besides(edges) : { left: count("left") ? 36 : 20, right: count("right") ? 22 : 14 };
    const aside = {
        left: labels.left + count("left") * LANE + 8,
        right: Math.max(count("right") ? labels.right : 0, folded ? 8 : 0) + count("right") * LANE + 8,
    };
    const pitch = aside.left + width + aside.right;
    const margin = folded ? 4 : 26;
    const middle = (column) => margin + aside.left + width / 2 + pitch * column;
    const places = new Map();
    let y = 0;
    for (const box of [...boxes]) {
        const height = Math.max(sizes(box).height, ...["left", "right"].map((side) => portRoom(box.name, side)));
        places.set(box.name, { bottom: y, height, width: sizes(box).width });
        y += height + GAP + LEVEL * planned.levels.get(box.name);
    }
    const total = y - GAP - LEVEL * planned.levels.get(boxes.at(-1).name);
    const up = (value) => total - value; // SVG counts from above
    const place = (name, column) => {
        const { bottom, height, width: own } = places.get(name);
        return { x: middle(column) - own / 2, y: up(bottom + height), width: own, height };
    };
    const whole = middle(columns - 1) + width / 2 + aside.right + margin;
    const context = { ...planned, ports, hasState, places, middle, up, place, whole, folded, width, labels, edges };
    const paths = [];
    edges.forEach((edge, index) => {
        for (let column = 0; column < columns; column++) {
            const start = folded ? column : column - edge.delay;
            paths.push({
                edge,
                index,
                start: start < 0 ? null : start,
                end: column,
                ...route(context, edge, index, start < 0 ? null : start, column),
            });
        }
        for (let column = Math.max(0, columns - edge.delay); !folded && column < columns; column++) {
            paths.push({ edge, index, start: column, end: null, ...route(context, edge, index, column, null) });
        }
    });
    return { paths, place, middle, pitch, width: whole, height: total, columns, aside, planned };
}

/** How much room the labels beside a box need, in the folded picture. */
function besides(edges) {
    const wide = (edge) => 16 + 6.4 * (edge.label ?? "").length;
    const left = edges.map((edge) => (edge.role === "state" ? LOOP + wide(edge) : edge.delay ? wide(edge) : 0));
    const right = edges.map((edge) => (edge.role !== "state" && !edge.delay ? wide(edge) : 0));
    return { left: Math.max(16, ...left), right: Math.max(16, ...right) };
}

/** How far from the middle of its source an edge leaves: the first signal in the middle, others beside it. */
function offset({ signals }, edge) {
    const i = signals.get(edge.source).indexOf(signal(edge));
    return i <= 0 ? 0 : 16 * Math.ceil(i / 2) * (i % 2 ? 1 : -1);
}

/** The height at which a cell's own state comes in. */
function memory({ places, ports, up }, name) {
    const { bottom, height } = places.get(name);
    const entered = ports.has(`${name}|left`) || ports.has(`${name}|right`);
    return up(bottom + height * (entered ? 0.74 : 0.5));
}

function route(context, edge, index, start, end) {
    if (edge.role === "state") return context.folded ? loop(context, edge) : onward(context, edge, start, end);
    return context.straight.has(index) ? upward(context, edge, end) : byLane(context, edge, index, start, end);
}

function loop(context, edge) {
    const box = context.place(edge.source, 0);
    const y = memory(context, edge.source);
    const out = box.x - LOOP;
    return {
        points: [
            [box.x, y - 9],
            [out, y - 9],
            [out, y + 9],
            [box.x, y + 9],
        ],
        label: [out - 6, y + 4, "end"],
    };
}

function onward(context, edge, start, end) {
    const y = memory(context, edge.source);
    const from = start === null ? 0 : context.place(edge.source, start).x + context.place(edge.source, start).width;
    const to = end === null ? context.whole : context.place(edge.source, end).x;
    return {
        points: [
            [from, y],
            [to, y],
        ],
        label: end === null ? null : [to - 4, y - 6, "end"],
    };
}

function upward(context, edge, column) {
    const x = context.middle(column);
    const from = context.place(edge.source, column);
    const to = context.place(edge.target, column);
    return {
        points: [
            [x, from.y],
            [x, to.y + to.height],
        ],
        label: [x + 8, to.y + to.height + 19, "start"],
    };
}

function byLane(context, edge, index, start, end) {
    const { places, up, levels, lanes, middle, width, whole } = context;
    const from = places.get(edge.source);
    const turn = up(from.bottom + from.height + 13 + LEVEL * levels.get(net(edge)));
    const x = start === null ? 0 : middle(start) + offset(context, edge);
    const side = sideOf(edge);
    const distance = width / 2 + context.labels[side] + LANE * lanes[side].get(net(edge));
    const lane = end === null ? whole : middle(end) + (side === "right" ? distance : -distance);
    const first = start === null ? [] : [[x, up(from.bottom + from.height)]];
    const corners = [...first, [x, turn], [lane, turn]];
    if (end === null) return { points: corners, label: null };
    const to = context.place(edge.target, end);
    const list = context.ports.get(`${edge.target}|${side}`);
    const y = entranceAt(context, edge.target, side, to, list.indexOf(index), list.length);
    const entry = side === "left" ? to.x : to.x + to.width;
    const label = side === "left" ? [entry - 12, y - 4, "end"] : [entry + 12, y - 4, "start"];
    return { points: [...corners, [lane, y], [entry, y]], label };
}

/** The height of an entrance. From the right, they lie around the middle; from the left, below what comes in as state. */
function entranceAt({ hasState }, name, side, box, i, count) {
    if (side === "right") return box.y + box.height / 2 - (i - (count - 1) / 2) * Math.min(PORT, box.height / count);
    const room = hasState.has(name) ? box.height * ENTERED : box.height;
    return box.y + box.height - (room * (i + 0.5)) / count;
}

/** The corners of a path as SVG, rounded. */
export function rounded(points, radius = 6) {
    const clean = points.filter(([x, y], i) => i === 0 || x !== points[i - 1][0] || y !== points[i - 1][1]);
    let text = `M${clean[0]}`;
    for (let i = 1; i < clean.length - 1; i++) {
        const [before, at, after] = [clean[i - 1], clean[i], clean[i + 1]];
        const towards = (to) => {
            const length = Math.hypot(to[0] - at[0], to[1] - at[1]);
            const part = Math.min(radius, length / 2) / length;
            return [at[0] + (to[0] - at[0]) * part, at[1] + (to[1] - at[1]) * part];
        };
        text += `L${towards(before)}Q${at} ${towards(after)}`;
    }
    return `${text}L${clean.at(-1)}`;
}
