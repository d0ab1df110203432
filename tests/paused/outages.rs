//! Outages of the token endpoint: errors that callers get, backoff, and the number of POSTs. In paused time, with an
//! in-process source.

use std::time::Duration;

use osdatahub_auth::{Error, ErrorKind, TokenManager, TokenState};
use test_support::{KINDS, LIFETIME, Outcome, Source, millis, secs};
use tokio::task::JoinSet;
use tokio::time::{Instant, advance, sleep, timeout};

/// Script: transient failures between these two times after the start, and tokens before and after.
fn outage(from: Duration, to: Duration) -> impl Fn(usize) -> Outcome {
    let start = Instant::now();
    move |_| {
        if (from..to).contains(&start.elapsed()) {
            Outcome::failure(ErrorKind::Unavailable).after(millis(20))
        } else {
            Outcome::token(LIFETIME).after(millis(20))
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_dies_at_60_s_is_not_felt_before_289_s_and_costs_at_most_60_posts() {
    let source = Source::new(outage(secs(60), Duration::MAX));
    let tokens = source.manager();
    let start = Instant::now();
    let mut first_error = None;
    while start.elapsed() < secs(600) {
        match tokens.token().await {
            Ok(token) => assert!(!token.remaining().is_zero(), "an expired token was handed out"),
            Err(_) => _ = first_error.get_or_insert(start.elapsed()),
        }
        sleep(millis(100)).await;
    }
    assert!(first_error.unwrap() >= secs(289), "{first_error:?}");
    let posts = source.count() - 1;
    assert!(posts <= 60, "{posts} POSTs");
}

#[tokio::test(start_paused = true)]
async fn an_outage_from_60_s_to_280_s_is_not_felt_at_all() {
    for _ in 0..50 {
        let source = Source::new(outage(secs(60), secs(280)));
        let tokens = source.manager();
        let start = Instant::now();
        while start.elapsed() < secs(400) {
            tokens.token().await.unwrap();
            sleep(millis(100)).await;
        }
        assert_eq!(tokens.status().consecutive_failures, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_day_of_every_other_answer_failing_shows_no_error_and_costs_at_most_760_posts() {
    let source = Source::new(|n| {
        if n % 2 == 0 {
            Outcome::failure(ErrorKind::Unavailable).after(millis(20))
        } else {
            Outcome::token(LIFETIME).after(millis(20))
        }
    });
    let tokens = source.manager();
    let start = Instant::now();
    while start.elapsed() < secs(86_400) {
        for _ in 0..10 {
            tokens.token().await.unwrap();
        }
        sleep(millis(100)).await;
    }
    assert!(source.count() <= 760, "{} POSTs", source.count());
}

#[tokio::test(start_paused = true)]
async fn a_failed_refresh_leaves_the_token_as_it_was() {
    let source = Source::new(|n| match n {
        1 => Outcome::token(LIFETIME),
        _ => Outcome::failure(ErrorKind::MalformedResponse),
    });
    let tokens = source.manager();
    let first = tokens.token().await.unwrap();
    while tokens.current().is_some() {
        let token = tokens.token().await.unwrap();
        assert_eq!(token.expose_secret(), first.expose_secret());
        sleep(secs(1)).await;
    }
    assert!(
        first.remaining() > secs(8),
        "the lifetime should not be shortened: {:?} remaining",
        first.remaining()
    );
    let status = tokens.status();
    assert_eq!(status.state, TokenState::Unusable);
    assert_eq!(status.last_error.unwrap().kind(), ErrorKind::MalformedResponse);
    assert!(status.consecutive_failures >= 3);
}

/// Measures the backoff: the seconds between the end of each fetch and the start of the next. A caller keeps
/// asking for a token, and sleeps for 10 ms between two calls.
async fn backoffs(script: impl Fn(usize) -> Outcome + Send + Sync + 'static, fetches: usize) -> Vec<f64> {
    let source = Source::new(script);
    let tokens = source.manager();
    while source.count() < fetches {
        let _ = tokens.token().await;
        sleep(millis(10)).await;
    }
    let fetches = source.fetches();
    fetches
        .windows(2)
        .map(|pair| (pair[1].started - pair[0].ended.unwrap()).as_secs_f64())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn failures_back_off_from_1_s_doubling_to_15_s_with_equal_jitter() {
    let mut first = Vec::new();
    for _ in 0..20 {
        let backoffs = backoffs(|_| Outcome::failure(ErrorKind::Unavailable), 8).await;
        for (backoff, full) in backoffs.iter().zip([1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0]) {
            // The caller's sleep of 10 ms may add to it.
            assert!((full / 2.0..=full + 0.012).contains(backoff), "{backoffs:?}");
        }
        first.push(backoffs[0]);
    }
    first.sort_by(f64::total_cmp);
    assert!(first[19] - first[0] > 0.1, "there should be jitter: {first:?}");
}

#[tokio::test(start_paused = true)]
async fn a_terminal_failure_is_tried_again_after_5_s_doubling_to_30_s() {
    for kind in [
        ErrorKind::Configuration,
        ErrorKind::CredentialsRejected,
        ErrorKind::RequestRejected,
    ] {
        let backoffs = backoffs(move |_| Outcome::failure(kind), 6).await;
        for (backoff, full) in backoffs.iter().zip([5.0, 10.0, 20.0, 30.0, 30.0]) {
            assert!((full..=full + 0.012).contains(backoff), "{backoffs:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn failures_of_two_classes_in_turn_back_off_as_well() {
    let malformed = ErrorKind::MalformedResponse;
    for (odd, even) in [
        (ErrorKind::CredentialsRejected, malformed),
        (malformed, ErrorKind::CredentialsRejected),
        (ErrorKind::Unavailable, ErrorKind::RequestRejected),
    ] {
        let backoffs = backoffs(move |n| Outcome::failure([even, odd][n % 2]), 12).await;
        let (mut transient, mut permanent) = (0, 0);
        for (n, backoff) in backoffs.iter().enumerate() {
            let failure = Error::new([odd, even][n % 2], "scripted");
            let (min, max) = if failure.is_transient() {
                transient += 1;
                let full = [1.0, 2.0, 4.0, 8.0, 15.0, 15.0][transient - 1];
                (full / 2.0, full)
            } else {
                permanent += 1;
                let full = [5.0, 10.0, 20.0, 30.0, 30.0, 30.0][permanent - 1];
                (full, full)
            };
            assert!((min..=max + 0.012).contains(backoff), "{n}: {backoffs:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_in_two_ways_in_turn_costs_at_most_60_posts_as_well() {
    let source = Source::new(|n| match n {
        1 => Outcome::token(LIFETIME),
        n if n % 2 == 0 => Outcome::failure(ErrorKind::CredentialsRejected),
        _ => Outcome::failure(ErrorKind::MalformedResponse),
    });
    let tokens = source.manager();
    let start = Instant::now();
    while start.elapsed() < secs(1_900) {
        let error = tokens.token().await.is_err();
        assert!(!error || start.elapsed() >= secs(289), "{:?}", start.elapsed());
        if start.elapsed() < secs(765) {
            // The endpoint dies at 224 s, when the first refresh is due.
            assert!(source.count() <= 61, "{} POSTs", source.count());
        }
        sleep(millis(100)).await;
    }
    assert!(source.count() <= 120, "{} POSTs", source.count());
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_a_floor_and_at_most_60_s() {
    for (retry_after, min, max) in [(7, 7.0, 7.02), (3_600, 60.0, 60.02), (0, 0.5, 1.02)] {
        let script = move |_| {
            let error = Error::new(ErrorKind::RateLimited, "scripted");
            Outcome::error(error.with_retry_after(secs(retry_after)))
        };
        let backoffs = backoffs(script, 2).await;
        assert!((min..=max).contains(&backoffs[0]), "{retry_after}: {backoffs:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn between_attempts_a_caller_waits_for_the_next_one_if_that_can_help_it() {
    let source = Source::new(|n| match n {
        1 => Outcome::failure(ErrorKind::Unavailable),
        _ => Outcome::token(LIFETIME),
    });
    let tokens = source.manager();
    timeout(millis(100), tokens.token()).await.unwrap_err();
    assert_eq!(source.count(), 1);
    tokens.token().await.unwrap();
    assert_eq!(source.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn between_attempts_a_caller_fails_at_once_if_the_next_one_comes_too_late_or_cannot_help() {
    let too_late = Error::new(ErrorKind::RateLimited, "scripted").with_retry_after(secs(40));
    let permanent = Error::new(ErrorKind::CredentialsRejected, "scripted");
    for (error, due, remaining) in [(too_late, secs(40), secs(39)), (permanent, secs(5), secs(4))] {
        let source = Source::new(move |_| Outcome::error(error.clone()));
        let tokens = source.manager();
        let first_error = tokens.token().await.unwrap_err();
        assert_eq!(first_error.retry_after(), Some(due));
        advance(secs(1)).await;
        let before = Instant::now();
        let error = tokens.token().await.unwrap_err();
        assert_eq!(before.elapsed(), Duration::ZERO);
        assert_eq!(error.kind(), first_error.kind());
        assert_eq!(error.retry_after(), Some(remaining));
        assert_eq!(source.count(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn the_status_names_no_next_attempt_while_one_is_under_way() {
    let source = Source::healthy();
    let tokens = source.manager();
    assert_eq!(tokens.status().next_attempt, Some(Duration::ZERO));
    let caller = tokio::spawn({
        let tokens = tokens.clone();
        async move { tokens.token().await }
    });
    tokio::task::yield_now().await;
    assert_eq!(tokens.status().next_attempt, None);
    caller.await.unwrap().unwrap();
    assert!(tokens.status().next_attempt > Some(secs(200)));
}

#[tokio::test(start_paused = true)]
async fn the_status_says_when_the_next_attempt_is_whether_or_not_a_caller_waits_for_it() {
    let source = Source::new(|_| Outcome::failure(ErrorKind::Unavailable).after(secs(1)));
    // Too short for a second attempt, which could otherwise be under way when the caller gives up.
    let tokens = TokenManager::builder(source)
        .acquire_timeout(millis(1_200))
        .build()
        .unwrap();
    let due = tokens.token().await.unwrap_err().retry_after();
    assert_eq!(tokens.status().next_attempt, due);
    let caller = tokio::spawn({
        let tokens = tokens.clone();
        async move { tokens.token().await }
    });
    tokio::task::yield_now().await;
    assert_eq!(tokens.status().next_attempt, due);
    sleep(due.unwrap() + millis(1)).await;
    assert_eq!(tokens.status().next_attempt, None, "an attempt is under way");
    caller.await.unwrap().unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn fifty_callers_of_a_failing_endpoint_cost_one_post_an_attempt() {
    let source = Source::new(|_| Outcome::failure(ErrorKind::Unavailable).after(millis(100)));
    let tokens = source.manager();
    let start = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..50 {
        let tokens = tokens.clone();
        callers.spawn(async move {
            while start.elapsed() < secs(60) {
                tokens.token().await.unwrap_err();
                sleep(millis(100)).await;
            }
        });
    }
    callers.join_all().await;
    // After 0.1, 1.1, 3.2, 7.3 s and so on at the latest, and then every 7.5 to 15 s.
    assert!(source.count() <= 12, "{} POSTs", source.count());
    for pair in source.fetches().windows(2) {
        assert!(pair[1].started >= pair[0].ended.unwrap() + millis(500));
    }
}

#[tokio::test(start_paused = true)]
async fn rejected_credentials_are_tried_again_so_a_rotated_secret_needs_no_restart() {
    let source = Source::new(|n| match n {
        1 | 4 => Outcome::token(LIFETIME),
        _ => Outcome::failure(ErrorKind::CredentialsRejected),
    });
    let tokens = source.manager();
    let start = Instant::now();
    let mut failed = 0;
    while source.count() < 4 {
        failed += usize::from(tokens.token().await.is_err());
        sleep(secs(1)).await;
    }
    assert_eq!(failed, 0, "the old token should be served meanwhile");
    assert!(start.elapsed() < secs(289));
}

#[tokio::test(start_paused = true)]
async fn no_kind_of_failure_is_for_ever() {
    for kind in KINDS {
        let source = Source::new(move |n| match n {
            1..=20 => Outcome::failure(kind),
            _ => Outcome::token(LIFETIME),
        });
        let tokens = source.manager();
        let start = Instant::now();
        while tokens.token().await.is_err() {
            sleep(millis(500)).await;
            assert!(start.elapsed() < secs(700), "{kind:?}: no token within 700 s");
        }
    }
}
