// Retry of failed tiles, with exponential backoff and jitter. MapLibre itself does not retry them. A new token or a
// network that is up again triggers a retry at once.
//
// All times are in milliseconds.

// The first backoff, doubled after each retry up to the maximum.
const FIRST_BACKOFF = 2_000;
const MAX_BACKOFF = 60_000;
// Delay before a retry that is due at once, so that tiles that fail together are retried together.
const BATCH_DELAY = 100;

export class FailedTiles extends EventTarget {
    #map;
    #source;
    #tiles = new Map(); // Failed tiles in view, each with whether its retry is under way.
    #backoff = FIRST_BACKOFF;
    #timer;
    #inTrouble = false;

    constructor(map, source) {
        super();
        this.#map = map;
        this.#source = source;
        map.on("data", ({ tile, sourceId }) => {
            if (tile && sourceId === source) {
                this.#tiles.delete(tile);
                this.#update();
            }
        });
        map.on("dataabort", ({ tile }) => this.#tiles.delete(tile)); // The tile has left the view.
        map.on("idle", () => this.#update());
        window.addEventListener("online", () => this.retrySoon());
    }

    // Whether the page should tell the user. True from the first failed retry until no failed tile is in view.
    get inTrouble() {
        return this.#inTrouble;
    }

    add(tile) {
        this.#inTrouble ||= this.#tiles.get(tile) === true;
        this.#tiles.set(tile, false);
        // Jitter, so that pages that failed at the same time do not retry at the same time.
        this.#timer ??= setTimeout(() => this.#retry(), this.#backoff * (0.5 + Math.random() / 2));
        this.dispatchEvent(new Event("change"));
    }

    // Retries almost at once, because the cause of the failures may be gone.
    retrySoon() {
        if (this.#tiles.size > 0) {
            clearTimeout(this.#timer);
            this.#backoff = FIRST_BACKOFF;
            this.#timer = setTimeout(() => this.#retry(), BATCH_DELAY);
        }
    }

    #retry() {
        this.#timer = undefined;
        this.#backoff = Math.min(2 * this.#backoff, MAX_BACKOFF);
        const tiles = [...this.#tiles.keys()].filter((tile) => !this.#tiles.get(tile));
        // Only the failed tiles: a good tile would be lost if its refresh failed.
        this.#map.refreshTiles(this.#source, tiles.map(({ tileID }) => tileID.canonical));
        for (const tile of tiles) {
            tile.state = "loading"; // MapLibre draws a tile while it refreshes it, but a failed tile has no image.
            this.#tiles.set(tile, true);
        }
    }

    #update() {
        for (const [tile, retrying] of this.#tiles) {
            if (retrying && tile.state === "errored") {
                this.#tiles.delete(tile); // A 404: the tile does not exist, and MapLibre emits no event for it.
            }
        }
        if (this.#tiles.size === 0) {
            clearTimeout(this.#timer);
            this.#timer = undefined;
            this.#backoff = FIRST_BACKOFF;
            this.#inTrouble = false;
        }
        this.dispatchEvent(new Event("change"));
    }
}
