// Light or dark: as the system says, until somebody switches.

export class Theme {
    constructor(changed) {
        this.system = matchMedia("(prefers-color-scheme: dark)");
        this.chosen = remembered();
        this.changed = changed;
        this.system.addEventListener("change", () => this.#apply());
        document.documentElement.dataset.theme = this.name;
    }

    get name() {
        return this.chosen ?? (this.system.matches ? "dark" : "light");
    }

    toggle() {
        this.chosen = this.name === "dark" ? "light" : "dark";
        try {
            localStorage.setItem("treadle-theme", this.chosen);
        } catch {
            // A page in a frame of a notebook may not remember anything.
        }
        this.#apply();
    }

    #apply() {
        document.documentElement.dataset.theme = this.name;
        this.changed();
    }
}

function remembered() {
    try {
        const name = localStorage.getItem("treadle-theme");
        return name === "light" || name === "dark" ? name : null;
    } catch {
        return null;
    }
}
