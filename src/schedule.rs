//! When a token is to be renewed, and when a failed attempt is to be repeated: pure arithmetic, no clocks.

use std::time::{Duration, SystemTime};

/// No time that a server or a setting names counts for more: neither a token's life nor a wait. Keeps every sum of
/// times from overflowing.
pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A fetch is given up after this long, so that a source that hangs cannot stop the next attempt.
pub(crate) const FETCH_LIMIT: Duration = Duration::from_secs(30);

/// An attempt that was cut off halfway may have cost a request. The next one keeps this distance from its start.
pub(crate) const AFTER_START: Duration = Duration::from_millis(500);

/// An attempt that has not even been given up by then is overdue.
pub(crate) const LOST_AFTER: Duration = Duration::from_secs(31);

/// How long an overdue attempt has to show that it is alive.
pub(crate) const LAST_CHANCE: Duration = Duration::from_secs(1);

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
    life.min(DAY)
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
    pub(crate) fn new(life: Duration, refresh_at: f64) -> Self {
        let unusable = life.saturating_sub(kept_back(life));
        Self {
            stale: life.mul_f64(refresh_at).min(unusable),
            unusable,
        }
    }
}

/// The last stretch of a life, kept back so that a request that leaves with the token also arrives with it: a thirtieth
/// of it, at least half a second and at most ten, but never more than a tenth.
pub(crate) fn kept_back(life: Duration) -> Duration {
    (life / 30)
        .clamp(Duration::from_millis(500), Duration::from_secs(10))
        .min(life / 10)
}

/// What came of an attempt that failed, as far as the next one is concerned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failure {
    pub(crate) transient: bool,
    /// How many like it, transient or not, came one after another, this one included.
    pub(crate) in_a_row: u32,
    pub(crate) retry_after: Option<Duration>,
}

/// How long to wait after a failure. `life` is that of the last token, if there ever was one, and `random` lies in [0,
/// 1).
pub(crate) fn backoff(failure: Failure, life: Option<Duration>, random: f64) -> Duration {
    let wait = if failure.transient {
        let cap = life.map_or(BACKOFF_CAP_UNKNOWN_LIFE, |life| {
            (life / 20).clamp(Duration::from_secs(1), Duration::from_secs(30))
        });
        // Equal jitter: between half and all of it, so that a fleet spreads out and the cap stays a cap.
        doubled(FIRST_BACKOFF, failure.in_a_row, cap).mul_f64(0.5 + random / 2.0)
    } else {
        doubled(FIRST_TERMINAL_BACKOFF, failure.in_a_row, TERMINAL_BACKOFF_CAP)
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

/// Reads a `Retry-After` (RFC 9110, section 10.2.3): seconds, or an HTTP date, which counts from the answer's own
/// `Date`.
pub(crate) fn parse_retry_after(value: &str, date: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let wait = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        Duration::from_secs(value.parse().unwrap_or(u64::MAX))
    } else {
        let until = httpdate::parse_http_date(value).ok()?;
        until.duration_since(date).unwrap_or_default()
    };
    // Nobody's arithmetic shall overflow because of a server's number.
    Some(wait.min(DAY))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn failures(in_a_row: u32, transient: bool) -> Failure {
        Failure {
            transient,
            in_a_row,
            retry_after: None,
        }
    }

    #[test]
    fn the_windows_of_oss_299_s() {
        let millis = |refresh_at| {
            let windows = Windows::new(299 * SECOND, refresh_at);
            [windows.stale.as_millis(), windows.unusable.as_millis()]
        };
        assert_eq!(millis(0.75), [224_250, 289_033]);
        assert_eq!(millis(0.85), [254_150, 289_033]);
    }

    proptest! {
        #[test]
        fn the_windows_of_every_life_stand_in_order(
            seconds: u64,
            nanos in 0..1_000_000_000_u32,
            refresh_at in f64::MIN_POSITIVE..=0.9,
        ) {
            let life = clamp_life(Duration::new(seconds, nanos));
            let windows = Windows::new(life, refresh_at);
            prop_assert!(windows.stale <= windows.unusable);
            prop_assert!(windows.unusable <= life);
            prop_assert!(windows.unusable >= life / 10 * 9);
            prop_assert!(windows.unusable + 10 * SECOND >= life);
        }

        #[test]
        fn a_backoff_lies_between_half_a_second_and_its_cap(
            in_a_row: u32,
            life in proptest::option::of(any::<u64>()),
            random in 0.0..1.0,
        ) {
            let life = life.map(|seconds| clamp_life(Duration::from_secs(seconds)));
            let wait = backoff(failures(in_a_row, true), life, random);
            prop_assert!(wait >= SECOND / 2);
            prop_assert!(wait <= 30 * SECOND);
            if let Some(life) = life.filter(|life| *life < 20 * SECOND) {
                prop_assert!(wait <= SECOND, "{wait:?} for {life:?}");
            }
            let wait = backoff(failures(in_a_row, false), life, random);
            prop_assert!(wait >= 5 * SECOND && wait <= 30 * SECOND);
        }

        #[test]
        fn a_retry_after_is_a_floor_of_at_most_60_s(seconds: u64, transient: bool, random in 0.0..1.0) {
            let failure = Failure {
                retry_after: Some(Duration::from_secs(seconds)),
                ..failures(1, transient)
            };
            let wait = backoff(failure, None, random);
            prop_assert!(wait >= Duration::from_secs(seconds.min(60)));
            prop_assert!(wait <= 60 * SECOND);
        }

        #[test]
        fn a_retry_after_is_the_seconds_that_it_says(seconds in 0..=86_400_u64, sent_at in 0..4_000_000_000_u64) {
            let date = SystemTime::UNIX_EPOCH + Duration::from_secs(sent_at);
            let wait = Duration::from_secs(seconds);
            prop_assert_eq!(parse_retry_after(&format!(" {seconds} "), date), Some(wait));
            let until = httpdate::fmt_http_date(date + wait);
            prop_assert_eq!(parse_retry_after(&until, date), Some(wait));
            prop_assert_eq!(parse_retry_after(&until, date + wait + SECOND), Some(Duration::ZERO));
        }

        #[test]
        fn any_retry_after_is_read_without_a_panic(value in ".*", number: u128) {
            let date = SystemTime::UNIX_EPOCH;
            for value in [value, number.to_string()] {
                if let Some(wait) = parse_retry_after(&value, date) {
                    prop_assert!(wait <= DAY);
                }
            }
        }
    }

    #[test]
    fn a_retry_after_that_is_neither_seconds_nor_a_date_is_none() {
        for value in ["", " ", "-7", "+7", "1.5", "soon", "7 s", "Sun, 06 Nov 1994"] {
            assert_eq!(parse_retry_after(value, SystemTime::UNIX_EPOCH), None, "{value}");
        }
        let endless = "9".repeat(40);
        assert_eq!(parse_retry_after(&endless, SystemTime::UNIX_EPOCH), Some(DAY));
    }

    #[test]
    fn a_backoff_doubles_until_it_meets_its_cap() {
        let full = |n, life| backoff(failures(n, true), life, 1.0).as_millis();
        let life = Some(299 * SECOND);
        let expected = [1_000, 2_000, 4_000, 8_000, 14_950, 14_950];
        assert_eq!([1, 2, 3, 4, 5, u32::MAX].map(|n| full(n, life)), expected);
        let expected = [1_000, 2_000, 4_000, 8_000, 15_000, 15_000];
        assert_eq!([1, 2, 3, 4, 5, 6].map(|n| full(n, None)), expected);
        assert_eq!(full(9, Some(86_400 * SECOND)), 30_000);
        let half = backoff(failures(4, true), life, 0.0);
        assert_eq!(half, 4 * SECOND);
    }

    #[test]
    fn a_rejection_wait_doubles_to_60_s() {
        assert_eq!(first_rejection_wait(299 * SECOND), 5 * SECOND);
        assert_eq!(first_rejection_wait(8 * SECOND), 2 * SECOND);
        let mut waits = vec![5 * SECOND];
        for _ in 0..5 {
            waits.push(next_rejection_wait(waits[waits.len() - 1]));
        }
        assert_eq!(
            waits.iter().map(Duration::as_secs).collect::<Vec<_>>(),
            [5, 10, 20, 40, 60, 60]
        );
    }
}
