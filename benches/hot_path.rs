//! What does a token cost that is there already?
//!
//! Absolute times mean nothing on a noisy machine, so each figure is a ratio: A and B alternate in one run, and the
//! median of the rounds is printed. What is measured besides: with `token()` the one poll of its future; with a chain
//! all that `reqwest-middleware` does for a request, which ends in a stub and not in a client.
//!
//! `cargo bench --bench hot_path`

use std::{
    hint::black_box,
    pin::pin,
    sync::RwLock,
    task::{Context, Poll, Waker},
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use http::{Extensions, HeaderMap, HeaderValue, header::AUTHORIZATION};
use osdatahub_auth::{AccessToken, BearerAuth, Error, TokenManager, TokenSource};
use reqwest::{Client, Method, Request, Response, Url};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next, Result};

const ROUNDS: usize = 101;
const CALLS: u32 = 10_000;
const LIFE: Duration = Duration::from_secs(299);

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let tokens = TokenManager::builder(Fixed).build().expect("the defaults");
    runtime.block_on(tokens.token()).expect("a token");

    let held = RwLock::new((header(), tokio::time::Instant::now(), SystemTime::now()));
    let mut headers = HeaderMap::new();
    let mut floor = || {
        let held = held.read().expect("nobody panics");
        let fresh = held.1.elapsed() < LIFE && held.2.elapsed().is_ok_and(|age| age < LIFE);
        assert!(fresh);
        let value = held.0.clone();
        drop(held);
        headers.insert(AUTHORIZATION, value);
    };
    let mut headers = HeaderMap::new();
    let mut token = || {
        let token = poll_once(tokens.token()).expect("a fresh token");
        headers.insert(AUTHORIZATION, token.header_value());
    };
    report(
        "token() over a read lock, two clock reads, a clone and an insert",
        1.25,
        &mut floor,
        &mut token,
    );

    let constant = chain(ConstantHeader(header()));
    let once = chain(BearerAuth::new(tokens.clone()).replay_rejected(false));
    let replaying = chain(BearerAuth::new(tokens.clone()));
    for (what, body) in [("a GET", None), ("a 1 MiB POST", Some(vec![0; 1024 * 1024].into()))] {
        let request = |client: &ClientWithMiddleware| send(client, body.as_ref());
        report(
            &format!("{what} without replay over one with a constant header"),
            1.10,
            &mut || request(&constant),
            &mut || request(&once),
        );
        report(
            &format!("{what} with replay over one with a constant header"),
            1.50,
            &mut || request(&constant),
            &mut || request(&replaying),
        );
    }
}

/// Prints the median of B's time over A's, and the limit that it should keep.
fn report(what: &str, limit: f64, a: &mut dyn FnMut(), b: &mut dyn FnMut()) {
    let mut ratios: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let a = time(a);
            time(b).as_secs_f64() / a.as_secs_f64()
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios[ROUNDS / 2];
    let verdict = if ratio <= limit { "ok" } else { "over" };
    println!("{what}: {ratio:.3} (limit {limit:.2}) {verdict}");
}

fn time(call: &mut dyn FnMut()) -> Duration {
    let start = Instant::now();
    for _ in 0..CALLS {
        call();
    }
    start.elapsed()
}

fn poll_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("nothing here has to wait"),
    }
}

fn header() -> HeaderValue {
    let mut header = HeaderValue::from_static("Bearer ZclClFcksJlZ19vnJOt09Yj3xme0");
    header.set_sensitive(true);
    header
}

struct Fixed;

#[async_trait]
impl TokenSource for Fixed {
    async fn fetch(&self, _replaces: Option<&AccessToken>) -> std::result::Result<AccessToken, Error> {
        AccessToken::new("ZclClFcksJlZ19vnJOt09Yj3xme0", LIFE)
    }
}

struct ConstantHeader(HeaderValue);

#[async_trait]
impl Middleware for ConstantHeader {
    async fn handle(&self, mut request: Request, extensions: &mut Extensions, next: Next<'_>) -> Result<Response> {
        request.headers_mut().insert(AUTHORIZATION, self.0.clone());
        next.run(request, extensions).await
    }
}

/// Stands where the client would be.
struct Stub;

#[async_trait]
impl Middleware for Stub {
    async fn handle(&self, request: Request, _: &mut Extensions, _: Next<'_>) -> Result<Response> {
        black_box(request);
        Ok(http::Response::new("").into())
    }
}

fn chain(layer: impl Middleware) -> ClientWithMiddleware {
    ClientBuilder::new(Client::new()).with(layer).with(Stub).build()
}

fn send(client: &ClientWithMiddleware, body: Option<&bytes::Bytes>) {
    let url = Url::parse("https://api.os.uk/maps/raster/v1/zxy/Road_3857/7/63/42.png").expect("a URL");
    let mut request = Request::new(Method::GET, url);
    *request.body_mut() = body.map(|body| body.clone().into());
    let answer = poll_once(client.execute(request)).expect("the stub's answer");
    black_box(answer);
}
