//! Simulation of one day of the fleet in paused time, recorded second by second.

use std::{
    ops::{Range, RangeInclusive},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use osdatahub_auth::{AccessToken, Error, ErrorKind, TokenManager, TokenSource};
use tokio::{
    runtime::Builder,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

pub(crate) const REPLICAS: usize = 2_000;
pub(crate) const DAY: usize = 24 * 3_600;
/// Outage of the endpoint: two minutes at noon, in seconds of the day.
pub(crate) const OUTAGE: Range<usize> = 12 * 3_600..12 * 3_600 + 120;

const LIFETIME: Duration = Duration::from_secs(299);
const LIMIT_PER_MINUTE: u32 = 600;
const RESPONSE_DELAY: Duration = Duration::from_millis(80);
/// Expiry margin of a shared token: with less remaining lifetime it is not adopted.
const EXPIRY_MARGIN: Duration = Duration::from_secs(10);
/// Maximum wait for the replica that holds the lock.
const MAX_WAIT: Duration = Duration::from_secs(6);

pub(crate) struct Day {
    /// POSTs to the endpoint in each second.
    pub(crate) posts: Vec<u32>,
    /// Replicas whose last attempt had failed, in each second.
    pub(crate) in_backoff: Vec<u32>,
    /// Replicas without a usable token that had one before, in each second.
    pub(crate) without_token: Vec<u32>,
    /// POSTs that got a 429.
    pub(crate) limited: u32,
    /// POSTs that failed in the outage.
    pub(crate) failed: u32,
    /// Seconds until every replica had its first token.
    pub(crate) all_served_after: usize,
    /// Replicas that were without a usable token at any time after their first.
    pub(crate) ever_without: u32,
}

/// Whether the replicas share one token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    None,
    All,
}

impl Day {
    pub(crate) fn simulate(refresh_at: RangeInclusive<f64>, sharing: Sharing) -> Self {
        // The seed makes every run the same, because all random numbers are drawn on this thread.
        fastrand::seed(1);
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(simulate(refresh_at, sharing))
    }
}

async fn simulate(refresh_at: RangeInclusive<f64>, sharing: Sharing) -> Day {
    let endpoint = Arc::new(Endpoint::new());
    let store = Arc::new(Store::default());
    let mut fleet = Vec::with_capacity(REPLICAS);
    for _ in 0..REPLICAS {
        let replica = Replica {
            endpoint: endpoint.clone(),
            failing: Arc::default(),
        };
        let failing = replica.failing.clone();
        let tokens = match sharing {
            Sharing::None => TokenManager::builder(replica),
            Sharing::All => TokenManager::builder(SharingReplica {
                replica,
                store: store.clone(),
            }),
        };
        let tokens = tokens.refresh_at(refresh_at.clone()).build();
        let tokens = tokens.expect("a valid range");
        tokio::spawn({
            let tokens = tokens.clone();
            async move {
                // All replicas start within one second.
                sleep(Duration::from_secs_f64(fastrand::f64())).await;
                let _warm = tokens.keep_warm();
                std::future::pending::<()>().await;
            }
        });
        fleet.push((tokens, failing));
    }

    let mut served = vec![false; REPLICAS];
    let mut was_without = vec![false; REPLICAS];
    let mut all_served_after = 0;
    let (mut in_backoff, mut without_token) = (Vec::with_capacity(DAY), Vec::with_capacity(DAY));
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Burst);
    seconds.tick().await;
    for second in 0..DAY {
        seconds.tick().await;
        let (mut failing_now, mut without_now) = (0, 0);
        for (replica, (tokens, failing)) in fleet.iter().enumerate() {
            failing_now += u32::from(failing.load(Ordering::Relaxed));
            let usable = tokens.current().is_some();
            if usable && !served[replica] {
                served[replica] = true;
                all_served_after = second + 1;
            }
            if served[replica] && !usable {
                was_without[replica] = true;
                without_now += 1;
            }
        }
        in_backoff.push(failing_now);
        without_token.push(without_now);
    }

    let totals = endpoint.totals.lock().expect("not poisoned");
    Day {
        posts: totals.posts[..DAY].to_vec(),
        in_backoff,
        without_token,
        limited: totals.limited,
        failed: totals.failed,
        all_served_after,
        ever_without: was_without.into_iter().map(u32::from).sum(),
    }
}

/// Token endpoint with a rate limit and an outage.
struct Endpoint {
    start: Instant,
    totals: Mutex<Totals>,
}

struct Totals {
    posts: Vec<u32>,
    /// Current minute, and the number of requests accepted in it.
    minute: (usize, u32),
    limited: u32,
    failed: u32,
}

impl Endpoint {
    fn new() -> Self {
        let totals = Totals {
            posts: vec![0; DAY + 1],
            minute: (0, 0),
            limited: 0,
            failed: 0,
        };
        Self {
            start: Instant::now(),
            totals: Mutex::new(totals),
        }
    }

    fn respond(&self) -> Result<AccessToken, Error> {
        let second = usize::try_from(self.start.elapsed().as_secs()).expect("a day");
        let mut totals = self.totals.lock().expect("not poisoned");
        totals.posts[second] += 1;
        if OUTAGE.contains(&second) {
            totals.failed += 1;
            return Err(Error::new(ErrorKind::Unavailable, "down"));
        }
        if totals.minute.0 != second / 60 {
            totals.minute = (second / 60, 0);
        }
        if totals.minute.1 == LIMIT_PER_MINUTE {
            totals.limited += 1;
            // It is not known whether OS sends a `Retry-After`, so this error has none.
            return Err(Error::new(ErrorKind::RateLimited, "429"));
        }
        totals.minute.1 += 1;
        AccessToken::new(format!("token-{}", fastrand::u64(..)), LIFETIME)
    }
}

/// Token source of a replica that fetches its own tokens.
struct Replica {
    endpoint: Arc<Endpoint>,
    failing: Arc<AtomicBool>,
}

#[async_trait]
impl TokenSource for Replica {
    async fn fetch(&self, _replaces: Option<&AccessToken>) -> Result<AccessToken, Error> {
        let result = self.endpoint.respond();
        sleep(RESPONSE_DELAY).await;
        self.failing.store(result.is_err(), Ordering::Relaxed);
        result
    }
}

/// In-memory stand-in for Redis: the shared token and a lock.
///
/// The simulation cannot use `SharedSource`, because paused time does not wait for a socket.
#[derive(Default)]
struct Store {
    entry: Mutex<Option<AccessToken>>,
    locked: AtomicBool,
}

/// Token source of a replica that shares its tokens.
struct SharingReplica {
    replica: Replica,
    store: Arc<Store>,
}

impl SharingReplica {
    /// The shared token, if it is newer than this one and has enough lifetime left.
    fn newer_than(&self, replaces: Option<&AccessToken>) -> Option<AccessToken> {
        let entry = self.store.entry.lock().expect("not poisoned").clone()?;
        let remaining = entry.remaining();
        let newer = replaces.is_none_or(|old| old.remaining() < remaining);
        // A new token, so that its lifetime is the remaining one, counted from now.
        (newer && remaining > EXPIRY_MARGIN)
            .then(|| AccessToken::new(entry.expose_secret(), remaining).expect("a valid token"))
    }
}

#[async_trait]
impl TokenSource for SharingReplica {
    async fn fetch(&self, replaces: Option<&AccessToken>) -> Result<AccessToken, Error> {
        let deadline = Instant::now() + MAX_WAIT;
        loop {
            if let Some(token) = self.newer_than(replaces) {
                self.replica.failing.store(false, Ordering::Relaxed);
                return Ok(token);
            }
            let locked = !self.store.locked.swap(true, Ordering::Relaxed);
            if locked || Instant::now() >= deadline {
                let result = self.replica.fetch(replaces).await;
                if let Ok(token) = &result {
                    *self.store.entry.lock().expect("not poisoned") = Some(token.clone());
                }
                if locked {
                    self.store.locked.store(false, Ordering::Relaxed);
                }
                return result;
            }
            sleep(Duration::from_millis(fastrand::u64(50..150))).await;
        }
    }
}
