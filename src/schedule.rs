//! The schedule of refreshes: a token's windows and the backoff. Arithmetic on durations, without clocks.

use std::time::Duration;

use crate::error::Error;

/// The cap on lifetimes, on `Retry-After` and on the `acquire_timeout`, so that no sum of times overflows.
pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The limit for one fetch, so that a source that hangs cannot block the next attempt.
pub(crate) const MAX_FETCH_TIME: Duration = Duration::from_secs(30);

/// The time after which an attempt is overdue. Its fetch should have timed out by then, so its runtime is most likely
/// blocked.
pub(crate) const OVERDUE_AFTER: Duration = Duration::from_secs(31);

/// A timer that fires this late was held up: the process was stopped, or its runtime was blocked.
pub(crate) const STALLED_AFTER: Duration = Duration::from_millis(100);

/// The last chance of an overdue attempt to end, and of a caller whose deadline passed while the process was stalled.
pub(crate) const LAST_CHANCE: Duration = Duration::from_secs(1);

/// The minimum gap between the start of an attempt and the next one. It matters if the first was abandoned, as it may
/// have cost a POST.
pub(crate) const MIN_GAP_AFTER_START: Duration = Duration::from_millis(500);

/// The minimum gap after a success, so that no lifetime, however short, leads to a hot loop.
pub(crate) const MIN_GAP_AFTER_SUCCESS: Duration = Duration::from_secs(1);

/// The cap on `Retry-After`. A longer wait would outlast most outages.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

const FIRST_TRANSIENT_BACKOFF: Duration = Duration::from_secs(1);
/// The cap before the first token, when no lifetime is known.
const MAX_BACKOFF_UNKNOWN_LIFETIME: Duration = Duration::from_secs(15);

/// A permanent failure does not go away by itself, but an operator may fix it at any time.
const FIRST_PERMANENT_BACKOFF: Duration = Duration::from_secs(5);
const MAX_PERMANENT_BACKOFF: Duration = Duration::from_secs(30);

/// The minimum age at which a first 401 replaces a token. A quarter of the lifetime, if that is less.
const MIN_AGE_TO_REPLACE: Duration = Duration::from_secs(5);

/// The ages at which a token changes state. Both scale with the lifetime, so their order holds for every lifetime:
/// `stale ≤ unusable ≤ lifetime`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Windows {
    pub(crate) stale: Duration,
    pub(crate) unusable: Duration,
}

impl Windows {
    /// The windows of a token that becomes stale at the share `refresh_at` of its lifetime.
    pub(crate) fn new(lifetime: Duration, refresh_at: f64) -> Self {
        let unusable = lifetime.saturating_sub(expiry_margin(lifetime));
        Self {
            stale: lifetime.mul_f64(refresh_at).min(unusable),
            unusable,
        }
    }
}

/// The expiry margin: the end of a lifetime in which a token is not handed out, so that it does not expire while its
/// request is in flight. A thirtieth of the lifetime, from 0.5 s to 10 s, but never more than a tenth.
pub(crate) fn expiry_margin(lifetime: Duration) -> Duration {
    (lifetime / 30)
        .clamp(Duration::from_millis(500), Duration::from_secs(10))
        .min(lifetime / 10)
}

/// The time for which a token must have been held before a first 401 replaces it.
pub(crate) fn min_age_to_replace(lifetime: Duration) -> Duration {
    MIN_AGE_TO_REPLACE.min(lifetime / 4)
}

/// The wait after a failure. `class_failures` counts the failures of its class, transient or permanent, since the last
/// success, this one included. `lifetime` is that of the last token, if there was one. `random` lies in [0, 1).
///
/// Transient failures get equal jitter, between half and all of the exponential backoff: a fleet spreads out, and the
/// cap stays a cap. `Retry-After` is a floor.
pub(crate) fn backoff(error: &Error, class_failures: u32, lifetime: Option<Duration>, random: f64) -> Duration {
    let wait = if error.is_transient() {
        let cap = lifetime.map_or(MAX_BACKOFF_UNKNOWN_LIFETIME, |lifetime| {
            (lifetime / 20).clamp(Duration::from_secs(1), Duration::from_secs(30))
        });
        doubled(FIRST_TRANSIENT_BACKOFF, class_failures, cap).mul_f64(0.5 + random / 2.0)
    } else {
        doubled(FIRST_PERMANENT_BACKOFF, class_failures, MAX_PERMANENT_BACKOFF)
    };
    let floor = error.retry_after().unwrap_or_default();
    wait.max(floor.min(MAX_RETRY_AFTER))
}

fn doubled(first: Duration, class_failures: u32, cap: Duration) -> Duration {
    let factor = 2_u32.saturating_pow(class_failures.saturating_sub(1));
    first.saturating_mul(factor).min(cap)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::ErrorKind;

    const SECOND: Duration = Duration::from_secs(1);

    fn failure(transient: bool) -> Error {
        let kind = if transient {
            ErrorKind::Unavailable
        } else {
            ErrorKind::RequestRejected
        };
        Error::new(kind, "scripted")
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
            let lifetime = Duration::new(seconds, nanos).min(DAY);
            let windows = Windows::new(lifetime, refresh_at);
            prop_assert!(windows.stale <= windows.unusable);
            prop_assert!(windows.unusable <= lifetime);
            prop_assert!(windows.unusable >= lifetime / 10 * 9);
            prop_assert!(windows.unusable + 10 * SECOND >= lifetime);
        }

        #[test]
        fn a_backoff_lies_between_half_a_second_and_its_cap(
            class_failures: u32,
            lifetime in proptest::option::of(any::<u64>()),
            random in 0.0..1.0,
        ) {
            let lifetime = lifetime.map(|seconds| Duration::from_secs(seconds).min(DAY));
            let wait = backoff(&failure(true), class_failures, lifetime, random);
            prop_assert!(wait >= SECOND / 2);
            prop_assert!(wait <= 30 * SECOND);
            if let Some(lifetime) = lifetime.filter(|lifetime| *lifetime < 20 * SECOND) {
                prop_assert!(wait <= SECOND, "{wait:?} for {lifetime:?}");
            }
            let wait = backoff(&failure(false), class_failures, lifetime, random);
            prop_assert!(wait >= 5 * SECOND && wait <= 30 * SECOND);
        }

        #[test]
        fn a_retry_after_is_a_floor_of_at_most_60_s(seconds: u64, transient: bool, random in 0.0..1.0) {
            let failure = failure(transient).with_retry_after(Duration::from_secs(seconds));
            let wait = backoff(&failure, 1, None, random);
            prop_assert!(wait >= Duration::from_secs(seconds.min(60)));
            prop_assert!(wait <= 60 * SECOND);
        }
    }

    #[test]
    fn a_backoff_doubles_until_it_meets_its_cap() {
        let full = |n, lifetime| backoff(&failure(true), n, lifetime, 1.0).as_millis();
        let lifetime = Some(299 * SECOND);
        let expected = [1_000, 2_000, 4_000, 8_000, 14_950, 14_950];
        assert_eq!([1, 2, 3, 4, 5, u32::MAX].map(|n| full(n, lifetime)), expected);
        let expected = [1_000, 2_000, 4_000, 8_000, 15_000, 15_000];
        assert_eq!([1, 2, 3, 4, 5, 6].map(|n| full(n, None)), expected);
        assert_eq!(full(9, Some(86_400 * SECOND)), 30_000);
        let half = backoff(&failure(true), 4, lifetime, 0.0);
        assert_eq!(half, 4 * SECOND);
    }
}
