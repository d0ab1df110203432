//! Limits on allocations: none for a cache hit, under 4 KiB for a manager, and under 1 MiB for a response that never
//! ends; at most 1 KB for each waiting caller. A request allocates no more than with a layer that sets a fixed header.

use std::{
    io::{Read, Write},
    net::TcpListener,
    time::Duration,
};

use allocation_counter::{AllocationInfo, measure};
use benches::{ConstantHeader, Fixed, LIFE, Nothing, Stub, fresh, header, poll_once};
use http::{Extensions, header::AUTHORIZATION};
use osdatahub_auth::{
    AccessToken, BearerAuth, Error, ErrorKind, ProjectCredentials, TokenEndpoint, TokenManager, TokenSource,
};
use reqwest::{Request, Response};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next, Result};
use tokio::{runtime::Builder, task::JoinSet};

#[test]
fn the_counter_counts() {
    let allocated = measure(|| drop(std::hint::black_box(Box::new([0_u8; 100]))));
    assert_eq!((allocated.count_total, allocated.bytes_max), (1, 100));
}

#[test]
fn a_fresh_token_costs_no_allocation() {
    let (tokens, runtime) = fresh();
    let _entered = runtime.enter();
    let allocated = measure(|| {
        for _ in 0..100 {
            let token = poll_once(tokens.token()).unwrap();
            drop((token.header_value(), token.remaining()));
            poll_once(tokens.token_lasting(Duration::from_secs(60))).unwrap();
            tokens.current().unwrap();
        }
    });
    assert_eq!(allocated.count_total, 0);
}

#[test]
fn a_manager_takes_less_than_4_kib_beside_its_source() {
    let allocated =
        measure(|| std::mem::forget(TokenManager::builder(Fixed::new(Duration::ZERO, LIFE)).build().unwrap()));
    assert!((1..4096).contains(&allocated.bytes_current), "{allocated:?}");
}

/// Token source that is down.
struct Down;

#[async_trait::async_trait]
impl TokenSource for Down {
    async fn fetch(&self, _: Option<&AccessToken>) -> std::result::Result<AccessToken, Error> {
        Err(Error::new(ErrorKind::Unavailable, "scripted"))
    }
}

#[test]
fn ten_thousand_callers_that_wait_for_a_dead_endpoint_take_at_most_10_mb() {
    let tokens = TokenManager::builder(Down).acquire_timeout(Duration::from_secs(2));
    let tokens = tokens.build().unwrap();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let allocated = measure(|| {
        runtime.block_on(async {
            let mut callers = JoinSet::new();
            for _ in 0..10_000 {
                let tokens = tokens.clone();
                callers.spawn(async move { tokens.token().await.unwrap_err().kind() });
            }
            let kinds = callers.join_all().await;
            assert!(kinds.iter().all(|kind| *kind == ErrorKind::Unavailable));
        });
    });
    println!("{} bytes", allocated.bytes_max);
    assert!(allocated.bytes_max <= 10_000_000, "{allocated:?}");
}

/// Terminal layer in place of a client. Checks that the header is marked as sensitive, then responds at once.
struct Terminal;

#[async_trait::async_trait]
impl Middleware for Terminal {
    async fn handle(&self, request: Request, _: &mut Extensions, _: Next<'_>) -> Result<Response> {
        assert!(request.headers()[AUTHORIZATION].is_sensitive());
        Ok(http::Response::new("").into())
    }
}

fn allocations_per_request(layer: impl Middleware) -> AllocationInfo {
    allocations_of(
        "https://api.os.uk/maps/raster/v1/zxy/Road_3857/7/63/42.png",
        layer,
        Terminal,
    )
}

fn allocations_of(url: &str, layer: impl Middleware, terminal: impl Middleware) -> AllocationInfo {
    let client: ClientWithMiddleware = ClientBuilder::new(reqwest::Client::new())
        .with(layer)
        .with(terminal)
        .build();
    let request = || client.get(url).build();
    // The first request is not measured, because it also makes one-off allocations.
    poll_once(client.execute(request().unwrap())).unwrap();
    let request = request().unwrap();
    measure(|| drop(poll_once(client.execute(request)).unwrap()))
}

#[test]
fn a_request_allocates_no_more_than_with_a_constant_header() {
    let (tokens, runtime) = fresh();
    let _entered = runtime.enter();
    let constant = allocations_per_request(ConstantHeader(header()));
    let ours = allocations_per_request(BearerAuth::new(tokens).replay_rejected(false));
    assert!(
        constant.count_total > 0,
        "reqwest and reqwest-middleware should allocate"
    );
    assert!(
        ours.count_total <= constant.count_total,
        "{ours:?}, but {constant:?} with a fixed header"
    );
}

#[test]
fn a_request_to_another_origin_allocates_no_more_than_with_a_layer_that_does_nothing() {
    let url = "https://gateway.example/maps/raster/v1/zxy/Road_3857/7/63/42.png";
    let (tokens, _) = fresh();
    let nothing = allocations_of(url, Nothing, Stub);
    let ours = allocations_of(url, BearerAuth::new(tokens), Stub);
    assert!(nothing.count_total > 0);
    assert!(
        ours.count_total <= nothing.count_total,
        "{ours:?}, but {nothing:?} with a layer that does nothing"
    );
}

#[test]
fn an_answer_without_an_end_takes_less_than_1_mib() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // A response before the request would be a different error.
        let _ = stream.read(&mut [0; 4096]).unwrap();
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b' '; 16 * 1024]).is_ok() {}
    });
    let credentials = ProjectCredentials::new("key", "secret").unwrap();
    let endpoint = TokenEndpoint::builder(credentials).token_url(url.parse().unwrap());
    let endpoint = endpoint.build().unwrap();
    let (_, runtime) = fresh();
    let allocated = measure(|| {
        let error = runtime.block_on(endpoint.fetch(None)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MalformedResponse);
    });
    // The library reads up to 64 KiB of a body (`tests/sockets/endpoint.rs`). The rest is the connection's buffers, which grow
    // while data arrives fast.
    assert!(allocated.bytes_max < 1024 * 1024, "{allocated:?}");
}
