//! `google-cloud-auth`: its user-account credentials, because only these let you set the token endpoint.
//!
//! All its credential types use the same token cache.

use google_cloud_auth::credentials::{CacheableResource, Credentials, user_account};
use http::{Extensions, HeaderMap};
use serde_json::json;

use super::{Failure, KEY, Peer, SECRET};
use crate::endpoint::Endpoint;

/// Credentials, asked without an entity tag, as Google's own clients do.
pub struct Google(Credentials);

impl Peer for Google {
    const NAME: &'static str = "google-cloud-auth";
    const RULE: &'static str = "In the background, by a timer 4 min before expiry, so at 59 s of 299 s. After a \
                                failure it tries again in 10 s. A caller that finds an expired token waits for the \
                                attempt. Every caller gets its error until the next attempt (`token_cache.rs`).";

    async fn start(endpoint: &Endpoint) -> Result<Self, Failure> {
        let user = json!({
            "type": "authorized_user",
            "client_id": KEY,
            "client_secret": SECRET,
            "refresh_token": "refresh",
        });
        let credentials = user_account::Builder::new(user)
            .with_token_uri(endpoint.url())
            .build()?;
        Ok(Self(credentials))
    }

    async fn authorize(&self, headers: &mut HeaderMap) -> Result<(), Failure> {
        match self.0.headers(Extensions::new()).await? {
            CacheableResource::New { data, .. } => headers.extend(data),
            CacheableResource::NotModified => return Err("not modified, although the request had no entity tag".into()),
        }
        Ok(())
    }
}
