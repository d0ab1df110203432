//! The service of the demonstration: traffic, a live line, and a table at the end.

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

/// Sends requests, and keeps count.
pub(crate) struct Service<'a> {
    pub(crate) hub: &'a FakeDataHub,
    tokens: TokenManager,
    client: ClientWithMiddleware,
    /// At most 50 requests at a time: both ends of a connection are ours here, and a laptop may allow 256 open files.
    connections: Arc<Semaphore>,
    /// Each request's row, its wait for a token, and its status or error.
    under_way: JoinSet<(usize, Duration, Result<u16, String>)>,
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
            under_way: JoinSet::new(),
            rows: Vec::new(),
            started: Instant::now(),
            shown: Instant::now(),
        };
        service.begin("altogether");
        service
    }

    pub(crate) fn begin(&mut self, name: &'static str) {
        self.rows.push(Row { name, ..Row::default() });
    }

    pub(crate) async fn burst(&mut self, requests: usize) {
        (0..requests).for_each(|_| self.send());
        self.wait_for_answers().await;
    }

    pub(crate) async fn traffic_for(&mut self, duration: Duration) {
        let end = Instant::now() + duration;
        self.traffic_until(|_| Instant::now() >= end).await;
    }

    /// Fifty requests a second. `done` is asked in front of each, so that no request comes between it and what follows.
    pub(crate) async fn traffic_until(&mut self, done: impl Fn(&TokenStatus) -> bool) {
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

    pub(crate) async fn wait_for_answers(&mut self) {
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
            // Only to measure the wait: BearerAuth asks for itself, and reports the error if there is one.
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
            row.failed_posts = row.failed_posts.max(status.consecutive_failures);
        }
        self.show_line(&status);
    }

    /// One line that changes in place; in a log, a new one every second.
    fn show_line(&mut self, status: &TokenStatus) {
        let (pause, start, end) = if io::stdout().is_terminal() {
            (50, "\r", "")
        } else {
            (1_000, "", "\n")
        };
        if self.shown.elapsed() < Duration::from_millis(pause) {
            return;
        }
        self.shown = Instant::now();
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
        println!("{:15}requests  errors  POSTs  failed   for a token  answers", "");
        for row in self.rows[1..].iter().chain(&self.rows[..1]) {
            let answers = row.answers.iter().map(|(status, n)| format!("{n} × {status}"));
            println!(
                "{:13}  {:8}  {:6}  {:5}  {:6}  {:9.1} ms  {}",
                row.name,
                row.requests,
                row.errors.len(),
                row.posts,
                row.failed_posts,
                row.longest_wait.as_secs_f64() * 1_000.0,
                answers.collect::<Vec<_>>().join(", "),
            );
        }
        if let Some(error) = self.rows[0].errors.first() {
            println!("\nThe first error: {error}.");
        }
    }

    pub(crate) fn check(&self) -> Result<(), Failure> {
        let (all, burst) = (&self.rows[0], &self.rows[1]);
        let sent = all.requests - all.errors.len();
        let repeated = self.hub.api_requests().saturating_sub(sent);
        let only_200s = BTreeMap::from([(200, all.requests)]);
        let expectations = [
            ("1 token POST for the burst", burst.posts == 1),
            ("0 errors", all.errors.is_empty()),
            ("every answer 200", all.answers == only_200s),
            ("a 401 for the revoked token", repeated > 0),
            ("a token POST that failed", all.failed_posts > 0),
        ];
        if expectations.iter().all(|(_, met)| *met) {
            println!("\nAs expected: 1 POST for the burst, 0 errors, every answer 200.");
            println!("Requests that met the revoked token, and were repeated unseen: {repeated}.");
            return Ok(());
        }
        let missed = expectations.iter().filter(|(_, met)| !met);
        let missed = missed.map(|(what, _)| *what).collect::<Vec<_>>().join("; ");
        Err(format!("\nExpected, but not so: {missed}.").into())
    }
}
