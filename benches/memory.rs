//! Allocations: how many do a token and a request need, and how large is a manager?
//!
//! They are counted, not timed, so the figures are the same on every machine. A chain's counts include what
//! `reqwest-middleware` allocates for a request. `tests/allocations` tests the promises.

use std::{process::ExitCode, time::Duration};

use allocation_counter::measure;
use benches::{ConstantHeader, Fixed, LIFE, Limit, chain, finish, fresh, header, poll_once, report, send};
use osdatahub_auth::{BearerAuth, TokenManager};
use reqwest_middleware::Middleware;

fn main() -> ExitCode {
    let (tokens, _runtime) = fresh();
    let token = measure(|| drop(poll_once(tokens.token()).expect("a fresh token").header_value()));
    report("memory/token_allocations", float(token.count_total), Limit::AtMost(0.0));
    let manager = measure(|| {
        let source = Fixed::new(Duration::ZERO, LIFE);
        std::mem::forget(TokenManager::builder(source).build());
    });
    report("memory/manager_bytes", float(manager.bytes_max), Limit::AtMost(4_096.0));

    let constant = allocations(ConstantHeader(header()));
    println!("# a request with a constant header: {constant} allocations");
    println!(
        "# a request with replay: {} allocations",
        allocations(BearerAuth::new(tokens.clone()))
    );
    let no_replay = allocations(BearerAuth::new(tokens).replay_rejected(false));
    report(
        "memory/request_no_replay_allocations",
        no_replay,
        Limit::AtMost(constant),
    );
    finish()
}

fn allocations(layer: impl Middleware) -> f64 {
    let client = chain(layer);
    // Warm-up: allocations that happen only once are not counted.
    send(&client, None);
    float(measure(|| send(&client, None)).count_total)
}

fn float(count: u64) -> f64 {
    f64::from(u32::try_from(count).expect("fewer than 2^32"))
}
