//! OS as this service sees it: where it is, the access tokens, and the HTTP client.

use std::{error::Error as StdError, time::Duration};

use osdatahub_auth::{BearerAuth, CredentialsProvider, Error, FakeDataHub, TokenEndpoint, TokenManager};
use reqwest::{Client, ClientBuilder, Url, redirect};

/// Wait of a request while no token is available. A map asks for dozens of tiles at once, and a tile that fails soon is
/// better than a map that hangs.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);

/// Time limit of one attempt, its body included.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// OS's APIs, or a fake in their place.
#[derive(Debug)]
pub struct Os {
    pub(crate) origin: Url,
    pub(crate) auth: BearerAuth,
    pub(crate) http: Client,
    /// The project's tokens.
    pub tokens: TokenManager,
}

impl Os {
    /// OS itself.
    ///
    /// # Errors
    ///
    /// If a client cannot be built.
    pub fn new(credentials: impl CredentialsProvider) -> Result<Self, Box<dyn StdError>> {
        let endpoint = TokenEndpoint::builder(credentials).build()?;
        Self::at("https://api.os.uk".parse()?, endpoint, Client::builder())
    }

    /// A fake Data Hub.
    ///
    /// # Errors
    ///
    /// If a client cannot be built.
    pub fn fake(hub: &FakeDataHub, credentials: impl CredentialsProvider) -> Result<Self, Box<dyn StdError>> {
        let endpoint = TokenEndpoint::builder(credentials).token_url(hub.token_url()).build()?;
        Self::at(hub.origin(), endpoint, hub.client_builder())
    }

    fn at(origin: Url, endpoint: TokenEndpoint, http: ClientBuilder) -> Result<Self, Box<dyn StdError>> {
        let tokens = TokenManager::builder(endpoint)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .build()?;
        let http = http
            .timeout(ATTEMPT_TIMEOUT)
            // The two APIs do not redirect. If one does, the client gets a 502, and not another host's answer.
            .redirect(redirect::Policy::none());
        Ok(Self {
            auth: BearerAuth::new(tokens.clone()).with_origin(origin.clone())?,
            origin,
            http: http.build()?,
            tokens,
        })
    }

    /// Checks the credentials with a first token.
    ///
    /// # Errors
    ///
    /// If the files cannot be read, or OS does not accept what is in them. If OS is down, the service may start: it is
    /// ready as soon as OS is back.
    pub async fn check(&self) -> Result<(), Error> {
        match self.tokens.token().await {
            Err(error) if error.is_transient() => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "no access token yet, so the service is not ready"
                );
                Ok(())
            }
            result => result.map(drop),
        }
    }
}
