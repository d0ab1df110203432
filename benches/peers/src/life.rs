//! What does each do with a token that lives for 299 s? In real time, against an endpoint of its own.

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
    endpoint::{Endpoint, Manners},
    peers::{Failure, Peer, for_each_peer},
    report,
};

/// As long as OS's tokens live.
const LIFE: Duration = Duration::from_secs(299);
const CALLERS: usize = 100;
const WINDOW: Duration = Duration::from_mins(10);
const DIES_AT: Duration = Duration::from_mins(1);
/// What the last callers are given to get their answers.
const GRACE: Duration = Duration::from_mins(1);
/// Of each contestant, as some draw when to renew.
const INSTANCES: usize = 5;

/// One contestant's row.
pub struct Life {
    name: String,
    rule: &'static str,
    reads_os: &'static str,
    cold_bursts: Result<Vec<u64>, Failure>,
    real_time: Option<Windows>,
}

/// What its instances came to, with an endpoint that lives and with one that dies.
struct Windows {
    alive: Result<Vec<Window>, Failure>,
    dying: Result<Vec<Window>, Failure>,
}

/// What came of 600 s at one request a second.
#[derive(Default)]
struct Window {
    posts: u64,
    /// When the last token expires that it got.
    last_expiry: Duration,
    /// When a caller first got an error.
    first_error: Option<Duration>,
    /// Calls that got a token which had expired.
    sent_past_expiry: u64,
    /// Of those that ended.
    longest_wait: Duration,
    /// Calls that did not end in good time.
    hung: usize,
}

/// All rows: the bursts one contestant after the other, the 600 s all at once.
///
/// # Panics
/// If a contestant does.
pub async fn all(real_time: bool) -> Vec<Life> {
    let mut rows = Vec::new();
    for burst in for_each_peer!(burst_of()) {
        rows.push(burst.await);
    }
    if real_time {
        for (row, windows) in rows.iter_mut().zip(for_each_peer!(windows_of())) {
            row.real_time = Some(windows.await.expect("a task that does not panic"));
        }
    }
    rows
}

fn burst_of<P: Peer>() -> Pin<Box<dyn Future<Output = Life> + Send>> {
    Box::pin(async {
        Life {
            name: report::name::<P>(),
            rule: P::RULE,
            reads_os: reads_os::<P>().await,
            cold_bursts: cold_bursts::<P>().await,
            real_time: None,
        }
    })
}

/// Whether it can read an answer as OS sends it.
async fn reads_os<P: Peer>() -> &'static str {
    if !P::READS {
        return "–";
    }
    let manners = Manners {
        like_os: true,
        ..Manners::good(LIFE)
    };
    let authorized = async {
        let endpoint = Endpoint::start(manners).await?;
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

/// POSTs for callers who come all at once, before there is a token.
async fn cold_burst<P: Peer>() -> Result<u64, Failure> {
    let endpoint = Endpoint::start(Manners::good(LIFE)).await?;
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
        let (alive, dying) = tokio::join!(instances::<P>(None), instances::<P>(Some(DIES_AT)));
        Windows { alive, dying }
    })
}

async fn instances<P: Peer>(dies_after: Option<Duration>) -> Result<Vec<Window>, Failure> {
    let mut instances = JoinSet::new();
    for _ in 0..INSTANCES {
        instances.spawn(window::<P>(dies_after));
    }
    instances.join_all().await.into_iter().collect()
}

/// One call at once, then one a second on the half second: so that no call coincides with an expiry.
async fn window<P: Peer>(dies_after: Option<Duration>) -> Result<Window, Failure> {
    let start = Instant::now();
    let manners = Manners {
        dies: dies_after.map(|after| start + after),
        ..Manners::good(LIFE)
    };
    let endpoint = Arc::new(Endpoint::start(manners).await?);
    let peer = Arc::new(P::start(&endpoint).await?);
    let mut window = Window::default();
    let mut calls = JoinSet::new();
    calls.spawn(call(Arc::clone(&peer), Arc::clone(&endpoint)));
    for second in 1..WINDOW.as_secs() {
        sleep_until((start + Duration::from_secs(second) + Duration::from_millis(500)).into()).await;
        // A task of its own for each, so that a call that waits holds up no other.
        calls.spawn(call(Arc::clone(&peer), Arc::clone(&endpoint)));
        while let Some(call) = calls.try_join_next() {
            window.count(start, &call??);
        }
    }
    sleep_until((start + WINDOW).into()).await;
    window.posts = endpoint.posts();
    let last_expiry = endpoint.last_expiry().ok_or("never had a token")?;
    window.last_expiry = last_expiry - start;
    while let Ok(Some(call)) = timeout_at((start + WINDOW + GRACE).into(), calls.join_next()).await {
        window.count(start, &call??);
    }
    window.hung = calls.len();
    Ok(window)
}

/// What came of one call.
struct Outcome {
    asked: Instant,
    answered: Instant,
    /// Whether the token that it got had expired.
    expired: Option<bool>,
}

async fn call<P: Peer>(peer: Arc<P>, endpoint: Arc<Endpoint>) -> Result<Outcome, Failure> {
    let mut headers = HeaderMap::new();
    let asked = Instant::now();
    let result = peer.authorize(&mut headers).await;
    let answered = Instant::now();
    let expired = result.is_ok().then(|| endpoint.has_expired(&headers)).transpose()?;
    Ok(Outcome {
        asked,
        answered,
        expired,
    })
}

impl Window {
    fn count(&mut self, start: Instant, outcome: &Outcome) {
        self.longest_wait = self.longest_wait.max(outcome.answered - outcome.asked);
        if let Some(expired) = outcome.expired {
            self.sent_past_expiry += u64::from(expired);
        } else {
            let at = outcome.answered - start;
            self.first_error = Some(self.first_error.map_or(at, |first| first.min(at)));
        }
    }
}

/// Table 2.
pub fn table(rows: &[Life], real_time: bool) {
    println!(
        "## 2. What each does with a token that lives for {} s\n",
        LIFE.as_secs()
    );
    let mut columns = vec!["reads OS's answer", "POSTs, 100 callers at once"];
    if real_time {
        columns.extend([
            "POSTs, 600 s at 1 request/s",
            "endpoint dead from 60 s: last token expires",
            "first error",
            "POSTs",
            "sent past expiry",
            "longest wait",
        ]);
    }
    println!("| | {} |\n|---|{}", columns.join(" | "), "--:|".repeat(columns.len()));
    for row in rows {
        let burst = shown(row.cold_bursts.as_ref(), |posts| range(posts.iter().copied()));
        print!("| {} | {} | {burst} |", row.name, row.reads_os);
        if let Some(Windows { alive, dying }) = &row.real_time {
            let columns = [
                shown(alive.as_ref(), |windows| {
                    range(windows.iter().map(|window| window.posts))
                }),
                shown(dying.as_ref(), |windows| {
                    range(windows.iter().map(|window| window.last_expiry.as_secs())) + " s"
                }),
                shown(dying.as_ref(), |windows| first_error(windows)),
                shown(dying.as_ref(), |windows| {
                    range(windows.iter().map(|window| window.posts))
                }),
                shown(dying.as_ref(), |windows| {
                    range(windows.iter().map(|window| window.sent_past_expiry))
                }),
                shown(dying.as_ref(), |windows| longest_wait(windows)),
            ];
            print!(" {} |", columns.join(" | "));
        }
        println!();
    }
    println!("\nWhen each renews, as its source says:\n\n| | |\n|---|---|");
    for row in rows {
        println!("| {} | {} |", row.name, row.rule);
    }
    print!("{NOTES}");
    if real_time {
        print!("{OF_THE_WINDOWS}");
    } else {
        println!("\nWhat they do in 600 s takes 12 minutes: `cargo run --release -- --real-time`.");
    }
}

const NOTES: &str = "
Measured in real time, nothing derived: five instances of each, and where they differ the least and the most. Each
instance has an endpoint of its own. It answers after 50 ms, with `expires_in` as a JSON number, which all can read; OS
sends a string, as the endpoint does for the first column. What is written by hand, and `azure_core`'s credential, read
what their writer thinks of. `aliri_tokens` and `middle` fetch their first token when they are made, before anybody can
ask.
";

const OF_THE_WINDOWS: &str = "
The 600 s are the same 600 s for all. Dead, the endpoint answers 503: who happens to have renewed shortly before, is
served for longer. Expiry is by the endpoint's own clock. The longest wait is that of any caller of an instance whose
endpoint dies, before or after.
";

fn shown<T>(result: Result<&T, &Failure>, show: impl FnOnce(&T) -> String) -> String {
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
        Some(hung) => format!("{longest}, and {hung} callers for ever"),
    }
}

/// The least and the most, or the one value that all have.
fn range(values: impl Iterator<Item = u64> + Clone) -> String {
    let least = values.clone().min().unwrap_or_default();
    let most = values.max().unwrap_or_default();
    if least == most {
        least.to_string()
    } else {
        format!("{least}–{most}")
    }
}
