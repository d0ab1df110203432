//! What a health check sees.

use std::time::Duration;

use super::reason::RefreshTotals;
use crate::ErrorKind;

/// A [`TokenManager`](crate::TokenManager) at one moment, for health checks and dashboards. Taking it asks nobody for
/// anything.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenStatus {
    /// Whether there is a token, and what it is good for. Ready is `Fresh` or `Stale`.
    pub state: TokenState,
    /// How long until the token expires; zero if there is none.
    pub remaining: Duration,
    /// How long until the next refresh may start: when somebody asks for a token from then on, or by itself under
    /// [`keep_warm`](crate::TokenManager::keep_warm). `None` while one is under way.
    pub next_attempt: Option<Duration>,
    /// Failed refreshes since the last one that succeeded.
    pub consecutive_failures: u32,
    /// Why the last of them failed.
    pub last_error: Option<ErrorKind>,
    /// The refreshes that there have been.
    pub refreshes: RefreshTotals,
}

/// What a token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TokenState {
    /// There is none: nobody has asked for one, none could be had yet, or the API rejected it.
    Missing,
    /// It is handed out.
    Fresh,
    /// It is handed out, and its replacement is due.
    Stale,
    /// It is about to expire, or has, and is not handed out.
    Unusable,
}
