//! Table 2: behaviour with a token lifetime of 299 s, in real time, with a separate endpoint per instance.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use http::HeaderMap;
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{sleep_until, timeout_at},
};

use crate::{
    endpoint::{Behaviour, Endpoint},
    peers::{Failure, Peer, for_each_peer},
    report,
};

/// Lifetime of OS's tokens.
const LIFETIME: Duration = Duration::from_secs(299);
const CALLERS: usize = 100;
const WINDOW: Duration = Duration::from_mins(10);
const DOWN_FROM: Duration = Duration::from_mins(1);
/// Extra time for the last callers to get their results.
const GRACE: Duration = Duration::from_mins(1);
/// Instances of each contestant, because some refresh at a random time.
const INSTANCES: usize = 5;

/// Results of one contestant: a row of the table.
pub struct Row {
    name: String,
    rule: &'static str,
    parses_os: &'static str,
    cold_bursts: Result<Vec<u64>, Failure>,
    real_time: Option<Windows>,
}

/// Results of all instances, with an endpoint that stays up and with one that goes down.
struct Windows {
    up: Result<Vec<Window>, Failure>,
    down: Result<Vec<Window>, Failure>,
}

/// Result of 600 s at one request a second.
#[derive(Default)]
struct Window {
    posts: u64,
    /// Expiry of the last token that it got.
    last_expiry: Duration,
    /// Time of the first error that a caller got.
    first_error: Option<Duration>,
    /// Number of calls that got an expired token.
    sent_past_expiry: u64,
    /// Longest wait of the calls that ended.
    longest_wait: Duration,
    /// Number of calls that did not end within the grace time.
    hung: usize,
}

/// Measures all rows: the bursts one contestant after another, the 600 s all at once.
///
/// # Panics
/// If a contestant panics.
pub async fn all(real_time: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    for burst in for_each_peer!(burst_of()) {
        rows.push(burst.await);
    }
    if real_time {
        for (row, windows) in rows.iter_mut().zip(for_each_peer!(windows_of())) {
            row.real_time = Some(windows.await.expect("the task does not panic"));
        }
    }
    rows
}

fn burst_of<P: Peer>() -> Pin<Box<dyn Future<Output = Row> + Send>> {
    Box::pin(async {
        Row {
            name: report::name::<P>(),
            rule: P::RULE,
            parses_os: parses_os::<P>().await,
            cold_bursts: cold_bursts::<P>().await,
            real_time: None,
        }
    })
}

/// Whether it can parse a response as OS sends it.
async fn parses_os<P: Peer>() -> &'static str {
    if !P::PARSES_RESPONSE {
        return "–";
    }
    let behaviour = Behaviour {
        quoted_numbers: true,
        ..Behaviour::healthy(LIFETIME)
    };
    let authorized = async {
        let endpoint = Endpoint::start(behaviour).await?;
        P::start(&endpoint).await?.authorize(&mut HeaderMap::new()).await
    };
    if authorized.await.is_ok() { "yes" } else { "no" }
}

async fn cold_bursts<P: Peer>() -> Result<Vec<u64>, Failure> {
    let mut posts = Vec::new();
    for _ in 0..INSTANCES {
        posts.push(cold_burst::<P>().await?);
    }
    Ok(posts)
}

/// POSTs for a thundering herd of callers before there is a token.
async fn cold_burst<P: Peer>() -> Result<u64, Failure> {
    let endpoint = Endpoint::start(Behaviour::healthy(LIFETIME)).await?;
    let peer = Arc::new(P::start(&endpoint).await?);
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let peer = Arc::clone(&peer);
        callers.spawn(async move { peer.authorize(&mut HeaderMap::new()).await });
    }
    while let Some(caller) = callers.join_next().await {
        caller??;
    }
    Ok(endpoint.posts())
}

fn windows_of<P: Peer>() -> JoinHandle<Windows> {
    tokio::spawn(async {
        let (up, down) = tokio::join!(instances::<P>(None), instances::<P>(Some(DOWN_FROM)));
        Windows { up, down }
    })
}

async fn instances<P: Peer>(down_after: Option<Duration>) -> Result<Vec<Window>, Failure> {
    let mut instances = JoinSet::new();
    for _ in 0..INSTANCES {
        instances.spawn(window::<P>(down_after));
    }
    instances.join_all().await.into_iter().collect()
}

/// One call at the start, then one a second on the half second, so that no call coincides with an expiry.
async fn window<P: Peer>(down_after: Option<Duration>) -> Result<Window, Failure> {
    let start = Instant::now();
    let behaviour = Behaviour {
        down_from: down_after.map(|after| start + after),
        ..Behaviour::healthy(LIFETIME)
    };
    let endpoint = Arc::new(Endpoint::start(behaviour).await?);
    let peer = Arc::new(P::start(&endpoint).await?);
    let mut window = Window::default();
    let mut calls = JoinSet::new();
    calls.spawn(call(Arc::clone(&peer), Arc::clone(&endpoint)));
    for second in 1..WINDOW.as_secs() {
        sleep_until((start + Duration::from_secs(second) + Duration::from_millis(500)).into()).await;
        // Each call is a separate task, so that a waiting call does not delay the next.
        calls.spawn(call(Arc::clone(&peer), Arc::clone(&endpoint)));
        while let Some(call) = calls.try_join_next() {
            window.count(start, &call??);
        }
    }
    sleep_until((start + WINDOW).into()).await;
    window.posts = endpoint.posts();
    let last_expiry = endpoint.last_expiry().ok_or("the endpoint issued no token")?;
    window.last_expiry = last_expiry - start;
    while let Ok(Some(call)) = timeout_at((start + WINDOW + GRACE).into(), calls.join_next()).await {
        window.count(start, &call??);
    }
    window.hung = calls.len();
    Ok(window)
}

/// Outcome of one call.
struct Outcome {
    started: Instant,
    ended: Instant,
    /// Whether the token had expired; `None` if the call failed.
    expired: Option<bool>,
}

async fn call<P: Peer>(peer: Arc<P>, endpoint: Arc<Endpoint>) -> Result<Outcome, Failure> {
    let mut headers = HeaderMap::new();
    let started = Instant::now();
    let result = peer.authorize(&mut headers).await;
    let ended = Instant::now();
    let expired = result.is_ok().then(|| endpoint.has_expired(&headers)).transpose()?;
    Ok(Outcome {
        started,
        ended,
        expired,
    })
}

impl Window {
    fn count(&mut self, start: Instant, outcome: &Outcome) {
        self.longest_wait = self.longest_wait.max(outcome.ended - outcome.started);
        if let Some(expired) = outcome.expired {
            self.sent_past_expiry += u64::from(expired);
        } else {
            let at = outcome.ended - start;
            self.first_error = Some(self.first_error.map_or(at, |first| first.min(at)));
        }
    }
}

/// Prints table 2.
pub fn table(rows: &[Row], real_time: bool) {
    println!("## 2. Behaviour with a token lifetime of {} s\n", LIFETIME.as_secs());
    let mut columns = vec!["parses OS's response", "POSTs, 100 callers at once"];
    if real_time {
        columns.extend([
            "POSTs, 600 s at 1 request/s",
            "endpoint down from 60 s: last token expires",
            "first error",
            "POSTs",
            "sent past expiry",
            "longest wait",
        ]);
    }
    println!("| | {} |\n|---|{}", columns.join(" | "), "--:|".repeat(columns.len()));
    for row in rows {
        let burst = cell(row.cold_bursts.as_ref(), |posts| range(posts.iter().copied()));
        print!("| {} | {} | {burst} |", row.name, row.parses_os);
        if let Some(Windows { up, down }) = &row.real_time {
            let columns = [
                cell(up.as_ref(), |windows| range(windows.iter().map(|window| window.posts))),
                cell(down.as_ref(), |windows| {
                    range(windows.iter().map(|window| window.last_expiry.as_secs())) + " s"
                }),
                cell(down.as_ref(), |windows| first_error(windows)),
                cell(down.as_ref(), |windows| {
                    range(windows.iter().map(|window| window.posts))
                }),
                cell(down.as_ref(), |windows| {
                    range(windows.iter().map(|window| window.sent_past_expiry))
                }),
                cell(down.as_ref(), |windows| longest_wait(windows)),
            ];
            print!(" {} |", columns.join(" | "));
        }
        println!();
    }
    println!("\nWhen each refreshes, according to its source:\n\n| | |\n|---|---|");
    for row in rows {
        println!("| {} | {} |", row.name, row.rule);
    }
    print!("{NOTES}");
    if real_time {
        print!("{WINDOW_NOTES}");
    } else {
        println!("\nThe columns for 600 s take 12 minutes to measure: `cargo run --release -- --real-time`.");
    }
}

const NOTES: &str = "
Everything is measured in real time, with five instances of each. A range is the least and the most of the five. Each
instance has a separate endpoint, which responds after 50 ms with `expires_in` as a JSON number, which all can parse. OS
sends a string, and so does the endpoint for the first column. A dash means that the user writes the parsing code, as by
hand and for `azure_core`'s credential. `aliri_tokens` and `middle` fetch their first token on construction, before the
first call.
";

const WINDOW_NOTES: &str = "
All contestants run during the same 600 s. An endpoint that is down returns 503. An instance that refreshed shortly
before is served for longer. The endpoint's own clock decides when a token has expired. The longest wait is that of any
caller of an instance whose endpoint goes down, before or after.
";

fn cell<T>(result: Result<&T, &Failure>, show: impl FnOnce(&T) -> String) -> String {
    match result {
        Ok(value) => show(value),
        Err(why) => format!("failed: {why}"),
    }
}

fn first_error(windows: &[Window]) -> String {
    let first_errors = windows.iter().filter_map(|window| window.first_error);
    let without = windows.len() - first_errors.clone().count();
    if without == windows.len() {
        return "none".to_owned();
    }
    let seconds = range(first_errors.map(|at| at.as_secs()));
    match without {
        0 => format!("{seconds} s"),
        without => format!("{seconds} s, none in {without}"),
    }
}

fn longest_wait(windows: &[Window]) -> String {
    let longest = windows
        .iter()
        .map(|window| window.longest_wait)
        .max()
        .unwrap_or_default();
    let longest = format!("{:.2} s", longest.as_secs_f64());
    match windows.iter().map(|window| window.hung).max() {
        None | Some(0) => longest,
        Some(hung) => format!("{longest}, and {hung} calls never ended"),
    }
}

/// Range from the least to the most, or the single value if all are equal.
fn range(values: impl Iterator<Item = u64> + Clone) -> String {
    let least = values.clone().min().unwrap_or_default();
    let most = values.max().unwrap_or_default();
    if least == most {
        least.to_string()
    } else {
        format!("{least}–{most}")
    }
}
