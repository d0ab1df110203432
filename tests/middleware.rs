//! Which requests get the token, and what a 401 does: over real sockets, in real time, with short lives.

#[path = "common/raw.rs"]
mod raw;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::Extensions;
use http_body::Frame;
use osdatahub_auth::{
    BearerAuth, Error, ErrorKind, FakeAnswer, FakeDataHub, NoAuth, TokenEndpoint, TokenManager, TokenState,
};
use raw::RawServer;
use reqwest::{Request, Response, StatusCode, Url};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
use tokio::{
    io::AsyncWriteExt,
    sync::{Semaphore, watch},
    time::sleep,
};

const NAMES: &str = "/search/names/v1/find?query=Bath";
const TILE: &str = "/maps/raster/v1/zxy/Road_3857/7/63/42.png";

struct Setup {
    hub: FakeDataHub,
    tokens: TokenManager,
    client: ClientWithMiddleware,
}

impl Setup {
    /// Tokens of 4 s: one that is a second old may be replaced because of a 401.
    async fn new() -> Self {
        Self::with(|auth| auth).await
    }

    async fn with(configure: impl FnOnce(BearerAuth) -> BearerAuth) -> Self {
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
    async fn old_enough(&self) {
        self.tokens.token().await.unwrap();
        sleep(Duration::from_millis(1_100)).await;
    }

    /// A client that also takes this server for OS.
    fn client_for(&self, server: &RawServer) -> ClientWithMiddleware {
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

    /// The bearer tokens that the API has seen, in order.
    fn bearers(&self) -> Vec<Option<String>> {
        let requests = self.hub.received().into_iter().filter(|r| r.method != "POST");
        requests
            .map(|r| Some(r.headers.get("authorization")?.to_str().unwrap().to_owned()))
            .collect()
    }
}

#[tokio::test]
async fn a_request_to_os_carries_the_token_marked_sensitive() {
    let it = Setup::new().await;
    assert_eq!(it.get(NAMES).await, 200);
    let token = it.tokens.current().unwrap();
    assert_eq!(it.bearers(), [Some(format!("Bearer {}", token.expose_secret()))]);
    assert!(token.header_value().is_sensitive());
}

#[tokio::test]
async fn a_request_elsewhere_passes_untouched_and_costs_no_token() {
    let it = Setup::new().await;
    let elsewhere = FakeDataHub::start().await.unwrap();
    let answer = it.client.get(elsewhere.url(NAMES)).send().await.unwrap();
    assert_eq!(answer.status(), 401);
    assert!(!elsewhere.received()[0].headers.contains_key("authorization"));
    assert_eq!(it.hub.token_posts(), 0);
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
    let it = Setup::new().await;
    let own = it.client.get(it.hub.url(NAMES)).header("Authorization", "Bearer own");
    assert_eq!(own.send().await.unwrap().status(), 401);
    let none = it.client.get(it.hub.url(NAMES)).with_extension(NoAuth);
    assert_eq!(none.send().await.unwrap().status(), 401);
    assert_eq!(it.bearers(), [Some("Bearer own".to_owned()), None]);
    assert_eq!(it.hub.token_posts(), 0);
}

#[tokio::test]
async fn of_two_in_a_chain_the_first_wins() {
    let (first, second) = (Setup::new().await, Setup::new().await);
    let layer = |it: &Setup| {
        BearerAuth::new(it.tokens.clone())
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
    let it = Setup::new().await;
    it.hub.fail(FakeAnswer::new(429, "").with_header("Retry-After", "30"));
    let error = it.client.get(it.hub.url(NAMES)).send().await.unwrap_err();
    let reason = Error::find_in(&error).unwrap();
    assert_eq!(reason.kind(), ErrorKind::RateLimited);
    assert!(reason.retry_after().unwrap() > Duration::from_secs(28));
    assert!(error.to_string().contains("not sent"), "{error}");
    assert_eq!(it.hub.api_requests(), 0);
}

#[tokio::test]
async fn a_redirect_to_another_host_does_not_take_the_token_along() {
    let it = Setup::new().await;
    let storage = FakeDataHub::start().await.unwrap();
    storage.answer_path("/signed", FakeAnswer::new(200, "the file"));
    it.hub.redirect_path("/downloads/v1/x", storage.url("/signed"));
    let answer = it.client.get(it.hub.url("/downloads/v1/x")).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "the file");
    assert!(!storage.received()[0].headers.contains_key("authorization"));
    assert!(it.bearers()[0].is_some());
}

#[tokio::test]
async fn a_401_from_the_other_end_of_a_redirect_says_nothing_of_the_token() {
    let it = Setup::new().await;
    let storage = FakeDataHub::start().await.unwrap();
    it.hub.redirect_path("/downloads/v1/x", storage.url(NAMES));
    it.old_enough().await;
    assert_eq!(it.get("/downloads/v1/x").await, 401);
    assert_eq!(it.tokens.status().state, TokenState::Fresh);
    assert_eq!((it.hub.token_posts(), it.hub.api_requests()), (1, 1));
}

/// Under `BearerAuth`: holds every request back until the gate opens, and then lets some through at a time.
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
    let it = Setup::new().await;
    let (open, gate) = watch::channel(false);
    let gate = Arc::new(Gate {
        arrived: AtomicUsize::new(0),
        open: gate,
        connections: Semaphore::new(100),
    });
    let client = ClientBuilder::new(it.hub.client_builder().build().unwrap())
        .with(BearerAuth::new(it.tokens.clone()).with_origin(it.hub.origin()).unwrap())
        .with_arc(gate.clone())
        .build();
    it.old_enough().await;
    let requests: Vec<_> = (0..1_000)
        .map(|i| tokio::spawn(client.get(it.hub.url(if i % 2 == 0 { NAMES } else { TILE })).send()))
        .collect();
    while gate.arrived.load(Ordering::Relaxed) < 1_000 {
        sleep(Duration::from_millis(5)).await;
    }
    it.hub.set_lifetime(Duration::from_secs(299));
    it.hub.revoke_all();
    open.send(true).unwrap();
    for request in requests {
        assert_eq!(request.await.unwrap().unwrap().status(), 200);
    }
    assert_eq!(
        it.hub.token_posts(),
        2,
        "one for the first token, one for its successor"
    );
}

#[tokio::test]
async fn each_way_to_say_that_the_token_is_no_good_replaces_it_and_repeats_the_request() {
    let fault =
        r#"{"fault":{"faultstring":"Invalid access token","detail":{"errorcode":"oauth.v2.InvalidAccessToken"}}}"#;
    let xml = "<fault><faultstring>x</faultstring><detail><errorcode>keymanagement.service.access_token_expired</errorcode></detail></fault>";
    let challenge = r#"Bearer realm="null",error="invalid_token",error_description="keymanagement.service.access_token_expired: Access Token expired""#;
    for refusal in [
        FakeAnswer::new(401, fault),
        FakeAnswer::new(401, xml),
        FakeAnswer::new(401, "").with_header("WWW-Authenticate", challenge),
    ] {
        let it = Setup::new().await;
        it.old_enough().await;
        it.hub.answer_path("/search/odd", refusal);
        let answer = it.get("/search/odd").await;
        assert_eq!(answer, 401, "it is refused for ever, so the second 401 is the caller's");
        let bearers = it.bearers();
        assert_eq!(bearers.len(), 2, "repeated once");
        assert_ne!(bearers[0], bearers[1], "with another token");
        assert_eq!(it.hub.token_posts(), 2);
    }
}

#[tokio::test]
async fn a_401_for_an_api_outside_the_project_is_returned_whole_and_costs_nothing() {
    let it = Setup::new().await;
    it.old_enough().await;
    for path in [NAMES, TILE] {
        it.hub.refuse_path(path.split('?').next().unwrap());
        let answer = it.client.get(it.hub.url(path)).send().await.unwrap();
        assert_eq!(answer.status(), 401);
        assert_eq!(answer.url(), &it.hub.url(path));
        assert!(
            answer
                .text()
                .await
                .unwrap()
                .contains("InvalidAPICallAsNoApiProductMatchFound")
        );
    }
    assert_eq!((it.hub.token_posts(), it.hub.api_requests()), (1, 2));
    assert_eq!(it.tokens.status().state, TokenState::Fresh);
}

#[tokio::test]
async fn a_403_and_a_429_never_cost_a_token() {
    let it = Setup::new().await;
    it.old_enough().await;
    for status in [403, 429] {
        it.hub.answer_path("/search/odd", FakeAnswer::new(status, ""));
        assert_eq!(it.get("/search/odd").await, status);
    }
    assert_eq!((it.hub.token_posts(), it.hub.api_requests()), (1, 2));
    assert_eq!(it.tokens.status().state, TokenState::Fresh);
}

#[tokio::test]
async fn a_401_that_says_nothing_replaces_the_token_but_takes_it_from_nobody() {
    for page in ["", "<html><body>Firewall</body></html>"] {
        let it = Arc::new(Setup::new().await);
        it.old_enough().await;
        let old = it.tokens.current().unwrap();
        it.hub.answer_path("/search/odd", FakeAnswer::new(401, page));
        it.hub.set_delay(Duration::from_millis(300));
        let odd = tokio::spawn({
            let it = it.clone();
            async move { it.get("/search/odd").await }
        });
        while it.hub.token_posts() < 2 {
            sleep(Duration::from_millis(5)).await;
        }
        let serving = it.tokens.current().expect("others go on with the old one");
        assert_eq!(serving.expose_secret(), old.expose_secret());
        assert_eq!(odd.await.unwrap(), 401);
        let bearers = it.bearers();
        assert_eq!(bearers.len(), 2, "repeated once");
        assert_ne!(bearers[0], bearers[1], "with the next token");
        assert_eq!(it.hub.token_posts(), 2);
    }
}

#[tokio::test]
async fn a_401_is_returned_if_no_other_token_can_be_had() {
    let it = Setup::new().await;
    it.old_enough().await;
    it.hub
        .answer_path("/search/odd", FakeAnswer::new(401, "a firewall's page"));
    it.hub.fail(FakeAnswer::new(503, ""));
    let answer = it.client.get(it.hub.url("/search/odd")).send().await.unwrap();
    assert_eq!(answer.status(), 401);
    assert_eq!(answer.text().await.unwrap(), "a firewall's page");
    assert_eq!(it.get(NAMES).await, 200, "the old token serves");
}

#[tokio::test]
async fn a_token_that_we_have_just_had_is_not_replaced() {
    let it = Setup::new().await;
    it.hub.set_lifetime(Duration::from_secs(299));
    it.tokens.token().await.unwrap();
    it.hub.revoke_all();
    for _ in 0..10 {
        assert_eq!(it.get(NAMES).await, 401);
    }
    assert_eq!((it.hub.token_posts(), it.hub.api_requests()), (1, 10));
}

#[tokio::test]
async fn without_replay_the_token_is_replaced_and_the_caller_gets_the_401() {
    let it = Setup::with(|auth| auth.replay_rejected(false)).await;
    it.old_enough().await;
    it.hub.revoke_all();
    assert_eq!(it.get(NAMES).await, 401);
    assert_eq!(it.get(NAMES).await, 200);
    assert_eq!(it.hub.token_posts(), 2);
}

#[tokio::test]
async fn a_body_in_memory_is_repeated_to_the_last_byte() {
    let it = Setup::new().await;
    it.old_enough().await;
    it.hub.revoke_all();
    let polygon = "p".repeat(1024 * 1024);
    let request = it
        .client
        .post(it.hub.url("/search/places/v1/polygon"))
        .body(polygon.clone());
    assert_eq!(request.send().await.unwrap().status(), 200);
    let received: Vec<_> = it
        .hub
        .received()
        .into_iter()
        .filter(|r| r.path.ends_with("polygon"))
        .collect();
    assert_eq!(received.len(), 2);
    assert!(received.iter().all(|request| request.body == polygon));
}

struct Stream(Option<Bytes>);

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
    let it = Setup::new().await;
    it.old_enough().await;
    it.hub.revoke_all();
    let stream = reqwest::Body::wrap(Stream(Some(Bytes::from_static(b"once"))));
    let request = it.client.post(it.hub.url("/search/places/v1/polygon")).body(stream);
    assert_eq!(request.send().await.unwrap().status(), 401);
    assert_eq!(it.get(NAMES).await, 200);
    assert_eq!((it.hub.token_posts(), it.hub.api_requests()), (2, 2));
}

#[tokio::test]
async fn a_late_401_for_an_older_token_costs_no_post() {
    let it = Setup::new().await;
    it.old_enough().await;
    let old = it.tokens.current().unwrap();
    // Refuses the old token, and so late that it has been replaced by then.
    let refused = format!("Bearer {}", old.expose_secret());
    let (answer_now, may_answer) = watch::channel(false);
    let late = RawServer::start(move |mut stream, request| {
        let (refused, mut may_answer) = (refused.clone(), may_answer.clone());
        async move {
            let answer = if request.contains(&refused) {
                may_answer.wait_for(|now| *now).await.unwrap();
                raw::http(
                    401,
                    "WWW-Authenticate: Bearer error=\"invalid_token\"\r\nConnection: close\r\n",
                    "",
                )
            } else {
                raw::http(200, "Connection: close\r\n", "")
            };
            let _ = stream.write_all(&answer).await;
        }
    })
    .await;
    let client = it.client_for(&late);
    let request = tokio::spawn(client.get(late.url("/")).send());
    while late.connections() == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    it.hub.set_lifetime(Duration::from_secs(299));
    it.tokens.reject(&old);
    it.tokens.token().await.unwrap();
    answer_now.send(true).unwrap();
    let answer = request.await.unwrap().unwrap();
    assert_eq!(answer.status(), 200, "repeated with the current token");
    assert_eq!((late.connections(), it.hub.token_posts()), (2, 2));
}

/// Answers `401` with a body that comes in pieces and says nothing of the token until its end, if there.
async fn piecemeal(pieces: Vec<(Duration, Bytes)>) -> RawServer {
    let pieces = Arc::new(pieces);
    RawServer::start(move |mut stream, _| {
        let pieces = pieces.clone();
        async move {
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
        // Beyond 16 KiB; slower than a second; both readable to the last byte.
        (vec![(Duration::ZERO, Bytes::from(vec![b'x'; 300_000]))], second * 4),
        (
            vec![(Duration::ZERO, Bytes::from("be")), (second * 6, Bytes::from("gin"))],
            second * 4,
        ),
    ] {
        let it = Setup::new().await;
        let whole: Vec<u8> = pieces.iter().flat_map(|(_, piece)| piece.to_vec()).collect();
        let server = piecemeal(pieces).await;
        let client = it.client_for(&server);
        // So long that looking at the body does not make it old enough to be replaced.
        it.hub.set_lifetime(Duration::from_secs(299));
        it.tokens.token().await.unwrap();
        let start = std::time::Instant::now();
        let mut answer = client.get(server.url("/x?y=1")).send().await.unwrap();
        assert!(start.elapsed() < within, "{:?}", start.elapsed());
        assert_eq!(answer.status(), 401);
        assert_eq!(answer.url().as_str(), server.url("/x?y=1").as_str());
        assert_eq!(answer.version(), reqwest::Version::HTTP_11);
        assert_eq!(answer.headers()["x-kept"], "yes");
        assert_eq!(answer.remote_addr(), Some(server.address), "an extension");
        assert_eq!(answer.content_length(), Some(whole.len() as u64));
        let mut read = Vec::new();
        while let Some(chunk) = answer.chunk().await.unwrap() {
            read.extend_from_slice(&chunk);
        }
        assert!(read == whole);
    }
}

#[tokio::test]
async fn a_401_that_breaks_off_still_breaks_off_where_it_did() {
    let server = RawServer::saying(&b"HTTP/1.1 401 No\r\nContent-Length: 100\r\n\r\nonly this"[..]).await;
    let it = Setup::new().await;
    let client = it.client_for(&server);
    let mut answer = client.get(server.url("/")).send().await.unwrap();
    assert_eq!(answer.chunk().await.unwrap().unwrap(), "only this");
    assert!(answer.chunk().await.is_err());
}

#[tokio::test]
async fn the_token_is_renewed_under_steady_traffic_and_no_request_fails() {
    let it = Setup::new().await;
    it.hub.set_lifetime(Duration::from_secs(2));
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_secs(6) {
        assert_eq!(it.get(NAMES).await, 200);
        sleep(Duration::from_millis(10)).await;
    }
    let posts = it.hub.token_posts();
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
