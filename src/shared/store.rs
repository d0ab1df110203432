//! The connection to Redis for one fetch, and its three scripts. Each script is one atomic step.

use std::{panic::AssertUnwindSafe, time::Duration};

use chacha20poly1305::{XNonce, aead::Generate};
use futures_util::FutureExt;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, ConnectionInfo, FromRedisValue, RedisResult, ToRedisArgs};
use tokio::time::{Instant, timeout_at};

use super::failure::{Reason, RedisFailure, Step};
use super::redirection::Redirection;
use super::seal::millis;

/// Far above any token that fits into a request's header.
const MAX_ENTRY_BYTES: usize = 64 * 1024;

const ACQUIRE: &str = include_str!("acquire.lua");
const RENEW: &str = include_str!("renew.lua");
const RELEASE: &str = include_str!("release.lua");

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
    /// The server that the user named, or the node of its cluster that has the keys.
    node: ConnectionInfo,
    config: AsyncConnectionConfig,
    /// `None` before the first use, and after a script that failed or timed out: the server may go on sending on that
    /// connection without end.
    connection: Option<MultiplexedConnection>,
    entry_key: String,
    lock_key: String,
    /// Random, so that a process releases only its own lock. From the system, because processes that were forked or
    /// restored from one snapshot share the state of any other generator.
    owner: XNonce,
}

impl Store {
    pub(super) fn new(node: &ConnectionInfo, config: &AsyncConnectionConfig, name: &str) -> Result<Self, RedisFailure> {
        Ok(Self {
            node: node.clone(),
            config: config.clone(),
            connection: None,
            entry_key: format!("{name}:token"),
            lock_key: format!("{name}:lock"),
            owner: XNonce::try_generate().map_err(|_| RedisFailure::new(Step::Acquire, Reason::NoRandomness))?,
        })
    }

    /// Looks up an entry other than `known`, or else tries the lock. Returns Redis's own clock as well, as the time
    /// since 1970.
    pub(super) async fn acquire(
        &mut self,
        known: &[u8],
        lease_ttl: Duration,
        deadline: Instant,
    ) -> Result<(Lookup, Duration), RedisFailure> {
        let args = (known, millis(lease_ttl), MAX_ENTRY_BYTES);
        let (now, taken, entry, time_to_live): (u64, bool, Option<Vec<u8>>, i64) =
            self.run(Step::Acquire, ACQUIRE, args, deadline).await?;
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
    pub(super) async fn renew(&mut self, lease_ttl: Duration, deadline: Instant) -> Result<bool, RedisFailure> {
        self.run(Step::Renew, RENEW, millis(lease_ttl), deadline).await
    }

    /// Writes a new entry, if there is one, which expires at this time of Redis's clock. Then releases the lock.
    pub(super) async fn release(
        &mut self,
        known: &[u8],
        new: Option<&(Vec<u8>, Duration)>,
        deadline: Instant,
    ) -> Result<(), RedisFailure> {
        let (step, entry, expires_at) = match new {
            Some((entry, expires_at)) => (Step::Publish, &entry[..], *expires_at),
            None => (Step::Release, &[][..], Duration::ZERO),
        };
        let args = (known, entry, millis(expires_at));
        self.run(step, RELEASE, args, deadline).await
    }

    /// Closes the connection. The next script opens another.
    pub(super) fn disconnect(&mut self) {
        self.connection = None;
    }

    /// Runs a script before the deadline, connecting included.
    ///
    /// Sends the script's text each time. Refreshes are rare, and a cache of scripts may be empty.
    async fn run<T: FromRedisValue>(
        &mut self,
        step: Step,
        script: &str,
        args: impl ToRedisArgs,
        deadline: Instant,
    ) -> Result<T, RedisFailure> {
        let mut command = redis::cmd("EVAL");
        command.arg(script).arg(2).arg(&self.entry_key).arg(&self.lock_key);
        command.arg(&self.owner[..]).arg(args);
        let mut reached = Step::Connect;
        // The crate redis may panic, above all because of its TLS set-up. Redis must not make a fetch fail.
        let exchange = AssertUnwindSafe(self.exchange(&command, step, &mut reached)).catch_unwind();
        let result = match timeout_at(deadline, exchange).await {
            Ok(Ok(result)) => result.map_err(Reason::from),
            Ok(Err(_panic)) => Err(Reason::Panicked),
            Err(_) => Err(Reason::TooSlow),
        };
        result.map_err(|reason| RedisFailure::new(reached, reason))
    }

    /// Sends a command. Repeats it once over a new connection if the connection broke, except after an `ASK`. Follows one
    /// `MOVED` and one `ASK` of a cluster. Each script may run twice: an owner recognises its own lock.
    async fn exchange<T: FromRedisValue>(&mut self, command: &Cmd, step: Step, reached: &mut Step) -> RedisResult<T> {
        let (mut reconnected, mut moved) = (false, false);
        loop {
            *reached = Step::Connect;
            // Taken, so that it is dropped if the command fails or this future is.
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => connect(&self.node, &self.config).await?,
            };
            *reached = step;
            let error = match command.query_async(&mut connection).await {
                Ok(reply) => {
                    self.connection = Some(connection);
                    return Ok(reply);
                }
                Err(error) => error,
            };
            match Redirection::of(&error, &self.node) {
                Some(Redirection::Moved(node)) if !moved => {
                    moved = true;
                    self.node = node;
                }
                // For this command alone, so the connection to the first node stays.
                Some(Redirection::Ask(node)) => {
                    self.connection = Some(connection);
                    *reached = Step::Connect;
                    let mut connection = connect(&node, &self.config).await?;
                    *reached = step;
                    redis::cmd("ASKING").exec_async(&mut connection).await?;
                    return command.query_async(&mut connection).await;
                }
                _ if error.is_io_error() && !reconnected => reconnected = true,
                _ => return Err(error),
            }
        }
    }
}

async fn connect(node: &ConnectionInfo, config: &AsyncConnectionConfig) -> RedisResult<MultiplexedConnection> {
    let client = Client::open(node.clone())?;
    client.get_multiplexed_async_connection_with_config(config).await
}
