//! What an operator reads: one event for each refresh, loud only where somebody has to know; and the refresh's span.
//! In paused time, with a source inside the process, except for what only the token endpoint tells.

mod common;
#[path = "common/told.rs"]
mod told;

use common::{Answer, LIFE, Source, secs};
use osdatahub_auth::{ErrorKind, FakeAnswer, FakeDataHub, TokenEndpoint, TokenManager, TokenSource};
use tokio::time::sleep;
use told::Told;
use tracing::{Instrument, Level};

/// Nine failures of this kind, then a token.
async fn an_outage(kind: ErrorKind) -> Told {
    let (told, _guard) = Told::listen();
    let source = Source::new(move |n| match n {
        1..=9 => Answer::failure(kind),
        _ => Answer::token(LIFE),
    });
    let tokens = source.manager();
    let _warm = tokens.keep_warm();
    while source.count() < 10 {
        sleep(secs(1)).await;
    }
    sleep(secs(1)).await;
    told
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_a_warning_at_first_and_at_every_doubling_and_an_info_when_it_is_over() {
    let told = an_outage(ErrorKind::Unavailable).await.starting_with("token refresh");
    let levels: Vec<_> = told.iter().map(|(level, _)| *level).collect();
    let (warn, debug) = (Level::WARN, Level::DEBUG);
    assert_eq!(
        levels,
        [warn, warn, debug, warn, debug, debug, debug, warn, debug, Level::INFO]
    );
    let (_, first) = &told[0];
    for expected in [
        "kind=Unavailable",
        "failures=1",
        "retry_in=",
        "error=",
        "scripted",
        "in os_token_refresh",
    ] {
        assert!(first.contains(expected), "{expected} in {first}");
    }
    let (_, recovered) = told.last().unwrap();
    assert!(recovered.contains("recovered after_failures=9"), "{recovered}");
}

#[tokio::test(start_paused = true)]
async fn credentials_that_are_rejected_are_an_error() {
    let told = an_outage(ErrorKind::CredentialsRejected)
        .await
        .starting_with("token refresh");
    assert_eq!(told[0].0, Level::ERROR);
    assert!(told[0].1.contains("kind=CredentialsRejected"), "{}", told[0].1);
}

#[tokio::test(start_paused = true)]
async fn an_outage_does_not_hide_that_credentials_are_rejected_after_it() {
    let (told, _guard) = Told::listen();
    let source = Source::new(|n| match n {
        1..=2 => Answer::failure(ErrorKind::Unavailable),
        3 => Answer::failure(ErrorKind::CredentialsRejected),
        _ => Answer::token(LIFE),
    });
    let tokens = source.manager();
    let _warm = tokens.keep_warm();
    while source.count() < 3 {
        sleep(secs(1)).await;
    }
    sleep(secs(1)).await;
    let levels = told.starting_with("token refresh failed");
    let levels: Vec<_> = levels.iter().map(|(level, _)| *level).collect();
    assert_eq!(levels, [Level::WARN, Level::WARN, Level::ERROR]);
}

#[tokio::test(start_paused = true)]
async fn ten_good_minutes_are_quiet() {
    let (told, _guard) = Told::listen();
    let tokens = Source::healthy().manager();
    for _ in 0..600 {
        tokens.token().await.unwrap();
        sleep(secs(1)).await;
    }
    let refreshed = told.starting_with("token refresh");
    assert_eq!(refreshed.len(), 3);
    assert!(
        refreshed.iter().all(|(level, _)| *level == Level::DEBUG),
        "{refreshed:?}"
    );
    // A caller who is served leaves no trace.
    let all = told.starting_with("").len();
    let spans = told.starting_with("span").len();
    assert_eq!((spans, all), (3, 6));
}

#[tokio::test(start_paused = true)]
async fn the_span_of_a_refresh_is_a_root_that_follows_from_its_starter() {
    let (told, _guard) = Told::listen();
    let tokens = TokenManager::builder(Source::healthy())
        .project("premium")
        .build()
        .unwrap();
    let request = tracing::info_span!("request");
    tokens.token().instrument(request).await.unwrap();
    let spans = told.starting_with("span os_token_refresh");
    let span = r#"span os_token_refresh attempt=1 reason="cold" project="premium", parent none"#;
    assert_eq!(spans, [(Level::INFO, span.to_owned())]);
    assert_eq!(told.starting_with("os_token_refresh follows from request").len(), 1);
}

#[tokio::test]
async fn an_answer_that_does_not_say_how_long_its_token_lives_is_a_warning() {
    let (told, _guard) = Told::listen();
    let hub = FakeDataHub::start().await.unwrap();
    hub.fail_next(1, FakeAnswer::new(200, r#"{"access_token":"t"}"#));
    let endpoint = TokenEndpoint::builder(hub.credentials()).token_url(hub.token_url());
    let endpoint = endpoint.build().unwrap();
    for _ in 0..2 {
        endpoint.fetch(None).await.unwrap();
    }
    let warnings = told.starting_with("the token endpoint did not say");
    assert_eq!(warnings.len(), 1, "OS's own answer is none");
    assert_eq!(warnings[0].0, Level::WARN);
    assert!(warnings[0].1.contains("life=240s"), "{}", warnings[0].1);
}

/// They are a part of the API, so a new one belongs in the guide, and none may change unnoticed.
#[test]
fn every_message_is_in_the_guide_as_it_is_in_the_code() {
    let guide = include_str!("../src/guide/operating.md");
    let code = [
        include_str!("../src/endpoint/answer.rs"),
        include_str!("../src/manager/refresh.rs"),
        include_str!("../src/middleware.rs"),
        include_str!("../src/shared.rs"),
        include_str!("../src/shared/turn.rs"),
    ];
    let promised: Vec<_> = guide.lines().filter(|line| line.starts_with("| `")).collect();
    let mut events = 0;
    for code in code {
        for level in ["debug!(", "info!(", "warn!(", "error!("] {
            for call in code.split(level).skip(1) {
                let Some(message) = call.split(");").next().and_then(|call| call.rsplit('"').nth(1)) else {
                    continue;
                };
                events += 1;
                let row = format!("| `{message}` |");
                assert!(
                    promised.iter().any(|line| line.starts_with(&row)),
                    "{message:?} is not in the guide"
                );
            }
        }
    }
    assert!(events >= 12, "only {events} events were found in the code");
}
