//! Simulation of the load that a fleet puts on the token endpoint in a day.
//!
//! The fleet is 2,000 replicas of a service, each with its own `TokenManager`, which all start in the same second.
//! The endpoint accepts 600 requests a minute, which is OS's limit in live mode, and returns 429 to the rest. At noon
//! it is down for two minutes.
//!
//! `cargo run --release -p fleet [PLOT.svg]` simulates three days in a few minutes, in paused time:
//!
//! - refreshes spread over 75 to 85 % of a token's lifetime, the default;
//! - all refreshes at 80 %;
//! - one token for all replicas, as through Redis.

mod day;
mod plot;

use std::{env, error::Error, ops::RangeInclusive, path::Path};

use day::{DAY, Day, OUTAGE, Sharing};

/// End of the start-up in seconds: every replica has its first token, and the rate limit is no longer reached.
const STARTED: usize = 10 * 60;
/// Time in seconds from which the start-up must have no effect.
const SETTLED: usize = 6 * 3_600;
/// Minimum seconds between attempts of a replica in backoff, once it has failed a few times.
const MIN_BACKOFF: f64 = 7.5;

fn main() -> Result<(), Box<dyn Error>> {
    let jittered = simulate("renewed at 75 to 85 %", 0.75..=0.85, Sharing::None);
    let in_step = simulate("renewed at 80 %", 0.8..=0.8, Sharing::None);
    let shared = simulate("shared", 0.75..=0.85, Sharing::All);
    if let Some(path) = env::args().nth(1) {
        plot::draw(
            Path::new(&path),
            &[
                ("renewed at 75 to 85 %", &jittered),
                ("at 80 %", &in_step),
                ("shared", &shared),
            ],
        )?;
        println!("plotted to {path}");
    }
    Ok(())
}

fn simulate(name: &str, refresh_at: RangeInclusive<f64>, sharing: Sharing) -> Day {
    let day = Day::simulate(refresh_at, sharing);
    println!(
        "{name}: {} POSTs in a day, {:.2} a second",
        day.posts.iter().sum::<u32>(),
        mean(&day.posts)
    );
    println!(
        "  rate-limited (429): {}, failed in the outage: {}",
        day.limited, day.failed
    );
    println!(
        "  start-up: {} POSTs in the first second, {} in the first minute; all replicas had a token after {} s",
        day.posts[0],
        day.posts[..60].iter().sum::<u32>(),
        day.all_served_after
    );
    // A shared fleet sends one request every few minutes, too few for peaks.
    if sharing == Sharing::None {
        print_peaks(&day);
    }
    match day.without_token.iter().position(|replicas| *replicas > 0) {
        None => println!("  no replica was without a usable token after its first"),
        Some(first) => println!(
            "  without a usable token: from {first} to {} s, {} replicas, at most {} at a time, {:.0} s each on \
             average; the outage is from {} to {} s",
            day.without_token
                .iter()
                .rposition(|replicas| *replicas > 0)
                .expect("there is a first"),
            day.ever_without,
            day.without_token.iter().max().expect("a day"),
            f64::from(day.without_token.iter().sum::<u32>()) / f64::from(day.ever_without),
            OUTAGE.start,
            OUTAGE.end
        ),
    }
    day
}

fn print_peaks(day: &Day) {
    let mean = mean(&day.posts);
    let settled = &day.posts[SETTLED..OUTAGE.start];
    println!(
        "  after six hours, until the outage: at most {:.2} x the mean in a minute, {:.2} in ten seconds, {:.2} in one",
        busiest(settled, 60) / mean,
        busiest(settled, 10) / mean,
        busiest(settled, 1) / mean
    );
    let seconds_over = (STARTED..DAY)
        .filter(|at| f64::from(day.posts[*at]) > f64::from(day.in_backoff[*at]) / MIN_BACKOFF + 2.0 * mean)
        .count();
    println!(
        "  seconds after the start-up with more POSTs than retries (replicas in backoff / {MIN_BACKOFF}) plus twice \
         the mean: {seconds_over}; by chance alone {:.0}",
        probability_above(2.0 * mean, mean) * f64::from(u32::try_from(DAY - STARTED).expect("a day"))
    );
}

fn mean(posts: &[u32]) -> f64 {
    f64::from(posts.iter().sum::<u32>()) / f64::from(u32::try_from(posts.len()).expect("a day"))
}

/// Highest mean of POSTs a second over any window of this many seconds.
fn busiest(posts: &[u32], seconds: usize) -> f64 {
    posts.windows(seconds).map(mean).fold(0.0, f64::max)
}

/// Poisson probability that a second has more than `limit` POSTs, if they arrive independently at this mean rate.
fn probability_above(limit: f64, mean: f64) -> f64 {
    let (mut probability, mut cumulative, mut posts) = ((-mean).exp(), 0.0, 0.0);
    while posts <= limit {
        cumulative += probability;
        posts += 1.0;
        probability *= mean / posts;
    }
    1.0 - cumulative
}
