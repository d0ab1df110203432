//! A manager's settings.

use std::{fmt, ops::RangeInclusive, sync::Arc, time::Duration};

use super::{Inner, TokenManager};
use crate::{Error, TokenSource, schedule};

const DEFAULT_REFRESH_AT: RangeInclusive<f64> = 0.75..=0.85;
/// Leaves a tenth of the life for the refresh and for requests under way.
const LATEST_REFRESH_AT: f64 = 0.9;
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

    /// The share of its life at which a token is renewed, drawn from this range once for each token, so that a fleet's
    /// refreshes spread out. Within (0, 0.9]. Defaults to `0.75..=0.85`.
    pub fn refresh_at(mut self, share: RangeInclusive<f64>) -> Self {
        self.refresh_at = share;
        self
    }

    /// How long a caller waits who finds no usable token; more than a day counts as a day. Defaults to 10 s.
    pub fn acquire_timeout(mut self, limit: Duration) -> Self {
        self.acquire_timeout = limit;
        self
    }

    /// What spans and metrics call this manager's project, in the field and label `project`, so that several in one
    /// process can be told apart. A name of yours, not the Project API Key. Defaults to none.
    pub fn project(mut self, name: impl Into<String>) -> Self {
        self.project = Some(name.into().into());
        self
    }

    /// The manager. It fetches nothing until somebody asks for a token or [keeps it warm](TokenManager::keep_warm).
    ///
    /// # Errors
    /// [`Configuration`](crate::ErrorKind::Configuration) if `refresh_at` is outside (0, 0.9] or runs backwards, or if
    /// `acquire_timeout` is zero.
    pub fn build(self) -> Result<TokenManager, Error> {
        let (from, to) = (*self.refresh_at.start(), *self.refresh_at.end());
        if !(from > 0.0 && from <= to && to <= LATEST_REFRESH_AT) {
            return Err(Error::configuration(format!(
                "refresh_at has to lie within (0, {LATEST_REFRESH_AT}] and run upwards, not {from}..={to}"
            )));
        }
        if self.acquire_timeout.is_zero() {
            return Err(Error::configuration("acquire_timeout has to be more than zero"));
        }
        let acquire_timeout = self.acquire_timeout.min(schedule::DAY);
        let inner = Inner::new(self.source, acquire_timeout, self.refresh_at, self.project);
        Ok(TokenManager { inner: Arc::new(inner) })
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
