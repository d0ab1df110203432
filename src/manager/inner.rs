//! The lock around the state, and the channel on which attempts announce their end.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tokio::{runtime::Handle, sync::watch};

use super::refresh;
use super::state::{Need, State};
use crate::status::{Action, Outcome, TokenStatus};
use crate::{
    clock::Moment, error::Error, fault::Verdict, source::TokenSource, tally::Tallies, telemetry, token::AccessToken,
};

/// What the clones of a [`TokenManager`](super::TokenManager) share.
pub(super) struct Inner {
    pub(super) source: Arc<dyn TokenSource>,
    pub(super) acquire_timeout: Duration,
    pub(super) project: Option<Arc<str>>,
    pub(super) tallies: Tallies,
    /// Held for nanoseconds, never across an `.await`.
    pub(super) state: RwLock<State>,
    /// The attempt that ended last, and how. Callers wait for theirs here. Tasks notice here that the manager is gone.
    pub(super) ended: watch::Sender<(u64, Outcome)>,
}

impl Inner {
    /// The hot path: the current token if it meets the need. A stale one starts a refresh in the background
    /// (stale-while-revalidate).
    // Inlined with what it calls for a fresh token, because the calls would cost a tenth of it.
    #[inline]
    pub(super) fn ready(self: &Arc<Self>, need: Need<'_>) -> Option<AccessToken> {
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

    /// Starts a background refresh if one is due and the caller is within a runtime.
    pub(super) fn renew(self: &Arc<Self>) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let led = self.write().renew(Moment::now());
        if let Some(attempt) = led {
            refresh::spawn(&runtime, self, attempt);
        }
    }

    pub(super) fn unauthorized(self: &Arc<Self>, token: &AccessToken, verdict: Verdict) -> Action {
        let action = self.write().unauthorized(Moment::now(), token, verdict);
        if action != Action::NotAboutToken {
            self.renew();
        }
        telemetry::unauthorized(self.project.as_ref(), verdict, action);
        action
    }

    pub(super) fn settle(&self, id: u64, result: Result<AccessToken, Error>) -> Option<Outcome> {
        let outcome = self.write().settle(id, Moment::now(), result, fastrand::f64())?;
        self.announce(id, outcome.clone());
        Some(outcome)
    }

    pub(super) fn abandon(&self, id: u64) {
        let abandoned = self.write().abandon(id);
        if let Some(outcome) = abandoned {
            self.announce(id, outcome);
        }
    }

    /// Wakes all callers that wait for this attempt or an earlier one.
    fn announce(&self, id: u64, outcome: Outcome) {
        self.ended.send_if_modified(|ended| {
            // The next attempt may have ended since the lock was released. Its end must not be overwritten.
            let newer = id > ended.0;
            if newer {
                *ended = (id, outcome);
            }
            newer
        });
    }

    pub(super) fn status(&self) -> TokenStatus {
        self.read().status(Moment::now())
    }

    /// Poisoning is ignored, because every update leaves the state consistent.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}
