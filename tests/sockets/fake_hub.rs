//! The fake Data Hub's CORS support, which lets pages of other origins call its APIs, and its handlers for path
//! prefixes.

use osdatahub_auth::{FakeAnswer, FakeDataHub, TokenEndpoint, TokenManager};
use reqwest::{Client, Method, Response, StatusCode};

const TILE: &str = "/maps/raster/v1/zxy/Road_3857/7/63/42.png";
const ORIGIN: &str = "https://map.example";

async fn start() -> (FakeDataHub, Client) {
    let hub = FakeDataHub::start().await.unwrap();
    let client = hub.client_builder().build().unwrap();
    (hub, client)
}

async fn bearer(hub: &FakeDataHub) -> String {
    let endpoint = TokenEndpoint::builder(hub.credentials())
        .token_url(hub.token_url())
        .build()
        .unwrap();
    let tokens = TokenManager::builder(endpoint).build().unwrap();
    format!("Bearer {}", tokens.token().await.unwrap().expose_secret())
}

async fn get(client: &Client, hub: &FakeDataHub, path: &str, authorization: &str) -> Response {
    let request = client.get(hub.url(path)).header("Origin", ORIGIN);
    request.header("Authorization", authorization).send().await.unwrap()
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

#[tokio::test]
async fn a_page_of_any_origin_may_read_what_apis_answer_refusals_included() {
    let (hub, client) = start().await;
    let bearer = bearer(&hub).await;
    hub.refuse_path("/search/refused");
    hub.answer_under("/maps/", |_| FakeAnswer::new(200, "tile"));
    for (path, authorization, status) in [
        (TILE, bearer.as_str(), 200),
        (TILE, "Bearer nonsense", 401),
        ("/search/names/v1/find", bearer.as_str(), 200),
        ("/search/refused", bearer.as_str(), 401),
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
    assert_eq!(response.status(), 405);
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
    assert_eq!(response.text().await.unwrap(), format!("{TILE}?a=b"));
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
    let hub = std::sync::Arc::new(hub);
    let weak_hub = std::sync::Arc::downgrade(&hub);
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
