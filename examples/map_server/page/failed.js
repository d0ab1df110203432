// Tiles that failed: asked for again, at once when something has changed for the better, or else ever less often. MapLibre
// itself does not come back to them.
//
// All times are in milliseconds.

// The first wait, doubled after each more.
const FIRST_WAIT = 2_000;
const LONGEST_WAIT = 60_000;
// Tiles mostly fail together, and are asked for together.
const TOGETHER = 100;

export class FailedTiles extends EventTarget {
    #map;
    #source;
    #tiles = new Map(); // Those in view, each with whether it is being asked for again.
    #wait = FIRST_WAIT;
    #timer;
    #inTrouble = false;

    constructor(map, source) {
        super();
        this.#map = map;
        this.#source = source;
        map.on("data", ({ tile, sourceId }) => {
            if (tile && sourceId === source) {
                this.#tiles.delete(tile);
                this.#look();
            }
        });
        map.on("dataabort", ({ tile }) => this.#tiles.delete(tile)); // Out of view.
        map.on("idle", () => this.#look());
        window.addEventListener("online", () => this.retrySoon());
    }

    // Whether there is cause to tell the reader: a tile failed again. It lasts until none in view fails.
    get inTrouble() {
        return this.#inTrouble;
    }

    add(tile) {
        this.#inTrouble ||= this.#tiles.get(tile) === true;
        this.#tiles.set(tile, false);
        // Jitter, so that pages that failed together do not come back together.
        this.#timer ??= setTimeout(() => this.#retry(), this.#wait * (0.5 + Math.random() / 2));
        this.dispatchEvent(new Event("change"));
    }

    // There is reason to hope.
    retrySoon() {
        if (this.#tiles.size > 0) {
            clearTimeout(this.#timer);
            this.#wait = FIRST_WAIT;
            this.#timer = setTimeout(() => this.#retry(), TOGETHER);
        }
    }

    #retry() {
        this.#timer = undefined;
        this.#wait = Math.min(2 * this.#wait, LONGEST_WAIT);
        const tiles = [...this.#tiles.keys()].filter((tile) => !this.#tiles.get(tile));
        // Those alone: another would be lost if it failed this time.
        this.#map.refreshTiles(this.#source, tiles.map(({ tileID }) => tileID.canonical));
        for (const tile of tiles) {
            tile.state = "loading"; // MapLibre draws what it refreshes, but here there is nothing to draw yet.
            this.#tiles.set(tile, true);
        }
    }

    #look() {
        for (const [tile, again] of this.#tiles) {
            if (again && tile.state === "errored") {
                this.#tiles.delete(tile); // A 404: there is no such tile, and MapLibre does not mention it.
            }
        }
        if (this.#tiles.size === 0) {
            clearTimeout(this.#timer);
            this.#timer = undefined;
            this.#wait = FIRST_WAIT;
            this.#inTrouble = false;
        }
        this.dispatchEvent(new Event("change"));
    }
}
