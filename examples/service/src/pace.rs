//! Pacing under OS's limits, and the count of what was spent.

use std::{
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use http::{Extensions, header::RETRY_AFTER};
use osdatahub_auth::Error;
use reqwest::{Request, Response, StatusCode};
use reqwest_middleware::{Middleware, Next, Result};
use tokio::time::timeout;

/// Longest wait for a turn. A user looks at an empty map meanwhile.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// Pause after a 429 without `Retry-After`. OS documents none; its own Python client sleeps for as long.
const DEFAULT_PAUSE: Duration = Duration::from_secs(20);

/// Longest pause: OS counts by the minute.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Layer that spaces out requests to one API, and counts them.
///
/// If no turn is available in time, it answers 429 itself, before OS does. After a 429 of OS's it lets nothing through
/// for a while. Either has a `Retry-After`.
#[derive(Debug)]
pub(crate) struct Pace {
    api: &'static str,
    turns: DefaultDirectRateLimiter,
    paused_until: Mutex<Option<Instant>>,
}

impl Pace {
    /// Layer for an API with this limit of transactions a minute.
    ///
    /// A tenth of the limit may be spent at once, and eight tenths in the course of a minute. Both can fall into the
    /// same minute, and the last tenth is for what `BearerAuth` repeats. For a live project that is 8 requests a second
    /// after a burst of 60.
    pub(crate) fn new(api: &'static str, per_minute: NonZeroU32) -> Self {
        let tenths = |n| NonZeroU32::new(per_minute.get() / 10 * n).unwrap_or(NonZeroU32::MIN);
        Self {
            api,
            turns: RateLimiter::direct(Quota::per_minute(tenths(8)).allow_burst(tenths(1))),
            paused_until: Mutex::new(None),
        }
    }

    /// Waits for a turn. The error is how long there will be none.
    async fn turn(&self) -> std::result::Result<(), Duration> {
        self.not_paused()?;
        let start = Instant::now();
        let turn = timeout(MAX_WAIT, self.turns.until_ready()).await;
        metrics::histogram!("os_turn_wait_seconds", "api" => self.api).record(start.elapsed());
        turn.map_err(|_| MAX_WAIT)?;
        // Again, because OS may have refused another request during the wait.
        self.not_paused()
    }

    fn not_paused(&self) -> std::result::Result<(), Duration> {
        let end = *self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = end.map_or(Duration::ZERO, |end| end.saturating_duration_since(Instant::now()));
        if rest.is_zero() { Ok(()) } else { Err(rest) }
    }

    fn pause_after(&self, refused: &Response) -> Duration {
        let pause = retry_after(refused).unwrap_or(DEFAULT_PAUSE).min(MAX_PAUSE);
        tracing::warn!(
            api = self.api,
            ?pause,
            "OS limits our rate: do other processes use the same project?"
        );
        *self.paused_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + pause);
        pause
    }

    /// A status or `error` was spent. `no_token` and `held_back` never reached OS.
    fn count(&self, outcome: &str) {
        metrics::counter!("os_requests_total", "api" => self.api, "outcome" => outcome.to_owned()).increment(1);
    }
}

#[async_trait]
impl Middleware for Pace {
    async fn handle(&self, request: Request, extensions: &mut Extensions, next: Next<'_>) -> Result<Response> {
        if let Err(wait) = self.turn().await {
            self.count("held_back");
            return Ok(too_many_requests(wait));
        }
        let result = next.run(request, extensions).await;
        match &result {
            Ok(response) => {
                self.count(response.status().as_str());
                if response.status() == StatusCode::TOO_MANY_REQUESTS {
                    return Ok(too_many_requests(self.pause_after(response)));
                }
            }
            Err(error) if Error::find_in(error).is_some() => self.count("no_token"),
            Err(_) => self.count("error"),
        }
        result
    }
}

/// `Retry-After` in seconds. Its other form, a date, is not understood.
pub(crate) fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn too_many_requests(wait: Duration) -> Response {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let mut response = http::Response::new("");
    *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    response.headers_mut().insert(RETRY_AFTER, seconds.into());
    response.into()
}
