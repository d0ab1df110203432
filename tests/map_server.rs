//! The token route of the example `map_server`: who gets a token, how often, and what others get.

#[path = "../examples/map_server/port.rs"]
mod port;
#[path = "../examples/map_server/server/mod.rs"]
#[allow(dead_code, reason = "an overlay is for the tests of the page")]
mod server;

use std::{error::Error, ffi::OsStr, net::SocketAddr, time::Duration};

use osdatahub_auth::{FakeAnswer, FakeDataHub};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::Value;
use server::MapServer;
use tokio::{net::TcpListener, task::JoinSet, time::sleep};

struct Server {
    hub: FakeDataHub,
    client: Client,
    address: SocketAddr,
    _task: JoinSet<()>,
}

impl Server {
    async fn start() -> Self {
        let hub = FakeDataHub::start().await.unwrap();
        let client = hub.client_builder().build().unwrap();
        let app = MapServer::of_fake(&hub).unwrap().router();
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut task = JoinSet::new();
        task.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            hub,
            client,
            address,
            _task: task,
        }
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("http://{}{path}", self.address))
    }

    /// As a page of this server asks.
    async fn token(&self, path: &str) -> Response {
        let request = self.get(path).header("Sec-Fetch-Site", "same-origin");
        request.send().await.unwrap()
    }
}

async fn token_in(answer: Response) -> String {
    let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    answer["access_token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_page_of_this_server_gets_a_token_that_no_cache_keeps() {
    let server = Server::start().await;
    let answer = server.token("/token").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["Content-Type"], "application/json");
    assert_eq!(answer.headers()["Cache-Control"], "no-store");
    assert!(!answer.headers().contains_key("Access-Control-Allow-Origin"));
    let body: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    assert!((297..=299).contains(&body["expires_in"].as_u64().unwrap()), "{body}");
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!(body.as_object().unwrap().len(), 3);
}

#[tokio::test]
async fn whoever_is_no_page_of_this_server_is_refused_and_costs_no_token() {
    let server = Server::start().await;
    let us = format!("http://{}", server.address);
    let evil = format!("{us}.evil.example");
    let refused: [&[(&str, &str)]; 11] = [
        // Curl, or a browser that was sent here over http.
        &[],
        &[("Sec-Fetch-Site", "cross-site")],
        &[("Sec-Fetch-Site", "same-site")],
        // Somebody typed the address.
        &[("Sec-Fetch-Site", "none")],
        &[("Sec-Fetch-Site", "cross-site"), ("Origin", &us)],
        // No browser says this of a page of ours.
        &[("Origin", &us)],
        &[("Origin", "https://map.example")],
        &[("Sec-Fetch-Site", "same-origin"), ("Origin", "https://map.example")],
        &[("Sec-Fetch-Site", "same-origin"), ("Origin", "null")],
        &[("Sec-Fetch-Site", "same-origin"), ("Origin", "http://127.0.0.1")],
        &[("Sec-Fetch-Site", "same-origin"), ("Origin", &evil)],
    ];
    for headers in refused {
        let request = headers.iter().fold(server.get("/token"), |request, (name, value)| {
            request.header(*name, *value)
        });
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 403, "{headers:?}");
        assert_eq!(answer.headers()["Cache-Control"], "no-store");
        assert!(!answer.headers().contains_key("Access-Control-Allow-Origin"));
        assert_eq!(answer.text().await.unwrap(), "");
    }
    assert_eq!(server.hub.token_posts(), 0);
    let ours = server.get("/token").header("Sec-Fetch-Site", "same-origin");
    let answer = ours.header("Origin", us).send().await.unwrap();
    assert_eq!(answer.status(), 200, "a browser that says it twice");
}

#[tokio::test]
async fn no_preflight_is_granted() {
    let server = Server::start().await;
    let url = format!("http://{}/token", server.address);
    let request = server
        .client
        .request(Method::OPTIONS, url)
        .header("Origin", "https://map.example");
    let answer = request
        .header("Access-Control-Request-Method", "GET")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 405);
    assert!(!answer.headers().contains_key("Access-Control-Allow-Origin"));
}

#[tokio::test]
async fn a_client_that_asks_too_often_is_told_when_to_come_again() {
    let server = Server::start().await;
    for _ in 0..30 {
        assert_eq!(server.token("/token").await.status(), 200);
    }
    // A slow machine may have earned one more on the way.
    let mut answer = server.token("/token").await;
    while answer.status() == 200 {
        answer = server.token("/token").await;
    }
    assert_eq!(answer.status(), 429);
    assert_eq!(answer.headers()["Cache-Control"], "no-store");
    let wait: u64 = answer.headers()["Retry-After"].to_str().unwrap().parse().unwrap();
    assert!((1..=2).contains(&wait), "{wait} s");
    assert_eq!(answer.text().await.unwrap(), "");
    sleep(Duration::from_secs(wait)).await;
    assert_eq!(server.token("/token").await.status(), 200);
    assert_eq!(server.hub.token_posts(), 1);
}

#[tokio::test]
async fn while_no_token_can_be_had_the_answer_says_when_and_not_why() {
    let server = Server::start().await;
    let failure = FakeAnswer::new(503, "CanaryReason").with_header("Retry-After", "40");
    server.hub.fail(failure);
    let answer = server.token("/token").await;
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.headers()["Retry-After"], "40");
    assert_eq!(answer.headers()["Cache-Control"], "no-store");
    assert_eq!(answer.text().await.unwrap(), "");
}

#[tokio::test]
async fn a_page_that_says_its_token_was_refused_is_believed_only_if_the_api_says_so_too() {
    let server = Server::start().await;
    // A quarter of the life must have passed before a 401 can cost a token.
    server.hub.set_lifetime(Duration::from_secs(12));
    let first = token_in(server.token("/token").await).await;
    sleep(Duration::from_millis(3_100)).await;
    for _ in 0..5 {
        assert_eq!(token_in(server.token("/token?refused").await).await, first);
    }
    assert_eq!(server.hub.token_posts(), 1);
    assert_eq!(server.hub.api_requests(), 1, "one look will do for all of them");

    server.hub.revoke_all();
    sleep(Duration::from_millis(2_100)).await;
    assert_ne!(token_in(server.token("/token?refused").await).await, first);
    assert_eq!(server.hub.token_posts(), 2);
}

#[tokio::test]
async fn the_page_and_its_files_allow_nothing_that_they_do_not_need() {
    let server = Server::start().await;
    for path in [
        "/",
        "/map.js",
        "/failed.js",
        "/token.js",
        "/page.css",
        "/maplibre/maplibre-gl.mjs",
    ] {
        let answer = server.get(path).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        let policy = answer.headers()["Content-Security-Policy"].to_str().unwrap();
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        let hub = server.hub.origin();
        let hub = hub.as_str().trim_end_matches('/');
        assert!(policy.contains(&format!("connect-src 'self' {hub}")), "{policy}");
        assert_eq!(answer.headers()["X-Content-Type-Options"], "nosniff");
        assert_eq!(answer.headers()["Referrer-Policy"], "no-referrer");
    }
}

#[tokio::test]
async fn a_port_that_cannot_be_had_is_an_error_that_names_the_setting() {
    let taken = port::listen(Some(OsStr::new("0"))).await.unwrap();
    let taken = taken.local_addr().unwrap().port().to_string();
    let error = port::listen(Some(OsStr::new(&taken))).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("port {taken} cannot be opened; the variable PORT chooses another")
    );
    assert!(error.source().is_some(), "the reason");
    for no_port in ["", "http", "-1", "65536"] {
        let error = port::listen(Some(OsStr::new(no_port))).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("PORT is {no_port:?}, which is no number from 0 to 65535")
        );
    }
}
