//! The middleware in a `reqwest-middleware` chain.

pub(crate) mod challenge;
mod copy;
mod peek;
mod sent;
mod unauthorized;

use std::{env, pin::Pin};

use http::{Extensions, StatusCode, header};
use reqwest::{Request, Response, Url};
use reqwest_middleware::{Middleware, Next, Result};

pub use self::unauthorized::Unauthorized;
use self::{copy::copy, sent::Sent};
use crate::origins::{self, AllowedOrigins, Origin};
use crate::{error::Error, manager::TokenManager, status::Action, telemetry, token::AccessToken};

/// Middleware that puts `Authorization: Bearer …` on every request to the OS Data Hub.
///
/// ```no_run
/// use osdatahub_auth::{BearerAuth, ProjectCredentials, TokenManager};
/// use reqwest_middleware::ClientBuilder;
///
/// # fn main() -> Result<(), osdatahub_auth::Error> {
/// let tokens = TokenManager::new(ProjectCredentials::from_env()?)?;
/// let client = ClientBuilder::new(reqwest::Client::new())
///     .with(BearerAuth::new(tokens))
///     .build();
/// # Ok(())
/// # }
/// ```
///
/// # Which requests
///
/// Requests to `https://api.os.uk` and to the origins that [`with_origin`](Self::with_origin) adds, compared as parsed
/// scheme, host and port. Any other request passes through unchanged. So does a request that has an `Authorization`
/// header already or carries [`NoAuth`]. If there is no token, the request is not sent, and [`Error::find_in`] finds
/// the reason in the chain's error.
///
/// An `Authorization` among the client's default headers is not the request's own. `reqwest` adds those last, and only
/// where the request has none, so the token wins.
///
/// # What a 401 does
///
/// | the API says | the token | this request |
/// |---|---|---|
/// | the token expired, or is unknown | is rejected and replaced | is repeated once with the next one |
/// | the API is not in the project, or another reason that is not the token | stays | gets its 401, unchanged |
/// | no known reason | is replaced, and served until then | is repeated once with the next one |
/// | no known reason, to a `HEAD` or after a redirect | stays | gets its 401, unchanged |
///
/// The reason is read from `WWW-Authenticate` and from the body, which may be JSON, XML or an OWS exception report. It
/// cannot be read from a body that is still compressed.
///
/// The request is not repeated if its body is a stream, as a multipart form's is, if the token is too new (see
/// [`TokenManager::reject`]), or if no other token is available. Then it gets its 401. A 403 or a 429 never costs a
/// token. Neither does any 401 from another origin after a redirect.
///
/// The 401 that you get carries an [`Unauthorized`], which says whether the API or the token was the reason.
///
/// # Where in the chain
///
/// Last, next to the client: tracing, then retry, then `BearerAuth`. Then a retry that comes minutes later gets a
/// current token, and a trace shows one request however often it was repeated. `reqwest`'s own timeouts do not include
/// the wait for a token. Put `tokio::time::timeout` around the whole request if that matters.
///
/// One chain serves one project. Of two `BearerAuth` the first wins, because the second finds an `Authorization`
/// header. For several projects wrap clones of one `reqwest::Client`, which share its connections.
#[derive(Debug, Clone)]
pub struct BearerAuth {
    tokens: TokenManager,
    origins: AllowedOrigins,
    replay_rejected: bool,
}

/// Request extension that makes [`BearerAuth`] skip a request: it is sent without a token.
///
/// ```no_run
/// # async fn f(client: reqwest_middleware::ClientWithMiddleware) -> reqwest_middleware::Result<()> {
/// use osdatahub_auth::NoAuth;
///
/// client.get("https://api.os.uk/").with_extension(NoAuth).send().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoAuth;

impl BearerAuth {
    /// Authenticates requests to `https://api.os.uk` alone.
    #[must_use]
    pub fn new(tokens: TokenManager) -> Self {
        Self {
            tokens,
            origins: AllowedOrigins::data_hub(),
            replay_rejected: true,
        }
    }

    /// Allows one more origin to see the token: a gateway in front of OS, a fake on loopback.
    ///
    /// `localhost` and `127.0.0.1` are two origins. For plain http on loopback build the client with `no_proxy()`,
    /// because the token would leave the machine through a proxy. If `HTTP_PROXY` or `ALL_PROXY` names one, a WARN says
    /// so.
    ///
    /// # Errors
    /// [`Configuration`](crate::ErrorKind::Configuration) if it is plain http and not loopback, or if it has a wildcard, a
    /// path, a query or user info.
    #[expect(clippy::needless_pass_by_value, reason = "a caller has no other use for the Url")]
    pub fn with_origin(mut self, origin: Url) -> std::result::Result<Self, Error> {
        self.origins.add(&origin)?;
        // Plain http is loopback here. Whether the client uses this proxy cannot be seen.
        if let Some(variable) = origins::plain_http_proxy(&origin, |name| env::var(name).ok()) {
            telemetry::proxy_for_loopback(variable);
        }
        Ok(self)
    }

    /// Whether a request is repeated once with another token if its own was refused. Defaults to `true`.
    ///
    /// A replay needs a copy of each request's head. If it is off, the token is still replaced, and the caller gets the
    /// 401.
    #[must_use]
    pub fn replay_rejected(mut self, replay: bool) -> Self {
        self.replay_rejected = replay;
        self
    }

    /// The allowed origin of the request. `None` if the request is to pass through unchanged.
    fn origin_to_authenticate(&self, request: &Request, extensions: &Extensions) -> Option<&Origin> {
        let origin = self.origins.origin_of(request.url());
        let opted_out = request.headers().contains_key(header::AUTHORIZATION) || extensions.get::<NoAuth>().is_some();
        if opted_out {
            return None;
        }
        if origin.is_none() {
            self.log_not_covered(request.url());
        }
        origin
    }

    /// Logs once for each origin that requests to it go out without a token. For the Data Hub's own host that is a
    /// mistake.
    fn log_not_covered(&self, url: &Url) {
        let is_data_hub = origins::is_data_hub(url);
        // Mostly it ends here, so a request that passes through costs no lock and no allocation.
        if !is_data_hub && !telemetry::is_debugging() {
            return;
        }
        let origin = origins::shown(url);
        let (project, tallies) = (self.tokens.project(), self.tokens.tallies());
        if is_data_hub {
            if tallies.data_hub_origins.add(&origin).is_first() {
                telemetry::data_hub_not_covered(project, &origin);
            }
        } else if tallies.other_origins.add(&origin).is_first() {
            telemetry::origin_not_covered(project, &origin);
        }
    }

    /// Reports a 401 to the manager, unless it says nothing about the token. Gets another token if the request can be
    /// repeated with it. Every 401 of an authenticated request goes through here, and gets its [`Unauthorized`].
    async fn unauthorized(
        &self,
        sent: Sent<'_>,
        token: &AccessToken,
        response: Response,
        repeatable: bool,
    ) -> (Response, Option<AccessToken>) {
        let (verdict, mut response) = sent.verdict(response).await;
        let action = verdict.map(|verdict| self.tokens.unauthorized(token, verdict));
        let why = Unauthorized::new(verdict.zip(action), sent.is_replay());
        response.extensions_mut().insert(why);
        let next = match action {
            Some(Action::Replace) if repeatable => self.tokens.other_than(token).await,
            Some(Action::NotAboutToken) => {
                let api = sent.api(&response);
                let count = self.tokens.tallies().refused_paths.add(api.unwrap_or_default());
                telemetry::not_about_token(self.tokens.project(), api, count);
                None
            }
            _ => None,
        };
        (response, next)
    }
}

impl Middleware for BearerAuth {
    // Written by hand instead of with `async_trait`. The macro's future holds the request twice, which is the largest
    // cost on this path. It would also box a request that only passes through.
    fn handle<'auth, 'extensions, 'next, 'future>(
        &'auth self,
        mut request: Request,
        extensions: &'extensions mut Extensions,
        next: Next<'next>,
    ) -> Pin<Box<dyn Future<Output = Result<Response>> + Send + 'future>>
    where
        'auth: 'future,
        'extensions: 'future,
        'next: 'future,
        Self: 'future,
    {
        let Some(origin) = self.origin_to_authenticate(&request, extensions) else {
            return next.run(request, extensions);
        };
        Box::pin(async move {
            let mut token = self.tokens.token().await?;
            let mut replay = self.replay_rejected.then(|| copy(&request)).flatten();
            let mut sent = Sent::new(&request, origin);
            loop {
                let bearer = token.header_value();
                request.headers_mut().insert(header::AUTHORIZATION, bearer);
                let response = next.clone().run(request, extensions).await?;
                if response.status() != StatusCode::UNAUTHORIZED {
                    return Ok(response);
                }
                // Boxed, so that the future of every other request stays small.
                let refused = Box::pin(self.unauthorized(sent, &token, response, replay.is_some())).await;
                (token, request) = match (refused, replay.take()) {
                    ((_, Some(next)), Some(replay)) => (next, replay),
                    ((response, _), _) => return Ok(response),
                };
                sent = sent.again();
            }
        })
    }
}
