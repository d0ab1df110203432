//! Every order of events around the state machine, to a depth that takes seconds.
//!
//! Callers ask and give up, tasks begin, end and are dropped, tokens are refused, and time passes. In every order
//! there is one fetch at a time (single-flight), and no caller waits for an attempt that no task makes.
//!
//! `ELECTION_DEPTH=12 cargo nextest run --release interleavings` goes deeper.

use super::*;

const DEPTH: usize = 10;
/// The least number of orders at the default depth. It shows that the search is not empty.
const MIN_ORDERS: u64 = 10_000_000;
const CALLERS: usize = 2;
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
const LIFE: Duration = Duration::from_secs(40);
/// Longer than the minimum gaps and the first backoff.
const SHORT: Duration = Duration::from_millis(1_100);
/// Long enough for an attempt to be overdue and a token to expire.
const LONG: Duration = Duration::from_secs(45);

#[derive(Debug, Clone, Copy)]
enum Event {
    Asks(usize),
    GivesUp(usize),
    TaskBegins,
    TaskSucceeds,
    TaskFails(ErrorKind),
    TaskIsCutOff,
    TokenIsRefused(Verdict),
    TimePasses(Duration),
}

#[derive(Clone)]
struct World {
    state: State,
    now: Moment,
    /// The attempt that each caller waits for, and its deadline.
    waiting: [Option<(Attempt, Instant)>; CALLERS],
    /// The tasks that were spawned and have not ended.
    tasks: Vec<Task>,
    tokens: usize,
    /// When the next fetch may begin, by the outcome of the last one.
    not_before: Option<Instant>,
    rejected: Option<AccessToken>,
}

#[derive(Clone, Copy)]
struct Task {
    attempt: Attempt,
    began_at: Option<Instant>,
}

#[test]
fn no_order_of_events_breaks_the_election() {
    let world = World {
        state: State::new(0.5..=0.5),
        now: Moment::now(),
        waiting: [None; CALLERS],
        tasks: Vec::new(),
        tokens: 0,
        not_before: None,
        rejected: None,
    };
    let depth = std::env::var("ELECTION_DEPTH").map_or(DEPTH, |depth| depth.parse().expect("a number"));
    let mut orders = 0;
    explore(&world, depth, &mut Vec::new(), &mut orders);
    println!("{orders} orders of up to {depth} events");
    assert!(depth < DEPTH || orders > MIN_ORDERS, "only {orders} orders were seen");
}

fn explore(world: &World, depth: usize, story: &mut Vec<Event>, orders: &mut u64) {
    *orders += 1;
    if story.len() == depth {
        return;
    }
    for event in world.possible() {
        let mut next = world.clone();
        story.push(event);
        if let Err(broken) = next.play(event).and_then(|()| next.check()) {
            panic!("{broken}, after {story:?}");
        }
        explore(&next, depth, story, orders);
        story.pop();
    }
}

impl World {
    fn possible(&self) -> Vec<Event> {
        let mut events = vec![Event::TimePasses(SHORT), Event::TimePasses(LONG)];
        for caller in 0..CALLERS {
            events.push(match self.waiting[caller] {
                None => Event::Asks(caller),
                Some(_) => Event::GivesUp(caller),
            });
        }
        // Only the oldest task makes progress.
        if let Some(task) = self.tasks.first() {
            events.push(Event::TaskIsCutOff);
            if task.began_at.is_some() {
                events.push(Event::TaskSucceeds);
                events.push(Event::TaskFails(ErrorKind::Unavailable));
                events.push(Event::TaskFails(ErrorKind::CredentialsRejected));
            } else if task.attempt.starts <= self.now.monotonic {
                events.push(Event::TaskBegins);
            }
        }
        if self.state.current.is_some() {
            events.push(Event::TokenIsRefused(Verdict::AboutToken));
            events.push(Event::TokenIsRefused(Verdict::Unexplained));
        }
        events
    }

    fn play(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Asks(caller) => {
                let deadline = self.now.monotonic + ACQUIRE_TIMEOUT;
                return self.ask(caller, deadline);
            }
            Event::GivesUp(caller) => self.waiting[caller] = None,
            Event::TaskBegins => return self.begin(),
            Event::TaskSucceeds => {
                self.tokens += 1;
                let token = format!("token-{}", self.tokens);
                let token = AccessToken::aged_at(self.now, &token, Duration::ZERO, LIFE);
                return self.settle(token);
            }
            Event::TaskFails(kind) => return self.settle(Err(Error::new(kind, "scripted"))),
            Event::TaskIsCutOff => return self.drop_task(),
            Event::TokenIsRefused(verdict) => {
                let token = self.state.current.as_ref().map(|current| current.token.clone());
                let token = token.ok_or("no token")?;
                let action = self.state.unauthorized(self.now, &token, verdict);
                if action == Action::Replace && verdict == Verdict::AboutToken {
                    self.rejected = Some(token);
                }
            }
            Event::TimePasses(time) => {
                self.now = self.now.after(time);
                for caller in 0..CALLERS {
                    let Some((attempt, until)) = self.waiting[caller] else {
                        continue;
                    };
                    if until <= self.now.monotonic {
                        self.waiting[caller] = None;
                    } else if attempt.overdue_at <= self.now.monotonic {
                        self.ask(caller, until)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn ask(&mut self, caller: usize, deadline: Instant) -> Result<(), String> {
        let usable = self.state.usable(self.now, Need::Usable).is_some();
        self.waiting[caller] = match self.state.join(self.now, Need::Usable, deadline) {
            Ok(Join::Ready(token)) => {
                if token.remaining_at(self.now).is_zero() {
                    return Err("an expired token was handed out".into());
                }
                if self.rejected.as_ref().is_some_and(|rejected| rejected.is(&token)) {
                    return Err("a rejected token was handed out".into());
                }
                None
            }
            Ok(Join::Leader(attempt)) => {
                let began_at = None;
                self.tasks.push(Task { attempt, began_at });
                Some((attempt, deadline))
            }
            Ok(Join::Follower(attempt)) => Some((attempt, deadline)),
            Err(error) => {
                let wait = error.retry_after().unwrap_or_default();
                if wait.is_zero() || (error.is_transient() && self.now.monotonic + wait <= deadline) {
                    return Err("a caller fails although the next attempt comes in time".into());
                }
                None
            }
        };
        if usable && self.waiting[caller].is_some() {
            return Err("a caller waits although there is a usable token".into());
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), String> {
        let Task { attempt, .. } = self.tasks[0];
        if !self.state.begin(attempt.id, self.now) {
            return self.drop_task();
        }
        let now = self.now.monotonic;
        if self.not_before.is_some_and(|not_before| now < not_before) {
            return Err("a fetch begins too soon after the last one".into());
        }
        self.tasks[0].began_at = Some(now);
        Ok(())
    }

    /// Dropping a task abandons its attempt.
    fn drop_task(&mut self) -> Result<(), String> {
        let task = self.tasks.remove(0);
        if let Some(began_at) = task.began_at {
            self.not_before = Some(began_at + schedule::MIN_GAP_AFTER_START);
        }
        if self.state.abandon(task.attempt.id).is_some() {
            return self.wake(task.attempt.id);
        }
        Ok(())
    }

    fn settle(&mut self, result: Result<AccessToken, Error>) -> Result<(), String> {
        let task = self.tasks.remove(0);
        let now = self.now.monotonic;
        match self.state.settle(task.attempt.id, self.now, result, 0.0) {
            None | Some(Outcome::Abandoned) => Ok(()),
            Some(Outcome::Refreshed { .. }) => {
                self.not_before = Some(now + Duration::from_secs(1));
                self.wake(task.attempt.id)
            }
            Some(Outcome::Failed { .. }) => {
                self.not_before = Some(now + Duration::from_millis(500));
                self.wake(task.attempt.id)
            }
        }
    }

    /// Callers that waited for this attempt join again.
    fn wake(&mut self, attempt: u64) -> Result<(), String> {
        for caller in 0..CALLERS {
            if let Some((_, until)) = self.waiting[caller].filter(|(waited, _)| waited.id <= attempt) {
                self.waiting[caller] = None;
                self.ask(caller, until)?;
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        // An overdue task does not count: its fetch has been given up.
        let fetching = |task: &&Task| task.began_at.is_some_and(|at| self.now.monotonic - at < LONG);
        if self.tasks.iter().filter(fetching).count() > 1 {
            return Err("two fetches at once".into());
        }
        let has_task = |id: u64| self.tasks.iter().any(|task| task.attempt.id == id);
        if self.state.attempt.is_some_and(|attempt| !has_task(attempt.id)) {
            return Err("there is an attempt that no task makes".into());
        }
        for (attempt, _) in self.waiting.iter().flatten() {
            if !has_task(attempt.id) {
                return Err("a caller waits for an attempt that no task makes".into());
            }
        }
        Ok(())
    }
}
