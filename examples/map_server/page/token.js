// Token cache of the page: fetches a token ahead of time, renews it before expiry, and replaces one that the API
// refused.
//
// The lifetime counts from before the request was sent, on the monotonic clock, so a wrong wall clock has no effect.
// All times are in milliseconds.

// Renewal margin: a token is renewed this long before expiry, or at half of a short lifetime.
const RENEWAL_MARGIN = 30_000;
// Expiry margin: a token is not used this long before expiry, or in the last tenth of a short lifetime. A request
// that is sent with it must also arrive before expiry.
const EXPIRY_MARGIN = 5_000;
// Longer than the server may take, which probes the API for up to 5 s and waits for a token for up to 10 s.
const FETCH_TIMEOUT = 20_000;
// The first backoff after a failure, doubled after each further failure up to the maximum.
const FIRST_BACKOFF = 1_000;
const MAX_BACKOFF = 30_000;
// Minimum time after a successful fetch, so that a short lifetime causes no hot loop.
const MIN_INTERVAL = 1_000;
// Throttle while the API keeps refusing tokens: the minimum time between fetches, doubled up to the maximum.
const FIRST_THROTTLE = 5_000;
const MAX_THROTTLE = 60_000;
// A timer may stop while the machine is suspended, so no timer is set for longer than this.
const MAX_TIMER = 5_000;
// If the wall clock has advanced this much more than the monotonic clock, the machine was suspended.
const SUSPENDED_FOR = 2_000;

export class Tokens extends EventTarget {
    #url;
    #token = null; // { value, renewAt, usableUntil }
    #lastValue = null;
    #waiting = [];
    #fetching = false;
    #failures = 0;
    #notBefore = 0;
    #refused = false;
    #confirmed = false; // The server was told of a refusal and handed out the same token again.
    #repeatedlyRefused = false;
    #throttle = 0;
    #lastRefusal = -Infinity;
    #timer;
    #clockOffset = Date.now() - performance.now();

    constructor(url) {
        super();
        this.#url = url;
        for (const event of ["visibilitychange", "pageshow", "online", "focus"]) {
            (event === "visibilitychange" ? document : window).addEventListener(event, () => this.#schedule());
        }
        this.#schedule();
    }

    // A usable token: at once if there is one, otherwise as soon as it is available.
    async usable() {
        const token = this.#current() ?? new Promise((resolve) => this.#waiting.push(resolve));
        // After the push above, because a hidden page fetches only if a caller waits.
        this.#schedule();
        return token;
    }

    // Whether the page should tell the user: no token is available, or the API keeps refusing tokens.
    get inTrouble() {
        return this.#repeatedlyRefused || (this.#failures > 0 && this.#current() === null);
    }

    // Reports that the API accepted a token.
    accepted() {
        if (this.#repeatedlyRefused) {
            this.#repeatedlyRefused = false;
            this.dispatchEvent(new Event("change"));
        }
    }

    // Reports that the API refused this token. The server is then asked for another, and no caller gets this one
    // before that, unless the server confirmed it last time.
    //
    // Returns false if it is no longer the current token. The request can then be repeated at once.
    refused(value) {
        if (this.#refused || this.#current() === null) {
            return true; // A fetch is due or under way.
        }
        if (value !== this.#token.value) {
            return false;
        }
        const now = performance.now();
        // After the first refusal the server is asked at once. If the refusals go on, a newer token does not help, so
        // fetches are throttled.
        this.#repeatedlyRefused = now < this.#lastRefusal + 2 * this.#throttle;
        this.#notBefore = Math.max(this.#notBefore, now + (this.#repeatedlyRefused ? this.#throttle : 0));
        this.#throttle = this.#repeatedlyRefused ? Math.min(2 * this.#throttle, MAX_THROTTLE) : FIRST_THROTTLE;
        this.#lastRefusal = now;
        this.#refused = true;
        // If the server has probed the API and confirmed the token, other requests can still use it.
        if (!this.#confirmed) {
            this.#token = null;
        }
        this.#schedule();
        return true;
    }

    #current() {
        return performance.now() < (this.#token?.usableUntil ?? 0) ? this.#token.value : null;
    }

    // Fetches a token if one is due, and otherwise sets the timer.
    #schedule() {
        clearTimeout(this.#timer);
        if (this.#fetching) {
            return;
        }
        const clockOffset = Date.now() - performance.now();
        if (this.#token && clockOffset - this.#clockOffset > SUSPENDED_FOR) {
            this.#token.renewAt = 0; // The monotonic clock may have stopped. At worst, this costs one token.
        }
        this.#clockOffset = clockOffset;

        const now = performance.now();
        const due = Math.max(this.#notBefore, this.#refused ? 0 : (this.#token?.renewAt ?? 0));
        // A hidden page needs no token, and an event fires when it is shown again.
        const wanted = !document.hidden || this.#waiting.length > 0;
        if (wanted && now >= due) {
            this.#fetch();
        } else {
            this.#timer = setTimeout(() => this.#schedule(), wanted ? Math.min(due - now, MAX_TIMER) : MAX_TIMER);
        }
        this.dispatchEvent(new Event("change"));
    }

    async #fetch() {
        this.#fetching = true;
        const refused = this.#refused;
        const sent = performance.now();
        try {
            const response = await fetch(refused ? `${this.#url}?refused` : this.#url, {
                cache: "no-store",
                signal: AbortSignal.timeout(FETCH_TIMEOUT),
            });
            if (!response.ok) {
                throw new FetchError(response.headers.get("Retry-After"));
            }
            const { access_token: value, expires_in: seconds } = await response.json();
            if (typeof value !== "string" || value === "" || !(seconds > 0 && Number.isFinite(seconds))) {
                throw new FetchError(null);
            }
            this.#adopt(value, sent, seconds * 1_000, refused);
        } catch (error) {
            this.#failures += 1;
            const backoff = Math.min(FIRST_BACKOFF * 2 ** (this.#failures - 1), MAX_BACKOFF);
            const wait = backoff * (0.5 + Math.random() / 2);
            this.#notBefore = performance.now() + Math.max(wait, error.retryAfter ?? 0);
        } finally {
            this.#fetching = false;
            this.#schedule();
        }
    }

    #adopt(value, sent, lifetime, refused) {
        this.#failures = 0;
        const renewed = value !== this.#lastValue;
        if (this.#refused && !refused && !renewed) {
            return; // Refused during this fetch, so the server did not know. The next fetch tells it.
        }
        this.#confirmed = refused && !renewed;
        this.#refused = false;
        this.#lastValue = value;
        this.#token = {
            value,
            renewAt: sent + Math.max(lifetime - RENEWAL_MARGIN, lifetime / 2),
            usableUntil: sent + lifetime - Math.min(EXPIRY_MARGIN, lifetime / 10),
        };
        this.#notBefore = performance.now() + MIN_INTERVAL;
        for (const resolve of this.#waiting.splice(0)) {
            resolve(value);
        }
        if (renewed) {
            this.dispatchEvent(new Event("renewed"));
        }
    }
}

// Failed fetch: the server has no token, or its response contains none.
class FetchError extends Error {
    constructor(retryAfter) {
        super("no token");
        const seconds = Number.parseInt(retryAfter, 10);
        // Jitter on top, so that pages with the same `Retry-After` do not come back at the same time.
        this.retryAfter = Number.isFinite(seconds) ? Math.min(seconds, 60) * 1_000 * (1 + Math.random() / 5) : undefined;
    }
}
