//! Tests of the two clocks. They stand beside the code because only unit tests can step the wall clock.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use proptest::{collection::vec, prelude::*};
use tokio::time::advance;

use super::*;
use crate::clock::stepped::{step_ahead, step_back};
use crate::status::TokenState;

const LIFE: Duration = Duration::from_secs(299);
const HOUR: Duration = Duration::from_secs(3_600);

/// A source that returns a new token of this age for every fetch.
#[derive(Default)]
struct Counting {
    fetches: AtomicUsize,
    age: Duration,
}

#[async_trait]
impl TokenSource for Arc<Counting> {
    async fn fetch(&self, _replaces: Option<&AccessToken>) -> Result<AccessToken, Error> {
        let number = self.fetches.fetch_add(1, Ordering::Relaxed);
        Ok(AccessToken::new(format!("token-{number}"), LIFE)?.with_age(self.age))
    }
}

/// A manager, and the number of its fetches.
fn manager(age: Duration) -> (TokenManager, impl Fn() -> usize) {
    let source = Arc::new(Counting {
        age,
        ..Counting::default()
    });
    let tokens = TokenManager::builder(source.clone()).build().unwrap();
    (tokens, move || source.fetches.load(Ordering::Relaxed))
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_set_back_changes_nothing() {
    let (tokens, fetches) = manager(Duration::ZERO);
    let first = tokens.token().await.unwrap();
    step_back(HOUR);
    assert_eq!(tokens.status().state, TokenState::Fresh);
    assert!(first.remaining() > Duration::from_secs(298));
    advance(Duration::from_secs(290)).await;
    assert_eq!(tokens.status().state, TokenState::Unusable, "by the monotonic clock");
    assert_eq!(fetches(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_set_ahead_costs_one_early_refresh() {
    let (tokens, fetches) = manager(Duration::ZERO);
    tokens.token().await.unwrap();
    advance(Duration::from_secs(1)).await;
    step_ahead(HOUR);
    assert!(tokens.current().is_none());
    let next = tokens.token().await.unwrap();
    assert!(next.remaining() > Duration::from_secs(298), "counted on the new clock");
    advance(Duration::from_secs(220)).await;
    tokens.token().await.unwrap();
    assert_eq!(fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_was_suspended_does_not_use_the_token_it_slept_on() {
    let (tokens, fetches) = manager(Duration::ZERO);
    let slept_on = tokens.token().await.unwrap();
    advance(Duration::from_secs(1)).await;
    // Suspended for ten minutes: the wall clock moves, the monotonic one does not.
    step_ahead(Duration::from_secs(600));
    assert!(slept_on.remaining().is_zero());
    let next = tokens.token().await.unwrap();
    assert_ne!(next.expose_secret(), slept_on.expose_secret());
    assert_eq!(fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_short_suspension_makes_the_token_stale_not_unusable() {
    let (tokens, _) = manager(Duration::ZERO);
    tokens.token().await.unwrap();
    step_ahead(Duration::from_secs(260));
    assert_eq!(tokens.status().state, TokenState::Stale);
}

/// An event between two callers.
#[derive(Debug, Clone)]
enum Event {
    /// Time passes on both clocks.
    Wait(u64),
    /// The wall clock is set ahead, or the machine is suspended.
    Ahead(u64),
    Back(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..120_u64).prop_map(Event::Wait),
        1 => (0..7_200_u64).prop_map(Event::Ahead),
        1 => (0..7_200_u64).prop_map(Event::Back),
    ]
}

proptest! {
    #[test]
    fn no_step_of_the_wall_clock_leads_to_an_expired_token_or_an_extra_post(events in vec(event(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(async {
            let (tokens, fetches) = manager(Duration::ZERO);
            let (mut steps_ahead, start) = (0, Instant::now());
            for event in events {
                match event {
                    Event::Wait(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
                    Event::Ahead(seconds) => {
                        step_ahead(Duration::from_secs(seconds));
                        steps_ahead += 1;
                    }
                    Event::Back(seconds) => step_back(Duration::from_secs(seconds)),
                }
                let token = tokens.token().await.unwrap();
                prop_assert!(token.remaining() > Duration::from_secs(9), "{:?}", token);
            }
            // One for the first token, one for each 0.75 of a lifetime, and one for each step ahead.
            let lifetimes = start.elapsed().as_millis() / LIFE.mul_f64(0.75).as_millis();
            let max = 1 + lifetimes + steps_ahead;
            prop_assert!(fetches() as u128 <= max, "{} fetches, not {max}", fetches());
            Ok(())
        })?;
    }
}

#[tokio::test(start_paused = true)]
async fn keep_warm_notices_a_suspension_soon_after_waking() {
    let (tokens, fetches) = manager(Duration::ZERO);
    let _warm = tokens.keep_warm();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fetches(), 1);
    step_ahead(HOUR);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_aged_token_has_the_windows_of_what_is_left() {
    let (tokens, _) = manager(Duration::from_secs(200));
    tokens.token().await.unwrap();
    let remaining = Duration::from_secs(99);
    assert_eq!(tokens.status().remaining, remaining);
    let stale = tokens.status().next_attempt.unwrap();
    assert!(
        stale >= remaining.mul_f64(0.75) && stale <= remaining.mul_f64(0.85),
        "{stale:?}"
    );
    advance(Duration::from_millis(95_700)).await;
    assert_eq!(
        tokens.status().state,
        TokenState::Unusable,
        "99 s less the expiry margin"
    );
}

/// A source that returns the same token for every fetch.
struct Same(AtomicUsize);

#[async_trait]
impl TokenSource for Arc<Same> {
    async fn fetch(&self, _replaces: Option<&AccessToken>) -> Result<AccessToken, Error> {
        self.0.fetch_add(1, Ordering::Relaxed);
        AccessToken::new("always-the-same", LIFE)
    }
}

/// A manager whose token has drawn an unexplained 401 and could not be replaced, with the token and the source.
async fn with_a_suspected_token() -> (TokenManager, AccessToken, Arc<Same>) {
    let source = Arc::new(Same(AtomicUsize::new(0)));
    let tokens = TokenManager::builder(source.clone()).build().unwrap();
    let token = tokens.token().await.unwrap();
    advance(Duration::from_secs(10)).await;
    assert_eq!(tokens.unauthorized(&token, Verdict::Unexplained), Action::Replace);
    assert!(tokens.other_than(&token).await.is_none());
    (tokens, token, source)
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_returns_a_suspected_token_fails_and_the_token_is_still_served() {
    let (tokens, _, source) = with_a_suspected_token().await;
    let error = tokens.status().last_error.unwrap();
    assert_eq!(error.kind(), ErrorKind::MalformedResponse);
    assert!(tokens.token().await.is_ok());
    assert_eq!(source.0.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_request_with_an_unexplained_401_does_not_wait_for_the_end_of_a_backoff() {
    let (tokens, token, source) = with_a_suspected_token().await;
    let during_backoff = Instant::now();
    assert_eq!(tokens.unauthorized(&token, Verdict::Unexplained), Action::Replace);
    assert!(tokens.other_than(&token).await.is_none());
    assert_eq!(during_backoff.elapsed(), Duration::ZERO);
    // The next caller after it leads an attempt all the same.
    advance(Duration::from_secs(2)).await;
    assert!(tokens.token().await.is_ok());
    tokio::task::yield_now().await;
    assert_eq!(source.0.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn an_odd_path_does_not_keep_a_revoked_token_in_use() {
    let (tokens, _) = manager(Duration::ZERO);
    // Unexplained 401s keep coming, until their minimum age is 40 s.
    tokens.token().await.unwrap();
    for _ in 0..80 {
        advance(Duration::from_millis(500)).await;
        let token = tokens.token().await.unwrap();
        tokens.unauthorized(&token, Verdict::Unexplained);
        tokio::task::yield_now().await;
    }
    advance(Duration::from_secs(5)).await;
    let revoked = tokens.token().await.unwrap();
    assert_eq!(tokens.unauthorized(&revoked, Verdict::Unexplained), Action::TooNew);
    assert_eq!(tokens.unauthorized(&revoked, Verdict::AboutToken), Action::Replace);
    assert!(tokens.current().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_wall_of_both_sorts_of_refusal_costs_at_most_6_posts_a_minute() {
    let (tokens, fetches) = manager(Duration::ZERO);
    tokens.token().await.unwrap();
    advance(Duration::from_secs(30)).await;
    for minute in 0..5 {
        let before = fetches();
        for tick in 0..600 {
            if let Ok(token) = tokens.token().await {
                let verdict = if tick % 3 == 0 {
                    Verdict::AboutToken
                } else {
                    Verdict::Unexplained
                };
                tokens.unauthorized(&token, verdict);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let posts = fetches() - before;
        assert!(posts <= 6, "{posts} POSTs in minute {minute}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_returns_the_same_token_does_not_make_it_newer() {
    let tokens = TokenManager::builder(Arc::new(Same(AtomicUsize::new(0))))
        .build()
        .unwrap();
    let token = tokens.token().await.unwrap();
    advance(Duration::from_secs(260)).await;
    // Stale, so the source returns the same token again.
    tokens.token().await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    tokens.reject(&token);
    assert!(tokens.current().is_none(), "this process has held it for 260 s");
}
