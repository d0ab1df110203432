//! The token behind its lock, and the one refresh in flight.

mod builder;
mod keep_warm;
mod reason;
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

use self::state::{Need, Place, Settled, State};
pub use self::{
    builder::TokenManagerBuilder,
    keep_warm::KeepWarm,
    reason::RefreshTotals,
    status::{TokenState, TokenStatus},
};
pub(crate) use self::{reason::Reason, state::Refusal};
use crate::{AccessToken, CredentialsProvider, Error, ErrorKind, TokenEndpoint, TokenSource, clock::Moment, metrics};

/// A caller who led more attempts than this that were cut off is on a runtime that is shutting down.
const MOST_CUT_OFF: u32 = 3;

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
    /// As its owner calls it, if that has to be told.
    project: Option<Arc<str>>,
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
    /// Its runtime ended, say.
    CutOff,
}

impl TokenManager {
    /// A manager for OS's own token endpoint, with all defaults.
    ///
    /// # Errors
    /// [`Configuration`](ErrorKind::Configuration) if the HTTP client cannot be built: above all, if no TLS is compiled
    /// in.
    pub fn new(credentials: impl CredentialsProvider) -> Result<Self, Error> {
        Self::builder(TokenEndpoint::builder(credentials).build()?).build()
    }

    /// A manager for any [`TokenSource`]: a [`TokenEndpoint`] with settings, or your own.
    pub fn builder(source: impl TokenSource) -> TokenManagerBuilder {
        TokenManagerBuilder::new(Arc::new(source))
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
    /// [`Configuration`](ErrorKind::Configuration) if there is no token and the caller is outside a tokio runtime;
    /// [`Unavailable`](ErrorKind::Unavailable) if the caller's runtime is shutting down.
    ///
    /// # Panics
    /// On a tokio runtime without a timer (`enable_time`), if it has to wait.
    pub async fn token(&self) -> Result<AccessToken, Error> {
        self.obtain(Need::Usable).await
    }

    /// A token that lasts for at least this long from now, for work that cannot renew it on the way.
    ///
    /// `at_least` counts up to half of the token's life; what exceeds that is ignored, since asking OS again would not
    /// help. A token with less left is renewed first, by the same one refresh as ever.
    ///
    /// # Errors
    /// As [`token`](Self::token), also while the present token could still serve for less long: ask `token` for that
    /// one.
    ///
    /// # Panics
    /// As [`token`](Self::token).
    pub async fn token_lasting(&self, at_least: Duration) -> Result<AccessToken, Error> {
        self.obtain(Need::Lasting(at_least)).await
    }

    /// The token in use, if there is one that can be used now. Never waits and never starts a refresh.
    #[must_use]
    pub fn current(&self) -> Option<AccessToken> {
        self.inner.read().usable(Moment::now(), Need::Usable).cloned()
    }

    /// Says that the API refused this very token, so that nobody gets it again. [`BearerAuth`](crate::BearerAuth) does
    /// this by itself.
    ///
    /// Nothing happens if the token has been replaced meanwhile, so a late 401 does no harm. A token that we have had
    /// for less than 5 s (a quarter of its life if that is less) is not replaced either: if a new token is refused, its
    /// age is not the cause. While new tokens keep being refused that wait doubles, up to 60 s, so that a wall of 401s
    /// costs no wall of token requests; it falls back once twice the wait has passed without a refusal.
    ///
    /// Within a tokio runtime the refresh starts at once, otherwise with the next caller.
    pub fn reject(&self, token: &AccessToken) {
        self.refuse(token, Refusal::Rejected);
    }

    /// How the token is, for health checks. Asks nobody for anything.
    #[must_use]
    pub fn status(&self) -> TokenStatus {
        self.inner.status()
    }

    /// Fetches and refreshes without traffic, until the guard is dropped or the manager's last clone is: the first
    /// request of a quiet hour then finds a token. Without it a token is renewed when somebody asks for one.
    ///
    /// A readiness probe that asks [`status`](Self::status) needs it, since a service that is not ready has no traffic:
    ///
    /// ```
    /// # use osdatahub_auth::{TokenManager, TokenState};
    /// # fn service(tokens: &TokenManager) {
    /// let _warm = tokens.keep_warm(); // kept for as long as the service runs
    /// # }
    /// fn is_ready(tokens: &TokenManager) -> bool {
    ///     matches!(tokens.status().state, TokenState::Fresh | TokenState::Stale)
    /// }
    /// ```
    ///
    /// Runs on the current tokio runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn keep_warm(&self) -> KeepWarm {
        KeepWarm::start(&self.inner)
    }

    /// As metrics have it.
    pub(crate) fn project(&self) -> Option<&Arc<str>> {
        self.inner.project.as_ref()
    }

    /// A token other than the one that a request was refused with.
    pub(crate) async fn other_than(&self, refused: &AccessToken) -> Result<AccessToken, Error> {
        self.obtain(Need::OtherThan(refused)).await
    }

    /// Whether the last refresh failed and the next is not due yet.
    pub(crate) fn is_backing_off(&self) -> bool {
        self.inner.read().is_backing_off(Moment::now())
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

    async fn wait(&self, mut need: Need<'_>) -> Result<AccessToken, Error> {
        let runtime = Handle::try_current().map_err(|_| outside_runtime())?;
        let deadline = Instant::now() + self.inner.acquire_timeout;
        let mut ended = self.inner.ended.subscribe();
        let mut cut_off = 0;
        let mut waiting = None;
        loop {
            let place = self.inner.write().join(Moment::now(), need, deadline)?;
            let (attempt, leading) = match place {
                Place::Served(token) => return Ok(token),
                Place::Following(attempt) => (attempt, false),
                Place::Leading(attempt) => {
                    refresh::spawn(&runtime, &self.inner, attempt);
                    (attempt, true)
                }
            };
            waiting.get_or_insert_with(|| metrics::Waiting::new(self.project(), need.as_str()));
            let outcome = async {
                let ended = ended.wait_for(|ended| ended.attempt >= attempt.id).await;
                ended.map_or(Outcome::CutOff, |ended| ended.outcome.clone())
            };
            let failure = match timeout_at(deadline.min(attempt.lost_at), outcome).await {
                Ok(Outcome::Adopted) => {
                    need = self.inner.read().after_a_refresh(need);
                    None
                }
                Ok(Outcome::Failed(error)) => Some(error),
                Ok(Outcome::CutOff) => {
                    cut_off += u32::from(leading);
                    (cut_off > MOST_CUT_OFF).then(shutting_down)
                }
                Err(_) => (Instant::now() >= deadline).then(|| self.inner.timed_out()),
            };
            // Whatever came of that attempt, a caller who is late to hear of it may find what a later one brought.
            if let Some(token) = self.inner.ready(need) {
                return Ok(token);
            }
            if let Some(failure) = failure {
                return Err(failure);
            }
        }
    }
}

impl Inner {
    fn new(
        source: Arc<dyn TokenSource>,
        acquire_timeout: Duration,
        refresh_at: RangeInclusive<f64>,
        project: Option<Arc<str>>,
    ) -> Self {
        let nothing_yet = Ended {
            attempt: 0,
            outcome: Outcome::CutOff,
        };
        Self {
            source,
            acquire_timeout,
            project,
            state: RwLock::new(State::new(refresh_at)),
            ended: watch::Sender::new(nothing_yet),
        }
    }

    /// The hot path. Inlined with all that it calls, since the calls would cost a tenth of it.
    #[inline]
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
        let settled = self.write().settle(attempt, Moment::now(), brought, fastrand::f64())?;
        let outcome = match &settled {
            Settled::Adopted { .. } => Outcome::Adopted,
            Settled::Failed { error, .. } => Outcome::Failed(error.clone()),
        };
        self.announce(attempt, outcome);
        Some(settled)
    }

    fn abandon(&self, attempt: u64) {
        if self.write().abandon(attempt) {
            self.announce(attempt, Outcome::CutOff);
        }
    }

    /// Wakes those who wait for this attempt, unless they know of a later one already.
    fn announce(&self, attempt: u64, outcome: Outcome) {
        self.ended.send_if_modified(|ended| {
            let news = attempt > ended.attempt;
            if news {
                *ended = Ended { attempt, outcome };
            }
            news
        });
    }

    fn status(&self) -> TokenStatus {
        self.read().status(Moment::now())
    }

    fn timed_out(&self) -> Error {
        let limit = self.acquire_timeout;
        self.read().too_late(format!(
            "no access token came within the acquire_timeout of {limit:?}; the refresh goes on"
        ))
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

#[cfg(test)]
mod tests;
