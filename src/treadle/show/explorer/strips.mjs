// Values as strips of colour, a bar for each unit. A series is painted once, a row for each step; a strip is a copy of a row.

import { colours, placeOn, scaleOf } from "./colours.mjs";

const sheets = new WeakMap();

/** The colours of a series: a canvas with a row for each step, a pixel for each unit. */
export function sheet(values, theme, show) {
    if (!sheets.has(values)) sheets.set(values, {});
    const made = sheets.get(values);
    made[theme] ??= painted(values, theme, scaleOf(values, show));
    return made[theme];
}

function painted({ data, units, steps }, theme, scale) {
    const canvas = Object.assign(document.createElement("canvas"), {
        width: Math.max(1, units),
        height: Math.max(1, steps),
    });
    const context = canvas.getContext("2d");
    const image = context.createImageData(canvas.width, canvas.height);
    const map = colours(scale.kind, theme);
    data.forEach((value, i) => {
        const colour = 3 * placeOn(scale, value);
        image.data[4 * i] = map[colour];
        image.data[4 * i + 1] = map[colour + 1];
        image.data[4 * i + 2] = map[colour + 2];
        image.data[4 * i + 3] = 255;
    });
    context.putImageData(image, 0, 0);
    return canvas;
}

/** Draw one step of a series into a rectangle. */
export function drawStrip(context, values, step, theme, show, { x, y, width, height }) {
    if (!values || step < 0 || step >= values.steps) return;
    context.imageSmoothingEnabled = false;
    context.drawImage(sheet(values, theme, show), 0, step, values.units, 1, x, y, width, height);
}
