//! Refreshes without traffic.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio::{runtime::Handle, task::AbortHandle};

use super::inner::Inner;
use crate::clock::Moment;

/// The longest sleep. The monotonic clock, by which tokio sleeps, stands still while a machine is suspended; a look at
/// the wall clock after waking notices that.
const MAX_SLEEP: Duration = Duration::from_secs(10);

/// Guard that keeps a [`TokenManager`](crate::TokenManager)'s token fresh until it or the manager is dropped.
///
/// See [`TokenManager::keep_warm`](crate::TokenManager::keep_warm).
#[derive(Debug)]
#[must_use = "the token is kept warm until this guard is dropped, which `let _ =` does at once: name it `_warm`, say"]
pub struct KeepWarm {
    task: AbortHandle,
}

impl KeepWarm {
    pub(super) fn start(manager: &Arc<Inner>) -> Self {
        let task = Handle::current().spawn(run(Arc::downgrade(manager)));
        Self {
            task: task.abort_handle(),
        }
    }
}

impl Drop for KeepWarm {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(weak: Weak<Inner>) {
    while let Some(manager) = weak.upgrade() {
        let mut ended = manager.ended.subscribe();
        manager.renew();
        let next = manager.read().next_renewal(Moment::now());
        drop(manager);
        let latest = Instant::now() + MAX_SLEEP;
        tokio::select! {
            biased;
            () = sleep_until(next.map_or(latest, |at| at.min(latest))) => {}
            changed = ended.changed() => if changed.is_err() { return },
        }
    }
}
