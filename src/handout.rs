//! A token handed out to a map page in a browser.

use std::time::Duration;

use http::header::{CACHE_CONTROL, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::{Serialize, Serializer, ser::SerializeStruct};

use crate::{clock::Moment, error::Error, token::AccessToken};

/// For an error without `retry_after`: most likely an attempt is running, and by default it takes 5 s at most.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(5);

/// Zero would let a page ask in a loop.
const MIN_RETRY_AFTER: Duration = Duration::from_secs(1);

/// The longest backoff of a manager. A page that waited longer would miss the recovery.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// An access token for a browser, from [`TokenManager::hand_out`](crate::TokenManager::hand_out).
///
/// It serialises to a token response (RFC 6749, section 5.1), with OS's `issued_at`. There is no other way to read the
/// token:
///
/// ```json
/// {"access_token": "…", "expires_in": 240, "token_type": "Bearer", "issued_at": 1784635382476}
/// ```
///
/// Both figures are numbers, and count from the moment of serialisation. `expires_in` is the remaining lifetime in
/// whole seconds. `issued_at` is that moment in Unix milliseconds, by the server's clock. So the expiry that a page
/// written for OS's own answer computes, `issued_at + expires_in * 1000`, is never too late. A page that counts
/// `expires_in` down on its monotonic clock depends on no wall clock at all. `Debug` shows no token.
///
/// The types are those of the crate `http`, which axum and others accept directly:
///
/// ```
/// use std::time::Duration;
/// use axum::{Json, extract::State, response::IntoResponse};
/// use osdatahub_auth::{HandOut, TokenManager};
///
/// // Check who is asking first, as in the guide: anyone who gets the token can use it until it expires.
/// async fn token(State(tokens): State<TokenManager>) -> impl IntoResponse {
///     match tokens.hand_out(Duration::from_secs(120)).await {
///         Ok(hand_out) => (HandOut::headers(), Json(hand_out)).into_response(),
///         Err(error) => HandOut::refusal(&error).into_response(),
///     }
/// }
/// ```
#[derive(Debug)]
pub struct HandOut(pub(crate) AccessToken);

impl HandOut {
    /// The headers to send with the token: `Cache-Control: no-store`, so that no cache keeps it (RFC 6749, section
    /// 5.1).
    ///
    /// The RFC also asks for `Pragma: no-cache`, which has no meaning in a response (RFC 9111, section 5.4).
    #[must_use]
    pub fn headers() -> HeaderMap {
        HeaderMap::from_iter([(CACHE_CONTROL, HeaderValue::from_static("no-store"))])
    }

    /// The response to a client of yours if there is no token, on any route: 503 with `Retry-After` and
    /// `Cache-Control: no-store`.
    ///
    /// It does not give the reason, which is for your log and not for strangers. `Retry-After` is the error's
    /// [`retry_after`](Error::retry_after) in whole seconds, rounded up, from 1 to 60; 5 if it has none.
    #[must_use]
    pub fn refusal(error: &Error) -> (StatusCode, HeaderMap) {
        let wait = error.retry_after().unwrap_or(DEFAULT_RETRY_AFTER);
        let wait = wait.clamp(MIN_RETRY_AFTER, MAX_RETRY_AFTER);
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let mut headers = Self::headers();
        headers.insert(RETRY_AFTER, seconds.into());
        (StatusCode::SERVICE_UNAVAILABLE, headers)
    }
}

impl Serialize for HandOut {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // One moment for both figures, so that their sum is not after the token's end.
        let now = Moment::now();
        let mut json = serializer.serialize_struct("HandOut", 4)?;
        json.serialize_field("access_token", self.0.expose_secret())?;
        json.serialize_field("expires_in", &self.0.remaining_at(now).as_secs())?;
        json.serialize_field("token_type", "Bearer")?;
        json.serialize_field("issued_at", &now.unix_millis())?;
        json.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::stepped::step_ahead, error::ErrorKind};

    fn hand_out(life: Duration) -> HandOut {
        HandOut(AccessToken::new("canary", life).unwrap())
    }

    fn retry_after(wait: Option<Duration>) -> String {
        let error = Error::new(ErrorKind::Unavailable, "why");
        let error = wait.map_or(error.clone(), |wait| error.with_retry_after(wait));
        let (status, headers) = HandOut::refusal(&error);
        assert_eq!(status, 503);
        assert_eq!(headers[CACHE_CONTROL], "no-store");
        assert_eq!(headers.len(), 2);
        headers[RETRY_AFTER].to_str().unwrap().to_owned()
    }

    #[test]
    fn it_serialises_to_a_token_answer_with_the_whole_seconds_that_are_left() {
        let token = hand_out(Duration::from_millis(240_900));
        let json = serde_json::to_string(&token).unwrap();
        let (before, issued_at) = json.split_once(r#","issued_at":"#).unwrap();
        assert_eq!(
            before,
            r#"{"access_token":"canary","expires_in":240,"token_type":"Bearer""#
        );
        assert!(
            issued_at.trim_end_matches('}').parse::<u64>().is_ok(),
            "{issued_at} is a number"
        );
        let spent = serde_json::to_value(hand_out(Duration::ZERO)).unwrap();
        assert_eq!(spent["expires_in"], 0);
    }

    #[tokio::test(start_paused = true)]
    async fn issued_at_and_expires_in_give_an_end_that_is_at_most_a_second_before_the_tokens() {
        for life in [240_000, 240_900, 1, 0].map(Duration::from_millis) {
            // In unit tests both clocks are paused, so the token's end is known to the millisecond.
            let end = Moment::now().after(life).unix_millis();
            let token = hand_out(life);
            for passed in [0, 1, 999, 100_000].map(Duration::from_millis) {
                tokio::time::advance(passed).await;
                let now = Moment::now().unix_millis();
                let json = serde_json::to_value(&token).unwrap();
                let [issued_at, expires_in] = ["issued_at", "expires_in"].map(|name| json[name].as_u64().unwrap());
                assert_eq!(issued_at, now);
                let told = issued_at + expires_in * 1_000;
                assert!(told <= end.max(now) && end <= told + 1_000, "{told} for {end}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn issued_at_goes_by_a_wall_clock_that_was_set_and_its_end_is_still_not_too_late() {
        let token = hand_out(Duration::from_secs(240));
        let end = Moment::now().unix_millis() + 240_000;
        step_ahead(Duration::from_secs(100));
        let json = serde_json::to_value(&token).unwrap();
        assert_eq!(json["expires_in"], 140);
        assert_eq!(json["issued_at"].as_u64().unwrap() + 140_000, end);
    }

    #[test]
    fn debug_shows_the_life_and_not_the_token() {
        let shown = format!(
            "{:?} {:#?}",
            hand_out(Duration::from_secs(299)),
            hand_out(Duration::ZERO)
        );
        assert!(!shown.contains("canary"), "{shown}");
        assert!(shown.contains("remaining"), "{shown}");
    }

    #[test]
    fn no_cache_may_keep_a_token() {
        assert_eq!(HandOut::headers()[CACHE_CONTROL], "no-store");
    }

    #[test]
    fn a_refusal_asks_for_a_retry_after_1_to_60_s() {
        assert_eq!(retry_after(Some(Duration::from_secs(7))), "7");
        assert_eq!(retry_after(Some(Duration::from_millis(7_001))), "8");
        assert_eq!(retry_after(Some(Duration::ZERO)), "1");
        assert_eq!(retry_after(Some(Duration::from_nanos(1))), "1");
        assert_eq!(retry_after(Some(Duration::from_secs(60))), "60");
        assert_eq!(retry_after(Some(Duration::from_secs(61))), "60");
        assert_eq!(retry_after(Some(Duration::MAX)), "60");
        assert_eq!(retry_after(None), "5");
    }
}
