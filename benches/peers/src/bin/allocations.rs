//! The other half of the price: the allocations of one call, one line for each contestant.
//!
//! A program of its own, since the crate that counts puts itself in the allocator's place and makes each allocation
//! dearer. It counts what the calling thread allocates, and no other.

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
    // What is allocated once belongs to no call.
    calls(CALLS);
    let counted = allocation_counter::measure(|| calls(CALLS)).count_total;
    let counted = u32::try_from(counted).expect("some thousands");
    f64::from(counted) / f64::from(CALLS)
}
