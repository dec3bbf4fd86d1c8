// Copying text: by the clipboard where the browser allows it, else by the old way.

import { h } from "./dom.mjs";

export async function copy(text) {
    try {
        await navigator.clipboard.writeText(text);
        return true;
    } catch {
        const area = h("textarea", { class: "offstage", "aria-hidden": "true" });
        area.value = text;
        document.body.append(area);
        area.select();
        const done = document.execCommand("copy");
        area.remove();
        return done;
    }
}

/** A button that copies what `text()` gives, and says so. */
export function copyButton(label, text) {
    const button = h(
        "button",
        {
            onclick: async () => {
                const done = await copy(text());
                button.textContent = done ? "Copied" : "Select and copy it by hand";
                setTimeout(() => {
                    button.textContent = label;
                }, 1600);
            },
        },
        label,
    );
    return button;
}
