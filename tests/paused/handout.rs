//! `hand_out`: tokens for map pages. In paused time, with an in-process source.

use std::time::Duration;

use osdatahub_auth::{Error, ErrorKind, HandOut, TokenManager};
use serde_json::{Value, json};
use test_support::{KINDS, LIFETIME, Outcome, Source, millis, secs};
use tokio::time::{Instant, advance, sleep};

/// The JSON that a page gets.
fn to_json(hand_out: &HandOut) -> Value {
    serde_json::to_value(hand_out).unwrap()
}

async fn hand_out_json(tokens: &TokenManager, at_least: Duration) -> Value {
    to_json(&tokens.hand_out(at_least).await.unwrap())
}

fn expires_in(json: &Value) -> u64 {
    json["expires_in"].as_u64().unwrap()
}

#[track_caller]
fn assert_about(seconds: u64, expected: u64) {
    // A token's age also depends on the wall clock, which tokio cannot pause.
    assert!(
        (expected - 1..=expected).contains(&seconds),
        "{seconds} s, but expected about {expected} s"
    );
}

/// Script: a token with this lifetime, then this error for every fetch.
fn one_token_then(lifetime: Duration, error: Error) -> impl Fn(usize) -> Outcome {
    move |n| match n {
        1 => Outcome::token(lifetime),
        _ => Outcome::error(error.clone()).after(millis(50)),
    }
}

fn unavailable() -> Error {
    Error::new(ErrorKind::Unavailable, "CanaryReason")
}

#[tokio::test(start_paused = true)]
async fn a_page_gets_the_token_and_what_is_left_of_it_now_and_nothing_else() {
    let source = Source::new(|_| Outcome::token(LIFETIME));
    let tokens = source.manager();
    let hand_out = tokens.hand_out(secs(60)).await.unwrap();
    advance(secs(100)).await;
    let token = tokens.current().unwrap();
    let json = to_json(&hand_out);
    assert_about(expires_in(&json), 199);
    assert!(json["issued_at"].is_u64(), "{json}");
    assert_eq!(
        json,
        json!({
            "access_token": token.expose_secret(),
            "expires_in": json["expires_in"],
            "token_type": "Bearer",
            "issued_at": json["issued_at"],
        })
    );
}

#[tokio::test(start_paused = true)]
async fn a_token_with_too_little_left_is_renewed_before_it_is_handed_out() {
    let source = Source::new(|_| Outcome::token(secs(300)).after(millis(50)));
    let tokens = source.manager();
    hand_out_json(&tokens, secs(120)).await;
    advance(secs(170)).await;
    assert_about(expires_in(&hand_out_json(&tokens, secs(120)).await), 130);
    assert_eq!(
        source.count(),
        1,
        "a token with 130 s remaining should be handed out when 120 s are required"
    );
    advance(secs(20)).await;
    assert_about(expires_in(&hand_out_json(&tokens, secs(120)).await), 300);
    assert_eq!(source.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn at_least_counts_up_to_half_of_the_life() {
    let source = Source::new(|_| Outcome::token(secs(300)));
    let tokens = source.manager();
    hand_out_json(&tokens, Duration::MAX).await;
    advance(secs(148)).await;
    assert_about(expires_in(&hand_out_json(&tokens, Duration::MAX).await), 152);
    assert_eq!(source.count(), 1);
    advance(secs(4)).await;
    assert_about(expires_in(&hand_out_json(&tokens, Duration::MAX).await), 300);
    assert_eq!(source.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_pages_at_once_cost_one_renewal() {
    let source = Source::new(|_| Outcome::token(LIFETIME).after(secs(1)));
    let tokens = source.manager();
    hand_out_json(&tokens, secs(120)).await;
    advance(secs(200)).await;
    let pages: Vec<_> = (0..1_000)
        .map(|_| {
            let tokens = tokens.clone();
            tokio::spawn(async move { expires_in(&hand_out_json(&tokens, secs(120)).await) })
        })
        .collect();
    for page in pages {
        assert!(page.await.unwrap() > 290);
    }
    assert_eq!(source.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn when_the_renewal_fails_the_usable_token_is_handed_out_with_its_true_expires_in() {
    for kind in KINDS {
        let source = Source::new(one_token_then(secs(300), Error::new(kind, "scripted")));
        let tokens = source.manager();
        let first = hand_out_json(&tokens, secs(120)).await;
        advance(secs(200)).await;
        let again = hand_out_json(&tokens, secs(120)).await;
        assert_eq!(again["access_token"], first["access_token"], "{kind:?}");
        assert_about(expires_in(&again), 100);
        assert_eq!(source.count(), 2, "a renewal should have been attempted");
    }
}

#[tokio::test(start_paused = true)]
async fn between_failed_renewals_a_page_does_not_wait_for_the_next_while_the_token_serves() {
    let source = Source::new(one_token_then(secs(300), unavailable().with_retry_after(secs(8))));
    let tokens = source.manager();
    hand_out_json(&tokens, secs(120)).await;
    advance(secs(200)).await;
    hand_out_json(&tokens, secs(120)).await;
    let start = Instant::now();
    for _ in 0..7 {
        hand_out_json(&tokens, secs(120)).await;
        sleep(secs(1)).await;
    }
    assert_eq!(start.elapsed(), secs(7), "no page should wait");
    assert_eq!(
        source.count(),
        2,
        "no fetch should start before `Retry-After` has passed"
    );
    sleep(secs(2)).await;
    hand_out_json(&tokens, secs(120)).await;
    assert_eq!(source.count(), 3, "a fetch should start once `Retry-After` has passed");
}

#[tokio::test(start_paused = true)]
async fn a_token_of_a_tiny_life_is_renewed_first_though_the_last_renewal_is_not_a_second_ago() {
    let source = Source::new(|_| Outcome::token(millis(1_500)));
    let tokens = source.manager();
    let first = hand_out_json(&tokens, secs(1)).await;
    sleep(millis(900)).await;
    assert_ne!(
        hand_out_json(&tokens, secs(1)).await["access_token"],
        first["access_token"]
    );
    assert_eq!(source.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_is_under_way_again_is_waited_for() {
    let source = Source::new(|n| match n {
        2 => Outcome::error(unavailable()),
        _ => Outcome::token(secs(300)).after(millis(400)),
    });
    let tokens = source.manager();
    hand_out_json(&tokens, secs(120)).await;
    advance(secs(200)).await;
    hand_out_json(&tokens, secs(120)).await;
    sleep(secs(2)).await;
    let pages = [0, 100, 300].map(|wait| {
        let tokens = tokens.clone();
        tokio::spawn(async move {
            sleep(millis(wait)).await;
            expires_in(&hand_out_json(&tokens, secs(120)).await)
        })
    });
    for page in pages {
        assert!(page.await.unwrap() > 290);
    }
    assert_eq!(source.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_hangs_keeps_no_page_for_longer_than_the_acquire_timeout() {
    let source = Source::new(|n| match n {
        1 => Outcome::token(secs(300)),
        _ => Outcome::token(secs(300)).after(secs(25)),
    });
    let tokens = source.manager();
    hand_out_json(&tokens, secs(120)).await;
    advance(secs(200)).await;
    let start = Instant::now();
    assert_about(expires_in(&hand_out_json(&tokens, secs(120)).await), 90);
    assert_eq!(start.elapsed(), secs(10));
}

#[tokio::test(start_paused = true)]
async fn without_a_usable_token_a_page_gets_a_503_that_says_when_and_not_why() {
    let source = Source::new(one_token_then(
        secs(300),
        unavailable().with_retry_after(millis(11_500)),
    ));
    let tokens = source.manager();
    hand_out_json(&tokens, secs(120)).await;
    advance(secs(295)).await;
    let error = tokens.hand_out(secs(120)).await.unwrap_err();
    let (status, headers) = HandOut::refusal(&error);
    assert_eq!(status, 503);
    assert_eq!(headers["Retry-After"], "12");
    assert_eq!(headers["Cache-Control"], "no-store");
    assert!(!format!("{headers:?}").contains("CanaryReason"));
    advance(secs(1)).await;
    let error = tokens.hand_out(secs(120)).await.unwrap_err();
    let (_, headers) = HandOut::refusal(&error);
    assert_eq!(
        headers["Retry-After"], "11",
        "`Retry-After` should be the remaining wait"
    );
    assert_eq!(source.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_is_not_handed_out() {
    let source = Source::new(one_token_then(LIFETIME, unavailable()));
    let tokens = source.manager();
    hand_out_json(&tokens, secs(120)).await;
    advance(secs(10)).await;
    tokens.reject(&tokens.current().unwrap());
    tokens.hand_out(Duration::ZERO).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_asks_now_and_then_never_gets_an_expired_token() {
    let source = Source::new(|_| Outcome::token(LIFETIME).after(millis(50)));
    let tokens = source.manager();
    for minutes in 1..50 {
        let remaining = expires_in(&hand_out_json(&tokens, secs(120)).await);
        assert!(remaining >= 120, "{remaining} s");
        sleep(secs(60) * minutes).await;
    }
}
