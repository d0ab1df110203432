//! Log events of the token endpoint, and of 401s that are not about the token.

use std::{
    process::Command,
    time::{Duration, UNIX_EPOCH},
};

use osdatahub_auth::{AccessToken, BearerAuth, FakeAnswer, FakeDataHub, TokenEndpoint, TokenManager, TokenSource};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use test_support::LogCapture;
use tracing::Level;

#[tokio::test]
async fn an_answer_that_does_not_say_how_long_its_token_lives_is_a_warning() {
    let (log, _guard) = LogCapture::start();
    let hub = FakeDataHub::start().await.unwrap();
    hub.fail_next(1, FakeAnswer::new(200, r#"{"access_token":"t"}"#));
    let endpoint = TokenEndpoint::builder(hub.credentials()).token_url(hub.token_url());
    let endpoint = endpoint.build().unwrap();
    for _ in 0..2 {
        endpoint.fetch(None).await.unwrap();
    }
    let warnings = log.starting_with("the token endpoint did not say");
    assert_eq!(
        warnings.len(),
        1,
        "a response with `expires_in` should not be logged as a WARN"
    );
    assert_eq!(warnings[0].0, Level::WARN);
    assert!(warnings[0].1.contains("lifetime=240s"), "{}", warnings[0].1);
}

/// A token of 100 s with this age, by a `Date` that may come with an `Age`. The age stays below a whole second.
fn aged(seconds: u64, age_header: bool) -> FakeAnswer {
    let sent_at = UNIX_EPOCH + Duration::from_secs(1_634_663_382);
    let issued_at = 1_634_663_382_000 - seconds * 1_000;
    let body = format!(r#"{{"access_token":"t","expires_in":100,"issued_at":{issued_at}}}"#);
    let answer = FakeAnswer::new(200, body).with_header("Date", &httpdate::fmt_http_date(sent_at));
    if age_header {
        answer.with_header("Age", &seconds.to_string())
    } else {
        answer
    }
}

async fn fetch(hub: &FakeDataHub, endpoint: &TokenEndpoint, answer: FakeAnswer) -> AccessToken {
    hub.fail_next(1, answer);
    endpoint.fetch(None).await.unwrap()
}

#[tokio::test]
async fn an_age_that_is_unusual_or_impossible_is_a_warning_once() {
    let hub = FakeDataHub::start().await.unwrap();
    for (age, age_header, unusual, impossible) in [
        (0, false, 0, 0),
        (10, false, 0, 0),
        (11, false, 1, 0),
        (75, false, 1, 0),
        (76, false, 0, 1),
        (76, true, 1, 0),
        (99, true, 1, 0),
        (100, true, 0, 1),
        (1_000_000, false, 0, 1),
    ] {
        let (log, _guard) = LogCapture::start();
        let endpoint = TokenEndpoint::builder(hub.credentials()).token_url(hub.token_url());
        let endpoint = endpoint.build().unwrap();
        for _ in 0..3 {
            fetch(&hub, &endpoint, aged(age, age_header)).await;
        }
        let warnings = [
            log.warnings("the token was not new when the token endpoint sent it"),
            log.warnings("the token's age is impossible, so it counts as new"),
        ];
        assert_eq!(
            warnings.each_ref().map(Vec::len),
            [unusual, impossible],
            "{age} {age_header}"
        );
        for warning in warnings.iter().flatten() {
            assert!(warning.contains(&format!("age={age}s")), "{warning}");
        }
    }
}

#[tokio::test]
#[ignore = "another test starts it with a proxy in its environment"]
async fn origins_with_the_proxies_of_this_process() {
    let (log, _guard) = LogCapture::start();
    let hub = FakeDataHub::start().await.unwrap();
    let endpoint = TokenEndpoint::builder(hub.credentials()).token_url(hub.token_url());
    let tokens = TokenManager::builder(endpoint.build().unwrap()).build().unwrap();
    for origin in [
        "http://127.0.0.1:8080",
        "http://localhost",
        "https://localhost",
        "https://gateway.example",
    ] {
        let auth = BearerAuth::new(tokens.clone());
        auth.with_origin(origin.parse().unwrap()).unwrap();
    }
    for warning in log.warnings("a proxy sees the token") {
        println!("\nWARNED {warning}");
    }
}

/// A process's environment cannot be changed safely, so each case is a new process.
#[test]
fn a_loopback_origin_that_a_proxy_would_get_is_a_warning() {
    for (variables, warned) in [
        (vec![], vec![]),
        (vec![("HTTPS_PROXY", "http://canary:1")], vec![]),
        (
            vec![("HTTP_PROXY", "http://canary:1")],
            vec!["HTTP_PROXY", "HTTP_PROXY"],
        ),
        (vec![("all_proxy", "http://canary:1")], vec!["all_proxy", "all_proxy"]),
        (
            vec![("HTTP_PROXY", "http://canary:1"), ("NO_PROXY", "localhost")],
            vec!["HTTP_PROXY"],
        ),
    ] {
        let mut process = Command::new(std::env::current_exe().unwrap());
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
            process.env_remove(name).env_remove(name.to_lowercase());
        }
        process.args([
            "--exact",
            "events::origins_with_the_proxies_of_this_process",
            "--ignored",
            "--nocapture",
        ]);
        let output = process.envs(variables.clone()).output().unwrap();
        let output = String::from_utf8(output.stdout).unwrap();
        assert!(output.contains("1 passed") && !output.contains("canary"), "{output}");
        let warnings = output.lines().filter_map(|line| line.strip_prefix("WARNED "));
        let named = warnings.map(|warning| warning.split('"').nth(1).unwrap());
        assert_eq!(named.collect::<Vec<_>>(), warned, "{variables:?} {output}");
    }
}

/// A hub, and two clients that share one manager.
async fn hub_with_two_clients() -> (FakeDataHub, [ClientWithMiddleware; 2]) {
    let hub = FakeDataHub::start().await.unwrap();
    let endpoint = TokenEndpoint::builder(hub.credentials()).token_url(hub.token_url());
    let tokens = TokenManager::builder(endpoint.build().unwrap());
    let tokens = tokens.project("premium").build().unwrap();
    let client = || {
        let auth = BearerAuth::new(tokens.clone()).with_origin(hub.origin()).unwrap();
        ClientBuilder::new(hub.client_builder().build().unwrap())
            .with(auth)
            .build()
    };
    let clients = [client(), client()];
    (hub, clients)
}

async fn get_401(client: &ClientWithMiddleware, hub: &FakeDataHub, path: &str) {
    assert_eq!(client.get(hub.url(path)).send().await.unwrap().status(), 401);
}

const NOT_ABOUT_TOKEN: &str = "a 401 that is not about the access token";

#[tokio::test]
async fn an_api_outside_the_project_is_a_warning_at_first_and_at_every_doubling() {
    let (log, _guard) = LogCapture::start();
    let (hub, clients) = hub_with_two_clients().await;
    hub.refuse_path("/maps/raster/v1/zxy");
    hub.refuse_path("/search/places/v1/postcode");
    for number in 0..20 {
        let tile = format!("/maps/raster/v1/zxy?CanaryTile={number}");
        get_401(&clients[number % 2], &hub, &tile).await;
    }
    get_401(&clients[0], &hub, "/search/places/v1/postcode?postcode=CanaryHome").await;
    let warnings = log.warnings(NOT_ABOUT_TOKEN);
    let fields: Vec<_> = warnings
        .iter()
        .map(|warning| warning.split_once(" path=").unwrap().1)
        .collect();
    let raster = [1, 2, 4, 8, 16].map(|count| (r#""/maps/raster""#, count));
    let expected = raster.into_iter().chain([(r#""/search/places""#, 1)]);
    let expected = expected.map(|(path, count)| format!(r#"{path} count={count} project="premium" in no span"#));
    assert_eq!(fields, expected.collect::<Vec<_>>());
    assert_eq!(
        log.starting_with(NOT_ABOUT_TOKEN).len(),
        21,
        "the rest is logged at DEBUG"
    );
}

#[tokio::test]
async fn paths_beyond_the_64th_neither_flood_the_log_nor_are_they_silent() {
    let (log, _guard) = LogCapture::start();
    let (hub, [client, _]) = hub_with_two_clients().await;
    for number in 0..80 {
        let path = format!("/search/{number}");
        hub.refuse_path(&path);
        get_401(&client, &hub, &path).await;
    }
    // 64 by themselves, and the 1st, 2nd, 4th, 8th and 16th of the others.
    assert_eq!(log.warnings(NOT_ABOUT_TOKEN).len(), 64 + 5);
}

#[tokio::test]
async fn a_path_that_a_server_chose_with_a_redirect_is_not_logged() {
    let (log, _guard) = LogCapture::start();
    let (hub, [client, _]) = hub_with_two_clients().await;
    hub.redirect_path("/search/start", hub.url("/CanaryServer/end"));
    hub.refuse_path("/CanaryServer/end");
    get_401(&client, &hub, "/search/start").await;
    let warnings = log.warnings(NOT_ABOUT_TOKEN);
    assert_eq!(warnings.len(), 1);
    assert!(
        !warnings[0].contains("path=") && !warnings[0].contains("Canary"),
        "{warnings:?}"
    );
}
