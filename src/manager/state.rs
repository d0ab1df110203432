//! The life of a token: who may use it, who refreshes it, who waits, who gives up. Pure: it takes `now` and does no
//! I/O.

use std::{borrow::Cow, ops::RangeInclusive, time::Duration};

use tokio::time::Instant;

use super::{
    reason::{Reason, RefreshTotals},
    status::{TokenState, TokenStatus},
};
use crate::{AccessToken, Error, ErrorKind, clock::Moment, schedule};

/// What a caller asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Need<'a> {
    /// Any token that can be used now.
    Usable,
    /// One that lasts this long, or for half of its own life if that is less.
    Lasting(Duration),
    /// Any but this one, which the API did not accept.
    OtherThan(&'a AccessToken),
}

impl Need<'_> {
    /// As metrics have it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Usable => "usable",
            Self::Lasting(_) => "lasting",
            Self::OtherThan(_) => "other",
        }
    }
}

/// How the API refused a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It said that the token is no good: nobody may use it any more.
    Rejected,
    /// It said nothing that can be understood: the token is replaced, but serves until then.
    Unclear,
}

/// One fetch, running or waiting for its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) id: u64,
    pub(crate) reason: Reason,
    pub(crate) starts: Instant,
    /// From then on it is overdue. A fetch is given up before that, so its runtime must have stood still.
    pub(crate) lost_at: Instant,
    /// It has been overdue before.
    doubted: bool,
}

/// Where a caller stands.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// It need not wait.
    Served(AccessToken),
    /// It was elected: it has to start the attempt, and waits for it.
    Leading(Attempt),
    /// It waits for somebody else's.
    Following(Attempt),
}

/// What an attempt came to.
#[derive(Debug)]
pub(crate) enum Settled {
    /// A new token, after so many failures.
    Adopted { after_failures: u32 },
    /// This many failures in a row, this one included, of which the last ones are alike: transient as this one, or
    /// terminal as it. The error says when the next attempt is due.
    Failed { error: Error, failures: u32, alike: u32 },
}

#[derive(Debug, Clone)]
pub(crate) struct State {
    refresh_at: RangeInclusive<f64>,
    held: Option<Held>,
    /// The last token that the API rejected.
    rejected: Option<AccessToken>,
    attempt: Option<Attempt>,
    attempts: u64,
    begun: RefreshTotals,
    /// No attempt starts earlier.
    not_before: Option<Instant>,
    failures: Failures,
    /// The life of the last token that there was.
    life: Option<Duration>,
    refusals: Refusals,
}

#[derive(Debug, Clone)]
struct Held {
    token: AccessToken,
    since: Instant,
    stale: Moment,
    unusable: Moment,
    /// The API refused it, but not in so many words.
    suspected: bool,
}

/// The failures since the last token came.
#[derive(Debug, Clone, Default)]
struct Failures {
    count: u32,
    /// How many of them, the last ones, are transient as the last one, or terminal as it.
    alike: u32,
    last: Option<Error>,
}

/// How 401s keep coming. A clear one is held up by clear ones alone, so that an odd path, which answers 401 to
/// everything, cannot keep a token in use that really was revoked.
#[derive(Debug, Clone, Default)]
struct Refusals {
    clear: Streak,
    all: Streak,
}

/// While 401s keep coming, each new token has to be held for longer to be replaced.
#[derive(Debug, Clone, Default)]
struct Streak {
    wait: Duration,
    last: Option<Instant>,
}

impl State {
    pub(crate) fn new(refresh_at: RangeInclusive<f64>) -> Self {
        Self {
            refresh_at,
            held: None,
            rejected: None,
            attempt: None,
            attempts: 0,
            begun: RefreshTotals::default(),
            not_before: None,
            failures: Failures::default(),
            life: None,
            refusals: Refusals::default(),
        }
    }

    /// The token, if there is one that meets the need at once.
    #[inline]
    pub(crate) fn usable(&self, now: Moment, need: Need<'_>) -> Option<&AccessToken> {
        let held = self.held.as_ref()?;
        let usable = !now.has_reached(held.unusable) && held.meets(now, need);
        usable.then_some(&held.token)
    }

    /// When the next refresh is to start, whether or not anybody waits for it. `None` while one is under way.
    pub(crate) fn next_renewal(&self, now: Moment) -> Option<Instant> {
        if self.attempt.is_some_and(|attempt| now.monotonic < attempt.lost_at) {
            return None;
        }
        let fresh_for = self.held.as_ref().map_or(Duration::ZERO, |held| held.fresh_for(now));
        Some((now.monotonic + fresh_for).max(self.earliest(now.monotonic)))
    }

    /// Whether it is time for a refresh, and nobody sees to it yet.
    #[inline]
    pub(crate) fn renewal_is_due(&self, now: Moment) -> bool {
        // The hot path ends here: for a fresh token two comparisons do, without any sum.
        let fresh = self.held.as_ref().is_some_and(|held| held.is_fresh(now));
        !fresh && self.next_renewal(now).is_some_and(|at| at <= now.monotonic)
    }

    /// Whether the last attempt failed and the next is not due yet.
    pub(crate) fn is_backing_off(&self, now: Moment) -> bool {
        let now = now.monotonic;
        let running = self.attempt.is_some_and(|attempt| attempt.starts <= now);
        self.failures.count > 0 && !running && self.earliest(now) > now
    }

    /// Elects the caller to refresh, if that is due and nobody else does.
    pub(crate) fn renew(&mut self, now: Moment) -> Option<Attempt> {
        let elected = self.renewal_is_due(now) && self.under_way(now.monotonic).is_none();
        elected.then(|| self.start(self.reason(now), now.monotonic))
    }

    /// A token, or a place in the attempt that is under way, or else in the next one, for a caller who can wait until
    /// `deadline`.
    ///
    /// It fails at once if that attempt comes too late for the caller, or if the last one failed in a way that the
    /// next is not likely to mend.
    pub(crate) fn join(&mut self, now: Moment, need: Need<'_>, deadline: Instant) -> Result<Place, Error> {
        if let Some(token) = self.usable(now, need) {
            return Ok(Place::Served(token.clone()));
        }
        let reason = self.reason(now);
        let now = now.monotonic;
        let under_way = self.under_way(now);
        let starts = under_way.map_or_else(|| self.earliest(now), |attempt| attempt.starts);
        let hopeless = self.failures.last.as_ref().is_some_and(|last| !last.is_transient());
        if starts > now && (starts > deadline || hopeless) {
            return Err(self.not_yet(starts - now));
        }
        Ok(match under_way {
            Some(attempt) => Place::Following(attempt),
            None => Place::Leading(self.start(reason, starts)),
        })
    }

    /// What remains of a need after a refresh. Nothing lasts longer than a token that is just made, so what that does not
    /// meet, no other could. But one that another process has had for a while can be replaced.
    pub(crate) fn after_a_refresh<'a>(&self, need: Need<'a>) -> Need<'a> {
        let just_made = self
            .held
            .as_ref()
            .is_none_or(|held| held.token.age_at_start().is_zero());
        match need {
            Need::Lasting(_) if just_made => Need::Usable,
            need => need,
        }
    }

    /// The time has come for an attempt. False if it has been given up for lost before it could begin, as another may
    /// have taken its place.
    pub(crate) fn begin(&mut self, attempt: u64, now: Moment) -> bool {
        let now = now.monotonic;
        let under_way = self.under_way(now).filter(|under_way| under_way.id == attempt);
        let Some(under_way) = under_way else {
            return false;
        };
        self.attempt = Some(Attempt::new(under_way.id, under_way.reason, now));
        self.begun.count(under_way.reason);
        // Whatever comes of it has a wait of its own. This one is for an attempt that is cut off.
        self.not_before = Some(now + schedule::AFTER_START);
        true
    }

    /// The token that a fetch is to replace.
    pub(crate) fn replaces(&self) -> Option<&AccessToken> {
        let held = self.held.as_ref().map(|held| &held.token);
        held.or(self.rejected.as_ref())
    }

    /// Ends an attempt with what it brought. `None` if it had been given up for lost. `random` lies in [0, 1).
    pub(crate) fn settle(
        &mut self,
        attempt: u64,
        now: Moment,
        brought: Result<AccessToken, Error>,
        random: f64,
    ) -> Option<Settled> {
        self.attempt.take_if(|under_way| under_way.id == attempt)?;
        let settled = match brought.and_then(|token| self.adopt(now, token, random)) {
            Ok(()) => {
                self.not_before = Some(now.monotonic + schedule::AFTER_SUCCESS);
                let after_failures = std::mem::take(&mut self.failures).count;
                Settled::Adopted { after_failures }
            }
            Err(error) => {
                let wait = schedule::backoff(self.failures.add(&error), self.life, random);
                self.not_before = Some(now.monotonic + wait);
                Settled::Failed {
                    error: error.with_retry_after(wait),
                    failures: self.failures.count,
                    alike: self.failures.alike,
                }
            }
        };
        Some(settled)
    }

    /// Ends an attempt that was cut off before it came to anything, so that the next caller is elected. Says whether it
    /// was still under way.
    pub(crate) fn abandon(&mut self, attempt: u64) -> bool {
        let ended = self.attempt.take_if(|under_way| under_way.id == attempt);
        ended.is_some()
    }

    /// The API refused this token. Says whether the request is worth repeating with another one.
    pub(crate) fn refuse(&mut self, now: Moment, token: &AccessToken, refusal: Refusal) -> bool {
        let Some(held) = self.held.as_mut().filter(|held| held.token.is(token)) else {
            return true; // It has been replaced already, or is about to be.
        };
        if !held.suspected && !self.refusals.admit(now.monotonic, held, refusal) {
            return false;
        }
        match refusal {
            Refusal::Unclear => held.suspected = true,
            Refusal::Rejected => self.rejected = self.held.take().map(|held| held.token),
        }
        true
    }

    pub(crate) fn status(&self, now: Moment) -> TokenStatus {
        let held = self.held.as_ref();
        let scheduled = self
            .attempt
            .map(|attempt| attempt.starts)
            .filter(|starts| *starts > now.monotonic);
        TokenStatus {
            state: held.map_or(TokenState::Missing, |held| held.state(now)),
            remaining: held.map_or(Duration::ZERO, |held| held.token.remaining_at(now)),
            next_attempt: scheduled
                .or_else(|| self.next_renewal(now))
                .map(|at| at - now.monotonic),
            consecutive_failures: self.failures.count,
            last_error: self.failures.last.as_ref().map(Error::kind),
            refreshes: self.begun,
        }
    }

    /// The attempt that is under way, unless it is lost, on a runtime that nobody drives any more.
    ///
    /// The first time that it is found overdue it gets a last chance: a process that was stopped for a while finds
    /// every attempt overdue, and its task has its turn a moment later.
    fn under_way(&mut self, now: Instant) -> Option<Attempt> {
        let attempt = self.attempt.as_mut()?;
        if now >= attempt.lost_at {
            if attempt.doubted {
                return None;
            }
            attempt.doubted = true;
            attempt.lost_at = now + schedule::LAST_CHANCE;
        }
        Some(*attempt)
    }

    fn earliest(&self, now: Instant) -> Instant {
        self.not_before.map_or(now, |not_before| not_before.max(now))
    }

    /// What a refresh would be for.
    fn reason(&self, now: Moment) -> Reason {
        match &self.held {
            None if self.rejected.is_some() => Reason::Rejected,
            None => Reason::Cold,
            Some(held) if held.suspected => Reason::Rejected,
            Some(held) if held.is_fresh(now) => Reason::Forced,
            Some(held) if now.has_reached(held.unusable) => Reason::Unusable,
            Some(_) => Reason::Stale,
        }
    }

    fn start(&mut self, reason: Reason, starts: Instant) -> Attempt {
        self.attempts += 1;
        let attempt = Attempt::new(self.attempts, reason, starts);
        self.attempt = Some(attempt);
        attempt
    }

    fn adopt(&mut self, now: Moment, token: AccessToken, random: f64) -> Result<(), Error> {
        let malformed = |message| Error::with_message(ErrorKind::MalformedResponse, message);
        if self.is_refused(&token) {
            return Err(malformed("the new access token is the one that the API refused"));
        }
        let (from, to) = (*self.refresh_at.start(), *self.refresh_at.end());
        let windows = schedule::Windows::new(token.life(), from + (to - from) * random);
        // A source that brings the token that we have already makes it no newer.
        let same = self.held.as_ref().filter(|held| held.token.is(&token));
        let held = Held {
            since: same.map_or(now.monotonic, |held| held.since),
            stale: token.reaches(windows.stale),
            unusable: token.reaches(windows.unusable),
            token,
            suspected: false,
        };
        if now.has_reached(held.unusable) {
            return Err(malformed("the new access token has expired already"));
        }
        self.life = Some(held.token.life());
        self.held = Some(held);
        Ok(())
    }

    fn is_refused(&self, token: &AccessToken) -> bool {
        let suspected = self.held.as_ref().filter(|held| held.suspected);
        let refused = [suspected.map(|held| &held.token), self.rejected.as_ref()];
        refused.into_iter().flatten().any(|refused| refused.is(token))
    }

    /// For a caller whose patience has ended. The last failure tells why nothing came.
    pub(crate) fn too_late(&self, message: impl Into<Cow<'static, str>>) -> Error {
        let error = Error::with_message(ErrorKind::Timeout, message);
        match &self.failures.last {
            Some(last) => error.caused_by(last.clone()),
            None => error,
        }
    }

    fn not_yet(&self, wait: Duration) -> Error {
        let last = self.failures.last.clone();
        let error =
            last.unwrap_or_else(|| self.too_late("the next access token is not due within the acquire_timeout"));
        error.with_retry_after(wait)
    }
}

impl Attempt {
    fn new(id: u64, reason: Reason, starts: Instant) -> Self {
        Self {
            id,
            reason,
            starts,
            lost_at: starts + schedule::LOST_AFTER,
            doubted: false,
        }
    }
}

impl Held {
    #[inline]
    fn meets(&self, now: Moment, need: Need<'_>) -> bool {
        match need {
            Need::Usable => true,
            Need::Lasting(at_least) => self.token.remaining_at(now) >= at_least.min(self.token.life() / 2),
            Need::OtherThan(refused) => !self.token.is(refused),
        }
    }

    fn state(&self, now: Moment) -> TokenState {
        if now.has_reached(self.unusable) {
            TokenState::Unusable
        } else if self.is_fresh(now) {
            TokenState::Fresh
        } else {
            TokenState::Stale
        }
    }

    #[inline]
    fn is_fresh(&self, now: Moment) -> bool {
        !self.suspected && !now.has_reached(self.stale)
    }

    fn fresh_for(&self, now: Moment) -> Duration {
        if self.is_fresh(now) {
            now.until(self.stale)
        } else {
            Duration::ZERO
        }
    }
}

impl Failures {
    fn add(&mut self, error: &Error) -> schedule::Failure {
        let transient = error.is_transient();
        let like_the_last = self.last.as_ref().is_some_and(|last| last.is_transient() == transient);
        self.alike = if like_the_last { self.alike.saturating_add(1) } else { 1 };
        self.count = self.count.saturating_add(1);
        self.last = Some(error.clone());
        schedule::Failure {
            transient,
            in_a_row: self.alike,
            retry_after: error.retry_after(),
        }
    }
}

impl Refusals {
    /// Whether this refusal of the token in use may cost a new token.
    fn admit(&mut self, now: Instant, held: &Held, refusal: Refusal) -> bool {
        let by_all = self.all.admit(now, held);
        match refusal {
            Refusal::Rejected => self.clear.admit(now, held),
            Refusal::Unclear => by_all,
        }
    }
}

impl Streak {
    fn admit(&mut self, now: Instant, held: &Held) -> bool {
        let keeps_coming = self.last.is_some_and(|last| now - last < self.wait * 2);
        if !keeps_coming {
            self.wait = schedule::first_rejection_wait(held.token.life());
        }
        self.last = Some(now);
        let admitted = now - held.since + held.token.age_at_start() >= self.wait;
        if admitted && keeps_coming {
            self.wait = schedule::next_rejection_wait(self.wait);
        }
        admitted
    }
}

#[cfg(test)]
mod interleavings;
