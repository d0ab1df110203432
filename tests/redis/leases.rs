//! The lock and its lease: which process fetches, and how long the others wait for it.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use osdatahub_auth::{FakeAnswer, FakeDataHub, SharedSource, TokenManager, TokenSource};
use test_support::{LogCapture, RedisServer, eventually, millis, secs};
use tokio::{task::JoinSet, time::sleep};

use crate::common::{
    Exchange, endpoint, fetch_and_publish, four_nodes, node, only_warning, proxy, source, source_at,
    source_with_request_timeout, store_entry, token, tokens_of, wait_for_lock, wait_for_release, wait_until_published,
};

#[tokio::test]
async fn the_lock_is_released_and_the_next_fetch_does_not_wait() {
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
async fn a_cancelled_fetch_releases_the_lock() {
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
async fn a_lock_that_another_process_has_taken_over_is_not_released() {
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
async fn a_process_that_has_waited_for_max_wait_fetches_itself() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    let source = source_with_request_timeout(&hub, &redis, millis(500));
    let (first, _) = fetch_and_publish(&source, &redis).await;
    let entry = redis.entry_key().await;
    store_entry(&redis, &entry, b"garbage").await;
    let (log, _guard) = LogCapture::start();
    // Another node, whose fetch goes on for ever.
    let lock = entry.replace(":token", ":lock");
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
    // It also publishes its token, and says that the entry was damaged.
    wait_until_published(&second, &source, Some(&first)).await;
    assert!(only_warning(&log).await.contains("damaged"));
}

#[tokio::test]
async fn a_fetch_longer_than_its_lease_is_still_the_only_one() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    hub.set_delay(millis(4_500));
    let nodes = four_nodes(&hub, &redis);
    let start = Instant::now();
    let tokens = tokens_of(nodes).await;
    assert_eq!((hub.token_posts(), tokens.len()), (1, 1));
    assert!(start.elapsed() < secs(6), "{:?}", start.elapsed());
}

/// Loses this many replies to renewals during a fetch of 3 s. Returns how many renewals were sent, and whether the lease
/// was given up.
async fn renewals_with(lost_replies: usize) -> (usize, bool) {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    let (log, _guard) = LogCapture::start();
    hub.set_delay(secs(3));
    let sent = Arc::new(AtomicUsize::new(0));
    let unlucky = proxy(redis.port(), {
        let sent = Arc::clone(&sent);
        move |request| {
            let renews = request.windows(16).any(|window| window == b"Renews the lease");
            if renews && sent.fetch_add(1, Ordering::Relaxed) < lost_replies {
                Exchange::LoseReply
            } else {
                Exchange::PassOn
            }
        }
    })
    .await;
    source_at(&hub, unlucky).fetch(None).await.unwrap();
    let given_up = log.starting_with("the lease for an access token could not be renewed");
    (sent.load(Ordering::Relaxed), !given_up.is_empty())
}

#[tokio::test]
async fn a_lease_survives_one_failed_renewal() {
    // A renewal is sent again over a new connection, so it fails if two replies are lost. A machine that stalls may make
    // the next one fail as well.
    for _ in 0..3 {
        if let (_, false) = renewals_with(2).await {
            return;
        }
    }
    panic!("the lease was given up");
}

#[tokio::test]
async fn a_lease_is_given_up_after_two_failed_renewals() {
    let (sent, given_up) = renewals_with(usize::MAX).await;
    assert!(given_up && sent <= 4, "{sent} renewals were sent");
}

#[tokio::test]
async fn a_fetch_that_has_lost_the_lock_holds_no_connection() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    // The fetch outlasts any stall of the machine.
    hub.set_delay(secs(60));
    let source = source_with_request_timeout(&hub, &redis, secs(20));
    let fetch = tokio::spawn(async move { source.fetch(None).await });
    let lock = wait_for_lock(&redis).await;
    let () = redis.command(&format!("SET {lock} another")).await;
    eventually("the connection is closed", async || {
        let clients: String = redis.command("CLIENT LIST").await;
        // The one that is left asks this question.
        (clients.lines().count() == 1).then_some(())
    })
    .await;
    assert!(!fetch.is_finished(), "the fetch should still be under way");
    fetch.abort();
}

#[tokio::test]
async fn the_lock_of_a_dead_process_delays_the_others_by_two_seconds() {
    let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
    hub.set_delay(secs(4));
    let source = source(&hub, &redis);
    let (_, entry) = fetch_and_publish(&source, &redis).await;
    let lock = entry.replace(":token", ":lock");
    let () = redis.command(&format!("DEL {entry}")).await;
    let () = redis.command(&format!("SET {lock} dead PX 2000")).await;
    // The default acquire_timeout is enough for that, and for a slow answer.
    let start = Instant::now();
    tokens_of(four_nodes(&hub, &redis)).await;
    assert!(start.elapsed() < millis(6_800), "{:?}", start.elapsed());
    assert_eq!(hub.token_posts(), 2);
}

#[tokio::test]
async fn a_lock_without_an_owner_delays_no_process() {
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
async fn one_lost_message_delays_no_process() {
    for (text, lost) in [
        ("takes the lock", (|| Exchange::LoseReply) as fn() -> Exchange),
        ("releases the lock", || Exchange::LoseReply),
        ("releases the lock", || Exchange::LoseRequest),
    ] {
        let (hub, redis) = (FakeDataHub::start().await.unwrap(), RedisServer::start().await);
        let (log, _guard) = LogCapture::start();
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
        // Longer than the default, for a busy machine.
        let unlucky = SharedSource::builder(endpoint(&hub), unlucky).time_limit(millis(500));
        let unlucky = unlucky.build().unwrap();
        let unlucky = TokenManager::builder(unlucky).build().unwrap();
        let others = four_nodes(&hub, &redis);
        let first = tokio::spawn(async move { token(&unlucky).await });
        wait_for_lock(&redis).await;
        let start = Instant::now();
        let tokens = tokens_of(others).await;
        assert!(start.elapsed() < millis(1_500), "{text} {:?}", start.elapsed());
        assert_eq!(tokens, HashSet::from([first.await.unwrap()]), "{text}: {log:?}");
        assert_eq!(hub.token_posts(), 1, "{text}");
    }
}

#[tokio::test]
async fn no_caller_waits_for_a_token_to_be_published() {
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
