//! Lock contention: how does the std `RwLock` around the token scale with the number of tasks that read it?
//!
//! From 1 to 16 tasks ask for the token as fast as they can, on as many threads as there are cores. They ask a
//! `TokenManager` and three alternatives: a std `RwLock`, a tokio `RwLock` and arc-swap. Each alternative does the
//! work of the hot path: two clock reads, a comparison and a clone of the header value.
//!
//! The figure is the wall time divided by the number of calls. Two threads that do not contend halve it. More tasks
//! than cores contend no more than one task per core does.
//!
//! Two other costs are included. One is the start of the tasks, spread over thousands of calls. The other is the
//! reference count that all clones of a header share, which is contended in all four cases. No real service asks this
//! fast.

use std::{
    future::ready,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use benches::{CachedHeader, fresh};
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main, measurement::WallTime};
use http::HeaderValue;
use osdatahub_auth::TokenManager;
use tokio::{runtime::Runtime, sync::Barrier};

/// A token behind some kind of synchronisation.
trait TokenCell: Send + Sync + 'static {
    fn header(&self) -> impl Future<Output = HeaderValue> + Send;
}

impl TokenCell for TokenManager {
    async fn header(&self) -> HeaderValue {
        self.token().await.expect("a fresh token").header_value()
    }
}

impl TokenCell for std::sync::RwLock<CachedHeader> {
    fn header(&self) -> impl Future<Output = HeaderValue> + Send {
        ready(self.read().expect("not poisoned").header())
    }
}

impl TokenCell for tokio::sync::RwLock<CachedHeader> {
    async fn header(&self) -> HeaderValue {
        self.read().await.header()
    }
}

impl TokenCell for ArcSwap<CachedHeader> {
    fn header(&self) -> impl Future<Output = HeaderValue> + Send {
        ready(self.load().header())
    }
}

/// Wall time of `calls` calls, divided among `tasks` tasks.
fn time_calls(runtime: &Runtime, cell: &Arc<impl TokenCell>, tasks: usize, calls: u64) -> Duration {
    let calls_per_task = calls.div_ceil(tasks as u64);
    runtime.block_on(async {
        let barrier = Arc::new(Barrier::new(tasks + 1));
        let tasks: Vec<_> = (0..tasks)
            .map(|_| {
                let (barrier, cell) = (barrier.clone(), cell.clone());
                tokio::spawn(async move {
                    barrier.wait().await;
                    for _ in 0..calls_per_task {
                        black_box(cell.header().await);
                    }
                })
            })
            .collect();
        barrier.wait().await;
        let start = Instant::now();
        for task in tasks {
            task.await.expect("the task does not panic");
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
    bench_all_task_counts(&mut group, "TokenManager", fresh().0);
    bench_all_task_counts(&mut group, "std RwLock", std::sync::RwLock::new(CachedHeader::new()));
    bench_all_task_counts(
        &mut group,
        "tokio RwLock",
        tokio::sync::RwLock::new(CachedHeader::new()),
    );
    bench_all_task_counts(&mut group, "arc-swap", ArcSwap::from_pointee(CachedHeader::new()));
    group.finish();
}

fn bench_all_task_counts(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, cell: impl TokenCell) {
    let runtime = Runtime::new().expect("a runtime");
    let cell = Arc::new(cell);
    for tasks in [1, 2, 4, 8, 16] {
        group.bench_function(BenchmarkId::new(name, tasks), |bencher| {
            bencher.iter_custom(|calls| time_calls(&runtime, &cell, tasks, calls));
        });
    }
}

criterion_group!(benches, contention);
criterion_main!(benches);
