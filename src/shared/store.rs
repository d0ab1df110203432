//! The connection to Redis for one fetch, and its three scripts. Each script is one atomic step.

use std::time::Duration;

use chacha20poly1305::{XNonce, aead::Generate};
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, FromRedisValue, RedisError, ToRedisArgs, aio::MultiplexedConnection,
};

use super::seal::millis;

/// Far above any token that fits into a request's header.
const MAX_ENTRY_BYTES: usize = 64 * 1024;

const ACQUIRE: &str = include_str!("acquire.lua");
const RENEW: &str = include_str!("renew.lua");
const RELEASE: &str = include_str!("release.lua");

/// The reason why Redis did not help. It repeats nothing that Redis sent, except for a word that has the form of
/// an error code.
#[derive(Debug, thiserror::Error)]
pub(super) enum RedisFailure {
    #[error("Redis did not answer within the time_limit")]
    TooSlow,
    #[error("Redis does not accept the user or the password of the redis_url")]
    Unauthorised,
    #[error("Redis answered {0}")]
    Refused(String),
    #[error("no connection to Redis: {0}")]
    Unreachable(RedisError),
    #[error("Redis sent no answer that can be understood ({0:?})")]
    Malformed(ErrorKind),
    #[error("Redis answers with one entry after another that is of no use")]
    UselessEntries,
    #[error("the system has no random numbers")]
    NoRandomness,
    #[error("the crate redis panicked: see its panic message")]
    Panicked,
}

impl From<RedisError> for RedisFailure {
    fn from(error: RedisError) -> Self {
        match (error.kind(), error.code()) {
            (ErrorKind::AuthenticationFailed, _) => Self::Unauthorised,
            (ErrorKind::Io, _) => Self::Unreachable(error),
            (_, Some(code)) if is_code(code) => Self::Refused(code.to_owned()),
            (kind, _) => Self::Malformed(kind),
        }
    }
}

/// Whether it has the form of `OOM` or `READONLY`, and so cannot be a secret.
fn is_code(text: &str) -> bool {
    text.len() <= 16 && text.bytes().all(|byte| byte.is_ascii_uppercase())
}

/// The result of looking up the entry and trying the lock.
#[derive(Debug)]
pub(super) enum Lookup {
    /// There is an entry.
    Hit { entry: Vec<u8>, time_to_live: Duration },
    /// There is none, and this process holds the lock now.
    Acquired,
    /// There is none, and another process holds the lock.
    Busy,
}

/// The keys of one fetch, and its connection.
///
/// Fetches are minutes apart. A connection that was kept may be dead: Redis may have restarted, or the tokio runtime
/// that owned it may have shut down. Each process would pay for that with a POST.
#[derive(Clone)]
pub(super) struct Store {
    client: Client,
    /// `None` before the first use, and after a script that failed or was cut off. A server may still be sending on
    /// that connection, without end.
    connection: Option<MultiplexedConnection>,
    entry_key: String,
    lock_key: String,
    /// Random, so that a process releases its own lock alone. From the system, because processes that were forked or
    /// restored from one snapshot share the state of any other generator.
    owner: XNonce,
}

impl Store {
    pub(super) fn new(client: &Client, name: &str) -> Result<Self, RedisFailure> {
        Ok(Self {
            client: client.clone(),
            connection: None,
            entry_key: format!("{name}:token"),
            lock_key: format!("{name}:lock"),
            owner: XNonce::try_generate().map_err(|_| RedisFailure::NoRandomness)?,
        })
    }

    /// Looks up an entry other than `known`, or else tries the lock. Returns Redis's own clock as well, as the time
    /// since 1970.
    pub(super) async fn acquire(
        &mut self,
        known: &[u8],
        lease_ttl: Duration,
    ) -> Result<(Lookup, Duration), RedisFailure> {
        let (now, taken, entry, time_to_live): (u64, bool, Option<Vec<u8>>, i64) =
            self.run(ACQUIRE, (known, millis(lease_ttl), MAX_ENTRY_BYTES)).await?;
        let lookup = match entry {
            Some(entry) => Lookup::Hit {
                entry,
                // Redis rounds up. It sends a negative number for an entry without an expiry.
                time_to_live: Duration::from_millis(u64::try_from(time_to_live.saturating_sub(1)).unwrap_or(0)),
            },
            None if taken => Lookup::Acquired,
            None => Lookup::Busy,
        };
        Ok((lookup, Duration::from_millis(now)))
    }

    /// Renews the lease. False if the lock is not ours any more.
    pub(super) async fn renew(&mut self, lease_ttl: Duration) -> Result<bool, RedisFailure> {
        self.run(RENEW, millis(lease_ttl)).await
    }

    /// Writes a new entry, if there is one, which expires at this time of Redis's clock. Then releases the lock.
    pub(super) async fn release(
        &mut self,
        known: &[u8],
        new: Option<&(Vec<u8>, Duration)>,
    ) -> Result<(), RedisFailure> {
        let (entry, expires_at) = new.map_or((&[][..], Duration::ZERO), |(entry, at)| (entry, *at));
        self.run(RELEASE, (known, entry, millis(expires_at))).await
    }

    /// Runs a script, and repeats it once over a new connection if the connection broke. Each script may run twice: an
    /// owner recognises its own lock.
    ///
    /// Sends the script's text each time. Refreshes are rare, and a cache of scripts may be empty.
    async fn run<T: FromRedisValue>(&mut self, script: &str, args: impl ToRedisArgs) -> Result<T, RedisFailure> {
        let mut command = redis::cmd("EVAL");
        command.arg(script).arg(2).arg(&self.entry_key).arg(&self.lock_key);
        command.arg(&self.owner[..]).arg(args);
        let mut repeated = false;
        loop {
            // Taken, so that it is dropped if the script fails or this future is.
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            match command.query_async(&mut connection).await {
                Ok(reply) => {
                    self.connection = Some(connection);
                    return Ok(reply);
                }
                Err(error) if error.is_io_error() && !repeated => repeated = true,
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn connect(&self) -> Result<MultiplexedConnection, RedisFailure> {
        // The caller has a time limit for all of it.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        Ok(self
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await?)
    }
}
