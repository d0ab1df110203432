//! Randomised simulation of a manager over thousands of hours, in paused time with an in-process source. Each seed is
//! one scenario, and the invariants are checked at every step.
//!
//! Fetches fail, hang, panic, and return tokens of every lifetime. Callers arrive, wait and give up. Tokens are
//! revoked early, clocks jump, and runtimes shut down.
//!
//! `SIMULATION_SEEDS=1000000 cargo nextest run --release simulation::` runs more seeds than usual.
//! `SIMULATION_SEED=17` runs a single one.

use std::{
    collections::{HashMap, HashSet},
    panic::catch_unwind,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Waker},
    time::Duration,
};

use async_trait::async_trait;
use fastrand::Rng;
use osdatahub_auth::{AccessToken, Error, ErrorKind, TokenManager, TokenSource};
use test_support::{KINDS, secs};
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinSet,
    time::{Instant, advance, sleep, timeout},
};

const SEEDS: u64 = 10_000;
const THREADS: usize = 2;

/// A manager gives up a fetch after this time.
const FETCH_LIMIT: Duration = secs(30);
/// The longest wait that can be pending: a `Retry-After`, or the rejection throttle.
const MAX_WAIT: Duration = secs(60);
const ACQUIRE_TIMEOUT: Duration = secs(10);
/// Minimum gaps between the end of one fetch and the start of the next.
const MIN_GAP_AFTER_SUCCESS: Duration = secs(1);
const MIN_GAP_AFTER_FAILURE: Duration = Duration::from_millis(500);

#[test]
fn every_story_keeps_the_promises() {
    let default_hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload_as_str() != Some(SCRIPTED_PANIC) {
            default_hook(info);
        }
    }));
    if let Some(seed) = env_number("SIMULATION_SEED") {
        scenario(seed);
        return;
    }
    let seeds = env_number("SIMULATION_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let seconds = AtomicU64::new(0);
    std::thread::scope(|threads| {
        for _ in 0..THREADS {
            threads.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    let Ok(duration) = catch_unwind(|| scenario(seed)) else {
                        panic!("to reproduce, run with SIMULATION_SEED={seed}");
                    };
                    seconds.fetch_add(duration.as_secs(), Ordering::Relaxed);
                }
            });
        }
    });
    println!(
        "{seeds} scenarios, {} simulated hours in total",
        seconds.into_inner() / 3_600
    );
}

fn env_number(variable: &str) -> Option<u64> {
    Some(std::env::var(variable).ok()?.parse().expect(variable))
}

/// Runs one seed: up to three runtimes with faults of every kind, then a last one without any. Returns the simulated
/// duration.
fn scenario(seed: u64) -> Duration {
    // The manager draws its jitter from this thread's generator.
    fastrand::seed(seed);
    let mut rng = Rng::with_seed(seed);
    let world = Arc::new(World::new(&mut rng));
    let tokens = TokenManager::builder(Source(world.clone())).build().unwrap();
    let mut clock = Duration::ZERO;
    for _ in 0..rng.usize(1..=3) {
        let runtime = runtime();
        clock = runtime.block_on(faulty_phase(clock, &world, &tokens, &mut rng));
        world.truth().runtime_ends = true;
        drop(runtime);
        world.truth().runtime_ends = false;
    }
    let runtime = runtime();
    runtime.block_on(recovery(clock, &world, &tokens, &mut rng))
}

fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

/// Advances a new runtime's clock to where the last one stopped. Returns the start of the scenario.
async fn resume_clock(clock: Duration, world: &World) -> Instant {
    let start = *world.0.lock().unwrap().start.get_or_insert_with(Instant::now);
    let behind = (start + clock).saturating_duration_since(Instant::now());
    advance(behind).await;
    start
}

async fn faulty_phase(clock: Duration, world: &Arc<World>, tokens: &TokenManager, rng: &mut Rng) -> Duration {
    let start = resume_clock(clock, world).await;
    let warm = rng.bool().then(|| tokens.keep_warm());
    let callers = callers(world, tokens, rng);
    let end = Instant::now() + Duration::from_millis(rng.u64(100..900_000));
    while Instant::now() < end {
        sleep(Duration::from_millis(rng.u64(1..60_000))).await;
        match rng.u8(0..4) {
            // The clock jumps and no task runs in between, as on an overloaded machine.
            0 => {
                let jump = Duration::from_millis(rng.u64(1..400_000));
                world.truth().jumped += jump;
                advance(jump).await;
            }
            1 => world.truth().revoke_all(),
            _ => {}
        }
    }
    drop(warm);
    stop_callers(callers).await;
    start.elapsed()
}

async fn recovery(clock: Duration, world: &Arc<World>, tokens: &TokenManager, rng: &mut Rng) -> Duration {
    let start = resume_clock(clock, world).await;
    world.truth().healthy = true;
    let mut callers = callers(world, tokens, rng);
    // At least one caller asks all the time.
    callers.spawn({
        let (world, tokens, rng) = (world.clone(), tokens.clone(), rng.fork());
        async move { caller(&world, &tokens, rng, Duration::from_millis(200)).await }
    });
    // At worst, a fetch from the faulty phase hangs, the longest wait follows, and then comes one attempt.
    sleep(FETCH_LIMIT + MAX_WAIT + secs(2)).await;
    for _ in 0..100 {
        let token = tokens.token().await.expect("the manager should have recovered by now");
        let revoked = world.truth().is_revoked(&token);
        assert!(!revoked, "the manager should have replaced the revoked token by now");
        sleep(secs(3)).await;
    }
    stop_callers(callers).await;
    start.elapsed()
}

fn callers(world: &Arc<World>, tokens: &TokenManager, rng: &mut Rng) -> JoinSet<()> {
    let mut callers = JoinSet::new();
    for _ in 0..rng.usize(0..6) {
        let (world, tokens, mut rng) = (world.clone(), tokens.clone(), rng.fork());
        let pause = Duration::from_millis(rng.u64(200..30_000));
        callers.spawn(async move { caller(&world, &tokens, rng, pause).await });
    }
    callers
}

/// Aborts the callers. A failed assertion in one of them fails the scenario.
async fn stop_callers(mut callers: JoinSet<()>) {
    callers.abort_all();
    while let Some(ended) = callers.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

/// A caller: asks for tokens, uses them, and rejects those that the API refuses.
async fn caller(world: &World, tokens: &TokenManager, mut rng: Rng, pause: Duration) {
    loop {
        sleep(pause.mul_f64(rng.f64() * 2.0)).await;
        let asked = Instant::now();
        let jumped = world.truth().jumped;
        let current = tokens.current();
        let outcome = match rng.u8(0..8) {
            // A caller that gives up early.
            0 => timeout(pause.mul_f64(rng.f64()), tokens.token()).await.ok(),
            1 => Some(tokens.token_lasting(Duration::from_millis(rng.u64(0..400_000))).await),
            _ if current.is_some() => {
                let mut context = Context::from_waker(Waker::noop());
                let polled = pin!(tokens.token()).poll(&mut context);
                assert!(polled.is_ready(), "a caller waits although a usable token exists");
                continue;
            }
            _ => Some(tokens.token().await),
        };
        // A clock jump does not count: no caller can give up while no task runs. Afterwards it gets a second more.
        let jumped = world.truth().jumped.saturating_sub(jumped);
        let waited = asked.elapsed().saturating_sub(jumped);
        let limit = ACQUIRE_TIMEOUT + if jumped.is_zero() { Duration::ZERO } else { secs(1) };
        assert!(waited <= limit + Duration::from_millis(2), "waited for {waited:?}");
        if let Some(Err(error)) = &outcome
            && current.is_none()
            && error.is_transient()
            && asked.elapsed() < ACQUIRE_TIMEOUT
        {
            let next = asked.elapsed() + error.retry_after().expect("the time of the next attempt");
            assert!(
                next > ACQUIRE_TIMEOUT,
                "failed, although the next attempt was due in time: {error:?}"
            );
        }
        if let Some(Ok(token)) = outcome.or(current.map(Ok)) {
            let refused = world.truth().use_token(&token);
            if refused {
                tokens.reject(&token);
            }
        }
    }
}

/// The true state of the API and the endpoint, whatever the manager believes.
struct World(Mutex<Truth>);

struct Truth {
    rng: Rng,
    start: Option<Instant>,
    healthy: bool,
    /// The expiry of each token.
    tokens: HashMap<String, Instant>,
    revoked: HashSet<String>,
    fetches: u64,
    /// Permanent failures since the last token.
    permanent_failures: u32,
    in_flight: bool,
    runtime_ends: bool,
    /// Total of all clock jumps.
    jumped: Duration,
    /// The end of the last fetch, and the minimum gap before the next.
    last_fetch: Option<(Instant, Duration)>,
}

impl World {
    /// Ignores poisoning: a failed assertion poisons the lock, and only the first failure is of interest.
    fn truth(&self) -> MutexGuard<'_, Truth> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new(rng: &mut Rng) -> Self {
        Self(Mutex::new(Truth {
            rng: rng.fork(),
            start: None,
            healthy: false,
            tokens: HashMap::new(),
            revoked: HashSet::new(),
            fetches: 0,
            permanent_failures: 0,
            in_flight: false,
            runtime_ends: false,
            jumped: Duration::ZERO,
            last_fetch: None,
        }))
    }
}

/// The planned result of a fetch.
enum Plan {
    Token {
        lifetime: Duration,
        age: Duration,
    },
    /// The same token that the fetch should replace.
    Same,
    Fail(Error),
    Panic,
}

const SCRIPTED_PANIC: &str = "scripted panic";

impl Truth {
    fn plan(&mut self) -> (Duration, Plan) {
        if self.healthy {
            let token = Plan::Token {
                lifetime: secs(299),
                age: Duration::ZERO,
            };
            return (Duration::from_millis(50), token);
        }
        let rng = &mut self.rng;
        let delays = [0, 0, 1, 50, 50, 400, 4_000, 12_000, 29_000, 1_000_000];
        let delay = Duration::from_millis(delays[rng.usize(..delays.len())]);
        let plan = match rng.u8(0..10) {
            0..5 => {
                let lifetimes = [0, 10, 300, 1_000, 3_000, 20_000, 60_000, 299_000, 299_000, u64::MAX];
                let lifetime = Duration::from_millis(lifetimes[rng.usize(..lifetimes.len())]);
                let age = if rng.u8(0..4) == 0 {
                    lifetime.mul_f64(rng.f64())
                } else {
                    Duration::ZERO
                };
                Plan::Token { lifetime, age }
            }
            5 => Plan::Same,
            6 => Plan::Panic,
            _ => {
                let error = Error::new(KINDS[rng.usize(..KINDS.len())], "scripted");
                Plan::Fail(match rng.u8(0..3) {
                    0 => error.with_retry_after(secs(rng.u64(0..100))),
                    _ => error,
                })
            }
        };
        (delay, plan)
    }

    fn fetch_begins(&mut self) -> (u64, Duration, Plan) {
        assert!(!self.in_flight, "two fetches run at once");
        if let Some((ended, min_gap)) = self.last_fetch {
            let gap = ended.elapsed();
            assert!(
                gap >= min_gap,
                "a fetch started {gap:?} after the last one; the minimum is {min_gap:?}"
            );
        }
        self.in_flight = true;
        self.fetches += 1;
        let (delay, plan) = self.plan();
        (self.fetches, delay, plan)
    }

    fn fetch_ends(&mut self, min_gap: Duration) {
        self.in_flight = false;
        // A fetch that was cut off by its runtime's shutdown counts neither as a success nor as a failure.
        self.last_fetch = (!self.runtime_ends).then(|| (Instant::now(), min_gap));
    }

    /// Counts a permanent failure. Transient ones in between must not shorten its backoff.
    fn permanent_backoff(&mut self) -> Duration {
        let backoff = secs(5) * 2_u32.pow(self.permanent_failures.min(3));
        self.permanent_failures += 1;
        backoff.min(secs(30))
    }

    fn issue(&mut self, token: &AccessToken) {
        let expires = Instant::now() + token.remaining();
        self.tokens.insert(token.expose_secret().to_owned(), expires);
    }

    fn revoke_all(&mut self) {
        self.revoked.extend(self.tokens.keys().cloned());
    }

    fn is_revoked(&self, token: &AccessToken) -> bool {
        self.revoked.contains(token.expose_secret())
    }

    /// Whether the API refuses the token. Panics if the token has expired, because it was handed out a moment ago.
    fn use_token(&self, token: &AccessToken) -> bool {
        let expires = self.tokens[token.expose_secret()];
        assert!(Instant::now() < expires, "an expired token was handed out");
        self.is_revoked(token)
    }
}

struct Source(Arc<World>);

/// Guard for one fetch. On drop it records the end, even if the fetch panicked or was cancelled.
struct InFlight<'a> {
    world: &'a World,
    min_gap: Duration,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.world.truth().fetch_ends(self.min_gap);
    }
}

#[async_trait]
impl TokenSource for Source {
    async fn fetch(&self, replaces: Option<&AccessToken>) -> Result<AccessToken, Error> {
        let world = &*self.0;
        let (number, delay, plan) = world.truth().fetch_begins();
        let mut in_flight = InFlight {
            world,
            min_gap: MIN_GAP_AFTER_FAILURE,
        };
        let started = Instant::now();
        sleep(delay).await;
        match plan {
            Plan::Token { lifetime, age } => {
                let token = AccessToken::new(format!("token-{number}"), lifetime)?.with_age(age);
                let token = token.with_age(started.elapsed());
                world.truth().issue(&token);
                world.truth().permanent_failures = 0;
                if token.remaining() > secs(1) {
                    in_flight.min_gap = MIN_GAP_AFTER_SUCCESS;
                }
                Ok(token)
            }
            Plan::Same => {
                world.truth().permanent_failures = 0;
                replaces
                    .cloned()
                    .ok_or_else(|| Error::new(ErrorKind::Unavailable, "none"))
            }
            Plan::Fail(error) => {
                if !error.is_transient() {
                    in_flight.min_gap = world.truth().permanent_backoff();
                }
                Err(error)
            }
            Plan::Panic => {
                drop(in_flight);
                panic!("{SCRIPTED_PANIC}")
            }
        }
    }
}
