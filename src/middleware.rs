//! The layer in a `reqwest-middleware` chain.

mod peek;

use std::pin::Pin;

use http::{Extensions, StatusCode, header};
use reqwest::{Request, Response, Url};
use reqwest_middleware::{Middleware, Next, Result};
use tracing::debug;

use self::peek::peek;
use crate::{
    AccessToken, Error, TokenManager,
    manager::Refusal,
    metrics::{self, Unauthorized},
    rejection::{self, Verdict},
    scope::{Origin, Scope},
};

/// Puts `Authorization: Bearer …` on every request to the OS Data Hub.
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
/// Those to `https://api.os.uk` and to what [`with_origin`](Self::with_origin) adds, compared as parsed scheme, host
/// and port. Any other request passes through untouched; so does one that has an `Authorization` header already or
/// carries [`NoAuth`]. If no token can be had the request is not sent, and [`Error::find_in`] finds the reason in the
/// chain's error.
///
/// # What a 401 does
///
/// | the API says | the token | this request |
/// |---|---|---|
/// | the token expired, or is unknown | is rejected, and replaced | is repeated once with the next one |
/// | the API is not in the project | stays | gets its 401, untouched |
/// | nothing that can be understood | is replaced, and serves until then | is repeated once with the next one |
///
/// It is not repeated if its body is a stream, if the token is new (see [`TokenManager::reject`]), or if no other token
/// can be had: then it gets its 401. A 403 or a 429 never costs a token, nor does a 401 from another origin, at
/// the end of a redirect.
///
/// # Where in the chain
///
/// Last, next to the client: tracing, then retry, then `BearerAuth`. So a retry that comes minutes later has a token of
/// its time, and a trace shows one request however often it was repeated. `reqwest`'s own timeouts do not include the
/// wait for a token; put `tokio::time::timeout` round the whole if that matters.
///
/// One chain serves one project: of two `BearerAuth` the first wins, as the second finds an `Authorization`. For
/// several projects wrap clones of one `reqwest::Client`, which share its connections.
#[derive(Debug, Clone)]
pub struct BearerAuth {
    tokens: TokenManager,
    scope: Scope,
    replay_rejected: bool,
}

/// A request extension: leave this request alone.
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
    /// Authenticates requests to `https://api.os.uk` and nowhere else.
    #[must_use]
    pub fn new(tokens: TokenManager) -> Self {
        Self {
            tokens,
            scope: Scope::data_hub(),
            replay_rejected: true,
        }
    }

    /// Lets one more origin see the token: a gateway in front of OS, a fake on loopback. `localhost` and `127.0.0.1` are
    /// two.
    ///
    /// For plain http on loopback build the client with `no_proxy()`: through a proxy the token would leave the
    /// machine.
    ///
    /// # Errors
    /// [`Configuration`](crate::ErrorKind::Configuration) if it is plain http and not loopback, or has a path, a query
    /// or user info, or is no origin that can be compared.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "an origin is handed over, and a Url made for it"
    )]
    pub fn with_origin(mut self, origin: Url) -> std::result::Result<Self, Error> {
        self.scope.add(&origin)?;
        Ok(self)
    }

    /// Whether a request that was refused because of its token is repeated with the next one. Defaults to `true`.
    ///
    /// Repeating needs a copy of each request's head. Without it the token is still replaced, and the caller gets the
    /// 401.
    #[must_use]
    pub fn replay_rejected(mut self, replay: bool) -> Self {
        self.replay_rejected = replay;
        self
    }

    /// The origin that may see the token, if this request is ours to authenticate.
    fn claims(&self, request: &Request, extensions: &Extensions) -> Option<&Origin> {
        let origin = self.scope.origin_of(request.url())?;
        let taken = request.headers().contains_key(header::AUTHORIZATION) || extensions.get::<NoAuth>().is_some();
        (!taken).then_some(origin)
    }

    /// Judges a 401 and tells the manager. Hands the response back, and a token to repeat the request with.
    async fn refused(
        &self,
        token: &AccessToken,
        response: Response,
        repeatable: bool,
    ) -> (Response, Option<AccessToken>) {
        let (verdict, response) = judge(response).await;
        let refusal = match verdict {
            Verdict::AboutToken => Refusal::Rejected,
            Verdict::Unclear => Refusal::Unclear,
            Verdict::NotAboutToken => {
                metrics::unauthorized(self.tokens.project(), Unauthorized::NotAboutToken);
                debug!("a 401 that is not about the access token: is the API in the project?");
                return (response, None);
            }
        };
        let another_helps = self.tokens.refuse(token, refusal);
        if another_helps {
            metrics::unauthorized(self.tokens.project(), Unauthorized::Replaced);
            debug!(?refusal, "a 401 for an access token, which is replaced");
        } else {
            metrics::unauthorized(self.tokens.project(), Unauthorized::TooNew);
            debug!(?refusal, "a 401 for an access token that is too new to be replaced");
        }
        let repeat = another_helps && repeatable;
        let next = if repeat {
            self.tokens.other_than(token).await.ok()
        } else {
            None
        };
        (response, next)
    }
}

async fn judge(response: Response) -> (Verdict, Response) {
    if let Some(verdict) = rejection::by_challenge(response.headers()) {
        return (verdict, response);
    }
    let (beginning, response) = peek(response).await;
    (rejection::by_body(&beginning), response)
}

impl Middleware for BearerAuth {
    // Written out where `async_trait` would do: the macro's future holds the request twice, which on this path is what
    // costs most, and a request that is not ours would be boxed once more.
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
        let Some(origin) = self.claims(&request, extensions) else {
            return next.run(request, extensions);
        };
        Box::pin(async move {
            let mut token = self.tokens.token().await?;
            let mut spare = self.replay_rejected.then(|| request.try_clone()).flatten();
            loop {
                let bearer = token.header_value();
                request.headers_mut().insert(header::AUTHORIZATION, bearer);
                let response = next.clone().run(request, extensions).await?;
                // After a redirect to another origin the token was not sent, so its 401 says nothing of the token.
                if response.status() != StatusCode::UNAUTHORIZED || !origin.is_of(response.url()) {
                    return Ok(response);
                }
                // Boxed, so that the future of every other request stays small.
                let judged = Box::pin(self.refused(&token, response, spare.is_some())).await;
                (token, request) = match (judged, spare.take()) {
                    ((_, Some(next)), Some(spare)) => (next, spare),
                    ((response, _), _) => return Ok(response),
                };
            }
        })
    }
}
