//! Tokens for map pages: in paused time, with a source inside the process.

mod common;

use std::time::Duration;

use common::{Answer, LIFE, Source, millis, secs};
use osdatahub_auth::{Error, ErrorKind, HandOut, TokenManager};
use serde_json::{Value, json};
use tokio::time::{Instant, advance, sleep};

/// What a page gets.
fn received(hand_out: &HandOut) -> Value {
    serde_json::to_value(hand_out).unwrap()
}

async fn handed_out(tokens: &TokenManager, at_least: Duration) -> Value {
    received(&tokens.hand_out(at_least).await.unwrap())
}

fn expires_in(received: &Value) -> u64 {
    received["expires_in"].as_u64().unwrap()
}

#[track_caller]
fn assert_about(seconds: u64, expected: u64) {
    // The wall clock, which nobody can pause, has its say in a token's age.
    assert!(
        (expected - 1..=expected).contains(&seconds),
        "{seconds} s, not {expected} s"
    );
}

/// A first token with this life, and then nothing but failures.
fn one_token(life: Duration, then: Error) -> impl Fn(usize) -> Answer {
    move |n| match n {
        1 => Answer::token(life),
        _ => Answer::error(then.clone()).after(millis(50)),
    }
}

fn unavailable() -> Error {
    Error::new(ErrorKind::Unavailable, "CanaryReason")
}

#[tokio::test(start_paused = true)]
async fn a_page_gets_the_token_and_what_is_left_of_it_now_and_nothing_else() {
    let source = Source::new(|_| Answer::token(LIFE));
    let tokens = source.manager();
    let hand_out = tokens.hand_out(secs(60)).await.unwrap();
    advance(secs(100)).await;
    let token = tokens.current().unwrap();
    let left = expires_in(&received(&hand_out));
    assert_about(left, 199);
    assert_eq!(
        received(&hand_out),
        json!({"access_token": token.expose_secret(), "expires_in": left, "token_type": "Bearer"})
    );
}

#[tokio::test(start_paused = true)]
async fn a_token_with_too_little_left_is_renewed_before_it_is_handed_out() {
    let source = Source::new(|_| Answer::token(secs(300)).after(millis(50)));
    let tokens = source.manager();
    handed_out(&tokens, secs(120)).await;
    advance(secs(170)).await;
    assert_about(expires_in(&handed_out(&tokens, secs(120)).await), 130);
    assert_eq!(source.count(), 1, "130 s are enough for 120 s");
    advance(secs(20)).await;
    assert_about(expires_in(&handed_out(&tokens, secs(120)).await), 300);
    assert_eq!(source.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn at_least_counts_up_to_half_of_the_life() {
    let source = Source::new(|_| Answer::token(secs(300)));
    let tokens = source.manager();
    handed_out(&tokens, Duration::MAX).await;
    advance(secs(148)).await;
    assert_about(expires_in(&handed_out(&tokens, Duration::MAX).await), 152);
    assert_eq!(source.count(), 1);
    advance(secs(4)).await;
    assert_about(expires_in(&handed_out(&tokens, Duration::MAX).await), 300);
    assert_eq!(source.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_pages_at_once_cost_one_renewal() {
    let source = Source::new(|_| Answer::token(LIFE).after(secs(1)));
    let tokens = source.manager();
    handed_out(&tokens, secs(120)).await;
    advance(secs(200)).await;
    let pages: Vec<_> = (0..1_000)
        .map(|_| {
            let tokens = tokens.clone();
            tokio::spawn(async move { expires_in(&handed_out(&tokens, secs(120)).await) })
        })
        .collect();
    for page in pages {
        assert!(page.await.unwrap() > 290);
    }
    assert_eq!(source.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn when_the_renewal_fails_the_usable_token_is_handed_out_with_its_true_expires_in() {
    for kind in common::KINDS {
        let source = Source::new(one_token(secs(300), Error::new(kind, "scripted")));
        let tokens = source.manager();
        let first = handed_out(&tokens, secs(120)).await;
        advance(secs(200)).await;
        let again = handed_out(&tokens, secs(120)).await;
        assert_eq!(again["access_token"], first["access_token"], "{kind:?}");
        assert_about(expires_in(&again), 100);
        assert_eq!(source.count(), 2, "a renewal was tried");
    }
}

#[tokio::test(start_paused = true)]
async fn between_failed_renewals_a_page_does_not_wait_for_the_next_while_the_token_serves() {
    let source = Source::new(one_token(secs(300), unavailable().with_retry_after(secs(8))));
    let tokens = source.manager();
    handed_out(&tokens, secs(120)).await;
    advance(secs(200)).await;
    handed_out(&tokens, secs(120)).await;
    let start = Instant::now();
    for _ in 0..7 {
        handed_out(&tokens, secs(120)).await;
        sleep(secs(1)).await;
    }
    assert_eq!(start.elapsed(), secs(7), "nobody waited");
    assert_eq!(source.count(), 2, "and nobody asked");
    sleep(secs(2)).await;
    handed_out(&tokens, secs(120)).await;
    assert_eq!(source.count(), 3, "but when it is due, it is tried again");
}

#[tokio::test(start_paused = true)]
async fn a_token_of_a_tiny_life_is_renewed_first_though_the_last_renewal_is_not_a_second_ago() {
    let source = Source::new(|_| Answer::token(millis(1_500)));
    let tokens = source.manager();
    let first = handed_out(&tokens, secs(1)).await;
    sleep(millis(900)).await;
    assert_ne!(
        handed_out(&tokens, secs(1)).await["access_token"],
        first["access_token"]
    );
    assert_eq!(source.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_is_under_way_again_is_waited_for() {
    let source = Source::new(|n| match n {
        2 => Answer::error(unavailable()),
        _ => Answer::token(secs(300)).after(millis(400)),
    });
    let tokens = source.manager();
    handed_out(&tokens, secs(120)).await;
    advance(secs(200)).await;
    handed_out(&tokens, secs(120)).await;
    sleep(secs(2)).await;
    let pages = [0, 100, 300].map(|wait| {
        let tokens = tokens.clone();
        tokio::spawn(async move {
            sleep(millis(wait)).await;
            expires_in(&handed_out(&tokens, secs(120)).await)
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
        1 => Answer::token(secs(300)),
        _ => Answer::token(secs(300)).after(secs(25)),
    });
    let tokens = source.manager();
    handed_out(&tokens, secs(120)).await;
    advance(secs(200)).await;
    let start = Instant::now();
    assert_about(expires_in(&handed_out(&tokens, secs(120)).await), 90);
    assert_eq!(start.elapsed(), secs(10));
}

#[tokio::test(start_paused = true)]
async fn without_a_usable_token_a_page_gets_a_503_that_says_when_and_not_why() {
    let source = Source::new(one_token(secs(300), unavailable().with_retry_after(millis(11_500))));
    let tokens = source.manager();
    handed_out(&tokens, secs(120)).await;
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
    assert_eq!(headers["Retry-After"], "11", "what is left of the wait");
    assert_eq!(source.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_is_not_handed_out() {
    let source = Source::new(one_token(LIFE, unavailable()));
    let tokens = source.manager();
    handed_out(&tokens, secs(120)).await;
    advance(secs(10)).await;
    tokens.reject(&tokens.current().unwrap());
    tokens.hand_out(Duration::ZERO).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn asking_only_now_and_then_never_brings_a_token_that_has_expired() {
    let source = Source::new(|_| Answer::token(LIFE).after(millis(50)));
    let tokens = source.manager();
    for minutes in 1..50 {
        let left = expires_in(&handed_out(&tokens, secs(120)).await);
        assert!(left >= 120, "{left} s");
        sleep(secs(60) * minutes).await;
    }
}
