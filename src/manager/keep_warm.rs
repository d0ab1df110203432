//! Refreshing without traffic.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    task::AbortHandle,
    time::{Instant, sleep_until},
};

use super::Inner;
use crate::clock::Moment;

/// The monotonic clock stands still while a machine is suspended. A look every now and then notices on waking.
const LONGEST_SLEEP: Duration = Duration::from_secs(10);

/// Keeps a [`TokenManager`](crate::TokenManager)'s token fresh until it is dropped, or until the manager is.
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
        let look_again = manager.read().next_renewal(Moment::now());
        drop(manager);
        let at_latest = Instant::now() + LONGEST_SLEEP;
        tokio::select! {
            biased;
            () = sleep_until(look_again.map_or(at_latest, |at| at.min(at_latest))) => {}
            changed = ended.changed() => if changed.is_err() { return },
        }
    }
}
