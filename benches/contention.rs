//! What does the std `RwLock` cost, when many tasks want the token at once?
//!
//! 1 to 16 tasks on as many threads as there are cores ask for the token as fast as they can: from a `TokenManager`,
//! and from three cells that do what its hot path has to (two clock reads, a comparison, a clone of the header value)
//! behind a std `RwLock`, a tokio `RwLock` and arc-swap. Shown is the wall time of all calls over their number, so that two
//! threads which did not get in each other's way would halve it; more tasks than cores contend no more than as many. What
//! is measured besides: the start of the tasks, spread over thousands of calls, and the count of references that all
//! clones of one header share, which is contended in each of the four. No service asks so fast.

mod common;

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use common::{Held, fresh};
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main, measurement::WallTime};
use http::HeaderValue;
use osdatahub_auth::TokenManager;
use tokio::{runtime::Runtime, sync::Barrier};

/// Where a token is held.
trait Cell: Send + Sync + 'static {
    fn header(&self) -> impl Future<Output = HeaderValue> + Send;
}

impl Cell for TokenManager {
    async fn header(&self) -> HeaderValue {
        self.token().await.expect("a fresh token").header_value()
    }
}

impl Cell for std::sync::RwLock<Held> {
    async fn header(&self) -> HeaderValue {
        self.read().expect("nobody panics").header()
    }
}

impl Cell for tokio::sync::RwLock<Held> {
    async fn header(&self) -> HeaderValue {
        self.read().await.header()
    }
}

impl Cell for ArcSwap<Held> {
    async fn header(&self) -> HeaderValue {
        self.load().header()
    }
}

/// How long `tasks` tasks take that share `calls` calls among them.
fn time(runtime: &Runtime, cell: &Arc<impl Cell>, tasks: usize, calls: u64) -> Duration {
    let each = calls.div_ceil(tasks as u64);
    runtime.block_on(async {
        let barrier = Arc::new(Barrier::new(tasks + 1));
        let tasks: Vec<_> = (0..tasks)
            .map(|_| {
                let (barrier, cell) = (barrier.clone(), cell.clone());
                tokio::spawn(async move {
                    barrier.wait().await;
                    for _ in 0..each {
                        black_box(cell.header().await);
                    }
                })
            })
            .collect();
        barrier.wait().await;
        let start = Instant::now();
        for task in tasks {
            task.await.expect("no panic");
        }
        start.elapsed()
    })
}

fn contention(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("contention");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1));
    curve(&mut group, "TokenManager", fresh().0);
    curve(&mut group, "std RwLock", std::sync::RwLock::new(Held::new()));
    curve(&mut group, "tokio RwLock", tokio::sync::RwLock::new(Held::new()));
    curve(&mut group, "arc-swap", ArcSwap::from_pointee(Held::new()));
    group.finish();
}

fn curve(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, cell: impl Cell) {
    let runtime = Runtime::new().expect("a runtime");
    let cell = Arc::new(cell);
    for tasks in [1, 2, 4, 8, 16] {
        group.bench_function(BenchmarkId::new(name, tasks), |bencher| {
            bencher.iter_custom(|calls| time(&runtime, &cell, tasks, calls));
        });
    }
}

criterion_group!(benches, contention);
criterion_main!(benches);
