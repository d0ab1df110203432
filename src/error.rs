//! The library's error: opaque, with a kind to match on.

use std::{borrow::Cow, error::Error as StdError, fmt, sync::Arc, time::Duration};

/// The reason why there is no access token.
///
/// Opaque and cheap to clone, because every caller that waits for the same refresh gets the same error. It never
/// contains a secret, a token or the body of a response. `{}` says what happened and what to do. `{:#}` adds the
/// causes, which are in [`source`](StdError::source).
///
/// Behind a `reqwest-middleware` chain, [`Error::find_in`] finds it.
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    message: Cow<'static, str>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
    retry_after: Option<Duration>,
}

/// The kind of an [`Error`]: what to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting is missing or wrong, or the call came from outside a tokio runtime. Also if the token endpoint's
    /// certificate has expired, comes from an unknown authority or is for another name. Permanent until it is changed.
    ///
    /// With `native-tls` on Windows and macOS such a certificate is [`Unavailable`](Self::Unavailable): the library does
    /// not know the words in which these systems report it.
    Configuration,
    /// OS does not accept the Project API Key and Secret. Permanent until they are replaced, which needs no restart.
    CredentialsRejected,
    /// The token endpoint refused the request for another reason: a wrong URL, a redirect, a firewall or a gateway in
    /// between. Permanent.
    RequestRejected,
    /// The token endpoint limits the rate of requests: a 429. Transient.
    RateLimited,
    /// The token endpoint could not be reached, broke the connection, or sent a server error. Also if a proxy refused
    /// to connect to it. Transient.
    Unavailable,
    /// The token endpoint sent a response without a usable token. Transient, although the usual cause is a wrong token
    /// URL: OS answers 200 to unknown paths. So the first one is logged as an ERROR.
    MalformedResponse,
    /// A time limit was exceeded: one of the library's, your HTTP client's or the system's. Transient.
    Timeout,
}

impl ErrorKind {
    /// Transient failures go away by themselves and get a short backoff. The others are permanent until a person acts.
    pub(crate) fn is_transient(self) -> bool {
        match self {
            Self::RateLimited | Self::Unavailable | Self::MalformedResponse | Self::Timeout => true,
            Self::Configuration | Self::CredentialsRejected | Self::RequestRejected => false,
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Self::Configuration => "the access token's source is not set up correctly",
            Self::CredentialsRejected => "the Project API Key and Secret were rejected: check or replace them",
            Self::RequestRejected => "the request for an access token was refused",
            Self::RateLimited => "too many requests for access tokens",
            Self::Unavailable => "the access token's source is unavailable",
            Self::MalformedResponse => "the access token's source sent no usable token",
            Self::Timeout => "the access token's source did not answer in time",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.describe())
    }
}

impl Error {
    /// Makes an error for your own [`TokenSource`](crate::TokenSource) or
    /// [`CredentialsProvider`](crate::CredentialsProvider).
    ///
    /// The kind decides how soon the manager tries again (see [`is_transient`](Self::is_transient)). Logs show the
    /// source, so keep secrets out of it.
    pub fn new(kind: ErrorKind, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::with_message(kind, kind.describe()).caused_by(source)
    }

    pub(crate) fn with_message(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
            retry_after: None,
        }
    }

    pub(crate) fn configuration(message: impl Into<Cow<'static, str>>) -> Self {
        Self::with_message(ErrorKind::Configuration, message)
    }

    /// Checks a setting: a `Configuration` error with this message if it is not valid.
    pub(crate) fn ensure(valid: bool, message: impl Into<Cow<'static, str>>) -> Result<(), Self> {
        if valid {
            Ok(())
        } else {
            Err(Self::configuration(message))
        }
    }

    pub(crate) fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into().into());
        self
    }

    /// Adds a hint to the message.
    pub(crate) fn with_hint(mut self, hint: &'static str) -> Self {
        self.message = format!("{}; {hint}", self.message).into();
        self
    }

    /// Sets the minimum wait before the next attempt, as a `Retry-After` does.
    ///
    /// A [`TokenManager`](crate::TokenManager) uses it as a floor for its backoff, up to 60 s.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The kind of the failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether the failure may go away by itself, so that trying again later can help.
    ///
    /// True for [`RateLimited`](ErrorKind::RateLimited), [`Unavailable`](ErrorKind::Unavailable),
    /// [`MalformedResponse`](ErrorKind::MalformedResponse) and [`Timeout`](ErrorKind::Timeout).
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.kind.is_transient()
    }

    /// The wait until another attempt makes sense, counted from the failure.
    ///
    /// From a [`TokenManager`](crate::TokenManager) it is the time until its next attempt is due, or `None` while one
    /// is running. From a [`TokenEndpoint`](crate::TokenEndpoint) itself it is the response's `Retry-After` (RFC 9110,
    /// section 10.2.3).
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    fn causes(&self) -> impl Iterator<Item = &(dyn StdError + 'static)> {
        std::iter::successors(self.source(), |&error| error.source())
    }

    /// Finds the first `Error` of this crate in a chain of sources, `error` itself included.
    ///
    /// It is the reason why a `reqwest-middleware` chain sent no request, also behind `reqwest-retry`.
    ///
    /// ```
    /// # use osdatahub_auth::{Error, ErrorKind};
    /// let error = reqwest_middleware::Error::from(Error::new(ErrorKind::Unavailable, "down"));
    /// let reason = Error::find_in(&error).expect("the chain failed because there was no token");
    /// assert!(reason.is_transient());
    /// ```
    #[must_use]
    pub fn find_in<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        std::iter::successors(Some(error), |&error| error.source()).find_map(|error| error.downcast_ref())
    }
}

/// `{}` says what happened and what to do; `{:#}` adds the causes, each after a colon.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if f.alternate() {
            for cause in self.causes() {
                write!(f, ": {cause}")?;
            }
        }
        Ok(())
    }
}

/// Written by hand: a derived one would return the `Arc` as the source, which cannot be downcast.
impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let source = self.source.as_deref()?;
        Some(source)
    }
}

/// Shows the sources by their `Display`, because a foreign type's `Debug` may contain a secret.
#[expect(clippy::missing_fields_in_debug, reason = "the causes show the source")]
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let causes: Vec<_> = self.causes().map(ToString::to_string).collect();
        f.debug_struct("Error")
            .field("kind", &self.kind)
            .field("message", &self.message)
            .field("causes", &causes)
            .field("retry_after", &self.retry_after)
            .finish()
    }
}

/// A wrapper that keeps our error reachable: `reqwest_middleware::Error` and `reqwest-retry` expose the *source* of
/// their inner error, never the inner error itself.
#[derive(Debug, thiserror::Error)]
#[error("the request was not sent, because there is no OS access token")]
struct NotSent(#[source] Error);

impl From<Error> for reqwest_middleware::Error {
    fn from(error: Error) -> Self {
        Self::middleware(NotSent(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [(ErrorKind, bool); 7] = [
        (ErrorKind::Configuration, false),
        (ErrorKind::CredentialsRejected, false),
        (ErrorKind::RequestRejected, false),
        (ErrorKind::RateLimited, true),
        (ErrorKind::Unavailable, true),
        (ErrorKind::MalformedResponse, true),
        (ErrorKind::Timeout, true),
    ];

    #[test]
    fn only_failures_that_pass_by_themselves_are_transient() {
        for (kind, transient) in KINDS {
            assert_eq!(Error::new(kind, "x").is_transient(), transient, "{kind:?}");
        }
    }

    #[test]
    fn display_is_lower_case_without_a_full_stop_and_leaves_the_source_to_source() {
        for (kind, _) in KINDS {
            let error = Error::new(kind, "the cause");
            let shown = error.to_string();
            assert!(shown.starts_with(char::is_lowercase), "{shown}");
            assert!(!shown.ends_with('.'), "{shown}");
            assert!(!shown.contains("the cause"), "{shown}");
            assert_eq!(error.source().unwrap().to_string(), "the cause");
            assert_eq!(format!("{error:#}"), format!("{kind}: the cause"));
        }
    }

    #[test]
    fn a_source_can_be_downcast() {
        let error = Error::new(ErrorKind::Unavailable, std::io::Error::other("x"));
        assert!(error.source().unwrap().is::<std::io::Error>());
    }

    #[test]
    fn a_middleware_error_leads_back_to_ours() {
        let ours = Error::new(ErrorKind::RateLimited, "x").with_retry_after(Duration::from_secs(7));
        let error = reqwest_middleware::Error::from(ours);
        let found = Error::find_in(&error).expect("ours is in the chain");
        assert_eq!(found.kind(), ErrorKind::RateLimited);
        assert_eq!(found.retry_after(), Some(Duration::from_secs(7)));
    }

    #[test]
    fn nothing_is_found_in_a_strangers_error() {
        assert!(Error::find_in(&std::io::Error::other("x")).is_none());
    }
}
