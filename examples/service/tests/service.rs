//! The service in front of a fake Data Hub: what its clients see, and what it costs at OS.

use std::{
    fs,
    path::PathBuf,
    sync::LazyLock,
    time::{Duration, Instant},
};

use map_server::listener;
use metrics_exporter_prometheus::PrometheusHandle;
use osdatahub_auth::{CredentialsProvider, FakeAnswer, FakeDataHub, FileCredentials, KeepWarm};
use reqwest::{Client, Response};
use serde_json::{Value, json};
use service::{Os, Service};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinSet,
    time::{sleep, timeout},
};

const BATH: &str = "/geocode?q=Bath";
const TILE: &str = "/tiles/7/63/42";
const OS_TILE: &str = "/maps/raster/v1/zxy/Road_3857/7/63/42.png";

/// A text that no client of the service may see.
const CANARY: &str = "words of OS's gateway";

/// One recorder for the process, whether a test has it to itself or not.
static METRICS: LazyLock<PrometheusHandle> = LazyLock::new(|| service::metrics::install().unwrap());

struct Running {
    hub: FakeDataHub,
    client: Client,
    origin: String,
    shutdown: oneshot::Sender<()>,
    server: JoinSet<()>,
    _warm: Option<KeepWarm>,
}

impl Running {
    /// The service with a limit that no test but those of pacing notices.
    async fn start() -> Self {
        let hub = FakeDataHub::start().await.unwrap();
        let credentials = hub.credentials();
        Self::with(hub, credentials, 60_000).await
    }

    async fn with(hub: FakeDataHub, credentials: impl CredentialsProvider, per_minute: u32) -> Self {
        // Before anything is recorded.
        LazyLock::force(&METRICS);
        let os = Os::fake(&hub, credentials).unwrap();
        os.check().await.unwrap();
        let warm = os.tokens.keep_warm();
        Self::serve(hub, &os, per_minute, Some(warm)).await
    }

    /// The service without a token, which it fetches for the first request.
    async fn cold() -> Self {
        let hub = FakeDataHub::start().await.unwrap();
        let os = Os::fake(&hub, hub.credentials()).unwrap();
        Self::serve(hub, &os, 60_000, None).await
    }

    async fn serve(hub: FakeDataHub, os: &Os, per_minute: u32, warm: Option<KeepWarm>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let router = Service::new(os, per_minute.try_into().unwrap()).router(METRICS.clone());
        let (shutdown, received) = oneshot::channel();
        let mut server = JoinSet::new();
        server.spawn(listener::serve_until(listener, router, async {
            let _ = received.await;
        }));
        // Without connections to reuse: the server closes one that has been idle for 5 s, perhaps just then.
        let client = hub.client_builder().pool_max_idle_per_host(0).build().unwrap();
        Self {
            hub,
            client,
            origin,
            shutdown,
            server,
            _warm: warm,
        }
    }

    async fn get(&self, path: &str) -> Response {
        self.client.get(format!("{}{path}", self.origin)).send().await.unwrap()
    }

    async fn status(&self, path: &str) -> u16 {
        self.get(path).await.status().as_u16()
    }

    /// Sends this many requests at once, each over its own connection.
    fn burst(&self, requests: usize, path: &str) -> JoinSet<Response> {
        let request = self.client.get(format!("{}{path}", self.origin));
        let requests = (0..requests).map(|_| request.try_clone().unwrap());
        requests
            .map(|request| async { request.send().await.unwrap() })
            .collect()
    }

    /// Asserts what a client gets in place of an error of OS's, and returns `Retry-After` in seconds.
    async fn assert_refused(&self, path: &str, status: u16) -> Option<u64> {
        let response = self.get(path).await;
        assert_eq!(response.status(), status, "{path}");
        assert_eq!(response.headers()["Cache-Control"], "no-store");
        assert!(!response.headers().contains_key("WWW-Authenticate"));
        let wait = response.headers().get("Retry-After");
        let wait = wait.map(|wait| wait.to_str().unwrap().parse().unwrap());
        let body = response.text().await.unwrap();
        assert!(!body.contains(CANARY) && !body.contains("fault"), "{body}");
        wait
    }
}

#[tokio::test]
async fn a_search_travels_as_a_parameter_and_is_answered_in_our_own_words() {
    let service = Running::start().await;
    let response = service
        .get("/geocode?q=%20Bath%26maxresults%3D9%2F..%2F%3Fkey%3D1")
        .await;
    assert_eq!(response.status(), 200);
    let places: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    let bath =
        json!({"name": "Bath&maxresults=9/../?key=1", "kind": "City", "easting": 375_000.0, "northing": 165_000.0});
    assert_eq!(places, json!([bath]));
    let received = service.hub.received().pop().unwrap();
    assert_eq!(received.path, "/search/names/v1/find");
    let query = "query=Bath%26maxresults%3D9%2F..%2F%3Fkey%3D1&maxresults=10";
    assert_eq!(received.query.as_deref(), Some(query));
}

#[tokio::test]
async fn a_search_without_a_result_is_an_empty_list() {
    let service = Running::start().await;
    let nothing = FakeAnswer::new(200, r#"{"header": {"totalresults": 0}}"#);
    service.hub.answer_path("/search/names/v1/find", nothing);
    assert_eq!(service.get(BATH).await.text().await.unwrap(), "[]");
}

#[tokio::test]
async fn a_request_that_the_service_does_not_offer_costs_no_transaction() {
    let service = Running::start().await;
    let long = format!("/geocode?q={}", "ä".repeat(101));
    for (path, status) in [
        ("/geocode", 400),
        ("/geocode?q=%20", 400),
        ("/geocode?q=Bath%00x", 400),
        (&long, 400),
        ("/tiles/7/63/42?layer=Leisure_27700", 400),
        ("/tiles/7/63/42?layer=..%2F..", 400),
        ("/tiles/7/63/..%2F42", 400),
        ("/tiles/7/63/-1", 400),
        ("/tiles/6/1/1", 404),
        ("/tiles/17/1/1", 404),
        ("/tiles/99/1/1", 404),
        ("/tiles/7/128/42", 404),
        ("/tiles/7/63/128", 404),
        ("/elsewhere", 404),
    ] {
        assert_eq!(service.status(path).await, status, "{path}");
    }
    assert_eq!(service.hub.api_requests(), 0);
}

#[tokio::test]
async fn a_tile_passes_with_its_validators_and_caching_headers_both_ways() {
    let service = Running::start().await;
    service.hub.answer_under(OS_TILE, |request| {
        let not_modified = request.headers.get("If-None-Match").is_some_and(|tag| tag == "\"v1\"")
            && request.headers.contains_key("If-Modified-Since");
        let answer = if not_modified {
            FakeAnswer::new(304, "")
        } else {
            FakeAnswer::new(200, "a picture").with_header("Content-Type", "image/png")
        };
        answer
            .with_header("ETag", "\"v1\"")
            .with_header("Last-Modified", "Wed, 01 Oct 2025 00:00:00 GMT")
            .with_header("Cache-Control", "public")
            .with_header("Cache-Control", "max-age=3600")
            .with_header("Set-Cookie", "of=OS's")
    });
    let request = service.client.get(format!("{}{TILE}", service.origin));
    let private = [
        ("Cookie", "a=b"),
        ("Authorization", "Basic eDp5"),
        ("Accept-Encoding", "br"),
    ];
    let request = private
        .iter()
        .fold(request, |request, (name, value)| request.header(*name, *value));
    let validated = request
        .try_clone()
        .unwrap()
        .header("If-None-Match", "\"v1\"")
        .header("If-Modified-Since", "Wed, 01 Oct 2025 00:00:00 GMT");
    for (request, status, body) in [(request, 200, "a picture"), (validated, 304, "")] {
        let response = request.send().await.unwrap();
        let headers = response.headers();
        assert_eq!(response.status(), status);
        assert_eq!(headers["ETag"], "\"v1\"");
        assert_eq!(headers["Last-Modified"], "Wed, 01 Oct 2025 00:00:00 GMT");
        assert!(headers.get_all("Cache-Control").iter().eq(["public", "max-age=3600"]));
        assert!(!headers.contains_key("Set-Cookie"));
        assert_eq!(response.text().await.unwrap(), body);
        let sent = service.hub.received().pop().unwrap().headers;
        assert!(!sent.contains_key("Cookie") && !sent.contains_key("Accept-Encoding"));
        assert!(sent["Authorization"].to_str().unwrap().starts_with("Bearer "));
    }
}

#[tokio::test]
async fn a_landing_page_is_not_passed_on_as_a_tile() {
    let service = Running::start().await;
    let page = FakeAnswer::new(200, CANARY).with_header("Content-Type", "application/json");
    service.hub.answer_path(OS_TILE, page);
    service.assert_refused(TILE, 502).await;
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let service = Running::start().await;
    service.hub.redirect_path(OS_TILE, service.hub.url("/maps/elsewhere"));
    service.assert_refused(TILE, 502).await;
    assert_eq!(service.hub.api_requests(), 1);
}

#[tokio::test]
async fn an_api_outside_the_project_is_our_fault_for_the_client_and_costs_no_token() {
    let service = Running::start().await;
    service.hub.refuse_under("/search/names/");
    assert_eq!(service.assert_refused(BATH, 500).await, None);
    service
        .hub
        .answer_path("/search/names/v1/find", FakeAnswer::new(403, CANARY));
    assert_eq!(service.assert_refused(BATH, 500).await, None);
    assert_eq!(service.status(TILE).await, 200, "the other API goes on");
    assert_eq!(service.hub.api_requests(), 3, "neither was repeated");
    assert_eq!(service.hub.token_posts(), 1);
}

#[tokio::test]
async fn a_429_is_not_repeated_and_pauses_that_api_alone() {
    let service = Running::start().await;
    service.hub.fail_api_next(1, FakeAnswer::rate_limited());
    // OS said nothing about the wait.
    assert_eq!(service.assert_refused(BATH, 503).await, Some(20));
    let wait = service.assert_refused(BATH, 503).await.unwrap();
    assert!((10..=20).contains(&wait), "{wait}");
    assert_eq!(service.hub.api_requests(), 1);
    assert_eq!(service.status(TILE).await, 200);
}

#[tokio::test]
async fn the_wait_that_a_429_names_is_kept_and_passed_on() {
    let service = Running::start().await;
    let refusal = FakeAnswer::new(429, CANARY).with_header("Retry-After", "1");
    service.hub.fail_api_next(1, refusal);
    assert_eq!(service.assert_refused(TILE, 503).await, Some(1));
    sleep(Duration::from_millis(1_100)).await;
    assert_eq!(service.status(TILE).await, 200);
}

#[tokio::test]
async fn a_revoked_token_is_replaced_and_no_client_notices() {
    let hub = FakeDataHub::start().await.unwrap();
    hub.set_lifetime(Duration::from_secs(20));
    let credentials = hub.credentials();
    let service = Running::with(hub, credentials, 60_000).await;
    assert_eq!(service.status(BATH).await, 200);
    service.hub.revoke_all_when_replaceable().await;
    let responses = service.burst(20, TILE).join_all().await;
    assert!(responses.iter().all(|response| response.status() == 200));
    assert_eq!(service.hub.token_posts(), 2);
}

#[tokio::test]
async fn a_token_that_is_revoked_too_soon_is_a_503_with_a_wait() {
    let service = Running::start().await;
    service.hub.revoke_all();
    assert_eq!(service.assert_refused(TILE, 503).await, Some(10));
}

#[tokio::test]
async fn an_outage_of_the_api_is_tried_three_times_and_is_a_502() {
    let service = Running::start().await;
    service.hub.fail_api(FakeAnswer::new(503, CANARY));
    assert_eq!(service.assert_refused(BATH, 502).await, None);
    assert_eq!(service.hub.api_requests(), 3);
    assert_eq!(service.status("/livez").await, 200);
    service.hub.recover();
    assert_eq!(service.status(BATH).await, 200);
}

#[tokio::test]
async fn a_service_that_starts_in_an_outage_of_the_token_endpoint_is_ready_after_it() {
    let hub = FakeDataHub::start().await.unwrap();
    hub.fail(FakeAnswer::new(503, CANARY));
    let credentials = hub.credentials();
    let service = Running::with(hub, credentials, 60_000).await;
    assert_eq!(service.status("/readyz").await, 503);
    assert_eq!(service.status("/livez").await, 200);
    let wait = service.assert_refused(TILE, 503).await.unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(service.hub.api_requests(), 0);
    service.hub.recover();
    let ready = async {
        while service.status("/readyz").await != 200 {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(60), ready)
        .await
        .expect("keep_warm should fetch a token");
    assert_eq!(service.status(TILE).await, 200);
}

#[tokio::test]
async fn credentials_that_os_rejects_fail_the_check_and_an_outage_does_not() {
    let hub = FakeDataHub::start().await.unwrap();
    let os = Os::fake(&hub, hub.credentials()).unwrap();
    hub.set_credentials("another", "pair");
    let error = os.check().await.unwrap_err();
    assert!(!error.is_transient(), "{error:#}");
}

#[tokio::test]
async fn a_new_key_and_secret_in_the_files_need_no_restart() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("rotation");
    fs::create_dir_all(&folder).unwrap();
    let (key, secret) = (folder.join("key"), folder.join("secret"));
    let rotate = |hub: &FakeDataHub, values: [&str; 2]| {
        hub.set_credentials(values[0], values[1]);
        fs::write(&key, values[0]).unwrap();
        fs::write(&secret, values[1]).unwrap();
    };
    let hub = FakeDataHub::start().await.unwrap();
    hub.set_lifetime(Duration::from_secs(8));
    rotate(&hub, ["first-key", "first-secret"]);
    let service = Running::with(hub, FileCredentials::new(&key, &secret), 60_000).await;
    assert_eq!(service.status(BATH).await, 200);
    rotate(&service.hub, ["second-key", "second-secret"]);
    service.hub.revoke_all_when_replaceable().await;
    assert_eq!(service.status(BATH).await, 200);
    assert_eq!(service.hub.token_posts(), 2, "no POST should have had the old pair");
}

#[tokio::test]
async fn five_hundred_searches_at_once_cost_one_token_and_all_succeed() {
    let service = Running::cold().await;
    service.hub.set_delay(Duration::from_millis(300));
    let responses = service.burst(500, BATH).join_all().await;
    let succeeded = responses.iter().filter(|response| response.status() == 200).count();
    assert_eq!(succeeded, 500);
    assert_eq!(service.hub.token_posts(), 1);
}

#[tokio::test]
async fn more_than_the_limit_allows_is_held_back_and_never_reaches_os() {
    let hub = FakeDataHub::start().await.unwrap();
    let credentials = hub.credentials();
    let service = Running::with(hub, credentials, 100).await;
    let start = Instant::now();
    let responses = service.burst(60, TILE).join_all().await;
    let succeeded = responses.iter().filter(|response| response.status() == 200).count();
    assert_eq!(service.hub.api_requests(), succeeded);
    // 10 at once, and 80 a minute from then on.
    let earned = 10 + start.elapsed().as_millis() * 80 / 60_000;
    assert!(
        succeeded >= 10 && succeeded as u128 <= earned + 1,
        "{succeeded} of {earned}"
    );
    for held_back in responses.iter().filter(|response| response.status() != 200) {
        assert_eq!(held_back.status(), 503);
        assert!(held_back.headers().contains_key("Retry-After"));
    }
    assert_eq!(service.status(BATH).await, 200, "each API has a separate limit");
}

#[tokio::test]
async fn a_page_of_the_service_gets_a_token_and_no_other_client_does() {
    let service = Running::start().await;
    let request = service.client.get(format!("{}/token", service.origin));
    for (site, status) in [("same-origin", 200), ("cross-site", 403), ("none", 403)] {
        let request = request.try_clone().unwrap().header("Sec-Fetch-Site", site);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status, "{site}");
        assert_eq!(response.headers()["Cache-Control"], "no-store");
    }
    assert_eq!(service.status("/token").await, 403);
}

#[tokio::test]
async fn the_metrics_say_what_was_spent() {
    let service = Running::start().await;
    assert_eq!(service.status(TILE).await, 200);
    let metrics = service.get("/metrics").await.text().await.unwrap();
    for line in [
        r#"os_requests_total{api="maps",outcome="200"} "#,
        r#"os_token_refreshes_total{reason="cold",outcome="ok"} "#,
        r#"os_turn_wait_seconds_count{api="maps"} "#,
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn a_shutdown_under_load_answers_every_request_under_way_and_takes_no_other() {
    LazyLock::force(&METRICS);
    let mut service = Running::cold().await;
    service.hub.set_delay(Duration::from_secs(1));
    let load = service.burst(100, TILE);
    let all_have_had_their_turn = async {
        while !METRICS
            .render()
            .contains("os_turn_wait_seconds_count{api=\"maps\"} 100\n")
        {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(60), all_have_had_their_turn).await.unwrap();
    service.shutdown.send(()).unwrap();
    let stopped = timeout(Duration::from_secs(10), service.server.join_next()).await;
    stopped
        .expect("idle connections should be closed at once")
        .unwrap()
        .unwrap();
    assert_eq!(
        service.hub.api_requests(),
        100,
        "it ended before the requests under way"
    );
    let responses = load.join_all().await;
    assert!(responses.iter().all(|response| response.status() == 200));
    let address = service.origin.trim_start_matches("http://");
    TcpStream::connect(address)
        .await
        .expect_err("the port should be closed");
}
