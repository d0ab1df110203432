//! An access token and its lifetime.

use std::{fmt, sync::Arc, time::Duration};

use http::HeaderValue;

use crate::error::{Error, ErrorKind};
use crate::{clock::Moment, schedule::DAY};

const SCHEME: &str = "Bearer ";

/// An access token of the OS Data Hub.
///
/// Clones are cheap and share one copy of the secret. `Debug` shows the remaining lifetime, never the token.
#[derive(Clone)]
pub struct AccessToken(Arc<Token>);

#[derive(Clone)]
struct Token {
    /// `Bearer …`, marked sensitive: the only copy of the token.
    header: HeaderValue,
    /// The moment from which this process measures the token's age.
    start: Moment,
    /// The token's age at `start`. Zero if this process fetched it.
    age: Duration,
    lifetime: Duration,
}

impl AccessToken {
    /// A token whose lifetime starts now. For your own [`TokenSource`](crate::TokenSource).
    ///
    /// `expires_in` is capped at a day. A manager treats a token with `expires_in` zero as expired.
    ///
    /// # Errors
    /// [`MalformedResponse`](ErrorKind::MalformedResponse) if the token is empty or contains anything but visible
    /// ASCII. A space or a line break would end up in a request's header.
    pub fn new(token: impl AsRef<str>, expires_in: Duration) -> Result<Self, Error> {
        Self::aged_at(Moment::now(), token.as_ref(), Duration::ZERO, expires_in)
    }

    /// A token with this age at `start`. The age is zero for a token that this process fetched.
    pub(crate) fn aged_at(start: Moment, token: &str, age: Duration, lifetime: Duration) -> Result<Self, Error> {
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(malformed());
        }
        let mut header = HeaderValue::try_from(format!("{SCHEME}{token}")).map_err(|_| malformed())?;
        header.set_sensitive(true);
        // The first clone of a header value allocates the reference count that later clones share. Here, that is not on
        // the hot path.
        let header = header.clone();
        Ok(Self(Arc::new(Token {
            header,
            start,
            age,
            lifetime: lifetime.min(DAY),
        })))
    }

    /// The same token with a lifetime that is shorter by `age`, for a token that was issued a while ago.
    #[must_use]
    pub fn with_age(mut self, age: Duration) -> Self {
        let token = Arc::make_mut(&mut self.0);
        token.lifetime = token.lifetime.saturating_sub(age);
        self
    }

    /// The secret itself. Anyone who has it can use it until it expires.
    #[must_use]
    pub fn expose_secret(&self) -> &str {
        self.0
            .header
            .to_str()
            .ok()
            .and_then(|header| header.strip_prefix(SCHEME))
            .unwrap_or_default()
    }

    /// `Bearer …` for an `Authorization` header (RFC 6750, section 2.1), marked sensitive.
    #[must_use]
    pub fn header_value(&self) -> HeaderValue {
        self.0.header.clone()
    }

    /// The remaining lifetime; zero if the token has expired.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.remaining_at(Moment::now())
    }

    pub(crate) fn remaining_at(&self, now: Moment) -> Duration {
        now.until(self.time_at_age(self.0.lifetime))
    }

    pub(crate) fn time_at_age(&self, age: Duration) -> Moment {
        self.0.start.after(age.saturating_sub(self.0.age))
    }

    /// Zero for a token that this process fetched.
    pub(crate) fn age_at_start(&self) -> Duration {
        self.0.age
    }

    pub(crate) fn lifetime(&self) -> Duration {
        self.0.lifetime
    }

    /// Whether both are the same token, whatever their lifetimes.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.0.header == other.0.header
    }
}

fn malformed() -> Error {
    Error::with_message(
        ErrorKind::MalformedResponse,
        "the access token is empty or contains a character that is not visible ASCII, such as a space",
    )
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken")
            .field("remaining", &self.remaining())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_is_no_visible_ascii_is_refused() {
        for bad in ["", " ", "a b", "a\r\nX-Evil: 1", "a\tb", "tök", "a\u{7f}", "\0"] {
            let error = AccessToken::new(bad, Duration::from_secs(299)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::MalformedResponse, "{bad:?}");
        }
        assert!(AccessToken::new("!aZ~", Duration::from_secs(299)).is_ok());
    }

    #[test]
    fn debug_shows_the_life_and_not_the_token() {
        let token = AccessToken::new("canary", Duration::from_secs(299)).unwrap();
        let shown = format!("{token:?} {:?}", token.header_value());
        assert!(!shown.contains("canary"), "{shown}");
        assert!(shown.contains("remaining"), "{shown}");
        assert_eq!(token.expose_secret(), "canary");
        assert_eq!(token.header_value(), "Bearer canary");
        assert!(token.header_value().is_sensitive());
    }

    #[test]
    fn a_life_counts_from_now_or_from_its_age_ago_and_is_a_day_at_most() {
        let life = |token: &AccessToken| token.remaining().as_secs_f64().round();
        let token = AccessToken::new("t", Duration::from_secs(299)).unwrap();
        assert!((life(&token) - 299.0).abs() < 1.0);
        assert!((life(&token.clone().with_age(Duration::from_secs(200))) - 99.0).abs() < 1.0);
        assert!(token.with_age(Duration::MAX).remaining().is_zero());
        let long = AccessToken::new("t", Duration::MAX).unwrap();
        assert!((life(&long) - 86_400.0).abs() < 1.0);
    }
}
