//! `huskarl`: its `HttpAuthorizer` over its cache and its client-credentials grant.

use std::time::Duration;

use http::{HeaderMap, Method, Uri};
use huskarl::{
    authorizer::HttpAuthorizer,
    cache::{GrantTokenSource, InMemoryRefreshTokenStore, InMemoryTokenCache},
    core::{
        client_auth::ClientSecret,
        secrets::{ProvidedSecret, SecretString},
    },
    grant::client_credentials::{ClientCredentialsGrant, ClientCredentialsGrantParameters},
};
use huskarl_reqwest::ReqwestClient;

use super::{Failure, KEY, Peer, SECRET};
use crate::endpoint::Endpoint;

/// Authorizer, cache and grant, combined as in its guide.
pub struct Huskarl {
    authorizer: HttpAuthorizer,
    uri: Uri,
}

impl Peer for Huskarl {
    const NAME: &'static str = "huskarl";
    const RULE: &'static str = "By one elected caller, which waits, once less than 30 s plus a jitter of up to a \
                                tenth of the lifetime is left. With less than 30 s left every caller waits, one \
                                after another (`cache/in_memory.rs`).";

    async fn start(endpoint: &Endpoint) -> Result<Self, Failure> {
        // The settings of its example.
        let http_client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(30))
            .build()?;
        let grant = ClientCredentialsGrant::builder()
            .client_id(KEY)
            .client_auth(ClientSecret::new(ProvidedSecret::new(SecretString::new(SECRET))))
            .token_endpoint(endpoint.url().parse()?)
            .http_client(ReqwestClient::from(http_client))
            .build();
        let source = GrantTokenSource::builder()
            .grant(grant)
            .grant_parameters(ClientCredentialsGrantParameters::builder().build())
            .refresh_store(InMemoryRefreshTokenStore::default())
            .build();
        let cache = InMemoryTokenCache::builder().source(source).build();
        Ok(Self {
            authorizer: HttpAuthorizer::builder().cache(cache).build(),
            uri: Uri::from_static("https://api.os.uk/search/names/v1/find"),
        })
    }

    async fn authorize(&self, headers: &mut HeaderMap) -> Result<(), Failure> {
        headers.extend(self.authorizer.get_headers(&Method::GET, &self.uri).await?);
        Ok(())
    }
}
