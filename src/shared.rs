//! One token for many processes: Redis in front of a token endpoint.

mod session;
mod turn;

use std::{fmt, time::Duration};

use async_trait::async_trait;
use redis::Client;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, warn};

use self::{
    session::{Claim, Miss, Session},
    turn::Turn,
};
use crate::{
    AccessToken, Error, TokenEndpoint, TokenSource,
    clock::Moment,
    schedule,
    seal::{Seal, Unsealed},
    unwind::caught,
};

const DEFAULT_PREFIX: &str = "osdatahub-auth";
const DEFAULT_TIME_LIMIT: Duration = Duration::from_millis(250);
/// A Redis that takes longer is no help any more.
const LONGEST_TIME_LIMIT: Duration = Duration::from_secs(5);

/// What a lease leaves beyond the attempt itself, and what waiting for one leaves beyond the lease.
const GRACE: Duration = Duration::from_secs(1);

/// A [`TokenSource`] that shares the tokens of a [`TokenEndpoint`] with other processes, through Redis or Valkey. Needs
/// the feature `redis`.
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
/// the one to be replaced. Otherwise it takes a lock and asks OS, while the others wait for what it brings. The lock of
/// a process that has died runs out after the endpoint's `request_timeout` and one second more; whoever has waited for
/// a second beyond that asks OS itself. A caller without a token may have to wait for all of that: an
/// [`acquire_timeout`](crate::TokenManagerBuilder::acquire_timeout) of 12 s covers it.
///
/// A token that the API refused is replaced for all: the first that finds out asks for another, and the others adopt
/// that. As an adopted token is no new one, a 401 counts at once.
///
/// # When Redis is down
///
/// Sharing is an economy, and availability comes first. A Redis that is down, hung, slow, full, read-only or refuses the
/// password, and an entry that is damaged, cost a warning and a request to OS, never an error. All that Redis may add
/// to one fetch is the [`time_limit`](SharedSourceBuilder::time_limit).
///
/// A new token is shared after it is on its way to its caller, by a task of its own. A process that ends at that very
/// moment does not share it, and leaves a lock that runs out by itself.
///
/// # What Redis gets to see
///
/// Neither a token nor which project it is for. Entries are sealed with XChaCha20-Poly1305 and found under an HMAC, with
/// keys that HKDF-SHA256 derives from the Project API Secret. Two projects, secrets or token URLs never share an entry;
/// after a rotation of the secret the old entry is not found any more. Whoever can write to Redis can take tokens
/// away, but not make one, nor make one live longer.
///
/// An entry lives for as long as its token, by Redis's own clock: nodes whose clocks differ do not matter.
///
/// # What it needs
///
/// Redis 5 or later, or Valkey, one server or whatever answers for it (not Redis Cluster's redirections), and a user who
/// may run `EVAL`, `GET`, `SET`, `DEL`, `PTTL`, `PEXPIREAT` and `TIME` on keys that begin with the prefix, and `SELECT`
/// if the URL names a database. For `rediss://`, turn on a TLS feature of the crate [`redis`] 1: with
/// `tokio-rustls-comp` the program has to have one `rustls` crypto provider, or to install a default one.
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
    Fetch(Turn),
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
        let mut turn = Turn::new(session);
        let mut give_up = None;
        loop {
            let (asked, before) = (Moment::now(), budget);
            let (claim, now) = budget.spend(turn.claim(self.lease_time())).await?;
            match claim {
                Claim::Found { entry, time_to_live } => {
                    if let Some(unsealed) = seal.open(&entry) {
                        let left = time_to_live.min(unsealed.expires_at.saturating_sub(now));
                        if let Some(token) = adopt(&unsealed, left, asked, replaces) {
                            debug!("access token adopted from another process");
                            return Ok(Shared::Token(token));
                        }
                    } else {
                        warn!("the access token's entry in Redis is damaged, and is replaced");
                    }
                    turn.overwrites(entry);
                }
                Claim::Granted => return Ok(Shared::Fetch(turn)),
                Claim::Held => {
                    // What is waited for here is another's fetch, and no delay of Redis's making.
                    budget = before;
                    let give_up = *give_up.get_or_insert_with(|| Instant::now() + self.patience());
                    if Instant::now() >= give_up {
                        debug!("another process holds the lock for an access token, but brings none");
                        return Ok(Shared::Fetch(turn));
                    }
                    sleep_until(give_up.min(Instant::now() + poll_interval(fastrand::f64()))).await;
                }
            }
        }
    }

    /// How long the others wait for a process that fetches: a little longer than its attempt may take.
    fn lease_time(&self) -> Duration {
        self.endpoint.request_timeout + GRACE
    }

    /// How long this process waits for others: until their lease has run out, if that leaves time for its own attempt.
    fn patience(&self) -> Duration {
        let time_left = schedule::FETCH_LIMIT.saturating_sub(self.time_limit + self.lease_time());
        time_left.min(self.lease_time() + GRACE)
    }
}

#[async_trait]
impl TokenSource for SharedSource {
    async fn fetch(&self, replaces: Option<&AccessToken>) -> Result<AccessToken, Error> {
        // Read once, so that what is asked for and what is sealed are the same project's.
        let credentials = self.endpoint.credentials.credentials().await?;
        let seal = Seal::new(&self.prefix, &credentials, &self.endpoint.token_url);
        // The crate redis may panic, above all about the TLS that it finds: Redis can fail no fetch.
        let shared = caught(self.share(&seal, replaces)).await.unwrap_or(Err(Miss::Panicked));
        let mut turn = match shared {
            Ok(Shared::Token(token)) => return Ok(token),
            Ok(Shared::Fetch(turn)) => Some(turn),
            Err(reason) => {
                warn!(%reason, "no access token from Redis: asking the token endpoint");
                None
            }
        };
        let token = self.endpoint.request(&credentials).await?;
        if let Some(turn) = &mut turn {
            turn.bring(&token, &seal);
        }
        Ok(token)
    }
}

/// The token of an entry, if it can be used and is newer than the one to be replaced. `left` is what is left of its
/// life, by Redis's clock; like a token's own life, it counts from before the question was sent.
///
/// A process that could not leave its new token in Redis may find one there that the API has refused: that one is
/// older, so it ends sooner.
fn adopt(unsealed: &Unsealed, left: Duration, asked: Moment, replaces: Option<&AccessToken>) -> Option<AccessToken> {
    let life = unsealed.life;
    let age = life.saturating_sub(left);
    let token = AccessToken::adopted_at(asked, &unsealed.token, age, life).ok()?;
    let now = Moment::now();
    let usable = token.remaining_at(now) > schedule::kept_back(life);
    let newer = replaces.is_none_or(|old| !old.is(&token) && old.remaining_at(now) < token.remaining_at(now));
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
    /// crate [`redis`] has no TLS compiled in; if the prefix is empty; or if the time limit is zero, above 5 s, or more
    /// than the endpoint's `request_timeout` leaves of the 30 s after which any fetch is given up.
    pub fn build(self) -> Result<SharedSource, Error> {
        let url = self.redis_url.expose_secret();
        // The crate's own error might quote the URL, which may hold a password.
        let redis = Client::open(url).map_err(|_| {
            Error::configuration(if url.starts_with("rediss://") || url.starts_with("valkeys://") {
                "the redis_url cannot be used: rediss:// needs a TLS feature of the crate redis, such as tokio-rustls-comp"
            } else {
                "the redis_url cannot be parsed: it should look like redis://:password@host:6379/0, with what is special \
                 in the password percent-encoded"
            })
        })?;
        if self.prefix.is_empty() {
            return Err(Error::configuration("the prefix of the keys in Redis is empty"));
        }
        if self.time_limit.is_zero() || self.time_limit > LONGEST_TIME_LIMIT {
            return Err(Error::configuration(
                "the time_limit for Redis has to be more than zero and 5 s at most",
            ));
        }
        if self.time_limit + self.endpoint.request_timeout > schedule::FETCH_LIMIT {
            return Err(Error::configuration(
                "the time_limit for Redis and the endpoint's request_timeout have to be 30 s at most together",
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
            expires_at: Duration::ZERO,
        }
    }

    fn held(token: &str, remaining: Duration) -> AccessToken {
        AccessToken::new(token, remaining).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn an_adopted_life_counts_from_the_question_and_is_no_longer_than_the_tokens() {
        for (left, expected) in [(100, 100), (299, 299), (100_000, 299)] {
            let asked = Moment::now();
            advance(SECOND * 2).await;
            let token = adopt(&entry("t"), SECOND * left, asked, None).unwrap();
            assert_eq!(token.remaining() + SECOND * 2, SECOND * expected);
            assert_eq!(token.expose_secret(), "t");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_no_manager_would_hand_out_is_not_adopted() {
        // Of 299 s the last 9.97 are kept back.
        assert!(adopt(&entry("t"), SECOND * 10, Moment::now(), None).is_some());
        for left in [Duration::from_millis(9_900), SECOND, Duration::ZERO] {
            assert!(adopt(&entry("t"), left, Moment::now(), None).is_none());
        }
        assert!(adopt(&entry("no token"), LIFE, Moment::now(), None).is_none());
        // The answer itself may have taken too long.
        let asked = Moment::now();
        advance(SECOND).await;
        assert!(adopt(&entry("t"), SECOND * 10, asked, None).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn an_adopted_token_keeps_the_windows_of_its_whole_life() {
        let token = adopt(&entry("t"), SECOND * 100, Moment::now(), None).unwrap();
        assert_eq!((token.life(), token.age_at_start()), (LIFE, SECOND * 199));
        let left_at = |age: Duration| Moment::now().until(token.reaches(age));
        assert_eq!(left_at(SECOND * 224), SECOND * 25, "stale");
        assert_eq!(left_at(SECOND * 289), SECOND * 90, "unusable");
        assert_eq!(left_at(SECOND * 100), Duration::ZERO);
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
        for (request_timeout, lease_time, patience) in [(5, 6, 7), (10, 11, 12), (20, 21, 4), (25, 26, 0)] {
            let credentials = crate::ProjectCredentials::new("key", "secret").unwrap();
            let endpoint = TokenEndpoint::builder(credentials)
                .request_timeout(SECOND * request_timeout)
                .build()
                .unwrap();
            let source = SharedSource::builder(endpoint, "redis://host")
                .time_limit(SECOND * 5)
                .build()
                .unwrap();
            assert_eq!(
                (source.lease_time(), source.patience()),
                (SECOND * lease_time, SECOND * patience)
            );
        }
    }
}
