//! One token for many processes: a lease and an entry in Redis, in front of a token endpoint.

mod failure;
mod lease;
mod redirection;
mod seal;
mod store;

use std::{fmt, time::Duration};

use async_trait::async_trait;
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{Instant, sleep_until};

use self::failure::{Reason, RedisFailure, Step};
use self::lease::{Lease, Warning};
use self::seal::{Seal, Unsealed};
use self::store::{Lookup, Store};
use crate::schedule::{MAX_FETCH_TIME, expiry_margin};
use crate::{
    clock::Moment, credentials::CredentialsProvider, endpoint::TokenEndpoint, error::Error, source::TokenSource,
    telemetry, token::AccessToken,
};

const DEFAULT_PREFIX: &str = "osdatahub-auth";
const DEFAULT_TIME_LIMIT: Duration = Duration::from_millis(250);
/// A TLS handshake takes up to 150 ms of processor time, and more while many processes start at once.
const DEFAULT_TLS_TIME_LIMIT: Duration = Duration::from_secs(1);
/// A slower Redis costs more than it saves.
const MAX_TIME_LIMIT: Duration = Duration::from_secs(5);

/// The safety margin: a waiting process outwaits another's fetch by this much.
const GRACE: Duration = Duration::from_secs(1);

/// The difference between two clocks that is ignored.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(1);

/// The limit for entries of no use in one fetch. Two processes may publish in quick succession, but not three.
const MAX_USELESS_ENTRIES: usize = 3;

/// A [`TokenSource`] that shares the tokens of a [`TokenEndpoint`] between processes, through Redis or Valkey. Needs
/// the feature `redis`.
///
/// Use it for a service that runs on many machines, or as short-lived functions: one process asks OS, and the others
/// get the same token. Each process has its own [`TokenManager`](crate::TokenManager) above it, as without sharing.
///
/// ```no_run
/// use osdatahub_auth::{ProjectCredentials, SharedSource, TokenEndpoint, TokenManager};
///
/// # fn main() -> Result<(), osdatahub_auth::Error> {
/// let endpoint = TokenEndpoint::builder(ProjectCredentials::from_env()?).build()?;
/// let shared = SharedSource::builder(endpoint, "rediss://user:password@cache.internal:6379").build()?;
/// let tokens = TokenManager::builder(shared).build()?;
/// # Ok(())
/// # }
/// ```
///
/// # Who asks OS
///
/// A process that needs a token looks up the entry in Redis. It adopts the entry's token if that is usable and newer
/// than the one to be replaced. Otherwise one process takes a lock as its lease and asks OS, while the others wait for
/// its token. The lease lasts 2 s, and is renewed while the request to OS takes longer. So the lock of a process that has
/// died holds up the others for 2 s. A process that has waited for the endpoint's `request_timeout` and one second more
/// asks OS itself, which may take as long again. An
/// [`acquire_timeout`](crate::TokenManagerBuilder::acquire_timeout) of 12 s covers all of that, or 13 s over TLS.
/// Within the default of 10 s a caller survives the death of another process, but not a token endpoint that hangs.
///
/// A token that the API refused is replaced for all processes. The first that notices asks for another, and the others
/// adopt that. An adopted token counts with its real age, so a 401 may replace it at once.
///
/// # When Redis is down
///
/// Redis is optional: if it fails, each process asks OS itself. This holds for a Redis that is down, hung, slow, full,
/// read-only or refuses the password, and for a damaged entry. Each costs a warning and a request to OS, never an
/// error. Redis delays a fetch by at most the [`time_limit`](SharedSourceBuilder::time_limit).
///
/// A separate task publishes a new token, so that its caller does not wait for that. A process that ends at that moment
/// does not publish it, and its lock expires.
///
/// # What Redis sees
///
/// Neither the token nor the name of the project. Entries are sealed with XChaCha20-Poly1305 and stored under an HMAC.
/// The cipher's key and the name are derived from the Project API Secret with HKDF-SHA256. Two projects, secrets or
/// token URLs never share an entry. After a rotation of the secret the old entry is not found. A person who can write
/// to Redis can remove tokens, but cannot forge one or extend its lifetime.
///
/// An entry expires with its token, by Redis's own clock, so the clocks of the processes may differ. If Redis's clock
/// jumps back by more than the token's age, the entry is not used, and a WARN says so. A smaller jump cannot be noticed:
/// keep the clocks of Redis's servers synchronised (NTP).
///
/// # What it needs
///
/// Redis 5 or later, Valkey, or Redis Cluster. The user needs `EVAL`, `GET`, `SET`, `DEL`, `PTTL` and `TIME` on keys that
/// start with the prefix, `ASKING` in a cluster, and `SELECT` if the URL names a database. The
/// [guide](crate::guide::sharing) says how to set Redis up.
///
/// For `rediss://`, add the crate [`redis`](https://docs.rs/redis) 1 with TLS:
///
/// ```toml
/// redis = { version = "1", default-features = false, features = ["tokio-rustls-comp", "tls-rustls-webpki-roots"] }
/// ```
///
/// Without `tls-rustls-webpki-roots`, the crate reads the system's root certificates from disk for each connection. The
/// program must have exactly one `rustls` crypto provider, or install a default one.
pub struct SharedSource {
    endpoint: TokenEndpoint,
    redis: ConnectionInfo,
    config: AsyncConnectionConfig,
    prefix: String,
    time_limit: Duration,
}

/// The result of asking Redis.
#[expect(clippy::large_enum_variant, reason = "there is one of them, every few minutes")]
enum Shared {
    /// Another process's token.
    Token(AccessToken),
    /// This process fetches, and publishes the result.
    Fetch(Lease),
}

impl SharedSource {
    /// Returns a builder for a source that shares the tokens of `endpoint` through the Redis at `redis_url`, such as
    /// `rediss://user:password@host:6379`.
    ///
    /// Credentials and token URL are the endpoint's. The URL may also begin with `redis://`, `valkey://`, `valkeys://`
    /// or `unix://`, name a database (`/1`), and choose RESP3 (`?protocol=resp3`).
    pub fn builder(endpoint: TokenEndpoint, redis_url: impl Into<String>) -> SharedSourceBuilder {
        SharedSourceBuilder::new(endpoint, Redis::Url(SecretString::from(redis_url.into())))
    }

    /// Returns a builder for a source with a client of yours: for a private root certificate, a client certificate, or
    /// a credentials provider such as that of Entra ID.
    ///
    /// Only the time limits of `config` are overridden, by [`time_limit`](SharedSourceBuilder::time_limit). The client
    /// sends `CLIENT SETINFO` as well, unless its settings have `set_skip_set_lib_name`.
    ///
    /// ```no_run
    /// use osdatahub_auth::{ProjectCredentials, SharedSource, TokenEndpoint};
    /// use redis::{AsyncConnectionConfig, Client};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let endpoint = TokenEndpoint::builder(ProjectCredentials::from_env()?).build()?;
    /// // With a TLS feature of the crate redis: Client::build_with_tls(url, certificates)
    /// let client = Client::open("redis://cache.internal:6379")?;
    /// let shared = SharedSource::with_client(endpoint, client, AsyncConnectionConfig::new()).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_client(endpoint: TokenEndpoint, client: Client, config: AsyncConnectionConfig) -> SharedSourceBuilder {
        SharedSourceBuilder::new(endpoint, Redis::Client(Box::new((client, config))))
    }

    /// Gets another process's token, or else the lease.
    ///
    /// Each iteration is one lookup, which is also one try for the lock. A usable entry ends the loop, and so does
    /// the lock. An entry that is of no use may be overwritten, and the next iteration ignores it. While another
    /// process holds the lock, this one polls, until `max_wait` has passed. Then it fetches as well, without the lock.
    async fn share(&self, seal: &Seal, replaces: Option<&AccessToken>) -> Result<Shared, RedisFailure> {
        let mut deadline = Instant::now() + self.time_limit;
        let store = Store::new(&self.redis, &self.config, seal.name())?;
        let mut lease = Lease::new(store, self.time_limit);
        let mut useless = 0;
        // Logged last, because a fetch logs at most one warning, and a failure is more serious.
        let mut warning = None;
        let mut waiting = None;
        loop {
            let asked = Moment::now();
            let (lookup, redis_now) = lease.acquire(deadline).await?;
            match lookup {
                Lookup::Hit { entry, time_to_live } => {
                    let unsealed = seal.open(&entry).ok_or(telemetry::sharing::entry_damaged as Warning);
                    let token = unsealed.and_then(|unsealed| {
                        let remaining = remaining(&unsealed, time_to_live, redis_now);
                        let remaining = remaining.ok_or(telemetry::sharing::clock_jumped_back as Warning)?;
                        Ok(adopt(&unsealed, remaining, asked, replaces))
                    });
                    match token {
                        Ok(Some(token)) => {
                            telemetry::sharing::adopted();
                            return Ok(Shared::Token(token));
                        }
                        Ok(None) => {}
                        Err(reason) => warning = Some(reason),
                    }
                    useless += 1;
                    if useless == MAX_USELESS_ENTRIES {
                        return Err(RedisFailure::new(Step::Acquire, Reason::UselessEntries));
                    }
                    lease.overwrite(entry);
                }
                Lookup::Acquired => {
                    lease.warn_on_release(warning);
                    telemetry::sharing::fetched();
                    return Ok(Shared::Fetch(lease));
                }
                Lookup::Busy => {
                    let wait = waiting.get_or_insert_with(telemetry::sharing::LeaseWait::start);
                    let give_up = wait.since + self.max_wait();
                    if Instant::now() >= give_up {
                        lease.warn_on_release(warning);
                        telemetry::sharing::outwaited();
                        return Ok(Shared::Fetch(lease));
                    }
                    sleep_until(give_up.min(Instant::now() + poll_interval(fastrand::f64()))).await;
                    // This iteration waited for another process's fetch, which is not a delay by Redis.
                    deadline += asked.monotonic.elapsed();
                }
            }
        }
    }

    /// The longest wait for other processes: as long as a fetch may take, if that leaves time for another.
    fn max_wait(&self) -> Duration {
        let fetch = self.endpoint.request_timeout;
        let time_left = MAX_FETCH_TIME.saturating_sub(self.time_limit + fetch);
        time_left.min(fetch + GRACE)
    }
}

#[async_trait]
impl TokenSource for SharedSource {
    async fn fetch(&self, replaces: Option<&AccessToken>) -> Result<AccessToken, Error> {
        // Read once, so that the request and the seal belong to the same project.
        let credentials = self.endpoint.credentials.credentials().await?;
        let seal = Seal::new(&self.prefix, &credentials, &self.endpoint.token_url);
        let mut lease = match self.share(&seal, replaces).await {
            Ok(Shared::Token(token)) => return Ok(token),
            Ok(Shared::Fetch(lease)) => lease,
            Err(failure) => {
                telemetry::sharing::bypassed(failure.step.name(), failure.reason.label(), &failure.reason);
                return self.endpoint.request(&credentials).await;
            }
        };
        let token = lease.keep_during(self.endpoint.request(&credentials)).await?;
        lease.publish(&token, &seal);
        Ok(token)
    }
}

/// The remaining lifetime of an entry by Redis's clock. `None` if that is more than the whole lifetime: the clock has
/// jumped back, as when a replica with a slow clock is promoted, and the token may have expired.
fn remaining(entry: &Unsealed, time_to_live: Duration, redis_now: Duration) -> Option<Duration> {
    let by_clock = entry.expires_at.saturating_sub(redis_now);
    (by_clock <= entry.lifetime + CLOCK_TOLERANCE).then(|| by_clock.min(time_to_live))
}

/// The token of an entry, if it is usable and newer than the one to be replaced. `remaining` is its remaining lifetime
/// by Redis's clock when the reply was made; it counts from `asked`, before the request was sent.
///
/// If a process could not publish its new token, the entry may hold the token that the API refused. That one is older,
/// so it expires sooner.
fn adopt(
    unsealed: &Unsealed,
    remaining: Duration,
    asked: Moment,
    replaces: Option<&AccessToken>,
) -> Option<AccessToken> {
    let lifetime = unsealed.lifetime;
    let age = lifetime.saturating_sub(remaining);
    let token = AccessToken::aged_at(asked, &unsealed.token, age, lifetime).ok()?;
    let now = Moment::now();
    let usable = token.remaining_at(now) > expiry_margin(lifetime);
    let newer = replaces.is_none_or(|old| !old.is(&token) && old.remaining_at(now) < token.remaining_at(now));
    (usable && newer).then_some(token)
}

/// The poll interval: 100 ms ± 50 %, so that waiting processes do not poll in step. `random` lies in [0, 1).
fn poll_interval(random: f64) -> Duration {
    Duration::from_millis(100).mul_f64(0.5 + random)
}

/// The connection settings of a URL, without the `CLIENT SETINFO` that the crate redis sends by default. The user might
/// not be allowed to send it, and it is one more command to wait for.
fn parse(url: &str) -> Result<ConnectionInfo, Error> {
    let over_tls = ["rediss:", "valkeys:"].iter().any(|scheme| url.starts_with(scheme));
    let fragment = url.split_once('#').map(|(_, fragment)| fragment);
    // The crate's own error might quote the URL, which may contain a password.
    let info = url.into_connection_info().map_err(|_| {
        Error::configuration(match fragment {
            Some(fragment) if fragment != "insecure" => {
                "the redis_url has a fragment other than #insecure: a # in the password has to be percent-encoded, as %23"
            }
            _ if over_tls => {
                "the redis_url cannot be used: rediss:// needs a TLS feature of the crate redis, such as \
                 tokio-rustls-comp; otherwise it should look like rediss://user:password@host:6379"
            }
            _ => {
                "the redis_url cannot be parsed: it should look like rediss://user:password@host:6379, with special \
                 characters in the password percent-encoded"
            }
        })
    })?;
    let settings = info.redis_settings().clone().set_skip_set_lib_name();
    Ok(info.set_redis_settings(settings))
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
    redis: Redis,
    prefix: String,
    time_limit: Option<Duration>,
}

/// The Redis that the user chose.
enum Redis {
    Url(SecretString),
    Client(Box<(Client, AsyncConnectionConfig)>),
}

impl SharedSourceBuilder {
    fn new(endpoint: TokenEndpoint, redis: Redis) -> Self {
        Self {
            endpoint,
            redis,
            prefix: DEFAULT_PREFIX.to_owned(),
            time_limit: None,
        }
    }

    /// The prefix of all keys in Redis. Defaults to `osdatahub-auth`.
    ///
    /// Processes share a token only if they have the same prefix. Projects do not need different ones: they never
    /// share.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// The time limit for Redis in one fetch, connecting included; 5 s at most. Defaults to 250 ms, and to 1 s over TLS.
    ///
    /// After that the process asks the token endpoint without Redis. Waiting for another process's fetch does not
    /// count.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = Some(limit);
        self
    }

    /// Builds the source. Sends nothing yet.
    ///
    /// # Errors
    /// [`Configuration`](crate::ErrorKind::Configuration) if the Redis URL cannot be parsed, or is `rediss://` and the
    /// crate [`redis`](https://docs.rs/redis) has no TLS compiled in. Also if the prefix is empty, or if the time limit is
    /// zero or above 5 s.
    /// The time limit and the endpoint's `request_timeout` together may not exceed 30 s, the limit of any fetch.
    pub fn build(self) -> Result<SharedSource, Error> {
        let (redis, config) = match self.redis {
            Redis::Url(url) => (parse(url.expose_secret())?, AsyncConnectionConfig::new()),
            Redis::Client(chosen) => (chosen.0.get_connection_info().clone(), chosen.1),
        };
        let over_tls = matches!(redis.addr(), ConnectionAddr::TcpTls { .. });
        let time_limit = self.time_limit.unwrap_or(if over_tls {
            DEFAULT_TLS_TIME_LIMIT
        } else {
            DEFAULT_TIME_LIMIT
        });
        Error::ensure(!self.prefix.is_empty(), "the prefix of the keys in Redis is empty")?;
        Error::ensure(
            !time_limit.is_zero() && time_limit <= MAX_TIME_LIMIT,
            "the time_limit for Redis has to be more than zero and 5 s at most",
        )?;
        Error::ensure(
            time_limit + self.endpoint.request_timeout <= MAX_FETCH_TIME,
            "the time_limit for Redis and the endpoint's request_timeout must not exceed 30 s in total",
        )?;
        Ok(SharedSource {
            endpoint: self.endpoint,
            redis,
            // The store has a deadline for each step.
            config: config.set_connection_timeout(None).set_response_timeout(None),
            prefix: self.prefix,
            time_limit,
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

    /// An entry that another process sealed at the start of its token's lifetime.
    fn entry(token: &str) -> Unsealed {
        Unsealed {
            token: token.to_owned().into(),
            lifetime: LIFE,
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

    #[test]
    fn an_entry_with_more_left_than_its_life_is_of_a_clock_that_jumped_back() {
        let redis_now = SECOND * 10_000;
        let remaining = |expires_at| {
            let entry = Unsealed {
                expires_at,
                ..entry("t")
            };
            remaining(&entry, SECOND * 200, redis_now)
        };
        assert_eq!(remaining(redis_now + SECOND * 100), Some(SECOND * 100));
        assert_eq!(remaining(redis_now + SECOND * 250), Some(SECOND * 200));
        assert_eq!(remaining(SECOND * 9_999), Some(Duration::ZERO));
        let latest = redis_now + LIFE + CLOCK_TOLERANCE;
        assert_eq!(remaining(latest), Some(SECOND * 200));
        assert_eq!(remaining(latest + Duration::from_nanos(1)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_no_manager_would_hand_out_is_not_adopted() {
        // The expiry margin of 299 s is 9.97 s.
        assert!(adopt(&entry("t"), expiry_margin(LIFE), Moment::now(), None).is_none());
        let above = expiry_margin(LIFE) + Duration::from_nanos(1);
        assert!(adopt(&entry("t"), above, Moment::now(), None).is_some());
        assert!(adopt(&entry("t"), SECOND * 10, Moment::now(), None).is_some());
        for left in [Duration::from_millis(9_900), SECOND, Duration::ZERO] {
            assert!(adopt(&entry("t"), left, Moment::now(), None).is_none());
        }
        assert!(adopt(&entry("no token"), LIFE, Moment::now(), None).is_none());
        // The reply itself may have taken too long.
        let asked = Moment::now();
        advance(SECOND).await;
        assert!(adopt(&entry("t"), SECOND * 10, asked, None).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn an_adopted_token_keeps_the_windows_of_its_whole_life() {
        let token = adopt(&entry("t"), SECOND * 100, Moment::now(), None).unwrap();
        assert_eq!((token.lifetime(), token.age_at_start()), (LIFE, SECOND * 199));
        let left_at = |age: Duration| Moment::now().until(token.time_at_age(age));
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
        // The same token, whatever its lifetime.
        assert!(adopted(held("t", SECOND * 50)).is_none());
    }

    #[test]
    fn those_who_wait_do_not_ask_in_step() {
        assert_eq!(poll_interval(0.0), Duration::from_millis(50));
        assert_eq!(poll_interval(1.0), Duration::from_millis(150));
    }

    #[test]
    fn waiting_for_others_leaves_time_for_an_attempt_of_ones_own() {
        for (request_timeout, max_wait) in [(5, 6), (10, 11), (20, 5), (25, 0)] {
            let credentials = crate::credentials::ProjectCredentials::new("key", "secret").unwrap();
            let endpoint = TokenEndpoint::builder(credentials)
                .request_timeout(SECOND * request_timeout)
                .build()
                .unwrap();
            let source = SharedSource::builder(endpoint, "redis://host")
                .time_limit(SECOND * 5)
                .build()
                .unwrap();
            assert_eq!(source.max_wait(), SECOND * max_wait);
        }
    }
}
