//! What is allocated? Counted, not timed, and the same on every machine.
//!
//! A chain's counts include what `reqwest-middleware` allocates for a request. `tests/allocations.rs` keeps the promises.

mod common;

use std::{process::ExitCode, time::Duration};

use allocation_counter::measure;
use common::{ConstantHeader, Fixed, LIFE, Limit, chain, finish, fresh, header, poll_once, report, send};
use osdatahub_auth::{BearerAuth, TokenManager};
use reqwest_middleware::Middleware;

fn main() -> ExitCode {
    let (tokens, _runtime) = fresh();
    let token = measure(|| drop(poll_once(tokens.token()).expect("a fresh token").header_value()));
    report("memory/token_allocations", count(token.count_total), Limit::AtMost(0.0));
    let manager = measure(|| {
        let source = Fixed::new(Duration::ZERO, LIFE);
        std::mem::forget(TokenManager::builder(source).build());
    });
    report("memory/manager_bytes", count(manager.bytes_max), Limit::AtMost(4_096.0));

    let constant = allocations(ConstantHeader(header()));
    println!("# a request with a constant header: {constant} allocations");
    println!(
        "# a request with replay: {} allocations",
        allocations(BearerAuth::new(tokens.clone()))
    );
    let once = allocations(BearerAuth::new(tokens).replay_rejected(false));
    report("memory/request_no_replay_allocations", once, Limit::AtMost(constant));
    finish()
}

fn allocations(layer: impl Middleware) -> f64 {
    let client = chain(layer);
    // What is allocated once and for all is not counted.
    send(&client, None);
    count(measure(|| send(&client, None)).count_total)
}

fn count(things: u64) -> f64 {
    f64::from(u32::try_from(things).expect("not that many"))
}
