//! A token source inside the process, for tests in paused time.
#![allow(dead_code, reason = "each test binary uses its own part of this")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use osdatahub_auth::{AccessToken, Error, ErrorKind, TokenManager, TokenSource};
use tokio::time::{Instant, sleep};

/// Every kind of failure.
pub(crate) const KINDS: [ErrorKind; 7] = [
    ErrorKind::Configuration,
    ErrorKind::CredentialsRejected,
    ErrorKind::RequestRejected,
    ErrorKind::RateLimited,
    ErrorKind::Unavailable,
    ErrorKind::MalformedResponse,
    ErrorKind::Timeout,
];

pub(crate) const LIFE: Duration = Duration::from_secs(299);

pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) const fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// What the question brings, as soon as it brings anything. For what happens on a task or a process of its own.
pub(crate) async fn eventually<T>(what: &str, mut question: impl AsyncFnMut() -> Option<T>) -> T {
    let start = std::time::Instant::now();
    loop {
        if let Some(found) = question().await {
            return found;
        }
        assert!(start.elapsed() < secs(20), "waited for 20 s: {what}");
        sleep(millis(10)).await;
    }
}

/// What a fetch comes to, and after how long.
pub(crate) struct Answer {
    after: Duration,
    brings: Result<AccessToken, Error>,
}

impl Answer {
    /// A new token with this life, which counts from the start of the fetch, as OS's does.
    pub(crate) fn token(life: Duration) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let name = format!("token-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        Self::exactly(AccessToken::new(name, life).unwrap())
    }

    /// This very token.
    pub(crate) fn exactly(token: AccessToken) -> Self {
        Self {
            after: Duration::ZERO,
            brings: Ok(token),
        }
    }

    pub(crate) fn failure(kind: ErrorKind) -> Self {
        Self::error(Error::new(kind, "scripted"))
    }

    pub(crate) fn error(error: Error) -> Self {
        Self {
            after: Duration::ZERO,
            brings: Err(error),
        }
    }

    pub(crate) fn after(mut self, delay: Duration) -> Self {
        self.after = delay;
        self
    }
}

/// Answers each fetch by a script, and keeps a record.
pub(crate) struct Source {
    script: Box<dyn Fn(usize) -> Answer + Send + Sync>,
    fetches: Mutex<Vec<Fetch>>,
}

#[derive(Clone)]
pub(crate) struct Fetch {
    pub(crate) started: Instant,
    pub(crate) replaces: Option<String>,
    pub(crate) ended: Option<Instant>,
}

impl Source {
    /// `script` is asked with the number of the fetch, from 1.
    pub(crate) fn new(script: impl Fn(usize) -> Answer + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            script: Box::new(script),
            fetches: Mutex::default(),
        })
    }

    /// OS on a good day.
    pub(crate) fn healthy() -> Arc<Self> {
        Self::new(|_| Answer::token(LIFE).after(millis(50)))
    }

    pub(crate) fn manager(self: &Arc<Self>) -> TokenManager {
        TokenManager::builder(self.clone()).build().unwrap()
    }

    pub(crate) fn fetches(&self) -> Vec<Fetch> {
        self.fetches.lock().unwrap().clone()
    }

    pub(crate) fn count(&self) -> usize {
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
        let answer = (self.script)(number);
        sleep(answer.after).await;
        self.fetches.lock().unwrap()[number - 1].ended = Some(Instant::now());
        answer.brings
    }
}
