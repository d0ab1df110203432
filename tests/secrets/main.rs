//! Redaction: no secret appears in any log line, span, `Debug` or `Display`. A single test, because its log
//! subscriber is global to the process. Beside it, [`memory`] looks for secrets in the process's memory.

#[cfg(target_os = "linux")]
mod memory;

use std::{
    fmt::Debug,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use osdatahub_auth::{
    BearerAuth, Error, FakeAnswer, FakeDataHub, ProjectCredentials, SharedSource, TokenEndpoint, TokenManager,
    TokenSource,
};
use reqwest_middleware::ClientBuilder;
use reqwest_retry::{RetryTransientMiddleware, policies::ExponentialBackoff};
use reqwest_tracing::{SpanBackendWithUrl, TracingMiddleware};
use test_support::{Authority, RedisServer, TlsServer, Validity, http_2_goaway};
use tracing_subscriber::fmt::format::FmtSpan;

const KEY: &str = "CanaryKey0123456789";
const SECRET: &str = "CanarySecret456";
const TOKEN: &str = "CanaryToken789";
const BODY: &str = "CanaryBody";
/// What an HTTP/2 server says as it ends a connection.
const GOAWAY: &str = "CanaryGoAway";
const REDIS_PASSWORD: &str = "CanaryPassword";

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn add(&self, shown: &dyn Debug) {
        let mut log = self.0.lock().unwrap();
        log.extend_from_slice(format!("{shown:?} {shown:#?}\n").as_bytes());
    }

    fn add_error(&self, error: &(dyn std::error::Error + 'static)) {
        for cause in std::iter::successors(Some(error), |&error| error.source()) {
            self.add(&cause.to_string());
            self.add(&cause);
        }
    }
}

#[tokio::test]
async fn no_secret_shows_anywhere_at_trace_on_any_path() {
    let log = Log::default();
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(FmtSpan::FULL)
        .with_writer({
            let log = log.clone();
            move || log.clone()
        })
        .init();
    let hub = FakeDataHub::start().await.unwrap();
    let endpoint = Arc::new(endpoint(&hub, &log));
    refresh_against_every_response(&hub, &endpoint, &log).await;
    send_requests(&hub, &endpoint, &log).await;
    share_through_redis(&hub, &log).await;
    speak_http_2(&log).await;
    log.add(&hub);
    log.add(&hub.received());

    let shown = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    // The log has what it should have …
    for expected in [
        "os_token_refresh",
        "token refresh failed",
        "TRACE",
        "hyper",
        "CredentialsRejected",
        "access token adopted",
        "does not accept the user or the password",
    ] {
        assert!(shown.contains(expected), "{expected} is missing from the log");
    }
    // … and no secret.
    let basic = STANDARD.encode(format!("{KEY}:{SECRET}"));
    for secret in [KEY, SECRET, TOKEN, BODY, REDIS_PASSWORD, basic.trim_end_matches('=')] {
        let found = shown.lines().find(|line| line.contains(secret));
        assert!(found.is_none(), "{secret} leaked in {found:?}");
    }
    // The crates that speak HTTP/2 log what they receive. We cannot keep a TLS configuration of the user's from it.
    let theirs = |line: &&str| [" h2::", " hyper_util::"].iter().any(|target| line.contains(target));
    assert!(shown.lines().filter(theirs).any(|line| line.contains(GOAWAY)));
    let ours = shown.lines().find(|line| line.contains(GOAWAY) && !theirs(line));
    assert!(ours.is_none(), "{GOAWAY} leaked in {ours:?}");
}

fn endpoint(hub: &FakeDataHub, log: &Log) -> TokenEndpoint {
    let credentials = ProjectCredentials::new(KEY, SECRET).unwrap();
    log.add(&credentials);
    let builder = TokenEndpoint::builder(credentials)
        .token_url(hub.token_url())
        .request_timeout(Duration::from_millis(200))
        // The endpoint has to turn this off, because it logs the bytes on the wire.
        .http_client(|client| client.connection_verbose(true));
    log.add(&builder);
    let endpoint = builder.build().unwrap();
    log.add(&endpoint);
    endpoint
}

fn token_response(number: usize) -> FakeAnswer {
    let json = format!(
        r#"{{"access_token":"{TOKEN}{number}","expires_in":"4","token_type":"Bearer","developer.email":"{BODY}"}}"#
    );
    FakeAnswer::new(200, json)
}

fn fault(code: &str) -> String {
    format!(r#"{{"fault":{{"faultstring":"{BODY}","detail":{{"errorcode":"{code}"}}}}}}"#)
}

async fn refresh_against_every_response(hub: &FakeDataHub, endpoint: &Arc<TokenEndpoint>, log: &Log) {
    let refresh = async || {
        let builder = TokenManager::builder(endpoint.clone()).acquire_timeout(Duration::from_millis(100));
        log.add(&builder);
        let tokens = builder.build().unwrap();
        if let Err(error) = tokens.token().await {
            log.add_error(&error);
        }
        log.add(&tokens);
    };
    for status in [200, 204, 301, 400, 401, 403, 429, 500, 503] {
        for body in [
            format!(r#"{{"ErrorCode":"invalid_client","Error":"{BODY}"}}"#),
            format!(r#"{{"access_token":"{TOKEN} {BODY}"}}"#),
            format!(r#"{{"access_token":"{TOKEN}","expires_in":"{BODY}"}}"#),
            format!("<html>{BODY} {TOKEN}</html>"),
            fault("oauth.v2.InvalidClientIdentifier"),
        ] {
            hub.fail_next(1, FakeAnswer::new(status, body));
            refresh().await;
        }
    }
    let location = format!("http://{KEY}:{SECRET}@127.0.0.1:1/");
    hub.fail_next(1, FakeAnswer::new(307, "").with_header("Location", &location));
    refresh().await;
    hub.fail_next(1, FakeAnswer::new(429, BODY).with_header("Retry-After", BODY));
    refresh().await;
    hub.set_delay(Duration::from_secs(2));
    refresh().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    hub.set_delay(Duration::ZERO);
}

/// Requests through a chain of middleware: with a token, with every kind of 401, and without a token.
async fn send_requests(hub: &FakeDataHub, endpoint: &Arc<TokenEndpoint>, log: &Log) {
    let tokens = TokenManager::builder(endpoint.clone()).build().unwrap();
    let auth = BearerAuth::new(tokens.clone()).with_origin(hub.origin()).unwrap();
    log.add(&auth);
    let retry = ExponentialBackoff::builder().build_with_max_retries(1);
    let client = ClientBuilder::new(hub.client_builder().build().unwrap())
        .with(TracingMiddleware::<SpanBackendWithUrl>::new())
        .with(RetryTransientMiddleware::new_with_policy(retry))
        .with(auth)
        .build();
    let challenge = format!(r#"Bearer error="invalid_token",error_description="{BODY}""#);
    let responses = [
        FakeAnswer::new(200, BODY),
        FakeAnswer::new(401, BODY),
        FakeAnswer::new(401, fault("oauth.v2.InvalidAccessToken")),
        FakeAnswer::new(401, fault("oauth.v2.InvalidApiKeyForGivenResource")),
        FakeAnswer::new(401, "").with_header("WWW-Authenticate", &challenge),
    ];
    for (number, response) in responses.into_iter().enumerate() {
        hub.fail(token_response(number));
        let token = tokens.token().await.unwrap();
        log.add(&token);
        log.add(&token.header_value());
        log.add(&tokens.hand_out(Duration::ZERO).await);
        // A 401 may replace a 4 s token once it has been held for 1 s.
        tokio::time::sleep(Duration::from_millis(1_050)).await;
        // The hub does not know the canary tokens, which it did not issue.
        hub.answer_public_path("/search/x", response);
        let response = client.get(hub.url("/search/x")).send().await;
        log.add(&response.map(|response| response.status()));
        log.add(&tokens.status());
    }
    hub.fail(FakeAnswer::new(503, BODY));
    tokio::time::sleep(Duration::from_secs(4)).await;
    let error = client.get(hub.url("/search/x")).send().await.unwrap_err();
    assert!(Error::find_in(&error).is_some());
    log.add_error(&error);
}

/// Sharing through Redis: with a wrong password, with the right one, with Redis gone, and with a failing endpoint.
async fn share_through_redis(hub: &FakeDataHub, log: &Log) {
    let mut redis = RedisServer::start_with(&["--requirepass", REDIS_PASSWORD]).await;
    let with_password = |password: &str| redis.url().replace("redis://", &format!("redis://:{password}@"));
    let [right, wrong] = [
        with_password(REDIS_PASSWORD),
        with_password(&format!("{REDIS_PASSWORD}2")),
    ];
    hub.fail(token_response(0));
    let source = |url: &str| {
        let builder = SharedSource::builder(endpoint(hub, log), url).time_limit(Duration::from_secs(5));
        log.add(&builder);
        let source = builder.build().unwrap();
        log.add(&source);
        source
    };
    log.add(&source(&wrong).fetch(None).await);
    let source = source(&right);
    for _ in 0..5 {
        log.add(&source.fetch(None).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    redis.kill();
    log.add(&source.fetch(None).await);
    hub.fail(FakeAnswer::new(401, BODY));
    log.add_error(&source.fetch(None).await.unwrap_err());
}

/// A hostile server that speaks HTTP/2, to the library's own client and to a TLS configuration that negotiates it.
async fn speak_http_2(log: &Log) {
    let authority = Authority::new("known");
    let config = authority.server_config("127.0.0.1", Validity::Now, &["h2"]);
    let server = TlsServer::responding(config, http_2_goaway(GOAWAY)).await;
    let root = authority.root();
    let tls = authority.client_config(&["h2"]);
    let changes: [Box<dyn FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder + Send>; 2] = [
        Box::new(|client| client.tls_certs_only([root])),
        Box::new(|client| client.tls_backend_preconfigured(tls)),
    ];
    for change in changes {
        let endpoint = TokenEndpoint::builder(ProjectCredentials::new(KEY, SECRET).unwrap())
            .token_url(format!("https://{}/", server.address).parse().unwrap())
            .http_client(|client| change(client.no_proxy()));
        let tokens = TokenManager::builder(endpoint.build().unwrap()).acquire_timeout(Duration::from_millis(500));
        let tokens = tokens.build().unwrap();
        log.add_error(&tokens.token().await.unwrap_err());
        log.add(&tokens.status());
    }
}
