//! `aliri_tokens`: its `TokenWatcher` over its own client-credentials source.

use aliri::jwt::Audience;
use aliri_tokens::{
    ClientId, ClientSecret, TokenLifetimeConfig, TokenWatcher,
    backoff::ErrorBackoffConfig,
    jitter::NullJitter,
    sources::oauth2::{
        ClientCredentialsTokenSource,
        dto::{ClientCredentials, ClientCredentialsWithAudience},
    },
};
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};

use super::{Failure, KEY, Peer, SECRET};
use crate::endpoint::Endpoint;

/// Watcher without jitter. Its jitter has no default, and without any it fetches the fewest tokens.
pub struct Aliri(TokenWatcher);

impl Peer for Aliri {
    const NAME: &'static str = "aliri_tokens";
    const RULE: &'static str = "By a timer once 75 % of the lifetime has passed (`tokens.rs`). Failed attempts back \
                                off from 0.1 to 15 s (`backoff.rs`). Readers never check the expiry (`watcher.rs`).";

    async fn start(endpoint: &Endpoint) -> Result<Self, Failure> {
        let credentials = ClientCredentials {
            client_id: ClientId::from_static(KEY),
            client_secret: ClientSecret::from_static(SECRET),
        };
        let source = ClientCredentialsTokenSource::new(
            reqwest_0_12::Client::new(),
            endpoint.url().parse()?,
            ClientCredentialsWithAudience {
                credentials: credentials.into(),
                audience: Audience::from_static("os"),
            },
            TokenLifetimeConfig::default(),
        );
        let backoff = ErrorBackoffConfig::default();
        Ok(Self(
            TokenWatcher::spawn_from_token_source(source, NullJitter, backoff).await?,
        ))
    }

    async fn authorize(&self, headers: &mut HeaderMap) -> Result<(), Failure> {
        let header = format!("Bearer {}", self.0.token().access_token().as_str());
        let mut header = HeaderValue::from_str(&header)?;
        header.set_sensitive(true);
        headers.insert(AUTHORIZATION, header);
        Ok(())
    }
}
