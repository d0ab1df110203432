//! Program that counts the allocations of one call, and prints one line per contestant.
//!
//! It is a separate program because the counting crate replaces the global allocator and makes every allocation
//! slower. Only the calling thread's allocations are counted.

use std::process::ExitCode;

use peers::price::Contestant;
use tokio::runtime::Runtime;

const CALLS: u32 = 1_000;

fn main() -> ExitCode {
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    for mut contestant in Contestant::all(&runtime) {
        println!("{}", contestant.net(|calls| per_call(calls)));
    }
    ExitCode::SUCCESS
}

fn per_call(calls: &mut dyn FnMut(u32)) -> f64 {
    // Warm-up: allocations that happen only once are not counted.
    calls(CALLS);
    let count = allocation_counter::measure(|| calls(CALLS)).count_total;
    let count = u32::try_from(count).expect("fewer than 2^32");
    f64::from(count) / f64::from(CALLS)
}
