//! Fleets of processes that share a token through Redis. Each process is this test binary. nextest runs each test
//! alone on the machine (`.config/nextest.toml`).

use std::{
    env,
    io::{BufRead, BufReader},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use osdatahub_auth::{
    BearerAuth, FakeDataHub, ProjectCredentials, ReceivedRequest, SharedSource, TokenEndpoint, TokenManager,
};
use reqwest_middleware::ClientBuilder;
use test_support::{RedisServer, eventually, millis, secs};
use tokio::{task::JoinSet, time::sleep};

const NODES: usize = 50;
/// Lifetime of the tokens. One turns stale between 3.0 and 3.4 s, and unusable at 3.6 s.
pub(crate) const LIFETIME: Duration = secs(4);
/// Minimum gap between the token requests of two lifetimes. Lower than 3.0 s, to leave room for a slow machine.
const MIN_GAP: Duration = millis(2_500);

/// Process of a fleet: sends a request every 200 ms until its standard input closes, then prints a report.
#[tokio::test]
#[ignore = "the other tests start it as a process of a fleet"]
async fn node() {
    let variable = |name: &str| env::var(name).expect("the other tests should set this variable");
    let [hub, redis, name] = ["FLEET_HUB", "FLEET_REDIS", "FLEET_NODE"].map(variable);
    let credentials = ProjectCredentials::new(variable("FLEET_KEY"), variable("FLEET_SECRET")).unwrap();
    let origin: reqwest::Url = hub.parse().unwrap();
    let endpoint = TokenEndpoint::builder(credentials)
        .token_url(origin.join("/oauth2/token/v1").unwrap())
        .request_timeout(secs(2))
        // The user agent shows the tests which process requested a token.
        .http_client(|client| client.user_agent(name))
        .build()
        .unwrap();
    // Long, because fifty processes that start at once slow the machine down.
    let shared = SharedSource::builder(endpoint, redis)
        .time_limit(secs(2))
        .build()
        .unwrap();
    let tokens = TokenManager::builder(shared).build().unwrap();
    // Without the replay, an expired or invalid token shows up as a 401.
    let auth = BearerAuth::new(tokens)
        .with_origin(origin.clone())
        .unwrap()
        .replay_rejected(false);
    let client = ClientBuilder::new(reqwest::Client::builder().no_proxy().build().unwrap())
        .with(auth)
        .build();

    let stopped = Arc::new(AtomicBool::new(false));
    std::thread::spawn({
        let stopped = stopped.clone();
        move || {
            let _ = std::io::stdin().read_line(&mut String::new());
            stopped.store(true, Ordering::Relaxed);
        }
    });
    let url = origin.join("/search/names/v1/find?query=Bath").unwrap();
    let (mut served, mut errors) = (0, Vec::new());
    while !stopped.load(Ordering::Relaxed) {
        match client.get(url.clone()).send().await {
            Ok(response) if response.status() == 200 => served += 1,
            Ok(response) => errors.push(response.status().to_string()),
            Err(error) => errors.push(format!("{error:?}")),
        }
        sleep(millis(200)).await;
    }
    println!("\nFLEET served={served} errors={} {:?}", errors.len(), errors.first());
}

pub(crate) struct Fleet {
    pub(crate) hub: Arc<FakeDataHub>,
    pub(crate) redis: RedisServer,
    nodes: Vec<(Child, ChildStdin)>,
    /// Time of each token request, polled every 10 ms.
    pub(crate) posts: Arc<Mutex<Vec<Instant>>>,
    _recorder: JoinSet<()>,
}

impl Fleet {
    /// Starts the hub, Redis and the nodes. `clock` returns the hours by which a node's wall clock is fast, or
    /// `None` if it is right.
    async fn start(nodes: usize, response_delay: Duration, clock: fn(usize) -> Option<i32>) -> Self {
        let redis = RedisServer::start().await;
        let url = redis.url();
        Self::start_at(redis, &url, nodes, response_delay, clock).await
    }

    /// The same with this Redis, which the nodes reach at this URL.
    pub(crate) async fn start_at(
        redis: RedisServer,
        url: &str,
        nodes: usize,
        response_delay: Duration,
        clock: fn(usize) -> Option<i32>,
    ) -> Self {
        let hub = Arc::new(FakeDataHub::start().await.unwrap());
        hub.set_credentials("CanaryKey", "CanarySecret");
        hub.set_lifetime(LIFETIME);
        hub.set_delay(response_delay);
        let posts = Arc::new(Mutex::new(Vec::new()));
        let mut recorder = JoinSet::new();
        recorder.spawn({
            let (hub, posts) = (hub.clone(), posts.clone());
            async move {
                loop {
                    let seen = hub.token_posts();
                    posts.lock().unwrap().resize(seen, Instant::now());
                    sleep(millis(10)).await;
                }
            }
        });
        let nodes = (0..nodes).map(|node| launch(&hub, url, node, clock(node))).collect();
        Self {
            hub,
            redis,
            nodes,
            posts,
            _recorder: recorder,
        }
    }

    pub(crate) async fn wait_for_posts(&self, number: usize) {
        let reached = async || (self.hub.token_posts() >= number).then_some(());
        eventually(&format!("the hub has received {number} token requests"), reached).await;
    }

    /// Names of the processes that requested a token, in order.
    fn requesters(&self) -> Vec<String> {
        let for_token = |request: &ReceivedRequest| request.path.starts_with("/oauth2/");
        let received = self.hub.received();
        let requests = received.iter().filter(|request| for_token(request));
        requests
            .map(|request| request.headers["user-agent"].to_str().unwrap().to_owned())
            .collect()
    }

    /// Waits for the fifth token request, then stops the fleet. Asserts that, from the one with this index,
    /// counted from 0, the requests are a lifetime apart.
    async fn assert_one_post_per_lifetime_from(self, first: usize) {
        self.wait_for_posts(5).await;
        let posts = self.posts.lock().unwrap()[first..].to_vec();
        let gaps: Vec<_> = posts.windows(2).map(|pair| pair[1] - pair[0]).collect();
        println!(
            "gaps between token requests: {gaps:?}; {} requests succeeded",
            self.stop()
        );
        assert!(gaps.iter().all(|gap| *gap >= MIN_GAP), "{gaps:?}");
    }

    /// Stops all processes and returns the number of requests that succeeded. Asserts that none failed.
    pub(crate) fn stop(mut self) -> usize {
        let mut served = 0;
        let nodes: Vec<_> = self
            .nodes
            .drain(..)
            .map(|(child, input)| {
                drop(input);
                child
            })
            .collect();
        for mut child in nodes {
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let report = lines.map_while(Result::ok).find(|line| line.starts_with("FLEET "));
            let report = report.expect("a node that was not killed should print a report");
            let number = |name: &str| -> usize {
                let value = report.split(' ').find_map(|word| word.strip_prefix(name)).unwrap();
                value.parse().unwrap()
            };
            assert_eq!(number("errors="), 0, "{report}");
            assert!(number("served=") > 0, "{report}");
            served += number("served=");
            child.wait().unwrap();
        }
        served
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for (node, _) in &mut self.nodes {
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

fn launch(hub: &FakeDataHub, redis: &str, node: usize, hours_ahead: Option<i32>) -> (Child, ChildStdin) {
    let test_binary = env::current_exe().unwrap();
    let mut command = if let Some(hours) = hours_ahead {
        let mut command = Command::new("faketime");
        command.args(["-f", &format!("{hours:+}h")]).arg(test_binary);
        // Fake only the wall clock, because no user can set the monotonic one.
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        command
    } else {
        Command::new(test_binary)
    };
    let mut child = command
        .args(["fleet::node", "--exact", "--ignored", "--nocapture"])
        .env("FLEET_HUB", hub.origin().as_str())
        .env("FLEET_REDIS", redis)
        .env("FLEET_NODE", format!("node-{node}"))
        .env("FLEET_KEY", "CanaryKey")
        .env("FLEET_SECRET", "CanarySecret")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the test binary should start; if it is faketime that is missing, scripts/setup installs it");
    let input = child.stdin.take().unwrap();
    (child, input)
}

pub(crate) fn correct_clock(_node: usize) -> Option<i32> {
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_processes_ask_for_one_token_a_lifetime() {
    let fleet = Fleet::start(NODES, millis(100), correct_clock).await;
    // At the start, a process that exceeds the time limit for Redis sends a separate POST.
    fleet.assert_one_post_per_lifetime_from(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_while_it_fetches_for_all_costs_one_more_post_and_no_error() {
    let mut fleet = Fleet::start(NODES, millis(400), correct_clock).await;
    fleet.wait_for_posts(1).await;
    // Kill it during its fetch, while the other processes start and wait for its token.
    let holder = fleet.requesters().remove(0);
    let holder: usize = holder.trim_start_matches("node-").parse().unwrap();
    let (mut killed, _) = fleet.nodes.remove(holder);
    killed.kill().unwrap();
    killed.wait().unwrap();
    fleet.assert_one_post_per_lifetime_from(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_comes_back_empty_costs_no_post_and_no_error() {
    let mut fleet = Fleet::start(NODES, millis(100), correct_clock).await;
    fleet.wait_for_posts(2).await;
    sleep(secs(1)).await;
    fleet.redis.kill();
    fleet.redis.restart().await;
    fleet.assert_one_post_per_lifetime_from(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_killed_for_good_fails_no_request() {
    let mut fleet = Fleet::start(NODES, millis(100), correct_clock).await;
    fleet.wait_for_posts(2).await;
    fleet.redis.kill();
    // Without Redis, each process requests its own tokens.
    fleet.wait_for_posts(2 + 2 * NODES).await;
    println!("{} requests succeeded", fleet.stop());
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_whose_clocks_differ_by_hours_share_and_never_use_a_token_past_its_life() {
    let clock = |node: usize| [None, Some(1), Some(-1), Some(24)][node % 4];
    let fleet = Fleet::start(12, millis(100), clock).await;
    fleet.assert_one_post_per_lifetime_from(1).await;
}
