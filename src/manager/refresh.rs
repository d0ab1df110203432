//! One refresh: a task of its own, which no caller can cancel.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tracing::{Instrument, Span, debug, error, info, info_span, warn};

use super::{
    Inner, Reason,
    state::{Attempt, Settled},
};
use crate::{AccessToken, Error, ErrorKind, TokenSource, clock::Moment, metrics, schedule, unwind::caught};

/// Starts an attempt that [`State`](super::state::State) has elected us to make.
///
/// The task knows the manager only weakly and ends with it. Its span is a root, so that no request's span stays open
/// for as long as the refresh takes.
pub(super) fn spawn(runtime: &Handle, manager: &Arc<Inner>, attempt: Attempt) {
    let span = info_span!(
        parent: None,
        "os_token_refresh",
        attempt = attempt.id,
        reason = attempt.reason.as_str(),
        project = manager.project.as_deref(),
    );
    span.follows_from(Span::current());
    let gone = gone(manager.ended.subscribe());
    let baton = Baton {
        manager: Arc::downgrade(manager),
        attempt: attempt.id,
        reason: attempt.reason,
    };
    let task = async move {
        tokio::select! {
            biased;
            () = gone => {}
            () = run(baton, attempt.starts) => {}
        }
    };
    runtime.spawn(task.instrument(span));
}

/// Resolves when the manager's last handle has been dropped.
async fn gone<T>(mut manager: watch::Receiver<T>) {
    while manager.changed().await.is_ok() {}
}

async fn run(baton: Baton, starts: Instant) {
    if starts > Instant::now() {
        sleep_until(starts).await;
    }
    let Some((source, replaces)) = baton.begin() else {
        return;
    };
    let asked = Instant::now();
    let brought = fetch(&*source, replaces.as_ref()).await;
    drop(source);
    baton.settle(brought, asked.elapsed());
}

/// A fetch that always ends, and never in a panic.
async fn fetch(source: &dyn TokenSource, replaces: Option<&AccessToken>) -> Result<AccessToken, Error> {
    let failed = |kind, message| Err(Error::with_message(kind, message));
    // All of it in here: also what the source does before it returns a future may panic.
    match caught(async { timeout(schedule::FETCH_LIMIT, source.fetch(replaces)).await }).await {
        Some(Ok(brought)) => brought,
        Some(Err(_)) => failed(
            ErrorKind::Timeout,
            "the token source was given up after 30 s without an answer",
        ),
        None => failed(
            ErrorKind::Unavailable,
            "the token source panicked: see its panic message",
        ),
    }
}

/// The right to settle an attempt. If it is dropped before, with its runtime or a cancelled task, the attempt is
/// abandoned and the next caller starts another.
struct Baton {
    manager: Weak<Inner>,
    attempt: u64,
    reason: Reason,
}

impl Baton {
    /// The source to ask, and the token that it is to replace; `None` if there is nothing to do any more.
    fn begin(&self) -> Option<(Arc<dyn TokenSource>, Option<AccessToken>)> {
        let manager = self.manager.upgrade()?;
        let mut state = manager.write();
        state
            .begin(self.attempt, Moment::now())
            .then(|| (manager.source.clone(), state.replaces().cloned()))
    }

    fn settle(self, brought: Result<AccessToken, Error>, took: Duration) {
        let Some(manager) = self.manager.upgrade() else { return };
        let Some(settled) = manager.settle(self.attempt, brought) else {
            return;
        };
        let outcome = match &settled {
            Settled::Adopted { .. } => Ok(()),
            Settled::Failed { error, .. } => Err(error.kind()),
        };
        metrics::refreshed(manager.project.as_ref(), self.reason, outcome, took, &manager.status());
        report(&settled);
    }
}

impl Drop for Baton {
    fn drop(&mut self) {
        if let Some(manager) = self.manager.upgrade() {
            manager.abandon(self.attempt);
        }
    }
}

/// One event for each outcome. Of failures that are alike only the first, and then every doubling, is louder than DEBUG,
/// so that an outage does not flood a log, and does not hide that a credential is rejected.
fn report(settled: &Settled) {
    match settled {
        Settled::Adopted { after_failures: 0 } => debug!("token refreshed"),
        Settled::Adopted { after_failures } => info!(after_failures, "token refreshed: recovered"),
        Settled::Failed { error, failures, alike } => {
            macro_rules! failed {
                ($level:ident) => {
                    $level!(
                        kind = ?error.kind(),
                        failures,
                        retry_in = ?error.retry_after().unwrap_or_default(),
                        error = error as &(dyn std::error::Error + 'static),
                        "token refresh failed"
                    )
                };
            }
            match (alike.is_power_of_two(), error.is_transient()) {
                (false, _) => failed!(debug),
                (true, true) => failed!(warn),
                (true, false) => failed!(error),
            }
        }
    }
}
