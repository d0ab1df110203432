//! Refreshes without traffic.

use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::thread::panicking;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::{Instant, sleep_until};

use super::inner::Inner;
use crate::{clock::Moment, telemetry};

/// The longest sleep. The monotonic clock, by which tokio sleeps, stands still while a machine is suspended; a look at
/// the wall clock after waking notices that.
const MAX_SLEEP: Duration = Duration::from_secs(10);

/// Guard that keeps a [`TokenManager`](crate::TokenManager)'s token fresh until it or the manager is dropped.
///
/// See [`TokenManager::keep_warm`](crate::TokenManager::keep_warm).
#[derive(Debug)]
#[must_use = "the token is kept warm until this guard is dropped, which `let _ =` does at once: name it `_warm`, say"]
pub struct KeepWarm {
    /// Nothing is sent. The task notices that it is dropped.
    _alive: oneshot::Sender<Infallible>,
}

impl KeepWarm {
    #[track_caller]
    pub(super) fn start(manager: &Arc<Inner>) -> Self {
        let Ok(runtime) = Handle::try_current() else {
            panic!(
                "keep_warm has to be called within a tokio runtime, on which it runs: in main, or after Runtime::enter"
            );
        };
        let (alive, guard) = oneshot::channel();
        let task = Task {
            manager: Arc::downgrade(manager),
            guard,
        };
        runtime.spawn(task.run());
        Self { _alive: alive }
    }
}

/// The task behind a guard. It holds the manager weakly.
struct Task {
    manager: Weak<Inner>,
    guard: oneshot::Receiver<Infallible>,
}

impl Task {
    /// Ends once the guard or the manager is dropped.
    async fn run(mut self) {
        while let Some(manager) = self.manager.upgrade() {
            let mut ended = manager.ended.subscribe();
            manager.renew();
            let next = manager.read().next_renewal(Moment::now());
            drop(manager);
            let latest = Instant::now() + MAX_SLEEP;
            tokio::select! {
                biased;
                _ = &mut self.guard => return,
                () = sleep_until(next.map_or(latest, |at| at.min(latest))) => {}
                changed = ended.changed() => if changed.is_err() { return },
            }
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        // While the guard and the manager are alive, the task is dropped only when its runtime ends, or when it panics
        // because the runtime has no timer.
        let guarded = self.guard.try_recv() == Err(TryRecvError::Empty);
        if let Some(manager) = self.manager.upgrade().filter(|_| guarded && !panicking()) {
            telemetry::keep_warm_ended(manager.project.as_ref());
        }
    }
}
