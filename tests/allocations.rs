//! What is allocated: nothing for a token that is fresh, little for a manager, and no more for an answer without an end.

#[path = "../benches/common/mod.rs"]
mod common;

use std::{
    io::{Read, Write},
    net::TcpListener,
    time::Duration,
};

use allocation_counter::{AllocationInfo, measure};
use common::{ConstantHeader, Fixed, LIFE, fresh, header, poll_once};
use http::{Extensions, header::AUTHORIZATION};
use osdatahub_auth::{BearerAuth, ErrorKind, ProjectCredentials, TokenEndpoint, TokenManager, TokenSource};
use reqwest::{Request, Response};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next, Result};

#[test]
fn the_counter_counts() {
    let counted = measure(|| drop(std::hint::black_box(Box::new([0_u8; 100]))));
    assert_eq!((counted.count_total, counted.bytes_max), (1, 100));
}

#[test]
fn a_fresh_token_costs_no_allocation() {
    let (tokens, runtime) = fresh();
    let _entered = runtime.enter();
    let counted = measure(|| {
        for _ in 0..100 {
            let token = poll_once(tokens.token()).unwrap();
            drop((token.header_value(), token.remaining()));
            poll_once(tokens.token_lasting(Duration::from_secs(60))).unwrap();
            tokens.current().unwrap();
        }
    });
    assert_eq!(counted.count_total, 0);
}

#[test]
fn a_manager_takes_less_than_4_kib_beside_its_source() {
    let counted =
        measure(|| std::mem::forget(TokenManager::builder(Fixed::new(Duration::ZERO, LIFE)).build().unwrap()));
    assert!((1..4096).contains(&counted.bytes_current), "{counted:?}");
}

/// Where the network would be.
struct Terminal;

#[async_trait::async_trait]
impl Middleware for Terminal {
    async fn handle(&self, request: Request, _: &mut Extensions, _: Next<'_>) -> Result<Response> {
        assert!(request.headers()[AUTHORIZATION].is_sensitive());
        Ok(http::Response::new("").into())
    }
}

fn one_request(layer: impl Middleware) -> AllocationInfo {
    let client: ClientWithMiddleware = ClientBuilder::new(reqwest::Client::new())
        .with(layer)
        .with(Terminal)
        .build();
    let request = || {
        client
            .get("https://api.os.uk/maps/raster/v1/zxy/Road_3857/7/63/42.png")
            .build()
    };
    // What is allocated once and for all is not counted.
    poll_once(client.execute(request().unwrap())).unwrap();
    let request = request().unwrap();
    measure(|| drop(poll_once(client.execute(request)).unwrap()))
}

#[test]
fn a_request_allocates_no_more_than_with_a_constant_header() {
    let (tokens, runtime) = fresh();
    let _entered = runtime.enter();
    let constant = one_request(ConstantHeader(header()));
    let ours = one_request(BearerAuth::new(tokens).replay_rejected(false));
    assert!(constant.count_total > 0, "what reqwest and its middleware cost");
    assert!(ours.count_total <= constant.count_total, "{ours:?}, not {constant:?}");
}

#[test]
fn an_answer_without_an_end_takes_less_than_1_mib() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // An answer that comes before its request would be another trouble.
        let _ = stream.read(&mut [0; 4096]).unwrap();
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b' '; 16 * 1024]).is_ok() {}
    });
    let credentials = ProjectCredentials::new("key", "secret").unwrap();
    let endpoint = TokenEndpoint::builder(credentials).token_url(url.parse().unwrap());
    let endpoint = endpoint.build().unwrap();
    let (_, runtime) = fresh();
    let counted = measure(|| {
        let error = runtime.block_on(endpoint.fetch(None)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MalformedResponse);
    });
    // We read 64 KiB (tests/endpoint.rs); the rest is the connection's buffers, which grow while a body comes fast.
    assert!(counted.bytes_max < 1024 * 1024, "{counted:?}");
}
