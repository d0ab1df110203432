// Keeps a token at hand: fetched ahead of time, renewed before its end, replaced when the API refuses it.
//
// Its life counts from before the request for it was sent, on the monotonic clock: a wrong wall clock changes nothing.
// All times are in milliseconds.

// A token is renewed this long before its end, or at half of a life that is short.
const RENEWED_BEFORE_END = 30_000;
// Not used any more this long before its end, or for the last tenth of a short life: a request takes its time.
const KEPT_BACK = 5_000;
// The server itself may look at the API for 5 s and wait 10 s for a token.
const FETCH_LIMIT = 20_000;
// The first wait after a failure, doubled after each more.
const FIRST_BACKOFF = 1_000;
const LONGEST_BACKOFF = 30_000;
// Successful fetches are at least this far apart, however short the tokens' lives.
const SHORTEST_PAUSE = 1_000;
// While the API goes on refusing tokens, the server is asked this often, and ever less often.
const FIRST_PATIENCE = 5_000;
const LONGEST_PATIENCE = 60_000;
// A timer may sleep along with the laptop; so it is never set for longer.
const LONGEST_SLEEP = 5_000;
// If the wall clock has gone on for this much longer than ours, the machine was asleep.
const ASLEEP = 2_000;

export class Tokens extends EventTarget {
    #url;
    #token = null; // { value, renewAt, usableUntil }
    #lastValue = null;
    #waiting = [];
    #fetching = false;
    #failures = 0;
    #notBefore = 0;
    #refused = false;
    #vouchedFor = false;
    #refusedAgain = false;
    #patience = 0;
    #lastRefusal = -Infinity;
    #timer;
    #clocksApart = Date.now() - performance.now();

    constructor(url) {
        super();
        this.#url = url;
        for (const event of ["visibilitychange", "pageshow", "online", "focus"]) {
            (event === "visibilitychange" ? document : window).addEventListener(event, () => this.#look());
        }
        this.#look();
    }

    // A token that can be used now: at once if there is one, or else as soon as there is.
    async usable() {
        const token = this.#current() ?? new Promise((resolve) => this.#waiting.push(resolve));
        // Only now, as a hidden page fetches nothing unless somebody waits for it.
        this.#look();
        return token;
    }

    // Whether there is cause to tell the reader: no token can be had, or new ones are refused too.
    get inTrouble() {
        return this.#refusedAgain || (this.#failures > 0 && this.#current() === null);
    }

    // The API accepted a token.
    accepted() {
        if (this.#refusedAgain) {
            this.#refusedAgain = false;
            this.dispatchEvent(new Event("change"));
        }
    }

    // The API refused this token: nobody gets it again before the server has been asked. False if it is not the one in
    // use any more, so that the request can be repeated at once.
    refused(value) {
        if (this.#refused || this.#current() === null) {
            return true; // The next one is on its way.
        }
        if (value !== this.#token.value) {
            return false;
        }
        const now = performance.now();
        // The first time the server is asked at once. Tokens that go on being refused have another trouble.
        this.#refusedAgain = now < this.#lastRefusal + 2 * this.#patience;
        this.#notBefore = Math.max(this.#notBefore, now + (this.#refusedAgain ? this.#patience : 0));
        this.#patience = this.#refusedAgain ? Math.min(2 * this.#patience, LONGEST_PATIENCE) : FIRST_PATIENCE;
        this.#lastRefusal = now;
        this.#refused = true;
        // If the server has looked for itself and stands by the token, then other requests can use it.
        if (!this.#vouchedFor) {
            this.#token = null;
        }
        this.#look();
        return true;
    }

    #current() {
        return performance.now() < (this.#token?.usableUntil ?? 0) ? this.#token.value : null;
    }

    // Fetches a token if it is time, and sets the timer if it is not.
    #look() {
        clearTimeout(this.#timer);
        if (this.#fetching) {
            return;
        }
        const clocksApart = Date.now() - performance.now();
        if (this.#token && clocksApart - this.#clocksApart > ASLEEP) {
            this.#token.renewAt = 0; // The monotonic clock may have slept too. At worst this costs one token.
        }
        this.#clocksApart = clocksApart;

        const now = performance.now();
        const due = Math.max(this.#notBefore, this.#refused ? 0 : (this.#token?.renewAt ?? 0));
        // Nobody looks at a hidden page; it comes back with an event.
        const wanted = !document.hidden || this.#waiting.length > 0;
        if (wanted && now >= due) {
            this.#fetch();
        } else {
            this.#timer = setTimeout(() => this.#look(), wanted ? Math.min(due - now, LONGEST_SLEEP) : LONGEST_SLEEP);
        }
        this.dispatchEvent(new Event("change"));
    }

    async #fetch() {
        this.#fetching = true;
        const refused = this.#refused;
        const sent = performance.now();
        try {
            const answer = await fetch(refused ? `${this.#url}?refused` : this.#url, {
                cache: "no-store",
                signal: AbortSignal.timeout(FETCH_LIMIT),
            });
            if (!answer.ok) {
                throw new NotNow(answer.headers.get("Retry-After"));
            }
            const { access_token: value, expires_in: seconds } = await answer.json();
            if (typeof value !== "string" || value === "" || !(seconds > 0 && Number.isFinite(seconds))) {
                throw new NotNow(null);
            }
            this.#adopt(value, sent, seconds * 1_000, refused);
        } catch (error) {
            this.#failures += 1;
            const longest = Math.min(FIRST_BACKOFF * 2 ** (this.#failures - 1), LONGEST_BACKOFF);
            const wait = longest * (0.5 + Math.random() / 2);
            this.#notBefore = performance.now() + Math.max(wait, error.retryAfter ?? 0);
        } finally {
            this.#fetching = false;
            this.#look();
        }
    }

    #adopt(value, sent, life, refused) {
        this.#failures = 0;
        const renewed = value !== this.#lastValue;
        if (this.#refused && !refused && !renewed) {
            return; // It was refused while the server, which did not know, was asked: so ask again, and say so.
        }
        this.#vouchedFor = refused && !renewed;
        this.#refused = false;
        this.#lastValue = value;
        this.#token = {
            value,
            renewAt: sent + Math.max(life - RENEWED_BEFORE_END, life / 2),
            usableUntil: sent + life - Math.min(KEPT_BACK, life / 10),
        };
        this.#notBefore = performance.now() + SHORTEST_PAUSE;
        for (const resolve of this.#waiting.splice(0)) {
            resolve(value);
        }
        if (renewed) {
            this.dispatchEvent(new Event("renewed"));
        }
    }
}

// The server has no token, or answered something else than one.
class NotNow extends Error {
    constructor(retryAfter) {
        super("no token");
        const seconds = Number.parseInt(retryAfter, 10);
        // Jitter on top, so that pages that were refused together do not come back together.
        this.retryAfter = Number.isFinite(seconds) ? Math.min(seconds, 60) * 1_000 * (1 + Math.random() / 5) : undefined;
    }
}
