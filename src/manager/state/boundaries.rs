//! Decisions that only a unit test can hit exactly: at the nanosecond where one changes, and with a token that another
//! process fetched.

use super::*;

const LIFETIME: Duration = Duration::from_secs(299);
const SECOND: Duration = Duration::from_secs(1);

fn just_before(time: Duration) -> Duration {
    time.saturating_sub(Duration::from_nanos(1))
}

fn state() -> State {
    State::new(0.5..=0.5)
}

fn token(name: &str, start: Moment) -> AccessToken {
    AccessToken::aged_at(start, name, Duration::ZERO, LIFETIME).unwrap()
}

/// Joins at `now` with a deadline that is far away, and returns the attempt and whether the caller leads it.
fn joined(state: &mut State, now: Moment) -> (Attempt, bool) {
    match state.join(now, Need::Usable, now.monotonic + SECOND * 60).unwrap() {
        Join::Leader(attempt) => (attempt, true),
        Join::Follower(attempt) => (attempt, false),
        Join::Ready(token) => panic!("{token:?} is ready"),
    }
}

/// Leads an attempt from start to end at `now`.
fn fetch(state: &mut State, now: Moment, result: Result<AccessToken, Error>) -> Option<Outcome> {
    let (attempt, leads) = joined(state, now);
    assert!(leads && state.begin(attempt.id, now));
    let outcome = state.settle(attempt.id, now, result, 0.0);
    assert!(outcome.is_some());
    outcome
}

fn refresh(state: &mut State, now: Moment, token: AccessToken) {
    assert!(matches!(fetch(state, now, Ok(token)), Some(Outcome::Refreshed { .. })));
}

#[test]
fn a_caller_waits_for_an_attempt_that_starts_by_its_deadline_and_not_for_a_later_one() {
    let (mut state, now) = (state(), Moment::now());
    fetch(&mut state, now, Err(Error::new(ErrorKind::Unavailable, "scripted")));
    // The first backoff is 1 s, halved by the jitter.
    let starts = now.monotonic + SECOND / 2;
    let error = state
        .join(now, Need::Usable, now.monotonic + just_before(SECOND / 2))
        .unwrap_err();
    assert_eq!(error.retry_after(), Some(SECOND / 2));
    assert!(matches!(
        state.join(now, Need::Usable, starts),
        Ok(Join::Leader(attempt)) if attempt.starts == starts
    ));
}

#[test]
fn an_attempt_whose_time_has_come_is_joined_even_after_a_permanent_failure() {
    let (mut state, now) = (state(), Moment::now());
    fetch(
        &mut state,
        now,
        Err(Error::new(ErrorKind::CredentialsRejected, "scripted")),
    );
    let due = now.after(SECOND * 5);
    let before = now.after(just_before(SECOND * 5));
    assert!(state.join(before, Need::Usable, due.monotonic + SECOND).is_err());
    assert!(joined(&mut state, due).1);
}

#[test]
fn an_attempt_is_overdue_after_31_s_and_replaced_a_second_later() {
    let (mut state, now) = (state(), Moment::now());
    let (first, _) = joined(&mut state, now);
    assert!(state.begin(first.id, now));
    for at in [just_before(SECOND * 31), SECOND * 31, just_before(SECOND * 32)] {
        let (attempt, leads) = joined(&mut state, now.after(at));
        assert_eq!((attempt.id, leads), (first.id, false), "{at:?}");
    }
    let (second, leads) = joined(&mut state, now.after(SECOND * 32));
    assert!(leads && second.id != first.id);
    // The first task comes too late for anything.
    assert!(!state.begin(first.id, now.after(SECOND * 32)));
    assert!(state.abandon(first.id).is_none());
}

#[test]
fn an_overdue_attempt_that_no_caller_has_replaced_may_still_begin_and_settle() {
    let (mut state, now) = (state(), Moment::now());
    let (attempt, _) = joined(&mut state, now);
    let late = now.after(SECOND * 40);
    assert!(state.begin(attempt.id, late));
    let later = late.after(SECOND * 40);
    assert!(state.settle(attempt.id, later, Ok(token("late", later)), 0.0).is_some());
    assert!(state.usable(later, Need::Usable).is_some());
}

#[test]
fn a_streak_of_401s_ends_after_twice_the_minimum_age() {
    for (pause, expected) in [
        (SECOND * 10, Action::Replace),
        (just_before(SECOND * 10), Action::TooNew),
    ] {
        let (mut state, start) = (state(), Moment::now());
        let first = token("first", start);
        refresh(&mut state, start, first.clone());
        let at = start.after(SECOND);
        assert_eq!(state.unauthorized(at, &first, Verdict::AboutToken), Action::TooNew);
        let at = at.after(pause);
        assert_eq!(state.unauthorized(at, &first, Verdict::AboutToken), Action::Replace);
        let second = token("second", at);
        refresh(&mut state, at, second.clone());
        let at = at.after(SECOND * 5);
        assert_eq!(
            state.unauthorized(at, &second, Verdict::AboutToken),
            expected,
            "{pause:?}"
        );
    }
}

#[test]
fn only_a_new_token_relaxes_the_need_for_a_long_lifetime() {
    for (age, relaxed) in [(Duration::ZERO, true), (SECOND * 200, false)] {
        let (mut state, now) = (state(), Moment::now());
        refresh(&mut state, now, AccessToken::aged_at(now, "t", age, LIFETIME).unwrap());
        let need = state.need_after_refresh(Need::Lasting(SECOND * 120));
        assert_eq!(matches!(need, Need::Usable), relaxed, "{age:?}");
    }
}

#[test]
fn a_401_replaces_a_shared_token_at_once_if_it_is_old_enough() {
    for (age, expected) in [(SECOND * 4, Action::TooNew), (SECOND * 5, Action::Replace)] {
        let (mut state, now) = (state(), Moment::now());
        let shared = AccessToken::aged_at(now, "shared", age, LIFETIME).unwrap();
        refresh(&mut state, now, shared.clone());
        assert_eq!(
            state.unauthorized(now, &shared, Verdict::AboutToken),
            expected,
            "{age:?}"
        );
    }
}
