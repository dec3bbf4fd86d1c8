// The primitive operations of treadle's programs, on arrays {data, shape} of one row. They mean what
// compiler/interpreter.py says; results are computed in double precision and rounded to the program's dtype.

import { size } from "./arrays.mjs";

/** An empty array of a dtype: what is stored in it is rounded as the dtype says. */
export function empty(dtype, length) {
    if (dtype === "float32") return new Float32Array(length);
    if (dtype === "bool") return new Uint8Array(length);
    return new Float64Array(length); // float64, and whole numbers, which a double holds exactly up to 2^53
}

const sigmoid = (x) => (x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x)));

/** Round half to even, as PyTorch does. */
export function round(x) {
    const near = Math.round(x);
    return Math.abs(x % 1) === 0.5 && near % 2 !== 0 ? near - 1 : near;
}

/** The error function, to double precision: its series near zero, a continued fraction further out. */
export function erf(x) {
    const z = Math.abs(x);
    if (Number.isNaN(x)) return x;
    if (z > 6) return Math.sign(x);
    if (z < 2.5) {
        let term = x;
        let sum = x;
        for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) {
            term *= (-x * x) / n;
            sum += term / (2 * n + 1);
            if (n > 200) break;
        }
        return (2 / Math.sqrt(Math.PI)) * sum;
    }
    let fraction = 0;
    for (let n = 60; n > 0; n--) fraction = n / 2 / (z + fraction);
    return Math.sign(x) * (1 - Math.exp(-z * z) / Math.sqrt(Math.PI) / (z + fraction));
}

const UNARY = {
    neg: (x) => -x,
    abs: Math.abs,
    exp: Math.exp,
    expm1: Math.expm1,
    log: Math.log,
    log1p: Math.log1p,
    sqrt: Math.sqrt,
    rsqrt: (x) => 1 / Math.sqrt(x),
    sin: Math.sin,
    cos: Math.cos,
    tanh: Math.tanh,
    sigmoid,
    logsigmoid: (x) => Math.min(x, 0) - Math.log1p(Math.exp(-Math.abs(x))),
    erf,
    floor: Math.floor,
    ceil: Math.ceil,
    round,
    trunc: Math.trunc,
    sign: (x) => (x > 0 ? 1 : x < 0 ? -1 : 0),
    reciprocal: (x) => 1 / x,
    not: (x) => (x ? 0 : 1),
};

const BINARY = {
    add: (a, b) => a + b,
    sub: (a, b) => a - b,
    mul: (a, b) => a * b,
    div: (a, b) => a / b,
    pow: (a, b) => (a === 1 ? 1 : a ** b),
    maximum: Math.max,
    minimum: Math.min,
    eq: (a, b) => (a === b ? 1 : 0),
    ne: (a, b) => (a !== b ? 1 : 0),
    lt: (a, b) => (a < b ? 1 : 0),
    le: (a, b) => (a <= b ? 1 : 0),
    gt: (a, b) => (a > b ? 1 : 0),
    ge: (a, b) => (a >= b ? 1 : 0),
    and: (a, b) => (a && b ? 1 : 0),
    or: (a, b) => (a || b ? 1 : 0),
};

/** For each axis of `shape`, how far apart neighbours are in memory. */
function strides(shape) {
    const found = new Array(shape.length);
    let step = 1;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
        found[axis] = step;
        step *= shape[axis];
    }
    return found;
}

/** For each number of an array of `shape`, where it lies in another one: `steps` apart along each axis, from `start`. */
function places(shape, steps, start = 0) {
    const length = size(shape);
    const found = new Int32Array(length);
    const index = new Array(shape.length).fill(0);
    let place = start;
    for (let i = 0; i < length; i++) {
        found[i] = place;
        for (let axis = shape.length - 1; axis >= 0; axis--) {
            place += steps[axis];
            if (++index[axis] < shape[axis]) break;
            place -= steps[axis] * shape[axis];
            index[axis] = 0;
        }
    }
    return found;
}

/** Where the numbers of an array lie when it is broadcast to `shape`; null if it has that shape already. */
function broadcast(from, shape) {
    if (size(from) === size(shape)) return null;
    const own = strides(from);
    const missing = shape.length - from.length;
    const steps = shape.map((_, axis) => (axis < missing || from[axis - missing] === 1 ? 0 : own[axis - missing]));
    return places(shape, steps);
}

function pointwise(operation, shape, dtype, operands) {
    const result = empty(dtype, size(shape));
    const sources = operands.map((operand) => {
        const where = broadcast(operand.shape, shape);
        return where ? Float64Array.from(where, (place) => operand.data[place]) : operand.data;
    });
    const [a, b, c] = sources;
    const length = result.length;
    if (c) for (let i = 0; i < length; i++) result[i] = operation(a[i], b[i], c[i]);
    else if (b) for (let i = 0; i < length; i++) result[i] = operation(a[i], b[i]);
    else for (let i = 0; i < length; i++) result[i] = operation(a[i]);
    return result;
}

function gather(source, where, dtype) {
    const result = empty(dtype, where.length);
    for (let i = 0; i < result.length; i++) result[i] = source[where[i]];
    return result;
}

function cast(value, [operand], shape) {
    const result = empty(value.dtype, size(shape));
    const convert = value.dtype === "bool" ? (x) => (x ? 1 : 0) : /int/.test(value.dtype) ? Math.trunc : (x) => x;
    for (let i = 0; i < result.length; i++) result[i] = convert(operand.data[i]);
    return result;
}

function concatenate(value, operands, shape) {
    const axis = value.attributes.axis;
    const after = size(shape.slice(axis + 1));
    const before = size(shape.slice(0, axis));
    const result = empty(value.dtype, size(shape));
    let offset = 0;
    for (const operand of operands) {
        const length = operand.shape[axis] * after;
        for (let i = 0; i < before; i++) {
            result.set(operand.data.subarray(i * length, (i + 1) * length), i * shape[axis] * after + offset);
        }
        offset += length;
    }
    return result;
}

/** A sum or a maximum over axes that stay, with one element each. */
function reduce(value, [operand], shape, begin, join) {
    const kept = strides(shape).map((step, axis) => (shape[axis] === 1 ? 0 : step));
    const where = places(operand.shape, kept);
    const result = new Float64Array(size(shape)).fill(begin);
    for (let i = 0; i < where.length; i++) result[where[i]] = join(result[where[i]], operand.data[i]);
    const rounded = empty(value.dtype, result.length);
    rounded.set(result);
    return rounded;
}

/** [..., K] times [K, N]. */
function dot(value, [a, w], shape) {
    const [depth, width] = w.shape;
    const rows = a.data.length / depth;
    const result = empty(value.dtype, size(shape));
    const sums = new Float64Array(width);
    for (let row = 0; row < rows; row++) {
        sums.fill(0);
        for (let k = 0; k < depth; k++) {
            const factor = a.data[row * depth + k];
            const from = k * width;
            if (factor !== 0) for (let n = 0; n < width; n++) sums[n] += factor * w.data[from + n];
        }
        result.set(sums, row * width);
    }
    return result;
}

/** A convolution over one or two axes: [B, C, ...] with [O, C / groups, ...]. */
function convolve(value, operands, shape) {
    const given = value.attributes.arguments.map((part) =>
        part && part.operand !== undefined ? operands[part.operand] : part,
    );
    const [input, weight, bias, stride, padding, dilation, , , groups] = given;
    const two = (list, otherwise) => (list.length === 2 ? list : [otherwise, list[0]]);
    const [channels, height, width] = [input.shape[1], ...two(input.shape.slice(2), 1)];
    const [outs, ins, tall, wide] = [weight.shape[0], weight.shape[1], ...two(weight.shape.slice(2), 1)];
    const [[sy, sx], [py, px], [dy, dx]] = [two(stride, 1), two(padding, 0), two(dilation, 1)];
    const [rows, columns] = two(shape.slice(2), 1);
    const result = empty(value.dtype, size(shape));
    let place = 0;
    for (let image = 0; image < shape[0]; image++) {
        for (let out = 0; out < outs; out++) {
            const first = Math.floor(out / (outs / groups)) * ins;
            for (let y = 0; y < rows; y++) {
                for (let x = 0; x < columns; x++) {
                    let sum = bias ? bias.data[out] : 0;
                    for (let c = 0; c < ins; c++) {
                        for (let i = 0; i < tall; i++) {
                            const row = y * sy - py + i * dy;
                            if (row < 0 || row >= height) continue;
                            for (let j = 0; j < wide; j++) {
                                const column = x * sx - px + j * dx;
                                if (column < 0 || column >= width) continue;
                                const from = ((image * channels + first + c) * height + row) * width + column;
                                sum += input.data[from] * weight.data[((out * ins + c) * tall + i) * wide + j];
                            }
                        }
                    }
                    result[place++] = sum;
                }
            }
        }
    }
    return result;
}

/** Row `i` of the result is row `index[i]` of the table. */
function embed(value, [table, index], shape) {
    const width = table.shape[1];
    const result = empty(value.dtype, size(shape));
    index.data.forEach((row, i) => result.set(table.data.subarray(row * width, (row + 1) * width), i * width));
    return result;
}

/** One axis of a slice. */
function slice(value, [operand], shape) {
    const { axis, start, step } = value.attributes;
    const steps = strides(operand.shape);
    return gather(
        operand.data,
        places(
            shape,
            steps.map((s, i) => (i === axis ? s * step : s)),
            start * steps[axis],
        ),
        value.dtype,
    );
}

function constant(value, shape) {
    return empty(value.dtype, size(shape)).fill(Number(value.attributes.number));
}

const OTHERS = {
    where: (value, operands, shape) => pointwise((c, a, b) => (c ? a : b), shape, value.dtype, operands),
    cast,
    reshape: (_, [operand]) => operand.data,
    detach: (_, [operand]) => operand.data,
    straight_through: (_, [operand]) => operand.data,
    permute: (value, [operand], shape) => {
        const steps = strides(operand.shape);
        return gather(
            operand.data,
            places(
                shape,
                value.attributes.axes.map((axis) => steps[axis]),
            ),
            value.dtype,
        );
    },
    slice,
    expand: (value, [operand], shape) => {
        const where = broadcast(operand.shape, shape);
        return where ? gather(operand.data, where, value.dtype) : operand.data;
    },
    cat: concatenate,
    sum: (value, operands, shape) => reduce(value, operands, shape, 0, (a, b) => a + b),
    rowsum: (value, operands, shape) => reduce(value, operands, shape, 0, (a, b) => a + b),
    amax: (value, operands, shape) => reduce(value, operands, shape, -Infinity, Math.max),
    full: (value, _, shape) => constant(value, shape),
    dot,
    matmul: dot,
    embedding: embed,
    opaque: (value, operands, shape) => OPAQUE[kindOf(value)](value, operands, shape),
};

/** Operations of PyTorch that the compiler does not look into, and that can be computed here. */
const OPAQUE = { convolution: convolve, embedding: embed };

const kindOf = (value) => /^aten\.(\w+)/.exec(value.attributes?.function ?? "")?.[1];

/** Why a value of a program cannot be computed here, or null. */
export function refusal(value) {
    if (!/^(float32|float64|bool|u?int\d+)$/.test(value.dtype)) return `the page does not compute with ${value.dtype}`;
    if (value.op === "input" || value.op in UNARY || value.op in BINARY) return null;
    if (value.op === "opaque") {
        const { function: name = "", arguments: given = [] } = value.attributes ?? {};
        const simple =
            kindOf(value) === "convolution" ? given[6] === false && given[3].length <= 2 : kindOf(value) in OPAQUE;
        return simple
            ? null
            : `the page cannot compute ${name || "an operation of PyTorch that the compiler does not look into"}`;
    }
    return value.op in OTHERS ? null : `the page cannot compute ${value.op}`;
}

/** What one value of a program is, for one row, from its operands. */
export function compute(value, operands) {
    const shape = value.shape.map((dim) => (dim === "B" ? 1 : dim));
    const simple = UNARY[value.op] ?? BINARY[value.op];
    const data = simple ? pointwise(simple, shape, value.dtype, operands) : OTHERS[value.op](value, operands, shape);
    return { data, shape };
}
