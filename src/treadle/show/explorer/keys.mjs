// The keyboard: everything that the mouse can do.

import { h } from "./dom.mjs";

const KEYS = [
    ["← →", "one step back, on"],
    ["Home, End", "the first step, the last"],
    ["↑ ↓", "the box above, below"],
    ["[ ]", "the unit before, after"],
    ["v", "the next of the box’s values (h, c, the whole step)"],
    ["space", "play, pause"],
    [". ,", "the next box within the step; the whole step again"],
    ["1 … 5", "wiring, inside the cell, gradients, what if, side by side"],
    ["n", "the next network"],
    ["t", "the guided tour"],
    ["d", "light or dark"],
    ["l", "copy a link to this view"],
    ["c", "copy the network as treadle code"],
    ["?", "this help"],
    ["Esc", "close the help, end the tour, take all changes back"],
];

/** A dialog that lists the keys. */
export function helpDialog() {
    const close = h("button", { class: "primary", onclick: () => dialog.close() }, "Close");
    const dialog = h(
        "dialog",
        { "aria-labelledby": "help-title" },
        h("h2", { id: "help-title" }, "Keys"),
        h(
            "dl",
            { class: "keys" },
            ...KEYS.flatMap(([key, meaning]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, meaning)]),
        ),
        h(
            "p",
            { class: "quiet" },
            "All views share one cursor: a network, a layer, a unit and a step. Click on a box, a line, a map or a token to move it.",
        ),
        close,
    );
    return dialog;
}

const typing = (target) => target.matches?.("input:not([type=range]), select, textarea, [contenteditable]");

/** `actions`: by the name of a key, what it does. Keys that are typed into a field, or with Ctrl or Alt, are left alone. */
export function listen(actions) {
    document.addEventListener("keydown", (event) => {
        if (event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented) return;
        if (typing(event.target) && event.key !== "Escape") return;
        const action = actions[event.key];
        const own = event.target.matches?.("button, summary, a") && (event.key === " " || event.key === "Enter");
        if (!action || own || (event.target.matches?.("input[type=range]") && /^(Arrow|Home|End)/.test(event.key)))
            return;
        event.preventDefault();
        action();
    });
}
