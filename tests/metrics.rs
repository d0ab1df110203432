//! Metrics, as a real recorder collects them. In paused time with an in-process source, except for the 401s.

mod common;

use std::{collections::BTreeMap, time::Duration};

use common::{LIFETIME, Outcome, Source, millis, secs};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use osdatahub_auth::{BearerAuth, ErrorKind, FakeAnswer, FakeDataHub, TokenEndpoint, TokenManager};
use reqwest_middleware::ClientBuilder;
use tokio::time::{advance, sleep, timeout};

/// The value of each metric, by name and labels.
type Recorded = BTreeMap<String, DebugValue>;

fn install_recorder() -> (Snapshotter, impl Drop) {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    // Local to this thread, on which the whole test runs.
    let guard = metrics::set_default_local_recorder(Box::leak(Box::new(recorder)));
    (snapshotter, guard)
}

fn recorded(snapshotter: &Snapshotter) -> Recorded {
    let all = snapshotter.snapshot().into_vec().into_iter();
    all.map(|(key, _, _, value)| {
        let (name, labels) = key.key().clone().into_parts();
        let labels: Vec<_> = labels
            .iter()
            .map(|label| format!("{}={}", label.key(), label.value()))
            .collect();
        (
            format!("{} {}", name.as_str(), labels.join(" ")).trim().to_owned(),
            value,
        )
    })
    .collect()
}

fn counter(recorded: &Recorded, name: &str) -> u64 {
    match recorded.get(name) {
        Some(DebugValue::Counter(count)) => *count,
        other => panic!("{name} is {other:?} in {recorded:#?}"),
    }
}

fn gauge(recorded: &Recorded, name: &str) -> f64 {
    match recorded.get(name) {
        Some(DebugValue::Gauge(value)) => value.into_inner(),
        other => panic!("{name} is {other:?} in {recorded:#?}"),
    }
}

fn histogram(recorded: &Recorded, name: &str) -> Vec<f64> {
    match recorded.get(name) {
        Some(DebugValue::Histogram(values)) => values.iter().map(|value| value.into_inner()).collect(),
        other => panic!("{name} is {other:?} in {recorded:#?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn refreshes_are_counted_by_reason_and_outcome_and_timed() {
    let (snapshotter, _guard) = install_recorder();
    let source = Source::new(|n| match n {
        2 => Outcome::failure(ErrorKind::Unavailable).after(millis(200)),
        _ => Outcome::token(LIFETIME).after(millis(50)),
    });
    let tokens = source.manager();
    // Cold …
    tokens.token().await.unwrap();
    let first = recorded(&snapshotter);
    assert_eq!(
        counter(&first, "os_token_refreshes_total reason=cold outcome=adopted"),
        1
    );
    assert_eq!(histogram(&first, "os_token_refresh_seconds"), [0.05]);
    assert_eq!(histogram(&first, "os_token_wait_seconds for=usable"), [0.05]);
    assert!(gauge(&first, "os_token_consecutive_failures").abs() < f64::EPSILON);
    assert!((gauge(&first, "os_token_remaining_seconds") - 299.0).abs() < 1.0);
    // … stale, with a failure that no caller waits for …
    advance(secs(260)).await;
    tokens.token().await.unwrap();
    sleep(millis(300)).await;
    let second = recorded(&snapshotter);
    let failed = "os_token_refreshes_total reason=stale outcome=unavailable";
    assert_eq!(counter(&second, failed), 1);
    assert!((gauge(&second, "os_token_consecutive_failures") - 1.0).abs() < f64::EPSILON);
    assert!((gauge(&second, "os_token_remaining_seconds") - 38.75).abs() < 1.0);
    assert_eq!(histogram(&second, "os_token_wait_seconds for=usable"), [0.0; 0]);
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
    let last = recorded(&snapshotter);
    assert_eq!(counter(&last, "os_token_unauthorized_total action=replaced"), 1);
    for reason in ["unusable", "forced", "rejected"] {
        let name = format!("os_token_refreshes_total reason={reason} outcome=adopted");
        assert_eq!(counter(&last, &name), 1, "{reason}");
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
    let (snapshotter, _guard) = install_recorder();
    let tokens = Source::healthy().manager();
    tokens.token().await.unwrap();
    // A snapshot resets every metric.
    assert!(gauge(&recorded(&snapshotter), "os_token_remaining_seconds") > 290.0);
    for _ in 0..100 {
        tokens.token().await.unwrap();
        sleep(secs(1)).await;
    }
    for (name, value) in recorded(&snapshotter) {
        let empty = match &value {
            DebugValue::Counter(count) => *count == 0,
            DebugValue::Histogram(values) => values.is_empty(),
            DebugValue::Gauge(value) => value.into_inner() == 0.0,
        };
        assert!(empty, "{name}: {value:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn waits_are_told_apart_and_those_who_gave_up_count_too() {
    let (snapshotter, _guard) = install_recorder();
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
    assert_eq!(
        histogram(&recorded(&snapshotter), "os_token_wait_seconds for=usable"),
        [1.0, 2.0]
    );
    advance(secs(200)).await;
    tokens.token_lasting(secs(140)).await.unwrap();
    assert_eq!(
        histogram(&recorded(&snapshotter), "os_token_wait_seconds for=lasting"),
        [4.0]
    );
    // A caller that fails at once has not waited.
    advance(secs(300)).await;
    tokens.token().await.unwrap_err();
    recorded(&snapshotter);
    tokens.token().await.unwrap_err();
    let waits = histogram(&recorded(&snapshotter), "os_token_wait_seconds for=usable");
    assert_eq!(waits, [0.0; 0]);
}

#[tokio::test(start_paused = true)]
async fn projects_with_names_are_told_apart() {
    let (snapshotter, _guard) = install_recorder();
    let failing = Source::new(|_| Outcome::failure(ErrorKind::Unavailable));
    for (source, name) in [(failing, "premium"), (Source::healthy(), "public")] {
        let tokens = TokenManager::builder(source).project(name).build().unwrap();
        let _ = tokens.token().await;
    }
    let recorded = recorded(&snapshotter);
    let failures = |project: &str| gauge(&recorded, &format!("os_token_consecutive_failures project={project}"));
    assert_eq!(
        [failures("premium"), failures("public")].map(f64::to_bits),
        [1.0, 0.0].map(f64::to_bits)
    );
    for name in [
        "os_token_refreshes_total reason=cold outcome=adopted project=public",
        "os_token_refresh_seconds project=public",
        "os_token_wait_seconds for=usable project=public",
        "os_token_remaining_seconds project=public",
    ] {
        assert!(recorded.contains_key(name), "{name} is missing from {recorded:#?}");
    }
}

#[tokio::test]
async fn what_is_done_about_a_401_is_counted() {
    let (snapshotter, _guard) = install_recorder();
    let hub = FakeDataHub::start().await.unwrap();
    // A 401 replaces a token that has been held for 0.5 s.
    hub.set_lifetime(secs(2));
    let endpoint = TokenEndpoint::builder(hub.credentials()).token_url(hub.token_url());
    let tokens = TokenManager::builder(endpoint.build().unwrap()).build().unwrap();
    let auth = BearerAuth::new(tokens).with_origin(hub.origin()).unwrap();
    let client = ClientBuilder::new(hub.client_builder().build().unwrap())
        .with(auth)
        .build();
    let status = async |path: &str| client.get(hub.url(path)).send().await.unwrap().status().as_u16();

    hub.refuse_path("/maps/not-in-the-project");
    assert_eq!(status("/maps/not-in-the-project").await, 401);
    hub.answer_path("/maps/odd", FakeAnswer::new(401, "<html>"));
    assert_eq!(status("/maps/odd").await, 401, "the token is too new");
    sleep(Duration::from_millis(600)).await;
    hub.revoke_all();
    assert_eq!(status("/maps/x").await, 200);

    let recorded = recorded(&snapshotter);
    for action in ["not_about_token", "too_new", "replaced"] {
        let name = format!("os_token_unauthorized_total action={action}");
        assert_eq!(counter(&recorded, &name), 1, "{action}");
    }
}
