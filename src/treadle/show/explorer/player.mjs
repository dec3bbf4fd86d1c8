// Playing: in the wiring, box after box within a step, each value travelling to where it is read; elsewhere, step after step.

const BEAT = 900; // milliseconds for a box, or a step, at normal speed

export class Player {
    constructor(store, moved) {
        this.store = store;
        this.moved = moved; // called for each beat with its length
        this.speed = 1;
        this.timer = null;
        this.moving = false; // while it is the player who changes the state
    }

    get playing() {
        return this.timer !== null;
    }

    toggle() {
        if (this.playing) this.pause();
        else this.play();
    }

    play() {
        this.#schedule();
        if (this.#byBoxes && this.store.state.beat === null) this.#toBox(0);
        else this.moved(this.store.state, BEAT / this.speed);
    }

    pause() {
        clearTimeout(this.timer);
        this.timer = null;
        this.moved(this.store.state, 0);
    }

    /** All boxes of the step at once again. */
    stop() {
        this.pause();
        this.store.set({ beat: null });
    }

    /** To the next box within the step, and after the last one to the next step; false at the end. */
    nextBox() {
        const { network, state } = this.store;
        const beat = state.beat === null ? 0 : state.beat + 1;
        if (beat < network.boxes.length) return this.#toBox(beat);
        return state.step + 1 < network.steps && this.#toBox(0, state.step + 1);
    }

    get #byBoxes() {
        return this.store.state.view === "wiring";
    }

    #next() {
        if (this.#byBoxes) return this.nextBox();
        const { network, state } = this.store;
        return state.step + 1 < network.steps && this.#set({ step: state.step + 1 });
    }

    #toBox(beat, step = this.store.state.step) {
        return this.#set({ beat, step, box: this.store.network.boxes[beat].name, field: "" });
    }

    #set(changes) {
        this.moving = true;
        this.store.set(changes);
        this.moving = false;
        this.moved(this.store.state, BEAT / this.speed);
        return true;
    }

    #schedule() {
        this.timer = setTimeout(() => {
            if (this.#next()) this.#schedule();
            else this.stop();
        }, BEAT / this.speed);
    }
}
