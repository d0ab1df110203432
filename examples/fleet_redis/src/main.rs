//! Shared token: five processes share one access token through Redis, and no request fails.
//!
//! They run for 25 s against a fake Data Hub whose tokens have a lifetime of 8 s. After 10 s one process is killed,
//! and after 16 s Redis is.
//!
//! The example starts a separate `redis-server`, which must be installed. If `REDIS_URL` is set, it uses that server
//! and does not kill it.

use std::{
    env,
    error::Error,
    io::{BufRead, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use osdatahub_auth::{BearerAuth, FakeDataHub, ProjectCredentials, SharedSource, TokenEndpoint, TokenManager};
use reqwest_middleware::ClientBuilder;
use tokio::time::{interval, sleep};

type Failure = Box<dyn Error>;

const PROCESSES: usize = 5;
const KEY: &str = "a-project-api-key-for-the-fake-hub";
const SECRET: &str = "a-secret-for-it";

#[tokio::main]
async fn main() -> ExitCode {
    let Err(error) = run().await else {
        return ExitCode::SUCCESS;
    };
    eprintln!("{error}.");
    ExitCode::FAILURE
}

async fn run() -> Result<(), Failure> {
    match env::args().nth(1) {
        Some(hub) => send_requests(hub.parse()?, &env::var("REDIS_URL")?).await,
        None => run_fleet().await,
    }
}

/// Body of each process, as in any service: one manager, one layer, and requests.
async fn send_requests(hub: reqwest::Url, redis_url: &str) -> Result<(), Failure> {
    let endpoint = TokenEndpoint::builder(ProjectCredentials::new(KEY, SECRET)?)
        .token_url(hub.join("/oauth2/token/v1")?)
        .build()?;
    let shared = SharedSource::builder(endpoint, redis_url).build()?;
    let tokens = TokenManager::builder(shared).build()?;
    let client = ClientBuilder::new(reqwest::Client::builder().no_proxy().build()?)
        .with(BearerAuth::new(tokens).with_origin(hub.clone())?)
        .build();

    let url = hub.join("/search/names/v1/find?query=Bath")?;
    let mut ticks = interval(Duration::from_millis(100));
    loop {
        ticks.tick().await;
        match client.get(url.clone()).send().await {
            Ok(response) => println!("{}", response.status().as_u16()),
            Err(error) => println!("{error:?}"),
        }
    }
}

async fn run_fleet() -> Result<(), Failure> {
    let hub = FakeDataHub::start().await?;
    hub.set_credentials(KEY, SECRET);
    hub.set_lifetime(Duration::from_secs(8));
    let (mut redis, redis_url) = match env::var("REDIS_URL") {
        Ok(url) => (None, url),
        Err(_) => start_redis()?,
    };
    let counts = Arc::new(Counts::default());
    let mut fleet = Vec::new();
    for _ in 0..PROCESSES {
        fleet.push(start_process(hub.origin().as_str(), &redis_url, &counts)?);
    }

    println!("{PROCESSES} processes, each with a TokenManager, share tokens of 8 s. POSTs are token requests.\n");
    let start = Instant::now();
    let mut posts_while_shared = 0;
    for second in 1..=25 {
        sleep(Duration::from_secs(second).saturating_sub(start.elapsed())).await;
        let [answered, failed] = [&counts.answered, &counts.failed].map(|count| count.load(Ordering::Relaxed));
        println!(
            "{second:2} s  {answered:4} requests answered  {failed} failed  POSTs {}",
            hub.token_posts()
        );
        if second == 10 {
            fleet.pop();
            println!("      one process killed");
        }
        if second == 16 {
            posts_while_shared = hub.token_posts();
            if redis.take().is_some() {
                println!("      Redis killed: from now on each process fetches its own token");
            }
        }
    }

    let failed = counts.failed.load(Ordering::Relaxed);
    // One POST at the start, and then one after 6 to 7 s of each token's lifetime, each by one process for all.
    if failed > 0 || !(3..=4).contains(&posts_while_shared) {
        return Err(format!("expected 0 failures and 3 or 4 POSTs, not {failed} and {posts_while_shared}").into());
    }
    println!("\nAs expected: {posts_while_shared} POSTs by all processes in the first 16 s, and 0 failures.");
    Ok(())
}

#[derive(Default)]
struct Counts {
    answered: AtomicUsize,
    failed: AtomicUsize,
}

/// Child process that is killed on drop.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_process(hub: &str, redis_url: &str, counts: &Arc<Counts>) -> Result<Process, Failure> {
    let mut process = Command::new(env::current_exe()?)
        .arg(hub)
        // The URL may contain a password, and every user of the machine can read a command line.
        .env("REDIS_URL", redis_url)
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = process
        .stdout
        .take()
        .map(BufReader::new)
        .ok_or("the output of a process is not piped")?
        .lines();
    let counts = Arc::clone(counts);
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if line == "200" {
                counts.answered.fetch_add(1, Ordering::Relaxed);
            } else {
                counts.failed.fetch_add(1, Ordering::Relaxed);
                eprintln!("a request failed: {line}");
            }
        }
    });
    Ok(Process(process))
}

fn start_redis() -> Result<(Option<Process>, String), Failure> {
    let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let redis = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| format!("redis-server does not start ({error}): install it, or set REDIS_URL"))?;
    let redis = Process(redis);
    // Wait for the port: a process that cannot reach Redis fetches its own token, which would add to the POSTs.
    for _ in 0..500 {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Ok((Some(redis), format!("redis://127.0.0.1:{port}")));
        }
        thread::sleep(Duration::from_millis(10));
    }
    Err("redis-server did not open its port within 5 s".into())
}
