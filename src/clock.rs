//! The monotonic clock and the wall clock, read together.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// A reading of both clocks.
///
/// Waits go by the monotonic clock. A token expires by whichever clock gets there first, because the monotonic clock
/// stands still while a machine is suspended and a lifetime does not. So a wall clock that is wrong or set back changes
/// nothing, and one that is set ahead leads to one early refresh.
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

    /// Milliseconds since 1970, by the wall clock. Zero if that clock is set before 1970.
    pub(crate) fn unix_millis(self) -> u64 {
        let since_1970 = self.wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        since_1970.as_millis().try_into().unwrap_or(u64::MAX)
    }

    /// The moment `time` later, on both clocks.
    pub(crate) fn after(self, time: Duration) -> Self {
        Self {
            monotonic: self.monotonic + time,
            // A wall clock this far ahead is wrong, and the moment counts as reached.
            wall: self.wall.checked_add(time).unwrap_or(self.wall),
        }
    }

    /// Whether either clock has reached `moment`. So a suspended machine notices on waking, and a wall clock that was
    /// set back delays nothing.
    #[inline]
    pub(crate) fn has_reached(self, moment: Self) -> bool {
        self.monotonic >= moment.monotonic || self.wall >= moment.wall
    }

    /// The time until `moment`, by the clock that gives less; zero if either has reached it.
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

/// In unit tests the wall clock follows the monotonic clock, which tokio can pause, and any steps that the test makes.
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

    /// Sets this thread's wall clock ahead. A suspended machine looks the same.
    pub(crate) fn step_ahead(by: Duration) {
        AHEAD.set(AHEAD.get() + by);
    }

    /// Sets this thread's wall clock back.
    pub(crate) fn step_back(by: Duration) {
        BACK.set(BACK.get() + by);
    }
}
