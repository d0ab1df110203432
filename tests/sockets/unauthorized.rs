//! `Unauthorized`: what the library says about a 401 that it returns. Over real sockets, in real time, with short
//! lifetimes.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use osdatahub_auth::{FakeAnswer, FakeDataHub, NoAuth, Unauthorized};
use reqwest::{Body, Response};
use test_support::{RawServer, http_response};
use tokio::io::AsyncWriteExt;

use crate::middleware::{Setup, Stream};

const PATH: &str = "/search/odd";

/// A fault in JSON, about the token.
fn token_fault() -> FakeAnswer {
    fault("keymanagement.service.access_token_expired")
}

fn fault(code: &str) -> FakeAnswer {
    let json = format!(r#"{{"fault":{{"faultstring":"x","detail":{{"errorcode":"{code}"}}}}}}"#);
    FakeAnswer::new(401, json)
}

/// A challenge (RFC 6750, section 3), without a body.
fn challenge(error: &str) -> FakeAnswer {
    FakeAnswer::new(401, "").with_header("WWW-Authenticate", &format!(r#"Bearer error="{error}""#))
}

/// A hub whose API gives this answer, and a token that a 401 may replace.
async fn answering(answer: FakeAnswer) -> Setup {
    let setup = Setup::new().await;
    setup.hub.answer_path(PATH, answer);
    setup.until_replaceable().await;
    setup
}

async fn get(setup: &Setup) -> Response {
    let response = setup.client.get(setup.hub.url(PATH)).send().await.unwrap();
    assert_eq!(response.status(), 401);
    response
}

fn why(response: &Response) -> Unauthorized {
    let why = response.extensions().get::<Unauthorized>();
    *why.expect("the 401 of an authenticated request says why")
}

#[tokio::test]
async fn a_401_that_is_not_about_the_token_is_told_apart_in_every_envelope() {
    let code = "InvalidAPICallAsNoApiProductMatchFound";
    let xml = format!("<fault><faultstring>x</faultstring><detail><errorcode>{code}</errorcode></detail></fault>");
    let ows = format!(r#"<ows:ExceptionReport><ows:Exception exceptionCode="{code}"/></ows:ExceptionReport>"#);
    for answer in [
        challenge("insufficient_scope"),
        fault(code),
        FakeAnswer::new(401, xml),
        FakeAnswer::new(401, ows),
    ] {
        let setup = answering(answer).await;
        assert_eq!(why(&get(&setup).await), Unauthorized::NotAboutToken);
        assert_eq!(setup.hub.api_requests(), 1);
    }
}

#[tokio::test]
async fn a_rejected_token_is_told_if_the_repeated_request_is_refused_again() {
    for answer in [token_fault(), challenge("invalid_token")] {
        let setup = answering(answer).await;
        assert_eq!(why(&get(&setup).await), Unauthorized::TokenRejected);
        assert_eq!(setup.hub.api_requests(), 2, "the replay was refused as well");
    }
}

#[tokio::test]
async fn a_rejected_token_is_told_if_the_body_is_a_stream() {
    let setup = answering(token_fault()).await;
    let body = Body::wrap(Stream(Some(Bytes::from_static(b"once"))));
    let response = setup.client.post(setup.hub.url(PATH)).body(body).send().await.unwrap();
    assert_eq!(why(&response), Unauthorized::TokenRejected);
    assert_eq!(setup.hub.api_requests(), 1);
}

#[tokio::test]
async fn a_rejected_token_is_told_if_replays_are_off() {
    let setup = Setup::with(|auth| auth.replay_rejected(false)).await;
    setup.hub.answer_path(PATH, token_fault());
    setup.until_replaceable().await;
    assert_eq!(why(&get(&setup).await), Unauthorized::TokenRejected);
    assert_eq!(setup.hub.api_requests(), 1);
}

#[tokio::test]
async fn a_rejected_token_is_told_if_no_other_is_available() {
    let setup = answering(token_fault()).await;
    setup.hub.fail(FakeAnswer::new(401, ""));
    assert_eq!(why(&get(&setup).await), Unauthorized::TokenRejected);
    assert_eq!((setup.hub.token_posts(), setup.hub.api_requests()), (2, 1));
}

#[tokio::test]
async fn a_token_that_is_too_new_to_be_replaced_is_told() {
    let setup = Setup::new().await;
    setup.hub.set_lifetime(Duration::from_secs(299));
    setup.hub.answer_path(PATH, token_fault());
    assert_eq!(why(&get(&setup).await), Unauthorized::TokenTooNew);
    assert_eq!((setup.hub.token_posts(), setup.hub.api_requests()), (1, 1));
}

#[tokio::test]
async fn a_401_without_a_known_reason_is_unexplained_whether_repeated_or_not() {
    let setup = answering(FakeAnswer::new(401, "<html>Firewall</html>")).await;
    let repeated = get(&setup).await;
    assert_eq!(why(&repeated), Unauthorized::Unexplained);
    assert_eq!(setup.hub.api_requests(), 2);
    assert_eq!(
        repeated.text().await.unwrap(),
        "<html>Firewall</html>",
        "the body is still there"
    );
    assert_eq!(why(&get(&setup).await), Unauthorized::Unexplained);
    assert_eq!(setup.hub.api_requests(), 3, "the new token is too new to be replaced");
}

#[tokio::test]
async fn the_second_401_counts_whatever_the_first_one_said() {
    let fault = |code: &str| format!(r#"{{"fault":{{"detail":{{"errorcode":"{code}"}}}}}}"#);
    let [token, api] = ["InvalidAccessToken", "InvalidApiKeyForGivenResource"].map(fault);
    for (first, second, expected) in [
        ("", &*token, Unauthorized::TokenRejected),
        ("", &api, Unauthorized::NotAboutToken),
        (&token, &api, Unauthorized::NotAboutToken),
        (&token, "", Unauthorized::Unexplained),
    ] {
        let answers = [first, second].map(|body| http_response(401, "Connection: close\r\n", body));
        let answers = Arc::new(Mutex::new(answers.into_iter()));
        let server = RawServer::start(move |mut stream, _| {
            let answer = answers.lock().unwrap().next().unwrap();
            async move {
                let _ = stream.write_all(&answer).await;
            }
        })
        .await;
        let setup = Setup::new().await;
        setup.until_replaceable().await;
        let response = setup.client_for(&server).get(server.url("/")).send().await.unwrap();
        assert_eq!(why(&response), expected, "{first} {second}");
        assert_eq!(server.connections(), 2);
    }
}

#[tokio::test]
async fn a_401_that_is_left_alone_after_a_redirect_is_unexplained() {
    let other = FakeDataHub::start().await.unwrap();
    let setup = Setup::new().await;
    setup.hub.redirect_path(PATH, other.url("/search/elsewhere"));
    setup.until_replaceable().await;
    assert_eq!(
        why(&get(&setup).await),
        Unauthorized::Unexplained,
        "from another origin"
    );
    let target = setup.hub.url("/search/end");
    setup.hub.redirect_path(PATH, target.clone());
    setup.hub.answer_path(target.path(), FakeAnswer::new(401, ""));
    assert_eq!(
        why(&get(&setup).await),
        Unauthorized::Unexplained,
        "from the same origin"
    );
    setup
        .hub
        .answer_path(target.path(), fault("InvalidApiKeyForGivenResource"));
    assert_eq!(why(&get(&setup).await), Unauthorized::NotAboutToken);
    assert_eq!(setup.hub.token_posts(), 1);
}

#[tokio::test]
async fn a_head_has_its_reason_in_a_header_or_none() {
    let setup = answering(token_fault()).await;
    let head = async || setup.client.head(setup.hub.url(PATH)).send().await.unwrap();
    assert_eq!(
        why(&head().await),
        Unauthorized::Unexplained,
        "the reason is in the body"
    );
    setup.hub.answer_path(PATH, challenge("insufficient_scope"));
    assert_eq!(why(&head().await), Unauthorized::NotAboutToken);
    setup.hub.answer_path(PATH, challenge("invalid_token"));
    assert_eq!(why(&head().await), Unauthorized::TokenRejected);
}

#[tokio::test]
async fn only_the_401_of_an_authenticated_request_says_why() {
    let setup = answering(FakeAnswer::new(403, "")).await;
    let forbidden = setup.client.get(setup.hub.url(PATH)).send().await.unwrap();
    assert_eq!(forbidden.extensions().get::<Unauthorized>(), None);
    setup.hub.refuse_path(PATH);
    let opted_out = setup.client.get(setup.hub.url(PATH)).with_extension(NoAuth);
    let opted_out = opted_out.send().await.unwrap();
    assert_eq!(opted_out.status(), 401);
    assert_eq!(opted_out.extensions().get::<Unauthorized>(), None);
}
