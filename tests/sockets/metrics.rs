//! Metrics of 401s, as a real recorder collects them.

use osdatahub_auth::{BearerAuth, FakeAnswer, FakeDataHub, TokenEndpoint, TokenManager};
use reqwest_middleware::ClientBuilder;
use test_support::{MetricsCapture, millis, secs};
use tokio::time::sleep;

#[tokio::test]
async fn what_is_done_about_a_401_is_counted() {
    let (metrics, _guard) = MetricsCapture::start();
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
    sleep(millis(600)).await;
    hub.revoke_all();
    assert_eq!(status("/maps/x").await, 200);

    let recorded = metrics.take();
    for action in ["not_about_token", "too_new", "replaced"] {
        let name = format!("os_token_unauthorized_total action={action}");
        assert_eq!(recorded.counter(&name), 1, "{action}");
    }
}
