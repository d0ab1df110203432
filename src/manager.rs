//! The token behind its lock, and the one refresh in flight.

mod keep_warm;
mod refresh;
mod state;
mod status;

use std::{
    fmt,
    ops::RangeInclusive,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::watch,
    time::{Instant, timeout_at},
};

pub(crate) use self::state::Refusal;
use self::state::{Joined, Need, Settled, State};
pub use self::{
    keep_warm::KeepWarm,
    status::{TokenState, TokenStatus},
};
use crate::{
    AccessToken, CredentialsProvider, Error, ErrorKind, TokenEndpoint, TokenSource, clock::Moment,
    schedule,
};

const DEFAULT_REFRESH_AT: RangeInclusive<f64> = 0.75..=0.85;
/// Leaves a tenth of the life for the refresh and for requests under way.
const LATEST_REFRESH_AT: f64 = 0.9;
const DEFAULT_ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// A caller whose attempts are cut off this often is itself on a runtime that is shutting down.
const MOST_ABANDONED: u32 = 3;

/// Owns a project's access token: hands it out, renews it in the background, and survives an endpoint that is down.
///
/// Clones share one token. Make one manager for a project and keep it for the life of the service.
///
/// # The life of a token
///
/// Of a token that OS gives for 299 s:
///
/// | state | from | [`token()`](Self::token) |
/// |---|---|---|
/// | fresh | 0 s | returns it: one read lock, no wait, no allocation |
/// | stale | 224 to 254 s, drawn once for each token | returns it at once, and makes sure that one refresh is running |
/// | unusable | 289 s | waits for that refresh, up to the `acquire_timeout` |
///
/// All windows are shares of the life, so shorter and longer ones work alike. A life is counted from the moment the
/// request for the token left, on the monotonic clock: a wrong local clock changes nothing.
///
/// A refresh runs as a task of its own on the runtime of the caller that started it. Callers can be dropped or timed
/// out without stopping it; if its runtime ends, the next caller starts another. When the last clone is dropped, so are
/// the task and the secret.
#[derive(Clone)]
pub struct TokenManager {
    inner: Arc<Inner>,
}

struct Inner {
    source: Arc<dyn TokenSource>,
    acquire_timeout: Duration,
    /// Held for nanoseconds, never across an `.await`.
    state: RwLock<State>,
    /// The attempt that ended last. Callers wait for theirs here, and tasks notice that the manager is gone.
    ended: watch::Sender<Ended>,
}

#[derive(Debug)]
struct Ended {
    attempt: u64,
    outcome: Outcome,
}

#[derive(Debug, Clone)]
enum Outcome {
    Adopted,
    Failed(Error),
    Abandoned,
}

impl TokenManager {
    /// A manager for OS's own token endpoint, with all defaults.
    ///
    /// # Errors
    /// [`Configuration`](ErrorKind::Configuration) if the HTTP client cannot be built: above all, if no TLS is compiled in.
    pub fn new(credentials: impl CredentialsProvider) -> Result<Self, Error> {
        Self::builder(TokenEndpoint::builder(credentials).build()?).build()
    }

    /// A manager for any [`TokenSource`]: a [`TokenEndpoint`] with settings, or your own.
    pub fn builder(source: impl TokenSource) -> TokenManagerBuilder {
        TokenManagerBuilder {
            source: Arc::new(source),
            refresh_at: DEFAULT_REFRESH_AT,
            acquire_timeout: DEFAULT_ACQUIRE_TIMEOUT,
        }
    }

    /// A token that can be used now.
    ///
    /// Returns at once while there is one. Otherwise it waits for the refresh that is under way, or else for the next,
    /// and returns what that brings, an error included; it never retries on its own account. Between two attempts it
    /// waits for the next one if that falls within the `acquire_timeout` and the last failure was transient.
    ///
    /// Safe to cancel: the refresh goes on.
    ///
    /// # Errors
    /// What the refresh failed with; its [`retry_after`](Error::retry_after) says when the next one is due.
    /// [`Timeout`](ErrorKind::Timeout) if nothing came within the `acquire_timeout`.
    /// [`Configuration`](ErrorKind::Configuration) if there is no token and the caller is outside a tokio runtime.
    ///
    /// # Panics
    /// If it has to wait on a tokio runtime without a timer (`enable_time`).
    pub async fn token(&self) -> Result<AccessToken, Error> {
        self.obtain(Need::Usable).await
    }

    /// A token that lasts for at least this long from now, for work that cannot renew it on the way.
    ///
    /// `at_least` counts up to half of the token's life; what exceeds that is ignored, since asking OS again would not
    /// help. A token with less left is renewed first, by the same one refresh as ever.
    ///
    /// # Errors
    /// As [`token`](Self::token), also while the present token could still serve for less long: ask `token` for that one.
    ///
    /// # Panics
    /// As [`token`](Self::token).
    pub async fn token_lasting(&self, at_least: Duration) -> Result<AccessToken, Error> {
        self.obtain(Need::Lasting(at_least)).await
    }

    /// The token in use, if there is one that can be used now. Never waits and never starts a refresh.
    #[must_use]
    pub fn current(&self) -> Option<AccessToken> {
        self.inner
            .read()
            .usable(Moment::now(), Need::Usable)
            .cloned()
    }

    /// Says that the API refused this very token, so that nobody gets it again. [`BearerAuth`](crate::BearerAuth) does
    /// this by itself.
    ///
    /// Nothing happens if the token has been replaced meanwhile, so a late 401 does no harm. Neither does it to a token
    /// that we have had for less than 5 s (a quarter of its life if that is less): a new token that is refused tells of
    /// another trouble than its age. While new tokens keep being refused that wait doubles, up to 60 s, so that a wall
    /// of 401s costs no wall of token requests.
    ///
    /// Within a tokio runtime the refresh starts at once, otherwise with the next caller.
    pub fn reject(&self, token: &AccessToken) {
        self.refuse(token, Refusal::Rejected);
    }

    /// How the token is, for health checks.
    #[must_use]
    pub fn status(&self) -> TokenStatus {
        self.inner.read().status(Moment::now())
    }

    /// Refreshes without traffic, until the guard is dropped or the manager's last clone is: the first request of a quiet
    /// hour then finds a token. Without it a token is renewed when somebody asks for one.
    ///
    /// Runs on the current tokio runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn keep_warm(&self) -> KeepWarm {
        KeepWarm::start(&self.inner)
    }

    /// A token other than the one that a request was refused with.
    pub(crate) async fn other_than(&self, refused: &AccessToken) -> Result<AccessToken, Error> {
        self.obtain(Need::OtherThan(refused)).await
    }

    /// Takes note of a 401. Says whether the request is worth repeating with another token.
    pub(crate) fn refuse(&self, token: &AccessToken, refusal: Refusal) -> bool {
        let repeat = self.inner.write().refuse(Moment::now(), token, refusal);
        self.inner.renew();
        repeat
    }

    async fn obtain(&self, need: Need<'_>) -> Result<AccessToken, Error> {
        match self.inner.ready(need) {
            Some(token) => Ok(token),
            // Boxed, so that the future of the hot path stays small.
            None => Box::pin(self.wait(need)).await,
        }
    }

    async fn wait(&self, need: Need<'_>) -> Result<AccessToken, Error> {
        let runtime = Handle::try_current().map_err(|_| outside_runtime())?;
        let deadline = Instant::now() + self.inner.acquire_timeout;
        let mut ended = self.inner.ended.subscribe();
        let mut abandoned = 0;
        loop {
            let attempt = match self.inner.join(need, deadline)? {
                Place::Served(token) => return Ok(token),
                Place::In(Joined::Following(attempt)) => attempt,
                Place::In(Joined::Leading(attempt)) => {
                    refresh::spawn(&runtime, &self.inner, attempt);
                    attempt
                }
            };
            let outcome = async {
                let ended = ended.wait_for(|ended| ended.attempt >= attempt.id).await;
                ended.map_or(Outcome::Abandoned, |ended| ended.outcome.clone())
            };
            match timeout_at(deadline.min(attempt.lost_at()), outcome).await {
                Ok(Outcome::Adopted) => {}
                Ok(Outcome::Failed(error)) => return Err(error),
                Ok(Outcome::Abandoned) if abandoned < MOST_ABANDONED => abandoned += 1,
                Ok(Outcome::Abandoned) => return Err(shutting_down()),
                Err(_) if Instant::now() < deadline => {}
                Err(_) => return Err(timed_out(self.inner.acquire_timeout)),
            }
        }
    }
}

/// What a caller finds when it can't be served from the read lock alone.
enum Place {
    Served(AccessToken),
    In(Joined),
}

impl Inner {
    /// The hot path.
    fn ready(self: &Arc<Self>, need: Need<'_>) -> Option<AccessToken> {
        let now = Moment::now();
        let (token, renewal_due) = {
            let state = self.read();
            let token = state.usable(now, need)?.clone();
            (token, state.renewal_is_due(now))
        };
        if renewal_due {
            self.renew();
        }
        Some(token)
    }

    fn join(&self, need: Need<'_>, deadline: Instant) -> Result<Place, Error> {
        let now = Moment::now();
        let mut state = self.write();
        match state.usable(now, need) {
            Some(token) => Ok(Place::Served(token.clone())),
            None => state.join(now, deadline).map(Place::In),
        }
    }

    /// Starts a refresh in the background, if one is due and we are on a runtime.
    fn renew(self: &Arc<Self>) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let elected = self.write().renew(Moment::now());
        if let Some(attempt) = elected {
            refresh::spawn(&runtime, self, attempt);
        }
    }

    fn settle(&self, attempt: u64, brought: Result<AccessToken, Error>) -> Option<Settled> {
        let settled = self
            .write()
            .settle(attempt, Moment::now(), brought, fastrand::f64())?;
        let outcome = match &settled {
            Settled::Adopted { .. } => Outcome::Adopted,
            Settled::Failed { error, .. } => Outcome::Failed(error.clone()),
        };
        self.ended.send_replace(Ended { attempt, outcome });
        Some(settled)
    }

    fn abandon(&self, attempt: u64) {
        if self.write().abandon(attempt) {
            self.ended.send_replace(Ended {
                attempt,
                outcome: Outcome::Abandoned,
            });
        }
    }

    /// Nothing panics under the lock, so a poisoned one is as good as any.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for TokenManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenManager")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

fn outside_runtime() -> Error {
    Error::configuration(
        "an access token can be fetched only within a tokio runtime: from blocking code, use Handle::block_on",
    )
}

fn shutting_down() -> Error {
    Error::with_message(
        ErrorKind::Unavailable,
        "no access token can be fetched, as the tokio runtime is shutting down",
    )
}

fn timed_out(limit: Duration) -> Error {
    Error::with_message(
        ErrorKind::Timeout,
        format!(
            "no access token came within the acquire_timeout of {limit:?}; the refresh goes on"
        ),
    )
}

/// Settings of a [`TokenManager`].
#[must_use]
pub struct TokenManagerBuilder {
    source: Arc<dyn TokenSource>,
    refresh_at: RangeInclusive<f64>,
    acquire_timeout: Duration,
}

impl TokenManagerBuilder {
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

    /// The manager. It fetches nothing until somebody asks for a token or [keeps it warm](TokenManager::keep_warm).
    ///
    /// # Errors
    /// [`Configuration`](ErrorKind::Configuration) if `refresh_at` is outside (0, 0.9] or runs backwards, or if
    /// `acquire_timeout` is zero.
    pub fn build(self) -> Result<TokenManager, Error> {
        let (from, to) = (*self.refresh_at.start(), *self.refresh_at.end());
        if !(from > 0.0 && from <= to && to <= LATEST_REFRESH_AT) {
            return Err(Error::configuration(format!(
                "refresh_at has to lie within (0, {LATEST_REFRESH_AT}] and run upwards, not {from}..={to}"
            )));
        }
        if self.acquire_timeout.is_zero() {
            return Err(Error::configuration(
                "acquire_timeout has to be more than zero",
            ));
        }
        let nothing_yet = Ended {
            attempt: 0,
            outcome: Outcome::Abandoned,
        };
        Ok(TokenManager {
            inner: Arc::new(Inner {
                source: self.source,
                acquire_timeout: self.acquire_timeout.min(schedule::LONGEST_LIFE),
                state: RwLock::new(State::new(self.refresh_at)),
                ended: watch::Sender::new(nothing_yet),
            }),
        })
    }
}

impl fmt::Debug for TokenManagerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenManagerBuilder")
            .field("refresh_at", &self.refresh_at)
            .field("acquire_timeout", &self.acquire_timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
