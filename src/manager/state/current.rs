//! The token in use, and the windows of its lifetime: fresh, stale, unusable.

use std::time::Duration;

use tokio::time::Instant;

use super::Need;
use crate::status::{Reason, TokenState};
use crate::{clock::Moment, schedule::Windows, token::AccessToken};

#[derive(Debug, Clone)]
pub(super) struct CurrentToken {
    pub(super) token: AccessToken,
    pub(super) held_since: Instant,
    stale: Moment,
    unusable: Moment,
    /// Drew a 401 that gave no reason. Still served, but due for replacement.
    pub(super) suspected: bool,
}

impl CurrentToken {
    /// A token that becomes stale at the share `refresh_at` of its lifetime.
    pub(super) fn new(token: AccessToken, held_since: Instant, refresh_at: f64) -> Self {
        let windows = Windows::new(token.lifetime(), refresh_at);
        Self {
            held_since,
            stale: token.time_at_age(windows.stale),
            unusable: token.time_at_age(windows.unusable),
            token,
            suspected: false,
        }
    }

    #[inline]
    pub(super) fn is_unusable(&self, now: Moment) -> bool {
        now.has_reached(self.unusable)
    }

    /// Whether there was a time after `began` at which this process could have used it.
    pub(super) fn was_usable_after(&self, began: Instant) -> bool {
        let start = self.token.time_at_age(self.token.age_at_start());
        self.unusable.monotonic > began.max(start.monotonic)
    }

    #[inline]
    pub(super) fn is_fresh(&self, now: Moment) -> bool {
        !self.suspected && !now.has_reached(self.stale)
    }

    #[inline]
    pub(super) fn meets(&self, now: Moment, need: Need<'_>) -> bool {
        match need {
            Need::Usable => true,
            Need::Lasting(at_least) => self.token.remaining_at(now) >= at_least.min(self.token.lifetime() / 2),
            Need::OtherThan(refused) => !self.token.is(refused),
        }
    }

    /// The time until its refresh is due; zero if it is due already.
    pub(super) fn fresh_for(&self, now: Moment) -> Duration {
        if self.suspected {
            Duration::ZERO
        } else {
            now.until(self.stale)
        }
    }

    pub(super) fn state(&self, now: Moment) -> TokenState {
        if self.is_unusable(now) {
            TokenState::Unusable
        } else if self.is_fresh(now) {
            TokenState::Fresh
        } else {
            TokenState::Stale
        }
    }

    /// The reason for a refresh that starts now.
    pub(super) fn reason(&self, now: Moment) -> Reason {
        if self.suspected {
            return Reason::Rejected;
        }
        match self.state(now) {
            // A caller asked for more than a fresh token gives.
            TokenState::Fresh => Reason::Forced,
            TokenState::Unusable => Reason::Unusable,
            _ => Reason::Stale,
        }
    }
}
