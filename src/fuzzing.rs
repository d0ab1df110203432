//! Entry points for the fuzzers in `fuzz/`, which build with `cfg(fuzzing)`: every parser of server input, with what
//! must hold for any input.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, StatusCode, header::WWW_AUTHENTICATE};

use crate::endpoint::{headers, response};
use crate::{fault::Verdict, middleware::challenge, schedule::DAY};

/// The body of a token response. The first byte decides whether it is a success or a failure, its `Date`, and
/// whether it comes from a cache.
pub fn token_answer(data: &[u8]) {
    let Some((first, body)) = data.split_first() else {
        return;
    };
    let date = SystemTime::UNIX_EPOCH + Duration::from_secs(1_634_663_382 + u64::from(*first));
    if first % 2 == 0 {
        if let Ok(response) = response::parse(body, Some(date), first % 4 == 0) {
            assert!(!response.lifetime.is_zero() && response.lifetime <= DAY);
        }
    } else {
        let error = response::failure(StatusCode::BAD_REQUEST, body, None);
        assert!(!error.is_transient());
    }
}

/// The body of a 401.
pub fn fault(data: &[u8]) {
    let _ = Verdict::of_body(data);
}

/// The `WWW-Authenticate` of a 401.
pub fn www_authenticate(data: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(data) {
        let _ = challenge::verdict(&HeaderMap::from_iter([(WWW_AUTHENTICATE, value)]));
    }
}

/// A `Retry-After`.
pub fn retry_after(data: &[u8]) {
    if let Some(wait) = headers::parse_retry_after(&String::from_utf8_lossy(data), SystemTime::UNIX_EPOCH) {
        assert!(wait <= DAY);
    }
}
