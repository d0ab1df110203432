//! Does anybody notice a refresh?
//!
//! Ten managers with tokens of 4 s, and an endpoint that takes 500 ms, go through five refreshes each. A caller of each
//! asks every millisecond; the longest that any of them had to wait for `token()` is the figure. It includes whatever
//! the machine does to a thread in the middle of a call; beside it, for comparison, is the longest that a call took which
//! does nothing.

mod common;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use common::{Fixed, Limit, finish, report};
use osdatahub_auth::TokenManager;
use tokio::{runtime::Builder, task::JoinSet, time::sleep};

const MANAGERS: u32 = 10;
const REFRESHES: u32 = 5;

/// The longest waits of one caller: for a token, and for nothing.
async fn longest_waits() -> [Duration; 2] {
    let source = Fixed::new(Duration::from_millis(500), Duration::from_secs(4));
    // A short life leaves no room for 500 ms after 75 to 85 % of it, as 299 s do.
    let tokens = TokenManager::builder(source.clone()).refresh_at(0.5..=0.6).build();
    let tokens = tokens.expect("a range within the bounds");
    tokens.token().await.expect("the first token, which is waited for");
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
            let waits = waits.expect("no panic");
            longest = [longest[0].max(waits[0]), longest[1].max(waits[1])];
        }
        longest
    });
    let millis = longest.map(|wait| wait.as_secs_f64() * 1e3);
    println!(
        "# {} refreshes; the longest wait for nothing was {:.3} ms",
        MANAGERS * REFRESHES,
        millis[1]
    );
    report("refresh/longest_wait_ms", millis[0], Limit::AtMost(1.0));
    finish()
}
