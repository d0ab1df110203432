//! What the benches share: ratios of two things that take turns, and how a figure is told.
#![expect(
    dead_code,
    reason = "each bench uses its own part of this, as tests/allocations.rs does"
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

pub(crate) const LIFE: Duration = Duration::from_secs(299);
pub(crate) const TOKEN: &str = "ZclClFcksJlZ19vnJOt09Yj3xme0";

/// A token for every fetch, after a delay. Counts them.
pub(crate) struct Fixed {
    pub(crate) delay: Duration,
    pub(crate) life: Duration,
    pub(crate) fetches: AtomicU32,
}

impl Fixed {
    pub(crate) fn new(delay: Duration, life: Duration) -> Arc<Self> {
        Arc::new(Self {
            delay,
            life,
            fetches: AtomicU32::new(0),
        })
    }

    pub(crate) fn fetches(&self) -> u32 {
        self.fetches.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl TokenSource for Fixed {
    async fn fetch(&self, _replaces: Option<&AccessToken>) -> Result<AccessToken, Error> {
        let token = AccessToken::new(TOKEN, self.life)?;
        tokio::time::sleep(self.delay).await;
        self.fetches.fetch_add(1, Ordering::Relaxed);
        Ok(token)
    }
}

/// The least that a layer can do for authentication.
pub(crate) struct ConstantHeader(pub(crate) HeaderValue);

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

/// Stands where the client would be.
pub(crate) struct Stub;

#[async_trait]
impl Middleware for Stub {
    async fn handle(&self, request: Request, _: &mut Extensions, _: Next<'_>) -> reqwest_middleware::Result<Response> {
        black_box(request);
        Ok(http::Response::new("").into())
    }
}

/// A chain with this layer, which ends in a stub.
pub(crate) fn chain(layer: impl Middleware) -> ClientWithMiddleware {
    ClientBuilder::new(Client::new()).with(layer).with(Stub).build()
}

/// One request through such a chain.
pub(crate) fn send(client: &ClientWithMiddleware, body: Option<&Bytes>) {
    let url = Url::parse("https://api.os.uk/maps/raster/v1/zxy/Road_3857/7/63/42.png").expect("a URL");
    let method = if body.is_some() { Method::POST } else { Method::GET };
    let mut request = Request::new(method, url);
    *request.body_mut() = body.map(|body| body.clone().into());
    let answer = poll_once(client.execute(request)).expect("the stub's answer");
    black_box(answer);
}

/// The header that it inserts.
pub(crate) fn header() -> HeaderValue {
    let mut header: HeaderValue = format!("Bearer {TOKEN}").parse().expect("visible ASCII");
    header.set_sensitive(true);
    // A header's first clone allocates what the others share.
    let _ = header.clone();
    header
}

/// What a token needs that expires: its header, and since when it counts on both clocks.
pub(crate) struct Held {
    header: HeaderValue,
    since: (tokio::time::Instant, SystemTime),
}

impl Held {
    pub(crate) fn new() -> Self {
        Self {
            header: header(),
            since: (tokio::time::Instant::now(), SystemTime::now()),
        }
    }

    pub(crate) fn header(&self) -> HeaderValue {
        let (monotonic, wall) = self.since;
        assert!(monotonic.elapsed() < LIFE && wall.elapsed().is_ok_and(|age| age < LIFE));
        self.header.clone()
    }
}

/// A manager that holds a fresh token, and the runtime that it got it on.
pub(crate) fn fresh() -> (TokenManager, Runtime) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let tokens = TokenManager::builder(Fixed::new(Duration::ZERO, LIFE))
        .build()
        .expect("the defaults");
    runtime.block_on(tokens.token()).expect("a token");
    (tokens, runtime)
}

/// What a future brings that has nothing to wait for.
pub(crate) fn poll_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("nothing here has to wait"),
    }
}

/// The median over the rounds of B's time over A's. A and B take turns, and take turns in going first, so that a busy
/// machine slows both.
pub(crate) fn ratio(rounds: usize, mut a: impl FnMut() -> Duration, mut b: impl FnMut() -> Duration) -> f64 {
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

pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

static OVER: AtomicBool = AtomicBool::new(false);

/// Which side of its limit a figure is to be on.
#[derive(Clone, Copy)]
pub(crate) enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

/// One line: `name measured limit ok|over`.
pub(crate) fn report(name: impl Display, measured: f64, limit: Limit) {
    let (ok, sign, limit) = match limit {
        Limit::AtMost(limit) => (measured <= limit, "<=", limit),
        Limit::AtLeast(limit) => (measured >= limit, ">=", limit),
    };
    let verdict = if ok { "ok" } else { "over" };
    OVER.fetch_or(!ok, Ordering::Relaxed);
    println!("{name:<44} {measured:>10.3} {:>12} {verdict}", format!("{sign}{limit}"));
}

/// Ends a bench: with 2 if one of its figures is over its limit.
pub(crate) fn finish() -> std::process::ExitCode {
    if OVER.load(Ordering::Relaxed) {
        2.into()
    } else {
        std::process::ExitCode::SUCCESS
    }
}
