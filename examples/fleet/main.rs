//! What a fleet does to the token endpoint: 2,000 replicas of a service, each with a `TokenManager` of its own, start in
//! the same second and run for a day. The endpoint grants 600 requests a minute, which is OS's limit in live mode, and
//! answers 429 to the rest; at noon it is down for two minutes.
//!
//! `cargo run --release --example fleet [PLOT.svg]` plays that day three times in a few minutes, in paused time: with
//! renewals spread over 75 to 85 % of a token's life, as by default, with all of them at 80 %, and with one token for all
//! of them, as through Redis.

mod day;
mod plot;

use std::{env, error::Error, ops::RangeInclusive, path::Path};

use day::{DAY, Day, OUTAGE, Sharing};

/// By then the first tokens have been had, and the endpoint's limit is not met any more.
const STARTED: usize = 10 * 60;
/// By then the start-up is to be forgotten.
const SETTLED: usize = 6 * 3_600;
/// No replica in backoff comes back sooner, once it has failed a few times.
const LEAST_PAUSE: f64 = 7.5;

fn main() -> Result<(), Box<dyn Error>> {
    let jittered = play("renewed at 75 to 85 %", 0.75..=0.85, Sharing::None);
    let in_step = play("renewed at 80 %", 0.8..=0.8, Sharing::None);
    let shared = play("shared", 0.75..=0.85, Sharing::All);
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

fn play(name: &str, refresh_at: RangeInclusive<f64>, sharing: Sharing) -> Day {
    let day = Day::play(refresh_at, sharing);
    println!(
        "{name}: {} POSTs in a day, {:.2} a second",
        day.posts.iter().sum::<u32>(),
        mean(&day.posts)
    );
    println!(
        "  refused with 429: {}, failed in the outage: {}",
        day.limited, day.failed
    );
    println!(
        "  start-up: {} POSTs in the first second, {} in the first minute; the last first token after {} s",
        day.posts[0],
        day.posts[..60].iter().sum::<u32>(),
        day.all_served_after
    );
    // One request every few minutes has no rhythm to speak of.
    if sharing == Sharing::None {
        print_rhythm(&day);
    }
    match day.without_token.iter().position(|replicas| *replicas > 0) {
        None => println!("  no replica was ever without a usable token after its first"),
        Some(first) => println!(
            "  without a usable token: none but from {first} to {} s; {} replicas, {} at a time at most, {:.0} s each on \
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

fn print_rhythm(day: &Day) {
    let mean = mean(&day.posts);
    let settled = &day.posts[SETTLED..OUTAGE.start];
    println!(
        "  six hours on, until the outage: at most {:.2} x the mean in a minute, {:.2} in ten seconds, {:.2} in one",
        busiest(settled, 60) / mean,
        busiest(settled, 10) / mean,
        busiest(settled, 1) / mean
    );
    let over = (STARTED..DAY)
        .filter(|at| f64::from(day.posts[*at]) > f64::from(day.in_backoff[*at]) / LEAST_PAUSE + 2.0 * mean)
        .count();
    println!(
        "  seconds with more POSTs than retries (replicas in backoff / {LEAST_PAUSE}) and twice the mean explain, start-up \
         aside: {over}; by chance alone {:.0}",
        above(2.0 * mean, mean) * f64::from(u32::try_from(DAY - STARTED).expect("a day"))
    );
}

fn mean(posts: &[u32]) -> f64 {
    f64::from(posts.iter().sum::<u32>()) / f64::from(u32::try_from(posts.len()).expect("a day"))
}

/// The most POSTs a second, in any stretch of so many seconds.
fn busiest(posts: &[u32], seconds: usize) -> f64 {
    posts.windows(seconds).map(mean).fold(0.0, f64::max)
}

/// How likely it is that a second has more than `limit`, if each of the fleet's requests may come at any moment: Poisson.
fn above(limit: f64, mean: f64) -> f64 {
    let (mut chance, mut up_to, mut posts) = ((-mean).exp(), 0.0, 0.0);
    while posts <= limit {
        up_to += chance;
        posts += 1.0;
        chance *= mean / posts;
    }
    1.0 - up_to
}
