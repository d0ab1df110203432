//! What does it cost to wait, when everybody comes at once and there is no token yet?
//!
//! Callers are tasks on one thread. The endpoint answers when all of them wait, so that its own delay is no part of the
//! figure: measured is the time from before the first is spawned until the last waits, and from the answer until the last
//! has its token. Both include what spawning and waking a tokio task cost. The bytes of a waiting caller include its task;
//! they are counted by an allocator that keeps count for this thread, which makes the times a little longer than they
//! would be without it.

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
use common::{LIFE, Limit, TOKEN, finish, median, report};
use osdatahub_auth::{AccessToken, Error, TokenManager, TokenSource};
use tokio::{
    runtime::Builder,
    sync::{Notify, watch},
    task::{JoinSet, yield_now},
    time::timeout,
};

const ROUNDS: usize = 9;
/// Nobody is to lose it while a hundred thousand are spawned.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answers when it is told to.
#[derive(Default)]
struct Gate {
    open: Notify,
    fetches: AtomicU32,
}

#[async_trait]
impl TokenSource for Gate {
    async fn fetch(&self, _replaces: Option<&AccessToken>) -> Result<AccessToken, Error> {
        self.fetches.fetch_add(1, Ordering::Relaxed);
        self.open.notified().await;
        AccessToken::new(TOKEN, LIFE)
    }
}

struct Stampede {
    took: Duration,
    bytes: u64,
    posts: u32,
}

fn stampede(callers: u32) -> Stampede {
    let gate = Arc::new(Gate::default());
    let tokens = TokenManager::builder(gate.clone()).acquire_timeout(PATIENCE).build();
    let tokens = tokens.expect("a positive time");
    let wait = |come: Arc<AtomicU32>| {
        let tokens = tokens.clone();
        async move {
            come.fetch_add(1, Ordering::Relaxed);
            drop(tokens.token().await.expect("a token"));
        }
    };
    let (took, bytes) = crowd(callers, wait, || gate.open.notify_one());
    Stampede {
        took,
        bytes,
        posts: gate.fetches.load(Ordering::Relaxed),
    }
}

/// The same with nothing but tokio: tasks that wait for one change.
fn floor(callers: u32) -> Duration {
    let (change, _) = watch::channel(());
    let wait = |come: Arc<AtomicU32>| {
        let mut change = change.subscribe();
        async move {
            come.fetch_add(1, Ordering::Relaxed);
            timeout(PATIENCE, change.changed())
                .await
                .expect("in time")
                .expect("a change");
        }
    };
    crowd(callers, wait, || {
        change.send_replace(());
    })
    .0
}

/// How long it takes from before the first task is spawned until the last has had what it waits for, and the bytes that
/// were held at most. Each says that it has come, by the counter, and they are released when all have.
fn crowd<F>(callers: u32, wait: impl Fn(Arc<AtomicU32>) -> F, release: impl Fn()) -> (Duration, u64)
where
    F: Future<Output = ()> + Send + 'static,
{
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut took = Duration::ZERO;
    let counted = measure(|| {
        runtime.block_on(async {
            let start = Instant::now();
            let come = Arc::new(AtomicU32::new(0));
            let mut waiting = JoinSet::new();
            for _ in 0..callers {
                waiting.spawn(wait(come.clone()));
            }
            while come.load(Ordering::Relaxed) < callers {
                yield_now().await;
            }
            release();
            while let Some(ended) = waiting.join_next().await {
                ended.expect("no panic");
            }
            took = start.elapsed();
        });
    });
    (took, counted.bytes_max)
}

fn main() -> ExitCode {
    let floor_each = [1_000, 100_000].map(|callers| {
        let mut times: Vec<_> = (0..ROUNDS).map(|_| floor(callers).as_secs_f64()).collect();
        median(&mut times) / f64::from(callers)
    });
    let mut micros_each = Vec::new();
    for callers in [10, 1_000, 100_000] {
        let runs: Vec<_> = (0..ROUNDS).map(|_| stampede(callers)).collect();
        let mut times: Vec<_> = runs.iter().map(|run| run.took.as_secs_f64() * 1e6).collect();
        let micros = median(&mut times);
        println!(
            "# {callers} cold callers: the last is served after {:.3} ms, not counting the endpoint's own delay",
            micros / 1e3
        );
        micros_each.push(micros / f64::from(callers));
        let posts = runs.iter().map(|run| run.posts).max().unwrap_or_default();
        report(
            format!("stampede/{callers}_callers_posts"),
            f64::from(posts),
            Limit::AtMost(1.0),
        );
        if callers == 100_000 {
            let bytes = f64::from(u32::try_from(runs[0].bytes).expect("a few")) / f64::from(callers);
            report("stampede/bytes_per_caller_of_100000", bytes, Limit::AtMost(1_024.0));
        }
    }
    println!(
        "# each of 1,000 costs {:.2} us, each of 100,000 {:.2} us; tasks that wait for a tokio watch: {:.2} and {:.2} us",
        micros_each[1],
        micros_each[2],
        floor_each[0] * 1e6,
        floor_each[1] * 1e6
    );
    // Linear or better, beside what so many tasks and timers cost by themselves in memory that no cache holds;
    // the quarter is for noise.
    let growth = micros_each[2] / micros_each[1];
    let floor_growth = floor_each[1] / floor_each[0];
    report(
        "stampede/growth_to_100000_over_tokios_own",
        growth / floor_growth,
        Limit::AtMost(1.25),
    );
    finish()
}
