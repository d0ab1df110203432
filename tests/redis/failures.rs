//! Failures of Redis: each costs a warning and a POST, and at most the `time_limit`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use osdatahub_auth::{FakeDataHub, SharedSource, TokenSource};
use redis::AsyncConnectionConfig;
use test_support::{LogCapture, Program, RawServer, RedisServer, http_response, millis, secs};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::sleep,
};

use crate::common::{
    Exchange, LIMIT, SLACK, assert_every_fetch_bypasses_redis, endpoint, fetch_and_publish, node, only_warning, proxy,
    source_at, token, wait_for_lock, wait_for_release, wait_until_published,
};

#[tokio::test]
async fn a_dead_or_hung_redis_costs_250_ms_at_most_and_no_error() {
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
        "no connection to Redis: connection refused",
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
async fn all_slow_answers_of_one_fetch_together_cost_250_ms_at_most() {
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
    let source = source_at(&hub, slow);
    let (first, _) = fetch_and_publish(&source, &redis).await;
    let adopted = source.fetch(None).await.unwrap();
    assert_eq!(adopted.expose_secret(), first.expose_secret());
}

#[tokio::test]
async fn waiting_for_another_process_does_not_count_towards_the_time_limit() {
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
async fn a_full_read_only_or_locked_redis_costs_no_error() {
    let hub = FakeDataHub::start().await.unwrap();

    let full = RedisServer::start_with(&["--maxmemory", "1", "--maxmemory-policy", "noeviction"]).await;
    assert_every_fetch_bypasses_redis(&hub, &full.url(), secs(5), "(OOM)").await;

    let read_only = RedisServer::start_with(&["--replicaof", "127.0.0.1 1"]).await;
    assert_every_fetch_bypasses_redis(&hub, &read_only.url(), secs(5), "(READONLY)").await;

    let locked = RedisServer::start_with(&["--requirepass", "password"]).await;
    assert_every_fetch_bypasses_redis(&hub, &locked.url(), secs(5), "(NOAUTH)").await;
    let wrong = locked.url().replace("redis://", "redis://:canary@");
    assert_every_fetch_bypasses_redis(&hub, &wrong, secs(5), "does not accept the user or the password").await;
    let right = locked.url().replace("redis://", "redis://:password@");
    let source = source_at(&hub, right);
    let posts = hub.token_posts();
    let first = source.fetch(None).await.unwrap();
    wait_until_published(&first, &source, None).await;
    assert!(hub.token_posts() <= posts + 2);
}

#[tokio::test]
async fn an_endless_reply_is_cut_off() {
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
    // The lookups have been cut off, and the attempts to release a lock soon will be.
    sleep(2 * LIMIT + SLACK).await;
    assert_eq!(sending.load(Ordering::Relaxed), 0);
}

/// Server that answers each command in this way, given the number of those before. Returns its URL, and their count.
async fn answering(reply: fn(usize) -> String) -> (String, Arc<AtomicUsize>) {
    let commands = Arc::new(AtomicUsize::new(0));
    let server = RawServer::start({
        let commands = commands.clone();
        move |mut stream, _| {
            let commands = commands.clone();
            async move {
                let mut buffer = [0; 8 * 1024];
                loop {
                    let reply = reply(commands.fetch_add(1, Ordering::Relaxed));
                    let written = stream.write_all(reply.as_bytes()).await;
                    if written.is_err() || !matches!(stream.read(&mut buffer).await, Ok(1..)) {
                        break;
                    }
                }
            }
        }
    });
    (format!("redis://{}", server.await.address), commands)
}

#[tokio::test]
async fn a_server_with_one_useless_entry_after_another_gets_three_lookups() {
    let hub = FakeDataHub::start().await.unwrap();
    let useless = |entry| format!("*4\r\n:1700000000000\r\n:0\r\n$4\r\n{entry:04}\r\n:1000\r\n");
    let (url, questions) = answering(useless).await;
    let (log, _guard) = LogCapture::start();
    let source = SharedSource::builder(endpoint(&hub), url).build().unwrap();
    source.fetch(None).await.unwrap();
    assert_eq!(hub.token_posts(), 1);
    let warning = only_warning(&log).await;
    assert!(warning.contains("one entry after another"), "{warning}");
    assert!(questions.load(Ordering::Relaxed) <= 5, "{questions:?}");
}

#[tokio::test]
async fn a_redis_that_refuses_the_lock_is_not_asked_to_release_it() {
    let hub = FakeDataHub::start().await.unwrap();
    let (url, commands) = answering(|_| "-NOPERM no permissions\r\n".to_owned()).await;
    source_at(&hub, url).fetch(None).await.unwrap();
    sleep(millis(300)).await;
    assert_eq!(commands.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_refusal_by_redis_is_logged_with_its_step_and_with_advice() {
    let hub = FakeDataHub::start().await.unwrap();
    for program in Program::all() {
        let redis = RedisServer::start_program(program).await;
        let without = async |command: &str| {
            let acl = format!("ACL SETUSER no-{command} on >password ~* +@all -{command}");
            let () = redis.command(&acl).await;
            redis
                .url()
                .replace("redis://", &format!("redis://no-{command}:password@"))
        };
        let () = redis
            .command("ACL SETUSER other-keys on >password ~other:* +@all")
            .await;
        let other_keys = redis.url().replace("redis://", "redis://other-keys:password@");
        let warning = async |url: &str| {
            let (log, _guard) = LogCapture::start();
            source_at(&hub, url).fetch(None).await.unwrap();
            only_warning(&log).await
        };
        for (url, step, advice) in [
            (without("eval").await, "acquire", "lacks a permission"),
            (without("get").await, "acquire", "lacks a permission"),
            (without("set").await, "acquire", "lacks a permission"),
            (without("pttl").await, "acquire", "lacks a permission"),
            (without("time").await, "acquire", "lacks a permission"),
            (without("del").await, "publish", "lacks a permission"),
            (other_keys, "acquire", "lacks a permission"),
            (
                redis.url().replace("/0", "/1000000"),
                "connect",
                "does not have the database",
            ),
            (
                redis.url().replace("redis://", "redis://no-get:wrong@"),
                "connect",
                "does not accept the user or the password",
            ),
        ] {
            let () = redis.command("FLUSHALL").await;
            let warning = warning(&url).await;
            let expected = format!("step={step:?}");
            assert!(warning.contains(&expected), "{program:?} {url}: {warning}");
            assert!(warning.contains(advice), "{program:?} {url}: {warning}");
        }
        let () = redis.command("CONFIG SET requirepass password").await;
        let locked = warning(&redis.url()).await;
        assert!(locked.contains("wants a password (NOAUTH)"), "{program:?}: {locked}");
    }
}

#[tokio::test]
async fn a_redis_without_a_connection_to_spare_is_named_as_the_cause() {
    let hub = FakeDataHub::start().await.unwrap();
    let redis = RedisServer::start().await;
    let mut only = redis.connection().await;
    let mut limit = redis::cmd("CONFIG");
    let () = limit
        .arg(&["SET", "maxclients", "1"])
        .query_async(&mut only)
        .await
        .unwrap();
    assert_every_fetch_bypasses_redis(&hub, &redis.url(), secs(5), "maxclients").await;
}

#[tokio::test]
async fn a_process_that_may_not_delete_publishes_its_token_and_the_others_adopt_it() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    let () = redis.command("ACL SETUSER app on >password ~* +@all -del").await;
    let url = redis.url().replace("redis://", "redis://app:password@");
    let app = source_at(&hub, url);
    let first = app.fetch(None).await.unwrap();
    wait_until_published(&first, &app, None).await;
    // The lock stays for the two seconds of its lease.
    let start = Instant::now();
    let second = app.fetch(Some(&first)).await.unwrap();
    assert!(start.elapsed() < secs(4), "{:?}", start.elapsed());
    wait_until_published(&second, &app, Some(&first)).await;
    assert_eq!(hub.token_posts(), 2);
}

#[tokio::test]
async fn a_certificate_that_is_not_accepted_is_a_failure_to_connect_with_advice() {
    let (hub, redis) = (
        FakeDataHub::start().await.unwrap(),
        RedisServer::start_with_tls(&[]).await,
    );
    for (url, advice) in [
        (redis.url(), "from an unknown authority"),
        (redis.url().replace("rediss://", "redis://"), "does it want TLS?"),
    ] {
        let (log, _guard) = LogCapture::start();
        source_at(&hub, url).fetch(None).await.unwrap();
        let warning = only_warning(&log).await;
        assert!(warning.contains(advice), "{advice}: {warning}");
    }
    // With the right root certificate, but for another name.
    let url = redis.url().replace("localhost", "127.0.0.1");
    let client = redis.client_for(&url);
    let (log, _guard) = LogCapture::start();
    let source = SharedSource::with_client(endpoint(&hub), client, AsyncConnectionConfig::new());
    source.time_limit(secs(5)).build().unwrap().fetch(None).await.unwrap();
    assert_eq!(log.warnings("is for another name").len(), 1, "{log:?}");
}

#[tokio::test]
async fn a_url_that_needs_another_feature_of_the_crate_redis_is_named_as_the_cause() {
    let hub = FakeDataHub::start().await.unwrap();
    let server = RawServer::responding(Vec::new()).await;
    let (log, _guard) = LogCapture::start();
    let url = format!("rediss://{}/#insecure", server.address);
    source_at(&hub, url).fetch(None).await.unwrap();
    let warning = only_warning(&log).await;
    assert!(warning.contains("feature tls-rustls-insecure"), "{warning}");
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_named_as_the_cause() {
    let hub = FakeDataHub::start().await.unwrap();
    assert_every_fetch_bypasses_redis(&hub, "redis://redis.invalid", secs(5), "its name lookup failed").await;
}
