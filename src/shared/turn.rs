//! One process's turn to fetch a token for all.

use std::time::Duration;

use tokio::{runtime::Handle, time::timeout};
use tracing::{Instrument, Span, debug, warn};

use super::session::{Claim, Miss, RedisTime, Session};
use crate::{AccessToken, clock::Moment, seal::Seal};

/// Nobody waits for it, so it may take longer than what a caller would have to wait for. By default the lease then runs
/// out by itself.
const HAND_BACK_LIMIT: Duration = Duration::from_secs(5);

/// From the first question to what is left behind for the others. When it is dropped, however the fetch ended, a task of
/// its own gives the lock back and shares what was brought, so that a token that has come waits for nothing more.
pub(super) struct Turn {
    session: Session,
    /// The entry that is of no use to us; empty for none.
    known: Vec<u8>,
    /// The lock is ours, or Redis may have granted it without our hearing of it.
    may_be_ours: bool,
    /// What Redis's clock and ours last said: the one at the same moment as the other, or a little earlier.
    clocks: Option<(RedisTime, Moment)>,
    brought: Option<(Vec<u8>, RedisTime)>,
}

impl Turn {
    pub(super) fn new(session: Session) -> Self {
        Self {
            session,
            known: Vec::new(),
            may_be_ours: false,
            clocks: None,
            brought: None,
        }
    }

    pub(super) async fn claim(&mut self, lease: Duration) -> Result<(Claim, RedisTime), Miss> {
        self.may_be_ours = true;
        let (claim, there) = self.session.claim(&self.known, lease).await?;
        self.may_be_ours = matches!(claim, Claim::Granted);
        self.clocks = Some((there, Moment::now()));
        Ok((claim, there))
    }

    /// This entry is of no use, and may be replaced.
    pub(super) fn overwrites(&mut self, entry: Vec<u8>) {
        self.known = entry;
    }

    /// The token that the others are to get. It expires there when it expires here, however late it arrives, and
    /// whatever the two wall clocks say.
    pub(super) fn bring(&mut self, token: &AccessToken, seal: &Seal) {
        self.brought = self.clocks.and_then(|(there, here)| {
            let expires_at = there + token.remaining_at(here);
            Some((seal.seal(token, expires_at)?, expires_at))
        });
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let brought = self.brought.take();
        if brought.is_none() && !self.may_be_ours {
            return;
        }
        // Without a runtime the lease runs out by itself.
        let Ok(runtime) = Handle::try_current() else { return };
        let (session, known) = (self.session.clone(), std::mem::take(&mut self.known));
        let hand_back = async move {
            let shares = brought.is_some();
            let done = timeout(HAND_BACK_LIMIT, session.hand_back(&known, brought)).await;
            match done.unwrap_or(Err(Miss::TooSlow)) {
                Ok(()) => debug!(shares, "lock handed back to Redis"),
                Err(reason) if shares => warn!(%reason, "the new access token could not be shared through Redis"),
                Err(reason) => debug!(%reason, "a lock could not be handed back to Redis"),
            }
        };
        runtime.spawn(hand_back.instrument(Span::current()));
    }
}
