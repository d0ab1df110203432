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
    #[inline]
    pub(crate) fn now() -> Self {
        Self {
            monotonic: Instant::now(),
            wall: wall_clock(),
        }
    }

    /// This much later, on both clocks.
    pub(crate) fn after(self, time: Duration) -> Self {
        Self {
            monotonic: self.monotonic + time,
            // A wall clock at the end of time is of no use to anybody; the monotonic one goes on.
            wall: self.wall.checked_add(time).unwrap_or(self.wall),
        }
    }

    /// Whether `moment` has come, by whichever clock says so: a machine that was suspended notices, and a wall clock
    /// set back delays nothing.
    #[inline]
    pub(crate) fn has_reached(self, moment: Self) -> bool {
        self.monotonic >= moment.monotonic || self.wall >= moment.wall
    }

    /// How long until `moment`, by the clock that says less.
    pub(crate) fn until(self, moment: Self) -> Duration {
        let monotonic = moment.monotonic.saturating_duration_since(self.monotonic);
        let wall = moment.wall.duration_since(self.wall).unwrap_or_default();
        monotonic.min(wall)
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
