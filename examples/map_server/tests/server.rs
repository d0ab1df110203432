//! The server: the checks and responses of its token route, its connections, and its port.

use std::{
    error::Error,
    ffi::OsStr,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use map_server::{MapServer, listener};
use osdatahub_auth::{FakeAnswer, FakeDataHub};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

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
        let router = MapServer::of_fake(&hub).unwrap().router();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut task = JoinSet::new();
        task.spawn(listener::serve(listener, router));
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

    /// Sends a request with the header that a browser adds for a page of the same origin.
    async fn token(&self, path: &str) -> Response {
        let request = self.get(path).header("Sec-Fetch-Site", "same-origin");
        request.send().await.unwrap()
    }

    /// Sends a request for a token with these headers alone.
    async fn token_with(&self, headers: &[(&str, &str)]) -> Response {
        let request = self.get("/token");
        let request = headers
            .iter()
            .fold(request, |request, (name, value)| request.header(*name, *value));
        request.send().await.unwrap()
    }

    /// Reports a refused token, and hangs up as soon as the server probes the API, or after this time if it does not.
    async fn report_refusal_and_hang_up(&self, max_wait: Duration) {
        let probes = self.hub.api_requests();
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = "GET /token?refused HTTP/1.1\r\nHost: x\r\nSec-Fetch-Site: same-origin\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let probe_arrives = async {
            while self.hub.api_requests() == probes {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = timeout(max_wait, probe_arrives).await;
    }
}

async fn access_token(response: Response) -> String {
    let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    body["access_token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_page_of_this_server_gets_a_token_that_no_cache_may_keep() {
    let server = Server::start().await;
    let response = server.token("/token").await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["Content-Type"], "application/json");
    assert_eq!(response.headers()["Cache-Control"], "no-store");
    assert!(!response.headers().contains_key("Access-Control-Allow-Origin"));
    let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    assert!((297..=299).contains(&body["expires_in"].as_u64().unwrap()), "{body}");
    assert_eq!(body["token_type"], "Bearer");
    assert!(body["issued_at"].is_u64(), "{body}");
    assert_eq!(body.as_object().unwrap().len(), 4);
}

#[tokio::test]
async fn a_request_from_anything_but_a_page_of_this_server_is_refused_and_costs_no_token() {
    let server = Server::start().await;
    let own_origin = format!("http://{}", server.address);
    let lookalike = format!("{own_origin}.evil.example");
    let refused: [&[(&str, &str)]; 11] = [
        // curl, or a browser over plain http to a host that is not loopback.
        &[],
        &[("Sec-Fetch-Site", "cross-site")],
        &[("Sec-Fetch-Site", "same-site")],
        // A user typed the address.
        &[("Sec-Fetch-Site", "none")],
        &[("Sec-Fetch-Site", "cross-site"), ("Origin", &own_origin)],
        // A browser that sends `Origin` to loopback or over https also sends `Sec-Fetch-Site`.
        &[("Origin", &own_origin)],
        &[("Origin", "https://map.example")],
        &[("Sec-Fetch-Site", "same-origin"), ("Origin", "https://map.example")],
        &[("Sec-Fetch-Site", "same-origin"), ("Origin", "null")],
        &[("Sec-Fetch-Site", "same-origin"), ("Origin", "http://127.0.0.1")],
        &[("Sec-Fetch-Site", "same-origin"), ("Origin", &lookalike)],
    ];
    for headers in refused {
        let response = server.token_with(headers).await;
        assert_eq!(response.status(), 403, "{headers:?}");
        assert_eq!(response.headers()["Cache-Control"], "no-store");
        assert!(!response.headers().contains_key("Access-Control-Allow-Origin"));
        assert_eq!(response.text().await.unwrap(), "");
    }
    assert_eq!(server.hub.token_posts(), 0);
    let headers = [("Sec-Fetch-Site", "same-origin"), ("Origin", &*own_origin)];
    let response = server.token_with(&headers).await;
    assert_eq!(response.status(), 200, "a request with both headers should get a token");
}

#[tokio::test]
async fn a_repeated_origin_or_sec_fetch_site_is_refused() {
    let server = Server::start().await;
    let own_origin = format!("http://{}", server.address);
    let refused: [&[(&str, &str)]; 6] = [
        &[("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Site", "cross-site")],
        &[("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Site", "same-origin")],
        &[("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Site", "same-origin")],
        &[
            ("Sec-Fetch-Site", "same-origin"),
            ("Origin", &own_origin),
            ("Origin", "https://map.example"),
        ],
        &[
            ("Sec-Fetch-Site", "same-origin"),
            ("Origin", "https://map.example"),
            ("Origin", &own_origin),
        ],
        &[
            ("Sec-Fetch-Site", "same-origin"),
            ("Origin", &own_origin),
            ("Origin", &own_origin),
        ],
    ];
    for headers in refused {
        assert_eq!(server.token_with(headers).await.status(), 403, "{headers:?}");
    }
    assert_eq!(server.hub.token_posts(), 0);
}

#[tokio::test]
async fn an_origin_with_another_scheme_is_refused_even_behind_a_tls_proxy() {
    let server = Server::start().await;
    let loopback = server.address.to_string();
    let localhost = format!("localhost:{}", server.address.port());
    // A TLS proxy leaves the host as it is, and the server does not see that the browser used https.
    for (host, scheme, status) in [
        ("map.example", "https", 200),
        ("map.example", "http", 403),
        ("map.example:8443", "https", 200),
        ("map.example:8443", "http", 403),
        (&loopback, "http", 200),
        (&loopback, "https", 403),
        (&localhost, "http", 200),
        (&localhost, "https", 403),
    ] {
        let origin = format!("{scheme}://{host}");
        let headers = [("Sec-Fetch-Site", "same-origin"), ("Host", host), ("Origin", &origin)];
        assert_eq!(server.token_with(&headers).await.status(), status, "{origin}");
    }
}

#[tokio::test]
async fn a_connection_whose_request_head_does_not_arrive_in_time_is_closed() {
    let server = Server::start().await;
    let connect = || async { TcpStream::connect(server.address).await.unwrap() };
    let (mut silent, mut slow) = (connect().await, connect().await);
    let silent_is_closed = silent.read_u8();
    let slow_is_closed = async {
        slow.write_all(b"GET / HTTP/1.1\r\nHost: ").await.unwrap();
        while slow.write_all(b"x").await.is_ok() {
            sleep(Duration::from_millis(200)).await;
        }
    };
    let closed = async { tokio::join!(silent_is_closed, slow_is_closed) };
    // The limit is 5 s.
    let closed = timeout(Duration::from_secs(30), closed).await;
    closed.expect("the server should close both connections").0.unwrap_err();
}

#[tokio::test]
async fn a_cors_preflight_is_refused() {
    let server = Server::start().await;
    let url = format!("http://{}/token", server.address);
    let request = server
        .client
        .request(Method::OPTIONS, url)
        .header("Origin", "https://map.example");
    let response = request
        .header("Access-Control-Request-Method", "GET")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 405);
    assert!(!response.headers().contains_key("Access-Control-Allow-Origin"));
}

#[tokio::test]
async fn a_client_over_its_quota_is_told_when_to_try_again() {
    let server = Server::start().await;
    for _ in 0..30 {
        assert_eq!(server.token("/token").await.status(), 200);
    }
    // On a slow machine, the quota may have recovered a little meanwhile.
    let mut response = server.token("/token").await;
    while response.status() == 200 {
        response = server.token("/token").await;
    }
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["Cache-Control"], "no-store");
    let wait: u64 = response.headers()["Retry-After"].to_str().unwrap().parse().unwrap();
    assert!((1..=2).contains(&wait), "{wait} s");
    assert_eq!(response.text().await.unwrap(), "");
    sleep(Duration::from_secs(wait)).await;
    assert_eq!(server.token("/token").await.status(), 200);
    assert_eq!(server.hub.token_posts(), 1);
}

#[tokio::test]
async fn without_a_token_the_response_says_when_to_try_again_but_not_why() {
    let server = Server::start().await;
    let failure = FakeAnswer::new(503, "CanaryReason").with_header("Retry-After", "40");
    server.hub.fail(failure);
    let response = server.token("/token").await;
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["Retry-After"], "40");
    assert_eq!(response.headers()["Cache-Control"], "no-store");
    assert_eq!(response.text().await.unwrap(), "");
}

#[tokio::test]
async fn a_token_that_a_page_reports_as_refused_is_replaced_only_if_the_api_refuses_it_too() {
    let server = Server::start().await;
    let first = access_token(server.token("/token").await).await;
    for _ in 0..5 {
        assert_eq!(access_token(server.token("/token?refused").await).await, first);
    }
    assert_eq!(server.hub.token_posts(), 1);
    assert_eq!(server.hub.api_requests(), 1, "the five requests should share one probe");

    server.hub.revoke_all();
    // The server probes the API at most every 10 s. A 401 replaces a token that it has held for 5 s.
    sleep(Duration::from_millis(10_100)).await;
    assert_ne!(access_token(server.token("/token?refused").await).await, first);
    assert_eq!(server.hub.token_posts(), 2);
}

/// Makes the API send this status to every probe, after 200 ms.
fn answer_probes_slowly(hub: &FakeDataHub, status: u16) {
    hub.answer_under("/maps/raster/v1/zxy/", move |_| {
        thread::sleep(Duration::from_millis(200));
        FakeAnswer::new(status, "").with_header("WWW-Authenticate", r#"Bearer error="invalid_token""#)
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn false_reports_of_a_refused_token_cost_at_most_one_probe_in_10_s() {
    let server = Server::start().await;
    answer_probes_slowly(&server.hub, 200);
    let first = access_token(server.token("/token").await).await;
    let start = Instant::now();
    for _ in 0..15 {
        server.report_refusal_and_hang_up(Duration::from_millis(200)).await;
    }
    while start.elapsed() < Duration::from_secs(4) {
        assert_eq!(access_token(server.token("/token?refused").await).await, first);
        sleep(Duration::from_millis(500)).await;
    }
    // A slow machine may need more than 10 s.
    let allowed = 1 + start.elapsed().as_secs() / 10;
    let probes = server.hub.api_requests();
    assert!(
        probes as u64 <= allowed,
        "{probes} requests to the API in {:?}",
        start.elapsed()
    );
    assert_eq!(server.hub.token_posts(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_does_not_cancel_the_probe_of_a_refused_token() {
    let server = Server::start().await;
    // A 401 replaces a token only after the server has held it for a quarter of its lifetime, here 3 s.
    server.hub.set_lifetime(Duration::from_secs(12));
    server.token("/token").await;
    sleep(Duration::from_millis(3_100)).await;
    answer_probes_slowly(&server.hub, 401);
    server.report_refusal_and_hang_up(Duration::from_secs(10)).await;
    let replaced = async {
        while server.hub.token_posts() < 2 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let replaced = timeout(Duration::from_secs(10), replaced).await;
    replaced.expect("the server should replace the token");
}

#[tokio::test]
async fn the_security_headers_allow_only_what_the_page_needs() {
    let server = Server::start().await;
    for path in [
        "/",
        "/map.js",
        "/failed.js",
        "/token.js",
        "/page.css",
        "/maplibre/maplibre-gl.mjs",
    ] {
        let response = server.get(path).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        let policy = response.headers()["Content-Security-Policy"].to_str().unwrap();
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        let api = server.hub.origin();
        let api = api.as_str().trim_end_matches('/');
        assert!(policy.contains(&format!("connect-src 'self' {api}")), "{policy}");
        assert_eq!(response.headers()["X-Content-Type-Options"], "nosniff");
        assert_eq!(response.headers()["Referrer-Policy"], "no-referrer");
    }
}

#[tokio::test]
async fn an_unusable_port_is_an_error_that_names_the_variable() {
    let used_port = listener::open(Some(OsStr::new("0"))).await.unwrap();
    let used_port = used_port.local_addr().unwrap().port().to_string();
    let error = listener::open(Some(OsStr::new(&used_port))).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("port {used_port} cannot be opened; set PORT to use another")
    );
    assert!(error.source().is_some(), "the source should be the reason");
    for invalid in ["", "http", "-1", "65536"] {
        let error = listener::open(Some(OsStr::new(invalid))).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("PORT is {invalid:?}, but it must be a number from 0 to 65535")
        );
    }
}
