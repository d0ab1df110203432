//! What a dashboard gets to know: with the feature `metrics`, to whatever recorder the program has installed; without it,
//! nothing is recorded. The names are promised in the [guide](crate::guide::operating).

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    ErrorKind,
    manager::{Reason, TokenStatus},
};

/// A refresh has ended, and left the manager like this.
pub(crate) fn refreshed(
    project: Option<&Arc<str>>,
    reason: Reason,
    outcome: Result<(), ErrorKind>,
    took: Duration,
    status: &TokenStatus,
) {
    #[cfg(feature = "metrics")]
    {
        let outcome = outcome.map_or_else(label, |()| "adopted");
        let counted = labels(project, &[("reason", reason.as_str()), ("outcome", outcome)]);
        metrics::counter!("os_token_refreshes_total", counted).increment(1);
        metrics::histogram!("os_token_refresh_seconds", labels(project, &[])).record(took);
        metrics::gauge!("os_token_consecutive_failures", labels(project, &[])).set(status.consecutive_failures);
        metrics::gauge!("os_token_remaining_seconds", labels(project, &[])).set(status.remaining);
    }
    #[cfg(not(feature = "metrics"))]
    let _ = (project, reason, outcome, took, status);
}

/// A caller that waits for a token. How long it did is recorded when this is dropped, so that those who gave up count too.
pub(crate) struct Waiting<'a> {
    project: Option<&'a Arc<str>>,
    for_what: &'static str,
    since: Instant,
}

impl<'a> Waiting<'a> {
    pub(crate) fn new(project: Option<&'a Arc<str>>, for_what: &'static str) -> Self {
        Self {
            project,
            for_what,
            since: Instant::now(),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Self {
            project,
            for_what,
            since,
        } = *self;
        #[cfg(feature = "metrics")]
        metrics::histogram!("os_token_wait_seconds", labels(project, &[("for", for_what)])).record(since.elapsed());
        #[cfg(not(feature = "metrics"))]
        let _ = (project, for_what, since);
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

pub(crate) fn unauthorized(project: Option<&Arc<str>>, action: Unauthorized) {
    #[cfg(feature = "metrics")]
    {
        let action = match action {
            Unauthorized::Replaced => "replaced",
            Unauthorized::TooNew => "too_new",
            Unauthorized::NotAboutToken => "not_about_token",
        };
        metrics::counter!("os_token_unauthorized_total", labels(project, &[("action", action)])).increment(1);
    }
    #[cfg(not(feature = "metrics"))]
    let _ = (project, action);
}

/// These, and the project if it has a name.
#[cfg(feature = "metrics")]
fn labels(project: Option<&Arc<str>>, own: &[(&'static str, &'static str)]) -> Vec<metrics::Label> {
    let own = own
        .iter()
        .map(|(name, value)| metrics::Label::from_static_parts(name, value));
    let project = project.map(|name| metrics::Label::new("project", Arc::clone(name)));
    own.chain(project).collect()
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
