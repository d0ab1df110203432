//! Five processes that share one access token through Redis, for 25 s, against a fake Data Hub whose tokens live for 8 s.
//! Half-way one of the processes is killed, and later Redis is; no request fails.
//!
//! Starts a `redis-server` of its own, which has to be installed, or uses the one that `REDIS_URL` names and leaves it
//! alone.

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
        Some(hub) => serve(hub.parse()?, &env::var("REDIS_URL")?).await,
        None => play().await,
    }
}

/// What each process does, as any service would: one manager, one layer, and requests.
async fn serve(hub: reqwest::Url, redis_url: &str) -> Result<(), Failure> {
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
            Ok(answer) => println!("{}", answer.status().as_u16()),
            Err(error) => println!("{error:?}"),
        }
    }
}

async fn play() -> Result<(), Failure> {
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
    let mut shared_posts = 0;
    for second in 1..=25 {
        sleep(Duration::from_secs(second).saturating_sub(start.elapsed())).await;
        let [answered, failed] = [&counts.answered, &counts.failed].map(|count| count.load(Ordering::Relaxed));
        println!(
            "{second:2} s  {answered:4} requests answered  {failed} failed  POSTs {}",
            hub.token_posts()
        );
        if second == 10 {
            fleet.pop();
            println!("      one process is killed");
        }
        if second == 16 {
            shared_posts = hub.token_posts();
            if redis.take().is_some() {
                println!("      Redis is killed: now each process asks for itself");
            }
        }
    }

    let failed = counts.failed.load(Ordering::Relaxed);
    // At the start, and once in 6 to 7 s of each token's life; each by one process for all.
    if failed > 0 || !(3..=4).contains(&shared_posts) {
        return Err(format!("expected 0 failures and 3 shared tokens, not {failed} and {shared_posts}").into());
    }
    println!("\nAs expected: {shared_posts} POSTs in the first 16 s for all of them, and 0 failures.");
    Ok(())
}

#[derive(Default)]
struct Counts {
    answered: AtomicUsize,
    failed: AtomicUsize,
}

/// Another process, killed when it is dropped.
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
        // Not on the command line, which everybody on the machine can read: the URL may hold a password.
        .env("REDIS_URL", redis_url)
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = process
        .stdout
        .take()
        .map(BufReader::new)
        .ok_or("its output is piped")?
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
    // A process that finds no Redis yet asks for a token of its own.
    for _ in 0..500 {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Ok((Some(redis), format!("redis://127.0.0.1:{port}")));
        }
        thread::sleep(Duration::from_millis(10));
    }
    Err("redis-server did not open its port within 5 s".into())
}
