//! One fetch's talk with Redis: two scripts, each of them one step that nobody can come between.

use std::time::Duration;

use chacha20poly1305::{XNonce, aead::Generate};
use redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, RedisError, aio::MultiplexedConnection};

use crate::seal::millis;

/// Far above any token that fits into a request's header.
const LONGEST_ENTRY: usize = 64 * 1024;

/// Looks for an entry other than the one that is known, and takes the lock if there is none.
///
/// KEYS: the entry, the lock. ARGV: the owner, the known entry, the lease in milliseconds, the longest entry.
/// Answers with the time in milliseconds, whether the lock was taken, the entry, and what is left of its life.
const CLAIM: &str = r"
local entry = redis.pcall('GET', KEYS[1])
local failed = type(entry) == 'table'
if failed and not string.find(entry.err, 'WRONGTYPE', 1, true) then
    return entry
end
if failed or (entry and #entry > tonumber(ARGV[4])) then
    redis.call('DEL', KEYS[1])
    return redis.error_reply('GARBAGE in place of an entry, now removed')
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if entry and entry ~= ARGV[2] then
    return {now, 0, entry, redis.call('PTTL', KEYS[1])}
end
local taken = redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[3])
return {now, taken and 1 or 0, false, 0}
";

/// Gives the lock back if it is still ours, and leaves a new entry in place of the known one, but not of any other.
///
/// KEYS: as above. ARGV: the owner, the known entry, the new one or nothing, when that expires in milliseconds.
const HAND_BACK: &str = r"
if redis.call('GET', KEYS[2]) == ARGV[1] then
    redis.call('DEL', KEYS[2])
end
if ARGV[3] ~= '' then
    local entry = redis.call('GET', KEYS[1])
    if not entry or entry == ARGV[2] then
        redis.call('SET', KEYS[1], ARGV[3])
        redis.call('PEXPIREAT', KEYS[1], ARGV[4])
    end
end
";

/// Why Redis was of no help. What it said beyond an error code is never repeated.
#[derive(Debug, thiserror::Error)]
pub(super) enum Miss {
    #[error("Redis did not answer within the time_limit")]
    TooSlow,
    #[error("Redis does not accept the user or the password of the redis_url")]
    Unauthorised,
    #[error("Redis answered {0}")]
    Refused(String),
    #[error("no connection to Redis: {0}")]
    Unreachable(RedisError),
    #[error("Redis sent no answer that can be understood ({0:?})")]
    Nonsense(ErrorKind),
    #[error("the system has no random numbers")]
    NoRandomness,
    #[error("the crate redis panicked: see its panic message")]
    Panicked,
}

impl From<RedisError> for Miss {
    fn from(error: RedisError) -> Self {
        match (error.kind(), error.code()) {
            (ErrorKind::AuthenticationFailed, _) => Self::Unauthorised,
            (ErrorKind::Io, _) => Self::Unreachable(error),
            (_, Some(code)) if is_code(code) => Self::Refused(code.to_owned()),
            (kind, _) => Self::Nonsense(kind),
        }
    }
}

/// `OOM`, `READONLY`, `WRONGPASS`: a word that cannot be a secret.
fn is_code(text: &str) -> bool {
    text.len() <= 16 && text.bytes().all(|byte| byte.is_ascii_uppercase())
}

/// What a process may do.
#[derive(Debug)]
pub(super) enum Claim {
    /// Look at this entry.
    Found { entry: Vec<u8>, time_to_live: Duration },
    /// Fetch: the lock is ours.
    Granted,
    /// Wait: the lock is another's.
    Held,
}

/// What Redis's own clock says: the time since 1970, to the millisecond.
pub(super) type RedisTime = Duration;

/// A connection of one fetch's own. Fetches are minutes apart: a connection that is kept would be found dead when Redis
/// had been restarted, or when its runtime had ended, and each process would pay for that with a token of its own.
#[derive(Clone)]
pub(super) struct Session {
    connection: MultiplexedConnection,
    entry_key: String,
    lock_key: String,
    /// Like no other's.
    owner: Vec<u8>,
}

impl Session {
    pub(super) async fn open(client: &Client, name: &str) -> Result<Self, Miss> {
        let owner = XNonce::try_generate().map_err(|_| Miss::NoRandomness)?;
        // The caller limits the time.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        Ok(Self {
            connection: client.get_multiplexed_async_connection_with_config(&config).await?,
            entry_key: format!("{name}:token"),
            lock_key: format!("{name}:lock"),
            owner: owner.to_vec(),
        })
    }

    /// Finds an entry other than `known`, or else tries to take the lock for the time of `lease`. Tells the time besides.
    pub(super) async fn claim(&mut self, known: &[u8], lease: Duration) -> Result<(Claim, RedisTime), Miss> {
        let (now, taken, entry, time_to_live): (u64, bool, Option<Vec<u8>>, i64) = self
            .script(CLAIM)
            .arg(known)
            .arg(millis(lease))
            .arg(LONGEST_ENTRY)
            .query_async(&mut self.connection)
            .await?;
        let claim = match entry {
            Some(entry) => Claim::Found {
                entry,
                // Negative for an entry that would never end; otherwise Redis rounds up.
                time_to_live: Duration::from_millis(u64::try_from(time_to_live.saturating_sub(1)).unwrap_or(0)),
            },
            None if taken => Claim::Granted,
            None => Claim::Held,
        };
        Ok((claim, RedisTime::from_millis(now)))
    }

    /// Gives the lock back and leaves a new entry, if there is one, with the time when it expires.
    pub(super) async fn hand_back(mut self, known: &[u8], brought: Option<(Vec<u8>, RedisTime)>) -> Result<(), Miss> {
        let (entry, expires_at) = brought.unwrap_or_default();
        self.script(HAND_BACK)
            .arg(known)
            .arg(entry)
            .arg(millis(expires_at))
            .exec_async(&mut self.connection)
            .await?;
        Ok(())
    }

    /// The text itself goes along each time: refreshes are rare, and there is no cache of scripts to be found empty.
    fn script(&self, text: &str) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(text).arg(2).arg(&self.entry_key).arg(&self.lock_key);
        command.arg(&self.owner);
        command
    }
}
