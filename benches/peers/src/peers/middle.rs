//! `middle`: its `ClientCredentialAuthorizer`.

use std::sync::Arc;

use http::{HeaderMap, header::AUTHORIZATION};
use middle::{Authorizer, BasicClientCredentialAuthorizer};

use super::{Failure, KEY, Peer, SECRET};
use crate::endpoint::Endpoint;

/// Authorizer, with the header inserted as in its own client.
pub struct Middle(BasicClientCredentialAuthorizer);

impl Peer for Middle {
    const NAME: &'static str = "middle";
    const RULE: &'static str = "By a timer 30 s before expiry, with 3 quick retries. After that it tries again at \
                                half of the remaining lifetime, at most once a second. After expiry it tries every \
                                30 s (`client_credentials.rs`).";

    async fn start(endpoint: &Endpoint) -> Result<Self, Failure> {
        let url = url::Url::parse(&endpoint.url())?;
        let authorizer = BasicClientCredentialAuthorizer::basic_builder(KEY, SECRET, url)
            .build()
            .await?;
        Ok(Self(authorizer))
    }

    async fn authorize(&self, headers: &mut HeaderMap) -> Result<(), Failure> {
        let header = self.0.authorization_header()?;
        headers.insert(AUTHORIZATION, Arc::unwrap_or_clone(header));
        Ok(())
    }
}
