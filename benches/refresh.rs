//! Background refresh: how long does it delay a caller?
//!
//! Ten managers go through five refreshes each, with tokens of 4 s and an endpoint that takes 500 ms. Each manager
//! has one caller, which asks every millisecond. The figure is the longest wait for `token()` of all callers.
//!
//! It includes pauses that the machine imposes on a thread in the middle of a call. For comparison, the bench also
//! prints the longest duration of a call that does nothing.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use benches::{Fixed, Limit, finish, report};
use osdatahub_auth::TokenManager;
use tokio::{runtime::Builder, task::JoinSet, time::sleep};

const MANAGERS: u32 = 10;
const REFRESHES: u32 = 5;

/// Longest waits of one caller: for a token, and for a call that does nothing.
async fn longest_waits() -> [Duration; 2] {
    let source = Fixed::new(Duration::from_millis(500), Duration::from_secs(4));
    // The default, 75 to 85 % of the lifetime, leaves too little of 4 s for a fetch of 500 ms.
    let tokens = TokenManager::builder(source.clone()).refresh_at(0.5..=0.6).build();
    let tokens = tokens.expect("a valid range");
    tokens.token().await.expect("the first token");
    let mut longest = [Duration::ZERO; 2];
    while source.fetches() <= REFRESHES {
        sleep(Duration::from_millis(1)).await;
        let start = Instant::now();
        tokens.token().await.expect("a token");
        let served = Instant::now();
        std::hint::black_box(std::future::ready(&tokens).await);
        longest[0] = longest[0].max(served - start);
        longest[1] = longest[1].max(served.elapsed());
    }
    longest
}

fn main() -> ExitCode {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let longest = runtime.block_on(async {
        let mut callers: JoinSet<_> = (0..MANAGERS).map(|_| longest_waits()).collect();
        let mut longest = [Duration::ZERO; 2];
        while let Some(waits) = callers.join_next().await {
            let waits = waits.expect("the task does not panic");
            longest = [longest[0].max(waits[0]), longest[1].max(waits[1])];
        }
        longest
    });
    let millis = longest.map(|wait| wait.as_secs_f64() * 1e3);
    println!(
        "# {} refreshes; the longest call that does nothing took {:.3} ms",
        MANAGERS * REFRESHES,
        millis[1]
    );
    report("refresh/longest_wait_ms", millis[0], Limit::AtMost(1.0));
    finish()
}
