//! Metrics of sharing, as a real recorder collects them.

use osdatahub_auth::{FakeDataHub, SharedSource, TokenSource};
use test_support::{MetricsCapture, RedisServer, millis, secs};

use crate::common::{endpoint, fetch_and_publish, source, source_with_request_timeout};

const FETCHES: &str = "os_token_shared_fetches_total";

#[tokio::test]
async fn each_fetch_is_counted_as_adopted_fetched_or_bypassed() {
    let (hub, mut redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    let (metrics, _guard) = MetricsCapture::start();
    let shared = source(&hub, &redis);
    fetch_and_publish(&shared, &redis).await;
    shared.fetch(None).await.unwrap();
    let recorded = metrics.take();
    assert_eq!(recorded.counter(&format!("{FETCHES} outcome=fetched")), 1);
    assert_eq!(recorded.counter(&format!("{FETCHES} outcome=adopted")), 1);
    assert!(
        !recorded.contains("os_token_lease_wait_seconds"),
        "no fetch had to wait"
    );

    redis.pause();
    let hasty = SharedSource::builder(endpoint(&hub), redis.url())
        .time_limit(millis(50))
        .build()
        .unwrap();
    hasty.fetch(None).await.unwrap();
    redis.resume();
    redis.kill();
    shared.fetch(None).await.unwrap();
    let full = RedisServer::start_with(&["--maxmemory", "1", "--maxmemory-policy", "noeviction"]).await;
    source(&hub, &full).fetch(None).await.unwrap();
    let recorded = metrics.take();
    for reason in ["timeout", "unreachable", "refused"] {
        let name = format!("{FETCHES} outcome=bypassed reason={reason}");
        assert_eq!(recorded.counter(&name), 1, "{reason}");
    }
}

#[tokio::test]
async fn the_wait_for_another_process_s_lease_is_timed() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    let (metrics, _guard) = MetricsCapture::start();
    hub.set_delay(secs(1));
    let (first, second) = (source(&hub, &redis), source(&hub, &redis));
    let (first, second) = tokio::join!(first.fetch(None), second.fetch(None));
    assert_eq!(first.unwrap().expose_secret(), second.unwrap().expose_secret());
    let waits = metrics.take().histogram("os_token_lease_wait_seconds");
    assert!(matches!(waits[..], [0.5..5.0]), "{waits:?}");
}

#[tokio::test]
async fn a_lease_that_is_outwaited_is_counted_with_its_reason() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    let (metrics, _guard) = MetricsCapture::start();
    // The endpoint is asked for no longer than 0.3 s, so a process waits for another one for 1.3 s.
    let source = source_with_request_timeout(&hub, &redis, millis(300));
    let (_, entry) = fetch_and_publish(&source, &redis).await;
    let lock = entry.replace(":token", ":lock");
    let () = redis.command(&format!("DEL {entry}")).await;
    let () = redis.command(&format!("SET {lock} another PX 1990")).await;
    source.fetch(None).await.unwrap();
    let name = format!("{FETCHES} outcome=bypassed reason=lease_outwaited");
    assert_eq!(metrics.take().counter(&name), 1);
}
