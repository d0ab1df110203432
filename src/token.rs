//! One access token, and how long it is good for.

use std::{fmt, sync::Arc, time::Duration};

use http::HeaderValue;

use crate::{Error, ErrorKind, clock::Moment, schedule};

const SCHEME: &str = "Bearer ";

/// An access token of the OS Data Hub.
///
/// Cheap to clone: no copy of the token is made. `Debug` shows what is left of its life, never the token.
#[derive(Clone)]
pub struct AccessToken(Arc<Token>);

#[derive(Clone)]
struct Token {
    /// `Bearer …`, marked sensitive: the one copy of the token.
    header: HeaderValue,
    /// When its life began to count for us.
    start: Moment,
    /// How much of it had passed by then: more than nothing for a token that another process has had for a while.
    age: Duration,
    /// All of it.
    life: Duration,
}

impl AccessToken {
    /// A token whose life counts from now. For a user's own [`TokenSource`](crate::TokenSource).
    ///
    /// A life of more than a day counts as a day. A life of zero makes a token that a manager takes for expired.
    ///
    /// # Errors
    /// [`MalformedResponse`](ErrorKind::MalformedResponse) if the token is empty or has anything but visible ASCII in
    /// it: a space or a line break would end up in a request's header.
    pub fn new(token: impl AsRef<str>, expires_in: Duration) -> Result<Self, Error> {
        Self::issued_at(Moment::now(), token.as_ref(), expires_in)
    }

    /// A token whose whole life counts from `start`.
    pub(crate) fn issued_at(start: Moment, token: &str, life: Duration) -> Result<Self, Error> {
        Self::adopted_at(start, token, Duration::ZERO, life)
    }

    /// A token that had this age at `start`, of all its life.
    pub(crate) fn adopted_at(start: Moment, token: &str, age: Duration, life: Duration) -> Result<Self, Error> {
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(malformed());
        }
        let mut header = HeaderValue::try_from(format!("{SCHEME}{token}")).map_err(|_| malformed())?;
        header.set_sensitive(true);
        // The first clone of a header value allocates the count that later clones share: do it here, not on the hot
        // path.
        let header = header.clone();
        Ok(Self(Arc::new(Token {
            header,
            start,
            age,
            life: schedule::clamp_life(life),
        })))
    }

    /// The same token, of whose life `age` had already passed when it was made.
    #[must_use]
    pub fn with_age(mut self, age: Duration) -> Self {
        let token = Arc::make_mut(&mut self.0);
        token.life = token.life.saturating_sub(age);
        self
    }

    /// The token itself. Mind where it goes: whoever has it can use it.
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

    /// How long until it expires, zero if it has.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.remaining_at(Moment::now())
    }

    pub(crate) fn remaining_at(&self, now: Moment) -> Duration {
        now.until(self.reaches(self.0.life))
    }

    /// When it reaches this age.
    pub(crate) fn reaches(&self, age: Duration) -> Moment {
        self.0.start.after(age.saturating_sub(self.0.age))
    }

    /// How old it was when we got it, as far as anybody has told.
    pub(crate) fn age_at_start(&self) -> Duration {
        self.0.age
    }

    pub(crate) fn life(&self) -> Duration {
        self.0.life
    }

    /// Whether both are the very same token, whatever is known of their lives.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.0.header == other.0.header
    }
}

fn malformed() -> Error {
    Error::with_message(
        ErrorKind::MalformedResponse,
        "the access token is empty or has more than visible ASCII in it, such as a space",
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
