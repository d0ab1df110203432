//! The state machine of a token's life. For each caller it decides: return the token, lead a refresh, follow one, or
//! fail. It takes `now` as an argument and does no I/O.
//!
//! # Calling contract
//!
//! ```text
//! usable ──► hot path: the token, or nothing
//! renew  ──► Some(attempt): this caller leads a background refresh
//! join   ──► Ready(token)
//!            Leader(attempt)     this caller starts the attempt, and waits for it
//!            Follower(attempt)   the caller waits for another caller's attempt
//!            Err                 the next attempt starts after the deadline, or the last failure was permanent
//!
//! leader ──► spawn ──► begin(id) ──► fetch ──► settle(id, result)
//!                          └── dropped ──► abandon(id)
//! ```
//!
//! - There is at most one attempt at a time (single-flight). `renew` and `join` elect its leader. Every other caller
//!   follows, so an expired token does not set off a thundering herd.
//! - The leader must spawn a task for its attempt. The task calls `begin` once it is time, fetches if that returns
//!   true, and then calls `settle`. If the task is dropped before, `abandon` is called instead. Exactly one of the two
//!   ends an attempt, unless the attempt is replaced.
//! - Leader and followers wait for the end of the attempt, or for `overdue_at`. A caller without a token then calls
//!   `join` again, until its deadline. After a failure it does so only if it has no usable token to fall back on. `join`
//!   says whether the next attempt is worth waiting for.
//! - An overdue attempt gets one last chance of 1 s, from the first call that needs another. If it has not ended then,
//!   it is replaced. From then on its id is out of date: `begin`, `settle` and `abandon` ignore it, so a late task
//!   changes nothing.
//! - `unauthorized` may be called at any time. It rejects the token or makes it stale. It starts no attempt: `renew`
//!   does.
//!
//! The last chance is for a process that was stopped. On waking it finds its attempt overdue, although the task is
//! about to run and to settle. Without the last chance a caller that runs first would start a second fetch beside it:
//! one POST more, with no gap between the two. An attempt on a blocked runtime stays silent, and is replaced a second
//! later.
//!
//! # Times
//!
//! | time | meaning | set by | read by |
//! |---|---|---|---|
//! | `current.stale` | from here on a refresh is due | `settle` | `renewal_is_due`, `next_renewal`, `reason`, `status` |
//! | `current.unusable` | from here on callers do not get the token | `settle` | `usable`, `reason`, `adopt`, `status` |
//! | `current.held_since` | since then this process has had the token | `settle` | `unauthorized`, through the throttle |
//! | `attempt.starts` | the fetch starts, or started, here | `renew`, `join`, `begin` | `join`, `is_backing_off`, `status`, the task |
//! | `attempt.overdue_at` | from here on the attempt is overdue: 31 s after its start, or at the end of its last chance | as `starts` | `join`, `renew`, its leader and followers |
//! | `not_before` | no attempt starts earlier: a minimum gap, or the backoff | `begin`, `settle` | `join`, `next_renewal`, `is_backing_off` |
//! | `last_401` of each throttle | the last 401 for a current token that was not suspected yet | `unauthorized` | `unauthorized` |
//!
//! `stale` and `unusable` are [`Moment`]s, reached when either clock says so, since a lifetime goes on while a machine
//! is suspended. All others are monotonic, because waiting must not depend on the wall clock.

mod current;
mod rejections;

use std::{borrow::Cow, mem, ops::RangeInclusive, time::Duration};

use tokio::time::Instant;

use self::{current::CurrentToken, rejections::RejectionThrottle};
use crate::error::{Error, ErrorKind};
use crate::status::{Action, Outcome, Reason, RefreshTotals, TokenState, TokenStatus};
use crate::{clock::Moment, fault::Verdict, schedule, token::AccessToken};

/// The token that a caller needs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Need<'a> {
    /// Any that is usable now.
    Usable,
    /// One with this remaining lifetime, or half of its whole lifetime if that is less.
    Lasting(Duration),
    /// Any but this one, which drew a 401.
    OtherThan(&'a AccessToken),
}

impl Need<'_> {
    /// The label `for` of the metric `os_token_wait_seconds`.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Usable => "usable",
            Self::Lasting(_) => "lasting",
            Self::OtherThan(_) => "other",
        }
    }
}

/// One fetch, scheduled or running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) id: u64,
    pub(crate) reason: Reason,
    pub(crate) starts: Instant,
    pub(crate) overdue_at: Instant,
    /// The id of the overdue attempt that this one replaces.
    pub(crate) given_up: Option<u64>,
    had_last_chance: bool,
}

impl Attempt {
    fn new(id: u64, reason: Reason, starts: Instant) -> Self {
        Self {
            id,
            reason,
            starts,
            overdue_at: starts + schedule::OVERDUE_AFTER,
            given_up: None,
            had_last_chance: false,
        }
    }

    fn is_overdue(&self, now: Instant) -> bool {
        now >= self.overdue_at
    }

    /// Whether it waits for its start, because of a minimum gap or a backoff.
    fn is_scheduled(&self, now: Instant) -> bool {
        self.starts > now
    }
}

/// A caller's role in single-flight.
#[derive(Debug, Clone)]
pub(crate) enum Join {
    /// It need not wait.
    Ready(AccessToken),
    /// It has to start this attempt, and waits for it.
    Leader(Attempt),
    /// It waits for an attempt that another caller started.
    Follower(Attempt),
}

#[derive(Debug, Clone)]
pub(crate) struct State {
    refresh_at: RangeInclusive<f64>,
    current: Option<CurrentToken>,
    /// The last token that the API rejected.
    rejected: Option<AccessToken>,
    attempt: Option<Attempt>,
    last_id: u64,
    refreshes: RefreshTotals,
    not_before: Option<Instant>,
    failures: Failures,
    throttle: RejectionThrottle,
}

/// The failures since the last success. Each class has its own count, and so its own backoff. A failure of the other
/// class resets neither, so that two backends that fail in different ways do not keep both at their first wait.
#[derive(Debug, Clone, Default)]
struct Failures {
    transient: u32,
    permanent: u32,
    kinds: Vec<ErrorKind>,
    last: Option<Error>,
}

impl State {
    pub(crate) fn new(refresh_at: RangeInclusive<f64>) -> Self {
        Self {
            refresh_at,
            current: None,
            rejected: None,
            attempt: None,
            last_id: 0,
            refreshes: RefreshTotals::default(),
            not_before: None,
            failures: Failures::default(),
            throttle: RejectionThrottle::default(),
        }
    }

    /// The current token, if it is usable and meets the need.
    #[inline]
    pub(crate) fn usable(&self, now: Moment, need: Need<'_>) -> Option<&AccessToken> {
        let current = self.current.as_ref()?;
        let usable = !current.is_unusable(now) && current.meets(now, need);
        usable.then_some(&current.token)
    }

    /// Whether a refresh is due and no attempt is live. An attempt is live from its election until it is overdue or
    /// ends.
    #[inline]
    pub(crate) fn renewal_is_due(&self, now: Moment) -> bool {
        // The hot path ends with the first line: for a fresh token it costs two comparisons and no arithmetic.
        let fresh = self.current.as_ref().is_some_and(|current| current.is_fresh(now));
        !fresh && self.next_renewal(now).is_some_and(|at| at <= now.monotonic)
    }

    /// When the next refresh may start, with or without a waiting caller. `None` while an attempt is live.
    pub(crate) fn next_renewal(&self, now: Moment) -> Option<Instant> {
        if self.live_attempt(now.monotonic).is_some() {
            return None;
        }
        let fresh_for = self.current.as_ref().map(|current| current.fresh_for(now));
        let due = now.monotonic + fresh_for.unwrap_or_default();
        Some(due.max(self.earliest_start(now.monotonic)))
    }

    /// Whether the last attempt failed and the next may not start yet.
    pub(crate) fn is_backing_off(&self, now: Moment) -> bool {
        let now = now.monotonic;
        let running = self.attempt.is_some_and(|attempt| !attempt.is_scheduled(now));
        self.failures.last.is_some() && !running && self.earliest_start(now) > now
    }

    /// Elects the caller as the leader of a background refresh, if one is due.
    pub(crate) fn renew(&mut self, now: Moment) -> Option<Attempt> {
        if !self.renewal_is_due(now) || self.attempt_to_join(now.monotonic).is_some() {
            return None;
        }
        Some(self.start(self.reason(now), now.monotonic))
    }

    /// Single-flight: gives a caller its token, or its role in the live attempt, or else in the next one.
    ///
    /// The caller can wait until `deadline`. It fails at once if waiting is in vain: the attempt starts after the
    /// deadline, or it has not started and the last failure was permanent.
    pub(crate) fn join(&mut self, now: Moment, need: Need<'_>, deadline: Instant) -> Result<Join, Error> {
        if let Some(token) = self.usable(now, need) {
            return Ok(Join::Ready(token.clone()));
        }
        let reason = self.reason(now);
        let now = now.monotonic;
        let live = self.attempt_to_join(now);
        // Without a live attempt the caller leads one, which may first have to sit out a gap or a backoff.
        let starts = live.map_or_else(|| self.earliest_start(now), |attempt| attempt.starts);
        let permanent = self.failures.last.as_ref().is_some_and(|last| !last.is_transient());
        if starts > now && (starts > deadline || permanent) {
            return Err(self.not_due_yet(starts - now));
        }
        Ok(match live {
            Some(attempt) => Join::Follower(attempt),
            None => Join::Leader(self.start(reason, starts)),
        })
    }

    /// The need of a caller after a refresh. Nothing lasts longer than a new token, so `Lasting` is relaxed to
    /// `Usable`. A token that another process fetched is not new, so then the caller may ask for another.
    pub(crate) fn need_after_refresh<'a>(&self, need: Need<'a>) -> Need<'a> {
        let is_new = |current: &CurrentToken| current.token.age_at_start().is_zero();
        match need {
            Need::Lasting(_) if self.current.as_ref().is_none_or(is_new) => Need::Usable,
            need => need,
        }
    }

    /// Marks the start of the fetch. False if the id is out of date: then the task must not fetch, because another may
    /// be doing so.
    pub(crate) fn begin(&mut self, id: u64, now: Moment) -> bool {
        let now = now.monotonic;
        let Some(attempt) = self.attempt.as_mut().filter(|attempt| attempt.id == id) else {
            return false;
        };
        *attempt = Attempt::new(id, attempt.reason, now);
        self.refreshes.count(attempt.reason);
        // `settle` replaces this. It takes effect only if the attempt is abandoned.
        self.not_before = Some(now + schedule::MIN_GAP_AFTER_START);
        true
    }

    /// The token that a fetch is to replace.
    pub(crate) fn replaces(&self) -> Option<&AccessToken> {
        let current = self.current.as_ref().map(|current| &current.token);
        current.or(self.rejected.as_ref())
    }

    /// Ends an attempt with the result of its fetch. `None` if the id is out of date. `random` lies in [0, 1).
    pub(crate) fn settle(
        &mut self,
        id: u64,
        now: Moment,
        result: Result<AccessToken, Error>,
        random: f64,
    ) -> Option<Outcome> {
        let began = self.attempt.take_if(|attempt| attempt.id == id)?.starts;
        Some(match result.and_then(|token| self.adopt(began, now, token, random)) {
            Ok(()) => {
                self.not_before = Some(now.monotonic + schedule::MIN_GAP_AFTER_SUCCESS);
                let after_failures = mem::take(&mut self.failures).count();
                Outcome::Refreshed { after_failures }
            }
            Err(error) => {
                let lifetime = self.replaces().map(AccessToken::lifetime);
                let (class_failures, is_first_of_kind) = self.failures.add(&error);
                let wait = schedule::backoff(&error, class_failures, lifetime, random);
                self.not_before = Some(now.monotonic + wait);
                Outcome::Failed {
                    error: error.with_retry_after(wait),
                    failures: self.failures.count(),
                    class_failures,
                    is_first_of_kind,
                }
            }
        })
    }

    /// Ends an attempt without a result, so that the next caller leads another. `None` if the id is out of date.
    pub(crate) fn abandon(&mut self, id: u64) -> Option<Outcome> {
        self.attempt.take_if(|attempt| attempt.id == id)?;
        Some(Outcome::Abandoned)
    }

    /// Decides what a 401 does to the token that drew it.
    pub(crate) fn unauthorized(&mut self, now: Moment, token: &AccessToken, verdict: Verdict) -> Action {
        if verdict == Verdict::NotAboutToken {
            return Action::NotAboutToken;
        }
        let Some(current) = self.current.as_mut().filter(|current| current.token.is(token)) else {
            return Action::Replace; // A late 401, for a token that has been replaced or rejected already.
        };
        let is_explicit = verdict == Verdict::AboutToken;
        // A suspected token has passed the throttle already.
        if !current.suspected && !self.throttle.admit(now.monotonic, current, is_explicit) {
            return Action::TooNew;
        }
        if is_explicit {
            self.rejected = self.current.take().map(|current| current.token);
        } else {
            current.suspected = true;
        }
        Action::Replace
    }

    pub(crate) fn status(&self, now: Moment) -> TokenStatus {
        let current = self.current.as_ref();
        let scheduled = self.attempt.filter(|attempt| attempt.is_scheduled(now.monotonic));
        let next_attempt = scheduled.map(|attempt| attempt.starts);
        TokenStatus {
            state: current.map_or(TokenState::Missing, |current| current.state(now)),
            remaining: current.map_or(Duration::ZERO, |current| current.token.remaining_at(now)),
            next_attempt: next_attempt
                .or_else(|| self.next_renewal(now))
                .map(|at| at - now.monotonic),
            consecutive_failures: self.failures.count(),
            last_error: self.failures.last.clone(),
            refreshes: self.refreshes,
        }
    }

    /// The error for a caller whose deadline has passed. It says what the caller waited for.
    pub(crate) fn timed_out(&self, now: Instant, acquire_timeout: Duration) -> Error {
        let message = format!("no access token within the acquire_timeout of {acquire_timeout:?}");
        match self.attempt {
            Some(attempt) if !attempt.is_scheduled(now) => self.timeout(format!(
                "{message}: the refresh that was due {:.1?} ago has not ended",
                now - attempt.starts
            )),
            next => {
                let starts = next.map_or_else(|| self.earliest_start(now), |attempt| attempt.starts);
                self.timeout(message).with_retry_after(starts - now)
            }
        }
    }

    /// A `Timeout`, caused by the last failure.
    fn timeout(&self, message: impl Into<Cow<'static, str>>) -> Error {
        let error = Error::with_message(ErrorKind::Timeout, message);
        match &self.failures.last {
            Some(last) => error.caused_by(last.clone()),
            None => error,
        }
    }

    fn not_due_yet(&self, wait: Duration) -> Error {
        let too_late = || self.timeout("the next access token is not due within the acquire_timeout");
        let last = self.failures.last.clone();
        last.unwrap_or_else(too_late).with_retry_after(wait)
    }

    /// The attempt that a caller may wait for. One that is found overdue for the first time gets its last chance.
    fn attempt_to_join(&mut self, now: Instant) -> Option<Attempt> {
        let overdue = self.attempt.as_mut().filter(|attempt| attempt.is_overdue(now));
        if let Some(attempt) = overdue.filter(|attempt| !attempt.had_last_chance) {
            attempt.had_last_chance = true;
            attempt.overdue_at = now + schedule::LAST_CHANCE;
        }
        self.live_attempt(now)
    }

    fn live_attempt(&self, now: Instant) -> Option<Attempt> {
        self.attempt.filter(|attempt| !attempt.is_overdue(now))
    }

    fn earliest_start(&self, now: Instant) -> Instant {
        self.not_before.map_or(now, |not_before| not_before.max(now))
    }

    fn reason(&self, now: Moment) -> Reason {
        match &self.current {
            Some(current) => current.reason(now),
            None if self.rejected.is_some() => Reason::Rejected,
            None => Reason::Cold,
        }
    }

    fn start(&mut self, reason: Reason, starts: Instant) -> Attempt {
        let given_up = self.attempt.map(|overdue| overdue.id);
        self.last_id += 1;
        *self.attempt.insert(Attempt {
            given_up,
            ..Attempt::new(self.last_id, reason, starts)
        })
    }

    /// Makes the token from a fetch that started at `began` the current one.
    fn adopt(&mut self, began: Instant, now: Moment, token: AccessToken, random: f64) -> Result<(), Error> {
        let malformed = |message| Error::with_message(ErrorKind::MalformedResponse, message);
        if self.was_refused(&token) {
            return Err(malformed("the new access token is the one that the API refused"));
        }
        let (from, to) = (*self.refresh_at.start(), *self.refresh_at.end());
        // A source that returns the current token again does not make it newer.
        let same = self.current.as_ref().filter(|current| current.token.is(&token));
        let held_since = same.map_or(now.monotonic, |current| current.held_since);
        let new = CurrentToken::new(token, held_since, from + (to - from) * random);
        if new.is_unusable(now) {
            return Err(if new.was_usable_after(began) {
                Error::with_message(
                    ErrorKind::Timeout,
                    "the new access token expired before it arrived: the answer was slow, or this process was paused",
                )
            } else {
                malformed("the new access token has expired already")
            });
        }
        self.current = Some(new);
        Ok(())
    }

    fn was_refused(&self, token: &AccessToken) -> bool {
        let suspected = self.current.as_ref().filter(|current| current.suspected);
        let refused = [suspected.map(|current| &current.token), self.rejected.as_ref()];
        refused.into_iter().flatten().any(|refused| refused.is(token))
    }
}

impl Failures {
    /// Counts a failure. Returns the number of its class, and whether it is the first of its kind.
    fn add(&mut self, error: &Error) -> (u32, bool) {
        let is_first_of_kind = !self.kinds.contains(&error.kind());
        if is_first_of_kind {
            self.kinds.push(error.kind());
        }
        self.last = Some(error.clone());
        let of_class = if error.is_transient() {
            &mut self.transient
        } else {
            &mut self.permanent
        };
        *of_class = of_class.saturating_add(1);
        (*of_class, is_first_of_kind)
    }

    fn count(&self) -> u32 {
        self.transient.saturating_add(self.permanent)
    }
}

#[cfg(test)]
mod boundaries;
#[cfg(test)]
mod interleavings;
