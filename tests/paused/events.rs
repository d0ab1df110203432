//! Log events and the span of a refresh: one event for each refresh, at WARN or above only if an operator should
//! know.

use futures_util::FutureExt;
use http::{Extensions, header::AUTHORIZATION};
use osdatahub_auth::{BearerAuth, ErrorKind, NoAuth, TokenManager};
use reqwest::{Request, Response};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
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
async fn a_response_without_a_token_is_an_error_the_first_time_even_in_an_outage() {
    let (log, _guard) = LogCapture::start();
    let source = Source::new(|n| match n {
        1 | 2 | 5 => Outcome::failure(ErrorKind::Unavailable),
        _ => Outcome::failure(ErrorKind::MalformedResponse),
    });
    let tokens = source.manager();
    let _warm = tokens.keep_warm();
    while source.count() < 8 {
        sleep(secs(1)).await;
    }
    sleep(secs(1)).await;
    let levels = log.starting_with("token refresh failed");
    let levels: Vec<_> = levels.iter().map(|(level, _)| *level).collect();
    let (error, warn, debug) = (Level::ERROR, Level::WARN, Level::DEBUG);
    assert_eq!(levels, [warn, warn, error, warn, debug, debug, debug, warn]);
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

/// Terminal layer in place of a client. It responds at once.
struct Terminal;

#[async_trait::async_trait]
impl Middleware for Terminal {
    async fn handle(&self, _: Request, _: &mut Extensions, _: Next<'_>) -> reqwest_middleware::Result<Response> {
        Ok(http::Response::new("").into())
    }
}

fn client(tokens: &TokenManager) -> ClientWithMiddleware {
    ClientBuilder::new(reqwest::Client::new())
        .with(BearerAuth::new(tokens.clone()))
        .with(Terminal)
        .build()
}

const NOT_COVERED: &str = "a request to the OS Data Hub goes out without an access token";
const ELSEWHERE: &str = "a request goes out without an access token";

#[tokio::test(start_paused = true)]
async fn a_request_to_os_that_is_not_covered_is_a_warning_once_for_a_manager_and_an_origin() {
    let (log, _guard) = LogCapture::start();
    let tokens = TokenManager::builder(Source::healthy());
    let tokens = tokens.project("premium").build().unwrap();
    let origins = ["http://api.os.uk", "https://api.os.uk:8443", "https://api.os.uk."];
    // Two layers of one manager count together.
    for client in [client(&tokens), client(&tokens)] {
        for origin in origins {
            for path in ["/maps/CanaryPath", "/search?CanaryQuery"] {
                client.get(format!("{origin}{path}")).send().await.unwrap();
            }
        }
    }
    let warnings = log.warnings(NOT_COVERED);
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    for (warning, origin) in warnings.iter().zip(origins) {
        assert!(
            warning.contains(&format!(r#"origin="{origin}" project="premium""#)),
            "{warning}"
        );
        assert!(!warning.contains("Canary"), "{warning}");
    }
    let other = Source::healthy().manager();
    client(&other).get("http://api.os.uk/").send().await.unwrap();
    assert_eq!(log.warnings(NOT_COVERED).len(), 4, "another manager counts by itself");
}

#[tokio::test(start_paused = true)]
async fn a_request_to_another_origin_is_told_at_debug_once() {
    let (log, _guard) = LogCapture::start();
    let tokens = Source::healthy().manager();
    for _ in 0..3 {
        for url in ["https://gateway.example/x", "https://gateway.example:8443/x"] {
            client(&tokens).get(url).send().await.unwrap();
        }
    }
    let told = log.starting_with(ELSEWHERE);
    assert_eq!(told.len(), 2, "{told:?}");
    for ((level, text), origin) in told
        .iter()
        .zip(["https://gateway.example", "https://gateway.example:8443"])
    {
        assert_eq!(*level, Level::DEBUG);
        assert!(text.contains(&format!(r#"origin="{origin}""#)), "{text}");
    }
    assert_eq!(log.warnings(""), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn other_origins_do_not_keep_a_mistake_from_being_told_however_many_they_are() {
    let (log, _guard) = LogCapture::start();
    let tokens = Source::healthy().manager();
    let client = client(&tokens);
    for number in 0..200 {
        client.get(format!("https://{number}.example")).send().await.unwrap();
    }
    // 64 by themselves, and the 1st, 2nd, 4th … 128th of the others.
    assert_eq!(log.starting_with(ELSEWHERE).len(), 64 + 8);
    client.get("http://api.os.uk").send().await.unwrap();
    assert_eq!(log.warnings(NOT_COVERED).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_covered_or_kept_out_on_purpose_is_not_told() {
    let (log, _guard) = LogCapture::start();
    let tokens = Source::healthy().manager();
    let client = client(&tokens);
    client.get("https://api.os.uk/maps/raster").send().await.unwrap();
    for url in ["http://api.os.uk/", "https://gateway.example/"] {
        client.get(url).with_extension(NoAuth).send().await.unwrap();
        client.get(url).header(AUTHORIZATION, "own").send().await.unwrap();
    }
    assert_eq!(log.starting_with(NOT_COVERED), []);
    assert_eq!(log.starting_with(ELSEWHERE), []);
}

/// Log messages are part of the API, so the guide must list each one word for word.
#[test]
fn every_message_is_in_the_guide_as_it_is_in_the_code() {
    let guide = include_str!("../../src/guide/logs.md");
    let code = include_str!("../../src/telemetry.rs");
    let rows: Vec<_> = guide.lines().filter(|line| line.starts_with("| `")).collect();
    let mut events = 0;
    for level in ["debug!(", "info!(", "warn!(", "error!(", "$level!("] {
        for call in code.split(level).skip(1) {
            let Some(message) = call.split(')').next().and_then(|call| call.rsplit('"').nth(1)) else {
                continue;
            };
            events += 1;
            let start_of_row = format!("| `{message}` |");
            assert!(
                rows.iter().any(|row| row.starts_with(&start_of_row)),
                "src/guide/logs.md does not list {message:?}"
            );
        }
    }
    assert!(events >= 12, "found only {events} events in src/telemetry.rs");
}
