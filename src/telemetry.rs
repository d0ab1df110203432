//! Spans, log events and metrics. Their names, fields and labels are a public contract, kept in this file and promised
//! in the guide ([logs](crate::guide::logs), [metrics](crate::guide::metrics)). Only the values of the label `for` are
//! elsewhere, in `Need::label`.
//!
//! With the feature `metrics`, metrics go to the recorder that the program has installed. Without it they go nowhere.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::{Level, Span, debug, enabled, error, info, info_span, warn};

use crate::error::{Error, ErrorKind};
use crate::status::{Action, Outcome, Reason, TokenStatus};
use crate::{fault::Verdict, tally::Count};

/// The name that the user gave to a manager's project: the field and the label `project`.
type Project<'a> = Option<&'a Arc<str>>;

/// The span of one refresh. It is a root, so that no request's span stays open for as long as the refresh takes.
pub(crate) fn refresh_span(attempt: u64, reason: Reason, project: Project<'_>) -> Span {
    let span = info_span!(
        parent: None,
        "os_token_refresh",
        attempt,
        reason = reason_label(reason),
        project = project.map(AsRef::as_ref),
    );
    span.follows_from(Span::current());
    span
}

/// Records the end of a refresh, and the status that it left.
pub(crate) fn refreshed(
    project: Project<'_>,
    reason: Reason,
    outcome: &Outcome,
    elapsed: Duration,
    status: &TokenStatus,
) {
    let outcome_label = match outcome {
        Outcome::Refreshed { .. } => "ok",
        Outcome::Failed { error, .. } => kind_label(error.kind()),
        Outcome::Abandoned => return,
    };
    describe();
    let labels = [("reason", reason_label(reason)), ("outcome", outcome_label)];
    count("os_token_refreshes_total", project, &labels);
    time("os_token_refresh_seconds", project, &[], elapsed);
    let (failures, remaining) = (status.consecutive_failures, status.remaining);
    set("os_token_consecutive_failures", project, failures.into());
    set("os_token_remaining_seconds", project, remaining.as_secs_f64());
    log_refresh(outcome);
}

/// Logs the end of a fetch.
fn log_refresh(outcome: &Outcome) {
    match outcome {
        Outcome::Abandoned => {}
        Outcome::Refreshed { after_failures: 0 } => debug!("token refreshed"),
        Outcome::Refreshed { after_failures } => info!(after_failures, "token refreshed: recovered"),
        Outcome::Failed {
            error,
            failures,
            class_failures,
            is_first_of_kind,
        } => {
            macro_rules! failed {
                ($level:ident) => {
                    $level!(
                        kind = ?error.kind(),
                        failures,
                        retry_in = ?error.retry_after().unwrap_or_default(),
                        error = error as &(dyn std::error::Error + 'static),
                        "token refresh failed"
                    )
                };
            }
            match failure_level(error, *class_failures, *is_first_of_kind) {
                Level::ERROR => failed!(error),
                Level::WARN => failed!(warn),
                _ => failed!(debug),
            }
        }
    }
}

/// The log level of a failed fetch. The 1st, 2nd, 4th, 8th … failure of a class is above DEBUG. So an outage does not
/// flood the log, and does not hide that a credential is rejected.
fn failure_level(error: &Error, class_failures: u32, is_first_of_kind: bool) -> Level {
    match error.kind() {
        // Most likely the token URL is wrong, which waiting does not correct.
        ErrorKind::MalformedResponse if is_first_of_kind => Level::ERROR,
        _ if !class_failures.is_power_of_two() => Level::DEBUG,
        _ if error.is_transient() => Level::WARN,
        _ => Level::ERROR,
    }
}

/// Logs that an overdue attempt is replaced by another.
pub(crate) fn given_up(project: Project<'_>, attempt: u64) {
    warn!(
        attempt,
        project = project.map(AsRef::as_ref),
        "token refresh given up: its runtime has been blocked for half a minute; keep_warm on a separate runtime helps"
    );
}

pub(crate) fn keep_warm_ended(project: Project<'_>) {
    warn!(
        project = project.map(AsRef::as_ref),
        "keep_warm has ended with its runtime: now only callers renew the token"
    );
}

/// A timer for a caller that waits for a token. It records on drop, so that a caller that gives up counts as well.
pub(crate) struct Waiting<'a> {
    project: Project<'a>,
    need: &'static str,
    since: Instant,
}

impl<'a> Waiting<'a> {
    pub(crate) fn new(project: Project<'a>, need: &'static str) -> Self {
        Self {
            project,
            need,
            since: Instant::now(),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let labels = [("for", self.need)];
        time("os_token_wait_seconds", self.project, &labels, self.since.elapsed());
    }
}

/// Records a 401 and what the manager did about it. One that is not about the token is logged by `not_about_token`.
pub(crate) fn unauthorized(project: Project<'_>, verdict: Verdict, action: Action) {
    let verdict = match verdict {
        Verdict::AboutToken => "about_token",
        Verdict::NotAboutToken => "not_about_token",
        Verdict::Unexplained => "unexplained",
    };
    match action {
        Action::Replace => debug!(verdict, "a 401 for an access token, which is replaced"),
        Action::TooNew => debug!(verdict, "a 401 for an access token that is too new to be replaced"),
        Action::NotAboutToken => {}
    }
    let action = match action {
        Action::Replace => "replaced",
        Action::TooNew => "too_new",
        Action::NotAboutToken => "not_about_token",
    };
    count("os_token_unauthorized_total", project, &[("action", action)]);
}

/// Logs a 401 that is not about the token: above DEBUG at the 1st, 2nd, 4th, 8th … for its API, so that a map's tiles do
/// not flood the log.
pub(crate) fn not_about_token(project: Project<'_>, api: Option<&str>, count: Count) {
    macro_rules! refused {
        ($level:ident) => {
            $level!(
                path = api,
                count = count.number,
                project = project.map(AsRef::as_ref),
                "a 401 that is not about the access token: if the API is not in the project, add it on the OS Data Hub"
            )
        };
    }
    if count.is_doubling() {
        refused!(warn);
    } else {
        refused!(debug);
    }
}

/// Whether anyone reads events at DEBUG.
#[inline]
pub(crate) fn is_debugging() -> bool {
    enabled!(Level::DEBUG)
}

pub(crate) fn data_hub_not_covered(project: Project<'_>, origin: &str) {
    warn!(
        origin,
        project = project.map(AsRef::as_ref),
        "a request to the OS Data Hub goes out without an access token: its URL has to begin with https://api.os.uk/"
    );
}

pub(crate) fn origin_not_covered(project: Project<'_>, origin: &str) {
    debug!(
        origin,
        project = project.map(AsRef::as_ref),
        "a request goes out without an access token: BearerAuth covers its origin only if with_origin names it"
    );
}

pub(crate) fn lifetime_missing(assumed: Duration) {
    warn!(lifetime = ?assumed, "the token endpoint did not say how long its token lives");
}

pub(crate) fn token_not_new(age: Duration) {
    warn!(
        ?age,
        "the token was not new when the token endpoint sent it: is a clock wrong, or a cache on the way?"
    );
}

pub(crate) fn token_age_impossible(age: Duration) {
    warn!(
        ?age,
        "the token's age is impossible, so it counts as new: is the clock of the token endpoint wrong?"
    );
}

pub(crate) fn proxy_for_loopback(variable: &'static str) {
    warn!(
        variable,
        "a proxy sees the token of requests to a loopback origin over plain http, unless the client is built with no_proxy"
    );
}

/// Events and metrics of tokens shared through Redis. A source does not know its project's name, so the metrics have no
/// label for it.
#[cfg(feature = "redis")]
pub(crate) mod sharing {
    use std::fmt::Display;

    use tokio::time::Instant;
    use tracing::{debug, warn};

    use super::{Labels, count, time};

    /// Counts one fetch.
    fn fetch(labels: Labels<'_>) {
        count("os_token_shared_fetches_total", None, labels);
    }

    pub(crate) fn adopted() {
        debug!("access token adopted from another process");
        fetch(&[("outcome", "adopted")]);
    }

    pub(crate) fn fetched() {
        fetch(&[("outcome", "fetched")]);
    }

    /// A fetch without the lock, because another process has held it for too long.
    pub(crate) fn outwaited() {
        debug!("another process holds the lock for an access token, but has not supplied one");
        bypass("lease_outwaited");
    }

    /// A fetch without Redis.
    pub(crate) fn bypassed(step: &'static str, label: &'static str, reason: impl Display) {
        warn!(step, %reason, "no access token from Redis: asking the token endpoint");
        bypass(label);
    }

    fn bypass(reason: &'static str) {
        fetch(&[("outcome", "bypassed"), ("reason", reason)]);
    }

    pub(crate) fn entry_damaged() {
        warn!("the access token's entry in Redis is damaged, and is replaced");
    }

    pub(crate) fn clock_jumped_back() {
        warn!("Redis's clock has jumped back, so its access token is not used: synchronise the clocks of its servers");
    }

    pub(crate) fn lease_lost(reason: impl Display) {
        debug!(%reason, "the lease for an access token could not be renewed: another process may fetch as well");
    }

    pub(crate) fn released(shares: bool, result: Result<(), (&'static str, impl Display)>) {
        match result {
            Ok(()) => debug!(shares, "lock of an access token released"),
            Err((step, reason)) if shares => {
                warn!(step, %reason, "the new access token could not be shared through Redis");
            }
            Err((step, reason)) => debug!(step, %reason, "the lock of an access token could not be released"),
        }
    }

    /// A timer for a wait for another process's lease. It records on drop, whatever ends the wait.
    pub(crate) struct LeaseWait {
        pub(crate) since: Instant,
    }

    impl LeaseWait {
        pub(crate) fn start() -> Self {
            Self { since: Instant::now() }
        }
    }

    impl Drop for LeaseWait {
        fn drop(&mut self) {
            time("os_token_lease_wait_seconds", None, &[], self.since.elapsed());
        }
    }
}

fn reason_label(reason: Reason) -> &'static str {
    match reason {
        Reason::Cold => "cold",
        Reason::Stale => "stale",
        Reason::Unusable => "unusable",
        Reason::Rejected => "rejected",
        Reason::Forced => "forced",
    }
}

fn kind_label(kind: ErrorKind) -> &'static str {
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

/// Describes every metric to the recorder. It is repeated at the end of each refresh, because a program may install its
/// recorder at any time, and a description that came before is lost. Recorders ignore the repetition.
#[cfg(feature = "metrics")]
fn describe() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

    describe_counter!(
        "os_token_refreshes_total",
        Unit::Count,
        "Refreshes of the OS access token, by reason and outcome"
    );
    describe_histogram!(
        "os_token_refresh_seconds",
        Unit::Seconds,
        "Duration of a refresh of the OS access token"
    );
    describe_histogram!(
        "os_token_wait_seconds",
        Unit::Seconds,
        "How long callers without a suitable OS access token waited"
    );
    describe_counter!(
        "os_token_unauthorized_total",
        Unit::Count,
        "401s to requests with an OS access token, by what was done about them"
    );
    describe_gauge!(
        "os_token_consecutive_failures",
        Unit::Count,
        "Failed refreshes of the OS access token since the last one that succeeded"
    );
    describe_gauge!(
        "os_token_remaining_seconds",
        Unit::Seconds,
        "Remaining lifetime of the OS access token at the end of its last refresh"
    );
    #[cfg(feature = "redis")]
    describe_counter!(
        "os_token_shared_fetches_total",
        Unit::Count,
        "Fetches of an OS access token that processes share, by outcome"
    );
    #[cfg(feature = "redis")]
    describe_histogram!(
        "os_token_lease_wait_seconds",
        Unit::Seconds,
        "Waits for another process to fetch an OS access token"
    );
}

#[cfg(not(feature = "metrics"))]
fn describe() {}

type Labels<'a> = &'a [(&'static str, &'static str)];

#[cfg_attr(not(feature = "metrics"), expect(unused_variables, reason = "nothing is recorded"))]
fn count(name: &'static str, project: Project<'_>, labels: Labels<'_>) {
    #[cfg(feature = "metrics")]
    metrics::counter!(name, with_project(project, labels)).increment(1);
}

#[cfg_attr(not(feature = "metrics"), expect(unused_variables, reason = "nothing is recorded"))]
fn time(name: &'static str, project: Project<'_>, labels: Labels<'_>, elapsed: Duration) {
    #[cfg(feature = "metrics")]
    metrics::histogram!(name, with_project(project, labels)).record(elapsed);
}

#[cfg_attr(not(feature = "metrics"), expect(unused_variables, reason = "nothing is recorded"))]
fn set(name: &'static str, project: Project<'_>, value: f64) {
    #[cfg(feature = "metrics")]
    metrics::gauge!(name, with_project(project, &[])).set(value);
}

#[cfg(feature = "metrics")]
fn with_project(project: Project<'_>, labels: Labels<'_>) -> Vec<metrics::Label> {
    let labels = labels
        .iter()
        .map(|(name, value)| metrics::Label::from_static_parts(name, value));
    let project = project.map(|name| metrics::Label::new("project", Arc::clone(name)));
    labels.chain(project).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_above_debug_at_every_doubling_and_a_first_malformed_response_is_an_error() {
        let level = |kind, class_failures, first| failure_level(&Error::new(kind, "x"), class_failures, first);
        for first in [true, false] {
            for (kind, at_doubling) in [
                (ErrorKind::Unavailable, Level::WARN),
                (ErrorKind::Timeout, Level::WARN),
                (ErrorKind::CredentialsRejected, Level::ERROR),
                (ErrorKind::Configuration, Level::ERROR),
            ] {
                let levels = [1, 2, 3, 4, 5].map(|failures| level(kind, failures, first));
                let (above, debug) = (at_doubling, Level::DEBUG);
                assert_eq!(levels, [above, above, debug, above, debug], "{kind:?}");
            }
        }
        let malformed = |first| [1, 2, 3].map(|failures| level(ErrorKind::MalformedResponse, failures, first));
        assert_eq!(malformed(true), [Level::ERROR; 3]);
        assert_eq!(malformed(false), [Level::WARN, Level::WARN, Level::DEBUG]);
    }
}
