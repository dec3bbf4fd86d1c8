// The arrays of the data: base64, little-endian, with a dtype and a shape; here they become typed arrays.

const KINDS = {
    float64: Float64Array,
    float32: Float32Array,
    int64: BigInt64Array,
    int32: Int32Array,
    int16: Int16Array,
    int8: Int8Array,
    uint8: Uint8Array,
    bool: Uint8Array,
};

/** The numbers and the shape of one array of the data. */
export function decode(array) {
    const kind = KINDS[array.dtype];
    if (!kind) throw new Error(`an array of ${array.dtype} cannot be read`);
    const bytes = Uint8Array.from(atob(array.data), (letter) => letter.charCodeAt(0));
    const found = new kind(bytes.buffer, 0, bytes.byteLength / kind.BYTES_PER_ELEMENT);
    const data = found instanceof BigInt64Array ? Float64Array.from(found, Number) : found;
    return { data, shape: array.shape };
}

/** How many numbers an array of this shape has. */
export function size(shape) {
    return shape.reduce((product, dim) => product * dim, 1);
}

/** A value over time, [T, ...], as T rows of units: axes after time are flattened. */
export function series(array) {
    const { data, shape } = decode(array);
    const [steps] = shape;
    return { data, steps, units: steps ? data.length / steps : 0 };
}

/** The units of one step of a series. */
export function at(values, step) {
    return values.data.subarray(step * values.units, (step + 1) * values.units);
}
