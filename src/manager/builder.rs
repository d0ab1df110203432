//! The settings of a manager.

use std::sync::{Arc, RwLock};
use std::{fmt, ops::RangeInclusive, time::Duration};

use tokio::sync::watch;

use super::{TokenManager, inner::Inner, state::State};
use crate::{error::Error, schedule, source::TokenSource, status::Outcome, tally::Tallies};

const DEFAULT_REFRESH_AT: RangeInclusive<f64> = 0.75..=0.85;
/// Leaves a tenth of the lifetime for the refresh and for requests in flight.
const MAX_REFRESH_AT: f64 = 0.9;
const DEFAULT_ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// Settings of a [`TokenManager`].
#[must_use]
pub struct TokenManagerBuilder {
    source: Arc<dyn TokenSource>,
    refresh_at: RangeInclusive<f64>,
    acquire_timeout: Duration,
    project: Option<Arc<str>>,
}

impl TokenManagerBuilder {
    pub(super) fn new(source: Arc<dyn TokenSource>) -> Self {
        Self {
            source,
            refresh_at: DEFAULT_REFRESH_AT,
            acquire_timeout: DEFAULT_ACQUIRE_TIMEOUT,
            project: None,
        }
    }

    /// The share of its lifetime at which a token becomes stale, within (0, 0.9]. Defaults to `0.75..=0.85`.
    ///
    /// It is drawn from this range once for each token, so that the refreshes of a fleet spread out.
    pub fn refresh_at(mut self, share: RangeInclusive<f64>) -> Self {
        self.refresh_at = share;
        self
    }

    /// How long a caller without a usable token waits, capped at a day. Defaults to 10 s.
    ///
    /// As many attempts are made meanwhile as the backoff allows. If the time passes while the process is stopped, the
    /// caller gets 1 s more when it wakes.
    pub fn acquire_timeout(mut self, limit: Duration) -> Self {
        self.acquire_timeout = limit;
        self
    }

    /// The name of this manager's project in spans and metrics: their field and label `project`. Defaults to none.
    ///
    /// It tells several projects in one process apart. Choose any name, but not the Project API Key.
    pub fn project(mut self, name: impl Into<String>) -> Self {
        self.project = Some(name.into().into());
        self
    }

    /// Builds the manager. It fetches nothing until a caller asks for a token or [keeps it
    /// warm](TokenManager::keep_warm).
    ///
    /// # Errors
    /// [`Configuration`](crate::ErrorKind::Configuration) if `refresh_at` is outside (0, 0.9] or runs backwards, or if
    /// `acquire_timeout` is zero.
    pub fn build(self) -> Result<TokenManager, Error> {
        let (from, to) = (*self.refresh_at.start(), *self.refresh_at.end());
        Error::ensure(
            from > 0.0 && from <= to && to <= MAX_REFRESH_AT,
            format!("refresh_at has to lie within (0, {MAX_REFRESH_AT}] and run upwards, not {from}..={to}"),
        )?;
        Error::ensure(
            !self.acquire_timeout.is_zero(),
            "acquire_timeout has to be more than zero",
        )?;
        Ok(TokenManager {
            inner: Arc::new(Inner {
                source: self.source,
                acquire_timeout: self.acquire_timeout.min(schedule::DAY),
                project: self.project,
                tallies: Tallies::default(),
                state: RwLock::new(State::new(self.refresh_at)),
                ended: watch::Sender::new((0, Outcome::Abandoned)),
            }),
        })
    }
}

impl fmt::Debug for TokenManagerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenManagerBuilder")
            .field("refresh_at", &self.refresh_at)
            .field("acquire_timeout", &self.acquire_timeout)
            .field("project", &self.project)
            .finish_non_exhaustive()
    }
}
