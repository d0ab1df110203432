//! OS's token endpoint: one POST for each token.

pub(crate) mod headers;
pub(crate) mod response;
pub(crate) mod transport;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Once};
use std::{fmt, time::Duration};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::header;
use reqwest::{Client, ClientBuilder, Response, Url, redirect, retry};
use tokio::time::timeout;
use url::Position;

use self::response::Age;
use crate::credentials::{CredentialsProvider, ProjectCredentials};
use crate::error::Error;
use crate::{clock::Moment, origins, schedule::MAX_FETCH_TIME, source::TokenSource, telemetry, token::AccessToken};

/// From [OS's documentation](https://docs.os.uk/os-apis/core-concepts/authentication).
const OS_TOKEN_URL: &str = "https://api.os.uk/oauth2/token/v1";

const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A token normally arrives within this time of being issued, and two clocks of one service do not differ by more.
const MAX_USUAL_AGE: Duration = Duration::from_secs(10);

/// The addresses of the name `localhost` (RFC 6761, section 6.3). The port comes from the URL.
const LOCALHOST: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 0),
];

/// OS's responses are about 200 bytes long.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;

/// The token endpoint of the OS Data Hub: a [`TokenSource`] that sends one `POST /oauth2/token/v1` for each fetch.
///
/// It caches nothing: no token, no credentials and no idle connection. It never follows a redirect, because key and
/// secret are meant for this URL alone.
pub struct TokenEndpoint {
    pub(crate) credentials: Arc<dyn CredentialsProvider>,
    pub(crate) token_url: Url,
    pub(crate) request_timeout: Duration,
    client: Client,
    age_warnings: AgeWarnings,
}

/// WARNs about ages, each logged once, because a wrong clock or a cache shows in every response.
struct AgeWarnings {
    not_new: Once,
    impossible: Once,
}

impl AgeWarnings {
    fn warn_of(&self, age: Age) {
        match age {
            Age::Possible(age) if age <= MAX_USUAL_AGE => {}
            Age::Possible(age) => self.not_new.call_once(|| telemetry::token_not_new(age)),
            Age::Impossible(age) => self.impossible.call_once(|| telemetry::token_age_impossible(age)),
        }
    }
}

impl TokenEndpoint {
    /// Returns a builder for an endpoint that authenticates with these credentials.
    pub fn builder(credentials: impl CredentialsProvider) -> TokenEndpointBuilder {
        TokenEndpointBuilder {
            credentials: Arc::new(credentials),
            token_url: None,
            request_timeout: DEFAULT_REQUEST_TIMEOUT,
            http_client: None,
        }
    }

    pub(crate) async fn request(&self, credentials: &ProjectCredentials) -> Result<AccessToken, Error> {
        ensure_tls(&self.token_url)?;
        let request = self
            .client
            .post(self.token_url.clone())
            .header(header::AUTHORIZATION, credentials.basic_auth()?)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body("grant_type=client_credentials");
        let start = Moment::now();
        let exchange = async {
            let mut response = request.send().await?;
            let body = if response::needs_body(response.status()) {
                read(&mut response).await?
            } else {
                None
            };
            Ok((response, body))
        };
        let host = &self.token_url[Position::BeforeHost..Position::AfterPort];
        let (response, body) = timeout(self.request_timeout, exchange)
            .await
            .map_err(|_| transport::cut_off(host, self.request_timeout))?
            .map_err(|error| transport::failure(&error, host, start.monotonic.elapsed(), self.request_timeout))?;
        let headers = response.headers();
        if !response.status().is_success() {
            let body = body.unwrap_or_default();
            let error = response::failure(response.status(), &body, headers::retry_after(headers));
            return Err(credentials.explain(error));
        }
        let body = body.ok_or_else(response::too_long)?;
        let parsed = response::parse(&body, headers::date(headers), headers::from_cache(headers))?;
        if parsed.without_expires_in {
            telemetry::lifetime_missing(response::DEFAULT_LIFETIME);
        }
        self.age_warnings.warn_of(parsed.age);
        AccessToken::aged_at(start, &parsed.access_token, Duration::ZERO, parsed.lifetime)
    }
}

#[async_trait]
impl TokenSource for TokenEndpoint {
    /// Asks for a new token, whatever it replaces. OS issues a new one every time.
    async fn fetch(&self, _replaces: Option<&AccessToken>) -> Result<AccessToken, Error> {
        self.request(&self.credentials.credentials().await?).await
    }
}

/// Reads the body up to the limit. `None` if it is longer.
async fn read(response: &mut Response) -> reqwest::Result<Option<Bytes>> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MAX_RESPONSE_BYTES {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body.freeze()))
}

impl fmt::Debug for TokenEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A gateway's query may hold a key.
        let without_query = &self.token_url[..Position::AfterPath];
        f.debug_struct("TokenEndpoint")
            .field("token_url", &without_query)
            .field("request_timeout", &self.request_timeout)
            .finish_non_exhaustive()
    }
}

/// Settings of a [`TokenEndpoint`].
#[must_use]
pub struct TokenEndpointBuilder {
    credentials: Arc<dyn CredentialsProvider>,
    token_url: Option<Url>,
    request_timeout: Duration,
    http_client: Option<Box<dyn FnOnce(ClientBuilder) -> ClientBuilder + Send>>,
}

impl TokenEndpointBuilder {
    /// The URL to POST to: https, or http to a loopback address. Loopback is always called without a proxy, and the name
    /// `localhost` is 127.0.0.1 and `::1` whatever a resolver says.
    ///
    /// Defaults to OS's, `https://api.os.uk/oauth2/token/v1`.
    pub fn token_url(mut self, url: Url) -> Self {
        self.token_url = Some(url);
        self
    }

    /// The time limit for one attempt, from connecting to the last byte of the response; 30 s at most. Defaults to 5 s.
    pub fn request_timeout(mut self, limit: Duration) -> Self {
        self.request_timeout = limit;
        self
    }

    /// Changes the HTTP client: for a proxy, root certificates or a resolver of your own. Defaults to no change.
    ///
    /// [`build`](Self::build) calls the closure with the library's builder, which has a user agent and a connect
    /// timeout of two fifths of the `request_timeout`. You can override both. Firewalls refuse requests without a user
    /// agent, so start from the builder that you get.
    ///
    /// Whatever the closure sets, redirects and `reqwest`'s own retries stay off, no connection is kept, the protocol
    /// is HTTP/1.1, and the bytes on the wire are not logged. A loopback `token_url` is called without a proxy. A
    /// pre-built TLS configuration (`tls_backend_preconfigured`) can negotiate HTTP/2 all the same. Then the crate `h2`
    /// logs what the server sends, at DEBUG. A connector layer with its own TLS does not make up for a `reqwest`
    /// without it.
    ///
    /// ```
    /// # fn f(credentials: osdatahub_auth::ProjectCredentials) -> Result<(), Box<dyn std::error::Error>> {
    /// let proxy = reqwest::Proxy::https("http://proxy.internal:3128")?;
    /// let endpoint = osdatahub_auth::TokenEndpoint::builder(credentials)
    ///     .http_client(|client| client.proxy(proxy))
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn http_client(mut self, change: impl FnOnce(ClientBuilder) -> ClientBuilder + Send + 'static) -> Self {
        self.http_client = Some(Box::new(change));
        self
    }

    /// Builds the endpoint. Sends nothing yet.
    ///
    /// # Errors
    /// [`Configuration`](crate::ErrorKind::Configuration) if the token URL is neither https nor loopback, carries user info, or
    /// has a wildcard. Also if `request_timeout` is zero or above 30 s, or if the client cannot be built. Also if the URL
    /// is https and no TLS is compiled in; with an [`http_client`](Self::http_client), the first fetch reports that.
    ///
    /// # Panics
    /// If the `http_client` closure panics. With its feature `rustls-no-provider`, `reqwest` panics unless a crypto
    /// provider is installed or the closure sets a ready TLS configuration. That panic becomes a `Configuration` error,
    /// but not in a build with `panic = "abort"`.
    pub fn build(self) -> Result<TokenEndpoint, Error> {
        let token_url = match self.token_url {
            Some(url) => url,
            None => Url::parse(OS_TOKEN_URL)
                .map_err(|error| Error::configuration("the token_url is not a valid URL").caused_by(error))?,
        };
        Error::ensure(
            token_url.username().is_empty() && token_url.password().is_none(),
            "the token_url must not carry user info: key and secret come from the credentials",
        )?;
        Error::ensure(
            origins::may_carry_secrets(&token_url),
            "the token_url has to be https, or http to a loopback address: key and secret go there",
        )?;
        Error::ensure(
            !origins::has_wildcard(&token_url),
            "the token_url has to name one host, without a wildcard",
        )?;
        Error::ensure(
            !self.request_timeout.is_zero() && self.request_timeout <= MAX_FETCH_TIME,
            "request_timeout has to be more than zero and 30 s at most",
        )?;
        if self.http_client.is_none() {
            ensure_tls(&token_url)?;
        }
        let mut client = ClientBuilder::new()
            .user_agent(USER_AGENT)
            .connect_timeout(transport::connect_limit(self.request_timeout));
        if let Some(change) = self.http_client {
            client = change(client);
        }
        client = client
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .connection_verbose(false)
            // Nothing in HTTP/2 helps a single request, and there a server can send text that ends up in logs.
            .http1_only()
            // Refreshes are minutes apart, so an idle connection would be dead by the next one.
            .pool_max_idle_per_host(0);
        if origins::is_loopback(&token_url) {
            // With HTTP_PROXY set, or with another resolver, key and secret would leave the machine.
            client = client.no_proxy().resolve_to_addrs("localhost", &LOCALHOST);
        }
        Ok(TokenEndpoint {
            credentials: self.credentials,
            token_url,
            request_timeout: self.request_timeout,
            client: build_client(client)?,
            age_warnings: AgeWarnings {
                not_new: Once::new(),
                impossible: Once::new(),
            },
        })
    }
}

impl fmt::Debug for TokenEndpointBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenEndpointBuilder")
            .field("request_timeout", &self.request_timeout)
            .finish_non_exhaustive()
    }
}

/// Builds the client. `reqwest` panics if it has the feature `rustls-no-provider` and finds no provider, but a wrong
/// setting must not take a service down.
fn build_client(client: ClientBuilder) -> Result<Client, Error> {
    let unusable = |why| Error::configuration(format!("the http_client for the token endpoint cannot be built{why}"));
    match catch_unwind(AssertUnwindSafe(|| client.build())) {
        Ok(client) => client.map_err(|error| unusable("").caused_by(error.without_url())),
        Err(_) => Err(unusable(
            ": with reqwest's feature `rustls-no-provider`, install a crypto provider of rustls first",
        )),
    }
}

/// Refuses https in a build without TLS, in which `reqwest` would send the request to a proxy in clear text.
fn ensure_tls(token_url: &Url) -> Result<(), Error> {
    Error::ensure(
        token_url.scheme() != "https" || tls_is_compiled_in(),
        "no TLS is compiled in: turn on the feature `rustls` or `native-tls` of osdatahub-auth or of reqwest",
    )
}

/// Whether `reqwest` has TLS in this build. This crate's features do not show it, because TLS usually comes from the
/// user's own `reqwest`.
///
/// But the compiler knows: `ClientBuilder` has the method `tls_sni` only with TLS, and a type's own method hides that of
/// a trait. So no client is built and no connection is tried to find out, which could panic.
fn tls_is_compiled_in() -> bool {
    trait WithoutTls: Sized {
        #[allow(dead_code, reason = "hidden in a build with TLS")]
        fn tls_sni(self, _enable: bool) {}
    }
    impl WithoutTls for ClientBuilder {}
    size_of_val(&ClientBuilder::new().tls_sni(true)) > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_is_found_without_a_runtime() {
        assert!(tls_is_compiled_in(), "the tests are built with rustls");
    }
}
