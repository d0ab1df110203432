//! Metrics of refreshes and waits, as a real recorder collects them.

use std::collections::BTreeSet;

use metrics::Unit;
use osdatahub_auth::{ErrorKind, TokenManager};
use test_support::{LIFETIME, MetricsCapture, Outcome, Source, millis, secs};
use tokio::time::{advance, sleep, timeout};

#[tokio::test(start_paused = true)]
async fn refreshes_are_counted_by_reason_and_outcome_and_timed() {
    let (metrics, _guard) = MetricsCapture::start();
    let source = Source::new(|n| match n {
        2 => Outcome::failure(ErrorKind::Unavailable).after(millis(200)),
        _ => Outcome::token(LIFETIME).after(millis(50)),
    });
    let tokens = source.manager();
    // Cold …
    tokens.token().await.unwrap();
    let first = metrics.take();
    assert_eq!(first.counter("os_token_refreshes_total reason=cold outcome=ok"), 1);
    assert_eq!(first.histogram("os_token_refresh_seconds"), [0.05]);
    assert_eq!(first.histogram("os_token_wait_seconds for=usable"), [0.05]);
    assert!(first.gauge("os_token_consecutive_failures").abs() < f64::EPSILON);
    assert!((first.gauge("os_token_remaining_seconds") - 299.0).abs() < 1.0);
    // … stale, with a failure that no caller waits for …
    advance(secs(260)).await;
    tokens.token().await.unwrap();
    sleep(millis(300)).await;
    let second = metrics.take();
    let failed = "os_token_refreshes_total reason=stale outcome=unavailable";
    assert_eq!(second.counter(failed), 1);
    assert!((second.gauge("os_token_consecutive_failures") - 1.0).abs() < f64::EPSILON);
    assert!((second.gauge("os_token_remaining_seconds") - 38.75).abs() < 1.0);
    assert_eq!(second.histogram("os_token_wait_seconds for=usable"), [0.0; 0]);
    // … unusable …
    advance(secs(60)).await;
    tokens.token().await.unwrap();
    // … forced …
    advance(secs(160)).await;
    let token = tokens.token_lasting(secs(145)).await.unwrap();
    // … and rejected.
    advance(secs(10)).await;
    tokens.reject(&token);
    tokens.token().await.unwrap();
    let last = metrics.take();
    assert_eq!(last.counter("os_token_unauthorized_total action=replaced"), 1);
    for reason in ["unusable", "forced", "rejected"] {
        let name = format!("os_token_refreshes_total reason={reason} outcome=ok");
        assert_eq!(last.counter(&name), 1, "{reason}");
    }
    let totals = tokens.status().refreshes;
    let totals = [
        totals.cold,
        totals.stale,
        totals.unusable,
        totals.forced,
        totals.rejected,
    ];
    assert_eq!(totals, [1; 5]);
}

#[tokio::test(start_paused = true)]
async fn a_fresh_hit_records_nothing() {
    let (metrics, _guard) = MetricsCapture::start();
    let tokens = Source::healthy().manager();
    tokens.token().await.unwrap();
    // A snapshot resets every metric.
    assert!(metrics.take().gauge("os_token_remaining_seconds") > 290.0);
    for _ in 0..100 {
        tokens.token().await.unwrap();
        sleep(secs(1)).await;
    }
    let recorded = metrics.take();
    assert_eq!(recorded.not_empty().collect::<Vec<_>>(), []);
}

#[tokio::test(start_paused = true)]
async fn waits_are_told_apart_and_those_who_gave_up_count_too() {
    let (metrics, _guard) = MetricsCapture::start();
    let source = Source::new(|n| match n {
        1 => Outcome::token(LIFETIME).after(secs(2)),
        2 => Outcome::token(LIFETIME).after(secs(4)),
        _ => Outcome::failure(ErrorKind::CredentialsRejected),
    });
    let tokens = source.manager();
    // One caller gives up early, the other waits to the end.
    let (gave_up, waited) = tokio::join!(timeout(secs(1), tokens.token()), tokens.token());
    assert!(gave_up.is_err());
    waited.unwrap();
    assert_eq!(metrics.take().histogram("os_token_wait_seconds for=usable"), [1.0, 2.0]);
    advance(secs(200)).await;
    tokens.token_lasting(secs(140)).await.unwrap();
    assert_eq!(metrics.take().histogram("os_token_wait_seconds for=lasting"), [4.0]);
    // A caller that fails at once has not waited.
    advance(secs(300)).await;
    tokens.token().await.unwrap_err();
    metrics.take();
    tokens.token().await.unwrap_err();
    let waits = metrics.take().histogram("os_token_wait_seconds for=usable");
    assert_eq!(waits, [0.0; 0]);
}

#[tokio::test(start_paused = true)]
async fn projects_with_names_are_told_apart() {
    let (metrics, _guard) = MetricsCapture::start();
    let failing = Source::new(|_| Outcome::failure(ErrorKind::CredentialsRejected));
    for (source, name) in [(failing, "premium"), (Source::healthy(), "public")] {
        let tokens = TokenManager::builder(source).project(name).build().unwrap();
        let _ = tokens.token().await;
    }
    let recorded = metrics.take();
    let failures = |project: &str| recorded.gauge(&format!("os_token_consecutive_failures project={project}"));
    assert_eq!(
        [failures("premium"), failures("public")].map(f64::to_bits),
        [1.0, 0.0].map(f64::to_bits)
    );
    for name in [
        "os_token_refreshes_total reason=cold outcome=ok project=public",
        "os_token_refresh_seconds project=public",
        "os_token_wait_seconds for=usable project=public",
        "os_token_remaining_seconds project=public",
    ] {
        assert!(recorded.contains(name), "{name} is missing from {recorded:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_metric_is_described_to_a_recorder_that_came_late() {
    let tokens = Source::healthy().manager();
    let token = tokens.token().await.unwrap();
    let (metrics, _guard) = MetricsCapture::start();
    advance(secs(10)).await;
    tokens.reject(&token);
    tokens.token().await.unwrap();
    let units = metrics.take_units();
    let units: Vec<_> = units.iter().map(|(name, unit)| (name.as_str(), *unit)).collect();
    let (count, seconds) = (Some(Unit::Count), Some(Unit::Seconds));
    assert_eq!(
        units,
        [
            ("os_token_consecutive_failures", count),
            ("os_token_refresh_seconds", seconds),
            ("os_token_refreshes_total", count),
            ("os_token_remaining_seconds", seconds),
            ("os_token_unauthorized_total", count),
            ("os_token_wait_seconds", seconds),
        ]
    );
}

/// Names of metrics are part of the API.
#[test]
fn the_guide_lists_every_metric_that_is_described_and_no_other() {
    let guide = include_str!("../../src/guide/metrics.md");
    let code = include_str!("../../src/telemetry.rs");
    let rows = guide.lines().filter_map(|line| line.strip_prefix("| `os_token_"));
    let listed: BTreeSet<_> = rows.filter_map(|row| row.split('`').next()).collect();
    let calls = ["describe_counter!(", "describe_gauge!(", "describe_histogram!("];
    let calls = calls.into_iter().flat_map(|call| code.split(call).skip(1));
    let described: BTreeSet<_> = calls
        .map(|call| call.split('"').nth(1).unwrap().strip_prefix("os_token_").unwrap())
        .collect();
    assert_eq!(listed, described);
    assert!(listed.len() >= 6, "{listed:?}");
}
