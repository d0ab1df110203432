//! Fleets of real processes that share one Redis: this binary, started many times over. Each test has the machine to
//! itself (`.config/nextest.toml`).

mod common;
#[path = "common/redis.rs"]
mod redis_server;

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

use common::{eventually, millis, secs};
use osdatahub_auth::{
    BearerAuth, FakeDataHub, ProjectCredentials, ReceivedRequest, SharedSource, TokenEndpoint, TokenManager,
};
use redis_server::RedisServer;
use reqwest_middleware::ClientBuilder;
use tokio::{task::JoinSet, time::sleep};

const NODES: usize = 50;
/// Stale from 3.0 to 3.4 s, unusable from 3.6 s.
const LIFE: Duration = secs(4);
/// Two requests that are closer together are not for one lifetime each. Leaves room for a slow machine.
const LIFETIME_AT_LEAST: Duration = millis(2_500);

/// What each process does: a request every 200 ms until its standard input ends. Then it says how it went.
#[tokio::test]
#[ignore = "one process of a fleet, which the other tests start"]
async fn node() {
    let variable = |name: &str| env::var(name).expect("this is started by the other tests");
    let [hub, redis, name] = ["FLEET_HUB", "FLEET_REDIS", "FLEET_NODE"].map(variable);
    let credentials = ProjectCredentials::new(variable("FLEET_KEY"), variable("FLEET_SECRET")).unwrap();
    let origin: reqwest::Url = hub.parse().unwrap();
    let endpoint = TokenEndpoint::builder(credentials)
        .token_url(origin.join("/oauth2/token/v1").unwrap())
        .request_timeout(secs(2))
        // So that the hub can tell who asked for a token.
        .http_client(reqwest::Client::builder().user_agent(name))
        .build()
        .unwrap();
    // With time for a machine on which fifty processes start at once.
    let shared = SharedSource::builder(endpoint, redis)
        .time_limit(secs(2))
        .build()
        .unwrap();
    let tokens = TokenManager::builder(shared).build().unwrap();
    // A token that has expired, or was never good, shows up as a 401.
    let auth = BearerAuth::new(tokens)
        .with_origin(origin.clone())
        .unwrap()
        .replay_rejected(false);
    let client = ClientBuilder::new(reqwest::Client::builder().no_proxy().build().unwrap())
        .with(auth)
        .build();

    let over = Arc::new(AtomicBool::new(false));
    std::thread::spawn({
        let over = over.clone();
        move || {
            let _ = std::io::stdin().read_line(&mut String::new());
            over.store(true, Ordering::Relaxed);
        }
    });
    let url = origin.join("/search/names/v1/find?query=Bath").unwrap();
    let (mut served, mut errors) = (0, Vec::new());
    while !over.load(Ordering::Relaxed) {
        match client.get(url.clone()).send().await {
            Ok(answer) if answer.status() == 200 => served += 1,
            Ok(answer) => errors.push(answer.status().to_string()),
            Err(error) => errors.push(format!("{error:?}")),
        }
        sleep(millis(200)).await;
    }
    println!("\nFLEET served={served} errors={} {:?}", errors.len(), errors.first());
}

struct Fleet {
    hub: Arc<FakeDataHub>,
    redis: RedisServer,
    nodes: Vec<(Child, ChildStdin)>,
    /// When each token was asked for.
    posts: Arc<Mutex<Vec<Instant>>>,
    _watch: JoinSet<()>,
}

impl Fleet {
    /// `clock` says for how many hours a node's wall clock is to be ahead, if it is to be wrong.
    async fn start(nodes: usize, answers_after: Duration, clock: fn(usize) -> Option<i32>) -> Self {
        let hub = Arc::new(FakeDataHub::start().await.unwrap());
        hub.set_credentials("CanaryKey", "CanarySecret");
        hub.set_lifetime(LIFE);
        hub.set_delay(answers_after);
        let redis = RedisServer::start().await;
        let posts = Arc::new(Mutex::new(Vec::new()));
        let mut watch = JoinSet::new();
        watch.spawn({
            let (hub, posts) = (hub.clone(), posts.clone());
            async move {
                loop {
                    let seen = hub.token_posts();
                    posts.lock().unwrap().resize(seen, Instant::now());
                    sleep(millis(10)).await;
                }
            }
        });
        let nodes = (0..nodes).map(|node| launch(&hub, &redis, node, clock(node))).collect();
        Self {
            hub,
            redis,
            nodes,
            posts,
            _watch: watch,
        }
    }

    async fn until_posts(&self, number: usize) {
        let enough = async || (self.hub.token_posts() >= number).then_some(());
        eventually("the next token is asked for", enough).await;
    }

    /// Those that asked for a token, by name.
    fn who_asked(&self) -> Vec<String> {
        let asked = |request: &ReceivedRequest| request.path.starts_with("/oauth2/");
        let received = self.hub.received();
        let asked = received.iter().filter(|request| asked(request));
        asked
            .map(|request| request.headers["user-agent"].to_str().unwrap().to_owned())
            .collect()
    }

    /// Lives on until its fifth token, and ends. From this one on, counted from none, each was asked for once.
    async fn asks_once_a_lifetime_from(self, first: usize) {
        self.until_posts(5).await;
        let posts = self.posts.lock().unwrap()[first..].to_vec();
        let gaps: Vec<_> = posts.windows(2).map(|pair| pair[1] - pair[0]).collect();
        println!("token requests {gaps:?} apart, {} requests answered", self.end());
        assert!(gaps.iter().all(|gap| *gap >= LIFETIME_AT_LEAST), "{gaps:?}");
    }

    /// Ends all processes, and says how many requests were answered. Every one must have been.
    fn end(mut self) -> usize {
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
            let report = report.expect("a node that was not killed says how it went");
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

fn launch(hub: &FakeDataHub, redis: &RedisServer, node: usize, hours_ahead: Option<i32>) -> (Child, ChildStdin) {
    let this = env::current_exe().unwrap();
    let mut command = if let Some(hours) = hours_ahead {
        let mut command = Command::new("faketime");
        command.args(["-f", &format!("{hours:+}h")]).arg(this);
        // The wall clock alone: nobody can set the other.
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        command
    } else {
        Command::new(this)
    };
    let mut child = command
        .args(["node", "--exact", "--ignored", "--nocapture"])
        .env("FLEET_HUB", hub.origin().as_str())
        .env("FLEET_REDIS", redis.url())
        .env("FLEET_NODE", format!("node-{node}"))
        .env("FLEET_KEY", "CanaryKey")
        .env("FLEET_SECRET", "CanarySecret")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("this binary, or faketime, which scripts/setup installs");
    let input = child.stdin.take().unwrap();
    (child, input)
}

fn right(_node: usize) -> Option<i32> {
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_processes_ask_for_one_token_a_lifetime() {
    let fleet = Fleet::start(NODES, millis(100), right).await;
    // One more may come at the start, from a process that did not get to Redis in time.
    fleet.asks_once_a_lifetime_from(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_while_it_fetches_for_all_costs_one_more_post_and_no_error() {
    let mut fleet = Fleet::start(NODES, millis(400), right).await;
    fleet.until_posts(1).await;
    // While the others start and wait for what it brings.
    let holder = fleet.who_asked().remove(0);
    let holder: usize = holder.trim_start_matches("node-").parse().unwrap();
    let (mut killed, _) = fleet.nodes.remove(holder);
    killed.kill().unwrap();
    killed.wait().unwrap();
    fleet.asks_once_a_lifetime_from(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_comes_back_empty_costs_no_post_and_no_error() {
    let mut fleet = Fleet::start(NODES, millis(100), right).await;
    fleet.until_posts(2).await;
    sleep(secs(1)).await;
    fleet.redis.kill();
    fleet.redis.restart().await;
    fleet.asks_once_a_lifetime_from(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_killed_for_good_fails_no_request() {
    let mut fleet = Fleet::start(NODES, millis(100), right).await;
    fleet.until_posts(2).await;
    fleet.redis.kill();
    // Each for itself now.
    fleet.until_posts(2 + 2 * NODES).await;
    println!("{} requests answered", fleet.end());
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_whose_clocks_differ_by_hours_share_and_never_use_a_token_past_its_life() {
    let wrong = |node: usize| [None, Some(1), Some(-1), Some(24)][node % 4];
    let fleet = Fleet::start(12, millis(100), wrong).await;
    fleet.asks_once_a_lifetime_from(1).await;
}
