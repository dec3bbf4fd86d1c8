// Elements in one line each.

const SVG = "http://www.w3.org/2000/svg";

function filled(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
        if (value === null || value === undefined || value === false) continue;
        if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
        else element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
}

/** An HTML element: h("p", {class: "x"}, "text"). */
export function h(tag, attributes = {}, ...children) {
    return filled(document.createElement(tag), attributes, children);
}

/** An SVG element. */
export function svg(tag, attributes = {}, ...children) {
    return filled(document.createElementNS(SVG, tag), attributes, children);
}

/** Set a text, only where it is another one. */
export function say(element, text) {
    if (element.textContent !== text) element.textContent = text;
}

/** A button that is pressed or not. */
export function press(button, pressed) {
    button.setAttribute("aria-pressed", String(pressed));
}

/** A labelled select; options are [value, text]. */
export function select(label, options, chosen, onchange) {
    const element = h(
        "select",
        { onchange: () => onchange(element.value) },
        ...options.map(([value, text]) => h("option", { value }, text)),
    );
    if (chosen !== null && chosen !== undefined) element.value = chosen;
    return { element, label: h("label", { class: "field" }, h("span", {}, label), element) };
}

/** A labelled number. */
export function numberField(label, value, attributes = {}) {
    const element = h("input", { type: "number", step: "any", value, ...attributes });
    return { element, label: h("label", { class: "field" }, h("span", {}, label), element) };
}
