//! What does it cost to wait, when everybody comes at once and there is no token yet?
//!
//! Callers are tasks on one thread, and the endpoint takes 100 ms. Measured is the time from before the first is
//! spawned until the last has its token, less those 100 ms; so it includes what spawning and waking a tokio task cost.
//! The bytes of a waiting caller include its task. They are counted by an allocator that keeps count for this thread,
//! which makes the times a little longer than they would be without it.

mod common;

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use allocation_counter::measure;
use async_trait::async_trait;
use common::{Fixed, LIFE, Limit, finish, median, report};
use osdatahub_auth::{AccessToken, Error, TokenManager, TokenSource};
use tokio::{runtime::Builder, task::JoinSet};

const DELAY: Duration = Duration::from_millis(100);
const ROUNDS: usize = 7;

struct Counting {
    source: Fixed,
    posts: Arc<AtomicU32>,
}

#[async_trait]
impl TokenSource for Counting {
    async fn fetch(&self, replaces: Option<&AccessToken>) -> Result<AccessToken, Error> {
        self.posts.fetch_add(1, Ordering::Relaxed);
        self.source.fetch(replaces).await
    }
}

struct Stampede {
    beyond_the_delay: Duration,
    bytes: u64,
    posts: u32,
}

fn stampede(callers: usize) -> Stampede {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let posts = Arc::new(AtomicU32::new(0));
    let source = Fixed {
        delay: DELAY,
        life: LIFE,
    };
    let counting = Counting {
        source,
        posts: posts.clone(),
    };
    let tokens = TokenManager::builder(counting).build().expect("the defaults");
    let mut took = Duration::ZERO;
    let counted = measure(|| {
        runtime.block_on(async {
            let start = Instant::now();
            let mut waiting = JoinSet::new();
            for _ in 0..callers {
                let tokens = tokens.clone();
                waiting.spawn(async move { tokens.token().await.map(|_| ()) });
            }
            while let Some(served) = waiting.join_next().await {
                served.expect("no panic").expect("a token");
            }
            took = start.elapsed();
        });
    });
    Stampede {
        beyond_the_delay: took.saturating_sub(DELAY),
        bytes: counted.bytes_max,
        posts: posts.load(Ordering::Relaxed),
    }
}

fn main() -> ExitCode {
    let mut micros_each = Vec::new();
    for callers in [10, 1_000, 100_000] {
        let runs: Vec<_> = (0..ROUNDS).map(|_| stampede(callers)).collect();
        let mut times: Vec<_> = runs.iter().map(|run| run.beyond_the_delay.as_secs_f64()).collect();
        let beyond = median(&mut times);
        let posts = runs.iter().map(|run| run.posts).max().unwrap_or_default();
        let callers_f = f64::from(u32::try_from(callers).expect("a few"));
        let bytes = f64::from(u32::try_from(runs[0].bytes).expect("a few")) / callers_f;
        println!(
            "# {callers} cold callers: the last is served {:.3} ms after the endpoint's {DELAY:?}, {:.2} us each",
            beyond * 1e3,
            beyond * 1e6 / callers_f
        );
        report(
            format!("stampede/{callers}_callers_posts"),
            f64::from(posts),
            Limit::AtMost(1.0),
        );
        if callers == 100_000 {
            report("stampede/bytes_per_caller_of_100000", bytes, Limit::AtMost(1_024.0));
        }
        micros_each.push(beyond * 1e6 / callers_f);
    }
    // Linear, but for memory that no cache holds.
    report(
        "stampede/time_each_100000_over_1000",
        micros_each[2] / micros_each[1],
        Limit::AtMost(1.25),
    );
    finish()
}
