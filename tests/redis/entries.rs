//! The entry in Redis: when it expires, when it is replaced, and what it shows.

use std::sync::Arc;

use osdatahub_auth::{FakeAnswer, FakeDataHub, TokenSource};
use test_support::{LogCapture, RedisServer, millis, secs};
use tokio::time::sleep;

use crate::common::{
    assert_every_fetch_bypasses_redis, fetch_and_publish, source, store_entry, stored_entry, wait_for_lock,
    wait_for_release, wait_until_published,
};

#[tokio::test]
async fn a_token_that_is_older_than_the_one_to_be_replaced_is_not_adopted() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    let source = source(&hub, &redis);
    let (old, key) = fetch_and_publish(&source, &redis).await;
    let old_entry = stored_entry(&redis, &key).await.unwrap();
    sleep(millis(100)).await;
    let newer = source.fetch(Some(&old)).await.unwrap();
    // As if the newer token had never been published.
    store_entry(&redis, &key, &old_entry).await;
    let newest = source.fetch(Some(&newer)).await.unwrap();
    assert_ne!(newest.expose_secret(), old.expose_secret());
    assert_eq!(hub.token_posts(), 3);
}

#[tokio::test]
async fn a_newer_entry_is_not_overwritten() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    let source = Arc::new(source(&hub, &redis));
    let (first, key) = fetch_and_publish(&source, &redis).await;
    hub.set_delay(millis(500));
    let fetch = tokio::spawn({
        let (source, first) = (source.clone(), first.clone());
        async move { source.fetch(Some(&first)).await }
    });
    wait_for_lock(&redis).await;
    store_entry(&redis, &key, b"a newer one").await;
    fetch.await.unwrap().unwrap();
    wait_for_release(&redis).await;
    assert_eq!(stored_entry(&redis, &key).await.as_deref(), Some(&b"a newer one"[..]));
}

#[tokio::test]
async fn an_entry_expires_with_its_token_by_redis_s_clock() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    hub.set_lifetime(secs(60));
    let (token, key) = fetch_and_publish(&source(&hub, &redis), &redis).await;
    let remaining = token.remaining();
    let ttl: u64 = redis.command(&format!("PTTL {key}")).await;
    // The entry may expire early, by the time that the exchange with Redis took, but not late. PTTL may round up by
    // 1 ms.
    assert!(millis(ttl) <= remaining + millis(1), "{ttl} ms, {remaining:?}");
    assert!(millis(ttl) + secs(1) > remaining, "{ttl} ms, {remaining:?}");
}

#[tokio::test]
async fn no_ttl_makes_a_lifetime_longer() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    hub.set_lifetime(secs(60));
    let source = source(&hub, &redis);
    let (first, key) = fetch_and_publish(&source, &redis).await;
    let () = redis.command(&format!("PEXPIRE {key} 600000")).await;
    let adopted = source.fetch(None).await.unwrap();
    assert_eq!(adopted.expose_secret(), first.expose_secret());
    assert!(adopted.remaining() <= secs(60), "{adopted:?}");
    let () = redis.command(&format!("PEXPIRE {key} 30000")).await;
    let adopted = source.fetch(None).await.unwrap();
    assert_eq!(adopted.expose_secret(), first.expose_secret());
    assert!(adopted.remaining() <= secs(30), "{adopted:?}");
    // The expiry margin of a 60 s token is 2 s.
    let () = redis.command(&format!("PEXPIRE {key} 1900")).await;
    let other = source.fetch(None).await.unwrap();
    assert_ne!(other.expose_secret(), first.expose_secret());
    assert_eq!(hub.token_posts(), 2);
}

#[tokio::test]
async fn a_restored_old_entry_has_expired() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    hub.set_lifetime(secs(1));
    let source = source(&hub, &redis);
    let (_, key) = fetch_and_publish(&source, &redis).await;
    let old = stored_entry(&redis, &key).await.unwrap();
    sleep(secs(1)).await;
    store_entry(&redis, &key, &old).await;
    source.fetch(None).await.unwrap();
    assert_eq!(hub.token_posts(), 2);
}

#[tokio::test]
async fn a_process_that_may_not_read_leaves_the_entry_alone() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    let (_, key) = fetch_and_publish(&source(&hub, &redis), &redis).await;
    let () = redis.command("ACL SETUSER blind on >password ~* +@all -get").await;
    let without_read = redis.url().replace("redis://", "redis://blind:password@");
    assert_every_fetch_bypasses_redis(&hub, &without_read, secs(5), "(NOPERM)").await;
    assert!(stored_entry(&redis, &key).await.is_some());
}

#[tokio::test]
async fn a_damaged_entry_costs_one_post_and_is_replaced() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    let source = source(&hub, &redis);
    let (_, key) = fetch_and_publish(&source, &redis).await;
    let good = stored_entry(&redis, &key).await.unwrap();
    let mut changed = good.clone();
    changed[30] ^= 1;
    let (log, _guard) = LogCapture::start();
    for garbage in [
        &b""[..],
        b"\0",
        b"garbage",
        &good[..good.len() - 1],
        &changed,
        &vec![7; 64 * 1024],
    ] {
        let posts = hub.token_posts();
        store_entry(&redis, &key, garbage).await;
        let token = source.fetch(None).await.unwrap();
        assert_eq!(hub.token_posts(), posts + 1);
        wait_until_published(&token, &source, None).await;
    }
    // An empty entry counts as a cache miss, so it logs no warning.
    assert_eq!(log.warnings("damaged").len(), 5);
}

#[tokio::test]
async fn a_value_that_is_not_an_entry_is_removed() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    let source = source(&hub, &redis);
    let (_, key) = fetch_and_publish(&source, &redis).await;
    for garbage in [format!("LPUSH {key} x"), format!("SETRANGE {key} 1000000 x")] {
        let () = redis.command(&format!("DEL {key}")).await;
        let () = redis.command(&garbage).await;
        let posts = hub.token_posts();
        source.fetch(None).await.unwrap();
        assert_eq!(redis.key("token").await, None);
        source.fetch(None).await.unwrap();
        assert_eq!(hub.token_posts(), posts + 2);
        redis.entry_key().await;
    }
    // An entry without a TTL is not adopted: it would stay in Redis for ever.
    let () = redis.command(&format!("PERSIST {key}")).await;
    let posts = hub.token_posts();
    source.fetch(None).await.unwrap();
    assert_eq!(hub.token_posts(), posts + 1);
}

#[tokio::test]
async fn an_evicted_entry_costs_one_post() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    let source = source(&hub, &redis);
    let (_, key) = fetch_and_publish(&source, &redis).await;
    let () = redis.command(&format!("DEL {key}")).await;
    let (second, _) = fetch_and_publish(&source, &redis).await;
    let adopted = source.fetch(None).await.unwrap();
    assert_eq!(adopted.expose_secret(), second.expose_secret());
    assert_eq!(hub.token_posts(), 2);
}

#[tokio::test]
async fn an_entry_that_is_written_late_still_expires_in_time() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    hub.set_lifetime(secs(60));
    hub.set_delay(millis(500));
    let source = Arc::new(source(&hub, &redis));
    let fetch = tokio::spawn({
        let source = source.clone();
        async move { source.fetch(None).await }
    });
    wait_for_lock(&redis).await;
    redis.pause();
    let token = fetch.await.unwrap().unwrap();
    sleep(secs(2)).await;
    redis.resume();
    let key = redis.entry_key().await;
    let remaining = token.remaining();
    let ttl: u64 = redis.command(&format!("PTTL {key}")).await;
    assert!(millis(ttl) <= remaining + millis(1), "{ttl} ms, {remaining:?}");
}

#[tokio::test]
async fn a_reader_of_redis_learns_neither_token_nor_project() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    hub.set_credentials("CanaryKey0123456789", "CanarySecret456");
    hub.fail_next(
        1,
        FakeAnswer::new(200, r#"{"access_token":"CanaryToken789","expires_in":"299"}"#),
    );
    hub.set_delay(millis(300));
    let source = Arc::new(source(&hub, &redis));
    let fetch = tokio::spawn({
        let source = source.clone();
        async move { source.fetch(None).await }
    });
    let lock = wait_for_lock(&redis).await;
    let owner = stored_entry(&redis, &lock).await.unwrap();
    fetch.await.unwrap().unwrap();
    let key = redis.entry_key().await;
    let entry = stored_entry(&redis, &key).await.unwrap();
    let stored = format!(
        "{lock} {} {key} {}",
        String::from_utf8_lossy(&owner),
        String::from_utf8_lossy(&entry)
    );
    assert!(key.starts_with("osdatahub-auth:"), "{key}");
    for secret in ["Canary", "token/v1", &hub.token_url().port().unwrap().to_string()] {
        assert!(!stored.contains(secret), "{secret} in {stored}");
    }
}
