//! A tally for messages that repeat: it counts by key, so that a log neither floods nor falls silent.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Keys that are counted one by one. All others share one count.
const MAX_KEYS: usize = 64;

/// The tallies of one manager. Its clones share them, so several middleware layers of one manager log as one.
#[derive(Debug, Default)]
pub(crate) struct Tallies {
    /// 401s that are not about the token, by the path of the request.
    pub(crate) refused_paths: Tally,
    /// Requests without a token to the host of the Data Hub, by origin.
    pub(crate) data_hub_origins: Tally,
    /// Requests without a token to any other host. Counted separately, so that they cannot fill the tally above.
    pub(crate) other_origins: Tally,
}

/// Counts by key, behind a lock that is held for nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<Counts>);

impl Tally {
    /// Counts the key once more.
    pub(crate) fn add(&self, key: &str) -> Count {
        // Poisoning is ignored, because every update leaves the counts consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).add(key)
    }
}

#[derive(Debug, Default)]
struct Counts {
    by_key: HashMap<String, u64>,
    others: u64,
}

/// How often a key has been counted, or all the keys that share one count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) number: u64,
    is_shared: bool,
}

impl Counts {
    fn add(&mut self, key: &str) -> Count {
        let is_shared = self.by_key.len() >= MAX_KEYS && !self.by_key.contains_key(key);
        let number = if is_shared {
            &mut self.others
        } else {
            self.by_key.entry(key.to_owned()).or_default()
        };
        *number = number.saturating_add(1);
        Count {
            number: *number,
            is_shared,
        }
    }
}

impl Count {
    /// Whether a message is due that is logged at the 1st, 2nd, 4th, 8th … time.
    pub(crate) fn is_doubling(self) -> bool {
        self.number.is_power_of_two()
    }

    /// Whether to log a message that is logged once for each key. Keys that share a count cannot be told apart, so
    /// theirs is logged at each doubling.
    pub(crate) fn is_first(self) -> bool {
        self.number == 1 || (self.is_shared && self.is_doubling())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of the additions at which a message is due, if each key is added this often in turn.
    fn due(counts: &mut Counts, keys: std::ops::Range<usize>, times: usize, is_due: fn(Count) -> bool) -> Vec<usize> {
        let additions = (0..times).flat_map(|_| keys.clone()).enumerate();
        additions
            .filter(|(_, key)| is_due(counts.add(&key.to_string())))
            .map(|(number, _)| number + 1)
            .collect()
    }

    #[test]
    fn a_key_is_due_at_first_or_at_every_doubling() {
        assert_eq!(due(&mut Counts::default(), 0..1, 20, Count::is_first), [1]);
        assert_eq!(
            due(&mut Counts::default(), 0..1, 20, Count::is_doubling),
            [1, 2, 4, 8, 16]
        );
    }

    #[test]
    fn keys_are_counted_one_by_one() {
        assert_eq!(due(&mut Counts::default(), 0..3, 3, Count::is_first), [1, 2, 3]);
        let at_doublings = due(&mut Counts::default(), 0..3, 3, Count::is_doubling);
        assert_eq!(at_doublings, [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn beyond_64_keys_all_others_share_one_count_that_is_due_at_every_doubling() {
        for is_due in [Count::is_first, Count::is_doubling] {
            let mut counts = Counts::default();
            assert_eq!(due(&mut counts, 0..64, 1, is_due).len(), 64);
            // 100,000 other keys make 17 messages, and take no memory.
            assert_eq!(due(&mut counts, 64..100_064, 1, is_due).len(), 17);
            assert_eq!(counts.by_key.len(), 64);
        }
    }

    #[test]
    fn a_key_among_the_first_64_keeps_its_count_when_the_tally_is_full() {
        let mut counts = Counts::default();
        due(&mut counts, 0..100, 1, Count::is_first);
        assert_eq!(counts.add("63").number, 2);
        assert!(!counts.add("63").is_first());
        assert!(counts.add("64").is_shared);
    }
}
