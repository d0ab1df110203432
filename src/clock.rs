//! Both clocks, read at once.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// One moment, on the monotonic clock and on the wall clock.
///
/// Waiting and windows go by the monotonic clock, so that a wrong or stepped wall clock changes nothing. But the
/// monotonic clock stands still while a machine is suspended, and a token's life does not: the wall clock tells.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) monotonic: Instant,
    wall: SystemTime,
}

impl Moment {
    pub(crate) fn now() -> Self {
        Self {
            monotonic: Instant::now(),
            wall: wall_clock(),
        }
    }

    /// The time since `earlier`, by whichever clock says that more has passed: a suspended machine ages its token, and
    /// a wall clock set back does not make one younger.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        let monotonic = self.monotonic.saturating_duration_since(earlier.monotonic);
        let wall = self.wall.duration_since(earlier.wall).unwrap_or_default();
        monotonic.max(wall)
    }
}

#[cfg(not(test))]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// In unit tests the wall clock moves by the monotonic clock, which tokio can pause, and by steps of the test's own.
#[cfg(test)]
use stepped::wall_clock;

#[cfg(test)]
pub(crate) mod stepped {
    use super::{Duration, Instant, SystemTime};
    use std::cell::Cell;

    thread_local! {
        static START: (Instant, SystemTime) = (Instant::now(), SystemTime::now());
        static AHEAD: Cell<Duration> = const { Cell::new(Duration::ZERO) };
        static BACK: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    pub(super) fn wall_clock() -> SystemTime {
        let (start, wall) = START.with(|start| *start);
        wall + Instant::now().saturating_duration_since(start) + AHEAD.get() - BACK.get()
    }

    /// Sets this thread's wall clock ahead, or lets it run on while the machine is suspended.
    pub(crate) fn step_ahead(by: Duration) {
        AHEAD.set(AHEAD.get() + by);
    }

    /// Sets this thread's wall clock back.
    pub(crate) fn step_back(by: Duration) {
        BACK.set(BACK.get() + by);
    }
}
