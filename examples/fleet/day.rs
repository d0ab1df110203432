//! One day of the fleet, second by second.

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
/// Two minutes at noon.
pub(crate) const OUTAGE: Range<usize> = 12 * 3_600..12 * 3_600 + 120;

const LIFE: Duration = Duration::from_secs(299);
const LIMIT_A_MINUTE: u32 = 600;
const ANSWERS_AFTER: Duration = Duration::from_millis(80);
/// Of the life of a shared token.
const KEPT_BACK: Duration = Duration::from_secs(10);
/// How long a replica waits for another that fetches.
const PATIENCE: Duration = Duration::from_secs(7);

pub(crate) struct Day {
    /// What the endpoint saw in each second.
    pub(crate) posts: Vec<u32>,
    /// How many replicas had failed, and no token since, in each second.
    pub(crate) in_backoff: Vec<u32>,
    /// How many replicas that had had a token had none that they could use.
    pub(crate) without_token: Vec<u32>,
    pub(crate) limited: u32,
    pub(crate) failed: u32,
    /// In seconds.
    pub(crate) all_served_after: usize,
    /// How many replicas lost their token at some time.
    pub(crate) ever_without: u32,
}

/// Whether replicas share their tokens.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    None,
    All,
}

impl Day {
    pub(crate) fn play(refresh_at: RangeInclusive<f64>, sharing: Sharing) -> Self {
        // The same day every time: whatever is drawn, is drawn on this thread.
        fastrand::seed(1);
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(play(refresh_at, sharing))
    }
}

async fn play(refresh_at: RangeInclusive<f64>, sharing: Sharing) -> Day {
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
        let tokens = tokens.expect("a range within the bounds");
        tokio::spawn({
            let tokens = tokens.clone();
            async move {
                // All within one second.
                sleep(Duration::from_secs_f64(fastrand::f64())).await;
                let _warm = tokens.keep_warm();
                std::future::pending::<()>().await;
            }
        });
        fleet.push((tokens, failing));
    }

    let mut served = vec![false; REPLICAS];
    let mut lost = vec![false; REPLICAS];
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
                lost[replica] = true;
                without_now += 1;
            }
        }
        in_backoff.push(failing_now);
        without_token.push(without_now);
    }

    let seen = endpoint.seen.lock().expect("nobody panics");
    Day {
        posts: seen.posts[..DAY].to_vec(),
        in_backoff,
        without_token,
        limited: seen.limited,
        failed: seen.failed,
        all_served_after,
        ever_without: lost.into_iter().map(u32::from).sum(),
    }
}

struct Endpoint {
    start: Instant,
    seen: Mutex<Seen>,
}

struct Seen {
    posts: Vec<u32>,
    /// The minute that is counted, and how many it has granted.
    minute: (usize, u32),
    limited: u32,
    failed: u32,
}

impl Endpoint {
    fn new() -> Self {
        let seen = Seen {
            posts: vec![0; DAY + 1],
            minute: (0, 0),
            limited: 0,
            failed: 0,
        };
        Self {
            start: Instant::now(),
            seen: Mutex::new(seen),
        }
    }

    fn answer(&self) -> Result<AccessToken, Error> {
        let second = usize::try_from(self.start.elapsed().as_secs()).expect("a day");
        let mut seen = self.seen.lock().expect("nobody panics");
        seen.posts[second] += 1;
        if OUTAGE.contains(&second) {
            seen.failed += 1;
            return Err(Error::new(ErrorKind::Unavailable, "down"));
        }
        if seen.minute.0 != second / 60 {
            seen.minute = (second / 60, 0);
        }
        if seen.minute.1 == LIMIT_A_MINUTE {
            seen.limited += 1;
            // Nobody has recorded whether OS sends a `Retry-After`, so this is without.
            return Err(Error::new(ErrorKind::RateLimited, "429"));
        }
        seen.minute.1 += 1;
        AccessToken::new(format!("token-{}", fastrand::u64(..)), LIFE)
    }
}

struct Replica {
    endpoint: Arc<Endpoint>,
    failing: Arc<AtomicBool>,
}

#[async_trait]
impl TokenSource for Replica {
    async fn fetch(&self, _replaces: Option<&AccessToken>) -> Result<AccessToken, Error> {
        let answer = self.endpoint.answer();
        sleep(ANSWERS_AFTER).await;
        self.failing.store(answer.is_err(), Ordering::Relaxed);
        answer
    }
}

/// What the library's `SharedSource` does through Redis, which paused time cannot wait for: an entry, and a lock.
#[derive(Default)]
struct Store {
    entry: Mutex<Option<AccessToken>>,
    locked: AtomicBool,
}

struct SharingReplica {
    replica: Replica,
    store: Arc<Store>,
}

impl SharingReplica {
    /// The shared token, if it is newer than this one and good for a while.
    fn newer_than(&self, replaces: Option<&AccessToken>) -> Option<AccessToken> {
        let entry = self.store.entry.lock().expect("nobody panics").clone()?;
        let left = entry.remaining();
        let newer = replaces.is_none_or(|old| old.remaining() < left);
        // A life counts from when a replica gets the token.
        (newer && left > KEPT_BACK).then(|| AccessToken::new(entry.expose_secret(), left).expect("it was one"))
    }
}

#[async_trait]
impl TokenSource for SharingReplica {
    async fn fetch(&self, replaces: Option<&AccessToken>) -> Result<AccessToken, Error> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            if let Some(token) = self.newer_than(replaces) {
                self.replica.failing.store(false, Ordering::Relaxed);
                return Ok(token);
            }
            let locked = !self.store.locked.swap(true, Ordering::Relaxed);
            if locked || Instant::now() >= give_up {
                let answer = self.replica.fetch(replaces).await;
                if let Ok(token) = &answer {
                    *self.store.entry.lock().expect("nobody panics") = Some(token.clone());
                }
                if locked {
                    self.store.locked.store(false, Ordering::Relaxed);
                }
                return answer;
            }
            sleep(Duration::from_millis(fastrand::u64(50..150))).await;
        }
    }
}
