//! One attempt to refresh: a separate task, which no caller can cancel.

use std::sync::{Arc, Weak};
use std::{mem, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use tokio::time::{Instant, sleep_until, timeout};
use tokio::{runtime::Handle, sync::watch};
use tracing::Instrument;

use super::{inner::Inner, state::Attempt};
use crate::error::{Error, ErrorKind};
use crate::{
    clock::Moment, schedule::MAX_FETCH_TIME, source::TokenSource, status::Reason, telemetry, token::AccessToken,
};

/// Spawns the refresh task for an attempt that the caller leads. It holds the manager weakly, and ends with it.
pub(super) fn spawn(runtime: &Handle, manager: &Arc<Inner>, attempt: Attempt) {
    if let Some(overdue) = attempt.given_up {
        telemetry::given_up(manager.project.as_ref(), overdue);
    }
    let span = telemetry::refresh_span(attempt.id, attempt.reason, manager.project.as_ref());
    let dropped = dropped(manager.ended.subscribe());
    let guard = AttemptGuard {
        manager: Arc::downgrade(manager),
        id: attempt.id,
        reason: attempt.reason,
    };
    let task = async move {
        tokio::select! {
            biased;
            () = dropped => {}
            () = run(guard, attempt.starts) => {}
        }
    };
    runtime.spawn(task.instrument(span));
}

/// Resolves when the manager's last clone has been dropped.
async fn dropped<T>(mut manager: watch::Receiver<T>) {
    while manager.changed().await.is_ok() {}
}

async fn run(guard: AttemptGuard, starts: Instant) {
    if starts > Instant::now() {
        sleep_until(starts).await;
    }
    let Some((source, replaces)) = guard.begin() else {
        return;
    };
    let start = Instant::now();
    let result = fetch(&*source, replaces.as_ref()).await;
    drop(source);
    guard.settle(result, start.elapsed());
}

/// A fetch that always returns: within 30 s, and even if the source panics.
async fn fetch(source: &dyn TokenSource, replaces: Option<&AccessToken>) -> Result<AccessToken, Error> {
    let failed = |kind, message| Err(Error::with_message(kind, message));
    // A source that does not use `async_trait` may panic before it returns its future, so the call is inside as well.
    let fetch = async { timeout(MAX_FETCH_TIME, source.fetch(replaces)).await };
    // After a panic the future is dropped. The source is asked again, as after any other failure.
    match AssertUnwindSafe(fetch).catch_unwind().await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => failed(ErrorKind::Timeout, "the token source did not answer within 30 s"),
        Err(_) => failed(
            ErrorKind::Unavailable,
            "the token source panicked: see its panic message",
        ),
    }
}

/// Guard for one attempt. On drop it abandons the attempt, so that the next caller leads another. This happens if the
/// runtime shuts down in mid-fetch.
struct AttemptGuard {
    manager: Weak<Inner>,
    id: u64,
    reason: Reason,
}

impl AttemptGuard {
    /// The source to ask and the token to replace. `None` if the attempt is out of date.
    fn begin(&self) -> Option<(Arc<dyn TokenSource>, Option<AccessToken>)> {
        let manager = self.manager.upgrade()?;
        let mut state = manager.write();
        state
            .begin(self.id, Moment::now())
            .then(|| (manager.source.clone(), state.replaces().cloned()))
    }

    fn settle(mut self, result: Result<AccessToken, Error>, elapsed: Duration) {
        // Taken, so that the drop has nothing to abandon.
        let Some(manager) = mem::take(&mut self.manager).upgrade() else {
            return;
        };
        if let Some(outcome) = manager.settle(self.id, result) {
            let project = manager.project.as_ref();
            telemetry::refreshed(project, self.reason, &outcome, elapsed, &manager.status());
        }
    }
}

impl Drop for AttemptGuard {
    fn drop(&mut self) {
        if let Some(manager) = self.manager.upgrade() {
            manager.abandon(self.id);
        }
    }
}
