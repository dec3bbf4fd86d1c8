// The page: reads its data, makes the views, and keeps them, the cursor and the link together.

import { Banner, Controls } from "./controls.mjs";
import { copy } from "./copying.mjs";
import { h, say, select } from "./dom.mjs";
import { helpDialog, listen } from "./keys.mjs";
import { Network } from "./network.mjs";
import { Player } from "./player.mjs";
import { beginning, fieldsOf, fromHash, Store, toHash } from "./store.mjs";
import { Theme } from "./theme.mjs";
import { Tour } from "./tour.mjs";
import { CellView } from "./view_cell.mjs";
import { CompareView } from "./view_compare.mjs";
import { GradientView } from "./view_gradients.mjs";
import { WhatIfView } from "./view_whatif.mjs";
import { WiringView } from "./view_wiring.mjs";
import { boxSentence } from "./words.mjs";

const TITLES = {
    wiring: "Wiring",
    cell: "Inside the cell",
    gradients: "Gradients",
    whatif: "What if",
    compare: "Side by side",
};

class Page {
    constructor(data) {
        this.networks = data.networks.map((network) => new Network(network));
        this.store = new Store(this.networks, fromHash(location.hash));
        this.theme = new Theme(() => this.update());
        this.player = new Player(this.store, (state, milliseconds) => this.#beat(state, milliseconds));
        this.views = {
            wiring: new WiringView(this.store, this.player),
            cell: new CellView(this.store),
            gradients: new GradientView(this.store),
            whatif: new WhatIfView(this.store),
            compare: new CompareView(this.store),
        };
        this.controls = new Controls(this.store, this.player);
        this.banner = new Banner(this.store);
        this.tour = new Tour(this.store);
        this.help = helpDialog();
        this.live = h("p", { class: "offstage", "aria-live": "polite" });
        this.#make(data);
        this.store.listen((state, before) => this.#changed(state, before));
        listen(this.#actions());
        addEventListener("resize", () => this.update());
        addEventListener("hashchange", () => {
            if (location.hash !== this.hash)
                this.store.set({ ...beginning(this.networks), ...fromHash(location.hash) });
        });
        this.update();
        if (data.tour && !location.hash && this.store.state.tour === null) this.invitation.hidden = false;
    }

    #make(data) {
        const { store } = this;
        this.tabs = Object.entries(TITLES).map(([view, title], i) => ({
            view,
            button: h("button", { onclick: () => store.set({ view }), title: `key: ${i + 1}` }, title),
        }));
        const options = this.networks.map((network) => [network.name, network.name]);
        this.picker = select("network", options, store.state.network, (network) => store.set({ network, beat: null }));
        this.picker.label.hidden = options.length < 2;
        this.subtitle = h("p", { class: "subtitle" });
        const tool = (label, key, action) => h("button", { onclick: action, title: `key: ${key}` }, label);
        this.linkButton = tool("Copy link", "l", () => this.copyLink());
        this.codeButton = tool("Copy code", "c", () => this.copyCode());
        this.themeButton = tool("Dark", "d", () => this.theme.toggle());
        const tourButton = tool("Tour", "t", () => this.tour.begin());
        const helpButton = tool("Keys", "?", () => this.help.showModal());
        const start = h("button", { class: "primary", onclick: () => this.startTour() }, "Take the tour");
        const no = h(
            "button",
            {
                onclick: () => {
                    this.invitation.hidden = true;
                },
            },
            "Explore by myself",
        );
        this.invitation = h(
            "section",
            { class: "banner invitation", hidden: true, "aria-label": "Guided tour" },
            h(
                "span",
                {},
                "How do the layers of a multi-layer LSTM connect: by the input, or by the initial hidden state? Twelve short steps answer it.",
            ),
            start,
            no,
        );
        this.main = h("main", {}, ...Object.values(this.views).map((view) => view.element));
        document.body.append(
            h(
                "header",
                {},
                h("div", { class: "brand" }, h("h1", {}, data.title), this.subtitle),
                h(
                    "div",
                    { class: "row tools" },
                    this.picker.label,
                    tourButton,
                    this.linkButton,
                    this.codeButton,
                    this.themeButton,
                    helpButton,
                ),
            ),
            h("nav", { "aria-label": "Views" }, ...this.tabs.map(({ button }) => button)),
            this.invitation,
            this.controls.element,
            this.banner.element,
            this.main,
            this.tour.element,
            this.help,
            this.live,
        );
    }

    startTour() {
        this.invitation.hidden = true;
        this.tour.begin();
    }

    async copyLink() {
        this.#flash(this.linkButton, await copy(`${location.href.split("#")[0]}${toHash(this.store.state)}`));
    }

    async copyCode() {
        this.#flash(this.codeButton, await copy(this.store.network.code));
    }

    #flash(button, done) {
        const label = button.textContent;
        say(button, done ? "Copied" : "Not allowed here");
        setTimeout(() => say(button, label), 1500);
    }

    #beat(state, milliseconds) {
        this.controls.update(state);
        if (milliseconds && state.view === "wiring") this.views.wiring.flow(state, milliseconds);
    }

    #changed(state, before) {
        const moved = state.step !== before.step || state.view !== before.view || state.network !== before.network;
        if (this.player.playing && !this.player.moving && moved) this.player.pause();
        if (state.tour !== null) this.invitation.hidden = true;
        this.update();
        clearTimeout(this.saying);
        this.saying = setTimeout(() => this.#settled(), 200);
        if (before.view !== state.view && state.tour === null) scrollTo({ top: 0 });
    }

    /** What can wait until the cursor rests: the link, and what a screen reader says. */
    #settled() {
        const { state, network } = this.store;
        this.hash = toHash(state);
        try {
            history.replaceState(null, "", this.hash);
        } catch {
            // A frame without an address of its own (a notebook's) has no link to keep.
        }
        say(this.live, boxSentence(network, state.box, state.step));
    }

    update() {
        const { state, network } = this.store;
        const theme = this.theme.name;
        for (const { view, button } of this.tabs) {
            if (view !== state.view) button.removeAttribute("aria-current");
            else if (!button.hasAttribute("aria-current")) {
                button.setAttribute("aria-current", "page");
                button.parentElement.scrollLeft = button.offsetLeft - 40;
            }
        }
        for (const [name, view] of Object.entries(this.views)) view.element.hidden = name !== state.view;
        this.picker.element.value = state.network;
        say(this.subtitle, network.title);
        say(this.themeButton, theme === "dark" ? "Light" : "Dark");
        this.controls.update(state);
        this.banner.update(state);
        this.tour.update(state);
        this.views[state.view].update(state, theme);
    }

    #actions() {
        const { store } = this;
        const step = (to) => store.set({ step: to, beat: null });
        const around = (list, now, by) => list[(list.indexOf(now) + by + list.length) % list.length];
        const box = (by) => {
            const names = store.network.boxes.map((one) => one.name);
            const at = names.indexOf(store.state.box) + by;
            if (names[at]) store.set({ box: names[at], beat: null });
        };
        return {
            ArrowLeft: () => step(store.state.step - 1),
            ArrowRight: () => step(store.state.step + 1),
            Home: () => step(0),
            End: () => step(Infinity),
            ArrowUp: () => box(1),
            ArrowDown: () => box(-1),
            "[": () => store.set({ unit: store.state.unit - 1 }),
            "]": () => store.set({ unit: store.state.unit + 1 }),
            v: () => store.set({ field: around(fieldsOf(store.network, store.state.box), store.state.field, 1) }),
            " ": () => this.player.toggle(),
            ".": () => this.player.nextBox(),
            ",": () => this.player.stop(),
            n: () => store.set({ network: around(this.networks, store.network, 1).name, beat: null }),
            t: () => this.startTour(),
            d: () => this.theme.toggle(),
            l: () => this.copyLink(),
            c: () => this.copyCode(),
            "?": () => this.help.showModal(),
            Escape: () => this.#escape(),
            ...Object.fromEntries(Object.keys(TITLES).map((view, i) => [String(i + 1), () => store.set({ view })])),
        };
    }

    #escape() {
        if (this.help.open) this.help.close();
        else if (this.tour.running) this.tour.end();
        else if (this.store.state.pins.length) this.store.set({ pins: [] });
    }

    /** All numbers of the record, as the views read them. */
    numbers() {
        return this.#each((network) => (name) => network.recorded(name));
    }

    /** The same as the page's own interpreter computes them; of networks that it cannot compute, why. */
    interpreted() {
        return this.#each((network) => (name) => (network.whyNoChange ? null : network.unchanged.record[name]));
    }

    #each(reader) {
        return Object.fromEntries(
            this.networks.map((network) => {
                const read = reader(network);
                return [
                    network.name,
                    network.whyNoChange && !read("x")
                        ? network.whyNoChange
                        : Object.fromEntries(
                              network.names
                                  .map((name) => [name, read(name)])
                                  .filter(([, values]) => values)
                                  .map(([name, values]) => [name, Array.from(values.data)]),
                          ),
                ];
            }),
        );
    }
}

globalThis.treadle = new Page(JSON.parse(document.getElementById("data").textContent));
