//! One token for many processes: Redis in front of a token endpoint.

mod lease;
mod session;

use std::{fmt, time::Duration};

use async_trait::async_trait;
use redis::Client;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use self::{
    lease::Lease,
    session::{Claim, Miss, Session},
};
use crate::{
    AccessToken, Error, TokenEndpoint, TokenSource,
    clock::Moment,
    schedule,
    seal::{Seal, Unsealed},
};

const DEFAULT_PREFIX: &str = "osdatahub-auth";
const DEFAULT_TIME_LIMIT: Duration = Duration::from_millis(250);
/// A Redis that takes longer is no help any more.
const LONGEST_TIME_LIMIT: Duration = Duration::from_secs(5);

/// What a lease leaves beyond the attempt itself, and what waiting for one leaves beyond the lease.
const GRACE: Duration = Duration::from_secs(1);

/// A [`TokenSource`] that shares the tokens of a [`TokenEndpoint`] with other processes, through Redis or Valkey.
///
/// For a service that runs on many machines, or as short-lived functions: one process asks OS, and the others get the
/// same token. The [`TokenManager`](crate::TokenManager) above it is as ever; each process has its own.
///
/// ```no_run
/// use osdatahub_auth::{ProjectCredentials, SharedSource, TokenEndpoint, TokenManager};
///
/// # fn main() -> Result<(), osdatahub_auth::Error> {
/// let endpoint = TokenEndpoint::builder(ProjectCredentials::from_env()?).build()?;
/// let shared = SharedSource::builder(endpoint, "redis://cache.internal").build()?;
/// let tokens = TokenManager::builder(shared).build()?;
/// # Ok(())
/// # }
/// ```
///
/// # Who asks OS
///
/// Whoever needs a new token looks for the entry in Redis, and adopts its token if that can be used and is newer than
/// the one to be replaced. Otherwise it takes a lock and asks OS, while the others wait for what it brings. A lock
/// whose owner has died runs out after the endpoint's `request_timeout` and one second more; who has waited for a
/// second beyond that asks OS itself.
///
/// # When Redis is down
///
/// Sharing is an economy, and availability comes first. A Redis that is down, hung, slow, full, read-only or of the
/// wrong password, and an entry that is damaged, cost a warning and a request to OS, never an error. All that Redis may
/// add to one fetch is the [`time_limit`](SharedSourceBuilder::time_limit).
///
/// # What Redis gets to see
///
/// Neither a token nor which project it is for. Entries are sealed with XChaCha20-Poly1305 and found under an HMAC, with
/// keys that HKDF-SHA256 derives from the Project API Secret. Two projects, secrets or token URLs never share an entry;
/// after a rotation of the secret the old entry is not found any more. Whoever can write to Redis can take tokens
/// away, or bring one back until it expires, but cannot make one.
///
/// An entry lives for as long as its token, by Redis's own clock: nodes whose clocks differ do not matter.
///
/// # What it needs
///
/// Redis 5 or later, or Valkey, one server or whatever answers for it (not Redis Cluster's redirections), and a user who
/// may run `EVAL`, `GET`, `SET`, `DEL`, `PTTL`, `PEXPIREAT` and `TIME` on keys that begin with the prefix. For
/// `rediss://`, turn on a TLS feature of the crate [`redis`] 1, such as `tokio-rustls-comp`.
pub struct SharedSource {
    endpoint: TokenEndpoint,
    redis: Client,
    prefix: String,
    time_limit: Duration,
}

/// What came of asking Redis.
#[expect(clippy::large_enum_variant, reason = "there is one of them, every few minutes")]
enum Shared {
    /// Another process's token.
    Token(AccessToken),
    /// The endpoint is to be asked, and the others are to get what it gives.
    Lease(Lease),
}

impl SharedSource {
    /// Shares what `endpoint` gives through the Redis at `redis_url`, such as `redis://:password@host:6379/0`.
    ///
    /// Credentials and token URL are the endpoint's.
    pub fn builder(endpoint: TokenEndpoint, redis_url: impl Into<String>) -> SharedSourceBuilder {
        SharedSourceBuilder {
            endpoint,
            redis_url: SecretString::from(redis_url.into()),
            prefix: DEFAULT_PREFIX.to_owned(),
            time_limit: DEFAULT_TIME_LIMIT,
        }
    }

    async fn share(&self, seal: &Seal, replaces: Option<&AccessToken>) -> Result<Shared, Miss> {
        let mut budget = Budget(self.time_limit);
        let session = budget.spend(Session::open(&self.redis, seal.name())).await?;
        let mut lease = Lease::new(session);
        let mut give_up = None;
        loop {
            let (asked, before) = (Moment::now(), budget);
            match budget.spend(lease.claim(self.lease())).await? {
                Claim::Found { entry, time_to_live } => {
                    let unsealed = seal.open(&entry);
                    if unsealed.is_none() {
                        warn_of(&Miss::Unreadable);
                    }
                    if let Some(token) = unsealed.and_then(|it| adopt(&it, time_to_live, asked, replaces)) {
                        debug!("access token adopted from another process");
                        return Ok(Shared::Token(token));
                    }
                    lease.replaces(entry);
                }
                Claim::Granted => return Ok(Shared::Lease(lease)),
                Claim::Held => {
                    // What is waited for here is another's fetch, and no delay of Redis's making.
                    budget = before;
                    if Instant::now() >= *give_up.get_or_insert_with(|| Instant::now() + self.patience()) {
                        debug!("another process holds the lease for an access token, but brings none");
                        return Ok(Shared::Lease(lease));
                    }
                    sleep(poll_interval(fastrand::f64())).await;
                }
            }
        }
    }

    /// How long the others wait for a process that fetches: a little longer than its attempt may take.
    fn lease(&self) -> Duration {
        self.endpoint.request_timeout + GRACE
    }

    /// How long this process waits for others: until their lease has run out, if that leaves time for its own attempt.
    fn patience(&self) -> Duration {
        let time_left = schedule::FETCH_LIMIT.saturating_sub(self.time_limit + self.lease());
        time_left.min(self.lease() + GRACE)
    }
}

#[async_trait]
impl TokenSource for SharedSource {
    async fn fetch(&self, replaces: Option<&AccessToken>) -> Result<AccessToken, Error> {
        // Read once, so that what is asked for and what is sealed are the same project's.
        let credentials = self.endpoint.credentials.credentials().await?;
        let seal = Seal::new(&self.prefix, &credentials, &self.endpoint.token_url);
        let mut lease = match self.share(&seal, replaces).await {
            Ok(Shared::Token(token)) => return Ok(token),
            Ok(Shared::Lease(lease)) => Some(lease),
            Err(miss) => {
                warn_of(&miss);
                None
            }
        };
        let token = self.endpoint.request(&credentials).await?;
        if let Some(lease) = &mut lease {
            lease.bring(&token, &seal);
        }
        Ok(token)
    }
}

fn warn_of(reason: &Miss) {
    warn!(%reason, "no access token from Redis: asking the token endpoint");
}

/// The token of an entry, if it can be used and is newer than the one to be replaced.
///
/// A process that could not leave its new token in Redis may find one there that the API has refused: that one is
/// older, so it ends sooner. Like a token's own, this life counts from before the question was sent.
fn adopt(
    unsealed: &Unsealed,
    time_to_live: Duration,
    asked: Moment,
    replaces: Option<&AccessToken>,
) -> Option<AccessToken> {
    let life = time_to_live.min(unsealed.life);
    let token = AccessToken::issued_at(asked, &unsealed.token, life).ok()?;
    let usable = life > schedule::kept_back(unsealed.life);
    let newer = replaces.is_none_or(|old| !old.is(&token) && old.remaining_at(asked) < life);
    (usable && newer).then_some(token)
}

/// 100 ms, more or less by half, so that those who wait do not all ask at once. `random` lies in [0, 1).
fn poll_interval(random: f64) -> Duration {
    Duration::from_millis(100).mul_f64(0.5 + random)
}

/// What is left of the time that Redis may take.
#[derive(Debug, Clone, Copy)]
struct Budget(Duration);

impl Budget {
    async fn spend<T>(&mut self, work: impl Future<Output = Result<T, Miss>>) -> Result<T, Miss> {
        let start = Instant::now();
        let done = timeout(self.0, work).await.unwrap_or(Err(Miss::TooSlow));
        self.0 = self.0.saturating_sub(start.elapsed());
        done
    }
}

impl fmt::Debug for SharedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSource")
            .field("endpoint", &self.endpoint)
            .field("prefix", &self.prefix)
            .field("time_limit", &self.time_limit)
            .finish_non_exhaustive()
    }
}

/// Settings of a [`SharedSource`].
#[must_use]
pub struct SharedSourceBuilder {
    endpoint: TokenEndpoint,
    redis_url: SecretString,
    prefix: String,
    time_limit: Duration,
}

impl SharedSourceBuilder {
    /// What the names of all keys in Redis begin with. Defaults to `osdatahub-auth`.
    ///
    /// Processes share a token only if they have the same prefix. Projects need none of their own: they never share.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How much Redis may add to one fetch, connecting included; 5 s at most. Defaults to 250 ms.
    ///
    /// Beyond that the token endpoint is asked without it. Waiting for another process that fetches does not count.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// The source. Nothing is sent yet.
    ///
    /// # Errors
    /// [`Configuration`](crate::ErrorKind::Configuration) if the Redis URL cannot be parsed, or is `rediss://` and the
    /// crate [`redis`] has no TLS compiled in; if the prefix is empty; or if the time limit is zero or above 5 s.
    pub fn build(self) -> Result<SharedSource, Error> {
        // Its error might quote the URL, which may hold a password.
        let redis = Client::open(self.redis_url.expose_secret()).map_err(|_| {
            Error::configuration(
                "the redis_url is none that can be used: it looks like redis://:password@host:6379/0, and rediss:// \
                 needs a TLS feature of the crate redis",
            )
        })?;
        if self.prefix.is_empty() {
            return Err(Error::configuration("the prefix of the keys in Redis is empty"));
        }
        if self.time_limit.is_zero() || self.time_limit > LONGEST_TIME_LIMIT {
            return Err(Error::configuration(
                "the time_limit for Redis has to be more than zero and 5 s at most",
            ));
        }
        Ok(SharedSource {
            endpoint: self.endpoint,
            redis,
            prefix: self.prefix,
            time_limit: self.time_limit,
        })
    }
}

impl fmt::Debug for SharedSourceBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSourceBuilder")
            .field("endpoint", &self.endpoint)
            .field("prefix", &self.prefix)
            .field("time_limit", &self.time_limit)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const LIFE: Duration = Duration::from_secs(299);
    const SECOND: Duration = Duration::from_secs(1);

    /// An entry that another process sealed at the start of its token's life.
    fn entry(token: &str) -> Unsealed {
        Unsealed {
            token: token.to_owned().into(),
            life: LIFE,
        }
    }

    fn held(token: &str, remaining: Duration) -> AccessToken {
        AccessToken::new(token, remaining).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn an_adopted_life_is_the_shorter_one_counted_from_the_question() {
        for (time_to_live, expected) in [(100, 100), (299, 299), (100_000, 299)] {
            let asked = Moment::now();
            advance(SECOND * 2).await;
            let token = adopt(&entry("t"), SECOND * time_to_live, asked, None).unwrap();
            assert_eq!(token.remaining() + SECOND * 2, SECOND * expected);
            assert_eq!(token.expose_secret(), "t");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_no_manager_would_hand_out_is_not_adopted() {
        // Of 299 s the last 9.97 are kept back.
        assert!(adopt(&entry("t"), SECOND * 10, Moment::now(), None).is_some());
        for time_to_live in [Duration::from_millis(9_900), SECOND, Duration::ZERO] {
            assert!(adopt(&entry("t"), time_to_live, Moment::now(), None).is_none());
        }
        assert!(adopt(&entry("no token"), LIFE, Moment::now(), None).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_token_that_is_newer_than_the_one_to_be_replaced_is_adopted() {
        let adopted = |replaces: AccessToken| adopt(&entry("t"), SECOND * 100, Moment::now(), Some(&replaces));
        assert!(adopted(held("other", SECOND * 50)).is_some());
        assert!(adopted(held("other", SECOND * 100)).is_none());
        assert!(adopted(held("other", SECOND * 150)).is_none());
        // The very same, whatever is thought of its life.
        assert!(adopted(held("t", SECOND * 50)).is_none());
    }

    #[test]
    fn those_who_wait_do_not_ask_in_step() {
        assert_eq!(poll_interval(0.0), Duration::from_millis(50));
        assert_eq!(poll_interval(1.0), Duration::from_millis(150));
    }

    #[test]
    fn waiting_for_others_leaves_time_for_an_attempt_of_ones_own() {
        for (request_timeout, lease, patience) in [(5, 6, 7), (10, 11, 12), (20, 21, 4), (30, 31, 0)] {
            let credentials = crate::ProjectCredentials::new("key", "secret").unwrap();
            let endpoint = TokenEndpoint::builder(credentials)
                .request_timeout(SECOND * request_timeout)
                .build()
                .unwrap();
            let source = SharedSource::builder(endpoint, "redis://host")
                .time_limit(SECOND * 5)
                .build()
                .unwrap();
            assert_eq!((source.lease(), source.patience()), (SECOND * lease, SECOND * patience));
        }
    }
}
