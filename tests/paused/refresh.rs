//! Single-flight refresh: one fetch at a time, and no failure of a caller, a runtime or a source can block the next.
//! In paused time or on separate runtimes, with an in-process source.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use async_trait::async_trait;
use osdatahub_auth::{AccessToken, Error, ErrorKind, TokenManager, TokenSource, TokenState};
use test_support::{LIFETIME, Outcome, Source, millis, secs};
use tokio::{
    runtime::{Builder, Runtime},
    time::{Instant, advance, sleep, timeout},
};

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

/// Polls a future once, inside the entered runtime if there is one.
fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_every_caller_does_not_stop_the_refresh() {
    let source = Source::new(|_| Outcome::token(LIFETIME).after(secs(3)));
    let tokens = source.manager();
    for _ in 0..10 {
        timeout(millis(100), tokens.token()).await.unwrap_err();
    }
    sleep(secs(3)).await;
    assert!(tokens.current().is_some());
    assert_eq!(source.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn everybody_who_waits_gets_the_one_outcome_error_included() {
    let source = Source::new(|_| Outcome::failure(ErrorKind::RequestRejected).after(secs(1)));
    let tokens = source.manager();
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let tokens = tokens.clone();
            tokio::spawn(async move { tokens.token().await })
        })
        .collect();
    let start = Instant::now();
    for caller in callers {
        let error = caller.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::RequestRejected);
        assert_eq!(error.retry_after(), Some(secs(5)));
    }
    assert_eq!(start.elapsed(), secs(1), "no caller should retry by itself");
    assert_eq!(source.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_waits_for_the_acquire_timeout_and_no_longer() {
    let source = Source::new(|_| Outcome::token(LIFETIME).after(secs(20)));
    let tokens = source.manager();
    let start = Instant::now();
    let error = tokens.token().await.unwrap_err();
    assert_eq!(start.elapsed(), secs(10));
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.is_transient());
    sleep(secs(11)).await;
    assert!(
        tokens.current().is_some(),
        "the refresh should go on without its caller"
    );
    assert_eq!(source.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_hangs_is_given_up_after_30_s_and_asked_again() {
    let source = Source::new(|n| match n {
        1 => Outcome::token(LIFETIME).after(Duration::from_secs(1_000_000)),
        _ => Outcome::token(LIFETIME),
    });
    let tokens = source.manager();
    let start = Instant::now();
    while tokens.token().await.is_err() {}
    let took = start.elapsed();
    assert!(took > secs(30) && took < secs(32), "{took:?}");
    assert_eq!(source.count(), 2);
}

/// Source that panics in its first fetch before it returns a future, and in its second fetch inside the future.
struct PanickingSource(AtomicUsize);

impl TokenSource for PanickingSource {
    fn fetch<'a, 'b, 'f>(
        &'a self,
        _replaces: Option<&'b AccessToken>,
    ) -> Pin<Box<dyn Future<Output = Result<AccessToken, Error>> + Send + 'f>>
    where
        'a: 'f,
        'b: 'f,
    {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        assert!(before != 0, "scripted panic");
        Box::pin(async move {
            assert!(before != 1, "scripted panic");
            AccessToken::new("token", LIFETIME)
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_panics_is_a_failed_refresh_with_its_backoff() {
    // Too short for the backoff, so that each call sees one attempt.
    let tokens = TokenManager::builder(PanickingSource(AtomicUsize::new(0)))
        .acquire_timeout(millis(400))
        .build()
        .unwrap();
    for _ in 0..2 {
        let error = tokens.token().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("panicked"), "{error}");
        assert!(error.retry_after().unwrap() >= millis(500));
        sleep(error.retry_after().unwrap()).await;
    }
    tokens.token().await.unwrap();
}

#[test]
fn a_refresh_whose_runtime_is_shut_down_is_taken_over_by_the_next_caller() {
    let source = Source::new(|n| match n {
        1 => Outcome::token(LIFETIME).after(Duration::from_secs(1_000_000)),
        _ => Outcome::token(LIFETIME),
    });
    let tokens = source.manager();
    let first = runtime();
    first.block_on(async {
        timeout(millis(50), tokens.token()).await.unwrap_err();
    });
    let waiting = std::thread::spawn({
        let tokens = tokens.clone();
        move || runtime().block_on(async { tokens.token().await })
    });
    while source.count() == 0 {
        std::thread::sleep(millis(5));
    }
    std::thread::sleep(millis(50));
    first.shutdown_background();
    waiting.join().unwrap().unwrap();
    assert_eq!(source.count(), 2);
    runtime().block_on(tokens.token()).unwrap();
}

#[test]
fn short_lived_runtimes_do_not_cost_a_post_each() {
    let source = Source::new(|_| Outcome::token(LIFETIME).after(secs(1_000)));
    let tokens = source.manager();
    let start = std::time::Instant::now();
    for _ in 0..30 {
        let job = Builder::new_current_thread().enable_all().build().unwrap();
        job.block_on(async { timeout(millis(5), tokens.token()).await.unwrap_err() });
    }
    let max = 1 + start.elapsed().as_millis() / 500;
    assert!(source.count() as u128 <= max, "{} POSTs", source.count());
}

#[test]
fn the_manager_survives_the_end_of_a_runtime() {
    let source = Source::new(|n| match n {
        1 => Outcome::failure(ErrorKind::Unavailable),
        _ => Outcome::token(LIFETIME),
    });
    // Too short for the backoff, so that the first call sees one attempt.
    let tokens = TokenManager::builder(source.clone())
        .acquire_timeout(millis(400))
        .build()
        .unwrap();
    let error = runtime().block_on(tokens.token()).unwrap_err();
    std::thread::sleep(error.retry_after().unwrap());
    // The next refresh runs on another runtime.
    for _ in 0..2 {
        runtime().block_on(tokens.token()).unwrap();
    }
    assert_eq!(source.count(), 2);
}

#[test]
fn a_caller_on_a_runtime_that_is_shutting_down_gets_an_error_and_does_not_spin() {
    let tokens = Source::healthy().manager();
    let dead = runtime();
    let handle = dead.handle().clone();
    dead.shutdown_background();
    let error = handle.block_on(tokens.token()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(runtime().block_on(tokens.token()).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_refresh_on_a_runtime_that_is_not_driven_is_replaced() {
    let source = Source::healthy();
    let tokens = source.manager();
    let undriven = Builder::new_current_thread().enable_all().build().unwrap();
    {
        let _entered = undriven.enter();
        // One poll starts the refresh on this runtime, which nothing drives.
        assert!(poll_once(tokens.token()).is_none());
    }
    let start = Instant::now();
    while tokens.token().await.is_err() {}
    assert!(start.elapsed() <= secs(33), "{:?}", start.elapsed());
    assert_eq!(source.count(), 1);
    // Driven at last, the old attempt finds that another has taken its place.
    let drive = move || undriven.block_on(tokio::task::yield_now());
    tokio::task::spawn_blocking(drive).await.unwrap();
    assert_eq!(source.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_overdue_attempt_has_one_more_second_to_show_that_it_is_alive() {
    let source = Source::healthy();
    let tokens = source.manager();
    let undriven = Builder::new_current_thread().enable_all().build().unwrap();
    {
        let _entered = undriven.enter();
        assert!(poll_once(tokens.token()).is_none());
    }
    // Overdue for a second, but the process may have been stopped. The first caller grants the last chance.
    advance(secs(32)).await;
    for _ in 0..2 {
        assert!(poll_once(tokens.token()).is_none());
        sleep(millis(400)).await;
        assert_eq!(source.count(), 0, "no second attempt should start yet");
    }
    sleep(millis(400)).await;
    tokens.token().await.unwrap();
    assert_eq!(source.count(), 1);
    undriven.shutdown_background();
}

#[test]
fn outside_a_runtime_a_fresh_token_serves_and_the_want_of_one_is_a_configuration_error() {
    let tokens = Source::healthy().manager();
    let error = poll_once(tokens.token()).unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    runtime().block_on(tokens.token()).unwrap();
    assert!(poll_once(tokens.token()).unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_begins_late_is_no_second_one_at_once() {
    let source = Source::new(|_| Outcome::token(LIFETIME).after(secs(15)));
    let tokens = source.manager();
    let start_on = |runtime: &Runtime| {
        let _entered = runtime.enter();
        assert!(poll_once(tokens.token()).is_none());
    };
    let late = Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    start_on(&late);
    advance(secs(20)).await;
    // Driven after 20 s, the attempt begins only now, so its 31 s count from here.
    let (late, tokens) = tokio::task::spawn_blocking({
        let tokens = tokens.clone();
        move || {
            late.block_on(async {
                advance(secs(20)).await;
                let _ = timeout(secs(1), tokens.token()).await;
            });
            (late, tokens)
        }
    })
    .await
    .unwrap();
    assert_eq!(source.count(), 1);
    advance(secs(12)).await;
    timeout(secs(1), tokens.token()).await.unwrap_err();
    assert_eq!(source.count(), 1, "the attempt is slow, but still under way");
    tokio::task::spawn_blocking(move || drop(late)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn token_lasting_waits_for_one_refresh_and_takes_its_result() {
    // So slow that no new token has half of its lifetime left.
    let source = Source::new(|_| Outcome::token(secs(4)).after(millis(2_200)));
    let tokens = source.manager();
    let start = Instant::now();
    let token = tokens.token_lasting(secs(60)).await.unwrap();
    assert!(token.remaining() > secs(1));
    assert_eq!(start.elapsed(), millis(2_200));
    assert_eq!(source.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_wakes_late_gets_the_current_token() {
    let source = Source::new(|n| match n {
        1 => Outcome::token(LIFETIME),
        _ => Outcome::failure(ErrorKind::Unavailable),
    });
    let tokens = source.manager();
    let mut late = Box::pin(tokens.token());
    assert!(poll_once(late.as_mut()).is_none());
    sleep(secs(2)).await;
    // Another attempt fails before this caller is polled again.
    tokens.token_lasting(secs(1)).await.unwrap();
    advance(secs(240)).await;
    tokens.token_lasting(secs(100)).await.unwrap_err();
    assert!(late.await.is_ok());
}

/// Failing source with a reference count, which shows when the manager has dropped it.
struct Canary {
    _alive: Arc<()>,
    delay: Duration,
}

#[async_trait]
impl TokenSource for Canary {
    async fn fetch(&self, _replaces: Option<&AccessToken>) -> Result<AccessToken, Error> {
        sleep(self.delay).await;
        Err(Error::new(ErrorKind::Unavailable, "scripted"))
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_ends_the_refresh_its_timer_and_the_secret() {
    for delay in [Duration::ZERO, secs(20)] {
        let alive = Arc::new(());
        let source = Canary {
            _alive: alive.clone(),
            delay,
        };
        let tokens = TokenManager::builder(source).build().unwrap();
        let warm = tokens.keep_warm();
        // The drop below comes in the middle of a fetch, or between two attempts.
        let _ = timeout(millis(100), tokens.token()).await;
        let _ = timeout(millis(100), tokens.token()).await;
        let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
        assert!(tasks() > 0);
        let another = tokens.clone();
        drop(tokens);
        sleep(millis(1)).await;
        assert!(tasks() > 0, "one handle still exists");
        drop(another);
        sleep(millis(1)).await;
        assert_eq!(tasks(), 0, "{delay:?}");
        assert_eq!(Arc::strong_count(&alive), 1, "{delay:?}");
        drop(warm);
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_is_told_which_token_is_to_be_replaced() {
    let source = Source::healthy();
    let tokens = source.manager();
    let first = tokens.token().await.unwrap();
    advance(secs(260)).await;
    tokens.token().await.unwrap();
    sleep(secs(1)).await;
    let second = tokens.token().await.unwrap();
    advance(secs(10)).await;
    tokens.reject(&second);
    assert_eq!(tokens.status().state, TokenState::Missing);
    sleep(secs(1)).await;
    let replaced: Vec<_> = source.fetches().into_iter().map(|fetch| fetch.replaces).collect();
    let named = |token: &AccessToken| Some(token.expose_secret().to_owned());
    assert_eq!(replaced, [None, named(&first), named(&second)]);
}

/// Source that records the highest number of concurrent fetches.
#[derive(Default)]
struct ConcurrencyProbe {
    fetches: AtomicUsize,
    running: AtomicUsize,
    max: AtomicUsize,
}

/// Guard for one fetch. It counts a cancelled fetch as ended, too.
struct FetchGuard<'a>(&'a ConcurrencyProbe);

impl Drop for FetchGuard<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl TokenSource for ConcurrencyProbe {
    async fn fetch(&self, _replaces: Option<&AccessToken>) -> Result<AccessToken, Error> {
        let number = self.fetches.fetch_add(1, Ordering::SeqCst);
        let running = 1 + self.running.fetch_add(1, Ordering::SeqCst);
        self.max.fetch_max(running, Ordering::SeqCst);
        let _guard = FetchGuard(self);
        sleep(millis(20)).await;
        AccessToken::new(format!("token-{number}"), millis(300))
    }
}

#[test]
fn callers_on_many_threads_never_have_two_fetches_at_once() {
    let source = Arc::new(ConcurrencyProbe::default());
    let tokens = TokenManager::builder(source.clone()).build().unwrap();
    let end = std::time::Instant::now() + secs(4);
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let tokens = tokens.clone();
            std::thread::spawn(move || {
                while std::time::Instant::now() < end {
                    // Short-lived runtimes end in the middle of a fetch, and callers give up.
                    let job = Builder::new_current_thread().enable_all().build().unwrap();
                    job.block_on(async {
                        for _ in 0..5 {
                            let _ = timeout(millis(10), tokens.token()).await;
                            sleep(millis(3)).await;
                        }
                    });
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(source.max.load(Ordering::SeqCst), 1);
    assert!(
        source.fetches.load(Ordering::SeqCst) >= 2,
        "too few fetches for the test to mean anything"
    );
}
