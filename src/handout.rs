//! The token that a server gives to a map page.

use std::{fmt, time::Duration};

use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{CACHE_CONTROL, RETRY_AFTER},
};
use serde::{Serialize, Serializer, ser::SerializeStruct};

use crate::{AccessToken, Error, TokenManager};

/// An error that does not say when to come again was met while an attempt was under way: by default one takes this long
/// at most.
const RETRY_AFTER_IF_UNKNOWN: Duration = Duration::from_secs(5);

/// "At once" would let a page ask in a loop.
const SHORTEST_RETRY_AFTER: Duration = Duration::from_secs(1);

/// As long as a manager itself ever waits. A page that is told more would miss the recovery.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);

/// An access token on its way to a browser, from [`TokenManager::hand_out`].
///
/// It serialises to what a token endpoint answers (RFC 6749, section 5.1), and that is the only way to see the token:
///
/// ```json
/// {"access_token": "…", "expires_in": 240, "token_type": "Bearer"}
/// ```
///
/// `expires_in` is a number: the whole seconds that are left of the token when it is serialised. `Debug` shows no token.
///
/// The types are those of the crate `http`, so that axum, say, takes them as they are:
///
/// ```
/// use std::time::Duration;
/// use axum::{Json, extract::State, response::IntoResponse};
/// use osdatahub_auth::{HandOut, TokenManager};
///
/// // Who may ask is for you to check: whoever gets the token can use it until it expires.
/// async fn token(State(tokens): State<TokenManager>) -> impl IntoResponse {
///     match tokens.hand_out(Duration::from_secs(120)).await {
///         Ok(hand_out) => (HandOut::headers(), Json(hand_out)).into_response(),
///         Err(error) => HandOut::refusal(&error).into_response(),
///     }
/// }
/// ```
pub struct HandOut(AccessToken);

impl TokenManager {
    /// A token for a browser, which lasts for at least this long from now, or else for as long as can be had.
    ///
    /// `at_least` counts up to half of the token's life, as in [`token_lasting`](Self::token_lasting); 120 s suit OS's
    /// tokens. A token with less left is renewed first, by the same one refresh as ever. If that fails, or did and is
    /// not due again yet, the present token is handed out, for as long as it can be used.
    ///
    /// # Errors
    /// As [`token`](Self::token), if there is no token that can be used. [`HandOut::refusal`] makes an answer of it.
    ///
    /// # Panics
    /// As [`token`](Self::token).
    pub async fn hand_out(&self, at_least: Duration) -> Result<HandOut, Error> {
        // What failed a moment ago is not worth a page's wait.
        if self.is_backing_off()
            && let Some(token) = self.current()
        {
            return Ok(HandOut(token));
        }
        match self.token_lasting(at_least).await {
            Ok(token) => Ok(HandOut(token)),
            Err(error) => self.current().map(HandOut).ok_or(error),
        }
    }
}

impl HandOut {
    /// The headers that must go with the token: `Cache-Control: no-store`, so that no cache keeps it (RFC 6749,
    /// section 5.1). The `Pragma: no-cache` that it wants besides means nothing in an answer (RFC 9111, section 5.4).
    #[must_use]
    pub fn headers() -> HeaderMap {
        HeaderMap::from_iter([(CACHE_CONTROL, HeaderValue::from_static("no-store"))])
    }

    /// The answer to a browser when no token can be had: 503, with `Retry-After` and `Cache-Control: no-store`, and
    /// without a word of why, which is for your log and not for strangers.
    ///
    /// `Retry-After` is the error's [`retry_after`](Error::retry_after) in whole seconds, rounded up, from 1 to 60; 5 if
    /// it has none.
    #[must_use]
    pub fn refusal(error: &Error) -> (StatusCode, HeaderMap) {
        let wait = error.retry_after().unwrap_or(RETRY_AFTER_IF_UNKNOWN);
        let wait = wait.clamp(SHORTEST_RETRY_AFTER, LONGEST_RETRY_AFTER);
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let mut headers = Self::headers();
        headers.insert(RETRY_AFTER, seconds.into());
        (StatusCode::SERVICE_UNAVAILABLE, headers)
    }
}

impl Serialize for HandOut {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut json = serializer.serialize_struct("HandOut", 3)?;
        json.serialize_field("access_token", self.0.expose_secret())?;
        json.serialize_field("expires_in", &self.0.remaining().as_secs())?;
        json.serialize_field("token_type", "Bearer")?;
        json.end()
    }
}

impl fmt::Debug for HandOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandOut")
            .field("remaining", &self.0.remaining())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

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
        assert_eq!(
            serde_json::to_string(&token).unwrap(),
            r#"{"access_token":"canary","expires_in":240,"token_type":"Bearer"}"#
        );
        let spent = serde_json::to_value(hand_out(Duration::ZERO)).unwrap();
        assert_eq!(spent["expires_in"], 0);
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
    fn a_refusal_says_when_to_come_again_within_a_minute_and_never_at_once() {
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
