//! `cf-gears-toolkit-auth`: its `TokenProvider`, and the header as its own layer makes it.

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use toolkit_auth::{OAuthClientConfig, SecretString, TokenProvider};

use super::{Failure, KEY, Peer, SECRET};
use crate::endpoint::Endpoint;

/// Plain http needs no leave: that is its default.
pub struct Gears(TokenProvider);

impl Peer for Gears {
    const NAME: &'static str = "cf-gears-toolkit-auth";
    const RULE: &'static str = "in the background, by a timer, at a random moment in the first half of a life of \
                                299 s: at half of it, since the default of 30 min before the end is more than there is \
                                (`source.rs`), less a jitter of up to 5 min or all of that; failed attempts back off \
                                from 10 s to 5 min, once it has expired from 1 to 30 s, and callers then wait for the \
                                next (`token_watcher.rs`)";

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
