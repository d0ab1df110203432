//! What a refresh is for.

/// Why a new token is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// There is none yet.
    Cold,
    /// It is time to renew it.
    Stale,
    /// It can't be used any more.
    Unusable,
    /// The API refused it.
    Rejected,
    /// Somebody wants one that lasts for longer.
    Forced,
}

impl Reason {
    /// As spans and metrics have it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Stale => "stale",
            Self::Unusable => "unusable",
            Self::Rejected => "rejected",
            Self::Forced => "forced",
        }
    }
}

/// How many refreshes a [`TokenManager`](crate::TokenManager) has begun, by what they were for. Each asks its source
/// once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RefreshTotals {
    /// There was no token yet.
    pub cold: u64,
    /// The token was due to be renewed. In fair weather, all but the first.
    pub stale: u64,
    /// The token could not be used any more: it had not been renewed in time, or nobody had asked for one.
    pub unusable: u64,
    /// The API had refused the token.
    pub rejected: u64,
    /// Somebody wanted a token that lasts for longer, with [`token_lasting`](crate::TokenManager::token_lasting) or
    /// [`hand_out`](crate::TokenManager::hand_out).
    pub forced: u64,
}

impl RefreshTotals {
    pub(super) fn count(&mut self, reason: Reason) {
        let total = match reason {
            Reason::Cold => &mut self.cold,
            Reason::Stale => &mut self.stale,
            Reason::Unusable => &mut self.unusable,
            Reason::Rejected => &mut self.rejected,
            Reason::Forced => &mut self.forced,
        };
        *total += 1;
    }
}
