//! Waiting callers, with real connections.

use std::thread;

use osdatahub_auth::{FakeDataHub, TokenEndpoint, TokenManager};
use test_support::{millis, secs};
use tokio::runtime::Builder;
use tokio::time::timeout;

#[test]
fn a_runtime_that_was_blocked_in_mid_refresh_fails_no_later_caller() {
    let servers = Builder::new_multi_thread().enable_all().build().unwrap();
    let hub = servers.block_on(FakeDataHub::start()).unwrap();
    hub.set_lifetime(secs(1));
    hub.set_delay(millis(50));
    let endpoint = TokenEndpoint::builder(hub.credentials())
        .token_url(hub.token_url())
        .request_timeout(millis(500))
        .build()
        .unwrap();
    let tokens = TokenManager::builder(endpoint).build().unwrap();

    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    for _ in 0..3 {
        // The caller gives up while its refresh runs, and then no task of this runtime runs for a while.
        let gave_up = runtime.block_on(async { timeout(millis(20), tokens.token()).await });
        assert!(gave_up.is_err());
        thread::sleep(millis(1_200));
        runtime.block_on(tokens.token()).unwrap();
        // The token expires.
        thread::sleep(millis(1_000));
    }
}
