//! OS's rate limit: transactions a minute, counted for each API of the project.

use std::{collections::HashMap, time::Duration, time::Instant};

const MINUTE: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct RateLimit {
    pub(super) per_minute: Option<u32>,
    /// The start of each API's minute, and its requests since then.
    minutes: HashMap<&'static str, (Instant, u32)>,
}

impl RateLimit {
    /// Counts a request to an API, and says whether it is within the limit.
    pub(super) fn admits(&mut self, api: &'static str, now: Instant) -> bool {
        let (start, requests) = self.minutes.entry(api).or_insert((now, 0));
        if now - *start >= MINUTE {
            (*start, *requests) = (now, 0);
        }
        *requests = requests.saturating_add(1);
        self.per_minute.is_none_or(|limit| *requests <= limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_api_has_its_limit_for_a_minute() {
        let mut limit = RateLimit::default();
        let start = Instant::now();
        assert!((0..1_000).all(|_| limit.admits("maps", start)));
        limit.per_minute = Some(2);
        for (api, after, admitted) in [
            ("maps", 0, false),
            ("names", 0, true),
            ("names", 59, true),
            ("names", 59, false),
            ("names", 60, true),
            ("maps", 60, true),
            ("maps", 119, true),
            ("maps", 119, false),
        ] {
            assert_eq!(
                limit.admits(api, start + Duration::from_secs(after)),
                admitted,
                "{api} {after}"
            );
        }
    }
}
