//! Thundering herd: what does it cost to wait when many callers arrive before there is a token?
//!
//! The callers are tasks on one thread. The endpoint responds once all of them wait, so its own delay is not part of
//! the figure. The figure is the time from the first spawn until the last caller waits, plus the time from the
//! response until the last caller has its token. Both include the cost of spawning and waking a tokio task.
//!
//! The bytes per waiting caller include its task. An allocator counts them for this thread, which makes the times
//! slightly longer.

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
use benches::{LIFE, Limit, TOKEN, finish, median, report};
use osdatahub_auth::{AccessToken, Error, TokenManager, TokenSource};
use tokio::{
    runtime::Builder,
    sync::{Notify, watch},
    task::{JoinSet, yield_now},
    time::timeout,
};

const ROUNDS: usize = 9;
/// Long enough that no caller times out while 100,000 tasks are spawned.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Token source that responds only once it is opened.
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

/// Result of one herd of callers.
struct Stampede {
    took: Duration,
    peak_bytes: u64,
    fetches: u32,
}

fn stampede(callers: u32) -> Stampede {
    let gate = Arc::new(Gate::default());
    let tokens = TokenManager::builder(gate.clone())
        .acquire_timeout(WAIT_TIMEOUT)
        .build();
    let tokens = tokens.expect("a positive timeout");
    let wait = |arrived: Arc<AtomicU32>| {
        let tokens = tokens.clone();
        async move {
            arrived.fetch_add(1, Ordering::Relaxed);
            drop(tokens.token().await.expect("a token"));
        }
    };
    let (took, peak_bytes) = spawn_and_release(callers, wait, || gate.open.notify_one());
    Stampede {
        took,
        peak_bytes,
        fetches: gate.fetches.load(Ordering::Relaxed),
    }
}

/// The same with tokio alone: tasks that wait for a change of one watch channel.
fn floor(callers: u32) -> Duration {
    let (change, _) = watch::channel(());
    let wait = |arrived: Arc<AtomicU32>| {
        let mut change = change.subscribe();
        async move {
            arrived.fetch_add(1, Ordering::Relaxed);
            timeout(WAIT_TIMEOUT, change.changed())
                .await
                .expect("in time")
                .expect("a change");
        }
    };
    spawn_and_release(callers, wait, || {
        change.send_replace(());
    })
    .0
}

/// Spawns tasks that wait, releases them once all of them wait, and joins them.
///
/// Each task increments the counter that it is given when it starts to wait. Returns the time from the first spawn to
/// the last join, and the peak of allocated bytes.
fn spawn_and_release<F>(callers: u32, wait: impl Fn(Arc<AtomicU32>) -> F, release: impl Fn()) -> (Duration, u64)
where
    F: Future<Output = ()> + Send + 'static,
{
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut took = Duration::ZERO;
    let allocated = measure(|| {
        runtime.block_on(async {
            let start = Instant::now();
            let arrived = Arc::new(AtomicU32::new(0));
            let mut tasks = JoinSet::new();
            for _ in 0..callers {
                tasks.spawn(wait(arrived.clone()));
            }
            while arrived.load(Ordering::Relaxed) < callers {
                yield_now().await;
            }
            release();
            while let Some(result) = tasks.join_next().await {
                result.expect("the task does not panic");
            }
            took = start.elapsed();
        });
    });
    (took, allocated.bytes_max)
}

fn main() -> ExitCode {
    let floor_per_caller = [1_000, 100_000].map(|callers| {
        let mut times: Vec<_> = (0..ROUNDS).map(|_| floor(callers).as_secs_f64()).collect();
        median(&mut times) / f64::from(callers)
    });
    let mut micros_per_caller = Vec::new();
    for callers in [10, 1_000, 100_000] {
        let runs: Vec<_> = (0..ROUNDS).map(|_| stampede(callers)).collect();
        let mut times: Vec<_> = runs.iter().map(|run| run.took.as_secs_f64() * 1e6).collect();
        let micros = median(&mut times);
        println!(
            "# {callers} cold callers: the last has its token after {:.3} ms, without the endpoint's own delay",
            micros / 1e3
        );
        micros_per_caller.push(micros / f64::from(callers));
        let fetches = runs.iter().map(|run| run.fetches).max().unwrap_or_default();
        report(
            format!("stampede/{callers}_callers_posts"),
            f64::from(fetches),
            Limit::AtMost(1.0),
        );
        if callers == 100_000 {
            let bytes = f64::from(u32::try_from(runs[0].peak_bytes).expect("fewer than 2^32")) / f64::from(callers);
            report("stampede/bytes_per_caller_of_100000", bytes, Limit::AtMost(1_024.0));
        }
    }
    println!(
        "# per caller: {:.2} us of 1,000, {:.2} us of 100,000; per task on a tokio watch: {:.2} and {:.2} us",
        micros_per_caller[1],
        micros_per_caller[2],
        floor_per_caller[0] * 1e6,
        floor_per_caller[1] * 1e6
    );
    // The cost per caller grows no faster than tokio's own. Tasks and timers alone cost more once they no longer
    // fit into the CPU's cache. The extra quarter allows for noise.
    let growth = micros_per_caller[2] / micros_per_caller[1];
    let floor_growth = floor_per_caller[1] / floor_per_caller[0];
    report(
        "stampede/growth_to_100000_over_tokios_own",
        growth / floor_growth,
        Limit::AtMost(1.25),
    );
    finish()
}
