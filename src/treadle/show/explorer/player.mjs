// Playing: box after box within a step, and step after step, each value travelling to where it is read.

const BEAT = 900; // milliseconds for a box, at normal speed

export class Player {
    constructor(store, moved) {
        this.store = store;
        this.moved = moved; // called for each beat with its length
        this.speed = 1;
        this.timer = null;
    }

    get playing() {
        return this.timer !== null;
    }

    toggle() {
        if (this.playing) this.pause();
        else this.play();
    }

    play() {
        if (this.store.state.beat === null) this.store.set({ beat: 0, box: this.#boxAt(0), field: "" });
        this.#schedule();
        this.moved(this.store.state, BEAT / this.speed);
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

    /** To the next box within the step; after the last one, to the next step. */
    next() {
        const { network, state } = this.store;
        const beat = state.beat === null ? 0 : state.beat + 1;
        if (beat < network.boxes.length) this.store.set({ beat, box: this.#boxAt(beat), field: "" });
        else if (state.step + 1 < network.steps)
            this.store.set({ beat: 0, step: state.step + 1, box: this.#boxAt(0), field: "" });
        else return false;
        this.moved(this.store.state, BEAT / this.speed);
        return true;
    }

    #boxAt(beat) {
        return this.store.network.boxes[beat].name;
    }

    #schedule() {
        clearTimeout(this.timer);
        this.timer = setTimeout(() => {
            if (this.next()) this.#schedule();
            else this.stop();
        }, BEAT / this.speed);
    }
}
