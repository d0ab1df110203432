//! `SharedSource`: one token for many processes. Each test has a separate, real Redis server, and each manager stands
//! for a node. `fleet.rs` has real processes.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use osdatahub_auth::{
    AccessToken, BearerAuth, ErrorKind, FakeAnswer, FakeDataHub, ProjectCredentials, SharedSource, TokenEndpoint,
    TokenManager, TokenSource,
};
use reqwest::Url;
use reqwest_middleware::ClientBuilder;
use test_support::{LogCapture, RawServer, RedisServer, eventually, http_response, millis, secs};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};

/// The default `time_limit`: the longest delay that Redis may add to a fetch.
const LIMIT: Duration = millis(250);
/// Extra time for a slow machine, on top of the promised limit.
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

/// Source with a generous `time_limit`, for tests that are not about the delay that Redis causes.
fn source(hub: &FakeDataHub, redis: &RedisServer) -> SharedSource {
    SharedSource::builder(endpoint(hub), redis.url())
        .time_limit(secs(5))
        .build()
        .unwrap()
}

/// The manager of one node.
fn node(hub: &FakeDataHub, redis: &RedisServer) -> TokenManager {
    TokenManager::builder(source(hub, redis)).build().unwrap()
}

async fn token(tokens: &TokenManager) -> String {
    tokens.token().await.unwrap().expose_secret().to_owned()
}

/// Fetches a token and waits until it is published. Returns it with the key of its entry.
async fn fetch_and_publish(source: &SharedSource, redis: &RedisServer) -> (AccessToken, String) {
    let token = source.fetch(None).await.unwrap();
    (token, redis.entry_key().await)
}

async fn wait_for_lock(redis: &RedisServer) -> String {
    eventually("the lock is taken", async || redis.key("lock").await).await
}

async fn wait_for_release(redis: &RedisServer) {
    eventually("the lock is released", async || {
        redis.key("lock").await.is_none().then_some(())
    })
    .await;
}

/// Waits until a fetch that replaces `replaced` adopts this token. It is published a moment after its own fetch.
async fn wait_until_published(token: &AccessToken, source: &SharedSource, replaced: Option<&AccessToken>) {
    eventually("the token is shared", async || {
        let adopted = source.fetch(replaced).await.unwrap();
        (adopted.expose_secret() == token.expose_secret()).then_some(())
    })
    .await;
}

async fn stored_entry(redis: &RedisServer, key: &str) -> Option<Vec<u8>> {
    redis.command(&format!("GET {key}")).await
}

async fn store_entry(redis: &RedisServer, key: &str, entry: &[u8]) {
    let mut command = redis::cmd("SET");
    command.arg(key).arg(entry).arg("PX").arg(60_000);
    let () = command.query_async(&mut redis.connection().await).await.unwrap();
}

/// The tokens that four nodes without one get.
async fn tokens_of_four_nodes(hub: &FakeDataHub, redis: &RedisServer) -> HashSet<String> {
    let mut nodes = JoinSet::new();
    for _ in 0..4 {
        let node = node(hub, redis);
        nodes.spawn(async move { token(&node).await });
    }
    nodes.join_all().await.into_iter().collect()
}

/// What a proxy in front of Redis does to one request and its reply.
enum Exchange {
    PassOn,
    Delay(Duration),
    /// The connection stays open, and nothing comes.
    LoseRequest,
    /// The connection is closed once Redis has replied.
    LoseReply,
    /// Redis's clock is a minute slow, by the first number of the reply to a lookup.
    SlowClock,
}

/// Proxy in front of Redis. Returns its URL.
async fn proxy(port: u16, exchange: impl Fn(&[u8]) -> Exchange + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let exchange = Arc::new(exchange);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let exchange = exchange.clone();
            tokio::spawn(async move {
                let mut redis = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let (mut request, mut reply) = ([0; 8 * 1024], [0; 8 * 1024]);
                while let Ok(read @ 1..) = client.read(&mut request).await {
                    let exchange = exchange(&request[..read]);
                    if matches!(exchange, Exchange::LoseRequest) {
                        sleep(secs(60)).await;
                    }
                    redis.write_all(&request[..read]).await.unwrap();
                    let read = redis.read(&mut reply).await.unwrap();
                    let mut reply = reply[..read].to_vec();
                    match exchange {
                        Exchange::PassOn | Exchange::LoseRequest => {}
                        Exchange::Delay(delay) => sleep(delay).await,
                        Exchange::LoseReply => return,
                        Exchange::SlowClock => reply = with_slow_clock(reply),
                    }
                    if client.write_all(&reply).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    format!("redis://{address}")
}

fn with_slow_clock(reply: Vec<u8>) -> Vec<u8> {
    let Some(rest) = reply.strip_prefix(b"*4\r\n:") else {
        return reply;
    };
    let (digits, rest) = rest.split_at(13);
    let now: u64 = str::from_utf8(digits).unwrap().parse().unwrap();
    [format!("*4\r\n:{}", now - 60_000).as_bytes(), rest].concat()
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
    let mut seen = HashSet::new();
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
    let (first, _) = fetch_and_publish(&source, &redis).await;
    sleep(millis(1_500)).await;
    let adopted = source.fetch(None).await.unwrap();
    assert_eq!(adopted.expose_secret(), first.expose_secret());
    // Read in this order, because time passes between the two calls.
    let (first, adopted) = (first.remaining(), adopted.remaining());
    assert!(adopted <= first, "{adopted:?} {first:?}");
    assert!(adopted + secs(1) > first, "{adopted:?} {first:?}");
    assert_eq!(hub.token_posts(), 1);
}

#[tokio::test]
async fn who_wants_a_token_that_lasts_does_not_have_to_take_an_old_one_from_another_node() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    hub.set_lifetime(secs(60));
    let (_, key) = fetch_and_publish(&source(&hub, &redis), &redis).await;
    let () = redis.command(&format!("PEXPIRE {key} 20000")).await;
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
    // One POST at 0 s, then one between 3.0 and 3.4 s of each token's lifetime.
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
        wait_for_release(&redis).await;
        let start = Instant::now();
        token = Some(source.fetch(token.as_ref()).await.unwrap());
        assert!(start.elapsed() < secs(1), "{:?}", start.elapsed());
    }
    assert_eq!(
        hub.token_posts(),
        4,
        "one POST failed, then each fetch should replace the token of the last"
    );
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
    wait_for_lock(&redis).await;
    caller.abort();
    drop((tokens, caller.await));
    let start = Instant::now();
    wait_for_release(&redis).await;
    assert!(
        start.elapsed() < secs(2),
        "the lock should be released, not just expire"
    );
}

#[tokio::test]
async fn a_lock_that_another_has_by_now_is_left_to_it() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    hub.set_delay(millis(500));
    let source = source(&hub, &redis);
    let fetch = tokio::spawn(async move { source.fetch(None).await });
    let lock = wait_for_lock(&redis).await;
    let ttl: i64 = redis.command(&format!("PTTL {lock}")).await;
    assert!((1_000..=2_000).contains(&ttl), "{ttl} ms");
    let () = redis.command(&format!("SET {lock} another")).await;
    fetch.await.unwrap().unwrap();
    redis.entry_key().await;
    let owner: Option<String> = redis.command(&format!("GET {lock}")).await;
    assert_eq!(owner.as_deref(), Some("another"));
}

#[tokio::test]
async fn who_waits_longer_than_a_lease_can_last_asks_for_itself() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    let endpoint = TokenEndpoint::builder(hub.credentials())
        .token_url(hub.token_url())
        .request_timeout(millis(500))
        .build()
        .unwrap();
    let source = SharedSource::builder(endpoint, redis.url())
        .time_limit(secs(5))
        .build()
        .unwrap();
    let (first, _) = fetch_and_publish(&source, &redis).await;
    // Another node, whose fetch goes on for ever.
    let lock = redis.entry_key().await.replace(":token", ":lock");
    let () = redis.command(&format!("SET {lock} another PX 2000")).await;
    let mut other_node = JoinSet::new();
    let mut connection = redis.connection().await;
    let renewed = lock.clone();
    other_node.spawn(async move {
        loop {
            let mut renewal = redis::cmd("SET");
            renewal.arg(&renewed).arg("another").arg("PX").arg(2_000);
            let () = renewal.query_async(&mut connection).await.unwrap();
            sleep(millis(200)).await;
        }
    });
    let start = Instant::now();
    let second = source.fetch(Some(&first)).await.unwrap();
    assert!(start.elapsed() >= millis(1_500), "{:?}", start.elapsed());
    // It polls about every 100 ms, not in a busy loop.
    let commands: String = redis.command("INFO commandstats").await;
    let polls = commands
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_eval:calls="));
    let polls: usize = polls.unwrap().split(',').next().unwrap().parse().unwrap();
    assert!((8..60).contains(&polls), "{polls} polls in 1.5 s");
    assert!(start.elapsed() < secs(3), "{:?}", start.elapsed());
    assert_eq!(hub.token_posts(), 2);
    drop(other_node);
    // It also publishes its token.
    wait_until_published(&second, &source, Some(&first)).await;
}

#[tokio::test]
async fn a_fetch_that_takes_longer_than_its_lease_is_still_the_only_one() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    hub.set_delay(millis(4_500));
    let start = Instant::now();
    let tokens = tokens_of_four_nodes(&hub, &redis).await;
    assert_eq!((hub.token_posts(), tokens.len()), (1, 1));
    assert!(start.elapsed() < secs(6), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_lock_whose_owner_died_holds_up_the_others_for_two_seconds() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    hub.set_delay(secs(4));
    let source = source(&hub, &redis);
    let (_, entry) = fetch_and_publish(&source, &redis).await;
    let lock = entry.replace(":token", ":lock");
    let () = redis.command(&format!("DEL {entry}")).await;
    let () = redis.command(&format!("SET {lock} dead PX 2000")).await;
    // The default acquire_timeout is enough for that, and for a slow answer.
    let start = Instant::now();
    tokens_of_four_nodes(&hub, &redis).await;
    assert!(start.elapsed() < millis(6_800), "{:?}", start.elapsed());
    assert_eq!(hub.token_posts(), 2);
}

#[tokio::test]
async fn a_lock_without_an_owner_holds_up_nobody() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    let source = source(&hub, &redis);
    let (_, entry) = fetch_and_publish(&source, &redis).await;
    let lock = entry.replace(":token", ":lock");
    for command in [
        format!("SET {lock} x"),
        format!("SET {lock} x PX 605000"),
        format!("LPUSH {lock} x"),
    ] {
        let () = redis.command(&format!("DEL {entry}")).await;
        let () = redis.command(&command).await;
        let posts = hub.token_posts();
        let start = Instant::now();
        let token = source.fetch(None).await.unwrap();
        assert!(start.elapsed() < secs(1), "{command}: {:?}", start.elapsed());
        wait_until_published(&token, &source, None).await;
        wait_for_release(&redis).await;
        assert_eq!(hub.token_posts(), posts + 1, "{command}");
    }
}

#[tokio::test]
async fn a_token_that_expired_is_not_revived_by_a_clock_that_jumps_back() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    hub.set_lifetime(secs(3));
    let (expired, key) = fetch_and_publish(&source(&hub, &redis), &redis).await;
    // A replica whose clock is a minute slow is promoted: by its clock, the entry expires a minute later.
    let () = redis.command(&format!("PEXPIRE {key} 62000")).await;
    let promoted = proxy(redis.port(), |_| Exchange::SlowClock).await;
    sleep(secs(3)).await;
    let (log, _guard) = LogCapture::start();
    let late = SharedSource::builder(endpoint(&hub), promoted)
        .time_limit(secs(5))
        .build()
        .unwrap();
    let token = late.fetch(None).await.unwrap();
    assert_ne!(token.expose_secret(), expired.expose_secret());
    assert_eq!(hub.token_posts(), 2);
    assert_eq!(log.warnings("clock has jumped back").len(), 1, "{log:?}");
}

#[tokio::test]
async fn a_server_that_sends_without_end_is_cut_off() {
    let hub = FakeDataHub::start().await.unwrap();
    let sending = Arc::new(AtomicUsize::new(0));
    let endless = RawServer::start({
        let sending = sending.clone();
        move |mut stream, _| {
            let sending = sending.clone();
            async move {
                sending.fetch_add(1, Ordering::Relaxed);
                let _ = stream.write_all(b"+").await;
                while stream.write_all(&[b'x'; 16 * 1024]).await.is_ok() {}
                sending.fetch_sub(1, Ordering::Relaxed);
            }
        }
    });
    let url = format!("redis://{}", endless.await.address);
    assert_every_fetch_bypasses_redis(&hub, &url, LIMIT, "did not answer within the time_limit").await;
    // The lookups have been cut off, and the tries to hand back a lock soon will be.
    sleep(2 * LIMIT + SLACK).await;
    assert_eq!(sending.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_server_that_always_has_another_useless_entry_gets_three_questions() {
    let hub = FakeDataHub::start().await.unwrap();
    let questions = Arc::new(AtomicUsize::new(0));
    let useless = RawServer::start({
        let questions = questions.clone();
        move |mut stream, _| {
            let questions = questions.clone();
            async move {
                let mut buffer = [0; 8 * 1024];
                loop {
                    let entry = questions.fetch_add(1, Ordering::Relaxed);
                    let reply = format!("*4\r\n:1700000000000\r\n:0\r\n$4\r\n{entry:04}\r\n:1000\r\n");
                    if stream.write_all(reply.as_bytes()).await.is_err() || stream.read(&mut buffer).await.is_err() {
                        break;
                    }
                }
            }
        }
    });
    let url = format!("redis://{}", useless.await.address);
    let (log, _guard) = LogCapture::start();
    let source = SharedSource::builder(endpoint(&hub), url).build().unwrap();
    source.fetch(None).await.unwrap();
    assert_eq!(hub.token_posts(), 1);
    let warnings = log.warnings("");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("one entry after another"), "{warnings:?}");
    assert!(questions.load(Ordering::Relaxed) <= 5, "{questions:?}");
}

#[tokio::test]
async fn one_lost_message_holds_up_nobody() {
    for (text, lost) in [
        ("takes the lock", (|| Exchange::LoseReply) as fn() -> Exchange),
        ("releases the lock", || Exchange::LoseReply),
        ("releases the lock", || Exchange::LoseRequest),
    ] {
        let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
        hub.set_delay(millis(100));
        let done = AtomicBool::new(false);
        let unlucky = proxy(redis.port(), move |request| {
            let matches = request.windows(text.len()).any(|window| window == text.as_bytes());
            if matches && !done.swap(true, Ordering::Relaxed) {
                lost()
            } else {
                Exchange::PassOn
            }
        })
        .await;
        let unlucky = SharedSource::builder(endpoint(&hub), unlucky).build().unwrap();
        let unlucky = TokenManager::builder(unlucky).build().unwrap();
        let first = tokio::spawn(async move { token(&unlucky).await });
        wait_for_lock(&redis).await;
        let start = Instant::now();
        let tokens = tokens_of_four_nodes(&hub, &redis).await;
        assert!(start.elapsed() < secs(1), "{text} {:?}", start.elapsed());
        assert_eq!(tokens, HashSet::from([first.await.unwrap()]), "{text}");
        assert_eq!(hub.token_posts(), 1, "{text}");
    }
}

#[tokio::test]
async fn the_documented_commands_are_those_that_are_sent() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    let source = source(&hub, &redis);
    hub.set_delay(secs(1));
    fetch_and_publish(&source, &redis).await;
    wait_for_release(&redis).await;
    let stats: String = redis.command("INFO commandstats").await;
    let sent: HashSet<_> = stats
        .lines()
        .filter_map(|line| line.strip_prefix("cmdstat_")?.split(':').next())
        // These are the test's own.
        .filter(|command| !["keys", "info", "client|setinfo"].contains(command))
        .collect();
    assert_eq!(sent, HashSet::from(["eval", "get", "set", "del", "pttl", "time"]));

    // Without this connection's own CLIENT SETINFO, which the crate redis sends by default.
    let () = redis.command("CONFIG RESETSTAT").await;
    let acl = "ACL SETUSER app on >password ~osdatahub-auth:* +eval +get +set +del +pttl +time";
    let () = redis.command(acl).await;
    let url = redis.url().replace("redis://", "redis://app:password@");
    let (log, _guard) = LogCapture::start();
    let limited = SharedSource::builder(endpoint(&hub), url).build().unwrap();
    limited.fetch(None).await.unwrap();
    assert_eq!(log.warnings(""), [""; 0]);
}

#[tokio::test]
async fn a_token_that_was_refused_is_handed_out_to_nobody_again() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    // A 401 replaces a token that has been held for 2 s.
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
        let response = client.get(hub.url("/search/names/v1/find")).send().await.unwrap();
        assert_eq!(response.status(), 200);
    }
    assert_eq!(
        hub.token_posts(),
        2,
        "one node should replace the entry, and the others should adopt it"
    );
}

#[tokio::test]
async fn a_node_that_has_just_adopted_a_revoked_token_replaces_it_at_once() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    hub.set_lifetime(secs(8));
    let (_, key) = fetch_and_publish(&source(&hub, &redis), &redis).await;
    let revoked = stored_entry(&redis, &key).await;
    sleep(millis(2_200)).await;
    hub.revoke_all();
    // Short-lived functions do this: each starts, sends one request, and ends.
    for _ in 0..3 {
        let auth = BearerAuth::new(node(&hub, &redis)).with_origin(hub.origin()).unwrap();
        let client = hub.client_builder().build().unwrap();
        let client = ClientBuilder::new(client).with(auth).build();
        let response = client.get(hub.url("/search/names/v1/find")).send().await.unwrap();
        assert_eq!(response.status(), 200);
        eventually("the entry is replaced", async || {
            (stored_entry(&redis, &key).await != revoked).then_some(())
        })
        .await;
    }
    assert_eq!(hub.token_posts(), 2);
}

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
async fn an_entry_that_has_become_newer_meanwhile_is_not_overwritten() {
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
async fn an_entry_lives_as_long_as_its_token_by_rediss_clock() {
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
async fn neither_an_entry_that_lasts_too_long_nor_one_that_ends_sooner_makes_a_life_longer() {
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
async fn an_old_entry_that_somebody_brings_back_has_expired() {
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
async fn a_node_that_may_not_read_leaves_the_entry_to_the_others() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    let (_, key) = fetch_and_publish(&source(&hub, &redis), &redis).await;
    let () = redis.command("ACL SETUSER blind on >password ~* +@all -get").await;
    let without_read = redis.url().replace("redis://", "redis://blind:password@");
    assert_every_fetch_bypasses_redis(&hub, &without_read, secs(5), "Redis answered").await;
    assert!(stored_entry(&redis, &key).await.is_some());
}

#[tokio::test]
async fn whatever_stands_in_place_of_an_entry_costs_one_post_and_is_replaced() {
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
async fn what_is_no_entry_at_all_is_removed() {
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
async fn an_entry_that_was_evicted_costs_one_post() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    let source = source(&hub, &redis);
    let (_, key) = fetch_and_publish(&source, &redis).await;
    let () = redis.command(&format!("DEL {key}")).await;
    let (second, _) = fetch_and_publish(&source, &redis).await;
    let adopted = source.fetch(None).await.unwrap();
    assert_eq!(adopted.expose_secret(), second.expose_secret());
    assert_eq!(hub.token_posts(), 2);
}

/// Asserts that each of three fetches bypasses Redis: it sends a separate POST, logs this warning, and is delayed by
/// no more than the limit.
async fn assert_every_fetch_bypasses_redis(hub: &FakeDataHub, redis_url: &str, time_limit: Duration, warning: &str) {
    let (log, _guard) = LogCapture::start();
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
        assert_eq!(log.warnings(warning).len(), fetch, "{warning}: {log:?}");
    }
}

#[tokio::test]
async fn a_redis_that_is_down_hung_or_no_redis_costs_250_ms_at_most_and_no_error() {
    let hub = FakeDataHub::start().await.unwrap();

    let mut redis = RedisServer::start().await;
    redis.pause();
    assert_every_fetch_bypasses_redis(&hub, &redis.url(), LIMIT, "did not answer within the time_limit").await;
    redis.resume();
    redis.kill();
    assert_every_fetch_bypasses_redis(
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
    assert_every_fetch_bypasses_redis(&hub, &redis_url(&silent), LIMIT, "did not answer within the time_limit").await;
    let closing = RawServer::responding("").await;
    assert_every_fetch_bypasses_redis(&hub, &redis_url(&closing), secs(5), "no connection to Redis").await;
    let other = RawServer::responding(http_response(200, "", "canary")).await;
    assert_every_fetch_bypasses_redis(&hub, &redis_url(&other), secs(5), "Redis").await;
}

#[tokio::test]
async fn a_redis_that_answers_slowly_costs_250_ms_at_most_all_its_answers_together() {
    let hub = FakeDataHub::start().await.unwrap();
    let redis = RedisServer::start().await;
    let slow = proxy(redis.port(), |_| Exchange::Delay(millis(300))).await;
    assert_every_fetch_bypasses_redis(&hub, &slow, LIMIT, "did not answer within the time_limit").await;
    // Redis may have granted the lock after the fetch gave up. Other nodes should not have to wait until the lease
    // ends.
    let start = Instant::now();
    wait_for_release(&redis).await;
    assert!(start.elapsed() < millis(1_500), "{:?}", start.elapsed());
    // With a longer limit, a slow Redis is still of use.
    let source = SharedSource::builder(endpoint(&hub), slow)
        .time_limit(secs(5))
        .build()
        .unwrap();
    let (first, _) = fetch_and_publish(&source, &redis).await;
    let adopted = source.fetch(None).await.unwrap();
    assert_eq!(adopted.expose_secret(), first.expose_secret());
}

#[tokio::test]
async fn waiting_for_another_process_does_not_count_as_slowness() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    hub.set_delay(millis(1_500));
    let first = node(&hub, &redis);
    let first = tokio::spawn(async move { token(&first).await });
    wait_for_lock(&redis).await;
    // One response fits into the 250 ms, but the responses to a whole second of polls do not.
    let slow = proxy(redis.port(), |_| Exchange::Delay(millis(40))).await;
    let source = SharedSource::builder(endpoint(&hub), slow).build().unwrap();
    let adopted = source.fetch(None).await.unwrap();
    assert_eq!(adopted.expose_secret(), first.await.unwrap());
    assert_eq!(hub.token_posts(), 1);
}

#[tokio::test]
async fn a_redis_that_is_full_read_only_or_locked_costs_no_error() {
    let hub = FakeDataHub::start().await.unwrap();

    let full = RedisServer::start_with(&["--maxmemory", "1", "--maxmemory-policy", "noeviction"]).await;
    assert_every_fetch_bypasses_redis(&hub, &full.url(), secs(5), "Redis answered OOM").await;

    let read_only = RedisServer::start_with(&["--replicaof", "127.0.0.1 1"]).await;
    assert_every_fetch_bypasses_redis(&hub, &read_only.url(), secs(5), "Redis answered READONLY").await;

    let locked = RedisServer::start_with(&["--requirepass", "password"]).await;
    assert_every_fetch_bypasses_redis(&hub, &locked.url(), secs(5), "Redis answered NOAUTH").await;
    let wrong = locked.url().replace("redis://", "redis://:canary@");
    assert_every_fetch_bypasses_redis(&hub, &wrong, secs(5), "does not accept the user or the password").await;
    let right = locked.url().replace("redis://", "redis://:password@");
    let source = SharedSource::builder(endpoint(&hub), right)
        .time_limit(secs(5))
        .build()
        .unwrap();
    let posts = hub.token_posts();
    let first = source.fetch(None).await.unwrap();
    wait_until_published(&first, &source, None).await;
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
    wait_for_lock(&redis).await;
    redis.pause();
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
    let entries = eventually("all entries exist", async || {
        let keys: Vec<String> = redis.command("KEYS *:token").await;
        (keys.len() == tokens.len()).then_some(keys)
    });
    entries.await;
    for (node, token) in nodes.iter().zip(&tokens) {
        let again = node.fetch(None).await.unwrap();
        assert_eq!(again.expose_secret(), token, "each source should find its own entry");
    }
}

#[tokio::test]
async fn after_a_rotation_of_the_secret_the_old_entry_is_a_miss() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    hub.set_credentials("key", "old-secret");
    let old = source(&hub, &redis).fetch(None).await.unwrap();
    redis.entry_key().await;
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
    let mut tokens = HashSet::new();
    for _ in 0..3 {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let token = runtime.block_on(async {
            let token = source.fetch(None).await.unwrap();
            redis.entry_key().await;
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
