//! The headers of a token response: `Date`, `Age` and `Retry-After`.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, header};

use crate::schedule::DAY;

pub(super) fn date(headers: &HeaderMap) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(header::DATE)?.to_str().ok()?).ok()
}

/// Whether the response comes from a cache, which has to add an `Age` (RFC 9111, section 5.1). Some proxies add an `Age`
/// of 0 to a response that does not.
pub(super) fn from_cache(headers: &HeaderMap) -> bool {
    headers.get(header::AGE).is_some_and(|age| age != "0")
}

pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    parse_retry_after(value, date(headers).unwrap_or_else(SystemTime::now))
}

/// Parses a `Retry-After` (RFC 9110, section 10.2.3): seconds, or an HTTP date, which counts from the response's
/// `Date`.
pub(crate) fn parse_retry_after(value: &str, date: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let wait = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        Duration::from_secs(value.parse().unwrap_or(u64::MAX))
    } else {
        let until = httpdate::parse_http_date(value).ok()?;
        until.duration_since(date).unwrap_or_default()
    };
    // So that no sum with a server's number overflows.
    Some(wait.min(DAY))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    proptest! {
        #[test]
        fn a_retry_after_is_the_seconds_that_it_says(seconds in 0..=86_400_u64, sent_at in 0..4_000_000_000_u64) {
            let date = SystemTime::UNIX_EPOCH + Duration::from_secs(sent_at);
            let wait = Duration::from_secs(seconds);
            prop_assert_eq!(parse_retry_after(&format!(" {seconds} "), date), Some(wait));
            let until = httpdate::fmt_http_date(date + wait);
            prop_assert_eq!(parse_retry_after(&until, date), Some(wait));
            prop_assert_eq!(parse_retry_after(&until, date + wait + SECOND), Some(Duration::ZERO));
        }

        #[test]
        fn any_retry_after_is_read_without_a_panic(value in ".*", number: u128) {
            let date = SystemTime::UNIX_EPOCH;
            for value in [value, number.to_string()] {
                if let Some(wait) = parse_retry_after(&value, date) {
                    prop_assert!(wait <= DAY);
                }
            }
        }
    }

    #[test]
    fn a_retry_after_that_is_neither_seconds_nor_a_date_is_none() {
        for value in ["", " ", "-7", "+7", "1.5", "soon", "7 s", "Sun, 06 Nov 1994"] {
            assert_eq!(parse_retry_after(value, SystemTime::UNIX_EPOCH), None, "{value}");
        }
        let endless = "9".repeat(40);
        assert_eq!(parse_retry_after(&endless, SystemTime::UNIX_EPOCH), Some(DAY));
    }
}
