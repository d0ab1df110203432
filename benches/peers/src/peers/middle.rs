//! `middle`: its `ClientCredentialAuthorizer`.

use std::sync::Arc;

use http::{HeaderMap, header::AUTHORIZATION};
use middle::{Authorizer, BasicClientCredentialAuthorizer};

use super::{Failure, KEY, Peer, SECRET};
use crate::endpoint::Endpoint;

/// Its header, put in as its own client does.
pub struct Middle(BasicClientCredentialAuthorizer);

impl Peer for Middle {
    const NAME: &'static str = "middle";
    const RULE: &'static str = "by a timer 30 s before the end, with 3 quick retries; after a failure at half of what \
                                is left, at most every second, and every 30 s once it has expired \
                                (`client_credentials.rs`)";

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
