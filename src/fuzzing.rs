//! Doors for the fuzzers in `fuzz/`, which alone build with `cfg(fuzzing)`: all that hostile bytes get to see, and what
//! must hold whatever they are.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, StatusCode, header::WWW_AUTHENTICATE};

use crate::{endpoint::answer, rejection, schedule};

/// The body of a token answer. The first byte says whether it is a token or a failure, and when it was sent.
pub fn token_answer(data: &[u8]) {
    let Some((first, body)) = data.split_first() else {
        return;
    };
    let date = SystemTime::UNIX_EPOCH + Duration::from_secs(1_634_663_382 + u64::from(*first));
    if first % 2 == 0 {
        if let Ok(grant) = answer::parse(body, Some(date)) {
            assert!(!grant.life.is_zero() && grant.life <= schedule::DAY);
        }
    } else {
        let error = answer::failure(StatusCode::BAD_REQUEST, body, None);
        assert!(!error.is_transient());
    }
}

/// The body of a 401.
pub fn fault(data: &[u8]) {
    let _ = rejection::by_body(data);
}

/// The `WWW-Authenticate` of a 401.
pub fn www_authenticate(data: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(data) {
        let _ = rejection::by_challenge(&HeaderMap::from_iter([(WWW_AUTHENTICATE, value)]));
    }
}

/// A `Retry-After`.
pub fn retry_after(data: &[u8]) {
    if let Some(wait) = schedule::parse_retry_after(&String::from_utf8_lossy(data), SystemTime::UNIX_EPOCH) {
        assert!(wait <= schedule::DAY);
    }
}
