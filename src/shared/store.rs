//! The connection to Redis for one fetch, and its two scripts. Each script is one atomic step.

use std::time::Duration;

use chacha20poly1305::{XNonce, aead::Generate};
use redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, RedisError, aio::MultiplexedConnection};

use super::seal::millis;

/// Far above any token that fits into a request's header.
const MAX_ENTRY_BYTES: usize = 64 * 1024;

const ACQUIRE: &str = include_str!("acquire.lua");
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

/// A connection for one fetch.
///
/// Fetches are minutes apart. A connection that was kept may be dead: Redis may have restarted, or the tokio runtime
/// that owned it may have shut down. Each process would pay for that with a POST.
#[derive(Clone)]
pub(super) struct Store {
    connection: MultiplexedConnection,
    entry_key: String,
    lock_key: String,
    /// Random, so that a process releases its own lock alone. From the system, because processes that were forked or
    /// restored from one snapshot share the state of any other generator.
    owner: XNonce,
}

impl Store {
    pub(super) async fn open(client: &Client, name: &str) -> Result<Self, RedisFailure> {
        let owner = XNonce::try_generate().map_err(|_| RedisFailure::NoRandomness)?;
        // The caller has a time limit for all of it.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        Ok(Self {
            connection: client.get_multiplexed_async_connection_with_config(&config).await?,
            entry_key: format!("{name}:token"),
            lock_key: format!("{name}:lock"),
            owner,
        })
    }

    /// Looks up an entry other than `known`, or else tries the lock. Returns Redis's own clock as well, as the time
    /// since 1970.
    pub(super) async fn acquire(
        &mut self,
        known: &[u8],
        lease_ttl: Duration,
    ) -> Result<(Lookup, Duration), RedisFailure> {
        let (now, taken, entry, time_to_live): (u64, bool, Option<Vec<u8>>, i64) = self
            .script(ACQUIRE)
            .arg(known)
            .arg(millis(lease_ttl))
            .arg(MAX_ENTRY_BYTES)
            .query_async(&mut self.connection)
            .await?;
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

    /// Releases the lock and writes a new entry, if there is one, which expires at this time of Redis's clock.
    pub(super) async fn release(mut self, known: &[u8], new: Option<(Vec<u8>, Duration)>) -> Result<(), RedisFailure> {
        let (entry, expires_at) = new.unwrap_or_default();
        self.script(RELEASE)
            .arg(known)
            .arg(entry)
            .arg(millis(expires_at))
            .exec_async(&mut self.connection)
            .await?;
        Ok(())
    }

    /// Sends the script's text each time. Refreshes are rare, and a cache of scripts may be empty.
    fn script(&self, text: &str) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(text).arg(2).arg(&self.entry_key).arg(&self.lock_key);
        command.arg(&self.owner[..]);
        command
    }
}
