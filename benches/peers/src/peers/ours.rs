//! `osdatahub-auth`, without its middleware, as the peers are without theirs.

use http::{HeaderMap, header::AUTHORIZATION};
use osdatahub_auth::{ProjectCredentials, TokenEndpoint, TokenManager};

use super::{Failure, KEY, Peer, SECRET};
use crate::endpoint::Endpoint;

/// A manager that nobody keeps warm: it renews because it is asked.
pub struct Ours(TokenManager);

impl Peer for Ours {
    const NAME: &'static str = "osdatahub-auth";
    const RULE: &'static str = "in the background once 75–85 % of the life has passed; handed out until 10 s before \
                                the end; failed attempts back off from 1 s to a twentieth of the life \
                                (`src/schedule.rs`)";

    async fn start(endpoint: &Endpoint) -> Result<Self, Failure> {
        let source = TokenEndpoint::builder(ProjectCredentials::new(KEY, SECRET)?)
            .token_url(endpoint.url().parse()?)
            .build()?;
        Ok(Self(TokenManager::builder(source).build()?))
    }

    async fn authorize(&self, headers: &mut HeaderMap) -> Result<(), Failure> {
        headers.insert(AUTHORIZATION, self.0.token().await?.header_value());
        Ok(())
    }
}
