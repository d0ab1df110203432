//! `cargo run --example quickstart`: half a minute in the life of a service that calls Ordnance Survey (OS).
//!
//! As it is, it needs neither credentials nor a network: a fake Data Hub on loopback gives tokens that live for 8 s.
//! With `OS_PROJECT_API_KEY` and `OS_PROJECT_API_SECRET` set it asks the real OS Names API instead.

use std::{
    collections::BTreeMap,
    env,
    error::Error as StdError,
    io::{self, IsTerminal, Write},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use osdatahub_auth::{
    BearerAuth, Error, ErrorKind, FakeAnswer, FakeDataHub, ProjectCredentials, TokenEndpoint,
    TokenManager, TokenState, TokenStatus,
};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use tokio::{sync::Semaphore, task::JoinSet, time};

type Result<T> = std::result::Result<T, Box<dyn StdError>>;

const NAMES_API: &str = "https://api.os.uk/search/names/v1/find?query=Bath&maxresults=5";

#[tokio::main]
async fn main() -> ExitCode {
    let variables = ["OS_PROJECT_API_KEY", "OS_PROJECT_API_SECRET"];
    let outcome = if variables.iter().any(|name| env::var_os(name).is_some()) {
        ask_os().await
    } else {
        demonstrate().await
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", explain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// All that a service needs: one manager for its project, one layer on its client, and requests as ever.
async fn ask_os() -> Result<()> {
    let tokens = TokenManager::new(ProjectCredentials::from_env()?)?;
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(BearerAuth::new(tokens))
        .build();
    let answer = client.get(NAMES_API).send().await?;

    let status = answer.status();
    let body = answer.text().await?;
    let Some(names) = names_in(&body) else {
        let start: String = body.chars().take(300).collect();
        return Err(format!("The OS Names API answered {status}, without any names. Is it one of your project's APIs? It said:\n{start}").into());
    };
    println!("The OS Names API knows, for \"Bath\": {}", names.join(", "));
    Ok(())
}

fn names_in(body: &str) -> Option<Vec<String>> {
    let body: serde_json::Value = serde_json::from_str(body).ok()?;
    let entries = body["results"].as_array()?.iter();
    entries
        .map(|result| result["GAZETTEER_ENTRY"]["NAME1"].as_str().map(Into::into))
        .collect()
}

/// Why there was no answer, and what to do about it.
fn explain(error: &(dyn StdError + 'static)) -> String {
    // No token, no request: the middleware's error then holds one of this library.
    let Some(reason) = Error::find_in(error) else {
        return with_causes(error);
    };
    let what_to_do = match reason.kind() {
        ErrorKind::Configuration => {
            "Set both OS_PROJECT_API_KEY and OS_PROJECT_API_SECRET, or neither of them to see the demonstration"
        }
        ErrorKind::CredentialsRejected => {
            "Compare OS_PROJECT_API_KEY and OS_PROJECT_API_SECRET with those of your project on https://osdatahub.os.uk"
        }
        ErrorKind::RateLimited => "Try again in a minute",
        ErrorKind::Unavailable | ErrorKind::Timeout => {
            "Check the network (and HTTPS_PROXY, if there is a proxy), and try again"
        }
        _ => "Check what stands between this machine and https://api.os.uk, such as a proxy",
    };
    let why = with_causes(reason);
    format!("There is no access token: {why}.\n{what_to_do}.")
}

fn with_causes(error: &(dyn StdError + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |&error| error.source());
    let messages: Vec<_> = chain.map(ToString::to_string).collect();
    messages.join(": ")
}

/// The same against a fake Data Hub, through fair weather and foul.
async fn demonstrate() -> Result<()> {
    let hub = FakeDataHub::start().await?;
    hub.set_lifetime(Duration::from_secs(8));
    hub.set_delay(Duration::from_millis(200));

    let endpoint = TokenEndpoint::builder(hub.credentials())
        .token_url(hub.token_url())
        .build()?;
    // Renewed at half of its life, earlier than by default, to leave room for the outage below.
    let tokens = TokenManager::builder(endpoint)
        .refresh_at(0.5..=0.5)
        .build()?;
    let client = ClientBuilder::new(hub.client_builder().build()?)
        .with(BearerAuth::new(tokens.clone()).with_origin(hub.origin())?)
        .build();

    let mut service = Service::new(&hub, tokens, client);
    let played = time::timeout(Duration::from_secs(60), play(&mut service)).await;
    service.print_table();
    played.map_err(|_| "Expected it all to take 25 s; gave up after 60 s.")?;
    service.check()
}

async fn play(service: &mut Service<'_>) {
    let hub = service.hub;
    let refreshed = |status: &TokenStatus| status.state == TokenState::Fresh;
    let refresh_is_due =
        |status: &TokenStatus| status.state == TokenState::Stale && status.next_attempt.is_some();

    service.begin("cold burst");
    service.burst(1_000).await;

    service.begin("steady traffic");
    let four_posts = |status: &TokenStatus| hub.token_posts() >= 4 && refreshed(status);
    service.traffic_until(four_posts).await;

    service.begin("token revoked");
    // A 401 to a token that is younger than 2 s, a quarter of its life, would be taken for another trouble than its age.
    service.traffic_for(Duration::from_millis(2_500)).await;
    hub.revoke_all();
    service.traffic_until(refresh_is_due).await;

    service.begin("endpoint down");
    hub.fail(FakeAnswer::new(503, ""));
    // The token serves for 3.5 s more, and attempts are about a second apart: one of them comes after this and in time.
    service.traffic_for(Duration::from_millis(1_800)).await;
    hub.recover();
    service.traffic_until(refreshed).await;
    service.traffic_for(Duration::from_secs(2)).await;
    service.wait_for_answers().await;
}

/// Sends requests, and keeps count.
struct Service<'a> {
    hub: &'a FakeDataHub,
    tokens: TokenManager,
    client: ClientWithMiddleware,
    /// File descriptors are few on a laptop.
    connections: Arc<Semaphore>,
    /// For each request its row, its wait for a token, and its status or error.
    under_way: JoinSet<(usize, Duration, std::result::Result<u16, String>)>,
    /// The first row counts everything, the last one the present phase.
    rows: Vec<Row>,
    started: Instant,
    shown: Instant,
}

#[derive(Default)]
struct Row {
    name: &'static str,
    requests: usize,
    answers: BTreeMap<u16, usize>,
    errors: Vec<String>,
    posts: usize,
    failed_posts: usize,
    longest_wait: Duration,
}

impl<'a> Service<'a> {
    fn new(hub: &'a FakeDataHub, tokens: TokenManager, client: ClientWithMiddleware) -> Self {
        let mut service = Self {
            hub,
            tokens,
            client,
            connections: Arc::new(Semaphore::new(100)),
            under_way: JoinSet::new(),
            rows: Vec::new(),
            started: Instant::now(),
            shown: Instant::now(),
        };
        service.begin("altogether");
        service
    }

    fn begin(&mut self, name: &'static str) {
        let row = Row {
            name,
            ..Row::default()
        };
        self.rows.push(row);
    }

    async fn burst(&mut self, requests: usize) {
        for _ in 0..requests {
            self.send();
        }
        self.wait_for_answers().await;
    }

    async fn traffic_for(&mut self, duration: Duration) {
        let end = Instant::now() + duration;
        self.traffic_until(|_| Instant::now() >= end).await;
    }

    /// Fifty requests a second. `done` is asked in front of each, so that nothing comes between it and what follows.
    async fn traffic_until(&mut self, done: impl Fn(&TokenStatus) -> bool) {
        let mut ticks = time::interval(Duration::from_millis(20));
        loop {
            ticks.tick().await;
            self.keep_count();
            if done(&self.tokens.status()) {
                return;
            }
            self.send();
        }
    }

    async fn wait_for_answers(&mut self) {
        while !self.under_way.is_empty() {
            time::sleep(Duration::from_millis(20)).await;
            self.keep_count();
        }
    }

    fn send(&mut self) {
        let (tokens, client) = (self.tokens.clone(), self.client.clone());
        let connections = Arc::clone(&self.connections);
        let url = self.hub.url("/search/names/v1/find?query=Bath");
        let row = self.rows.len() - 1;
        for row in [0, row] {
            self.rows[row].requests += 1;
        }
        self.under_way.spawn(async move {
            // Only to measure the wait: BearerAuth asks again, and reports the error if there is one.
            let asked = Instant::now();
            let _ = tokens.token().await;
            let wait = asked.elapsed();
            let _connection = connections.acquire().await;
            let answer = client.get(url).send().await;
            let status = answer.map(|answer| answer.status().as_u16());
            (row, wait, status.map_err(|error| with_causes(&error)))
        });
    }

    fn keep_count(&mut self) {
        while let Some(Ok((row, wait, status))) = self.under_way.try_join_next() {
            for row in [0, row] {
                let row = &mut self.rows[row];
                row.longest_wait = row.longest_wait.max(wait);
                match &status {
                    Ok(status) => *row.answers.entry(*status).or_default() += 1,
                    Err(error) => row.errors.push(error.clone()),
                }
            }
        }
        let status = self.tokens.status();
        let new_posts = self.hub.token_posts() - self.rows[0].posts;
        for row in [0, self.rows.len() - 1] {
            let row = &mut self.rows[row];
            row.posts += new_posts;
            row.failed_posts = row.failed_posts.max(status.consecutive_failures as usize);
        }
        self.show_line(&status);
    }

    /// One line that changes in place; in a log, a new one every second.
    fn show_line(&mut self, status: &TokenStatus) {
        let terminal = io::stdout().is_terminal();
        let pause = Duration::from_millis(if terminal { 50 } else { 1_000 });
        if self.shown.elapsed() < pause {
            return;
        }
        self.shown = Instant::now();
        let [all, .., phase] = &self.rows[..] else {
            return;
        };
        let line = format!(
            "{:4.1} s  {:<14}  token {:<8} {:3.1} s left  {:4} requests  {} POSTs  {} errors",
            self.started.elapsed().as_secs_f64(),
            phase.name,
            format!("{:?}", status.state).to_lowercase(),
            status.remaining.as_secs_f64(),
            all.requests,
            all.posts,
            all.errors.len(),
        );
        if terminal {
            print!("\r{line:<79}");
            let _ = io::stdout().flush();
        } else {
            println!("{line}");
        }
    }

    fn print_table(&self) {
        if io::stdout().is_terminal() {
            print!("\r{:<79}\r", "");
        }
        println!(
            "\n{:<14}  {:>8}  {:<16}  {:>6}  {:<16}  longest wait for a token",
            "", "requests", "answers", "errors", "token POSTs"
        );
        for row in self.rows[1..].iter().chain(&self.rows[..1]) {
            let answers: Vec<_> = row
                .answers
                .iter()
                .map(|(status, count)| format!("{count} × {status}"))
                .collect();
            let posts = match row.failed_posts {
                0 => row.posts.to_string(),
                failed => format!("{} ({failed} failed)", row.posts),
            };
            println!(
                "{:<14}  {:>8}  {:<16}  {:>6}  {posts:<16}  {:>10.1} ms",
                row.name,
                row.requests,
                answers.join(", "),
                row.errors.len(),
                row.longest_wait.as_secs_f64() * 1_000.0
            );
        }
        println!();
    }

    fn repeated(&self) -> usize {
        self.hub
            .api_requests()
            .saturating_sub(self.rows[0].requests)
    }

    fn check(&self) -> Result<()> {
        let all = &self.rows[0];
        let burst = &self.rows[1];
        let ok = all.answers.get(&200).copied().unwrap_or_default();
        let expectations = [
            (
                burst.posts == 1,
                format!("1 token POST for the burst, not {}", burst.posts),
            ),
            (
                all.errors.is_empty(),
                format!(
                    "no errors, not {}; the first: {}",
                    all.errors.len(),
                    all.errors.first().map_or("", |e| e)
                ),
            ),
            (
                ok == all.requests,
                format!("{} answers of 200, not {ok}", all.requests),
            ),
            (
                self.repeated() > 0,
                "a request that the hub refused with the revoked token".into(),
            ),
            (
                all.failed_posts > 0,
                "a token POST that failed while the endpoint was down".into(),
            ),
        ];
        let missed: Vec<_> = expectations
            .into_iter()
            .filter(|(met, _)| !met)
            .map(|(_, what)| format!("Expected {what}."))
            .collect();
        if !missed.is_empty() {
            return Err(missed.join("\n").into());
        }
        println!("As expected.");
        Ok(())
    }
}
