//! The token manager: its public methods, and how a caller waits.

mod builder;
mod deadline;
mod inner;
mod keep_warm;
mod refresh;
mod state;

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::{Instant, timeout_at};
use tokio::{runtime::Handle, sync::watch};

use self::deadline::Deadline;
use self::inner::Inner;
use self::state::{Join, Need};
pub use self::{builder::TokenManagerBuilder, keep_warm::KeepWarm};
use crate::error::{Error, ErrorKind};
use crate::status::{Action, Outcome, TokenStatus};
use crate::{
    clock::Moment, credentials::CredentialsProvider, endpoint::TokenEndpoint, fault::Verdict, handout::HandOut,
    source::TokenSource, tally::Tallies, telemetry, token::AccessToken,
};

/// A token manager: it holds a project's access token, renews it in the background, and survives an outage of the token
/// endpoint.
///
/// Build one manager for a project, with [`new`](Self::new) or [`builder`](Self::builder), and keep it for as long as
/// the service runs. Its clones share one token.
///
/// # The life of a token
///
/// The states of a token that OS issues for 299 s:
///
/// | state | from | [`token()`](Self::token) |
/// |---|---|---|
/// | fresh | 0 s | returns it: one read lock, no wait, no allocation |
/// | stale | 224 to 254 s, drawn once for each token | returns it at once, and starts a refresh unless one is running (stale-while-revalidate) |
/// | unusable | 289 s | waits until there is a token, up to the `acquire_timeout` |
///
/// The windows scale with the lifetime, so they fit shorter and longer ones as well. A lifetime counts from the moment
/// before the token request is sent, on the monotonic clock. A wall clock that is wrong or set back changes nothing.
/// One that is set ahead, as after a suspension, leads to one early refresh.
///
/// A refresh runs as a separate task, on the runtime of the caller that started it. It goes on if that caller is
/// dropped or times out. If its runtime ends, another caller starts the next one. If its runtime is blocked, another
/// caller does so after half a minute. Dropping the last clone drops the task and the secret as well.
#[derive(Clone)]
pub struct TokenManager {
    inner: Arc<Inner>,
}

impl TokenManager {
    /// Builds a manager for OS's token endpoint, with all defaults.
    ///
    /// # Errors
    /// [`Configuration`](ErrorKind::Configuration) if the HTTP client cannot be built, above all because no TLS is
    /// compiled in.
    ///
    /// # Panics
    /// As [`TokenEndpointBuilder::build`](crate::TokenEndpointBuilder::build), in a build with `panic = "abort"`.
    pub fn new(credentials: impl CredentialsProvider) -> Result<Self, Error> {
        Self::builder(TokenEndpoint::builder(credentials).build()?).build()
    }

    /// Returns a builder for a manager with any [`TokenSource`]: a [`TokenEndpoint`] with settings, or your own.
    pub fn builder(source: impl TokenSource) -> TokenManagerBuilder {
        TokenManagerBuilder::new(Arc::new(source))
    }

    /// Returns a usable token.
    ///
    /// Returns at once while there is one. Otherwise the caller waits until there is one, for up to the
    /// `acquire_timeout`. All callers share the attempts meanwhile: one at a time, with a backoff after each failure.
    ///
    /// Cancel-safe: dropping the future does not stop a refresh.
    ///
    /// # Errors
    /// The error of the last refresh, at once, if that failed permanently or the next one starts after the
    /// `acquire_timeout`. Its [`retry_after`](Error::retry_after) says when the next one is due.
    /// [`Timeout`](ErrorKind::Timeout), caused by the last failure, if the `acquire_timeout` passes.
    /// [`Configuration`](ErrorKind::Configuration) if there is no token and the caller is outside a tokio runtime.
    /// [`Unavailable`](ErrorKind::Unavailable) if the caller's runtime is shutting down.
    ///
    /// # Panics
    /// On a tokio runtime without a timer (`enable_time`), if it has to wait.
    pub async fn token(&self) -> Result<AccessToken, Error> {
        self.obtain(Need::Usable).await
    }

    /// Returns a token with at least this remaining lifetime, for work that cannot renew it on the way.
    ///
    /// `at_least` is capped at half of the token's lifetime, so that a large value does not cost a refresh for each
    /// call. A token with less left is refreshed first, by the same single-flight as any other.
    ///
    /// # Errors
    /// As [`token`](Self::token). While the current token is usable, though for a shorter time, the first failure of a
    /// refresh is returned at once. Ask `token` for that token.
    ///
    /// # Panics
    /// As [`token`](Self::token).
    pub async fn token_lasting(&self, at_least: Duration) -> Result<AccessToken, Error> {
        self.obtain(Need::Lasting(at_least)).await
    }

    /// Hands out a token for a browser, with at least this remaining lifetime if possible.
    ///
    /// `at_least` is capped at half of the token's lifetime, as in [`token_lasting`](Self::token_lasting). 120 s is a
    /// sensible value for OS's tokens. A token with less left is refreshed first, by the same single-flight as any
    /// other. If that refresh fails, or a backoff is running, the current token is handed out for as long as it is
    /// usable.
    ///
    /// # Errors
    /// As [`token`](Self::token), if there is no usable token. [`HandOut::refusal`] turns it into a response.
    ///
    /// # Panics
    /// As [`token`](Self::token).
    pub async fn hand_out(&self, at_least: Duration) -> Result<HandOut, Error> {
        if let Some(token) = self.current_during_backoff() {
            return Ok(HandOut(token));
        }
        match self.token_lasting(at_least).await {
            Ok(token) => Ok(HandOut(token)),
            Err(error) => self.current().map(HandOut).ok_or(error),
        }
    }

    /// The current token, if it is usable. Never waits and never starts a refresh.
    #[must_use]
    pub fn current(&self) -> Option<AccessToken> {
        self.inner.read().usable(Moment::now(), Need::Usable).cloned()
    }

    /// Reports that the API refused this token. No caller gets it again, unless it is too new.
    /// [`BearerAuth`](crate::BearerAuth) calls this by itself.
    ///
    /// A token that has been replaced meanwhile is ignored, so a late 401 does no harm. A token younger than 5 s (or a
    /// quarter of its lifetime, if that is less) is not replaced either. If a new token is refused, its age is not the
    /// cause. While new tokens keep being refused, this throttle doubles the age, up to 60 s. It resets once no token
    /// has been refused for twice that time.
    ///
    /// Within a tokio runtime the refresh starts at once. Outside one, or during a gap or a backoff, the next caller or
    /// [`keep_warm`](Self::keep_warm) starts it. Logs and metrics count the call as a 401.
    pub fn reject(&self, token: &AccessToken) {
        self.unauthorized(token, Verdict::AboutToken);
    }

    /// A snapshot for health checks. Sends nothing.
    #[must_use]
    pub fn status(&self) -> TokenStatus {
        self.inner.status()
    }

    /// Fetches and refreshes without traffic, so that the first request after a quiet hour finds a token.
    ///
    /// It stops when the guard is dropped, or the manager's last clone. Without it, a token is renewed when a caller
    /// asks for one. A readiness probe that reads [`status`](Self::status) needs it, since a service that is not ready
    /// has no traffic:
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
    /// Its task runs on the current tokio runtime. If that ends, so does the task, and a WARN says so. A runtime that is
    /// often blocked, such as one of actix-web's workers, is a poor place for it: the guide's page on
    /// [runtimes](crate::guide::runtimes) shows a separate one.
    ///
    /// # Panics
    /// Outside a tokio runtime, with a message that says so. On one without a timer (`enable_time`), the task panics.
    #[track_caller]
    pub fn keep_warm(&self) -> KeepWarm {
        KeepWarm::start(&self.inner)
    }

    /// A token other than the one that drew a 401. `None` if there is none in time: the 401 is then the answer.
    pub(crate) async fn other_than(&self, refused: &AccessToken) -> Option<AccessToken> {
        match self.current_during_backoff() {
            Some(current) if current.is(refused) => None,
            _ => self.obtain(Need::OtherThan(refused)).await.ok(),
        }
    }

    /// The current token, if it is usable and a backoff is running. A caller that has something to fall back on should
    /// not wait for the next attempt, which will most likely fail as well.
    fn current_during_backoff(&self) -> Option<AccessToken> {
        let now = Moment::now();
        let state = self.inner.read();
        let token = state.usable(now, Need::Usable).filter(|_| state.is_backing_off(now));
        token.cloned()
    }

    /// What the middleware has counted for all clones of this manager.
    pub(crate) fn tallies(&self) -> &Tallies {
        &self.inner.tallies
    }

    pub(crate) fn project(&self) -> Option<&Arc<str>> {
        self.inner.project.as_ref()
    }

    /// Handles a 401, given its verdict.
    pub(crate) fn unauthorized(&self, token: &AccessToken, verdict: Verdict) -> Action {
        self.inner.unauthorized(token, verdict)
    }

    #[inline]
    async fn obtain(&self, need: Need<'_>) -> Result<AccessToken, Error> {
        match self.inner.ready(need) {
            Some(token) => Ok(token),
            // Boxed, so that the future of the hot path stays small.
            None => Box::pin(self.wait(need)).await,
        }
    }

    /// The slow path of a caller without a token: joins an attempt, waits for its end, and decides what that means.
    ///
    /// Each iteration waits for one attempt. The caller leaves with a token or at its deadline, or with an error that
    /// `join` gives: the next attempt comes too late or cannot help. It waits on if the new token does not meet the
    /// need, if the attempt failed, is overdue or was abandoned by another runtime. A caller with a usable token to fall
    /// back on leaves with the first failure.
    async fn wait(&self, mut need: Need<'_>) -> Result<AccessToken, Error> {
        let runtime = Handle::try_current().map_err(|_| outside_runtime())?;
        let mut deadline = Deadline::new(Instant::now(), self.inner.acquire_timeout);
        let mut ended = self.inner.ended.subscribe();
        let mut waiting = None;
        loop {
            let join = self.inner.write().join(Moment::now(), need, deadline.at())?;
            let (attempt, leads) = match join {
                Join::Ready(token) => return Ok(token),
                Join::Follower(attempt) => (attempt, false),
                Join::Leader(attempt) => {
                    refresh::spawn(&runtime, &self.inner, attempt);
                    (attempt, true)
                }
            };
            // Started here, because a caller that gets a token or an error at once has not waited.
            waiting.get_or_insert_with(|| telemetry::Waiting::new(self.inner.project.as_ref(), need.label()));
            let end = end_of(&mut ended, attempt.id);
            let end = timeout_at(deadline.at().min(attempt.overdue_at), end).await;
            let has_ended = end.is_ok();
            let failure = match end {
                Ok((_, Outcome::Refreshed { .. })) => {
                    need = self.inner.read().need_after_refresh(need);
                    None
                }
                Ok((_, Outcome::Failed { error, .. })) => self.current().is_some().then_some(error),
                // Only a runtime drops tasks. If it dropped the one that this caller spawned, it would drop the next.
                Ok((id, Outcome::Abandoned)) => (leads && id == attempt.id).then(shutting_down),
                Err(_) => None,
            };
            // Whatever the outcome, a later attempt may have stored a token meanwhile.
            if let Some(token) = self.inner.ready(need) {
                return Ok(token);
            }
            if let Some(failure) = failure {
                return Err(failure);
            }
            let now = Instant::now();
            // If the attempt has ended, `join` gives the error: it knows when the next one is due.
            if deadline.has_passed(now) && !has_ended {
                return Err(self.inner.read().timed_out(now, self.inner.acquire_timeout));
            }
        }
    }
}

impl fmt::Debug for TokenManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenManager")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

/// Waits for the end of an attempt. A caller that is polled late may find that a later one has ended as well, and gets
/// the end of that one.
async fn end_of(ended: &mut watch::Receiver<(u64, Outcome)>, id: u64) -> (u64, Outcome) {
    let end = ended.wait_for(|(ended, _)| *ended >= id).await;
    // The channel is open, because the caller holds the manager.
    end.map_or((id, Outcome::Abandoned), |end| end.clone())
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
