//! `SharedSource`: one token for many processes. Each test has a separate, real Redis server, and each manager stands
//! for a node. `fleet.rs` has real processes.

use std::{collections::HashSet, time::Instant};

use osdatahub_auth::{
    BearerAuth, ErrorKind, FakeAnswer, FakeDataHub, ProjectCredentials, SharedSource, TokenEndpoint, TokenSource,
};
use reqwest::Url;
use reqwest_middleware::ClientBuilder;
use test_support::{RedisServer, eventually, millis, secs};
use tokio::time::sleep;

use crate::common::{endpoint_for, fetch_and_publish, node, source, stored_entry, token};

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
async fn an_adopted_token_has_its_remaining_lifetime() {
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
async fn token_lasting_does_not_settle_for_an_old_token_of_another_node() {
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
async fn no_node_gets_a_rejected_token_again() {
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
fn a_runtime_that_has_ended_costs_no_post() {
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
async fn a_failing_endpoint_or_provider_fails_as_without_redis() {
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
async fn debug_shows_neither_a_secret_nor_the_password_of_the_redis_url() {
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
