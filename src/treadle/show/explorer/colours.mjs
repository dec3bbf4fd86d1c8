// Colours of numbers. Diverging from blue (below zero) over the ground to orange (above): people with any kind of colour
// blindness tell them apart, and the amount is the distance from the ground, in light and in dark.

const MAPS = {
    light: [
        [5, 72, 130],
        [67, 147, 195],
        [171, 208, 230],
        [243, 244, 246],
        [250, 198, 140],
        [226, 126, 38],
        [148, 64, 4],
    ],
    dark: [
        [150, 212, 255],
        [58, 150, 222],
        [28, 84, 130],
        [30, 34, 41],
        [128, 74, 22],
        [232, 138, 44],
        [255, 214, 160],
    ],
};
// From the ground to ink: how strongly something matters.
const AMOUNTS = {
    light: [
        [243, 244, 246],
        [190, 215, 209],
        [98, 168, 160],
        [24, 112, 112],
        [4, 56, 66],
    ],
    dark: [
        [30, 34, 41],
        [22, 66, 72],
        [24, 120, 120],
        [84, 186, 170],
        [206, 246, 226],
    ],
};

function table(stops) {
    const found = new Uint8Array(256 * 3);
    for (let i = 0; i < 256; i++) {
        const place = (i / 255) * (stops.length - 1);
        const low = Math.min(stops.length - 2, Math.floor(place));
        for (let k = 0; k < 3; k++)
            found[3 * i + k] = Math.round(stops[low][k] + (place - low) * (stops[low + 1][k] - stops[low][k]));
    }
    return found;
}

const made = {};

/** 256 colours as r, g, b: of "diverging" or "amount", in a theme. */
export function colours(kind, theme) {
    made[kind + theme] ??= table((kind === "amount" ? AMOUNTS : MAPS)[theme]);
    return made[kind + theme];
}

export function css(map, index) {
    return `rgb(${map[3 * index]}, ${map[3 * index + 1]}, ${map[3 * index + 2]})`;
}

/** Ink that can be read on a colour. */
export function inkOn(map, index) {
    const [r, g, b] = [0, 1, 2].map((k) => {
        const part = map[3 * index + k] / 255;
        return part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18 ? "#111" : "#fff";
}

const scales = new WeakMap();

/**
 * The scale on which a series is drawn: values of both signs from −limit to limit, values that are never negative (gates)
 * from 0 to limit, which is at least 1 for gates. A difference is always of both signs.
 */
export function scaleOf(values, show) {
    if (!scales.has(values)) scales.set(values, measured(values, show));
    return scales.get(values);
}

function measured({ data }, show) {
    let [low, most] = [0, 0];
    for (const value of data) {
        if (!Number.isFinite(value)) continue;
        if (value < low) low = value;
        if (Math.abs(value) > most) most = Math.abs(value);
    }
    const amount = low === 0 && most > 0 && show !== "difference";
    const limit = amount && most <= 1 ? 1 : most || 1;
    return amount ? { kind: "amount", low: 0, high: limit } : { kind: "diverging", low: -limit, high: limit };
}

/** The place of a number among the 256 colours of a scale. */
export function placeOn({ low, high }, value) {
    return Number.isFinite(value) ? Math.max(0, Math.min(255, Math.round((255 * (value - low)) / (high - low)))) : 127;
}
