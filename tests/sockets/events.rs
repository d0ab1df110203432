//! Log events of the token endpoint.

use osdatahub_auth::{FakeAnswer, FakeDataHub, TokenEndpoint, TokenSource};
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
    assert!(warnings[0].1.contains("life=240s"), "{}", warnings[0].1);
}
