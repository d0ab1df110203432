//! What a dashboard gets to know: with the feature `metrics`, to whatever recorder the program has installed; without it,
//! nothing is recorded. The names are promised in the [guide](crate::guide::operating).

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    ErrorKind,
    manager::{Reason, TokenStatus},
};

/// A refresh has ended, and left the manager like this.
pub(crate) fn refreshed(reason: Reason, outcome: Result<(), ErrorKind>, took: Duration, status: &TokenStatus) {
    #[cfg(feature = "metrics")]
    {
        let outcome = outcome.map_or_else(label, |()| "adopted");
        metrics::counter!("os_token_refreshes_total", "reason" => reason.as_str(), "outcome" => outcome).increment(1);
        metrics::histogram!("os_token_refresh_seconds").record(took);
        metrics::gauge!("os_token_consecutive_failures").set(status.consecutive_failures);
        metrics::gauge!("os_token_remaining_seconds").set(status.remaining);
    }
    #[cfg(not(feature = "metrics"))]
    let _ = (reason, outcome, took, status);
}

/// A caller that waits for a token. How long it did is recorded when this is dropped, so that those who gave up count too.
pub(crate) struct Waiting {
    for_what: &'static str,
    since: Instant,
}

impl Waiting {
    pub(crate) fn for_what(for_what: &'static str) -> Self {
        Self {
            for_what,
            since: Instant::now(),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let (for_what, time) = (self.for_what, self.since.elapsed());
        #[cfg(feature = "metrics")]
        metrics::histogram!("os_token_wait_seconds", "for" => for_what).record(time);
        #[cfg(not(feature = "metrics"))]
        let _ = (for_what, time);
    }
}

/// What was done about a 401.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unauthorized {
    /// The token is replaced, or has been already.
    Replaced,
    /// The token is too new for its age to be the cause.
    TooNew,
    /// The API said that it is about something else.
    NotAboutToken,
}

pub(crate) fn unauthorized(action: Unauthorized) {
    #[cfg(feature = "metrics")]
    {
        let action = match action {
            Unauthorized::Replaced => "replaced",
            Unauthorized::TooNew => "too_new",
            Unauthorized::NotAboutToken => "not_about_token",
        };
        metrics::counter!("os_token_unauthorized_total", "action" => action).increment(1);
    }
    #[cfg(not(feature = "metrics"))]
    let _ = action;
}

#[cfg(feature = "metrics")]
fn label(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Configuration => "configuration",
        ErrorKind::CredentialsRejected => "credentials_rejected",
        ErrorKind::RequestRejected => "request_rejected",
        ErrorKind::RateLimited => "rate_limited",
        ErrorKind::Unavailable => "unavailable",
        ErrorKind::MalformedResponse => "malformed_response",
        ErrorKind::Timeout => "timeout",
    }
}
