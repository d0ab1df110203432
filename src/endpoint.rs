//! OS's token endpoint: one POST, and what came of it.

pub(crate) mod answer;

use std::{
    fmt,
    future::{Future, pending},
    pin::pin,
    sync::Arc,
    task::{Context, Waker},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use reqwest::{Client, ClientBuilder, Response, Url, dns, redirect, retry};
use tokio::time::timeout;
use url::Position;

use crate::{
    AccessToken, CredentialsProvider, Error, ErrorKind, ProjectCredentials, TokenSource, clock::Moment, schedule, scope,
};

/// [OS's documentation](https://docs.os.uk/os-apis/core-concepts/authentication) of it.
const OS_TOKEN_URL: &str = "https://api.os.uk/oauth2/token/v1";

const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// A TCP and TLS handshake that takes longer will not end well, and the next attempt may meet another address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// OS's answers have about 200 bytes.
const LONGEST_ANSWER: usize = 64 * 1024;

/// The token endpoint of the OS Data Hub: a [`TokenSource`] that makes one `POST /oauth2/token/v1` for each fetch.
///
/// It caches nothing: no token, no credentials and no idle connection. Redirects are never followed, since a 307 would
/// send key and secret on to wherever it points.
pub struct TokenEndpoint {
    pub(crate) credentials: Arc<dyn CredentialsProvider>,
    pub(crate) token_url: Url,
    pub(crate) request_timeout: Duration,
    client: Client,
}

impl TokenEndpoint {
    /// An endpoint that authenticates with what `credentials` hands over.
    pub fn builder(credentials: impl CredentialsProvider) -> TokenEndpointBuilder {
        TokenEndpointBuilder {
            credentials: Arc::new(credentials),
            token_url: None,
            request_timeout: DEFAULT_REQUEST_TIMEOUT,
            http_client: None,
        }
    }

    pub(crate) async fn request(&self, credentials: &ProjectCredentials) -> Result<AccessToken, Error> {
        let request = self
            .client
            .post(self.token_url.clone())
            .header(header::AUTHORIZATION, credentials.basic_auth()?)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body("grant_type=client_credentials");
        let start = Moment::now();
        let exchange = async {
            let mut response = request.send().await.map_err(failed)?;
            let body = if answer::says_more_than_its_status(response.status()) {
                read(&mut response).await?
            } else {
                None
            };
            Ok((response, body))
        };
        let (response, body) = timeout(self.request_timeout, exchange)
            .await
            .unwrap_or_else(|_| Err(timed_out(self.request_timeout)))?;
        let headers = response.headers();
        if response.status().is_success() {
            let body = body.ok_or_else(answer::too_long)?;
            let grant = answer::parse(&body, date(headers))?;
            AccessToken::issued_at(start, &grant.access_token, grant.life)
        } else {
            let body = body.unwrap_or_default();
            Err(answer::failure(response.status(), &body, retry_after(headers)))
        }
    }
}

#[async_trait]
impl TokenSource for TokenEndpoint {
    /// Asks for a new token, whatever it replaces: OS gives a new one every time.
    async fn fetch(&self, _replaces: Option<&AccessToken>) -> Result<AccessToken, Error> {
        self.request(&self.credentials.credentials().await?).await
    }
}

/// The body, read to the limit and no further. `None` if it goes on beyond that.
async fn read(response: &mut Response) -> Result<Option<Bytes>, Error> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > LONGEST_ANSWER {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body.freeze()))
}

fn date(headers: &HeaderMap) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(header::DATE)?.to_str().ok()?).ok()
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    schedule::parse_retry_after(value, date(headers).unwrap_or_else(SystemTime::now))
}

/// A request that brought no answer. The URL may name an internal host, so it does not go into the error.
fn failed(error: reqwest::Error) -> Error {
    let (kind, message) = if error.is_builder() {
        (
            ErrorKind::Configuration,
            "the token request could not be built: check the token_url",
        )
    } else if error.is_timeout() {
        (ErrorKind::Timeout, "the token endpoint did not answer in time")
    } else if error.is_connect() {
        (ErrorKind::Unavailable, "no connection to the token endpoint")
    } else {
        (ErrorKind::Unavailable, "the connection to the token endpoint broke off")
    };
    Error::with_message(kind, message).caused_by(error.without_url())
}

fn timed_out(limit: Duration) -> Error {
    Error::with_message(
        ErrorKind::Timeout,
        format!("the token endpoint did not answer within the request_timeout of {limit:?}"),
    )
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
    http_client: Option<ClientBuilder>,
}

impl TokenEndpointBuilder {
    /// Where to ask: https, or http to a loopback address, which is always called without a proxy.
    /// Defaults to OS's, `https://api.os.uk/oauth2/token/v1`.
    pub fn token_url(mut self, url: Url) -> Self {
        self.token_url = Some(url);
        self
    }

    /// How long one attempt may take from connecting to the answer's last byte; 30 s at most. Defaults to 5 s.
    pub fn request_timeout(mut self, limit: Duration) -> Self {
        self.request_timeout = limit;
        self
    }

    /// The client to ask with, for a proxy, root certificates or a resolver of your own. Defaults to `reqwest`'s.
    ///
    /// Whatever it says, redirects and `reqwest`'s own retries stay off, connecting takes 2 s at most, no connection is
    /// kept, and the bytes on the wire are not logged.
    pub fn http_client(mut self, client: ClientBuilder) -> Self {
        self.http_client = Some(client);
        self
    }

    /// The endpoint. Nothing is sent yet.
    ///
    /// # Errors
    /// [`Configuration`](ErrorKind::Configuration) if the token URL is neither https nor loopback, or carries user
    /// info; if `request_timeout` is zero or above 30 s; if https is asked for and no TLS is compiled in; or if the
    /// client cannot be built.
    pub fn build(self) -> Result<TokenEndpoint, Error> {
        let token_url = match self.token_url {
            Some(url) => url,
            None => Url::parse(OS_TOKEN_URL)
                .map_err(|error| Error::configuration("the token_url is no URL").caused_by(error))?,
        };
        if !token_url.username().is_empty() || token_url.password().is_some() {
            return Err(Error::configuration(
                "the token_url must not carry user info: key and secret come from the credentials",
            ));
        }
        if !scope::may_carry_secrets(&token_url) {
            return Err(Error::configuration(
                "the token_url has to be https, or http to a loopback address: key and secret go there",
            ));
        }
        if self.request_timeout.is_zero() || self.request_timeout > schedule::FETCH_LIMIT {
            return Err(Error::configuration(
                "request_timeout has to be more than zero and 30 s at most",
            ));
        }
        if token_url.scheme() == "https" && !tls_is_compiled_in() {
            return Err(Error::configuration(
                "no TLS is compiled in: turn on the feature `rustls` or `native-tls` of osdatahub-auth or of reqwest",
            ));
        }
        let mut client = self
            .http_client
            .unwrap_or_else(|| ClientBuilder::new().user_agent(USER_AGENT))
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .connect_timeout(CONNECT_TIMEOUT)
            .connection_verbose(false)
            // Refreshes are minutes apart: an idle connection is never used again, only found dead.
            .pool_max_idle_per_host(0);
        if scope::is_loopback(&token_url) {
            // An HTTP_PROXY would carry key and secret off the machine.
            client = client.no_proxy();
        }
        let client = client.build().map_err(|error| {
            Error::configuration("the http_client for the token endpoint cannot be built")
                .caused_by(error.without_url())
        })?;
        Ok(TokenEndpoint {
            credentials: self.credentials,
            token_url,
            request_timeout: self.request_timeout,
            client,
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

/// Whether `reqwest` can do https in this build. Our own features don't tell, as TLS mostly comes from the user's own
/// `reqwest`; but without TLS its connector refuses the scheme at once, before it resolves the name.
fn tls_is_compiled_in() -> bool {
    struct NeverAnswers;
    impl dns::Resolve for NeverAnswers {
        fn resolve(&self, _name: dns::Name) -> dns::Resolving {
            Box::pin(pending())
        }
    }
    let client = ClientBuilder::new()
        .no_proxy()
        // Without a pool nothing is spawned, so this works outside a runtime too.
        .pool_max_idle_per_host(0)
        .dns_resolver(Arc::new(NeverAnswers))
        .build();
    // A client that cannot be built for want of certificates, say, has TLS; the real one will report its own trouble.
    client.map_or(true, |client| {
        let request = pin!(client.get("https://tls.invalid/").send());
        request.poll(&mut Context::from_waker(Waker::noop())).is_pending()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_is_found_without_a_runtime() {
        assert!(tls_is_compiled_in(), "the tests are built with rustls");
    }
}
