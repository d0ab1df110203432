//! `cf-gears-toolkit-auth`: its `TokenProvider`, with the header built as in its own layer.

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use toolkit_auth::{OAuthClientConfig, SecretString, TokenProvider};

use super::{Failure, KEY, Peer, SECRET};
use crate::endpoint::Endpoint;

/// Provider with its default settings, which allow plain http.
pub struct Gears(TokenProvider);

impl Peer for Gears {
    const NAME: &'static str = "cf-gears-toolkit-auth";
    const RULE: &'static str = "In the background, by a timer, at a random moment in the first half of the lifetime. \
                                The default of 30 min before expiry exceeds 299 s, so half of the lifetime is used \
                                instead (`source.rs`). It is brought forward by a jitter of up to 5 min, at most by \
                                that half. Failed attempts back off from 10 s to 5 min. After expiry they back off \
                                from 1 to 30 s, and callers wait for the next attempt (`token_watcher.rs`).";

    async fn start(endpoint: &Endpoint) -> Result<Self, Failure> {
        Ok(Self(TokenProvider::new(OAuthClientConfig {
            token_endpoint: Some(endpoint.url().parse()?),
            client_id: KEY.into(),
            client_secret: SecretString::new(SECRET),
            ..OAuthClientConfig::default()
        })?))
    }

    async fn authorize(&self, headers: &mut HeaderMap) -> Result<(), Failure> {
        let token = self.0.get().await?;
        let mut header = HeaderValue::from_str(&format!("Bearer {}", token.expose()))?;
        header.set_sensitive(true);
        headers.insert(AUTHORIZATION, header);
        Ok(())
    }
}
