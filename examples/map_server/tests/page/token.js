// Tests of the page's token cache, page/token.js. main.rs runs them in the browser. Each test has a sandbox with a
// fake clock, which only moves when the test advances it, and scripted responses from the server.

// Replaces the browser's clocks, timers, `fetch` and `document.hidden`, until `restore` is called.
class Sandbox {
    now = 1_000; // the monotonic clock, in ms
    wallClockOffset = 0; // the wall clock minus the monotonic clock, in ms
    fetches = []; // { at, url }
    respond = () => token("first", 299); // Script of the server. It gets the number of the fetch, counted from 1.
    responseDelay = 50;
    #timers = new Map();
    #nextTimer = 1;
    #hidden = false;
    #originals = {};

    constructor() {
        this.#replace(performance, "now", () => this.now);
        this.#replace(Date, "now", () => this.wallClockOffset + this.now);
        this.#replace(window, "setTimeout", (call, wait) => {
            this.#timers.set(this.#nextTimer, { at: this.now + wait, call });
            return this.#nextTimer++;
        });
        this.#replace(window, "clearTimeout", (timer) => this.#timers.delete(timer));
        this.#replace(AbortSignal, "timeout", (limit) => {
            const timeout = new AbortController();
            window.setTimeout(() => timeout.abort(), limit);
            return timeout.signal;
        });
        this.#replace(window, "fetch", (url, { signal }) => {
            this.fetches.push({ at: this.now, url });
            const response = this.respond(this.fetches.length);
            return new Promise((resolve, reject) => {
                window.setTimeout(() => resolve(response), this.responseDelay);
                signal.addEventListener("abort", () => reject(signal.reason));
            });
        });
        Object.defineProperty(document, "hidden", { configurable: true, get: () => this.#hidden });
    }

    #replace(object, name, value) {
        this.#originals[name] = [object, object[name]];
        object[name] = value;
    }

    restore() {
        for (const [name, [object, value]] of Object.entries(this.#originals)) {
            object[name] = value;
        }
        delete document.hidden;
    }

    // Advances both clocks by this many milliseconds, and runs the timers that fire meanwhile.
    async advance(milliseconds) {
        const end = this.now + milliseconds;
        for (;;) {
            await runMicrotasks();
            const due = [...this.#timers].filter(([, { at }]) => at <= end).sort(([, a], [, b]) => a.at - b.at);
            if (due.length === 0) {
                break;
            }
            const [timer, { at, call }] = due[0];
            this.#timers.delete(timer);
            this.now = Math.max(this.now, at);
            call();
        }
        this.now = end;
    }

    async setHidden(hidden) {
        this.#hidden = hidden;
        document.dispatchEvent(new Event("visibilitychange"));
        await runMicrotasks();
    }

    // Time of each fetch, in seconds after the first.
    get fetchTimes() {
        return this.fetches.map(({ at }) => (at - this.fetches[0].at) / 1_000);
    }
}

// Runs promise callbacks that are ready, and those that they make ready, up to 50 rounds.
async function runMicrotasks() {
    for (let round = 0; round < 50; round++) {
        await null;
    }
}

function json(status, body, headers = {}) {
    return { ok: status === 200, headers: new Headers(headers), json: async () => body };
}

const token = (value, seconds) => json(200, { access_token: value, expires_in: seconds, token_type: "Bearer" });
const unavailable = (seconds) => json(503, null, { "Retry-After": String(seconds) });

function assert(holds, ...details) {
    if (!holds) {
        throw new Error(details.map((part) => JSON.stringify(part)).join(" "));
    }
}

const isNear = (a, b) => Math.abs(a - b) < 0.2;

const tests = {
    async a_token_is_renewed_30_s_before_expiry(sandbox, Tokens) {
        sandbox.respond = (n) => token(`token ${n}`, 299);
        new Tokens("/token");
        await sandbox.advance(900_000);
        const times = sandbox.fetchTimes;
        assert(times.length === 4 && times.every((at, n) => isNear(at, 269 * n)), times);
    },

    async a_short_lived_token_is_renewed_at_half_its_lifetime_without_a_hot_loop(sandbox, Tokens) {
        sandbox.respond = (n) => token(`token ${n}`, 20);
        new Tokens("/token");
        await sandbox.advance(39_000);
        assert(isNear(sandbox.fetchTimes[1], 10) && isNear(sandbox.fetchTimes[3], 30), sandbox.fetchTimes);
        sandbox.respond = (n) => token(`token ${n}`, 1);
        await sandbox.advance(1_000);
        const before = sandbox.fetches.length;
        await sandbox.advance(60_000);
        assert(sandbox.fetches.length - before <= 61, sandbox.fetchTimes);
    },

    async a_lifetime_counts_from_before_the_request_was_sent(sandbox, Tokens) {
        sandbox.responseDelay = 8_000;
        sandbox.respond = (n) => (n === 1 ? token("first", 20) : unavailable(60));
        const tokens = new Tokens("/token");
        await sandbox.advance(8_001);
        sandbox.responseDelay = 50;
        // The expiry margin is a tenth of the lifetime.
        await sandbox.advance(9_900);
        assert((await tokens.usable()) === "first");
        await sandbox.advance(200);
        let result;
        tokens.usable().then((value) => (result = value));
        await sandbox.advance(0);
        assert(result === undefined && tokens.inTrouble, "an expired token was handed out");
    },

    async callers_without_a_token_share_one_fetch(sandbox, Tokens) {
        const tokens = new Tokens("/token");
        const results = Promise.all(Array.from({ length: 100 }, () => tokens.usable()));
        await sandbox.advance(100);
        assert((await results).every((value) => value === "first"));
        assert(sandbox.fetches.length === 1, sandbox.fetchTimes);
    },

    async failures_back_off_and_retry_after_is_obeyed(sandbox, Tokens) {
        sandbox.respond = () => json(502, null);
        const tokens = new Tokens("/token");
        await sandbox.advance(120_000);
        assert(tokens.inTrouble);
        assert(sandbox.fetches.length >= 6 && sandbox.fetches.length <= 11, sandbox.fetchTimes);
        sandbox.respond = () => unavailable(50);
        await sandbox.advance(35_000);
        const before = sandbox.fetches.length;
        await sandbox.advance(49_000);
        const soon = sandbox.fetches.length;
        await sandbox.advance(60_000);
        assert(soon - before <= 1 && sandbox.fetches.length > soon, sandbox.fetchTimes);
        sandbox.respond = () => token("late", 299);
        await sandbox.advance(60_000);
        assert(!tokens.inTrouble && (await tokens.usable()) === "late");
    },

    async a_success_resets_the_backoff(sandbox, Tokens) {
        sandbox.respond = (n) => (n % 6 === 0 ? token(`token ${n}`, 20) : json(502, null));
        new Tokens("/token");
        await sandbox.advance(120_000);
        const [success, failure, again] = sandbox.fetchTimes.slice(5);
        assert(isNear(failure - success, 10) && again - failure < 1.2, sandbox.fetchTimes);
    },

    async a_failed_renewal_leaves_a_usable_token_in_use_and_the_user_undisturbed(sandbox, Tokens) {
        sandbox.respond = (n) => (n === 1 ? token("first", 299) : unavailable(1));
        const tokens = new Tokens("/token");
        await sandbox.advance(290_000);
        assert(sandbox.fetches.length > 1, sandbox.fetchTimes);
        assert(!tokens.inTrouble && (await tokens.usable()) === "first", sandbox.fetchTimes);
        await sandbox.advance(8_000);
        assert(tokens.inTrouble);
    },

    async a_malformed_response_is_not_treated_as_a_token(sandbox, Tokens) {
        const malformed = [
            { error: "no" },
            { access_token: "x" },
            { access_token: "x", expires_in: "NaN" },
            { access_token: "x", expires_in: 0 },
            { access_token: "x", expires_in: -5 },
            { access_token: "x", expires_in: null },
            { access_token: "", expires_in: 299 },
            { access_token: 7, expires_in: 299 },
        ];
        sandbox.respond = (n) => (n <= malformed.length ? json(200, malformed[n - 1]) : token("good", 299));
        const tokens = new Tokens("/token");
        const result = tokens.usable();
        await sandbox.advance(300_000);
        assert((await result) === "good" && sandbox.fetches.length === malformed.length + 1, sandbox.fetchTimes);
    },

    async a_wrong_wall_clock_changes_nothing(sandbox, Tokens) {
        sandbox.wallClockOffset = -50 * 365 * 86_400_000;
        sandbox.respond = (n) => token(`token ${n}`, 299);
        new Tokens("/token");
        await sandbox.advance(560_000);
        assert(sandbox.fetchTimes.length === 3, sandbox.fetchTimes);
        sandbox.wallClockOffset -= 3_600_000; // The user sets the clock back.
        await sandbox.advance(200_000);
        assert(sandbox.fetchTimes.length === 3, sandbox.fetchTimes);
    },

    async a_machine_that_was_suspended_fetches_a_token_when_it_wakes(sandbox, Tokens) {
        sandbox.respond = (n) => token(`token ${n}`, 299);
        new Tokens("/token");
        await sandbox.advance(60_000);
        sandbox.wallClockOffset += 3_600_000; // The monotonic clock stopped meanwhile.
        await sandbox.advance(5_001);
        assert(sandbox.fetches.length === 2, sandbox.fetchTimes);
        await sandbox.advance(60_000);
        assert(sandbox.fetches.length === 2, sandbox.fetchTimes);
    },

    async a_hidden_page_fetches_nothing_until_it_is_shown_again(sandbox, Tokens) {
        sandbox.respond = (n) => token(`token ${n}`, 299);
        const tokens = new Tokens("/token");
        await sandbox.advance(60_000);
        await sandbox.setHidden(true);
        await sandbox.advance(3_600_000);
        assert(sandbox.fetches.length === 1, sandbox.fetchTimes);
        await sandbox.setHidden(false);
        await sandbox.advance(100);
        assert(sandbox.fetches.length === 2 && (await tokens.usable()) === "token 2", sandbox.fetchTimes);
    },

    async a_page_opened_in_the_background_fetches_its_first_token_at_once(sandbox, Tokens) {
        await sandbox.setHidden(true);
        const tokens = new Tokens("/token");
        let result;
        tokens.usable().then((value) => (result = value));
        await sandbox.advance(100);
        assert(result === "first", sandbox.fetchTimes);
    },

    async a_fetch_without_a_response_is_given_up_and_repeated(sandbox, Tokens) {
        sandbox.responseDelay = 3_600_000;
        const tokens = new Tokens("/token");
        await sandbox.advance(19_900);
        assert(sandbox.fetches.length === 1 && !tokens.inTrouble, sandbox.fetchTimes);
        sandbox.responseDelay = 50;
        await sandbox.advance(1_200);
        assert(sandbox.fetches.length === 2 && sandbox.fetchTimes[1] > 20, sandbox.fetchTimes);
        assert((await tokens.usable()) === "first");
    },

    async a_refused_token_is_replaced_at_once_and_a_late_refusal_costs_nothing(sandbox, Tokens) {
        sandbox.respond = (n) => token(`token ${n}`, 299);
        const tokens = new Tokens("/token");
        await sandbox.advance(10_000);
        assert(tokens.refused("token 1") && tokens.refused("token 1"));
        await sandbox.advance(100);
        assert(sandbox.fetches.length === 2 && sandbox.fetches[1].url === "/token?refused", sandbox.fetches);
        assert((await tokens.usable()) === "token 2" && !tokens.inTrouble);
        assert(!tokens.refused("token 1"), "the request should be repeated at once with the new token");
        await sandbox.advance(60_000);
        assert(sandbox.fetches.length === 2, sandbox.fetchTimes);
    },

    async a_token_that_is_refused_during_its_renewal_is_not_adopted_again(sandbox, Tokens) {
        sandbox.respond = (n) => token(n < 3 ? "first" : "second", 299);
        const tokens = new Tokens("/token");
        await sandbox.advance(269_020); // The renewal is under way.
        assert(sandbox.fetches.length === 2 && tokens.refused("first"), sandbox.fetchTimes);
        let result;
        tokens.usable().then((value) => (result = value));
        await sandbox.advance(60);
        assert(result === undefined, "the refused token was handed out again");
        assert(sandbox.fetches[2]?.url === "/token?refused", sandbox.fetches);
        await sandbox.advance(100);
        assert(result === "second" && sandbox.fetches.length === 3, sandbox.fetches);
    },

    async repeated_refusals_are_throttled_and_the_user_is_told(sandbox, Tokens) {
        sandbox.respond = (n) => token(`token ${n}`, 299);
        const tokens = new Tokens("/token");
        await sandbox.advance(1_000);
        for (let second = 0; second < 600; second++) {
            tokens.usable().then((value) => tokens.refused(value));
            await sandbox.advance(1_000);
        }
        assert(sandbox.fetches.length <= 15, sandbox.fetchTimes);
        assert(tokens.inTrouble);
        tokens.accepted();
        assert(!tokens.inTrouble);
    },

    async a_token_that_the_server_confirmed_stays_in_use_although_one_tile_is_refused(sandbox, Tokens) {
        const tokens = new Tokens("/token");
        await sandbox.advance(1_000);
        tokens.refused("first");
        await sandbox.advance(100);
        tokens.refused("first");
        let result;
        tokens.usable().then((value) => (result = value));
        await sandbox.advance(0);
        assert(result === "first", "other requests should not wait");
        await sandbox.advance(60_000);
        assert(sandbox.fetches.length <= 4, sandbox.fetchTimes);
    },
};

// Runs one test. Resolves to the message of its failure, or to null if it passes.
async function run(name) {
    const { Tokens } = await import("/token.js");
    const sandbox = new Sandbox();
    try {
        await tests[name](sandbox, Tokens);
        return null;
    } catch (error) {
        return error.message;
    } finally {
        sandbox.restore();
    }
}
