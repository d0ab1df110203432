//! A soak test: twenty processes share a token for five minutes, through a Redis that keeps failing in different ways.

use std::{
    env,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use test_support::{RedisServer, millis, secs};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::fleet::{Fleet, LIFETIME, correct_clock};

const PROCESSES: usize = 20;
/// How long a fault lasts.
const FAULT: Duration = secs(6);
/// How long all is well after it. The first seconds do not count: processes that fetched for themselves during the fault
/// adopt a shared token at their next refresh.
const HEALTHY: Duration = secs(20);
const RECOVERY: Duration = secs(5);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes five minutes; see tests/README.md"]
async fn sharing_survives_faults_of_every_kind() {
    let seconds = env::var("SOAK_SECONDS").map_or(300, |seconds| seconds.parse().unwrap());
    let redis = RedisServer::start().await;
    let proxy = ChaosProxy::start(redis.port()).await;
    let mut fleet = Fleet::start_at(redis, &proxy.url, PROCESSES, millis(100), correct_clock).await;
    fleet.wait_for_posts(1).await;
    let start = Instant::now();
    let mut healthy = Vec::new();
    for fault in Fault::ALL.into_iter().cycle() {
        let began = Instant::now();
        sleep(HEALTHY).await;
        healthy.push(began + RECOVERY..Instant::now());
        if start.elapsed() >= secs(seconds) {
            break;
        }
        let before = fleet.hub.token_posts();
        proxy.set(fault);
        match fault {
            Fault::Paused => fleet.redis.pause(),
            Fault::Failover => {
                // The replica has all of the data, and the proxy leads to it from now on.
                let primary = format!("127.0.0.1 {}", fleet.redis.port());
                let replica = RedisServer::start_with(&["--replicaof", &primary]).await;
                sleep(secs(2)).await;
                fleet.redis.kill();
                let () = replica.command("REPLICAOF NO ONE").await;
                proxy.lead_to(replica.port());
                fleet.redis = replica;
            }
            _ => {}
        }
        sleep(FAULT).await;
        if fault == Fault::Paused {
            fleet.redis.resume();
        }
        proxy.set(Fault::None);
        println!("{fault:?}: {} token requests", fleet.hub.token_posts() - before);
    }
    let posts = fleet.posts.lock().unwrap().clone();
    let counted = posts
        .iter()
        .filter(|post| healthy.iter().any(|stretch| stretch.contains(*post)));
    let healthy_time: Duration = healthy.iter().map(|stretch| stretch.end - stretch.start).sum();
    // A token is renewed at 0.8 of its lifetime on average.
    let lifetimes = healthy_time.as_secs_f64() / (LIFETIME.as_secs_f64() * 0.8);
    let ratio = f64::from(u32::try_from(counted.count()).unwrap()) / lifetimes;
    let served = fleet.stop();
    println!("{served} requests succeeded and none failed; {ratio:.2} token requests a lifetime while all was well");
    assert!(ratio <= 1.5, "{ratio:.2} token requests a lifetime");
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Slow,
    LostRequests,
    LostReplies,
    Reset,
    HalfClosed,
    Paused,
    Failover,
}

impl Fault {
    const ALL: [Self; 7] = [
        Self::Slow,
        Self::LostRequests,
        Self::LostReplies,
        Self::Reset,
        Self::HalfClosed,
        Self::Paused,
        Self::Failover,
    ];
}

/// Proxy in front of Redis that disturbs what passes through it.
struct ChaosProxy {
    url: String,
    port: Arc<AtomicU16>,
    fault: Arc<Mutex<Fault>>,
    _listening: JoinSet<()>,
}

impl ChaosProxy {
    async fn start(redis: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let (port, fault) = (Arc::new(AtomicU16::new(redis)), Arc::new(Mutex::new(Fault::None)));
        let mut listening = JoinSet::new();
        listening.spawn({
            let (port, fault) = (port.clone(), fault.clone());
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let (port, fault) = (port.load(Ordering::Relaxed), fault.clone());
                    tokio::spawn(async move {
                        if let Ok(redis) = TcpStream::connect(("127.0.0.1", port)).await {
                            serve(client, redis, &fault).await;
                        }
                    });
                }
            }
        });
        Self {
            url,
            port,
            fault,
            _listening: listening,
        }
    }

    fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    fn lead_to(&self, port: u16) {
        self.port.store(port, Ordering::Relaxed);
    }
}

async fn serve(client: TcpStream, redis: TcpStream, fault: &Mutex<Fault>) {
    if *fault.lock().unwrap() == Fault::Reset {
        let _ = client.set_zero_linger();
        return;
    }
    let (from_client, to_client) = client.into_split();
    let (from_redis, to_redis) = redis.into_split();
    // An idle connection is closed, or one whose messages were lost would stay for ever.
    let both = async {
        tokio::join!(
            pass(from_client, to_redis, fault, Fault::LostRequests),
            pass(from_redis, to_client, fault, Fault::LostReplies)
        )
    };
    let _ = timeout(secs(30), both).await;
}

/// Passes one direction on. A connection breaks in the middle as well: each read sees the fault of its moment.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, fault: &Mutex<Fault>, lost_here: Fault) {
    let mut buffer = vec![0; 8 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let now = *fault.lock().unwrap();
        match now {
            Fault::Slow => sleep(Duration::from_millis(fastrand::u64(50..1_500))).await,
            Fault::HalfClosed if lost_here == Fault::LostReplies => break,
            now if now == lost_here => continue,
            _ => {}
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
