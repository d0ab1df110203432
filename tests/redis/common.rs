//! What several topics need: nodes with a source each, and a proxy that disturbs.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use osdatahub_auth::{
    AccessToken, FakeDataHub, ProjectCredentials, SharedSource, TokenEndpoint, TokenManager, TokenSource,
};
use redis::AsyncConnectionConfig;
use test_support::{LogCapture, RedisServer, eventually, millis, secs};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};

/// The default `time_limit`: the longest delay that Redis may add to a fetch.
pub(crate) const LIMIT: Duration = millis(250);

/// Extra time for a slow machine, on top of the promised limit.
pub(crate) const SLACK: Duration = millis(750);

pub(crate) fn endpoint(hub: &FakeDataHub) -> TokenEndpoint {
    endpoint_for(hub, hub.credentials())
}

pub(crate) fn endpoint_for(hub: &FakeDataHub, credentials: ProjectCredentials) -> TokenEndpoint {
    TokenEndpoint::builder(credentials)
        .token_url(hub.token_url())
        .build()
        .unwrap()
}

/// Source with a generous `time_limit`, for tests that are not about the delay that Redis causes.
pub(crate) fn source(hub: &FakeDataHub, redis: &RedisServer) -> SharedSource {
    source_at(hub, redis.url())
}

/// The same, with another `request_timeout` of the endpoint.
pub(crate) fn source_with_request_timeout(hub: &FakeDataHub, redis: &RedisServer, limit: Duration) -> SharedSource {
    let endpoint = TokenEndpoint::builder(hub.credentials())
        .token_url(hub.token_url())
        .request_timeout(limit)
        .build()
        .unwrap();
    SharedSource::builder(endpoint, redis.url())
        .time_limit(secs(5))
        .build()
        .unwrap()
}

pub(crate) fn source_at(hub: &FakeDataHub, url: impl Into<String>) -> SharedSource {
    SharedSource::builder(endpoint(hub), url)
        .time_limit(secs(5))
        .build()
        .unwrap()
}

/// The manager of one node.
pub(crate) fn node(hub: &FakeDataHub, redis: &RedisServer) -> TokenManager {
    TokenManager::builder(source(hub, redis)).build().unwrap()
}

pub(crate) async fn token(tokens: &TokenManager) -> String {
    tokens.token().await.unwrap().expose_secret().to_owned()
}

/// Fetches a token and waits until it is published. Returns it with the key of its entry.
pub(crate) async fn fetch_and_publish(source: &SharedSource, redis: &RedisServer) -> (AccessToken, String) {
    let token = source.fetch(None).await.unwrap();
    (token, redis.entry_key().await)
}

pub(crate) async fn wait_for_lock(redis: &RedisServer) -> String {
    eventually("the lock is taken", async || redis.key("lock").await).await
}

pub(crate) async fn wait_for_release(redis: &RedisServer) {
    eventually("the lock is released", async || {
        redis.key("lock").await.is_none().then_some(())
    })
    .await;
}

/// Waits until a fetch that replaces `replaced` adopts this token. It is published a moment after its own fetch.
pub(crate) async fn wait_until_published(token: &AccessToken, source: &SharedSource, replaced: Option<&AccessToken>) {
    eventually("the token is shared", async || {
        let adopted = source.fetch(replaced).await.unwrap();
        (adopted.expose_secret() == token.expose_secret()).then_some(())
    })
    .await;
}

pub(crate) async fn stored_entry(redis: &RedisServer, key: &str) -> Option<Vec<u8>> {
    redis.command(&format!("GET {key}")).await
}

pub(crate) async fn store_entry(redis: &RedisServer, key: &str, entry: &[u8]) {
    let mut command = redis::cmd("SET");
    command.arg(key).arg(entry).arg("PX").arg(60_000);
    let () = command.query_async(&mut redis.connection().await).await.unwrap();
}

/// Four nodes without a token.
pub(crate) fn four_nodes(hub: &FakeDataHub, redis: &RedisServer) -> Vec<TokenManager> {
    (0..4).map(|_| node(hub, redis)).collect()
}

/// The tokens that these nodes get when they all ask at once.
pub(crate) async fn tokens_of(nodes: Vec<TokenManager>) -> HashSet<String> {
    let mut callers = JoinSet::new();
    for node in nodes {
        callers.spawn(async move { token(&node).await });
    }
    callers.join_all().await.into_iter().collect()
}

/// What a proxy in front of Redis does to one request and its reply.
pub(crate) enum Exchange {
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
pub(crate) async fn proxy(port: u16, exchange: impl Fn(&[u8]) -> Exchange + Send + Sync + 'static) -> String {
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

pub(crate) fn with_slow_clock(reply: Vec<u8>) -> Vec<u8> {
    let Some(rest) = reply.strip_prefix(b"*4\r\n:") else {
        return reply;
    };
    let (digits, rest) = rest.split_at(13);
    let now: u64 = str::from_utf8(digits).unwrap().parse().unwrap();
    [format!("*4\r\n:{}", now - 60_000).as_bytes(), rest].concat()
}

/// The one warning of a fetch. Waits for it, because some are logged after the fetch, when the lock is released.
pub(crate) async fn only_warning(log: &LogCapture) -> String {
    eventually("a warning", async || (!log.warnings("").is_empty()).then_some(())).await;
    let mut warnings = log.warnings("");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    warnings.remove(0)
}

/// Asserts that each of three fetches bypasses Redis: it sends a separate POST, logs this warning, and is delayed by
/// no more than the limit.
pub(crate) async fn assert_every_fetch_bypasses_redis(
    hub: &FakeDataHub,
    redis_url: &str,
    time_limit: Duration,
    warning: &str,
) {
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

/// Source for a server that wants a client certificate.
pub(crate) fn over_tls(hub: &FakeDataHub, redis: &RedisServer) -> SharedSource {
    let client = redis.client_for(&redis.url());
    SharedSource::with_client(endpoint(hub), client, AsyncConnectionConfig::new())
        .time_limit(secs(5))
        .build()
        .unwrap()
}
