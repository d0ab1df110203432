//! Rejected tokens and the rejection throttle, in paused time with an in-process source.

use osdatahub_auth::{AccessToken, ErrorKind, TokenManager};
use test_support::{LIFETIME, Outcome, Source, millis, secs};
use tokio::time::{Instant, advance, sleep};

/// Gets a token and advances the clock, so that the token has been held for this long.
async fn token_held_for(tokens: &TokenManager, seconds: u64) -> AccessToken {
    let token = tokens.token().await.unwrap();
    advance(secs(seconds)).await;
    token
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_is_never_handed_out_again() {
    let source = Source::healthy();
    let tokens = source.manager();
    let rejected = token_held_for(&tokens, 5).await;
    tokens.reject(&rejected);
    assert!(tokens.current().is_none());
    let next = tokens.token().await.unwrap();
    assert_ne!(next.expose_secret(), rejected.expose_secret());
    assert_eq!(source.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_rejection_starts_the_refresh_at_once() {
    let source = Source::healthy();
    let tokens = source.manager();
    let rejected = token_held_for(&tokens, 5).await;
    tokens.reject(&rejected);
    sleep(millis(60)).await;
    assert!(tokens.current().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_late_rejection_of_an_older_token_costs_nothing() {
    let source = Source::healthy();
    let tokens = source.manager();
    let old = token_held_for(&tokens, 10).await;
    tokens.reject(&old);
    let new = token_held_for(&tokens, 60).await;
    for _ in 0..100 {
        tokens.reject(&old);
    }
    assert_eq!(tokens.current().unwrap().expose_secret(), new.expose_secret());
    assert_eq!(source.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_rejections_of_one_token_cost_one_post() {
    let source = Source::healthy();
    let tokens = source.manager();
    let rejected = token_held_for(&tokens, 5).await;
    for _ in 0..1_000 {
        tokens.reject(&rejected);
    }
    tokens.token().await.unwrap();
    sleep(secs(5)).await;
    assert_eq!(source.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_new_token_is_not_replaced_for_5_s_or_a_quarter_of_its_life() {
    for (lifetime, wait) in [(LIFETIME, 5_000), (secs(8), 2_000), (secs(2), 500)] {
        let source = Source::new(move |_| Outcome::token(lifetime));
        let tokens = source.manager();
        let token = tokens.token().await.unwrap();
        advance(millis(wait - 1)).await;
        tokens.reject(&token);
        assert!(tokens.current().is_some(), "{lifetime:?}: held too briefly");
        advance(millis(1)).await;
        tokens.reject(&token);
        assert!(tokens.current().is_none(), "{lifetime:?}: held long enough");
    }
}

#[tokio::test(start_paused = true)]
async fn a_wall_of_refusals_costs_at_most_6_posts_a_minute() {
    for pause in [millis(10), secs(1), secs(7), secs(9), secs(10), secs(11)] {
        let source = Source::new(|_| Outcome::token(LIFETIME));
        let tokens = source.manager();
        token_held_for(&tokens, 30).await;
        let start = Instant::now();
        while start.elapsed() < secs(600) {
            if let Ok(token) = tokens.token().await {
                tokens.reject(&token);
            }
            sleep(pause).await;
        }
        let posts: Vec<_> = source.fetches().iter().map(|fetch| fetch.started).collect();
        for (i, from) in posts.iter().enumerate() {
            let minute = posts[i..].iter().filter(|at| **at - *from < secs(60)).count();
            assert!(minute <= 6, "{pause:?}: {minute} POSTs in a minute");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_wait_of_a_wall_of_refusals_falls_back_once_it_has_passed() {
    let source = Source::new(|_| Outcome::token(LIFETIME));
    let tokens = source.manager();
    token_held_for(&tokens, 30).await;
    let start = Instant::now();
    while start.elapsed() < secs(40) {
        tokens.reject(&tokens.token().await.unwrap());
        sleep(millis(100)).await;
    }
    // By now a 401 replaces only a token that has been held for 40 s. After 80 s without a 401, 5 s is enough again.
    let token = token_held_for(&tokens, 81).await;
    tokens.reject(&token);
    let next = token_held_for(&tokens, 11).await;
    tokens.reject(&next);
    assert!(tokens.current().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_returns_the_rejected_token_has_failed() {
    let fixed = AccessToken::new("always-the-same", LIFETIME).unwrap();
    let source = Source::new(move |_| Outcome::exactly(fixed.clone()));
    let tokens = source.manager();
    let token = token_held_for(&tokens, 10).await;
    tokens.reject(&token);
    let error = tokens.token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MalformedResponse);
    assert!(tokens.current().is_none());
    assert!(error.retry_after().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_stays_rejected_while_the_endpoint_is_down() {
    let source = Source::new(|n| match n {
        2..=4 => Outcome::failure(ErrorKind::Unavailable),
        _ => Outcome::token(LIFETIME),
    });
    let tokens = source.manager();
    let rejected = token_held_for(&tokens, 10).await;
    tokens.reject(&rejected);
    while tokens.token().await.is_err() {
        assert!(tokens.current().is_none());
    }
    assert_eq!(source.count(), 5);
}
