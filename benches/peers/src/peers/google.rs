//! `google-cloud-auth`: its user-account credentials, which are the ones that let their token endpoint be chosen. All
//! its credentials share one token cache.

use google_cloud_auth::credentials::{CacheableResource, Credentials, user_account};
use http::{Extensions, HeaderMap};
use serde_json::json;

use super::{Failure, KEY, Peer, SECRET};
use crate::endpoint::Endpoint;

/// Asked without an entity tag, as Google's own clients ask.
pub struct Google(Credentials);

impl Peer for Google {
    const NAME: &'static str = "google-cloud-auth";
    const RULE: &'static str = "in the background, by a timer, 4 min before the end, so at 59 s of 299; after a \
                                failure again in 10 s; a caller who finds an expired token waits for what that brings, \
                                and an error is given to everybody until the next (`token_cache.rs`)";

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
            CacheableResource::NotModified => return Err("not modified, though no tag was given".into()),
        }
        Ok(())
    }
}
