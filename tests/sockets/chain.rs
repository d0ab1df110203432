//! The documented order of layers, tracing → retry → `BearerAuth` → client, with reqwest-tracing and reqwest-retry.
//! Over real sockets.

use std::time::Duration;

use osdatahub_auth::{
    BearerAuth, Error, ErrorKind, FakeAnswer, FakeDataHub, TokenEndpoint, TokenManager, Unauthorized,
};
use reqwest::Response;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use reqwest_retry::{
    DefaultRetryableStrategy, RetryTransientMiddleware, Retryable, RetryableStrategy, policies::ExponentialBackoff,
};
use reqwest_tracing::TracingMiddleware;

const NAMES: &str = "/search/names/v1/find?query=Bath";

/// Retry strategy that also retries a request that was not sent because there was no token, if that failure is
/// transient.
struct RetryWithoutToken;

impl RetryableStrategy for RetryWithoutToken {
    fn handle(&self, result: &reqwest_middleware::Result<Response>) -> Option<Retryable> {
        match result {
            Err(error) if Error::find_in(error).is_some_and(Error::is_transient) => Some(Retryable::Transient),
            result => DefaultRetryableStrategy.handle(result),
        }
    }
}

async fn chain(strategy: impl RetryableStrategy + Send + Sync + 'static) -> (FakeDataHub, ClientWithMiddleware) {
    let hub = FakeDataHub::start().await.unwrap();
    let endpoint = TokenEndpoint::builder(hub.credentials()).token_url(hub.token_url());
    let tokens = TokenManager::builder(endpoint.build().unwrap()).build().unwrap();
    let policy = ExponentialBackoff::builder()
        .retry_bounds(Duration::from_millis(10), Duration::from_millis(50))
        .build_with_max_retries(3);
    let client = ClientBuilder::new(hub.client_builder().build().unwrap())
        .with(TracingMiddleware::default())
        .with(RetryTransientMiddleware::new_with_policy_and_strategy(policy, strategy))
        .with(BearerAuth::new(tokens).with_origin(hub.origin()).unwrap())
        .build();
    (hub, client)
}

#[tokio::test]
async fn every_retry_carries_a_token() {
    let (hub, client) = chain(DefaultRetryableStrategy).await;
    hub.answer_path("/search/names/v1/find", FakeAnswer::new(503, ""));
    let response = client.get(hub.url(NAMES)).send().await.unwrap();
    assert_eq!(response.status(), 503);
    let received: Vec<_> = hub.received().into_iter().filter(|r| r.method == "GET").collect();
    assert_eq!(received.len(), 4);
    assert!(
        received
            .iter()
            .all(|request| request.headers.contains_key("authorization"))
    );
    assert_eq!(hub.token_posts(), 1);
}

#[tokio::test]
async fn why_a_request_got_its_401_is_known_behind_the_other_layers() {
    let (hub, client) = chain(DefaultRetryableStrategy).await;
    hub.refuse_path("/search/names/v1/find");
    let response = client.get(hub.url(NAMES)).send().await.unwrap();
    let why = response.extensions().get::<Unauthorized>();
    assert_eq!(why, Some(&Unauthorized::NotAboutToken));
}

#[tokio::test]
async fn the_reason_is_found_behind_the_retry_layer_that_did_not_retry() {
    let (hub, client) = chain(DefaultRetryableStrategy).await;
    hub.fail(FakeAnswer::new(401, ""));
    let error = client.get(hub.url(NAMES)).send().await.unwrap_err();
    let reason = Error::find_in(&error).expect("the chain of causes should contain the library's error");
    assert_eq!(reason.kind(), ErrorKind::CredentialsRejected);
    assert_eq!(hub.api_requests(), 0);
}

#[tokio::test]
async fn the_reason_is_found_behind_the_retry_layer_that_gave_up() {
    let (hub, client) = chain(RetryWithoutToken).await;
    hub.fail(FakeAnswer::new(503, ""));
    let error = client.get(hub.url(NAMES)).send().await.unwrap_err();
    assert!(error.to_string().contains("3 retries"), "{error}");
    let reason = Error::find_in(&error).expect("the chain of causes should contain the library's error");
    assert_eq!(reason.kind(), ErrorKind::Unavailable);
    assert_eq!(hub.api_requests(), 0);
}

#[tokio::test]
async fn a_retry_layer_that_asks_is_transient_outlasts_a_hiccup_of_the_token_endpoint() {
    let (hub, client) = chain(RetryWithoutToken).await;
    hub.fail_next(1, FakeAnswer::new(503, ""));
    let response = client.get(hub.url(NAMES)).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(hub.token_posts(), 2);
}

#[tokio::test]
async fn a_timeout_round_the_whole_includes_the_wait_for_a_token() {
    let (hub, client) = chain(DefaultRetryableStrategy).await;
    hub.set_delay(Duration::from_secs(3));
    let request = client.get(hub.url(NAMES)).timeout(Duration::from_millis(100)).send();
    tokio::time::timeout(Duration::from_millis(300), request)
        .await
        .unwrap_err();
    assert_eq!((hub.token_posts(), hub.api_requests()), (1, 0));
}
