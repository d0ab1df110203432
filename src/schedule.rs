//! When a token is to be renewed, and when a failed attempt is to be repeated: pure arithmetic, no clocks.

use std::time::{Duration, SystemTime};

/// Whatever a server says, no token is taken to live longer. Also keeps every sum below from overflowing.
pub(crate) const LONGEST_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// A fetch is given up after this long, so that a source that hangs cannot stop the next attempt.
pub(crate) const FETCH_LIMIT: Duration = Duration::from_secs(30);

/// An attempt that has not even been given up by then stands on a runtime that nobody drives, and is replaced.
pub(crate) const LOST_AFTER: Duration = Duration::from_secs(31);

/// Successful refreshes are at least this far apart, so that no lifetime, however short, makes a hot loop.
pub(crate) const AFTER_SUCCESS: Duration = Duration::from_secs(1);

/// A server that asks for more patience than this would take its users down for longer than its own trouble lasts.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// The cap while no lifetime has been seen yet.
const BACKOFF_CAP_UNKNOWN_LIFE: Duration = Duration::from_secs(15);

/// A rejected credential does not mend itself, but may be replaced at any time.
const FIRST_TERMINAL_BACKOFF: Duration = Duration::from_secs(5);
const TERMINAL_BACKOFF_CAP: Duration = Duration::from_secs(30);

/// A token younger than this, or than a quarter of its life, is not replaced because of a 401.
const FIRST_REJECTION_WAIT: Duration = Duration::from_secs(5);
const LONGEST_REJECTION_WAIT: Duration = Duration::from_secs(60);

/// A life as long as we believe it.
pub(crate) fn clamp_life(life: Duration) -> Duration {
    life.min(LONGEST_LIFE)
}

/// The ages at which a token changes state. Every window is a share of the life, so that they stand in order for
/// every life there is: `stale ≤ unusable ≤ life`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Windows {
    pub(crate) stale: Duration,
    pub(crate) unusable: Duration,
}

impl Windows {
    /// The windows of a token with this life, to be renewed at this share of it.
    ///
    /// The last stretch is kept back, so that a request that leaves with the token also arrives with it: a thirtieth of
    /// the life, at least half a second and at most ten, but never more than a tenth.
    pub(crate) fn new(life: Duration, refresh_at: f64) -> Self {
        let margin = (life / 30)
            .clamp(Duration::from_millis(500), Duration::from_secs(10))
            .min(life / 10);
        let unusable = life.saturating_sub(margin);
        Self {
            stale: life.mul_f64(refresh_at).min(unusable),
            unusable,
        }
    }
}

/// What came of an attempt that failed, as far as the next one is concerned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failure {
    pub(crate) transient: bool,
    /// How many of this sort came one after another, this one included.
    pub(crate) in_a_row: u32,
    pub(crate) retry_after: Option<Duration>,
}

/// How long to wait after a failure. `life` is that of the last token, if there ever was one, and `random` lies in [0, 1).
pub(crate) fn backoff(failure: Failure, life: Option<Duration>, random: f64) -> Duration {
    let wait = if failure.transient {
        let cap = life.map_or(BACKOFF_CAP_UNKNOWN_LIFE, |life| {
            (life / 20).clamp(Duration::from_secs(1), Duration::from_secs(30))
        });
        // Equal jitter: between half and all of it, so that a fleet spreads out and the cap stays a cap.
        doubled(FIRST_BACKOFF, failure.in_a_row, cap).mul_f64(0.5 + random / 2.0)
    } else {
        doubled(
            FIRST_TERMINAL_BACKOFF,
            failure.in_a_row,
            TERMINAL_BACKOFF_CAP,
        )
    };
    let floor = failure.retry_after.unwrap_or_default();
    wait.max(floor.min(LONGEST_RETRY_AFTER))
}

fn doubled(first: Duration, in_a_row: u32, cap: Duration) -> Duration {
    let times = 2_u32.saturating_pow(in_a_row.saturating_sub(1));
    first.saturating_mul(times).min(cap)
}

/// How long a new token must have been held before a 401 replaces it.
pub(crate) fn first_rejection_wait(life: Duration) -> Duration {
    FIRST_REJECTION_WAIT.min(life / 4)
}

/// The wait after one more token was refused.
pub(crate) fn next_rejection_wait(wait: Duration) -> Duration {
    wait.saturating_mul(2).min(LONGEST_REJECTION_WAIT)
}

/// Reads a `Retry-After` (RFC 9110, section 10.2.3): seconds, or an HTTP date, which counts from the answer's own `Date`.
pub(crate) fn parse_retry_after(value: &str, date: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let wait = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        Duration::from_secs(value.parse().unwrap_or(u64::MAX))
    } else {
        let until = httpdate::parse_http_date(value).ok()?;
        until.duration_since(date).unwrap_or_default()
    };
    // Nobody's arithmetic shall overflow because of a server's number.
    Some(wait.min(LONGEST_LIFE))
}
