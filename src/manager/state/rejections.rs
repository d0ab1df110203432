//! The 401 throttle: how often refused tokens may lead to new ones.
//!
//! A 401 about the token should lead to a new token once. If the API refuses that one too, its age is not the cause,
//! and another POST will not help. An API that answers 401 to everything would otherwise turn every request into a
//! POST.
//!
//! The throttle demands a minimum age of a token before a 401 may replace it:
//!
//! | state | minimum age | moves on |
//! |---|---|---|
//! | calm | 5 s, or a quarter of the lifetime if that is less | the first 401 starts a streak |
//! | streak | as before, doubled by each replacement that continues the streak, up to 60 s | no 401 for twice the minimum age ends the streak |
//!
//! An API that refuses every token leads to a new one after 5 s, then after 10, 20 and 40 s more, and then every 60 s.
//! A steady wall of 401s, of either kind or of both, leads to at most 6 POSTs a minute for lifetimes from 20 s.
//!
//! There are two throttles, because one odd path that answers every request with an unexplained 401 must not keep a
//! revoked token in use. An explicit 401, which says that the token is not valid, is decided by `explicit`, which counts
//! explicit 401s alone. An unexplained 401 is decided by `all`, which counts both kinds. It counts explicit ones as
//! well, so that alternating kinds do not lead to twice the POSTs.

use std::time::Duration;

use tokio::time::Instant;

use super::CurrentToken;
use crate::schedule::min_age_to_replace;

const MAX_MIN_AGE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Default)]
pub(super) struct RejectionThrottle {
    explicit: Throttle,
    all: Throttle,
}

#[derive(Debug, Clone, Default)]
struct Throttle {
    min_age: Duration,
    last_401: Option<Instant>,
}

impl RejectionThrottle {
    /// Counts a 401 for the current token, and says whether it may replace the token.
    pub(super) fn admit(&mut self, now: Instant, current: &CurrentToken, is_explicit: bool) -> bool {
        let admitted_by_all = self.all.admit(now, current);
        if is_explicit {
            self.explicit.admit(now, current)
        } else {
            admitted_by_all
        }
    }
}

impl Throttle {
    fn admit(&mut self, now: Instant, current: &CurrentToken) -> bool {
        let in_streak = self.last_401.is_some_and(|last| now - last < self.min_age * 2);
        if !in_streak {
            self.min_age = min_age_to_replace(current.token.lifetime());
        }
        self.last_401 = Some(now);
        // A shared token may be older than the time that this process has held it.
        let admitted = now - current.held_since + current.token.age_at_start() >= self.min_age;
        if admitted && in_streak {
            self.min_age = next_min_age(self.min_age);
        }
        admitted
    }
}

fn next_min_age(min_age: Duration) -> Duration {
    min_age.saturating_mul(2).min(MAX_MIN_AGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_rejection_wait_doubles_to_60_s() {
        assert_eq!(min_age_to_replace(299 * SECOND), 5 * SECOND);
        assert_eq!(min_age_to_replace(8 * SECOND), 2 * SECOND);
        let mut ages = vec![5 * SECOND];
        for _ in 0..5 {
            ages.push(next_min_age(ages[ages.len() - 1]));
        }
        assert_eq!(
            ages.iter().map(Duration::as_secs).collect::<Vec<_>>(),
            [5, 10, 20, 40, 60, 60]
        );
    }
}
