//! The deadline of a waiting caller.

use std::time::Duration;

use tokio::time::Instant;

use crate::schedule::{LAST_CHANCE, STALLED_AFTER};

/// The end of a caller's wait. If it passes while the process is stalled, it is extended once, by 1 s: the attempt was
/// stalled as well.
pub(super) struct Deadline {
    at: Instant,
    extended: bool,
}

impl Deadline {
    pub(super) fn new(now: Instant, acquire_timeout: Duration) -> Self {
        Self {
            at: now + acquire_timeout,
            extended: false,
        }
    }

    pub(super) fn at(&self) -> Instant {
        self.at
    }

    /// Whether it has passed. Extends it first if the caller wakes later than a timer would have woken it.
    pub(super) fn has_passed(&mut self, now: Instant) -> bool {
        if !self.extended && now >= self.at + STALLED_AFTER {
            self.at = now + LAST_CHANCE;
            self.extended = true;
        }
        now >= self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_deadline_that_passed_while_the_process_was_stalled_is_extended_by_a_second_once() {
        let start = Instant::now();
        let mut in_time = Deadline::new(start, 10 * SECOND);
        assert!(!in_time.has_passed(start + 9 * SECOND));
        assert!(in_time.has_passed(start + 10 * SECOND));
        assert!(in_time.has_passed(start + 10 * SECOND + STALLED_AFTER - Duration::from_nanos(1)));

        let mut late = Deadline::new(start, 10 * SECOND);
        let woken = start + 10 * SECOND + STALLED_AFTER;
        assert!(!late.has_passed(woken));
        assert_eq!(late.at(), woken + SECOND);
        assert!(!late.has_passed(woken + SECOND - Duration::from_nanos(1)));
        assert!(late.has_passed(woken + SECOND));
        assert!(late.has_passed(woken + 60 * SECOND), "it is extended only once");
    }
}
