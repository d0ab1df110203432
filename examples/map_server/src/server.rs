//! The server's state and routes.

use std::sync::Arc;

use axum::{Router, middleware, routing::get};
use osdatahub_auth::{BearerAuth, FakeDataHub, TokenEndpoint, TokenManager};
use reqwest::Url;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};

use crate::{page, probe::Probe, rate_limit::RateLimit, token};

/// Quota of a client: far more than a page needs, and enough for a dozen pages behind one address.
const TOKENS_PER_MINUTE: u32 = 30;

/// State of the server.
#[derive(Debug)]
pub struct MapServer {
    pub(crate) tokens: TokenManager,
    pub(crate) rate_limit: RateLimit,
    pub(crate) probe: Arc<Probe>,
    /// Origin of the tiles, and the only one that the page may send the token to.
    pub(crate) api: String,
    /// URL template of overlay tiles, with `{z}/{x}/{y}`; they get no token. Empty for no overlay.
    pub(crate) overlay: String,
}

impl MapServer {
    /// Server for these tokens. `os` is a client with their `BearerAuth`, and `api` is the origin of OS's APIs.
    #[must_use]
    pub fn new(tokens: TokenManager, os: ClientWithMiddleware, api: &Url) -> Self {
        let api = api.origin().ascii_serialization();
        Self {
            tokens,
            rate_limit: RateLimit::new(TOKENS_PER_MINUTE),
            probe: Arc::new(Probe::new(os, &api)),
            api,
            overlay: String::new(),
        }
    }

    /// Server for a fake Data Hub.
    ///
    /// # Errors
    ///
    /// If a client cannot be built.
    pub fn of_fake(hub: &FakeDataHub) -> Result<Self, Box<dyn std::error::Error>> {
        let endpoint = TokenEndpoint::builder(hub.credentials())
            .token_url(hub.token_url())
            .build()?;
        let tokens = TokenManager::builder(endpoint).build()?;
        let os = ClientBuilder::new(hub.client_builder().build()?)
            .with(BearerAuth::new(tokens.clone()).with_origin(hub.origin())?)
            .build();
        Ok(Self::new(tokens, os, &hub.origin()))
    }

    /// Sets the URL template of tiles to show over the map. They are requested without the token. Defaults to none.
    #[must_use]
    pub fn with_overlay(mut self, tiles: &str) -> Self {
        tiles.clone_into(&mut self.overlay);
        self
    }

    /// Router of all routes, for [`listener::serve`](crate::listener::serve).
    pub fn router(self) -> Router {
        let server = Arc::new(self);
        let headers = middleware::map_response_with_state(Arc::clone(&server), page::security_headers);
        page::routes()
            .route("/token", get(token::token))
            .layer(headers)
            .with_state(server)
    }
}
