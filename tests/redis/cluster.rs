//! Redis Cluster: `MOVED`, `ASK` and `TRYAGAIN`, with three primaries.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use osdatahub_auth::{FakeDataHub, TokenSource};
use test_support::{LogCapture, RawServer, RedisCluster, RedisServer, millis, secs};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::sleep,
};

use crate::common::{only_warning, over_tls, source, source_at, wait_until_published};

/// The slot of the keys, which the source derives from the credentials.
async fn slot_of_entry(cluster: &RedisCluster) -> (u16, String) {
    for node in &cluster.nodes {
        if let Some(entry) = node.key("token").await {
            return (node.command(&format!("CLUSTER KEYSLOT {entry}")).await, entry);
        }
    }
    panic!("no node has the entry");
}

/// Starts to move a slot: from now on the first node answers `ASK` for keys that it does not have.
async fn begin_move(slot: u16, from: &RedisServer, to: &RedisServer) {
    let [from_id, to_id]: [String; 2] = [from.command("CLUSTER MYID").await, to.command("CLUSTER MYID").await];
    let () = to.command(&format!("CLUSTER SETSLOT {slot} IMPORTING {from_id}")).await;
    let () = from.command(&format!("CLUSTER SETSLOT {slot} MIGRATING {to_id}")).await;
}

async fn move_keys(slot: u16, from: &RedisServer, to: &RedisServer) {
    let keys: Vec<String> = from.command(&format!("CLUSTER GETKEYSINSLOT {slot} 10")).await;
    for key in keys {
        let () = from
            .command(&format!("MIGRATE 127.0.0.1 {} {key} 0 5000", to.port()))
            .await;
    }
}

async fn end_move(cluster: &RedisCluster, slot: u16, to: &RedisServer) {
    let id: String = to.command("CLUSTER MYID").await;
    let () = to.command(&format!("CLUSTER SETSLOT {slot} NODE {id}")).await;
    for node in &cluster.nodes {
        let () = node.command(&format!("CLUSTER SETSLOT {slot} NODE {id}")).await;
    }
}

#[tokio::test]
async fn a_cluster_shares_one_token_from_whichever_node_a_process_starts_at() {
    let (hub, cluster) = (FakeDataHub::start().await.unwrap(), RedisCluster::start().await);
    let (log, _guard) = LogCapture::start();
    // Longer than one lease, so that the lease is renewed at the node that has the slot.
    hub.set_delay(secs(3));
    let mut fetches = JoinSet::new();
    for node in &cluster.nodes {
        let source = source(&hub, node);
        fetches.spawn(async move { source.fetch(None).await.unwrap() });
    }
    let tokens = fetches.join_all().await;
    let first = tokens[0].expose_secret();
    assert!(tokens.iter().all(|token| token.expose_secret() == first));
    for node in &cluster.nodes {
        wait_until_published(&tokens[0], &source(&hub, node), None).await;
    }
    assert_eq!(hub.token_posts(), 1);
    assert_eq!(log.warnings(""), [""; 0]);
}

#[tokio::test]
async fn a_cluster_shares_over_tls_with_the_certificates_of_the_first_node() {
    let (hub, cluster) = (
        FakeDataHub::start().await.unwrap(),
        RedisCluster::start_with_tls().await,
    );
    let (log, _guard) = LogCapture::start();
    let first = over_tls(&hub, &cluster.nodes[0]).fetch(None).await.unwrap();
    for node in &cluster.nodes {
        wait_until_published(&first, &over_tls(&hub, node), None).await;
    }
    assert_eq!(hub.token_posts(), 1, "{log:?}");
    assert_eq!(log.warnings(""), [""; 0]);
}

#[tokio::test]
async fn an_ask_is_followed_for_one_lookup() {
    let (hub, cluster) = (FakeDataHub::start().await.unwrap(), RedisCluster::start().await);
    let first = source(&hub, &cluster.nodes[0]).fetch(None).await.unwrap();
    wait_until_published(&first, &source(&hub, &cluster.nodes[0]), None).await;
    let (slot, entry) = slot_of_entry(&cluster).await;
    let (from, to) = cluster.owner_and_other(slot).await;
    // With both keys at the new node, it can run a script for the two.
    let lock = entry.replace(":token", ":lock");
    let () = from.command(&format!("SET {lock} another PX 60000")).await;
    begin_move(slot, from, to).await;
    move_keys(slot, from, to).await;
    let (log, _guard) = LogCapture::start();
    for node in &cluster.nodes {
        let adopted = source(&hub, node).fetch(None).await.unwrap();
        assert_eq!(adopted.expose_secret(), first.expose_secret());
    }
    assert_eq!(log.warnings(""), [""; 0]);
    assert_eq!(hub.token_posts(), 1);
}

#[tokio::test]
async fn a_slot_that_moves_under_traffic_fails_no_fetch_and_is_found_again() {
    let (hub, cluster) = (FakeDataHub::start().await.unwrap(), RedisCluster::start().await);
    let first = source(&hub, &cluster.nodes[0]).fetch(None).await.unwrap();
    wait_until_published(&first, &source(&hub, &cluster.nodes[0]), None).await;
    let (slot, _) = slot_of_entry(&cluster).await;
    let (from, to) = cluster.owner_and_other(slot).await;
    let (log, _guard) = LogCapture::start();
    let stopped = Arc::new(AtomicBool::new(false));
    let mut traffic = JoinSet::new();
    for node in &cluster.nodes {
        let (source, stopped) = (source(&hub, node), stopped.clone());
        traffic.spawn(async move {
            let mut fetches = 0;
            while !stopped.load(Ordering::Relaxed) {
                source.fetch(None).await.unwrap();
                fetches += 1;
                sleep(millis(5)).await;
            }
            fetches
        });
    }
    sleep(millis(200)).await;
    begin_move(slot, from, to).await;
    sleep(millis(200)).await;
    move_keys(slot, from, to).await;
    sleep(millis(200)).await;
    end_move(&cluster, slot, to).await;
    sleep(millis(200)).await;
    stopped.store(true, Ordering::Relaxed);
    let fetches: usize = traffic.join_all().await.into_iter().sum();
    let warnings = log.warnings("");
    // A script is refused while one of its two keys has moved and the other has not. And when the move ends, a node that
    // has not heard of it redirects to one that redirects again. Each such fetch asks OS.
    let known = |warning: &&String| warning.contains("TRYAGAIN") || warning.contains("redirected more than once");
    let others = warnings.iter().filter(|warning| !known(warning)).collect::<Vec<_>>();
    assert!(others.is_empty(), "{others:?}");
    assert_eq!(hub.token_posts(), 1 + warnings.len(), "{fetches} fetches");
    let (log, _guard) = LogCapture::start();
    let mut found = Vec::new();
    for node in &cluster.nodes {
        found.push(source(&hub, node).fetch(None).await.unwrap().expose_secret().to_owned());
    }
    assert!(found.iter().all(|token| *token == found[0]), "{found:?}");
    assert_eq!(log.warnings(""), [""; 0]);
}

#[tokio::test]
async fn a_cluster_whose_nodes_redirect_in_circles_is_bypassed_after_one_redirection() {
    let hub = FakeDataHub::start().await.unwrap();
    let (asked, port) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let circle = RawServer::start({
        let (asked, port) = (asked.clone(), port.clone());
        move |mut stream, _| {
            let (asked, port) = (asked.clone(), port.clone());
            async move {
                loop {
                    asked.fetch_add(1, Ordering::Relaxed);
                    let moved = format!("-MOVED 1 :{}\r\n", port.load(Ordering::Relaxed));
                    let sent = stream.write_all(moved.as_bytes()).await;
                    if sent.is_err() || !stream.read(&mut [0; 8 * 1024]).await.is_ok_and(|read| read > 0) {
                        break;
                    }
                }
            }
        }
    })
    .await;
    port.store(circle.address.port().into(), Ordering::Relaxed);
    let (log, _guard) = LogCapture::start();
    let source = source_at(&hub, format!("redis://{}", circle.address));
    source.fetch(None).await.unwrap();
    let warning = only_warning(&log).await;
    assert!(warning.contains("redirected more than once"), "{warning}");
    assert!(warning.contains("step=\"acquire\""), "{warning}");
    // Two lookups, and the same for the release of a lock that may have been taken.
    sleep(millis(300)).await;
    assert!(asked.load(Ordering::Relaxed) <= 4, "{asked:?}");
}

#[tokio::test]
async fn a_cluster_without_all_of_its_slots_is_named_as_the_cause() {
    let hub = FakeDataHub::start().await.unwrap();
    let incomplete = RedisServer::start_with(&["--cluster-enabled", "yes"]).await;
    let (log, _guard) = LogCapture::start();
    source(&hub, &incomplete).fetch(None).await.unwrap();
    let warning = only_warning(&log).await;
    assert!(warning.contains("CLUSTERDOWN"), "{warning}");
}
