//! The lease: the right of one process to fetch a token for all.

use std::{mem, time::Duration};

use tokio::{runtime::Handle, time::timeout};
use tracing::{Instrument, Span};

use super::seal::Seal;
use super::store::{Lookup, RedisFailure, Store};
use crate::{clock::Moment, telemetry, token::AccessToken};

/// The limit for the release. Longer than the limit for a lookup, as no caller waits for it. By default the lock
/// expires at about this time anyway.
const MAX_RELEASE_TIME: Duration = Duration::from_secs(5);

/// Guard for one fetch, with or without the lock. On drop, a task publishes the token and releases the lock, so the
/// caller does not wait for that.
pub(super) struct Lease {
    store: Store,
    /// The entry that is of no use and may be overwritten; empty for none.
    known: Vec<u8>,
    /// Also true if the reply was lost, since Redis may have given us the lock.
    may_hold_lock: bool,
    /// Redis's clock, and ours when that reading arrived.
    clocks: Option<(Duration, Moment)>,
    /// The entry to publish, and when it expires by Redis's clock.
    new: Option<(Vec<u8>, Duration)>,
}

impl Lease {
    pub(super) fn new(store: Store) -> Self {
        Self {
            store,
            known: Vec::new(),
            may_hold_lock: false,
            clocks: None,
            new: None,
        }
    }

    /// Looks up an entry, or else tries the lock. Returns Redis's clock as well.
    pub(super) async fn acquire(&mut self, ttl: Duration) -> Result<(Lookup, Duration), RedisFailure> {
        self.may_hold_lock = true;
        let (lookup, redis_now) = self.store.acquire(&self.known, ttl).await?;
        self.may_hold_lock = matches!(lookup, Lookup::Acquired);
        self.clocks = Some((redis_now, Moment::now()));
        Ok((lookup, redis_now))
    }

    /// Allows this entry to be overwritten.
    pub(super) fn overwrite(&mut self, entry: Vec<u8>) {
        self.known = entry;
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
        let (store, known) = (self.store.clone(), mem::take(&mut self.known));
        let release = async move {
            let shares = new.is_some();
            let released = timeout(MAX_RELEASE_TIME, store.release(&known, new)).await;
            telemetry::sharing::released(shares, released.unwrap_or(Err(RedisFailure::TooSlow)));
        };
        runtime.spawn(release.instrument(Span::current()));
    }
}
