//! Log events and the span of a refresh: one event for each refresh, at WARN or above only if an operator should
//! know.

use futures_util::FutureExt;
use osdatahub_auth::{ErrorKind, TokenManager};
use test_support::{LIFETIME, LogCapture, Outcome, Source, secs};
use tokio::runtime::{Builder, Runtime};
use tokio::time::sleep;
use tracing::{Instrument, Level};

/// Log of an outage: nine failures of this kind, then a token.
async fn log_of_outage(kind: ErrorKind) -> LogCapture {
    let (log, _guard) = LogCapture::start();
    let source = Source::new(move |n| match n {
        1..=9 => Outcome::failure(kind),
        _ => Outcome::token(LIFETIME),
    });
    let tokens = source.manager();
    let _warm = tokens.keep_warm();
    while source.count() < 10 {
        sleep(secs(1)).await;
    }
    sleep(secs(1)).await;
    log
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_a_warning_at_first_and_at_every_doubling_and_an_info_when_it_is_over() {
    let log = log_of_outage(ErrorKind::Unavailable)
        .await
        .starting_with("token refresh");
    let levels: Vec<_> = log.iter().map(|(level, _)| *level).collect();
    let (warn, debug) = (Level::WARN, Level::DEBUG);
    assert_eq!(
        levels,
        [warn, warn, debug, warn, debug, debug, debug, warn, debug, Level::INFO]
    );
    let (_, first) = &log[0];
    for expected in [
        "kind=Unavailable",
        "failures=1",
        "retry_in=",
        "error=",
        "scripted",
        "in os_token_refresh",
    ] {
        assert!(first.contains(expected), "{first} should contain {expected}");
    }
    let (_, recovered) = log.last().unwrap();
    assert!(recovered.contains("recovered after_failures=9"), "{recovered}");
}

#[tokio::test(start_paused = true)]
async fn credentials_that_are_rejected_are_an_error() {
    let log = log_of_outage(ErrorKind::CredentialsRejected)
        .await
        .starting_with("token refresh");
    assert_eq!(log[0].0, Level::ERROR);
    assert!(log[0].1.contains("kind=CredentialsRejected"), "{}", log[0].1);
}

#[tokio::test(start_paused = true)]
async fn an_outage_does_not_hide_that_credentials_are_rejected_after_it() {
    let (log, _guard) = LogCapture::start();
    let source = Source::new(|n| match n {
        1..=2 => Outcome::failure(ErrorKind::Unavailable),
        3 => Outcome::failure(ErrorKind::CredentialsRejected),
        _ => Outcome::token(LIFETIME),
    });
    let tokens = source.manager();
    let _warm = tokens.keep_warm();
    while source.count() < 3 {
        sleep(secs(1)).await;
    }
    sleep(secs(1)).await;
    let levels = log.starting_with("token refresh failed");
    let levels: Vec<_> = levels.iter().map(|(level, _)| *level).collect();
    assert_eq!(levels, [Level::WARN, Level::WARN, Level::ERROR]);
}

#[tokio::test(start_paused = true)]
async fn ten_good_minutes_are_quiet() {
    let (log, _guard) = LogCapture::start();
    let tokens = Source::healthy().manager();
    for _ in 0..600 {
        tokens.token().await.unwrap();
        sleep(secs(1)).await;
    }
    let refreshes = log.starting_with("token refresh");
    assert_eq!(refreshes.len(), 3);
    assert!(
        refreshes.iter().all(|(level, _)| *level == Level::DEBUG),
        "{refreshes:?}"
    );
    // A cache hit records neither an event nor a span.
    let all = log.starting_with("").len();
    let spans = log.starting_with("span").len();
    assert_eq!((spans, all), (3, 6));
}

#[tokio::test(start_paused = true)]
async fn the_span_of_a_refresh_is_a_root_that_follows_from_its_starter() {
    let (log, _guard) = LogCapture::start();
    let tokens = TokenManager::builder(Source::healthy())
        .project("premium")
        .build()
        .unwrap();
    let request = tracing::info_span!("request");
    tokens.token().instrument(request).await.unwrap();
    let spans = log.starting_with("span os_token_refresh");
    let span = r#"span os_token_refresh attempt=1 reason="cold" project="premium", parent none"#;
    assert_eq!(spans, [(Level::INFO, span.to_owned())]);
    assert_eq!(log.starting_with("os_token_refresh follows from request").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_is_given_up_is_a_warning() {
    let (log, _guard) = LogCapture::start();
    let tokens = Source::healthy().manager();
    let undriven = Builder::new_current_thread().enable_all().build().unwrap();
    {
        let _entered = undriven.enter();
        // One poll starts the refresh on this runtime, which then stands still.
        assert!(tokens.token().now_or_never().is_none());
    }
    tokens.token().await.unwrap_err();
    assert_eq!(log.warnings(""), [""; 0], "it may still end");
    sleep(secs(22)).await;
    tokens.token().await.unwrap();
    let warnings = log.warnings("token refresh given up");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("attempt=1"), "{warnings:?}");
    undriven.shutdown_background();
}

#[test]
fn a_keep_warm_whose_runtime_ends_is_a_warning_and_one_that_is_dropped_is_not() {
    let (log, _guard) = LogCapture::start();
    let tokens = Source::healthy().manager();
    let runtime = || Builder::new_current_thread().enable_all().build().unwrap();
    let keep_warm = |runtime: &Runtime| runtime.block_on(async { tokens.keep_warm() });

    let (ends, drops) = (runtime(), runtime());
    let guard = keep_warm(&ends);
    drop(keep_warm(&drops));
    drop(drops);
    assert_eq!(log.warnings("keep_warm"), [""; 0]);
    drop(ends);
    assert_eq!(log.warnings("keep_warm has ended with its runtime").len(), 1);
    drop(guard);

    let ends = runtime();
    let guard = keep_warm(&ends);
    drop(tokens);
    drop(ends);
    assert_eq!(log.warnings("keep_warm").len(), 1, "there is no token to keep warm");
    drop(guard);
}

/// Log messages are part of the API, so the guide must list each one word for word.
#[test]
fn every_message_is_in_the_guide_as_it_is_in_the_code() {
    let guide = include_str!("../../src/guide/operating.md");
    let code = include_str!("../../src/telemetry.rs");
    let rows: Vec<_> = guide.lines().filter(|line| line.starts_with("| `")).collect();
    let mut events = 0;
    for level in ["debug!(", "info!(", "warn!(", "error!("] {
        for call in code.split(level).skip(1) {
            let Some(message) = call.split(')').next().and_then(|call| call.rsplit('"').nth(1)) else {
                continue;
            };
            events += 1;
            let start_of_row = format!("| `{message}` |");
            assert!(
                rows.iter().any(|row| row.starts_with(&start_of_row)),
                "src/guide/operating.md does not list {message:?}"
            );
        }
    }
    assert!(events >= 12, "found only {events} events in src/telemetry.rs");
}
