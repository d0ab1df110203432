//! Hot path: what does a cached token cost a caller, and what does it cost a request?
//!
//! Every figure is a ratio, because absolute times mean nothing on a noisy machine. The measurement of `token()`
//! includes one poll of its future. The measurement of a chain includes everything that `reqwest-middleware` does for
//! a request.
//!
//! A chain ends in a stub instead of a client, which is the least favourable case. A layer adds the same time in
//! front of a real client, where a request takes a hundred times as long. For comparison, the floor is also measured
//! as a layer. Half of the floor is two clock reads, whose cost depends on the machine.
//!
//! The bench `memory` counts the allocations, because counting takes time.

use std::{
    process::ExitCode,
    sync::RwLock,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use benches::{
    CachedHeader, ConstantHeader, Limit, chain, chain_of_nothing, finish, fresh, header, poll_once, ratio, report,
    send, send_to,
};
use bytes::Bytes;
use http::{Extensions, HeaderMap, header::AUTHORIZATION};
use osdatahub_auth::BearerAuth;
use reqwest::{Request, Response};
use reqwest_middleware::{Middleware, Next, Result};

const ROUNDS: usize = 151;
const CALLS: u32 = 10_000;

fn main() -> ExitCode {
    let (tokens, _runtime) = fresh();

    let cached = Floor::new();
    let mut headers = HeaderMap::new();
    let mut floor = || cached.insert_into(&mut headers);
    let mut headers = HeaderMap::new();
    let mut token = || {
        let token = poll_once(tokens.token()).expect("a fresh token");
        headers.insert(AUTHORIZATION, token.header_value());
    };
    let measured = ratio(ROUNDS, || time(&mut floor), || time(&mut token));
    println!("# token() and insert: {:?}", time(&mut token) / CALLS);
    report("hot_path/token_over_floor", measured, Limit::AtMost(1.25));

    let constant = chain(ConstantHeader(header()));
    let floor = chain(Floor::new());
    let no_replay = chain(BearerAuth::new(tokens.clone()).replay_rejected(false));
    let with_replay = chain(BearerAuth::new(tokens));
    for (request, body) in [("get", None), ("post_1_mib", Some(Bytes::from(vec![0; 1024 * 1024])))] {
        let time_of = |client| time(&mut || send(client, body.as_ref()));
        let measured = ratio(ROUNDS, || time_of(&constant), || time_of(&floor));
        println!("# chain/{request}: the floor over a constant header: {measured:.3}");
        for (variant, client, limit) in [("no_replay", &no_replay, 1.15), ("replay", &with_replay, 1.30)] {
            let measured = ratio(ROUNDS, || time_of(&constant), || time_of(client));
            report(
                format!("chain/{request}_{variant}_over_constant"),
                measured,
                Limit::AtMost(limit),
            );
        }
    }

    let measured = ratio(
        ROUNDS,
        || time(&mut || send(&floor, None)),
        || time(&mut || send(&no_replay, None)),
    );
    report("chain/get_no_replay_over_floor", measured, Limit::AtMost(1.05));

    let nothing = chain_of_nothing();
    let elsewhere = |client| time(&mut || send_to("https://gateway.example/maps/raster/v1/7/63/42.png", client, None));
    let measured = ratio(ROUNDS, || elsewhere(&nothing), || elsewhere(&with_replay));
    report("chain/passed_through_over_nothing", measured, Limit::AtMost(1.05));
    finish()
}

fn time(call: &mut dyn FnMut()) -> Duration {
    let start = Instant::now();
    for _ in 0..CALLS {
        call();
    }
    start.elapsed()
}

/// Floor of the hot path: a read lock, two clock reads, a clone and an insert.
///
/// A token that expires, and that another task replaces, cannot cost less.
struct Floor(RwLock<CachedHeader>);

impl Floor {
    fn new() -> Self {
        Self(RwLock::new(CachedHeader::new()))
    }

    fn insert_into(&self, headers: &mut HeaderMap) {
        let header = self.0.read().expect("not poisoned").header();
        headers.insert(AUTHORIZATION, header);
    }
}

#[async_trait]
impl Middleware for Floor {
    async fn handle(&self, mut request: Request, extensions: &mut Extensions, next: Next<'_>) -> Result<Response> {
        self.insert_into(request.headers_mut());
        next.run(request, extensions).await
    }
}
