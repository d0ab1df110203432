//! Kinds of servers and addresses, and the commands that are sent to them.

use std::{
    collections::HashSet,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{Stream, StreamExt, stream};
use osdatahub_auth::{FakeDataHub, SharedSource, TokenSource};
use redis::{
    AsyncConnectionConfig,
    auth::{BasicAuth, StreamingCredentialsProvider},
};
use test_support::{LogCapture, Program, RedisServer, eventually, secs};

use crate::common::{endpoint, fetch_and_publish, over_tls, source, source_at, wait_for_release};

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

/// Asserts that a token is fetched for all, and that there is nothing to warn of.
async fn assert_shares(hub: &FakeDataHub, source: &SharedSource, what: &str) {
    let (log, _guard) = LogCapture::start();
    let current = source.fetch(None).await.unwrap();
    let posts = hub.token_posts();
    let next = source.fetch(Some(&current)).await.unwrap();
    eventually(what, async || {
        let adopted = source.fetch(None).await.unwrap();
        (adopted.expose_secret() == next.expose_secret()).then_some(())
    })
    .await;
    assert_eq!(hub.token_posts(), posts + 1, "{what}: {log:?}");
    assert_eq!(log.warnings(""), [""; 0], "{what}");
}

#[tokio::test]
async fn redis_6_redis_7_and_valkey_share() {
    let hub = FakeDataHub::start().await.unwrap();
    for program in Program::all() {
        let server = RedisServer::start_program(program).await;
        assert_shares(&hub, &source_at(&hub, server.url()), &format!("{program:?}")).await;
        // A lease that is renewed, and a process that waits for it.
        hub.set_delay(secs(3));
        let () = server.command("FLUSHALL").await;
        let posts = hub.token_posts();
        let (one, other) = (source_at(&hub, server.url()), source_at(&hub, server.url()));
        let (one, other) = tokio::join!(one.fetch(None), other.fetch(None));
        assert_eq!(
            one.unwrap().expose_secret(),
            other.unwrap().expose_secret(),
            "{program:?}"
        );
        assert_eq!(hub.token_posts(), posts + 1, "{program:?}");
        hub.set_delay(Duration::ZERO);
    }
}

#[tokio::test]
async fn every_form_of_a_redis_url_works() {
    let hub = FakeDataHub::start().await.unwrap();
    for program in Program::all() {
        let server = RedisServer::start_program(program).await;
        let () = server.command("CONFIG SET requirepass password").await;
        let address = format!("127.0.0.1:{}", server.port());
        for url in [
            format!("redis://:password@{address}"),
            format!("redis://default:password@{address}/3"),
            format!("valkey://:password@{address}/4?protocol=resp2"),
            format!("redis://:password@{address}/5?protocol=resp3"),
        ] {
            assert_shares(&hub, &source_at(&hub, &url), &format!("{program:?} {url}")).await;
        }
    }
    let socket = RedisServer::start_with(&["--unixsocket", "redis.sock"]).await;
    let path = socket.socket();
    assert_shares(&hub, &source_at(&hub, format!("unix://{}", path.display())), "unix").await;
    assert_shares(
        &hub,
        &source_at(&hub, format!("redis+unix://{}?db=2", path.display())),
        "redis+unix",
    )
    .await;
}

#[tokio::test]
async fn a_client_with_a_private_root_and_a_client_certificate_shares_over_tls() {
    let (hub, redis) = (
        FakeDataHub::start().await.unwrap(),
        RedisServer::start_with_tls(&[]).await,
    );
    assert_shares(&hub, &over_tls(&hub, &redis), "mutual TLS").await;
}

#[tokio::test]
async fn over_tls_the_time_limit_defaults_to_1_s() {
    let hub = FakeDataHub::start().await.unwrap();
    for (url, expected) in [
        ("redis://localhost", "time_limit: 250ms"),
        ("unix:///run/redis.sock", "time_limit: 250ms"),
        ("rediss://localhost", "time_limit: 1s"),
        ("valkeys://localhost", "time_limit: 1s"),
    ] {
        let source = SharedSource::builder(endpoint(&hub), url).build().unwrap();
        assert!(format!("{source:?}").contains(expected), "{url}: {source:?}");
    }
}

#[tokio::test]
async fn a_password_that_changes_is_asked_of_the_credentials_provider_for_each_connection() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    let password = Arc::new(Mutex::new("first".to_owned()));
    let config = AsyncConnectionConfig::new().set_credentials_provider(Passwords(password.clone()));
    let client = redis::Client::open(redis.url()).unwrap();
    let source = SharedSource::with_client(endpoint(&hub), client, config)
        .time_limit(secs(5))
        .build()
        .unwrap();
    let set_password = async |password: &str| {
        let acl = format!("ACL SETUSER app on resetpass >{password} ~osdatahub-auth:* +@all");
        let () = redis.command(&acl).await;
    };
    set_password("first").await;
    assert_shares(&hub, &source, "the first password").await;
    set_password("second").await;
    "second".clone_into(&mut password.lock().unwrap());
    assert_shares(&hub, &source, "the second password").await;
    // Without the new one, Redis is bypassed, and the log says why.
    set_password("third").await;
    let (log, _guard) = LogCapture::start();
    source.fetch(None).await.unwrap();
    let warnings = log.warnings("does not accept the user or the password");
    assert_eq!(warnings.len(), 1, "{log:?}");
    assert!(!format!("{log:?} {source:?}").contains("second"));
}

/// Credentials provider, as cloud services have one for passwords that expire.
struct Passwords(Arc<Mutex<String>>);

impl StreamingCredentialsProvider for Passwords {
    fn subscribe(&self) -> Pin<Box<dyn Stream<Item = redis::RedisResult<BasicAuth>> + Send>> {
        let password = self.0.lock().unwrap().clone();
        let auth = BasicAuth::new("app".to_owned(), password);
        // A stream that has an end would be logged as an error.
        Box::pin(stream::iter([Ok(auth)]).chain(stream::pending()))
    }
}
