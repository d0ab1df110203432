//! Table 1: the cost of a cached token per call.
//!
//! All contestants take turns within a round, in a different order each time, so a busy machine slows all of them.
//! Ratios are taken within a round. The table shows the median over the rounds.

use std::{
    hint::black_box,
    sync::RwLock,
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use tokio::runtime::Runtime;

use crate::{
    endpoint::{Behaviour, Endpoint},
    peers::{Calls, Failure, Peer, Timed, for_each_peer},
    report,
};

// The notes below the table state both.
const ROUNDS: usize = 301;
const CALLS: u32 = 4_000;
/// Long enough for every contestant to cache the token: `azure_core` does not cache one of 5 min or less.
const LIFETIME: Duration = Duration::from_hours(1);

/// Rows that the others are compared with.
const CONSTANT: usize = 0;
const OURS: usize = 2;

/// Row of the table: code that inserts a token into headers.
pub struct Contestant {
    name: String,
    timed: Result<Timed, Failure>,
}

impl Contestant {
    /// The floors and the peers, each with a token in its cache.
    #[must_use]
    pub fn all(runtime: &Runtime) -> Vec<Self> {
        let mut all = vec![
            Self::floor("constant header", constant_header()),
            Self::floor("std `RwLock`: lock, two clock reads, clone", read_lock()),
        ];
        all.extend(for_each_peer!(warm(runtime)));
        all
    }

    fn floor(name: &str, calls: Calls) -> Self {
        Self {
            name: name.to_owned(),
            timed: Ok(Timed { calls, floor: None }),
        }
    }

    /// Measurement of its calls minus that of its floor. NaN if it could not be started.
    pub fn net(&mut self, measure: impl Fn(&mut dyn FnMut(u32)) -> f64) -> f64 {
        let Ok(timed) = &mut self.timed else {
            return f64::NAN;
        };
        let floor = timed.floor.as_mut().map_or(0.0, |floor| measure(floor));
        measure(&mut timed.calls) - floor
    }
}

fn warm<P: Peer>(runtime: &Runtime) -> Contestant {
    let timed = runtime.block_on(async {
        let endpoint = Endpoint::start(Behaviour::healthy(LIFETIME)).await?;
        let peer = P::start(&endpoint).await?;
        peer.authorize(&mut HeaderMap::new()).await?;
        Ok(peer.timed())
    });
    Contestant {
        name: report::name::<P>(),
        timed,
    }
}

fn constant_header() -> Calls {
    let (constant, mut headers) = (header(), HeaderMap::new());
    Box::new(move |calls| {
        for _ in 0..calls {
            headers.insert(AUTHORIZATION, constant.clone());
            black_box(&headers);
        }
    })
}

/// Floor of a token with an expiry that another thread may replace: a read lock, two clock reads and a clone.
fn read_lock() -> Calls {
    let cached = RwLock::new((header(), Instant::now(), SystemTime::now()));
    let mut headers = HeaderMap::new();
    Box::new(move |calls| {
        for _ in 0..calls {
            let guard = cached.read().expect("not poisoned");
            let fresh = guard.1.elapsed() < LIFETIME && guard.2.elapsed().is_ok_and(|age| age < LIFETIME);
            assert!(fresh);
            let value = guard.0.clone();
            drop(guard);
            headers.insert(AUTHORIZATION, value);
            black_box(&headers);
        }
    })
}

fn header() -> HeaderValue {
    let mut header = HeaderValue::from_str(&format!("Bearer {:028}", 0)).expect("visible ASCII");
    header.set_sensitive(true);
    // The first clone allocates the buffer that all later clones share.
    let _ = header.clone();
    header
}

/// Medians of one row.
#[derive(Debug, Clone, Copy)]
pub struct Price {
    nanoseconds: f64,
    over_constant: f64,
    over_ours: f64,
}

/// Times all contestants, and returns one row for each.
pub fn measure_all(contestants: &mut [Contestant]) -> Vec<Price> {
    let rounds: Vec<Vec<f64>> = (0..=ROUNDS).map(|round| one_round(contestants, round)).collect();
    // The first round is the warm-up.
    let rounds = &rounds[1..];
    let over = |row: usize, base: usize| median(rounds.iter().map(|round| round[row] / round[base]));
    (0..contestants.len())
        .map(|row| Price {
            nanoseconds: median(rounds.iter().map(|round| round[row])),
            over_constant: over(row, CONSTANT),
            over_ours: over(row, OURS),
        })
        .collect()
}

/// Nanoseconds per call of each contestant.
///
/// Each round starts with the next contestant, and every other round runs in reverse.
fn one_round(contestants: &mut [Contestant], round: usize) -> Vec<f64> {
    let count = contestants.len();
    let mut times = vec![0.0; count];
    for turn in 0..count {
        let turn = if round.is_multiple_of(2) {
            turn
        } else {
            count - 1 - turn
        };
        let row = (round + turn) % count;
        times[row] = contestants[row].net(nanoseconds);
    }
    times
}

fn nanoseconds(calls: &mut dyn FnMut(u32)) -> f64 {
    let start = Instant::now();
    calls(CALLS);
    start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints table 1.
///
/// # Panics
/// If there are fewer prices or counts than contestants.
pub fn table(contestants: &[Contestant], prices: &[Price], allocations: &[f64]) {
    println!("## 1. Cost of a cached token, per call\n");
    println!("| | ns | × constant header | × `osdatahub-auth` | allocations |");
    println!("|---|--:|--:|--:|--:|");
    for (row, contestant) in contestants.iter().enumerate() {
        let name = &contestant.name;
        match &contestant.timed {
            Ok(timed) => {
                let mark = if timed.floor.is_some() { " ¹" } else { "" };
                let Price {
                    nanoseconds,
                    over_constant,
                    over_ours,
                } = prices[row];
                println!(
                    "| {name}{mark} | {nanoseconds:.0} | {over_constant:.1} | {over_ours:.2} | {:.0} |",
                    allocations[row]
                );
            }
            Err(why) => println!("| {name} | could not be started: {why} | | | |"),
        }
    }
    print!("{NOTES}");
}

const NOTES: &str = "
¹ Minus its own floor: its pipeline with a constant header and the same stub transport, timed in the same round.

The figures are medians of 301 rounds of 4,000 calls each. All contestants take turns on one thread. A call builds an
`Authorization` header and inserts it into a request's headers. The token's lifetime is one hour. A second process
counts the allocations.

";
