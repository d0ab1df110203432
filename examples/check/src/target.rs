//! Target of the check: OS, or a fake Data Hub.

use std::{env, error::Error, time::Duration};

use osdatahub_auth::{BearerAuth, FakeAnswer, FakeDataHub, ProjectCredentials, TokenEndpoint, TokenManager};
use reqwest::{ClientBuilder, Url, redirect::Policy};
use reqwest_middleware::ClientWithMiddleware;

pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) origin: Url,
    pub(crate) tokens: TokenManager,
    /// Without the token.
    pub(crate) plain: reqwest::Client,
    pub(crate) client: ClientWithMiddleware,
    /// Runs until it is dropped.
    pub(crate) fake: Option<FakeDataHub>,
}

impl Target {
    /// OS with the credentials of the environment. Without any, a fake.
    pub(crate) async fn choose() -> Result<Self, Box<dyn Error>> {
        if ["OS_PROJECT_API_KEY", "OS_PROJECT_API_SECRET"]
            .iter()
            .all(|name| env::var_os(name).is_none())
        {
            return Self::fake().await;
        }
        let tokens = TokenManager::new(ProjectCredentials::from_env()?)?;
        let origin = Url::parse("https://api.os.uk")?;
        Self::new("OS", origin, tokens, reqwest::Client::builder(), None)
    }

    /// A fake with one API outside the project and one at its limit, so that each kind of row is seen.
    pub(crate) async fn fake() -> Result<Self, Box<dyn Error>> {
        let hub = FakeDataHub::start().await?;
        hub.refuse_under("/search/places/");
        hub.answer_path("/positioning/osnet/v1/rinex", FakeAnswer::rate_limited());
        let endpoint = TokenEndpoint::builder(hub.credentials())
            .token_url(hub.token_url())
            .build()?;
        let tokens = TokenManager::builder(endpoint).build()?;
        let (origin, client) = (hub.origin(), hub.client_builder());
        Self::new("a fake Data Hub", origin, tokens, client, Some(hub))
    }

    fn new(
        name: &'static str,
        origin: Url,
        tokens: TokenManager,
        client: ClientBuilder,
        fake: Option<FakeDataHub>,
    ) -> Result<Self, Box<dyn Error>> {
        // The Downloads API redirects to another host, which is not asked.
        let plain = client
            .redirect(Policy::none())
            .timeout(Duration::from_secs(20))
            .build()?;
        let auth = BearerAuth::new(tokens.clone()).with_origin(origin.clone())?;
        let client = reqwest_middleware::ClientBuilder::new(plain.clone()).with(auth).build();
        Ok(Self {
            name,
            origin,
            tokens,
            plain,
            client,
            fake,
        })
    }
}
