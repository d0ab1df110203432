//! What does a token cost that is there already?
//!
//! Everything is a ratio, as absolute times mean nothing on a noisy machine. What is measured besides: with `token()`
//! the one poll of its future; with a chain all that `reqwest-middleware` does for a request, which ends in a stub and
//! not in a client. That is the hardest case for a chain: what a layer adds is the same before a real client, where a
//! request takes a hundred times as long. The floor alone, as a layer, is shown beside it: half of it is two clock reads,
//! which cost what the machine takes for them.
//!
//! Allocations are counted by `memory`, as counting takes time.

mod common;

use std::{
    process::ExitCode,
    sync::RwLock,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use common::{ConstantHeader, Held, Limit, chain, finish, fresh, header, poll_once, ratio, report, send};
use http::{Extensions, HeaderMap, header::AUTHORIZATION};
use osdatahub_auth::BearerAuth;
use reqwest::{Request, Response};
use reqwest_middleware::{Middleware, Next, Result};

const ROUNDS: usize = 151;
const CALLS: u32 = 10_000;

fn main() -> ExitCode {
    let (tokens, _runtime) = fresh();

    let held = Floor::new();
    let mut headers = HeaderMap::new();
    let mut floor = || held.insert_into(&mut headers);
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
    let once = chain(BearerAuth::new(tokens.clone()).replay_rejected(false));
    let replaying = chain(BearerAuth::new(tokens));
    for (what, body) in [("get", None), ("post_1_mib", Some(Bytes::from(vec![0; 1024 * 1024])))] {
        let time_of = |client| time(&mut || send(client, body.as_ref()));
        let measured = ratio(ROUNDS, || time_of(&constant), || time_of(&floor));
        println!("# chain/{what}: the floor over a constant header: {measured:.3}");
        for (how, client, limit) in [("no_replay", &once, 1.10), ("replay", &replaying, 1.50)] {
            let measured = ratio(ROUNDS, || time_of(&constant), || time_of(client));
            report(
                format!("chain/{what}_{how}_over_constant"),
                measured,
                Limit::AtMost(limit),
            );
        }
    }
    finish()
}

fn time(call: &mut dyn FnMut()) -> Duration {
    let start = Instant::now();
    for _ in 0..CALLS {
        call();
    }
    start.elapsed()
}

/// The least that a token costs which expires, and which others replace meanwhile.
struct Floor(RwLock<Held>);

impl Floor {
    fn new() -> Self {
        Self(RwLock::new(Held::new()))
    }

    fn insert_into(&self, headers: &mut HeaderMap) {
        let header = self.0.read().expect("nobody panics").header();
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
