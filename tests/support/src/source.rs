//! Scripted in-process token source for tests that pause tokio's clock. With a real socket, a paused clock would fire
//! every timeout at once.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use osdatahub_auth::{AccessToken, Error, ErrorKind, TokenManager, TokenSource};
use tokio::time::{Instant, sleep};

/// Every [`ErrorKind`].
pub const KINDS: [ErrorKind; 7] = [
    ErrorKind::Configuration,
    ErrorKind::CredentialsRejected,
    ErrorKind::RequestRejected,
    ErrorKind::RateLimited,
    ErrorKind::Unavailable,
    ErrorKind::MalformedResponse,
    ErrorKind::Timeout,
];

/// The lifetime of OS's tokens.
pub const LIFETIME: Duration = Duration::from_secs(299);

pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub const fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Polls until the closure returns `Some`, and panics after 20 s. For work that another task or process does.
pub async fn eventually<T>(condition: &str, mut poll: impl AsyncFnMut() -> Option<T>) -> T {
    let start = std::time::Instant::now();
    loop {
        if let Some(value) = poll().await {
            return value;
        }
        assert!(
            start.elapsed() < secs(20),
            "timed out after 20 s waiting until {condition}"
        );
        sleep(millis(10)).await;
    }
}

/// Scripted result of one fetch, and its delay.
pub struct Outcome {
    delay: Duration,
    result: Result<AccessToken, Error>,
}

impl Outcome {
    /// A new token with this lifetime, counted from the start of the fetch, as for OS's tokens.
    pub fn token(lifetime: Duration) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let name = format!("token-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        Self::exactly(AccessToken::new(name, lifetime).unwrap())
    }

    /// The given token, not a new one.
    pub fn exactly(token: AccessToken) -> Self {
        Self {
            delay: Duration::ZERO,
            result: Ok(token),
        }
    }

    pub fn failure(kind: ErrorKind) -> Self {
        Self::error(Error::new(kind, "scripted"))
    }

    pub fn error(error: Error) -> Self {
        Self {
            delay: Duration::ZERO,
            result: Err(error),
        }
    }

    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

/// [`TokenSource`] that follows a script and records every fetch.
pub struct Source {
    script: Box<dyn Fn(usize) -> Outcome + Send + Sync>,
    fetches: Mutex<Vec<Fetch>>,
}

#[derive(Clone)]
pub struct Fetch {
    pub started: Instant,
    pub replaces: Option<String>,
    pub ended: Option<Instant>,
}

impl Source {
    /// The script gets the number of the fetch, counted from 1.
    pub fn new(script: impl Fn(usize) -> Outcome + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            script: Box::new(script),
            fetches: Mutex::default(),
        })
    }

    /// Issues a 299 s token after 50 ms, as OS does on a good day.
    pub fn healthy() -> Arc<Self> {
        Self::new(|_| Outcome::token(LIFETIME).after(millis(50)))
    }

    pub fn manager(self: &Arc<Self>) -> TokenManager {
        TokenManager::builder(self.clone()).build().unwrap()
    }

    pub fn fetches(&self) -> Vec<Fetch> {
        self.fetches.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.fetches.lock().unwrap().len()
    }
}

#[async_trait::async_trait]
impl TokenSource for Source {
    async fn fetch(&self, replaces: Option<&AccessToken>) -> Result<AccessToken, Error> {
        let number = {
            let mut fetches = self.fetches.lock().unwrap();
            fetches.push(Fetch {
                started: Instant::now(),
                replaces: replaces.map(|token| token.expose_secret().to_owned()),
                ended: None,
            });
            fetches.len()
        };
        let outcome = (self.script)(number);
        sleep(outcome.delay).await;
        self.fetches.lock().unwrap()[number - 1].ended = Some(Instant::now());
        outcome.result
    }
}
