//! Thousands of hours in the life of a manager, each seed another story: fetches that fail, hang, panic and bring
//! tokens of every life; callers that come, wait, give up; tokens revoked early; clocks that jump; runtimes that end.
//! In paused time, with a source inside the process. What must hold is checked at every step.
//!
//! `SIMULATION_SEEDS=1000000 cargo nextest run --release --test simulation` runs longer than usual, and
//! `SIMULATION_SEED=17` one story alone.

mod common;

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
use common::{KINDS, secs};
use fastrand::Rng;
use osdatahub_auth::{AccessToken, Error, ErrorKind, TokenManager, TokenSource};
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinSet,
    time::{Instant, advance, sleep, timeout},
};

const SEEDS: u64 = 10_000;
const THREADS: usize = 2;

/// A source is given up after this.
const FETCH_LIMIT: Duration = secs(30);
/// The longest of all that may be pending: a `Retry-After` or a rejection wait.
const LONGEST_WAIT: Duration = secs(60);
const ACQUIRE_TIMEOUT: Duration = secs(10);
/// How far the next fetch has to keep from the end of the last.
const A_SUCCESS: Duration = secs(1);
const A_FAILURE: Duration = Duration::from_millis(500);

#[test]
fn every_story_keeps_the_promises() {
    let silent = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload_as_str() != Some(SCRIPTED_PANIC) {
            silent(info);
        }
    }));
    if let Some(seed) = number("SIMULATION_SEED") {
        story(seed);
        return;
    }
    let seeds = number("SIMULATION_SEEDS").unwrap_or(SEEDS);
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
                    let Ok(lasted) = catch_unwind(|| story(seed)) else {
                        panic!("run it alone with SIMULATION_SEED={seed}");
                    };
                    seconds.fetch_add(lasted.as_secs(), Ordering::Relaxed);
                }
            });
        }
    });
    println!("{seeds} stories of {} hours altogether", seconds.into_inner() / 3_600);
}

fn number(variable: &str) -> Option<u64> {
    Some(std::env::var(variable).ok()?.parse().expect(variable))
}

/// One seed's story: some lives of a runtime, in which anything goes wrong, and one in which nothing does any more.
/// Returns how long it lasted.
fn story(seed: u64) -> Duration {
    // The manager draws from this thread's generator.
    fastrand::seed(seed);
    let mut rng = Rng::with_seed(seed);
    let world = Arc::new(World::new(&mut rng));
    let tokens = TokenManager::builder(Source(world.clone())).build().unwrap();
    let mut clock = Duration::ZERO;
    for _ in 0..rng.usize(1..=3) {
        let runtime = runtime();
        clock = runtime.block_on(faulty_life(clock, &world, &tokens, &mut rng));
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

/// Takes the clock on to where the last runtime left it. Returns when the story began.
async fn go_on_from(clock: Duration, world: &World) -> Instant {
    let start = *world.0.lock().unwrap().start.get_or_insert_with(Instant::now);
    let missing = (start + clock).saturating_duration_since(Instant::now());
    advance(missing).await;
    start
}

async fn faulty_life(clock: Duration, world: &Arc<World>, tokens: &TokenManager, rng: &mut Rng) -> Duration {
    let start = go_on_from(clock, world).await;
    let warm = rng.bool().then(|| tokens.keep_warm());
    let callers = callers(world, tokens, rng);
    let end = Instant::now() + Duration::from_millis(rng.u64(100..900_000));
    while Instant::now() < end {
        sleep(Duration::from_millis(rng.u64(1..60_000))).await;
        match rng.u8(0..4) {
            // Nobody runs for a while: the machine is overloaded, or the clock jumps.
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
    stop(callers).await;
    start.elapsed()
}

async fn recovery(clock: Duration, world: &Arc<World>, tokens: &TokenManager, rng: &mut Rng) -> Duration {
    let start = go_on_from(clock, world).await;
    world.truth().healthy = true;
    let mut callers = callers(world, tokens, rng);
    // A caller is always about.
    callers.spawn({
        let (world, tokens, rng) = (world.clone(), tokens.clone(), rng.fork());
        async move { caller(&world, &tokens, rng, Duration::from_millis(200)).await }
    });
    // A fetch that began in bad times may still hang; then the longest wait may be pending; then one attempt.
    sleep(FETCH_LIMIT + LONGEST_WAIT + secs(2)).await;
    for _ in 0..100 {
        let token = tokens.token().await.expect("it has recovered");
        let revoked = world.truth().is_revoked(&token);
        assert!(!revoked, "it has recovered from the revocation, too");
        sleep(secs(3)).await;
    }
    stop(callers).await;
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

/// Sends the callers away; what one of them found broken breaks the story.
async fn stop(mut callers: JoinSet<()>) {
    callers.abort_all();
    while let Some(ended) = callers.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

/// Asks for tokens, uses them, and tells the manager if the API refuses one.
async fn caller(world: &World, tokens: &TokenManager, mut rng: Rng, pause: Duration) {
    loop {
        sleep(pause.mul_f64(rng.f64() * 2.0)).await;
        let asked = Instant::now();
        let jumped = world.truth().jumped;
        let serving = tokens.current();
        let outcome = match rng.u8(0..8) {
            // One who loses patience.
            0 => timeout(pause.mul_f64(rng.f64()), tokens.token()).await.ok(),
            1 => Some(tokens.token_lasting(Duration::from_millis(rng.u64(0..400_000))).await),
            _ if serving.is_some() => {
                let mut context = Context::from_waker(Waker::noop());
                let polled = pin!(tokens.token()).poll(&mut context);
                assert!(polled.is_ready(), "a caller waits though a token can be used");
                continue;
            }
            _ => Some(tokens.token().await),
        };
        // While nobody runs nobody can give up.
        let waited = (asked.elapsed() + jumped).saturating_sub(world.truth().jumped);
        assert!(
            waited <= ACQUIRE_TIMEOUT + Duration::from_millis(2),
            "waited for {waited:?}"
        );
        if let Some(Ok(token)) = outcome.or(serving.map(Ok)) {
            let refused = world.truth().use_token(&token);
            if refused {
                tokens.reject(&token);
            }
        }
    }
}

/// What is true, whatever the manager believes.
struct World(Mutex<Truth>);

struct Truth {
    rng: Rng,
    start: Option<Instant>,
    healthy: bool,
    /// When each token expires.
    tokens: HashMap<String, Instant>,
    revoked: HashSet<String>,
    fetches: u64,
    in_flight: bool,
    runtime_ends: bool,
    /// How far the clock has jumped altogether.
    jumped: Duration,
    /// When the last fetch ended, and how long at least the next one has to keep away.
    last: Option<(Instant, Duration)>,
}

impl World {
    /// A story that has failed poisons it; the first failure is the one to hear of.
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
            in_flight: false,
            runtime_ends: false,
            jumped: Duration::ZERO,
            last: None,
        }))
    }
}

/// What a fetch will come to.
enum Plan {
    Token {
        life: Duration,
        age: Duration,
    },
    /// The token that it is to replace, once more.
    Same,
    Fail(Error),
    Panic,
}

const SCRIPTED_PANIC: &str = "scripted panic";

impl Truth {
    fn plan(&mut self) -> (Duration, Plan) {
        if self.healthy {
            let token = Plan::Token {
                life: secs(299),
                age: Duration::ZERO,
            };
            return (Duration::from_millis(50), token);
        }
        let rng = &mut self.rng;
        let delays = [0, 0, 1, 50, 50, 400, 4_000, 12_000, 29_000, 1_000_000];
        let delay = Duration::from_millis(delays[rng.usize(..delays.len())]);
        let plan = match rng.u8(0..10) {
            0..5 => {
                let lives = [0, 10, 300, 1_000, 3_000, 20_000, 60_000, 299_000, 299_000, u64::MAX];
                let life = Duration::from_millis(lives[rng.usize(..lives.len())]);
                let age = if rng.u8(0..4) == 0 {
                    life.mul_f64(rng.f64())
                } else {
                    Duration::ZERO
                };
                Plan::Token { life, age }
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
        assert!(!self.in_flight, "two fetches at once");
        if let Some((ended, distance)) = self.last {
            let passed = ended.elapsed();
            assert!(
                passed >= distance,
                "a fetch {passed:?} after the last, not {distance:?}"
            );
        }
        self.in_flight = true;
        self.fetches += 1;
        let (delay, plan) = self.plan();
        (self.fetches, delay, plan)
    }

    fn fetch_ends(&mut self, distance: Duration) {
        self.in_flight = false;
        // One that was cut off with its runtime is neither a success nor a failure.
        self.last = (!self.runtime_ends).then(|| (Instant::now(), distance));
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

    /// Whether the API refuses it. It must not have expired when it was handed out.
    fn use_token(&self, token: &AccessToken) -> bool {
        let expires = self.tokens[token.expose_secret()];
        assert!(Instant::now() < expires, "an expired token was handed out");
        self.is_revoked(token)
    }
}

struct Source(Arc<World>);

/// Ends a fetch when it is dropped, however that comes about.
struct InFlight<'a> {
    world: &'a World,
    distance: Duration,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.world.truth().fetch_ends(self.distance);
    }
}

#[async_trait]
impl TokenSource for Source {
    async fn fetch(&self, replaces: Option<&AccessToken>) -> Result<AccessToken, Error> {
        let world = &*self.0;
        let (number, delay, plan) = world.truth().fetch_begins();
        let mut in_flight = InFlight {
            world,
            distance: A_FAILURE,
        };
        let made = Instant::now();
        sleep(delay).await;
        match plan {
            Plan::Token { life, age } => {
                let token = AccessToken::new(format!("token-{number}"), life)?.with_age(age);
                let token = token.with_age(made.elapsed());
                world.truth().issue(&token);
                if token.remaining() > secs(1) {
                    in_flight.distance = A_SUCCESS;
                }
                Ok(token)
            }
            Plan::Same => replaces
                .cloned()
                .ok_or_else(|| Error::new(ErrorKind::Unavailable, "none")),
            Plan::Fail(error) => Err(error),
            Plan::Panic => {
                drop(in_flight);
                panic!("{SCRIPTED_PANIC}")
            }
        }
    }
}
