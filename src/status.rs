//! Status types: what a manager reports to health checks, logs and metrics.

use std::time::Duration;

use crate::error::Error;

/// A snapshot of a [`TokenManager`](crate::TokenManager), for health checks and dashboards. Taking it sends nothing.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TokenStatus {
    /// Whether there is a token that callers get. A service is ready if this is `Fresh` or `Stale`.
    pub state: TokenState,
    /// The time until the token expires; zero if there is no token.
    pub remaining: Duration,
    /// The time until the next refresh may start: with the first caller from then on, or without one under
    /// [`keep_warm`](crate::TokenManager::keep_warm). `None` while a refresh is running.
    pub next_attempt: Option<Duration>,
    /// Failed refreshes since the last one that succeeded.
    pub consecutive_failures: u32,
    /// Why the last of them failed, and what to do about it. It is meant for operators: it names files and hosts, but
    /// no secret. Show outsiders its [`kind`](Error::kind) at most. `next_attempt` says when the
    /// next refresh starts; the error's `retry_after` does not.
    pub last_error: Option<Error>,
    /// The refreshes since the manager was built.
    pub refreshes: RefreshTotals,
}

/// The state of a manager's token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TokenState {
    /// There is no token: no caller has asked for one, no refresh has succeeded yet, or the API rejected it.
    Missing,
    /// Callers get it.
    Fresh,
    /// Callers get it, and its replacement is due.
    Stale,
    /// Callers do not get it, because it is about to expire or has expired.
    Unusable,
}

/// The refreshes that a [`TokenManager`](crate::TokenManager) has started, by reason. Each is one call of its source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RefreshTotals {
    /// There was no token yet.
    pub cold: u64,
    /// The token was stale. In normal operation this counts every refresh but the first.
    pub stale: u64,
    /// The token was unusable: it had not been renewed in time, or no caller had asked for it.
    pub unusable: u64,
    /// The API had refused the token.
    pub rejected: u64,
    /// A caller asked for a longer remaining lifetime, with [`token_lasting`](crate::TokenManager::token_lasting) or
    /// [`hand_out`](crate::TokenManager::hand_out).
    pub forced: u64,
}

impl RefreshTotals {
    pub(crate) fn count(&mut self, reason: Reason) {
        let total = match reason {
            Reason::Cold => &mut self.cold,
            Reason::Stale => &mut self.stale,
            Reason::Unusable => &mut self.unusable,
            Reason::Rejected => &mut self.rejected,
            Reason::Forced => &mut self.forced,
        };
        *total += 1;
    }
}

/// Why a token is refreshed. The variants are explained at [`RefreshTotals`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    Cold,
    Stale,
    Unusable,
    Rejected,
    Forced,
}

/// How an attempt to refresh ended. Waiting callers, logs and metrics all get this one value.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// There is a new token.
    Refreshed { after_failures: u32 },
    /// The fetch failed. The error says when the next attempt is due. The failures are counted since the last success.
    Failed {
        error: Error,
        failures: u32,
        /// Of this error's class: transient or permanent.
        class_failures: u32,
        /// Whether it is the first of this error's kind.
        is_first_of_kind: bool,
    },
    /// The task was dropped before the fetch returned, for example because its runtime ended.
    Abandoned,
}

/// What the manager did about a 401.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// The token has been replaced, or is about to be. The request is worth repeating.
    Replace,
    /// Nothing: the token is so new that its age cannot be the cause.
    TooNew,
    /// Nothing: another token would be refused as well.
    NotAboutToken,
}
