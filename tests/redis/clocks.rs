//! Clocks: of Redis, of its replicas, and of the processes.

use std::time::Instant;

use osdatahub_auth::{FakeDataHub, TokenSource};
use test_support::{LogCapture, Program, RedisServer, eventually, secs};
use tokio::time::sleep;

use crate::common::{Exchange, fetch_and_publish, only_warning, proxy, source, source_at, wait_until_published};

#[tokio::test]
async fn a_clock_that_jumps_back_does_not_revive_an_expired_token() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    hub.set_lifetime(secs(3));
    let (expired, key) = fetch_and_publish(&source(&hub, &redis), &redis).await;
    // A replica whose clock is a minute slow is promoted: by its clock, the entry expires a minute later.
    let () = redis.command(&format!("PEXPIRE {key} 62000")).await;
    let promoted = proxy(redis.port(), |_| Exchange::SlowClock).await;
    sleep(secs(3)).await;
    let (log, _guard) = LogCapture::start();
    let token = source_at(&hub, promoted).fetch(None).await.unwrap();
    assert_ne!(token.expose_secret(), expired.expose_secret());
    assert_eq!(hub.token_posts(), 2);
    let warning = only_warning(&log).await;
    assert!(warning.contains("clock has jumped back"), "{warning}");
}

#[tokio::test]
async fn a_promoted_replica_whose_clock_is_slow_revives_no_expired_token() {
    if !Program::Valkey.is_installed() {
        return;
    }
    let hub = FakeDataHub::start().await.unwrap();
    hub.set_lifetime(secs(6));
    let mut primary = RedisServer::start_program(Program::Valkey).await;
    let follows = ["--replicaof", &format!("127.0.0.1 {}", primary.port())];
    let replica = RedisServer::start_with_slow_clock(secs(60), &follows).await;
    let first = source(&hub, &primary).fetch(None).await.unwrap();
    let start = Instant::now();
    eventually("the replica has the entry", async || replica.key("token").await).await;
    primary.kill();
    let () = replica.command("REPLICAOF NO ONE").await;
    // The jump is above the token's age from here on. By the replica's clock the token has a minute left.
    sleep(secs(6).saturating_sub(start.elapsed())).await;
    let (log, _guard) = LogCapture::start();
    let next = source(&hub, &replica).fetch(None).await.unwrap();
    assert_ne!(next.expose_secret(), first.expose_secret());
    wait_until_published(&next, &source(&hub, &replica), None).await;
    assert_eq!(hub.token_posts(), 2);
    let warning = only_warning(&log).await;
    assert!(warning.contains("clock has jumped back"), "{warning}");
}
