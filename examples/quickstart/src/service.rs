//! Service of the demonstration: sends traffic, shows a live status line, and prints a table at the end.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
    sync::Arc,
    time::{Duration, Instant},
};

use osdatahub_auth::{FakeDataHub, TokenManager, TokenStatus};
use reqwest_middleware::ClientWithMiddleware;
use tokio::{sync::Semaphore, task::JoinSet, time};

use crate::{Failure, with_causes};

/// Client that sends requests and counts their results by phase.
pub(crate) struct Service<'a> {
    pub(crate) hub: &'a FakeDataHub,
    tokens: TokenManager,
    client: ClientWithMiddleware,
    /// Limits requests to 50 at a time. This process has both ends of each connection, and some machines allow only
    /// 256 open files.
    connections: Arc<Semaphore>,
    /// Requests in flight. Each returns its row, its wait for a token, and its status or error.
    in_flight: JoinSet<(usize, Duration, Result<u16, String>)>,
    /// The first row is the total, the last one the current phase.
    rows: Vec<Row>,
    started: Instant,
    last_shown: Instant,
}

#[derive(Default)]
struct Row {
    name: &'static str,
    requests: usize,
    responses: BTreeMap<u16, usize>,
    errors: Vec<String>,
    posts: usize,
    failed_posts: u32,
    longest_wait: Duration,
}

impl<'a> Service<'a> {
    pub(crate) fn new(hub: &'a FakeDataHub, tokens: TokenManager, client: ClientWithMiddleware) -> Self {
        let mut service = Self {
            hub,
            tokens,
            client,
            connections: Arc::new(Semaphore::new(50)),
            in_flight: JoinSet::new(),
            rows: Vec::new(),
            started: Instant::now(),
            last_shown: Instant::now(),
        };
        service.begin_phase("total");
        service
    }

    pub(crate) fn begin_phase(&mut self, name: &'static str) {
        self.rows.push(Row { name, ..Row::default() });
    }

    pub(crate) async fn burst(&mut self, requests: usize) {
        (0..requests).for_each(|_| self.send());
        self.wait_for_responses().await;
    }

    pub(crate) async fn traffic_for(&mut self, duration: Duration) {
        let end = Instant::now() + duration;
        self.traffic_until(|_| Instant::now() >= end).await;
    }

    /// Sends 50 requests a second until `done`, which is checked before each request.
    pub(crate) async fn traffic_until(&mut self, done: impl Fn(&TokenStatus) -> bool) {
        let mut ticks = time::interval(Duration::from_millis(20));
        loop {
            ticks.tick().await;
            self.collect_results();
            if done(&self.tokens.status()) {
                return;
            }
            self.send();
        }
    }

    pub(crate) async fn wait_for_responses(&mut self) {
        while !self.in_flight.is_empty() {
            time::sleep(Duration::from_millis(20)).await;
            self.collect_results();
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
        self.in_flight.spawn(async move {
            // This call only measures the wait. `BearerAuth` asks again, and returns the error if there is one.
            let start = Instant::now();
            let _ = tokens.token().await;
            let wait = start.elapsed();
            let _connection = connections.acquire().await;
            let response = client.get(url).send().await;
            let status = response.map(|response| response.status().as_u16());
            (row, wait, status.map_err(|error| with_causes(&error)))
        });
    }

    fn collect_results(&mut self) {
        while let Some(Ok((row, wait, status))) = self.in_flight.try_join_next() {
            for row in [0, row] {
                let row = &mut self.rows[row];
                row.longest_wait = row.longest_wait.max(wait);
                match &status {
                    Ok(status) => *row.responses.entry(*status).or_default() += 1,
                    Err(error) => row.errors.push(error.clone()),
                }
            }
        }
        let status = self.tokens.status();
        let new_posts = self.hub.token_posts() - self.rows[0].posts;
        for row in [0, self.rows.len() - 1] {
            let row = &mut self.rows[row];
            row.posts += new_posts;
            row.failed_posts = row.failed_posts.max(status.consecutive_failures);
        }
        self.show_status(&status);
    }

    /// Updates the status line in place on a terminal. Otherwise prints a new line every second.
    fn show_status(&mut self, status: &TokenStatus) {
        let (interval_ms, start, end) = if io::stdout().is_terminal() {
            (50, "\r", "")
        } else {
            (1_000, "", "\n")
        };
        if self.last_shown.elapsed() < Duration::from_millis(interval_ms) {
            return;
        }
        self.last_shown = Instant::now();
        let (all, phase) = (&self.rows[0], &self.rows[self.rows.len() - 1]);
        let line = format!(
            "{:4.1} s  {:<13}  {:>8} token, {:.1} s left  {:>4} requests  POSTs {}  errors {}",
            self.started.elapsed().as_secs_f64(),
            phase.name,
            format!("{:?}", status.state).to_lowercase(),
            status.remaining.as_secs_f64(),
            all.requests,
            all.posts,
            all.errors.len(),
        );
        print!("{start}{line:<79}{end}");
        let _ = io::stdout().flush();
    }

    pub(crate) fn print_table(&self) {
        println!("\n\n{:34}token         longest wait", "");
        println!("{:15}requests  errors  POSTs  failed   for a token  responses", "");
        for row in self.rows[1..].iter().chain(&self.rows[..1]) {
            let responses = row.responses.iter().map(|(status, n)| format!("{n} × {status}"));
            println!(
                "{:13}  {:8}  {:6}  {:5}  {:6}  {:9.1} ms  {}",
                row.name,
                row.requests,
                row.errors.len(),
                row.posts,
                row.failed_posts,
                row.longest_wait.as_secs_f64() * 1_000.0,
                responses.collect::<Vec<_>>().join(", "),
            );
        }
        if let Some(error) = self.rows[0].errors.first() {
            println!("\nFirst error: {error}.");
        }
    }

    pub(crate) fn check(&self) -> Result<(), Failure> {
        let (all, burst) = (&self.rows[0], &self.rows[1]);
        let sent = all.requests - all.errors.len();
        let replayed = self.hub.api_requests().saturating_sub(sent);
        let only_200 = BTreeMap::from([(200, all.requests)]);
        let expectations = [
            ("1 token POST for the burst", burst.posts == 1),
            ("0 errors", all.errors.is_empty()),
            ("every response 200", all.responses == only_200),
            ("a 401 for the revoked token", replayed > 0),
            ("a failed token POST", all.failed_posts > 0),
        ];
        if expectations.iter().all(|(_, met)| *met) {
            println!("\nAs expected: 1 POST for the burst, 0 errors, every response 200.");
            println!("Requests with the revoked token, replayed without an error: {replayed}.");
            return Ok(());
        }
        let missed = expectations.iter().filter(|(_, met)| !met);
        let missed = missed.map(|(what, _)| *what).collect::<Vec<_>>().join("; ");
        Err(format!("\nExpected but not observed: {missed}.").into())
    }
}
