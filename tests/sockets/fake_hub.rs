//! The fake Data Hub: what requires a token, failures on request, OS's envelopes, CORS for browsers, routes by path.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use osdatahub_auth::{BearerAuth, ErrorKind, FakeAnswer, FakeDataHub, TokenEndpoint, TokenManager, TokenSource};
use reqwest::{Client, Method, Response, StatusCode, redirect::Policy};
use reqwest_middleware::ClientBuilder;
use test_support::eventually;

const NAMES: &str = "/search/names/v1/find";
const TILE: &str = "/maps/raster/v1/zxy/Road_3857/7/63/42.png";
const ORIGIN: &str = "https://map.example";

/// The APIs with interfaces of OGC: WMTS, Vector Tiles and WFS.
const OWS: [&str; 3] = ["/maps/raster/v1/wmts", "/maps/vector/v1/vts", "/features/v1/wfs"];

async fn start() -> (FakeDataHub, Client) {
    let hub = FakeDataHub::start().await.unwrap();
    let client = hub.client_builder().redirect(Policy::none()).build().unwrap();
    (hub, client)
}

fn endpoint(hub: &FakeDataHub) -> TokenEndpoint {
    let endpoint = TokenEndpoint::builder(hub.credentials()).token_url(hub.token_url());
    endpoint.build().unwrap()
}

async fn bearer(hub: &FakeDataHub) -> String {
    let token = endpoint(hub).fetch(None).await.unwrap();
    format!("Bearer {}", token.expose_secret())
}

async fn get(client: &Client, hub: &FakeDataHub, path: &str, authorization: &str) -> Response {
    let request = client.get(hub.url(path)).header("Origin", ORIGIN);
    request.header("Authorization", authorization).send().await.unwrap()
}

async fn get_without_token(client: &Client, hub: &FakeDataHub, path: &str) -> Response {
    client.get(hub.url(path)).send().await.unwrap()
}

async fn preflight(client: &Client, hub: &FakeDataHub, path: &str) -> Response {
    let request = client.request(Method::OPTIONS, hub.url(path)).header("Origin", ORIGIN);
    let request = request.header("Access-Control-Request-Method", "GET");
    let request = request.header("Access-Control-Request-Headers", "authorization");
    request.send().await.unwrap()
}

fn allowed_origin(response: &Response) -> Option<&str> {
    Some(response.headers().get("Access-Control-Allow-Origin")?.to_str().unwrap())
}

fn content_type(response: &Response) -> &str {
    response.headers()["Content-Type"].to_str().unwrap()
}

#[tokio::test]
async fn every_answer_of_an_api_asks_for_the_token_unless_it_is_public_by_name() {
    let (hub, client) = start().await;
    let bearer = bearer(&hub).await;
    hub.answer_path("/search/answered", FakeAnswer::new(200, ""));
    hub.answer_path("/a/path/of/your/own", FakeAnswer::new(404, ""));
    hub.answer_under("/maps/handled/", |_| FakeAnswer::new(503, ""));
    hub.redirect_path("/downloads/moved", hub.url("/signed"));
    hub.answer_public_path("/signed", FakeAnswer::new(200, ""));
    for (path, status) in [
        (NAMES, 200),
        (TILE, 200),
        ("/search/answered", 200),
        ("/a/path/of/your/own", 404),
        ("/maps/handled/1", 503),
        ("/downloads/moved", 302),
    ] {
        assert_eq!(get_without_token(&client, &hub, path).await.status(), 401, "{path}");
        assert_eq!(
            get(&client, &hub, path, "Bearer nonsense").await.status(),
            401,
            "{path}"
        );
        assert_eq!(get(&client, &hub, path, &bearer).await.status(), status, "{path}");
    }
    let response = get_without_token(&client, &hub, "/signed").await;
    assert_eq!(response.status(), 200);
    assert_eq!(allowed_origin(&response), None);
    hub.fail_api(FakeAnswer::new(503, ""));
    assert_eq!(get_without_token(&client, &hub, NAMES).await.status(), 401);
    assert_eq!(get_without_token(&client, &hub, "/signed").await.status(), 200);
}

#[tokio::test]
async fn an_api_fails_as_often_as_it_is_told_and_then_works() {
    let (hub, client) = start().await;
    let bearer = bearer(&hub).await;
    hub.answer_path(NAMES, FakeAnswer::new(200, "found"));
    hub.fail_api_next(2, FakeAnswer::new(503, ""));
    hub.fail_api_next(1, FakeAnswer::new(500, ""));
    for (authorization, status) in [
        (&*bearer, 503),
        ("Bearer nonsense", 401),
        (&bearer, 503),
        (&bearer, 500),
        (&bearer, 200),
    ] {
        assert_eq!(get(&client, &hub, NAMES, authorization).await.status(), status);
    }
    hub.fail_api(FakeAnswer::new(502, ""));
    for path in [NAMES, TILE, NAMES] {
        assert_eq!(get(&client, &hub, path, &bearer).await.status(), 502);
    }
    endpoint(&hub)
        .fetch(None)
        .await
        .expect("the token endpoint is not an API");
    hub.fail_api_next(5, FakeAnswer::new(500, ""));
    hub.recover();
    assert_eq!(get(&client, &hub, NAMES, &bearer).await.status(), 200);
}

#[tokio::test]
async fn a_429_is_in_oss_words_and_without_a_retry_after() {
    let (hub, client) = start().await;
    let bearer = bearer(&hub).await;
    hub.fail_api_next(1, FakeAnswer::rate_limited());
    let response = get(&client, &hub, NAMES, &bearer).await;
    assert_eq!(response.status(), 429);
    assert!(!response.headers().contains_key("Retry-After"));
    assert_eq!(content_type(&response), "application/json");
    let body = response.text().await.unwrap();
    assert!(
        body.starts_with(r#"{"fault":{"faultstring":"Rate limit quota violation. "#),
        "{body}"
    );
    assert!(
        body.contains(r#""errorcode":"policies.ratelimit.QuotaViolation""#),
        "{body}"
    );

    hub.fail_next(1, FakeAnswer::rate_limited());
    let error = endpoint(&hub).fetch(None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RateLimited);
    assert_eq!(error.retry_after(), None);
}

#[tokio::test]
async fn a_rate_limit_counts_good_requests_for_each_api_and_for_the_token_endpoint() {
    let (hub, client) = start().await;
    let bearer = bearer(&hub).await;
    hub.set_rate_limit(Some(2));
    for (path, authorization, status) in [
        (NAMES, "Bearer nonsense", 401),
        (NAMES, &*bearer, 200),
        (NAMES, &bearer, 200),
        (NAMES, &bearer, 429),
        (TILE, &bearer, 200),
        (OWS[0], &bearer, 200),
        (OWS[0], &bearer, 429),
    ] {
        let response = get(&client, &hub, path, authorization).await;
        assert_eq!(response.status(), status, "{path}");
    }
    // The fixture has fetched one token.
    endpoint(&hub).fetch(None).await.unwrap();
    let error = endpoint(&hub).fetch(None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RateLimited);
    hub.set_rate_limit(None);
    assert_eq!(get(&client, &hub, NAMES, &bearer).await.status(), 200);
}

#[tokio::test]
async fn without_any_credential_the_401_misses_a_key_and_is_not_about_a_token() {
    let (hub, client) = start().await;
    for (path, code) in [
        (NAMES, r#""errorcode":"steps.oauth.v2.FailedToResolveAPIKey""#),
        (TILE, "<errorcode>steps.oauth.v2.FailedToResolveAPIKey</errorcode>"),
        (OWS[0], r#"exceptionCode="FailedToResolveAPIKey""#),
    ] {
        let response = get_without_token(&client, &hub, path).await;
        assert_eq!(response.status(), 401);
        assert!(!response.headers().contains_key("WWW-Authenticate"));
        let body = response.text().await.unwrap();
        assert!(body.contains(code), "{body}");
    }
    let response = get(&client, &hub, NAMES, "Basic a2V5OnNlY3JldA==").await;
    assert!(response.text().await.unwrap().contains("oauth.v2.InvalidAccessToken"));
}

#[tokio::test]
async fn wfs_wmts_and_vector_tiles_refuse_with_an_ows_report_that_has_the_bare_code() {
    let (hub, client) = start().await;
    let bearer = bearer(&hub).await;
    hub.refuse_under("/");
    for path in OWS {
        for (authorization, code) in [
            (&*bearer, "InvalidAPICallAsNoApiProductMatchFound"),
            ("Bearer nonsense", "invalid_access_token"),
        ] {
            let response = get(&client, &hub, path, authorization).await;
            assert_eq!(response.status(), 401);
            assert_eq!(content_type(&response), "application/xml");
            let report = response.text().await.unwrap();
            assert!(report.contains("<ows:ExceptionReport "), "{report}");
            assert!(
                report.contains(&format!(r#"<ows:Exception exceptionCode="{code}">"#)),
                "{report}"
            );
        }
    }
}

#[tokio::test]
async fn a_whole_api_can_be_outside_the_project() {
    let (hub, client) = start().await;
    let bearer = bearer(&hub).await;
    hub.refuse_under("/search/places/");
    let response = get(&client, &hub, "/search/places/v1/postcode?postcode=BA11LZ", &bearer).await;
    assert_eq!(response.status(), 401);
    assert!(!response.headers().contains_key("WWW-Authenticate"));
    let fault = response.text().await.unwrap();
    assert!(fault.contains("InvalidAPICallAsNoApiProductMatchFound"), "{fault}");
    assert_eq!(get(&client, &hub, NAMES, &bearer).await.status(), 200);
}

#[tokio::test]
async fn each_api_sends_a_sample_in_its_format() {
    let (hub, client) = start().await;
    let bearer = bearer(&hub).await;
    for (path, format, part) in [
        (
            "/search/names/v1/find?query=York",
            "application/json",
            r#""NAME1":"York""#,
        ),
        (
            "/search/places/v1/postcode?postcode=BA11LZ",
            "application/json",
            r#""DPA":"#,
        ),
        (
            "/search/links/v1/identifiers/1",
            "application/json",
            "linkedIdentifiers",
        ),
        (TILE, "image/png", "IHDR"),
        (
            "/maps/raster/v1/wmts?service=WMTS&request=GetCapabilities",
            "application/xml",
            "<Capabilities ",
        ),
        ("/maps/raster/v1/wmts?SERVICE=WMTS&REQUEST=GetTile", "image/png", "IHDR"),
        ("/maps/vector/v1/vts", "application/json", "{"),
        (
            "/maps/vector/v1/vts/tile/7/42/63.pbf",
            "application/vnd.mapbox-vector-tile",
            "",
        ),
        ("/maps/vector/ngd/ota/v1/collections/ngd-base", "application/json", "{"),
        (
            "/maps/vector/ngd/ota/v1/collections/ngd-base/tiles/3857/7/42/63",
            "application/vnd.mapbox-vector-tile",
            "",
        ),
        (
            "/features/ngd/ofa/v1/collections/bld-fts-building-1/items?limit=1",
            "application/geo+json",
            "FeatureCollection",
        ),
        (
            "/features/v1/wfs?service=WFS&request=GetCapabilities",
            "application/xml",
            "WFS_Capabilities",
        ),
        (
            "/features/v1/wfs?request=GetFeature&outputFormat=GEOJSON",
            "application/geo+json",
            "FeatureCollection",
        ),
        (
            "/downloads/v1/products",
            "application/json",
            "/downloads/v1/products/OpenNames",
        ),
        ("/positioning/osnet/v1/rinex", "application/json", "RINEX"),
        ("/search/made/up", "application/json", r#"{"path":"/search/made/up"}"#),
    ] {
        let response = get(&client, &hub, path, &bearer).await;
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(content_type(&response), format, "{path}");
        let body = String::from_utf8_lossy(&response.bytes().await.unwrap()).into_owned();
        assert!(body.contains(part), "{path}: {body}");
    }
}

#[tokio::test]
async fn a_get_of_the_token_endpoint_is_a_404_in_plain_text() {
    let (hub, client) = start().await;
    let response = client.get(hub.token_url()).send().await.unwrap();
    assert_eq!(response.status(), 404);
    assert_eq!(content_type(&response), "text/plain");
    assert_eq!((hub.token_posts(), hub.api_requests()), (0, 0));
}

#[tokio::test]
async fn downloads_redirect_with_302_from_a_listing_and_with_307_if_asked_to() {
    let (hub, client) = start().await;
    let bearer = bearer(&hub).await;
    let signed = hub.url("/signed?signature=1");
    let (product, station) = (
        "/downloads/v1/products/OpenNames/downloads",
        "/positioning/osnet/v1/stations/EDIN/rinex",
    );
    hub.redirect_path(product, signed.clone());
    hub.redirect_path(station, signed.clone());
    for (path, status) in [
        (format!("{product}?area=GB&format=CSV"), 302),
        (format!("{product}?area=GB&format=CSV&redirect"), 307),
        (format!("{product}?redirect=true"), 307),
        (station.to_owned(), 307),
    ] {
        let response = get(&client, &hub, &path, &bearer).await;
        assert_eq!(response.status(), status, "{path}");
        assert_eq!(response.headers()["Location"], signed.as_str());
    }
}

#[tokio::test]
async fn a_received_request_has_its_path_and_its_query_apart() {
    let (hub, client) = start().await;
    for path in ["/search/names/v1/find?query=B%20?&x", TILE, "/maps?"] {
        get_without_token(&client, &hub, path).await;
    }
    let received = hub.received();
    let seen: Vec<_> = received.iter().map(|r| (&*r.path, r.query.as_deref())).collect();
    assert_eq!(
        seen,
        [(NAMES, Some("query=B%20?&x")), (TILE, None), ("/maps", Some(""))]
    );
}

#[tokio::test]
async fn an_observer_sees_each_request_with_the_status_of_its_response() {
    let (hub, client) = start().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    hub.on_response({
        let seen = seen.clone();
        move |request, status| seen.lock().unwrap().push((request.path.clone(), status.as_u16()))
    });
    let bearer = bearer(&hub).await;
    get(&client, &hub, NAMES, &bearer).await;
    get_without_token(&client, &hub, TILE).await;
    let expected = [("/oauth2/token/v1", 200), (NAMES, 200), (TILE, 401)];
    assert_eq!(
        *seen.lock().unwrap(),
        expected.map(|(path, status)| (path.to_owned(), status))
    );
}

#[tokio::test]
async fn a_401_replaces_the_token_at_once_if_the_revocation_waited_until_it_may() {
    let hub = FakeDataHub::start().await.unwrap();
    hub.set_lifetime(Duration::from_secs(8));
    let tokens = TokenManager::builder(endpoint(&hub)).build().unwrap();
    let auth = BearerAuth::new(tokens).with_origin(hub.origin()).unwrap();
    let client = ClientBuilder::new(hub.client_builder().build().unwrap())
        .with(auth)
        .build();
    let status = async || client.get(hub.url(NAMES)).send().await.unwrap().status();
    let start = Instant::now();
    hub.revoke_all_when_replaceable().await;
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "there is no token to wait for"
    );
    assert_eq!(status().await, 200);
    hub.revoke_all_when_replaceable().await;
    assert_eq!(status().await, 200);
    assert_eq!((hub.token_posts(), hub.api_requests()), (2, 3));
}

#[tokio::test]
async fn a_hub_starts_on_a_fixed_port_and_frees_it() {
    let (first, client) = start().await;
    let port = first.origin().port().unwrap();
    let error = FakeDataHub::start_on((Ipv4Addr::LOCALHOST, port)).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    drop(first);
    // The runtime closes the listener a little later.
    let hub = eventually("the port is free", async || {
        FakeDataHub::start_on((Ipv4Addr::LOCALHOST, port)).await.ok()
    })
    .await;
    assert_eq!(hub.origin().as_str(), format!("http://127.0.0.1:{port}/"));
    assert_eq!(get_without_token(&client, &hub, "/").await.status(), 200);
    let everywhere = FakeDataHub::start_on((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
    assert_eq!(everywhere.origin().host_str(), Some("127.0.0.1"));
    assert_eq!(get_without_token(&client, &everywhere, "/").await.status(), 200);
}

#[tokio::test]
async fn a_page_of_any_origin_may_read_what_apis_answer_refusals_included() {
    let (hub, client) = start().await;
    let bearer = bearer(&hub).await;
    hub.refuse_path("/search/refused");
    hub.answer_path("/search/answered", FakeAnswer::new(404, ""));
    hub.answer_under("/maps/", |_| FakeAnswer::new(200, "tile"));
    for (path, authorization, status) in [
        (TILE, bearer.as_str(), 200),
        (TILE, "Bearer nonsense", 401),
        (NAMES, bearer.as_str(), 200),
        ("/search/refused", bearer.as_str(), 401),
        ("/search/answered", bearer.as_str(), 404),
    ] {
        let response = get(&client, &hub, path, authorization).await;
        assert_eq!(response.status(), status, "{path}");
        assert_eq!(allowed_origin(&response), Some("*"), "{path}");
    }
}

#[tokio::test]
async fn a_preflight_needs_no_token_and_does_not_count_as_an_api_request() {
    let (hub, client) = start().await;
    let response = preflight(&client, &hub, TILE).await;
    assert_eq!(response.status(), 200);
    assert_eq!(allowed_origin(&response), Some("*"));
    assert_eq!(response.headers()["Access-Control-Allow-Headers"], "authorization");
    assert_eq!(hub.api_requests(), 0);
    assert_eq!(hub.received().len(), 1, "a preflight should be recorded");
}

#[tokio::test]
async fn an_options_request_that_is_no_preflight_wants_a_token_like_any_other() {
    let (hub, client) = start().await;
    for header in ["X-Nothing", "Origin", "Access-Control-Request-Method"] {
        let request = client.request(Method::OPTIONS, hub.url(TILE)).header(header, "GET");
        assert_eq!(request.send().await.unwrap().status(), 401, "{header}");
    }
    assert_eq!(hub.api_requests(), 3);
    let response = preflight(&client, &hub, "/").await;
    assert_eq!(allowed_origin(&response), None, "the landing page is not an API path");
}

#[tokio::test]
async fn no_page_may_read_what_the_token_endpoint_answers() {
    let (hub, client) = start().await;
    let path = hub.token_url().path().to_owned();
    let response = preflight(&client, &hub, &path).await;
    assert_eq!(response.status(), 404);
    assert_eq!(allowed_origin(&response), None);
    let request = client.post(hub.token_url()).header("Origin", ORIGIN);
    assert_eq!(allowed_origin(&request.send().await.unwrap()), None);
}

#[tokio::test]
async fn a_folder_is_answered_by_a_function_after_the_bearer_check() {
    let (hub, client) = start().await;
    let bearer = bearer(&hub).await;
    hub.answer_under("/maps/raster/", |request| FakeAnswer::new(200, request.path.clone()));
    let response = get(&client, &hub, &format!("{TILE}?a=b"), &bearer).await;
    assert_eq!(response.text().await.unwrap(), TILE);
    let response = get(&client, &hub, TILE, "Bearer nonsense").await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert!(response.headers().contains_key("WWW-Authenticate"));
    hub.revoke_all();
    let response = get(&client, &hub, TILE, &bearer).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn of_prefixes_that_fit_the_last_one_counts_and_an_exact_path_comes_before_them_all() {
    let (hub, client) = start().await;
    let bearer = bearer(&hub).await;
    let text = async |path| get(&client, &hub, path, &bearer).await.text().await.unwrap();
    hub.answer_under("/own/a/", |_| FakeAnswer::new(200, "a"));
    hub.answer_under("/own/", |_| FakeAnswer::new(200, "own"));
    assert_eq!(text("/own/a/1").await, "own");
    hub.answer_under("/own/a/", |_| FakeAnswer::new(200, "a again"));
    assert_eq!(text("/own/a/1").await, "a again");
    assert_eq!(text("/own/b").await, "own");
    hub.answer_path("/own/b", FakeAnswer::new(200, "b"));
    assert_eq!(text("/own/b").await, "b");
    hub.refuse_under("/own/");
    assert!(
        text("/own/a/1")
            .await
            .contains("InvalidAPICallAsNoApiProductMatchFound")
    );
    assert_eq!(text("/owner").await, r#"{"title":"OS Data Hub APIs"}"#);
}

#[tokio::test]
async fn an_answers_own_word_on_who_may_read_it_stands() {
    let (hub, client) = start().await;
    let bearer = bearer(&hub).await;
    hub.answer_under("/maps/", |_| {
        FakeAnswer::new(200, "").with_header("Access-Control-Allow-Origin", "https://one.example")
    });
    let response = get(&client, &hub, TILE, &bearer).await;
    assert_eq!(allowed_origin(&response), Some("https://one.example"));
    assert_eq!(
        response.headers().get_all("Access-Control-Allow-Origin").iter().count(),
        1
    );
}

#[tokio::test]
async fn a_function_may_ask_the_hub_and_its_panic_ends_no_more_than_its_connection() {
    let (hub, client) = start().await;
    let hub = Arc::new(hub);
    let weak_hub = Arc::downgrade(&hub);
    let bearer = bearer(&hub).await;
    hub.answer_under("/maps/", move |request| {
        assert!(!request.path.ends_with("panic"), "scripted panic");
        let posts = weak_hub.upgrade().map_or(0, |hub| hub.token_posts());
        FakeAnswer::new(200, posts.to_string())
    });
    let response = get(&client, &hub, "/maps/1", &bearer).await;
    assert_eq!(response.text().await.unwrap(), "1");
    let panicked = client.get(hub.url("/maps/panic")).header("Authorization", &bearer);
    panicked.send().await.unwrap_err();
    assert_eq!(get(&client, &hub, "/maps/1", &bearer).await.status(), 200);
}

#[test]
fn each_example_of_the_testing_guide_is_seen_to_fail_without_bearer_auth() {
    let guide = include_str!("../../src/guide/testing.md");
    let examples: Vec<_> = guide.split("```").skip(1).step_by(2).collect();
    assert!(examples.len() > 3);
    for example in examples {
        assert!(
            example.contains("\n# test_support::fails_without_bearer_auth(async |with_auth| {"),
            "{example}"
        );
        assert!(
            example.contains("\n# let os = if with_auth { os } else { "),
            "{example}"
        );
    }
}
