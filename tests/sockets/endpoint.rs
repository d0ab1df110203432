//! [`TokenEndpoint`]: the request that it sends, and the result of every kind of response. Over real sockets, in real
//! time.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use osdatahub_auth::{
    AccessToken, Error, ErrorKind, FakeAnswer, FakeDataHub, ProjectCredentials, TokenEndpoint, TokenManager,
    TokenSource,
};
use reqwest::{
    Proxy,
    header::{self, HeaderMap, HeaderValue},
    redirect, retry,
};
use test_support::{RawServer, http_response};
use tokio::{io::AsyncWriteExt, time::sleep};

fn endpoint(hub: &FakeDataHub) -> TokenEndpoint {
    TokenEndpoint::builder(hub.credentials())
        .token_url(hub.token_url())
        .build()
        .unwrap()
}

fn credentials() -> ProjectCredentials {
    ProjectCredentials::new("key", "secret").unwrap()
}

/// Fetches a token from this server.
async fn fetch(server: &RawServer) -> Result<AccessToken, Error> {
    let endpoint = TokenEndpoint::builder(credentials()).token_url(server.url("/token"));
    endpoint.build().unwrap().fetch(None).await
}

/// Remaining lifetime of the token in a 200 with this body, rounded to whole seconds.
async fn lifetime(body: &str) -> Result<u64, Error> {
    lifetime_with("", body).await
}

async fn lifetime_with(headers: &str, body: &str) -> Result<u64, Error> {
    let server = RawServer::responding(http_response(200, headers, body)).await;
    let token = fetch(&server).await?;
    Ok((token.remaining() + Duration::from_millis(500)).as_secs())
}

#[track_caller]
fn assert_malformed(outcome: Result<u64, Error>, body: &str) {
    let error = outcome.expect_err(body);
    assert_eq!(error.kind(), ErrorKind::MalformedResponse, "{body}");
}

#[tokio::test]
async fn one_post_with_basic_auth_a_form_and_an_accept() {
    let (send, receive) = std::sync::mpsc::channel();
    let send = Mutex::new(send);
    let server = RawServer::start(move |_, request| {
        send.lock().unwrap().send(request).unwrap();
        async {}
    })
    .await;
    fetch(&server).await.unwrap_err();
    let request = receive.recv().unwrap();
    let (line, headers) = request.split_once("\r\n").unwrap();
    assert_eq!(line, "POST /token HTTP/1.1");
    let headers = headers.to_lowercase();
    for expected in [
        "authorization: basic a2v5onnly3jlda==\r\n",
        "accept: application/json\r\n",
        "content-type: application/x-www-form-urlencoded\r\n",
        "user-agent: osdatahub-auth/",
        "\r\n\r\ngrant_type=client_credentials",
    ] {
        assert!(headers.contains(expected), "{headers} should contain {expected}");
    }
}

/// Firewalls refuse a request without a user agent.
#[tokio::test]
async fn a_changed_http_client_is_still_ours() {
    let (send, receive) = std::sync::mpsc::channel();
    let send = Mutex::new(send);
    let server = RawServer::start(move |_, request| {
        send.lock().unwrap().send(request.to_lowercase()).unwrap();
        async {}
    })
    .await;
    let referer = (header::REFERER, HeaderValue::from_static("x"));
    let builder = TokenEndpoint::builder(credentials())
        .http_client(|client| client.default_headers(HeaderMap::from_iter([referer])))
        .token_url(server.url("/token"));
    let send_to_another_thread = || builder;
    let endpoint = std::thread::spawn(send_to_another_thread).join().unwrap().build();
    endpoint.unwrap().fetch(None).await.unwrap_err();
    let request = receive.recv().unwrap();
    for expected in ["\r\nuser-agent: osdatahub-auth/", "\r\nreferer: x\r\n"] {
        assert!(request.contains(expected), "{request} should contain {expected}");
    }
}

#[tokio::test]
async fn a_refusal_is_never_repeated_whatever_the_client_says() {
    let server = RawServer::responding(http_response(503, "", "")).await;
    let always = retry::for_host("127.0.0.1").classify_fn(|attempt| match attempt.status() {
        Some(_) => attempt.retryable(),
        None => attempt.success(),
    });
    let endpoint = TokenEndpoint::builder(credentials())
        .token_url(server.url("/"))
        .http_client(|client| client.retry(always));
    endpoint.build().unwrap().fetch(None).await.unwrap_err();
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn every_shape_of_os_answer_is_a_token() {
    for body in [
        r#"{"access_token":"ZclClFcksJlZ19vnJOt09Yj3xme0","expires_in":"299","issued_at":"1634663382476","token_type":"Bearer"}"#,
        r#"{"access_token":"ZclClFcksJlZ19vnJOt09Yj3xme0","expires_in":299,"issued_at":1576249823754,"token_type":"Bearer"}"#,
        r#"{"access_token":"ZclClFcksJlZ19vnJOt09Yj3xme0","expires_in":"299","issued_at":"1611584726303","token_type":"BearerToken"}"#,
        r#"{"access_token":"t","expires_in":299.0,"token_type":"bearertoken"}"#,
        r#"{"access_token":"t","expires_in":" 299 ","token_type":"Bearer"}"#,
        r#"{"access_token":"t","expires_in":"299","token_type":"BEARER","issued_at":"soon"}"#,
        r#"{"access_token":"t","expires_in":"299","token_type":"Bearer","issued_at":null}"#,
        "\u{feff}{\"access_token\":\"t\",\"expires_in\":\"299\"}",
        "\u{feff}\r\n{\"access_token\":\"t\",\"expires_in\":\"299\"}",
        r#"{"refresh_count":"0","access_token":"t","expires_in":"299","token_type":"Bearer","scope":"","status":"approved","application_name":"x","developer.email":"a@b","client_id":"c","api_product_list_json":["a"]}"#,
    ] {
        assert_eq!(lifetime(body).await.expect(body), 299, "{body}");
    }
}

#[tokio::test]
async fn the_fake_hub_speaks_as_os_does() {
    let hub = FakeDataHub::start().await.unwrap();
    for numbers in [false, true] {
        hub.send_numbers(numbers);
        let token = endpoint(&hub).fetch(None).await.unwrap();
        assert_eq!(token.expose_secret().len(), 28);
        assert!(token.remaining() > Duration::from_secs(298));
    }
    assert_eq!(hub.token_posts(), 2);
}

#[tokio::test]
async fn a_missing_expires_in_counts_as_240_s_and_a_huge_one_as_a_day() {
    assert_eq!(lifetime(r#"{"access_token":"t"}"#).await.unwrap(), 240);
    assert_eq!(
        lifetime(r#"{"access_token":"t","expires_in":null}"#).await.unwrap(),
        240
    );
    for huge in ["86401", "18446744073709551615", "1e30", r#""1e300""#] {
        let body = format!(r#"{{"access_token":"t","expires_in":{huge}}}"#);
        assert_eq!(lifetime(&body).await.unwrap(), 86_400, "{huge}");
    }
}

#[tokio::test]
async fn an_impossible_expires_in_is_malformed() {
    for expires_in in [
        "0",
        "-1",
        "-0.0",
        r#""0""#,
        r#""-299""#,
        r#""NaN""#,
        r#""inf""#,
        r#""-inf""#,
        r#""1e400""#,
        r#""""#,
        r#""soon""#,
        "true",
        "[]",
        "{}",
        r#"["299"]"#,
        "1e400",
        "9520e-111",
    ] {
        let body = format!(r#"{{"access_token":"t","expires_in":{expires_in},"token_type":"Bearer"}}"#);
        assert_malformed(lifetime(&body).await, &body);
    }
}

#[tokio::test]
async fn a_200_that_holds_no_token_is_malformed() {
    for body in [
        "",
        "null",
        "[]",
        "{}",
        "<html><body>Welcome</body></html>",
        r#"{"title":"OS Data Hub APIs"}"#,
        r#"{"access_token":null,"expires_in":"299"}"#,
        r#"{"access_token":17,"expires_in":"299"}"#,
        r#"{"access_token":"","expires_in":"299"}"#,
        r#"{"access_token":"has space","expires_in":"299"}"#,
        r#"{"access_token":"a\r\nX-Injected: 1","expires_in":"299"}"#,
        r#"{"access_token":"tökén","expires_in":"299"}"#,
        r#"{"access_token":"t","expires_in":"299","token_type":"mac"}"#,
        r#"{"access_token":"t","expires_in":"299","token_type":7}"#,
        r#"{"access_token":"t","expires_in":"299""#,
        "{\u{feff}\"access_token\":\"t\"}",
    ] {
        assert_malformed(lifetime(body).await, body);
    }
    let server = RawServer::responding(&b"HTTP/1.1 204 No Content\r\n\r\n"[..]).await;
    assert_eq!(fetch(&server).await.unwrap_err().kind(), ErrorKind::MalformedResponse);
}

const ISSUED_AT_0: &str = r#"{"access_token":"t","expires_in":"299","issued_at":"1634663382000"}"#;

/// The `Date` this long after the token in [`ISSUED_AT_0`] was issued.
fn date(seconds: u64) -> String {
    let at = std::time::UNIX_EPOCH + Duration::from_secs(1_634_663_382 + seconds);
    format!("Date: {}\r\n", httpdate::fmt_http_date(at))
}

#[tokio::test]
async fn the_age_of_an_answer_is_taken_off_by_the_servers_own_clock() {
    let body = ISSUED_AT_0;
    assert_eq!(lifetime_with(&date(0), body).await.unwrap(), 299);
    assert_eq!(lifetime_with(&date(200), body).await.unwrap(), 99);
    assert_eq!(lifetime_with("Date: yesterday\r\n", body).await.unwrap(), 299);
    assert_eq!(lifetime_with("", body).await.unwrap(), 299);
    let later = r#"{"access_token":"t","expires_in":"299","issued_at":"1634663392000"}"#;
    assert_eq!(lifetime_with(&date(0), later).await.unwrap(), 299);
    for issued_at in ["18446744073709551615", "-1", "1e300", r#""""#] {
        let body = format!(r#"{{"access_token":"t","expires_in":"299","issued_at":{issued_at}}}"#);
        assert_eq!(lifetime_with(&date(200), &body).await.unwrap(), 299, "{issued_at}");
    }
}

/// Three quarters of 299 s are 224.25 s.
#[tokio::test]
async fn a_great_age_counts_only_with_an_age_header() {
    for (age, without_header, with_header) in [
        (224, 75, 75),
        (225, 299, 74),
        (298, 299, 1),
        // No token can be older than its lifetime.
        (299, 299, 299),
        (86_400, 299, 299),
    ] {
        let date = date(age);
        let cached = format!("{date}Age: 17\r\n");
        assert_eq!(
            lifetime_with(&date, ISSUED_AT_0).await.unwrap(),
            without_header,
            "{age}"
        );
        assert_eq!(lifetime_with(&cached, ISSUED_AT_0).await.unwrap(), with_header, "{age}");
        // What a proxy adds that has a cache, but no cached response.
        let not_cached = format!("{date}Age: 0\r\n");
        let lifetime = lifetime_with(&not_cached, ISSUED_AT_0).await.unwrap();
        assert_eq!(lifetime, without_header, "{age}");
    }
}

/// Before, each of these tokens counted as one with a second left, which cost a POST a second.
#[tokio::test]
async fn a_date_that_is_ahead_costs_one_post() {
    let server = RawServer::responding(http_response(200, &date(298), ISSUED_AT_0)).await;
    let endpoint = TokenEndpoint::builder(credentials()).token_url(server.url("/token"));
    let tokens = TokenManager::builder(endpoint.build().unwrap()).build().unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(4) {
        tokens.token().await.unwrap();
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(server.connections(), 1);
}

const CANARY: &str = "canary-in-the-body";

#[tokio::test]
async fn every_refusal_has_its_kind_and_is_never_quoted() {
    use ErrorKind::{CredentialsRejected, RateLimited, RequestRejected, Unavailable};
    let os_error = r#"{"ErrorCode":"invalid_client","Error":"Client credentials are invalid canary-in-the-body"}"#;
    let oauth_error = r#"{"error":"invalid_client","error_description":"canary-in-the-body"}"#;
    let fault =
        r#"{"fault":{"faultstring":"canary-in-the-body","detail":{"errorcode":"oauth.v2.InvalidClientIdentifier"}}}"#;
    let unknown_client = r#"{"fault":{"faultstring":"canary-in-the-body","detail":{"errorcode":"oauth.v2.invalid_client-invalid_client_id"}}}"#;
    let missing_grant_type =
        r#"{"ErrorCode":"invalid_request","Error":"Required param : grant_type canary-in-the-body"}"#;
    let html = "<html><title>canary-in-the-body</title></html>";
    for (status, body, kind) in [
        (401, os_error, CredentialsRejected),
        (401, oauth_error, CredentialsRejected),
        (401, fault, CredentialsRejected),
        (401, html, CredentialsRejected),
        (401, "", CredentialsRejected),
        (400, os_error, CredentialsRejected),
        (400, &format!("\u{feff}{os_error}"), CredentialsRejected),
        (400, &format!("\u{feff}{oauth_error}"), CredentialsRejected),
        (400, &format!("\u{feff}{fault}"), CredentialsRejected),
        (400, oauth_error, CredentialsRejected),
        (400, fault, CredentialsRejected),
        (400, unknown_client, CredentialsRejected),
        (400, missing_grant_type, RequestRejected),
        (400, html, RequestRejected),
        (400, "", RequestRejected),
        (403, html, RequestRejected),
        (404, "", RequestRejected),
        (407, html, RequestRejected),
        (301, "", RequestRejected),
        (304, "", RequestRejected),
        (429, fault, RateLimited),
        (429, "", RateLimited),
        (408, "", Unavailable),
        (425, "", Unavailable),
        (500, fault, Unavailable),
        (502, html, Unavailable),
        (503, "", Unavailable),
        (599, "", Unavailable),
    ] {
        let server = RawServer::responding(http_response(status, "", body)).await;
        let error = fetch(&server).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{status} {body}");
        assert!(error.to_string().contains(&status.to_string()), "{error}");
        assert!(!format!("{error} {error:?}").contains(CANARY), "{error:?}");
    }
}

#[tokio::test]
async fn a_403_names_what_may_have_refused_the_request() {
    let server = RawServer::responding(http_response(403, "", "")).await;
    let shown = fetch(&server).await.unwrap_err().to_string();
    for suspect in ["token_url", "proxy", "firewall"] {
        assert!(shown.contains(suspect), "{shown}");
    }
}

#[tokio::test]
async fn retry_after_is_read_as_seconds_and_as_a_date_by_the_servers_own_clock() {
    let date = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    for (headers, wait) in [
        ("Retry-After: 7\r\n", Some(7)),
        ("Retry-After: Sun, 06 Nov 1994 08:50:07 GMT\r\n", Some(30)),
        ("Retry-After: Sun, 06 Nov 1994 08:00:00 GMT\r\n", Some(0)),
        ("Retry-After: 99999999999999999999999\r\n", Some(86_400)),
        ("Retry-After: -7\r\n", None),
        ("Retry-After: 1.5\r\n", None),
        ("Retry-After: soon\r\n", None),
        ("Retry-After: \r\n", None),
        ("", None),
    ] {
        for status in [429, 503] {
            let server = RawServer::responding(http_response(status, &format!("{date}{headers}"), "")).await;
            let error = fetch(&server).await.unwrap_err();
            assert_eq!(error.retry_after().map(|wait| wait.as_secs()), wait, "{headers}");
        }
    }
}

#[tokio::test]
async fn a_redirect_is_never_followed_whatever_the_client_says() {
    let redirect_target = RawServer::responding(http_response(200, "", r#"{"access_token":"stolen"}"#)).await;
    for status in [301, 302, 303, 307, 308] {
        let location = format!("Location: {}\r\n", redirect_target.url("/"));
        let server = RawServer::responding(http_response(status, &location, "")).await;
        let error = TokenEndpoint::builder(credentials())
            .token_url(server.url("/"))
            .http_client(|client| client.redirect(redirect::Policy::limited(10)))
            .build()
            .unwrap()
            .fetch(None)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::RequestRejected);
        assert!(error.to_string().contains("redirects are not followed"), "{error}");
    }
    assert_eq!(redirect_target.connections(), 0);
}

#[tokio::test]
async fn a_loopback_endpoint_is_never_called_through_a_proxy() {
    let hub = FakeDataHub::start().await.unwrap();
    let proxy = RawServer::responding(http_response(502, "", "")).await;
    let through_proxy = Proxy::all(proxy.url("/")).unwrap();
    let endpoint = TokenEndpoint::builder(hub.credentials())
        .token_url(hub.token_url())
        .http_client(|client| client.proxy(through_proxy))
        .build()
        .unwrap();
    endpoint.fetch(None).await.unwrap();
    assert_eq!(proxy.connections(), 0);
}

#[test]
fn a_wildcard_is_not_a_host_to_send_the_secret_to() {
    for url in ["https://*.os.uk/token", "https://%2a.os.uk/token"] {
        let endpoint = TokenEndpoint::builder(credentials()).token_url(url.parse().unwrap());
        let error = endpoint.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        let shown = error.to_string();
        assert!(shown.contains("token_url") && shown.contains("wildcard"), "{shown}");
    }
}

#[tokio::test]
async fn no_connection_is_kept_between_refreshes() {
    let response = http_response(
        200,
        "Connection: keep-alive\r\n",
        r#"{"access_token":"t","expires_in":"299"}"#,
    );
    let closed_connections = Arc::new(Mutex::new(0));
    let counter = closed_connections.clone();
    let server = RawServer::start(move |mut stream, _| {
        let (response, counter) = (response.clone(), counter.clone());
        async move {
            stream.write_all(&response).await.unwrap();
            let mut byte = [0];
            let read = tokio::io::AsyncReadExt::read(&mut stream, &mut byte).await;
            assert_eq!(read.unwrap(), 0, "the client should close the connection");
            *counter.lock().unwrap() += 1;
        }
    })
    .await;
    let endpoint = TokenEndpoint::builder(credentials())
        .token_url(server.url("/"))
        .http_client(|client| client.pool_max_idle_per_host(8))
        .build()
        .unwrap();
    endpoint.fetch(None).await.unwrap();
    endpoint.fetch(None).await.unwrap();
    assert_eq!(server.connections(), 2);
    let start = Instant::now();
    while *closed_connections.lock().unwrap() < 2 {
        assert!(start.elapsed() < Duration::from_secs(5));
        sleep(Duration::from_millis(5)).await;
    }
}

/// The race that a connection pool can lose: the server closes an idle connection just as the client sends the next
/// request over it.
#[tokio::test]
async fn a_connection_that_the_endpoint_closes_between_refreshes_is_not_missed() {
    let response = http_response(
        200,
        "Connection: keep-alive\r\nKeep-Alive: timeout=60\r\n",
        r#"{"access_token":"t","expires_in":"299"}"#,
    );
    let server = RawServer::start(move |mut stream, _| {
        let response = response.clone();
        async move {
            stream.write_all(&response).await.unwrap();
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 4096]).await;
        }
    })
    .await;
    let endpoint = TokenEndpoint::builder(credentials()).token_url(server.url("/"));
    let endpoint = endpoint.build().unwrap();
    for _ in 0..3 {
        endpoint.fetch(None).await.unwrap();
    }
    assert_eq!(server.connections(), 3);
}

#[tokio::test]
async fn an_answer_is_read_to_64_kib_and_no_further() {
    let body_of_length = |length: usize| format!(r#"{{"access_token":"t"{:1$}"#, "}", length - 19);
    assert_eq!(body_of_length(64 * 1024).len(), 64 * 1024);
    assert_eq!(lifetime(&body_of_length(64 * 1024)).await.unwrap(), 240);
    assert_malformed(
        lifetime(&body_of_length(64 * 1024 + 1)).await,
        "a body of 64 KiB and one byte",
    );

    // A body that never ends is rejected as soon as it passes the limit.
    let endless = RawServer::start(|mut stream, _| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while stream.write_all(&[b' '; 16 * 1024]).await.is_ok() {}
    })
    .await;
    let start = Instant::now();
    let error = fetch(&endless).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MalformedResponse);
    assert!(start.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn the_body_of_a_refusal_is_not_waited_for() {
    let server = RawServer::start(|mut stream, _| async move {
        let _ = stream
            .write_all(b"HTTP/1.1 401 No\r\nContent-Length: 100\r\n\r\n")
            .await;
        sleep(Duration::from_secs(60)).await;
    })
    .await;
    let start = Instant::now();
    let error = fetch(&server).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CredentialsRejected);
    assert!(start.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn a_hanging_endpoint_times_out_after_the_request_timeout() {
    let hub = FakeDataHub::start().await.unwrap();
    hub.set_delay(Duration::from_secs(60));
    let endpoint = TokenEndpoint::builder(hub.credentials())
        .token_url(hub.token_url())
        .request_timeout(Duration::from_millis(300))
        .build()
        .unwrap();
    let start = Instant::now();
    let error = endpoint.fetch(None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("300ms"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_byte_at_a_time_does_not_outwit_the_time_limit() {
    let server = RawServer::start(|mut stream, _| async move {
        for byte in http_response(200, "", r#"{"access_token":"t","expires_in":"299"}"#) {
            if stream.write_all(&[byte]).await.is_err() {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let endpoint = TokenEndpoint::builder(credentials())
        .token_url(server.url("/"))
        .request_timeout(Duration::from_millis(500))
        .build()
        .unwrap();
    assert_eq!(endpoint.fetch(None).await.unwrap_err().kind(), ErrorKind::Timeout);
}

#[tokio::test]
async fn the_fake_hub_refuses_wrong_credentials_and_fails_when_told() {
    let hub = FakeDataHub::start().await.unwrap();
    let wrong = ProjectCredentials::new("wrong", "pair").unwrap();
    let endpoint = TokenEndpoint::builder(wrong)
        .token_url(hub.token_url())
        .build()
        .unwrap();
    let error = endpoint.fetch(None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CredentialsRejected);
    assert!(error.to_string().contains("Project API Key"), "{error}");

    hub.fail_next(1, FakeAnswer::new(503, "").with_header("Retry-After", "3"));
    let endpoint = self::endpoint(&hub);
    let error = endpoint.fetch(None).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(3)));
    endpoint.fetch(None).await.unwrap();
}
