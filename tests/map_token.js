// What the page's token module promises, in a time of its own: run in a browser by map_page.rs. Each promise gets a world
// with a clock that stands still until it is told to go on, and a server whose answers are scripted.

class World {
    now = 1_000;
    wall = 0;
    fetches = []; // { at, url }
    answer = () => token("first", 299);
    delay = 50;
    #timers = new Map();
    #next = 1;
    #hidden = false;
    #real = {};

    constructor() {
        this.#replace(performance, "now", () => this.now);
        this.#replace(Date, "now", () => this.wall + this.now);
        this.#replace(window, "setTimeout", (call, wait) => {
            this.#timers.set(this.#next, { at: this.now + wait, call });
            return this.#next++;
        });
        this.#replace(window, "clearTimeout", (timer) => this.#timers.delete(timer));
        this.#replace(AbortSignal, "timeout", (limit) => {
            const timeout = new AbortController();
            window.setTimeout(() => timeout.abort(), limit);
            return timeout.signal;
        });
        this.#replace(window, "fetch", (url, { signal }) => {
            this.fetches.push({ at: this.now, url });
            const answer = this.answer(this.fetches.length);
            return new Promise((resolve, reject) => {
                window.setTimeout(() => resolve(answer), this.delay);
                signal.addEventListener("abort", () => reject(signal.reason));
            });
        });
        Object.defineProperty(document, "hidden", { configurable: true, get: () => this.#hidden });
    }

    #replace(object, name, value) {
        this.#real[name] = [object, object[name]];
        object[name] = value;
    }

    end() {
        for (const [name, [object, value]] of Object.entries(this.#real)) {
            object[name] = value;
        }
        delete document.hidden;
    }

    // Lets so many milliseconds go by.
    async go(milliseconds) {
        const end = this.now + milliseconds;
        for (;;) {
            await settle();
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

    async hide(hidden) {
        this.#hidden = hidden;
        document.dispatchEvent(new Event("visibilitychange"));
        await settle();
    }

    // Seconds from the first fetch to each.
    get times() {
        return this.fetches.map(({ at }) => (at - this.fetches[0].at) / 1_000);
    }
}

// Lets all that waits for nothing but its turn have it.
async function settle() {
    for (let turn = 0; turn < 50; turn++) {
        await null;
    }
}

function json(status, body, headers = {}) {
    return { ok: status === 200, headers: new Headers(headers), json: async () => body };
}

const token = (value, seconds) => json(200, { access_token: value, expires_in: seconds, token_type: "Bearer" });
const refusal = (seconds) => json(503, null, { "Retry-After": String(seconds) });

function check(holds, ...what) {
    if (!holds) {
        throw new Error(what.map((part) => JSON.stringify(part)).join(" "));
    }
}

const near = (a, b) => Math.abs(a - b) < 0.2;

const promises = {
    async a_token_is_renewed_30_s_before_its_end(world, Tokens) {
        world.answer = (n) => token(`token ${n}`, 299);
        new Tokens("/token");
        await world.go(900_000);
        check(world.times.length === 4 && world.times.every((at, n) => near(at, 269 * n)), world.times);
    },

    async a_short_life_is_renewed_at_its_half_and_a_tiny_one_makes_no_hot_loop(world, Tokens) {
        world.answer = (n) => token(`token ${n}`, 20);
        new Tokens("/token");
        await world.go(39_000);
        check(near(world.times[1], 10) && near(world.times[3], 30), world.times);
        world.answer = (n) => token(`token ${n}`, 1);
        await world.go(1_000);
        const before = world.fetches.length;
        await world.go(60_000);
        check(world.fetches.length - before <= 61, world.times);
    },

    async a_life_counts_from_before_its_request_was_sent(world, Tokens) {
        world.delay = 8_000;
        world.answer = (n) => (n === 1 ? token("first", 20) : refusal(60));
        const tokens = new Tokens("/token");
        await world.go(8_001);
        world.delay = 50;
        // A tenth is kept back.
        await world.go(9_900);
        check((await tokens.usable()) === "first");
        await world.go(200);
        let got;
        tokens.usable().then((value) => (got = value));
        await world.go(0);
        check(got === undefined && tokens.inTrouble, "a token past its end");
    },

    async whoever_asks_without_a_token_gets_the_one_that_is_on_its_way(world, Tokens) {
        const tokens = new Tokens("/token");
        const got = Promise.all(Array.from({ length: 100 }, () => tokens.usable()));
        await world.go(100);
        check((await got).every((value) => value === "first"));
        check(world.fetches.length === 1, world.times);
    },

    async failures_back_off_and_retry_after_is_obeyed(world, Tokens) {
        world.answer = () => json(502, null);
        const tokens = new Tokens("/token");
        await world.go(120_000);
        check(tokens.inTrouble);
        check(world.fetches.length >= 6 && world.fetches.length <= 11, world.times);
        world.answer = () => refusal(50);
        await world.go(35_000);
        const before = world.fetches.length;
        await world.go(49_000);
        const soon = world.fetches.length;
        await world.go(60_000);
        check(soon - before <= 1 && world.fetches.length > soon, world.times);
        world.answer = () => token("late", 299);
        await world.go(60_000);
        check(!tokens.inTrouble && (await tokens.usable()) === "late");
    },

    async after_a_success_the_first_failure_is_tried_again_soon(world, Tokens) {
        world.answer = (n) => (n % 6 === 0 ? token(`token ${n}`, 20) : json(502, null));
        new Tokens("/token");
        await world.go(120_000);
        const [success, failure, again] = world.times.slice(5);
        check(near(failure - success, 10) && again - failure < 1.2, world.times);
    },

    async a_failed_renewal_leaves_the_token_in_use_and_the_reader_in_peace(world, Tokens) {
        world.answer = (n) => (n === 1 ? token("first", 299) : refusal(1));
        const tokens = new Tokens("/token");
        await world.go(290_000);
        check(world.fetches.length > 1 && !tokens.inTrouble && (await tokens.usable()) === "first", world.times);
        await world.go(8_000);
        check(tokens.inTrouble);
    },

    async what_is_no_token_is_not_taken_for_one(world, Tokens) {
        const bad = [
            { error: "no" }, { access_token: "x" }, { access_token: "x", expires_in: "NaN" }, { access_token: "x", expires_in: 0 },
            { access_token: "x", expires_in: -5 }, { access_token: "", expires_in: 299 }, { access_token: 7, expires_in: 299 },
            { access_token: "x", expires_in: null },
        ];
        world.answer = (n) => (n <= bad.length ? json(200, bad[n - 1]) : token("good", 299));
        const tokens = new Tokens("/token");
        const got = tokens.usable();
        await world.go(300_000);
        check((await got) === "good" && world.fetches.length === bad.length + 1, world.times);
    },

    async a_wrong_wall_clock_changes_nothing(world, Tokens) {
        world.wall = -50 * 365 * 86_400_000;
        world.answer = (n) => token(`token ${n}`, 299);
        new Tokens("/token");
        await world.go(560_000);
        check(world.times.length === 3, world.times);
        world.wall -= 3_600_000; // set back
        await world.go(200_000);
        check(world.times.length === 3, world.times);
    },

    async a_machine_that_slept_asks_for_a_token_when_it_wakes(world, Tokens) {
        world.answer = (n) => token(`token ${n}`, 299);
        new Tokens("/token");
        await world.go(60_000);
        world.wall += 3_600_000; // and the monotonic clock stood still
        await world.go(5_001);
        check(world.fetches.length === 2, world.times);
        await world.go(60_000);
        check(world.fetches.length === 2, world.times);
    },

    async a_hidden_page_asks_for_nothing_and_for_a_token_as_soon_as_it_is_shown(world, Tokens) {
        world.answer = (n) => token(`token ${n}`, 299);
        const tokens = new Tokens("/token");
        await world.go(60_000);
        await world.hide(true);
        await world.go(3_600_000);
        check(world.fetches.length === 1, world.times);
        await world.hide(false);
        await world.go(100);
        check(world.fetches.length === 2 && (await tokens.usable()) === "token 2", world.times);
    },

    async a_page_that_is_opened_out_of_sight_gets_the_token_that_it_waits_for_at_once(world, Tokens) {
        await world.hide(true);
        const tokens = new Tokens("/token");
        let got;
        tokens.usable().then((value) => (got = value));
        await world.go(100);
        check(got === "first", world.times);
    },

    async a_server_that_says_nothing_is_asked_again(world, Tokens) {
        world.delay = 3_600_000;
        const tokens = new Tokens("/token");
        await world.go(19_900);
        check(world.fetches.length === 1 && !tokens.inTrouble, world.times);
        world.delay = 50;
        await world.go(1_200);
        check(world.fetches.length === 2 && world.times[1] > 20, world.times);
        check((await tokens.usable()) === "first");
    },

    async a_refused_token_is_replaced_at_once_and_a_late_refusal_costs_nothing(world, Tokens) {
        world.answer = (n) => token(`token ${n}`, 299);
        const tokens = new Tokens("/token");
        await world.go(10_000);
        check(tokens.refused("token 1") && tokens.refused("token 1"));
        await world.go(100);
        check(world.fetches.length === 2 && world.fetches[1].url === "/token?refused", world.fetches);
        check((await tokens.usable()) === "token 2" && !tokens.inTrouble);
        check(!tokens.refused("token 1"), "the request can be repeated");
        await world.go(60_000);
        check(world.fetches.length === 2, world.times);
    },

    async a_token_that_is_refused_during_its_renewal_is_not_taken_for_a_new_one(world, Tokens) {
        world.answer = (n) => token(n < 3 ? "first" : "second", 299);
        const tokens = new Tokens("/token");
        await world.go(269_020); // The renewal is on its way.
        check(world.fetches.length === 2 && tokens.refused("first"), world.times);
        let got;
        tokens.usable().then((value) => (got = value));
        await world.go(60);
        check(got === undefined, "the refused token again");
        check(world.fetches[2]?.url === "/token?refused", world.fetches);
        await world.go(100);
        check(got === "second" && world.fetches.length === 3, world.fetches);
    },

    async a_wall_of_refusals_is_no_wall_of_requests_and_the_reader_hears_of_it(world, Tokens) {
        world.answer = (n) => token(`token ${n}`, 299);
        const tokens = new Tokens("/token");
        await world.go(1_000);
        for (let second = 0; second < 600; second++) {
            tokens.usable().then((value) => tokens.refused(value));
            await world.go(1_000);
        }
        check(world.fetches.length <= 15, world.times);
        check(tokens.inTrouble);
        tokens.accepted();
        check(!tokens.inTrouble);
    },

    async a_token_that_the_server_stands_by_is_used_whatever_one_odd_tile_says(world, Tokens) {
        const tokens = new Tokens("/token");
        await world.go(1_000);
        tokens.refused("first");
        await world.go(100);
        tokens.refused("first");
        let got;
        tokens.usable().then((value) => (got = value));
        await world.go(0);
        check(got === "first", "others need not wait");
        await world.go(60_000);
        check(world.fetches.length <= 4, world.times);
    },
};

// What is wrong with a promise; nothing if it holds.
async function fault(name) {
    const { Tokens } = await import("/token.js");
    const world = new World();
    try {
        await promises[name](world, Tokens);
        return null;
    } catch (error) {
        return error.message;
    } finally {
        world.end();
    }
}
