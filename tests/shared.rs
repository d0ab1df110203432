//! One token for many processes, through real Redis servers of the tests' own. Within one process each manager stands
//! for a node; the processes are in `fleet.rs`.

mod common;
#[path = "common/raw.rs"]
mod raw;
#[path = "common/redis.rs"]
mod redis_server;
#[path = "common/told.rs"]
mod told;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use common::{eventually, millis, secs};
use osdatahub_auth::{
    AccessToken, BearerAuth, ErrorKind, FakeAnswer, FakeDataHub, ProjectCredentials, SharedSource, TokenEndpoint,
    TokenManager, TokenSource,
};
use raw::RawServer;
use redis_server::RedisServer;
use reqwest::Url;
use reqwest_middleware::ClientBuilder;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::sleep,
};
use told::Told;

/// What Redis may add to a fetch by default.
const LIMIT: Duration = millis(250);
/// A slow machine's loopback and tasks, on top of what is promised.
const SLACK: Duration = millis(750);

fn endpoint(hub: &FakeDataHub) -> TokenEndpoint {
    endpoint_for(hub, hub.credentials())
}

fn endpoint_for(hub: &FakeDataHub, credentials: ProjectCredentials) -> TokenEndpoint {
    TokenEndpoint::builder(credentials)
        .token_url(hub.token_url())
        .build()
        .unwrap()
}

/// With time for a slow machine, where what Redis may cost is not the question.
fn source(hub: &FakeDataHub, redis: &RedisServer) -> SharedSource {
    SharedSource::builder(endpoint(hub), redis.url())
        .time_limit(secs(5))
        .build()
        .unwrap()
}

/// A node of the fleet.
fn node(hub: &FakeDataHub, redis: &RedisServer) -> TokenManager {
    TokenManager::builder(source(hub, redis)).build().unwrap()
}

async fn token(tokens: &TokenManager) -> String {
    tokens.token().await.unwrap().expose_secret().to_owned()
}

/// A token with its entry in Redis, and the entry's key.
async fn shared(source: &SharedSource, redis: &RedisServer) -> (AccessToken, String) {
    let token = source.fetch(None).await.unwrap();
    (token, redis.entry().await)
}

async fn lock_is_taken(redis: &RedisServer) -> String {
    eventually("the lock is taken", async || redis.key("lock").await).await
}

async fn lock_is_handed_back(redis: &RedisServer) {
    eventually("the lock is handed back", async || {
        redis.key("lock").await.is_none().then_some(())
    })
    .await;
}

/// A moment after it came, whoever looks gets this token, who has that one or none.
async fn is_shared(token: &AccessToken, source: &SharedSource, instead_of: Option<&AccessToken>) {
    eventually("the token is shared", async || {
        let adopted = source.fetch(instead_of).await.unwrap();
        (adopted.expose_secret() == token.expose_secret()).then_some(())
    })
    .await;
}

async fn raw_entry(redis: &RedisServer, key: &str) -> Option<Vec<u8>> {
    redis.ask(&format!("GET {key}")).await
}

async fn set_raw(redis: &RedisServer, key: &str, entry: &[u8]) {
    let mut command = redis::cmd("SET");
    command.arg(key).arg(entry).arg("PX").arg(60_000);
    let () = command.query_async(&mut redis.connection().await).await.unwrap();
}

#[tokio::test]
async fn fifty_nodes_without_a_token_cost_one_post() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    hub.set_delay(millis(300));
    let nodes: Vec<_> = (0..50)
        .map(|_| {
            let node = node(&hub, &redis);
            tokio::spawn(async move { token(&node).await })
        })
        .collect();
    let mut seen = std::collections::HashSet::new();
    for node in nodes {
        seen.insert(node.await.unwrap());
    }
    assert_eq!((hub.token_posts(), seen.len()), (1, 1));
}

#[tokio::test]
async fn a_token_that_another_node_has_is_adopted_with_what_is_left_of_its_life() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    hub.set_lifetime(secs(100));
    let source = source(&hub, &redis);
    let (first, _) = shared(&source, &redis).await;
    sleep(millis(1_500)).await;
    let adopted = source.fetch(None).await.unwrap();
    assert_eq!(adopted.expose_secret(), first.expose_secret());
    // In this order, as time goes on between the two.
    let (first, adopted) = (first.remaining(), adopted.remaining());
    assert!(adopted <= first, "{adopted:?} {first:?}");
    assert!(adopted + secs(1) > first, "{adopted:?} {first:?}");
    assert_eq!(hub.token_posts(), 1);
}

#[tokio::test]
async fn who_wants_a_token_that_lasts_does_not_have_to_take_an_old_one_from_another_node() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    hub.set_lifetime(secs(60));
    let (_, key) = shared(&source(&hub, &redis), &redis).await;
    let () = redis.ask(&format!("PEXPIRE {key} 20000")).await;
    let new_node = node(&hub, &redis);
    assert!(new_node.token().await.unwrap().remaining() <= secs(20));
    assert_eq!(hub.token_posts(), 1);
    let another = node(&hub, &redis);
    assert!(another.token_lasting(secs(30)).await.unwrap().remaining() >= secs(30));
    assert_eq!(hub.token_posts(), 2);
}

#[tokio::test]
async fn a_stale_token_is_renewed_by_one_node_for_all() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    hub.set_lifetime(secs(4));
    let nodes: Vec<_> = (0..20).map(|_| node(&hub, &redis)).collect();
    let start = Instant::now();
    while start.elapsed() < secs(8) {
        for node in &nodes {
            node.token().await.unwrap();
        }
        sleep(millis(20)).await;
    }
    // At 0 s, and at 3.0 to 3.4 s of each token's life.
    assert!((3..=4).contains(&hub.token_posts()), "{} POSTs", hub.token_posts());
}

#[tokio::test]
async fn the_lock_is_handed_back_and_the_next_fetch_waits_for_nobody() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    let source = source(&hub, &redis);
    hub.fail_next(1, FakeAnswer::new(503, ""));
    source.fetch(None).await.unwrap_err();
    let mut token = None;
    for _ in 0..3 {
        lock_is_handed_back(&redis).await;
        let start = Instant::now();
        token = Some(source.fetch(token.as_ref()).await.unwrap());
        assert!(start.elapsed() < secs(1), "{:?}", start.elapsed());
    }
    assert_eq!(hub.token_posts(), 4, "each replaced the one before");
}

#[tokio::test]
async fn a_fetch_that_is_cancelled_hands_the_lock_back() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    hub.set_delay(secs(4));
    let tokens = node(&hub, &redis);
    let caller = tokio::spawn({
        let tokens = tokens.clone();
        async move { tokens.token().await }
    });
    lock_is_taken(&redis).await;
    caller.abort();
    drop((tokens, caller.await));
    let start = Instant::now();
    lock_is_handed_back(&redis).await;
    assert!(start.elapsed() < secs(2), "it did not just run out");
}

#[tokio::test]
async fn a_lock_that_another_has_by_now_is_left_to_it() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    hub.set_delay(millis(500));
    let source = source(&hub, &redis);
    let fetch = tokio::spawn(async move { source.fetch(None).await });
    let lock = lock_is_taken(&redis).await;
    // It lasts for the attempt's 5 s and one more.
    let left: i64 = redis.ask(&format!("PTTL {lock}")).await;
    assert!((5_000..=6_000).contains(&left), "{left} ms");
    let () = redis.ask(&format!("SET {lock} another")).await;
    fetch.await.unwrap().unwrap();
    redis.entry().await;
    let owner: Option<String> = redis.ask(&format!("GET {lock}")).await;
    assert_eq!(owner.as_deref(), Some("another"));
}

#[tokio::test]
async fn who_waits_longer_than_a_lease_can_last_asks_for_itself() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    let hasty = TokenEndpoint::builder(hub.credentials())
        .token_url(hub.token_url())
        .request_timeout(millis(500))
        .build()
        .unwrap();
    let source = SharedSource::builder(hasty, redis.url())
        .time_limit(secs(5))
        .build()
        .unwrap();
    let (first, _) = shared(&source, &redis).await;
    // Another node's lock that never runs out.
    let lock = redis.entry().await.replace(":token", ":lock");
    let () = redis.ask(&format!("SET {lock} another")).await;
    let start = Instant::now();
    let second = source.fetch(Some(&first)).await.unwrap();
    assert!(start.elapsed() >= millis(2_500), "{:?}", start.elapsed());
    // Every 100 ms or so, not as fast as it could.
    let commands: String = redis.ask("INFO commandstats").await;
    let asked = commands
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_eval:calls="));
    let asked: usize = asked.unwrap().split(',').next().unwrap().parse().unwrap();
    assert!((10..100).contains(&asked), "{asked} questions in 2.5 s");
    assert!(start.elapsed() < secs(5), "{:?}", start.elapsed());
    assert_eq!(hub.token_posts(), 2);
    // And shares what it got.
    is_shared(&second, &source, Some(&first)).await;
}

#[tokio::test]
async fn a_token_that_was_refused_is_handed_out_to_nobody_again() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    // A 401 counts against a token that we have had for two seconds.
    hub.set_lifetime(secs(8));
    let nodes: Vec<_> = (0..5).map(|_| node(&hub, &redis)).collect();
    let mut clients = Vec::new();
    for tokens in &nodes {
        token(tokens).await;
        let auth = BearerAuth::new(tokens.clone()).with_origin(hub.origin()).unwrap();
        let client = hub.client_builder().build().unwrap();
        clients.push(ClientBuilder::new(client).with(auth).build());
    }
    sleep(millis(2_200)).await;
    assert_eq!(hub.token_posts(), 1);
    hub.revoke_all();
    for client in clients {
        let answer = client.get(hub.url("/search/names/v1/find")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    assert_eq!(
        hub.token_posts(),
        2,
        "one node replaced the entry, the others adopted it"
    );
}

#[tokio::test]
async fn a_node_that_has_just_adopted_a_revoked_token_replaces_it_at_once() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    hub.set_lifetime(secs(8));
    let (_, key) = shared(&source(&hub, &redis), &redis).await;
    let revoked = raw_entry(&redis, &key).await;
    sleep(millis(2_200)).await;
    hub.revoke_all();
    // As short-lived functions do: each begins, sends a request, and ends.
    for _ in 0..3 {
        let auth = BearerAuth::new(node(&hub, &redis)).with_origin(hub.origin()).unwrap();
        let client = hub.client_builder().build().unwrap();
        let client = ClientBuilder::new(client).with(auth).build();
        let answer = client.get(hub.url("/search/names/v1/find")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        eventually("the entry is replaced", async || {
            (raw_entry(&redis, &key).await != revoked).then_some(())
        })
        .await;
    }
    assert_eq!(hub.token_posts(), 2);
}

#[tokio::test]
async fn a_token_that_is_older_than_the_one_to_be_replaced_is_not_adopted() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    let source = source(&hub, &redis);
    let (old, key) = shared(&source, &redis).await;
    let old_entry = raw_entry(&redis, &key).await.unwrap();
    sleep(millis(100)).await;
    let newer = source.fetch(Some(&old)).await.unwrap();
    // As if the newer one could never be written.
    set_raw(&redis, &key, &old_entry).await;
    let newest = source.fetch(Some(&newer)).await.unwrap();
    assert_ne!(newest.expose_secret(), old.expose_secret());
    assert_eq!(hub.token_posts(), 3);
}

#[tokio::test]
async fn an_entry_that_has_become_newer_meanwhile_is_not_overwritten() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    let source = Arc::new(source(&hub, &redis));
    let (first, key) = shared(&source, &redis).await;
    hub.set_delay(millis(500));
    let fetch = tokio::spawn({
        let (source, first) = (source.clone(), first.clone());
        async move { source.fetch(Some(&first)).await }
    });
    lock_is_taken(&redis).await;
    set_raw(&redis, &key, b"a newer one").await;
    fetch.await.unwrap().unwrap();
    lock_is_handed_back(&redis).await;
    assert_eq!(raw_entry(&redis, &key).await.as_deref(), Some(&b"a newer one"[..]));
}

#[tokio::test]
async fn an_entry_lives_as_long_as_its_token_by_rediss_clock() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    hub.set_lifetime(secs(60));
    let (token, key) = shared(&source(&hub, &redis), &redis).await;
    let remaining = token.remaining();
    let left: u64 = redis.ask(&format!("PTTL {key}")).await;
    // Sooner rather than later, by the time that the talk took; but PTTL rounds up.
    assert!(millis(left) <= remaining + millis(1), "{left} ms, {remaining:?}");
    assert!(millis(left) + secs(1) > remaining, "{left} ms, {remaining:?}");
}

#[tokio::test]
async fn neither_an_entry_that_lasts_too_long_nor_one_that_ends_sooner_makes_a_life_longer() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    hub.set_lifetime(secs(60));
    let source = source(&hub, &redis);
    let (first, key) = shared(&source, &redis).await;
    let () = redis.ask(&format!("PEXPIRE {key} 600000")).await;
    let adopted = source.fetch(None).await.unwrap();
    assert_eq!(adopted.expose_secret(), first.expose_secret());
    assert!(adopted.remaining() <= secs(60), "{adopted:?}");
    let () = redis.ask(&format!("PEXPIRE {key} 30000")).await;
    let adopted = source.fetch(None).await.unwrap();
    assert_eq!(adopted.expose_secret(), first.expose_secret());
    assert!(adopted.remaining() <= secs(30), "{adopted:?}");
    // Of 60 s the last 2 are kept back.
    let () = redis.ask(&format!("PEXPIRE {key} 1900")).await;
    let other = source.fetch(None).await.unwrap();
    assert_ne!(other.expose_secret(), first.expose_secret());
    assert_eq!(hub.token_posts(), 2);
}

#[tokio::test]
async fn an_old_entry_that_somebody_brings_back_has_expired() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    hub.set_lifetime(secs(1));
    let source = source(&hub, &redis);
    let (_, key) = shared(&source, &redis).await;
    let old = raw_entry(&redis, &key).await.unwrap();
    sleep(secs(1)).await;
    set_raw(&redis, &key, &old).await;
    source.fetch(None).await.unwrap();
    assert_eq!(hub.token_posts(), 2);
}

#[tokio::test]
async fn a_node_that_may_not_read_leaves_the_entry_to_the_others() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    let (_, key) = shared(&source(&hub, &redis), &redis).await;
    let () = redis.ask("ACL SETUSER blind on >password ~* +@all -get").await;
    let blind = redis.url().replace("redis://", "redis://blind:password@");
    every_fetch_is_made_alone(&hub, &blind, secs(5), "Redis answered").await;
    assert!(raw_entry(&redis, &key).await.is_some());
}

#[tokio::test]
async fn whatever_stands_in_place_of_an_entry_costs_one_post_and_is_replaced() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    let source = source(&hub, &redis);
    let (_, key) = shared(&source, &redis).await;
    let good = raw_entry(&redis, &key).await.unwrap();
    let mut changed = good.clone();
    changed[30] ^= 1;
    let (told, _guard) = Told::listen();
    for garbage in [
        &b""[..],
        b"\0",
        b"garbage",
        &good[..good.len() - 1],
        &changed,
        &vec![7; 64 * 1024],
    ] {
        let posts = hub.token_posts();
        set_raw(&redis, &key, garbage).await;
        let token = source.fetch(None).await.unwrap();
        assert_eq!(hub.token_posts(), posts + 1);
        is_shared(&token, &source, None).await;
    }
    // An empty one is as good as none.
    assert_eq!(told.warnings("damaged").len(), 5);
}

#[tokio::test]
async fn what_is_no_entry_at_all_is_removed() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    let source = source(&hub, &redis);
    let (_, key) = shared(&source, &redis).await;
    for garbage in [format!("LPUSH {key} x"), format!("SETRANGE {key} 1000000 x")] {
        let () = redis.ask(&format!("DEL {key}")).await;
        let () = redis.ask(&garbage).await;
        let posts = hub.token_posts();
        source.fetch(None).await.unwrap();
        assert_eq!(redis.key("token").await, None);
        source.fetch(None).await.unwrap();
        assert_eq!(hub.token_posts(), posts + 2);
        redis.entry().await;
    }
    // Without an end it would serve for ever, a token's life at a time.
    let () = redis.ask(&format!("PERSIST {key}")).await;
    let posts = hub.token_posts();
    source.fetch(None).await.unwrap();
    assert_eq!(hub.token_posts(), posts + 1);
}

#[tokio::test]
async fn an_entry_that_was_evicted_costs_one_post() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    let source = source(&hub, &redis);
    let (_, key) = shared(&source, &redis).await;
    let () = redis.ask(&format!("DEL {key}")).await;
    let (second, _) = shared(&source, &redis).await;
    let adopted = source.fetch(None).await.unwrap();
    assert_eq!(adopted.expose_secret(), second.expose_secret());
    assert_eq!(hub.token_posts(), 2);
}

/// Three fetches: each brings a token of its own, with a warning, and Redis adds no more than this.
async fn every_fetch_is_made_alone(hub: &FakeDataHub, redis_url: &str, time_limit: Duration, warning: &str) {
    let (told, _guard) = Told::listen();
    let source = SharedSource::builder(endpoint(hub), redis_url)
        .time_limit(time_limit)
        .build()
        .unwrap();
    let posts = hub.token_posts();
    for fetch in 1..=3 {
        let start = Instant::now();
        source.fetch(None).await.unwrap();
        let took = start.elapsed();
        assert!(took < time_limit + SLACK, "{warning}: {took:?}");
        assert_eq!(hub.token_posts(), posts + fetch, "{warning}");
        assert_eq!(told.warnings(warning).len(), fetch, "{warning}: {told:?}");
    }
}

#[tokio::test]
async fn a_redis_that_is_down_hung_or_no_redis_costs_250_ms_at_most_and_no_error() {
    let hub = FakeDataHub::start().await.unwrap();

    let mut redis = RedisServer::start().await;
    redis.stop();
    every_fetch_is_made_alone(&hub, &redis.url(), LIMIT, "did not answer within the time_limit").await;
    redis.resume();
    redis.kill();
    every_fetch_is_made_alone(
        &hub,
        &redis.url(),
        secs(5),
        "no connection to Redis: Connection refused",
    )
    .await;

    let redis_url = |server: &RawServer| format!("redis://{}", server.address);
    let silent = RawServer::start(|stream, _| async move {
        sleep(secs(60)).await;
        drop(stream);
    })
    .await;
    every_fetch_is_made_alone(&hub, &redis_url(&silent), LIMIT, "did not answer within the time_limit").await;
    let closing = RawServer::saying("").await;
    every_fetch_is_made_alone(&hub, &redis_url(&closing), secs(5), "no connection to Redis").await;
    let other = RawServer::saying(raw::http(200, "", "canary")).await;
    every_fetch_is_made_alone(&hub, &redis_url(&other), secs(5), "Redis").await;
}

#[tokio::test]
async fn a_redis_that_answers_slowly_costs_250_ms_at_most_all_its_answers_together() {
    let hub = FakeDataHub::start().await.unwrap();
    let redis = RedisServer::start().await;
    // Two answers: to the greeting, and to the question.
    let slow = slow_proxy(redis.port(), millis(150)).await;
    every_fetch_is_made_alone(&hub, &slow, LIMIT, "did not answer within the time_limit").await;
    // A lock that it may have granted, when nobody waited for the answer any more, keeps nobody else waiting for 6 s.
    let start = Instant::now();
    lock_is_handed_back(&redis).await;
    assert!(start.elapsed() < secs(3), "{:?}", start.elapsed());
    // With more patience it is of use.
    let source = SharedSource::builder(endpoint(&hub), slow)
        .time_limit(secs(5))
        .build()
        .unwrap();
    let (first, _) = shared(&source, &redis).await;
    let adopted = source.fetch(None).await.unwrap();
    assert_eq!(adopted.expose_secret(), first.expose_secret());
}

#[tokio::test]
async fn waiting_for_another_process_does_not_count_as_slowness() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    hub.set_delay(millis(1_500));
    let first = node(&hub, &redis);
    let first = tokio::spawn(async move { token(&first).await });
    lock_is_taken(&redis).await;
    // Two answers are within the 250 ms, and all those of a second are not.
    let slow = slow_proxy(redis.port(), millis(40)).await;
    let source = SharedSource::builder(endpoint(&hub), slow).build().unwrap();
    let adopted = source.fetch(None).await.unwrap();
    assert_eq!(adopted.expose_secret(), first.await.unwrap());
    assert_eq!(hub.token_posts(), 1);
}

/// Hands on what Redis answers, but each time so much later.
async fn slow_proxy(port: u16, delay: Duration) -> String {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let redis = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let (mut questions, mut to_client) = client.into_split();
                let (mut answers, mut to_redis) = redis.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut questions, &mut to_redis).await });
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = answers.read(&mut buffer).await {
                    sleep(delay).await;
                    if to_client.write_all(&buffer[..read]).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    format!("redis://{address}")
}

#[tokio::test]
async fn a_redis_that_is_full_read_only_or_locked_costs_no_error() {
    let hub = FakeDataHub::start().await.unwrap();

    let full = RedisServer::start_with(&["--maxmemory", "1", "--maxmemory-policy", "noeviction"]).await;
    every_fetch_is_made_alone(&hub, &full.url(), secs(5), "Redis answered OOM").await;

    let read_only = RedisServer::start_with(&["--replicaof", "127.0.0.1 1"]).await;
    every_fetch_is_made_alone(&hub, &read_only.url(), secs(5), "Redis answered READONLY").await;

    let locked = RedisServer::start_with(&["--requirepass", "password"]).await;
    every_fetch_is_made_alone(&hub, &locked.url(), secs(5), "Redis answered NOAUTH").await;
    let wrong = locked.url().replace("redis://", "redis://:canary@");
    every_fetch_is_made_alone(&hub, &wrong, secs(5), "does not accept the user or the password").await;
    let right = locked.url().replace("redis://", "redis://:password@");
    let source = SharedSource::builder(endpoint(&hub), right)
        .time_limit(secs(5))
        .build()
        .unwrap();
    let posts = hub.token_posts();
    let first = source.fetch(None).await.unwrap();
    is_shared(&first, &source, None).await;
    assert!(hub.token_posts() <= posts + 2);
}

#[tokio::test]
async fn nobody_waits_for_a_token_to_be_written_to_redis() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    hub.set_delay(millis(500));
    let tokens = node(&hub, &redis);
    let caller = tokio::spawn({
        let tokens = tokens.clone();
        async move { token(&tokens).await }
    });
    lock_is_taken(&redis).await;
    redis.stop();
    let start = Instant::now();
    caller.await.unwrap();
    assert!(start.elapsed() < secs(1), "{:?}", start.elapsed());
    redis.resume();
}

#[tokio::test]
async fn what_is_written_late_still_expires_in_time() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    hub.set_lifetime(secs(60));
    hub.set_delay(millis(500));
    let source = Arc::new(source(&hub, &redis));
    let fetch = tokio::spawn({
        let source = source.clone();
        async move { source.fetch(None).await }
    });
    lock_is_taken(&redis).await;
    redis.stop();
    let token = fetch.await.unwrap().unwrap();
    sleep(secs(2)).await;
    redis.resume();
    let key = redis.entry().await;
    let remaining = token.remaining();
    let left: u64 = redis.ask(&format!("PTTL {key}")).await;
    assert!(millis(left) <= remaining + millis(1), "{left} ms, {remaining:?}");
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
    let lock = lock_is_taken(&redis).await;
    let owner = raw_entry(&redis, &lock).await.unwrap();
    fetch.await.unwrap().unwrap();
    let key = redis.entry().await;
    let entry = raw_entry(&redis, &key).await.unwrap();
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

#[tokio::test]
async fn two_projects_secrets_endpoints_or_prefixes_never_share() {
    let redis = RedisServer::start().await;
    let [hub, other_hub] = [FakeDataHub::start().await.unwrap(), FakeDataHub::start().await.unwrap()];
    let mut tokens = Vec::new();
    let mut nodes = Vec::new();
    for (hub, key, secret, prefix) in [
        (&hub, "key", "secret", "p"),
        (&hub, "other-key", "secret", "p"),
        (&hub, "key", "other-secret", "p"),
        (&other_hub, "key", "secret", "p"),
        (&hub, "key", "secret", "q"),
    ] {
        for hub in [hub, &other_hub] {
            hub.set_credentials(key, secret);
        }
        let credentials = ProjectCredentials::new(key, secret).unwrap();
        let source = SharedSource::builder(endpoint_for(hub, credentials), redis.url())
            .prefix(prefix)
            .time_limit(secs(5))
            .build()
            .unwrap();
        let first = source.fetch(None).await.unwrap().expose_secret().to_owned();
        assert!(!tokens.contains(&first));
        tokens.push(first);
        nodes.push(source);
    }
    let entries = eventually("all entries are there", async || {
        let keys: Vec<String> = redis.ask("KEYS *:token").await;
        (keys.len() == tokens.len()).then_some(keys)
    });
    entries.await;
    for (node, token) in nodes.iter().zip(&tokens) {
        let again = node.fetch(None).await.unwrap();
        assert_eq!(again.expose_secret(), token, "each finds its own");
    }
}

#[tokio::test]
async fn after_a_rotation_of_the_secret_the_old_entry_is_a_miss() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    hub.set_credentials("key", "old-secret");
    let old = source(&hub, &redis).fetch(None).await.unwrap();
    redis.entry().await;
    hub.set_credentials("key", "new-secret");
    let new = source(&hub, &redis).fetch(None).await.unwrap();
    assert_ne!(new.expose_secret(), old.expose_secret());
    assert_eq!(hub.token_posts(), 2);
}

#[test]
fn a_runtime_that_is_gone_costs_nothing() {
    let lasting = tokio::runtime::Runtime::new().unwrap();
    let (hub, redis) = lasting.block_on(async { (FakeDataHub::start().await.unwrap(), RedisServer::start().await) });
    let source = source(&hub, &redis);
    let mut tokens = std::collections::HashSet::new();
    for _ in 0..3 {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let token = runtime.block_on(async {
            let token = source.fetch(None).await.unwrap();
            redis.entry().await;
            token
        });
        tokens.insert(token.expose_secret().to_owned());
    }
    assert_eq!((hub.token_posts(), tokens.len()), (1, 1));
}

#[tokio::test]
async fn a_failing_endpoint_or_provider_fails_as_it_does_without_redis() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    let source = source(&hub, &redis);
    hub.fail_next(1, FakeAnswer::new(429, "").with_header("Retry-After", "7"));
    let error = source.fetch(None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RateLimited);
    assert_eq!(error.retry_after(), Some(secs(7)));
    let missing = osdatahub_auth::FileCredentials::new("/nowhere/key", "/nowhere/secret");
    let endpoint = TokenEndpoint::builder(missing)
        .token_url(hub.token_url())
        .build()
        .unwrap();
    let source = SharedSource::builder(endpoint, redis.url()).build().unwrap();
    let error = source.fetch(None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
}

#[tokio::test]
async fn debug_shows_neither_the_redis_urls_password_nor_a_secret() {
    let credentials = ProjectCredentials::new("CanaryKey", "CanarySecret").unwrap();
    let token_url: Url = "http://127.0.0.1:1/token".parse().unwrap();
    let endpoint = TokenEndpoint::builder(credentials)
        .token_url(token_url)
        .build()
        .unwrap();
    let builder = SharedSource::builder(endpoint, "redis://canary-user:canary-password@canary.example");
    let builder_shown = format!("{builder:?} {builder:#?}");
    let source = builder.build().unwrap();
    let shown = format!("{builder_shown} {source:?} {source:#?}");
    assert!(!shown.to_lowercase().contains("canary"), "{shown}");
    for expected in ["SharedSource", "prefix", "time_limit: 250ms", "token_url"] {
        assert!(shown.contains(expected), "{expected} in {shown}");
    }
}
