//! What the benchmarks share: fixtures, ratios of interleaved measurements, and the output format.
#![expect(
    missing_debug_implementations,
    missing_docs,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::new_without_default,
    reason = "only this repository uses it"
)]

use std::{
    fmt::Display,
    hint::black_box,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Extensions, HeaderValue, header::AUTHORIZATION};
use osdatahub_auth::{AccessToken, Error, TokenManager, TokenSource};
use reqwest::{Client, Method, Request, Response, Url};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
use tokio::runtime::{Builder, Runtime};

pub const LIFE: Duration = Duration::from_secs(299);
pub const TOKEN: &str = "ZclClFcksJlZ19vnJOt09Yj3xme0";

/// Token source that succeeds after a fixed delay and counts its fetches.
pub struct Fixed {
    pub delay: Duration,
    pub lifetime: Duration,
    pub fetches: AtomicU32,
}

impl Fixed {
    pub fn new(delay: Duration, lifetime: Duration) -> Arc<Self> {
        Arc::new(Self {
            delay,
            lifetime,
            fetches: AtomicU32::new(0),
        })
    }

    pub fn fetches(&self) -> u32 {
        self.fetches.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl TokenSource for Fixed {
    async fn fetch(&self, _replaces: Option<&AccessToken>) -> Result<AccessToken, Error> {
        let token = AccessToken::new(TOKEN, self.lifetime)?;
        tokio::time::sleep(self.delay).await;
        self.fetches.fetch_add(1, Ordering::Relaxed);
        Ok(token)
    }
}

/// Layer that sets a fixed header: the minimum that any authentication layer costs.
pub struct ConstantHeader(pub HeaderValue);

#[async_trait]
impl Middleware for ConstantHeader {
    async fn handle(
        &self,
        mut request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        request.headers_mut().insert(AUTHORIZATION, self.0.clone());
        next.run(request, extensions).await
    }
}

/// Layer that does nothing: the minimum that any layer costs.
pub struct Nothing;

#[async_trait]
impl Middleware for Nothing {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        next.run(request, extensions).await
    }
}

/// Terminal layer that responds at once, in place of a client.
pub struct Stub;

#[async_trait]
impl Middleware for Stub {
    async fn handle(&self, request: Request, _: &mut Extensions, _: Next<'_>) -> reqwest_middleware::Result<Response> {
        black_box(request);
        Ok(http::Response::new("").into())
    }
}

/// Terminal layer that panics if the request is not authenticated.
struct AssertAuthenticated;

#[async_trait]
impl Middleware for AssertAuthenticated {
    async fn handle(&self, request: Request, _: &mut Extensions, _: Next<'_>) -> reqwest_middleware::Result<Response> {
        assert!(request.headers().contains_key(AUTHORIZATION));
        Ok(http::Response::new("").into())
    }
}

/// Client with this layer and a stub in place of the network.
///
/// # Panics
/// If the layer does not authenticate. A layer that does nothing would be the fastest.
pub fn chain(layer: impl Middleware) -> ClientWithMiddleware {
    let layer: Arc<dyn Middleware> = Arc::new(layer);
    let client = || ClientBuilder::new(Client::new()).with_arc(layer.clone());
    send(&client().with(AssertAuthenticated).build(), None);
    client().with(Stub).build()
}

/// Client with a layer that does nothing, and a stub in place of the network.
pub fn chain_of_nothing() -> ClientWithMiddleware {
    ClientBuilder::new(Client::new()).with(Nothing).with(Stub).build()
}

/// Sends one request to OS through such a client.
pub fn send(client: &ClientWithMiddleware, body: Option<&Bytes>) {
    send_to(
        "https://api.os.uk/maps/raster/v1/zxy/Road_3857/7/63/42.png",
        client,
        body,
    );
}

/// Sends one request through such a client.
pub fn send_to(url: &str, client: &ClientWithMiddleware, body: Option<&Bytes>) {
    let url = Url::parse(url).expect("a URL");
    let method = if body.is_some() { Method::POST } else { Method::GET };
    let mut request = Request::new(method, url);
    *request.body_mut() = body.map(|body| body.clone().into());
    let response = poll_once(client.execute(request)).expect("the stub's response");
    black_box(response);
}

/// `Authorization` header with the test token, marked as sensitive.
pub fn header() -> HeaderValue {
    let mut header: HeaderValue = format!("Bearer {TOKEN}").parse().expect("visible ASCII");
    header.set_sensitive(true);
    // The first clone allocates the buffer that all later clones share.
    let _ = header.clone();
    header
}

/// Header with an expiry that is checked on both clocks, as a token's is.
pub struct CachedHeader {
    header: HeaderValue,
    issued_at: (tokio::time::Instant, SystemTime),
}

impl CachedHeader {
    pub fn new() -> Self {
        Self {
            header: header(),
            issued_at: (tokio::time::Instant::now(), SystemTime::now()),
        }
    }

    pub fn header(&self) -> HeaderValue {
        let (monotonic, wall) = self.issued_at;
        assert!(monotonic.elapsed() < LIFE && wall.elapsed().is_ok_and(|age| age < LIFE));
        self.header.clone()
    }
}

/// Manager with a fresh token, and the runtime that fetched it.
pub fn fresh() -> (TokenManager, Runtime) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let tokens = TokenManager::builder(Fixed::new(Duration::ZERO, LIFE))
        .build()
        .expect("the defaults");
    runtime.block_on(tokens.token()).expect("a token");
    (tokens, runtime)
}

/// Output of a future that is ready at its first poll.
pub fn poll_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the future is not ready at its first poll"),
    }
}

/// Median over the rounds of B's time divided by A's.
///
/// A and B run in turn, and the order alternates, so a busy machine slows both.
pub fn ratio(rounds: usize, mut a: impl FnMut() -> Duration, mut b: impl FnMut() -> Duration) -> f64 {
    let mut ratios: Vec<f64> = (0..rounds)
        .map(|round| {
            let (a, b) = if round % 2 == 0 {
                let a = a();
                (a, b())
            } else {
                let b = b();
                (a(), b)
            };
            b.as_secs_f64() / a.as_secs_f64()
        })
        .collect();
    median(&mut ratios)
}

pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

static OVER: AtomicBool = AtomicBool::new(false);

/// Upper or lower limit of a figure.
#[derive(Clone, Copy)]
pub enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

/// Prints a figure as one line: `name measured limit ok|over`.
pub fn report(name: impl Display, measured: f64, limit: Limit) {
    let (ok, sign, limit) = match limit {
        Limit::AtMost(limit) => (measured <= limit, "<=", limit),
        Limit::AtLeast(limit) => (measured >= limit, ">=", limit),
    };
    let verdict = if ok { "ok" } else { "over" };
    OVER.fetch_or(!ok, Ordering::Relaxed);
    println!("{name:<44} {measured:>10.3} {:>12} {verdict}", format!("{sign}{limit}"));
}

/// Exit code of a bench: 2 if any figure is over its limit.
pub fn finish() -> std::process::ExitCode {
    if OVER.load(Ordering::Relaxed) {
        2.into()
    } else {
        std::process::ExitCode::SUCCESS
    }
}
