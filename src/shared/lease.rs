//! The lease: the right of one process to fetch a token for all.

use std::future::{Future, pending};
use std::{mem, time::Duration};

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};
use tracing::{Instrument, Span};

use super::failure::{Reason, RedisFailure};
use super::seal::Seal;
use super::store::{Lookup, Store};
use crate::{clock::Moment, telemetry, token::AccessToken};

/// The time for which a lock is taken. Short, because the lock of a process that has died holds up the others until it
/// expires. A fetch that takes longer renews its lease.
const LEASE_TTL: Duration = Duration::from_secs(2);

/// Also the time limit of a renewal. Short enough for one renewal to fail without losing the lease: the next one starts
/// after 1.8 s.
const RENEWAL_INTERVAL: Duration = Duration::from_millis(600);

/// Logs why an entry is of no use.
pub(super) type Warning = fn();

/// Guard for one fetch, with or without the lock. On drop, a task publishes the token and releases the lock, so the
/// caller does not wait for that.
pub(super) struct Lease {
    store: Store,
    /// The limit for Redis in one step.
    time_limit: Duration,
    /// The entry that is of no use and may be overwritten; empty for none.
    known: Vec<u8>,
    /// Also true if the reply was lost, since Redis may have given us the lock.
    may_hold_lock: bool,
    /// Redis's clock, and ours when that reading arrived.
    clocks: Option<(Duration, Moment)>,
    /// The entry to publish, and when it expires by Redis's clock.
    new: Option<(Vec<u8>, Duration)>,
    /// About the entry that the new one replaces.
    warning: Option<Warning>,
}

impl Lease {
    pub(super) fn new(store: Store, time_limit: Duration) -> Self {
        Self {
            store,
            time_limit,
            known: Vec::new(),
            may_hold_lock: false,
            clocks: None,
            new: None,
            warning: None,
        }
    }

    /// Looks up an entry, or else tries the lock. Returns Redis's clock as well.
    pub(super) async fn acquire(&mut self, deadline: Instant) -> Result<(Lookup, Duration), RedisFailure> {
        // In case this future is dropped.
        self.may_hold_lock = true;
        let result = self.store.acquire(&self.known, LEASE_TTL, deadline).await;
        self.may_hold_lock = match &result {
            Ok((lookup, _)) => matches!(lookup, Lookup::Acquired),
            Err(failure) => failure.reason.script_may_have_run(),
        };
        let (lookup, redis_now) = result?;
        self.clocks = Some((redis_now, Moment::now()));
        Ok((lookup, redis_now))
    }

    /// Allows this entry to be overwritten.
    pub(super) fn overwrite(&mut self, entry: Vec<u8>) {
        self.known = entry;
    }

    /// Sets a warning to log once the lock is released. If the release fails, its warning is logged instead.
    pub(super) fn warn_on_release(&mut self, warning: Option<Warning>) {
        self.warning = warning;
    }

    /// Runs the fetch, and renews the lease meanwhile. It stops if the lock is lost, or after two failures in a row.
    pub(super) async fn keep_during<T>(&mut self, fetch: impl Future<Output = T>) -> T {
        let renewals = async {
            let mut has_failed = false;
            while self.may_hold_lock {
                sleep(RENEWAL_INTERVAL).await;
                let limit = self.time_limit.min(RENEWAL_INTERVAL);
                match self.store.renew(LEASE_TTL, Instant::now() + limit).await {
                    Ok(true) => has_failed = false,
                    Ok(false) => {
                        self.may_hold_lock = false;
                        telemetry::sharing::lease_lost("it has expired, or another process has the lock");
                    }
                    Err(_) if !has_failed => has_failed = true,
                    Err(failure) => {
                        telemetry::sharing::lease_lost(failure.reason);
                        break;
                    }
                }
            }
            // Without a command in flight, no time limit would end what a server sends.
            self.store.disconnect();
            pending().await
        };
        tokio::select! {
            biased;
            result = fetch => result,
            never = renewals => never,
        }
    }

    /// Sets the token that the drop publishes. Its entry expires with it, however late it arrives and however much the
    /// two wall clocks differ.
    pub(super) fn publish(mut self, token: &AccessToken, seal: &Seal) {
        self.new = self.clocks.and_then(|(redis_then, then)| {
            let expires_at = redis_then + token.remaining_at(then);
            Some((seal.seal(token, expires_at)?, expires_at))
        });
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let new = self.new.take();
        if new.is_none() && !self.may_hold_lock {
            return;
        }
        // Without a runtime the lock expires by itself.
        let Ok(runtime) = Handle::try_current() else { return };
        let (mut store, known, warning) = (self.store.clone(), mem::take(&mut self.known), self.warning);
        let limit = self.time_limit;
        let release = async move {
            let mut released = store.release(&known, new.as_ref(), Instant::now() + limit).await;
            // If one message is lost, the other processes would wait for the lease to expire.
            if matches!(&released, Err(failure) if matches!(failure.reason, Reason::TooSlow)) {
                released = store.release(&known, new.as_ref(), Instant::now() + limit).await;
            }
            if let (Ok(()), Some(warn)) = (&released, warning) {
                warn();
            }
            telemetry::sharing::released(
                new.is_some(),
                released.map_err(|failure| (failure.step.name(), failure.reason)),
            );
        };
        runtime.spawn(release.instrument(Span::current()));
    }
}
