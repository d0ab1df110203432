//! `BearerAuth`: which requests carry the token, and what a 401 does. Over real sockets, in real time, with short
//! lifetimes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Extensions, HeaderMap, header::AUTHORIZATION};
use http_body::Frame;
use osdatahub_auth::{
    BearerAuth, Error, ErrorKind, FakeAnswer, FakeDataHub, NoAuth, TokenEndpoint, TokenManager, TokenState,
};
use reqwest::{Request, Response, StatusCode, Url};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
use test_support::{RawServer, http_response};
use tokio::{
    io::AsyncWriteExt,
    sync::{Semaphore, watch},
    time::sleep,
};

const NAMES: &str = "/search/names/v1/find?query=Bath";
const TILE: &str = "/maps/raster/v1/zxy/Road_3857/7/63/42.png";

pub(crate) struct Setup {
    pub(crate) hub: FakeDataHub,
    pub(crate) tokens: TokenManager,
    pub(crate) client: ClientWithMiddleware,
}

impl Setup {
    /// Uses tokens of 4 s: a 401 may replace one that has been held for 1 s.
    pub(crate) async fn new() -> Self {
        Self::with(|auth| auth).await
    }

    pub(crate) async fn with(configure: impl FnOnce(BearerAuth) -> BearerAuth) -> Self {
        let hub = FakeDataHub::start().await.unwrap();
        hub.set_lifetime(Duration::from_secs(4));
        let endpoint = TokenEndpoint::builder(hub.credentials()).token_url(hub.token_url());
        let tokens = TokenManager::builder(endpoint.build().unwrap()).build().unwrap();
        let auth = BearerAuth::new(tokens.clone()).with_origin(hub.origin()).unwrap();
        let client = ClientBuilder::new(hub.client_builder().build().unwrap())
            .with(configure(auth))
            .build();
        Self { hub, tokens, client }
    }

    /// Waits until a 401 may replace the token.
    pub(crate) async fn until_replaceable(&self) {
        self.tokens.token().await.unwrap();
        sleep(Duration::from_millis(1_100)).await;
    }

    /// A client that also authenticates its requests to this server.
    pub(crate) fn client_for(&self, server: &RawServer) -> ClientWithMiddleware {
        let auth = BearerAuth::new(self.tokens.clone())
            .with_origin(server.url(""))
            .unwrap();
        ClientBuilder::new(self.hub.client_builder().build().unwrap())
            .with(auth)
            .build()
    }

    async fn get(&self, path: &str) -> StatusCode {
        self.client.get(self.hub.url(path)).send().await.unwrap().status()
    }

    /// The `Authorization` headers that the API has received, in order.
    fn bearers(&self) -> Vec<Option<String>> {
        let requests = self.hub.received().into_iter().filter(|r| r.method != "POST");
        requests
            .map(|r| Some(r.headers.get("authorization")?.to_str().unwrap().to_owned()))
            .collect()
    }
}

#[tokio::test]
async fn a_request_to_os_carries_the_token_marked_sensitive() {
    let setup = Setup::new().await;
    assert_eq!(setup.get(NAMES).await, 200);
    let token = setup.tokens.current().unwrap();
    assert_eq!(setup.bearers(), [Some(format!("Bearer {}", token.expose_secret()))]);
    assert!(token.header_value().is_sensitive());
}

#[tokio::test]
async fn a_request_elsewhere_passes_untouched_and_costs_no_token() {
    let setup = Setup::new().await;
    let other = FakeDataHub::start().await.unwrap();
    let response = setup.client.get(other.url(NAMES)).send().await.unwrap();
    assert_eq!(response.status(), 401);
    assert!(!other.received()[0].headers.contains_key("authorization"));
    assert_eq!(setup.hub.token_posts(), 0);
}

#[tokio::test]
async fn os_is_the_only_origin_unless_one_is_added() {
    let hub = FakeDataHub::start().await.unwrap();
    let endpoint = TokenEndpoint::builder(hub.credentials()).token_url(hub.token_url());
    let tokens = TokenManager::builder(endpoint.build().unwrap()).build().unwrap();
    let client = ClientBuilder::new(hub.client_builder().build().unwrap())
        .with(BearerAuth::new(tokens))
        .build();
    assert_eq!(client.get(hub.url(NAMES)).send().await.unwrap().status(), 401);
    assert_eq!(hub.token_posts(), 0);
}

#[tokio::test]
async fn an_authorization_of_the_callers_own_and_a_no_auth_are_left_alone() {
    let setup = Setup::new().await;
    let own = setup
        .client
        .get(setup.hub.url(NAMES))
        .header("Authorization", "Bearer own");
    assert_eq!(own.send().await.unwrap().status(), 401);
    let none = setup.client.get(setup.hub.url(NAMES)).with_extension(NoAuth);
    assert_eq!(none.send().await.unwrap().status(), 401);
    assert_eq!(setup.bearers(), [Some("Bearer own".to_owned()), None]);
    assert_eq!(setup.hub.token_posts(), 0);
}

#[tokio::test]
async fn of_two_in_a_chain_the_first_wins() {
    let (first, second) = (Setup::new().await, Setup::new().await);
    let layer = |setup: &Setup| {
        BearerAuth::new(setup.tokens.clone())
            .with_origin(first.hub.origin())
            .unwrap()
    };
    let client = ClientBuilder::new(first.hub.client_builder().build().unwrap())
        .with(layer(&first))
        .with(layer(&second))
        .build();
    assert_eq!(client.get(first.hub.url(NAMES)).send().await.unwrap().status(), 200);
    assert_eq!(second.hub.token_posts(), 0);
}

#[tokio::test]
async fn without_a_token_the_request_is_not_sent_and_the_error_says_why() {
    let setup = Setup::new().await;
    setup
        .hub
        .fail(FakeAnswer::new(429, "").with_header("Retry-After", "30"));
    let error = setup.client.get(setup.hub.url(NAMES)).send().await.unwrap_err();
    let reason = Error::find_in(&error).unwrap();
    assert_eq!(reason.kind(), ErrorKind::RateLimited);
    assert!(reason.retry_after().unwrap() > Duration::from_secs(28));
    assert!(error.to_string().contains("not sent"), "{error}");
    assert_eq!(setup.hub.api_requests(), 0);
}

#[tokio::test]
async fn a_redirect_to_another_host_does_not_carry_the_token() {
    let setup = Setup::new().await;
    let storage = FakeDataHub::start().await.unwrap();
    storage.answer_public_path("/signed", FakeAnswer::new(200, "the file"));
    setup.hub.redirect_path("/downloads/v1/x", storage.url("/signed"));
    let response = setup.client.get(setup.hub.url("/downloads/v1/x")).send().await.unwrap();
    assert_eq!(response.text().await.unwrap(), "the file");
    assert!(!storage.received()[0].headers.contains_key("authorization"));
    assert!(setup.bearers()[0].is_some());
}

#[tokio::test]
async fn a_401_from_the_other_end_of_a_redirect_says_nothing_of_the_token() {
    let setup = Setup::new().await;
    let storage = FakeDataHub::start().await.unwrap();
    let challenge = r#"Bearer error="invalid_token""#;
    storage.answer_public_path(
        "/signed",
        FakeAnswer::new(401, "").with_header("WWW-Authenticate", challenge),
    );
    setup.hub.redirect_path("/downloads/v1/x", storage.url("/signed"));
    setup.until_replaceable().await;
    assert_eq!(setup.get("/downloads/v1/x").await, 401);
    assert_eq!(setup.tokens.status().state, TokenState::Fresh);
    assert_eq!((setup.hub.token_posts(), setup.hub.api_requests()), (1, 1));
    assert_eq!(storage.api_requests(), 1);
}

/// A redirect with a 307, which repeats method and body.
fn redirect(to: &Url) -> FakeAnswer {
    FakeAnswer::new(307, "").with_header("Location", to.as_str())
}

#[tokio::test]
async fn a_401_at_the_end_of_a_redirect_there_and_back_costs_nothing_and_sends_nothing_again() {
    for replay in [true, false] {
        let setup = Setup::with(|auth| auth.replay_rejected(replay)).await;
        let other = FakeDataHub::start().await.unwrap();
        let polygon = setup.hub.url("/search/places/v1/polygon");
        setup.hub.answer_path(polygon.path(), redirect(&other.url("/hop")));
        other.answer_public_path("/hop", redirect(&setup.hub.url("/search/end")));
        // The token does not come back with the redirect.
        setup.hub.answer_public_path("/search/end", FakeAnswer::new(401, ""));
        setup.until_replaceable().await;
        let response = setup.client.post(polygon).body("{}").send().await.unwrap();
        assert_eq!(response.status(), 401);
        assert_eq!(response.url(), &setup.hub.url("/search/end"));
        assert_eq!(setup.hub.received().last().unwrap().headers.get("authorization"), None);
        assert_eq!((setup.hub.token_posts(), setup.hub.api_requests()), (1, 2));
        assert_eq!(setup.tokens.status().state, TokenState::Fresh);
    }
}

#[tokio::test]
async fn after_a_redirect_within_the_origin_only_a_401_about_the_token_counts() {
    let fault = r#"{"fault":{"faultstring":"x","detail":{"errorcode":"oauth.v2.InvalidAccessToken"}}}"#;
    for (end, token_posts, requests) in [("", 1, 2), ("<html>Firewall</html>", 1, 2), (fault, 2, 4)] {
        let setup = Setup::new().await;
        let url = |path: &str| setup.hub.url(path);
        setup
            .hub
            .answer_path("/search/start", redirect(&url("/search/end?a=1")));
        setup.hub.answer_path("/search/end", FakeAnswer::new(401, end));
        setup.until_replaceable().await;
        assert_eq!(setup.get("/search/start").await, 401);
        assert!(
            setup.bearers().iter().all(Option::is_some),
            "the token goes along within its origin"
        );
        let cost = (setup.hub.token_posts(), setup.hub.api_requests());
        assert_eq!(cost, (token_posts, requests), "{end}");
    }
}

#[tokio::test]
async fn an_unusual_url_is_not_mistaken_for_a_redirect() {
    for replay in [true, false] {
        for rest in [
            "#fragment",
            "?a=1#fragment",
            "?",
            "?q=a|b{c}\"d\"'e'<f>`^\\[g]&h=%7e%zz é ü",
            "?bbox=-0.1,51.5;x=@:/?!$()*+~",
        ] {
            let setup = Setup::with(|auth| auth.replay_rejected(replay)).await;
            setup.hub.answer_path("/search/odd", FakeAnswer::new(401, ""));
            setup.until_replaceable().await;
            let url = format!("{}search/odd{rest}", setup.hub.origin());
            assert_eq!(setup.client.get(url).send().await.unwrap().status(), 401);
            let requests = if replay { 2 } else { 1 };
            assert_eq!(setup.hub.api_requests(), requests, "{rest}");
            while setup.hub.token_posts() < 2 {
                sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

/// Layer below `BearerAuth` that holds every request back until the gate opens, and then limits the requests in
/// flight.
struct Gate {
    arrived: AtomicUsize,
    open: watch::Receiver<bool>,
    connections: Semaphore,
}

#[async_trait]
impl Middleware for Gate {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        self.arrived.fetch_add(1, Ordering::Relaxed);
        self.open.clone().wait_for(|open| *open).await.unwrap();
        let _connection = self.connections.acquire().await.unwrap();
        next.run(request, extensions).await
    }
}

#[tokio::test]
async fn a_thousand_requests_in_flight_with_a_revoked_token_cost_one_post_and_get_their_200() {
    let setup = Setup::new().await;
    let (open, gate) = watch::channel(false);
    let gate = Arc::new(Gate {
        arrived: AtomicUsize::new(0),
        open: gate,
        connections: Semaphore::new(100),
    });
    let client = ClientBuilder::new(setup.hub.client_builder().build().unwrap())
        .with(
            BearerAuth::new(setup.tokens.clone())
                .with_origin(setup.hub.origin())
                .unwrap(),
        )
        .with_arc(gate.clone())
        .build();
    setup.until_replaceable().await;
    let requests: Vec<_> = (0..1_000)
        .map(|i| tokio::spawn(client.get(setup.hub.url(if i % 2 == 0 { NAMES } else { TILE })).send()))
        .collect();
    while gate.arrived.load(Ordering::Relaxed) < 1_000 {
        sleep(Duration::from_millis(5)).await;
    }
    setup.hub.set_lifetime(Duration::from_secs(299));
    setup.hub.revoke_all();
    open.send(true).unwrap();
    for request in requests {
        assert_eq!(request.await.unwrap().unwrap().status(), 200);
    }
    assert_eq!(
        setup.hub.token_posts(),
        2,
        "one POST for the first token, one for its successor"
    );
}

#[tokio::test]
async fn each_way_to_say_that_the_token_is_no_good_replaces_it_and_repeats_the_request() {
    let fault =
        r#"{"fault":{"faultstring":"Invalid access token","detail":{"errorcode":"oauth.v2.InvalidAccessToken"}}}"#;
    let xml = "<fault><faultstring>x</faultstring><detail><errorcode>keymanagement.service.access_token_expired</errorcode></detail></fault>";
    let challenge = r#"Bearer realm="null",error="invalid_token",error_description="keymanagement.service.access_token_expired: Access Token expired""#;
    for rejection in [
        FakeAnswer::new(401, fault),
        FakeAnswer::new(401, xml),
        FakeAnswer::new(401, "").with_header("WWW-Authenticate", challenge),
    ] {
        let setup = Setup::new().await;
        setup.until_replaceable().await;
        setup.hub.answer_path("/search/odd", rejection);
        let status = setup.get("/search/odd").await;
        assert_eq!(
            status, 401,
            "every response of this path is a 401, so the caller gets the second one"
        );
        let bearers = setup.bearers();
        assert_eq!(bearers.len(), 2, "the request should be repeated once");
        assert_ne!(bearers[0], bearers[1], "the replay should carry another token");
        assert_eq!(setup.hub.token_posts(), 2);
    }
}

#[tokio::test]
async fn a_401_for_an_api_outside_the_project_is_returned_whole_and_costs_nothing() {
    let setup = Setup::new().await;
    setup.until_replaceable().await;
    for path in [NAMES, TILE] {
        setup.hub.refuse_path(path.split('?').next().unwrap());
        let response = setup.client.get(setup.hub.url(path)).send().await.unwrap();
        assert_eq!(response.status(), 401);
        assert_eq!(response.url(), &setup.hub.url(path));
        assert!(
            response
                .text()
                .await
                .unwrap()
                .contains("InvalidAPICallAsNoApiProductMatchFound")
        );
    }
    assert_eq!((setup.hub.token_posts(), setup.hub.api_requests()), (1, 2));
    assert_eq!(setup.tokens.status().state, TokenState::Fresh);
}

/// OS's third envelope, which its WFS, WMTS and vector tiles send.
fn ows(code: &str) -> FakeAnswer {
    let report = format!(
        r#"<?xml version="1.0"?><ows:ExceptionReport xmlns:ows="http://www.opengis.net/ows/1.1"><ows:Exception exceptionCode="{code}"><ows:ExceptionText>Whatever</ows:ExceptionText></ows:Exception></ows:ExceptionReport>"#
    );
    FakeAnswer::new(401, report).with_header("Content-Type", "application/xml")
}

#[tokio::test]
async fn a_401_that_is_not_about_the_token_costs_nothing_in_whatever_envelope() {
    let setup = Setup::new().await;
    setup.until_replaceable().await;
    let challenge = |error: &str| {
        let challenge = format!(r#"Bearer realm="os",error="{error}""#);
        FakeAnswer::new(401, "").with_header("WWW-Authenticate", &challenge)
    };
    let answers = [
        ows("InvalidAPICallAsNoApiProductMatchFound"),
        ows("FailedToResolveAPIKey"),
        challenge("insufficient_scope"),
        challenge("invalid_request"),
        challenge("insufficient_user_authentication"),
    ];
    let requests = answers.len();
    for answer in answers {
        setup.hub.answer_path("/features/v1/wfs", answer);
        assert_eq!(setup.get("/features/v1/wfs").await, 401);
    }
    assert_eq!((setup.hub.token_posts(), setup.hub.api_requests()), (1, requests));
    assert!(setup.bearers().iter().all(Option::is_some));
    assert_eq!(setup.tokens.status().state, TokenState::Fresh);
}

#[tokio::test]
async fn a_token_fault_in_the_body_counts_even_if_the_challenge_blames_the_request() {
    let setup = Setup::new().await;
    setup.until_replaceable().await;
    let fault = r#"{"fault":{"detail":{"errorcode":"keymanagement.service.access_token_expired"}}}"#;
    let answer = FakeAnswer::new(401, fault).with_header("WWW-Authenticate", r#"Bearer error="invalid_request""#);
    setup.hub.answer_path(NAMES, answer);
    assert_eq!(setup.get(NAMES).await, 401);
    assert_eq!((setup.hub.token_posts(), setup.hub.api_requests()), (2, 2));
}

#[tokio::test]
async fn a_head_whose_401_gives_no_reason_costs_nothing_and_is_not_repeated() {
    let setup = Setup::new().await;
    setup.until_replaceable().await;
    setup.hub.refuse_path(TILE);
    let response = setup.client.head(setup.hub.url(TILE)).send().await.unwrap();
    assert_eq!(response.status(), 401);
    assert_eq!((setup.hub.token_posts(), setup.hub.api_requests()), (1, 1));
    assert_eq!(setup.tokens.status().state, TokenState::Fresh);

    setup.hub.revoke_all();
    let response = setup.client.head(setup.hub.url(NAMES)).send().await.unwrap();
    assert_eq!(response.status(), 200, "a header that names the token should count");
    assert_eq!(setup.hub.token_posts(), 2);
}

#[tokio::test]
async fn a_compressed_401_that_the_client_does_not_decode_is_unexplained() {
    let setup = Setup::new().await;
    setup.until_replaceable().await;
    let gzip = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03";
    let answer = FakeAnswer::new(401, &gzip[..]).with_header("Content-Encoding", "gzip");
    setup.hub.answer_path("/search/odd", answer);
    let response = setup.client.get(setup.hub.url("/search/odd")).send().await.unwrap();
    assert_eq!(response.status(), 401);
    assert_eq!(response.headers()["content-encoding"], "gzip");
    assert_eq!(response.bytes().await.unwrap(), &gzip[..]);
    assert_eq!((setup.hub.token_posts(), setup.hub.api_requests()), (2, 2));
}

#[tokio::test]
async fn an_authorization_of_the_clients_default_headers_gives_way_to_the_token() {
    let setup = Setup::new().await;
    let headers = HeaderMap::from_iter([(AUTHORIZATION, "Bearer default".parse().unwrap())]);
    let client = setup.hub.client_builder().default_headers(headers).build().unwrap();
    let auth = BearerAuth::new(setup.tokens.clone());
    let auth = auth.with_origin(setup.hub.origin()).unwrap();
    let client = ClientBuilder::new(client).with(auth).build();
    assert_eq!(client.get(setup.hub.url(NAMES)).send().await.unwrap().status(), 200);
    let token = setup.tokens.current().unwrap();
    assert_eq!(setup.bearers(), [Some(format!("Bearer {}", token.expose_secret()))]);
}

#[tokio::test]
async fn a_403_and_a_429_never_cost_a_token() {
    let setup = Setup::new().await;
    setup.until_replaceable().await;
    for status in [403, 429] {
        setup.hub.answer_path("/search/odd", FakeAnswer::new(status, ""));
        assert_eq!(setup.get("/search/odd").await, status);
    }
    assert_eq!((setup.hub.token_posts(), setup.hub.api_requests()), (1, 2));
    assert_eq!(setup.tokens.status().state, TokenState::Fresh);
}

#[tokio::test]
async fn a_401_without_a_reason_replaces_the_token_which_is_served_until_then() {
    for page in ["", "<html><body>Firewall</body></html>"] {
        let setup = Arc::new(Setup::new().await);
        setup.until_replaceable().await;
        let old = setup.tokens.current().unwrap();
        setup.hub.answer_path("/search/odd", FakeAnswer::new(401, page));
        setup.hub.set_delay(Duration::from_millis(300));
        let odd = tokio::spawn({
            let setup = setup.clone();
            async move { setup.get("/search/odd").await }
        });
        while setup.hub.token_posts() < 2 {
            sleep(Duration::from_millis(5)).await;
        }
        let current = setup.tokens.current().expect("other callers should keep the old token");
        assert_eq!(current.expose_secret(), old.expose_secret());
        assert_eq!(odd.await.unwrap(), 401);
        let bearers = setup.bearers();
        assert_eq!(bearers.len(), 2, "the request should be repeated once");
        assert_ne!(bearers[0], bearers[1], "the replay should carry the next token");
        assert_eq!(setup.hub.token_posts(), 2);
    }
}

#[tokio::test]
async fn a_401_is_returned_if_no_other_token_can_be_had() {
    let setup = Setup::new().await;
    setup.until_replaceable().await;
    setup
        .hub
        .answer_path("/search/odd", FakeAnswer::new(401, "a firewall's page"));
    setup.hub.fail(FakeAnswer::new(503, ""));
    let response = setup.client.get(setup.hub.url("/search/odd")).send().await.unwrap();
    assert_eq!(response.status(), 401);
    assert_eq!(response.text().await.unwrap(), "a firewall's page");
    assert_eq!(setup.get(NAMES).await, 200, "the old token should still serve");
}

#[tokio::test]
async fn a_token_that_we_have_just_had_is_not_replaced() {
    let setup = Setup::new().await;
    setup.hub.set_lifetime(Duration::from_secs(299));
    setup.tokens.token().await.unwrap();
    setup.hub.revoke_all();
    for _ in 0..10 {
        assert_eq!(setup.get(NAMES).await, 401);
    }
    assert_eq!((setup.hub.token_posts(), setup.hub.api_requests()), (1, 10));
    assert!(setup.bearers().iter().all(Option::is_some));
}

#[tokio::test]
async fn without_replay_the_token_is_replaced_and_the_caller_gets_the_401() {
    let setup = Setup::with(|auth| auth.replay_rejected(false)).await;
    setup.until_replaceable().await;
    setup.hub.revoke_all();
    assert_eq!(setup.get(NAMES).await, 401);
    assert_eq!(setup.get(NAMES).await, 200);
    assert_eq!(setup.hub.token_posts(), 2);
}

#[tokio::test]
async fn a_body_in_memory_is_repeated_to_the_last_byte() {
    let setup = Setup::new().await;
    setup.until_replaceable().await;
    setup.hub.revoke_all();
    let polygon = "p".repeat(1024 * 1024);
    let request = setup
        .client
        .post(setup.hub.url("/search/places/v1/polygon"))
        .body(polygon.clone());
    assert_eq!(request.send().await.unwrap().status(), 200);
    let received: Vec<_> = setup
        .hub
        .received()
        .into_iter()
        .filter(|r| r.path.ends_with("polygon"))
        .collect();
    assert_eq!(received.len(), 2);
    assert!(received.iter().all(|request| request.body == polygon));
}

/// Body that cannot be sent twice.
pub(crate) struct Stream(pub(crate) Option<Bytes>);

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        std::task::Poll::Ready(self.0.take().map(|data| Ok(Frame::data(data))))
    }
}

#[tokio::test]
async fn a_stream_is_not_repeated_but_the_token_is_replaced() {
    let setup = Setup::new().await;
    setup.until_replaceable().await;
    setup.hub.revoke_all();
    let stream = reqwest::Body::wrap(Stream(Some(Bytes::from_static(b"once"))));
    let request = setup
        .client
        .post(setup.hub.url("/search/places/v1/polygon"))
        .body(stream);
    assert_eq!(request.send().await.unwrap().status(), 401);
    assert_eq!(setup.get(NAMES).await, 200);
    assert_eq!((setup.hub.token_posts(), setup.hub.api_requests()), (2, 2));
}

#[tokio::test]
async fn a_late_401_for_an_older_token_costs_no_post() {
    let setup = Setup::new().await;
    setup.until_replaceable().await;
    let old = setup.tokens.current().unwrap();
    // Rejects the old token, but only after the manager has replaced it.
    let rejected = format!("Bearer {}", old.expose_secret());
    let (release, released) = watch::channel(false);
    let late = RawServer::start(move |mut stream, request| {
        let (rejected, mut released) = (rejected.clone(), released.clone());
        async move {
            let response = if request.contains(&rejected) {
                released.wait_for(|now| *now).await.unwrap();
                http_response(
                    401,
                    "WWW-Authenticate: Bearer error=\"invalid_token\"\r\nConnection: close\r\n",
                    "",
                )
            } else {
                http_response(200, "Connection: close\r\n", "")
            };
            let _ = stream.write_all(&response).await;
        }
    })
    .await;
    let client = setup.client_for(&late);
    let request = tokio::spawn(client.get(late.url("/")).send());
    while late.connections() == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    setup.hub.set_lifetime(Duration::from_secs(299));
    setup.tokens.reject(&old);
    setup.tokens.token().await.unwrap();
    release.send(true).unwrap();
    let response = request.await.unwrap().unwrap();
    assert_eq!(response.status(), 200, "the replay should carry the current token");
    assert_eq!((late.connections(), setup.hub.token_posts()), (2, 2));
}

/// Server whose response is a 401 with a body in delayed pieces, none of which mentions the token.
async fn serve_401_in_pieces(pieces: Vec<(Duration, Bytes)>) -> RawServer {
    let pieces = Arc::new(pieces);
    RawServer::start(move |mut stream, request| {
        let pieces = pieces.clone();
        async move {
            assert!(request.contains("authorization: Bearer "), "{request}");
            let length: usize = pieces.iter().map(|(_, piece)| piece.len()).sum();
            let head = format!("HTTP/1.1 401 No\r\nX-Kept: yes\r\nContent-Length: {length}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            for (delay, piece) in &*pieces {
                sleep(*delay).await;
                let _ = stream.write_all(piece).await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_401_that_is_handed_on_is_what_the_server_sent() {
    let second = Duration::from_secs(1);
    for (pieces, within) in [
        // One body is longer than 16 KiB, the other takes longer than 1 s. Both have to be readable to the last byte.
        (vec![(Duration::ZERO, Bytes::from(vec![b'x'; 300_000]))], second * 4),
        (
            vec![(Duration::ZERO, Bytes::from("be")), (second * 6, Bytes::from("gin"))],
            second * 4,
        ),
    ] {
        let setup = Setup::new().await;
        let whole: Vec<u8> = pieces.iter().flat_map(|(_, piece)| piece.to_vec()).collect();
        let server = serve_401_in_pieces(pieces).await;
        let client = setup.client_for(&server);
        // A long lifetime, so that the token is still too new to be replaced once the body has been read.
        setup.hub.set_lifetime(Duration::from_secs(299));
        setup.tokens.token().await.unwrap();
        let start = std::time::Instant::now();
        let mut response = client.get(server.url("/x?y=1")).send().await.unwrap();
        assert!(start.elapsed() < within, "{:?}", start.elapsed());
        assert_eq!(response.status(), 401);
        assert_eq!(response.url().as_str(), server.url("/x?y=1").as_str());
        assert_eq!(response.version(), reqwest::Version::HTTP_11);
        assert_eq!(response.headers()["x-kept"], "yes");
        assert_eq!(
            response.remote_addr(),
            Some(server.address),
            "the response should keep its extensions"
        );
        assert_eq!(response.content_length(), Some(whole.len() as u64));
        let mut read = Vec::new();
        while let Some(chunk) = response.chunk().await.unwrap() {
            read.extend_from_slice(&chunk);
        }
        assert_eq!(read, whole);
    }
}

#[tokio::test]
async fn a_401_that_breaks_off_still_breaks_off_where_it_did() {
    let server = RawServer::responding(&b"HTTP/1.1 401 No\r\nContent-Length: 100\r\n\r\nonly this"[..]).await;
    let setup = Setup::new().await;
    let client = setup.client_for(&server);
    let mut response = client.get(server.url("/")).send().await.unwrap();
    assert_eq!(response.chunk().await.unwrap().unwrap(), "only this");
    assert!(response.chunk().await.is_err());
    assert_eq!(setup.hub.token_posts(), 1);
}

#[tokio::test]
async fn the_token_is_renewed_under_steady_traffic_and_no_request_fails() {
    let setup = Setup::new().await;
    setup.hub.set_lifetime(Duration::from_secs(2));
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_secs(6) {
        assert_eq!(setup.get(NAMES).await, 200);
        sleep(Duration::from_millis(10)).await;
    }
    let posts = setup.hub.token_posts();
    assert!((3..=5).contains(&posts), "{posts} POSTs");
}

#[tokio::test]
async fn several_projects_share_one_client_without_mixing_their_tokens() {
    let hub = FakeDataHub::start().await.unwrap();
    let other = FakeDataHub::start().await.unwrap();
    let pool = hub.client_builder().build().unwrap();
    let project = |from: &FakeDataHub, to: Url| {
        let endpoint = TokenEndpoint::builder(from.credentials()).token_url(from.token_url());
        let tokens = TokenManager::builder(endpoint.build().unwrap()).build().unwrap();
        let auth = BearerAuth::new(tokens).with_origin(to).unwrap();
        ClientBuilder::new(pool.clone()).with(auth).build()
    };
    let (one, two) = (project(&hub, hub.origin()), project(&other, hub.origin()));
    assert_eq!(one.get(hub.url(NAMES)).send().await.unwrap().status(), 200);
    assert_eq!(two.get(hub.url(NAMES)).send().await.unwrap().status(), 401);
    assert_eq!(one.get(hub.url(NAMES)).send().await.unwrap().status(), 200);
}
