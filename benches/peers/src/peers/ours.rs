//! `osdatahub-auth`: its `TokenManager`, without the middleware, as the other crates are measured without theirs.

use http::{HeaderMap, header::AUTHORIZATION};
use osdatahub_auth::{ProjectCredentials, TokenEndpoint, TokenManager};

use super::{Failure, KEY, Peer, SECRET};
use crate::endpoint::Endpoint;

/// Manager without `keep_warm`, so only calls trigger a refresh.
pub struct Ours(TokenManager);

impl Peer for Ours {
    const NAME: &'static str = "osdatahub-auth";
    const RULE: &'static str = "In the background once 75–85 % of the lifetime has passed. The token is served until \
                                10 s before expiry. Failed attempts back off from 1 s to a twentieth of the lifetime \
                                (`src/schedule.rs`).";

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
