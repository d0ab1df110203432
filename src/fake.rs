//! Fake Data Hub: an HTTP server on loopback, for tests and examples.

mod message;
mod state;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{convert::Infallible, fmt, io, iter::repeat_n, time::Duration};

use http_body_util::Full;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use url::Url;

pub use self::message::{FakeAnswer, ReceivedRequest};
use self::state::{Action, Route, State, credentials_with_basic};
use crate::credentials::ProjectCredentials;

const TOKEN_PATH: &str = "/oauth2/token/v1";

/// Delay before the next `accept` after one has failed. The usual cause is that file descriptors have run out, and
/// some may soon be free again.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(10);

/// A fake OS Data Hub on a free loopback port, with a token endpoint and APIs that require its tokens. Your tests can
/// use it in place of OS. Needs the feature `test-util`.
///
/// It copies the Data Hub's oddities:
/// - numbers are sent as strings;
/// - an unknown path gets a landing page with status 200;
/// - three kinds of 401 are about the token, and one is not.
///
/// You can make it fail, respond slowly or revoke its tokens, and it shows you the requests that it received.
///
/// The hub records every request once its body has arrived, before it responds. If a body is larger than 4 MiB, the
/// request gets a 413 and is not recorded.
///
/// A path under `/maps/`, `/features/`, `/search/`, `/downloads/` or `/positioning/` is an API path. It requires a
/// Bearer token (RFC 6750). The response is then a 200 with a short JSON body that names the path.
///
/// API paths also support CORS, so that a page of another origin can call them. The hub responds to preflights, and
/// lets any origin read the responses. A response set with [`answer_path`](Self::answer_path) gets no CORS headers,
/// nor does any response of the token endpoint.
///
/// Dropping the hub stops its tasks. The runtime then closes the listener and every connection.
///
/// ```
/// use osdatahub_auth::{FakeDataHub, TokenEndpoint, TokenManager};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let hub = FakeDataHub::start().await?;
/// let endpoint = TokenEndpoint::builder(hub.credentials())
///     .token_url(hub.token_url())
///     .build()?;
/// let tokens = TokenManager::builder(endpoint).build()?;
///
/// let client = hub.client_builder().build()?;
/// let request = client.get(hub.url("/search/names/v1/find?query=Bath"));
/// let token = tokens.token().await?.header_value();
/// let answer = request.header("Authorization", token).send().await?;
///
/// assert_eq!(answer.status(), 200);
/// assert_eq!(hub.token_posts(), 1);
/// # Ok(())
/// # }
/// ```
pub struct FakeDataHub {
    origin: Url,
    state: Arc<Mutex<State>>,
    /// The accept task. Dropping the set aborts it, which closes all connections.
    _server: JoinSet<()>,
}

impl FakeDataHub {
    /// Starts a hub on a free port of 127.0.0.1, with tasks on the current tokio runtime.
    ///
    /// # Errors
    /// If the port cannot be opened.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let origin = Url::parse(&format!("http://{address}/")).map_err(io::Error::other)?;
        let state = Arc::new(Mutex::new(State::new()));
        let mut server = JoinSet::new();
        server.spawn(accept_loop(listener, Arc::clone(&state)));
        Ok(Self {
            origin,
            state,
            _server: server,
        })
    }

    /// The project's current key and secret. Defaults to random alphanumerics, 32 for the key and 16 for the secret.
    #[must_use]
    pub fn credentials(&self) -> ProjectCredentials {
        self.state().credentials.clone()
    }

    /// Replaces the project's key and secret, as regenerating them on the Data Hub does.
    ///
    /// The old ones are rejected at once. Tokens that were issued for them keep working. Defaults to random values.
    ///
    /// # Panics
    /// If [`ProjectCredentials::new`] rejects the values.
    pub fn set_credentials(&self, key: &str, secret: &str) {
        let (credentials, basic_credentials) = credentials_with_basic(key, secret);
        let mut state = self.state();
        state.credentials = credentials;
        state.basic_credentials = basic_credentials;
    }

    /// The hub's origin: `http://127.0.0.1:PORT/`.
    #[must_use]
    pub fn origin(&self) -> Url {
        self.origin.clone()
    }

    /// The URL of the hub's token endpoint: `http://127.0.0.1:PORT/oauth2/token/v1`.
    #[must_use]
    pub fn token_url(&self) -> Url {
        self.url(TOKEN_PATH)
    }

    /// The URL of a path on this hub. The path may include a query.
    #[must_use]
    pub fn url(&self, path: &str) -> Url {
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path, None),
        };
        let mut url = self.origin();
        url.set_path(path);
        url.set_query(query);
        url
    }

    /// A builder for a `reqwest` client with proxies turned off. A proxy from the environment would otherwise come
    /// between your client and the hub.
    pub fn client_builder(&self) -> reqwest::ClientBuilder {
        reqwest::Client::builder().no_proxy()
    }

    /// Sets the lifetime of the tokens issued from now on. It starts when the hub builds the response.
    ///
    /// It is sent in seconds as `expires_in`, with a decimal point only if it is not a whole number. Defaults to OS's
    /// 299 s.
    pub fn set_lifetime(&self, lifetime: Duration) {
        self.state().lifetime = lifetime;
    }

    /// Sends `expires_in` and `issued_at` as JSON numbers instead of strings. OS's specification has numbers, but its
    /// responses have strings. Defaults to `false`: strings.
    pub fn send_numbers(&self, numbers: bool) {
        self.state().send_numbers = numbers;
    }

    /// Delays every response to a token request, failures included. The delay starts when the request arrives. The
    /// hub checks the credentials and issues the token after the delay. Defaults to zero.
    pub fn set_delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// Queues this response for `n` token requests, behind the responses that earlier calls queued.
    ///
    /// A request takes its response from the queue when it arrives. Defaults to an empty queue. For a failure that
    /// does not end, use [`fail`](Self::fail), which takes effect once the queue is empty.
    pub fn fail_next(&self, n: usize, response: FakeAnswer) {
        self.state().queued_failures.extend(repeat_n(response, n));
    }

    /// Sends this response to every token request, until [`recover`](Self::recover). Defaults to no failure.
    pub fn fail(&self, response: FakeAnswer) {
        self.state().outage = Some(response);
    }

    /// Ends the failures set with [`fail`](Self::fail) and [`fail_next`](Self::fail_next). Other settings stay.
    pub fn recover(&self) {
        let mut state = self.state();
        state.queued_failures.clear();
        state.outage = None;
    }

    /// Revokes every token issued so far.
    ///
    /// A 401 does not make a manager replace a new token: see [`TokenManager::reject`](crate::TokenManager::reject).
    /// The manager must have held it for at least 5 s, or for a quarter of its lifetime if that is shorter. In a
    /// test, set a lifetime of 2 s, for example, and revoke the token once it is older than 0.5 s.
    pub fn revoke_all(&self) {
        self.state().tokens.clear();
    }

    /// Removes the API at this exact path from the project. A request with a valid token then gets the 401 that is
    /// not about the token.
    ///
    /// A path has one route: a later call of this method, [`redirect_path`](Self::redirect_path) or
    /// [`answer_path`](Self::answer_path) replaces it. The query is ignored. A route for the token endpoint's path
    /// has no effect.
    pub fn refuse_path(&self, path: &str) {
        self.route(path, Route::Refuse);
    }

    /// Redirects this exact path with a 307, after the Bearer check. The Downloads API redirects to its storage in
    /// this way.
    pub fn redirect_path(&self, path: &str, to: Url) {
        self.route(path, Route::Redirect(to));
    }

    /// Sends this response to every request for this exact path, for any method and without a Bearer check.
    pub fn answer_path(&self, path: &str, response: FakeAnswer) {
        self.route(path, Route::Respond(response));
    }

    /// Registers a handler for every path that begins with this prefix. It runs after the Bearer check.
    ///
    /// Use it for APIs with many paths, such as map tiles. A route set with [`refuse_path`](Self::refuse_path),
    /// `redirect_path` or `answer_path` takes precedence. If several prefixes match, the one registered last wins.
    ///
    /// The hub adds `Access-Control-Allow-Origin: *` if the response has no such header, and changes nothing else.
    /// The handler may call the hub's methods. It should not block.
    ///
    /// ```
    /// # use osdatahub_auth::{FakeAnswer, FakeDataHub};
    /// # fn tiles(hub: &FakeDataHub) {
    /// hub.answer_under("/maps/raster/v1/zxy/", |request| match request.path.strip_suffix(".png") {
    ///     Some(_) => FakeAnswer::new(200, "a picture").with_header("Content-Type", "image/png"),
    ///     None => FakeAnswer::new(404, ""),
    /// });
    /// # }
    /// ```
    pub fn answer_under(&self, prefix: &str, handler: impl Fn(&ReceivedRequest) -> FakeAnswer + Send + Sync + 'static) {
        let prefix = self.url(prefix).path().to_owned();
        self.state().handlers.push_front((prefix, Arc::new(handler)));
    }

    /// The number of POST requests that the token endpoint has received, failed ones included.
    #[must_use]
    pub fn token_posts(&self) -> usize {
        self.state().token_posts
    }

    /// The number of requests for any path except the token endpoint's. Preflights that the hub responds to itself
    /// are not counted.
    #[must_use]
    pub fn api_requests(&self) -> usize {
        self.state().api_requests
    }

    /// The recorded requests, in order of arrival. The hub keeps the last 10,000.
    #[must_use]
    pub fn received(&self) -> Vec<ReceivedRequest> {
        self.state().received.iter().cloned().collect()
    }

    fn route(&self, path: &str, route: Route) {
        // A request's path has a leading slash and is percent-encoded, so the key must be too.
        let path = self.url(path).path().to_owned();
        self.state().routes.insert(path, route);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl fmt::Debug for FakeDataHub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeDataHub")
            .field("origin", &self.origin.as_str())
            .field("token_posts", &self.token_posts())
            .field("api_requests", &self.api_requests())
            .finish_non_exhaustive()
    }
}

async fn accept_loop(listener: TcpListener, state: Arc<Mutex<State>>) {
    // Owned by this task, so that aborting it closes every connection.
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(serve(stream, Arc::clone(&state)));
            }
            Err(_) => tokio::time::sleep(ACCEPT_RETRY_DELAY).await,
        }
        // Reaps the tasks that have ended, which a `JoinSet` keeps until they are joined.
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, state: Arc<Mutex<State>>) {
    let service = service_fn(|request| async {
        let response = match ReceivedRequest::read(request).await {
            Some(request) => respond(&state, &request).await,
            None => FakeAnswer::new(413, ""),
        };
        Ok::<_, Infallible>(response.0.map(Full::new))
    });
    // Ignored, because a client may close its connection at any time.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn respond(state: &Mutex<State>, request: &ReceivedRequest) -> FakeAnswer {
    let action = lock(state).receive(request);
    match action {
        Action::Respond(response) => response,
        Action::RespondToTokenRequest { delay, failure } => {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            failure.unwrap_or_else(|| lock(state).token_response(request))
        }
        Action::CallHandler(handler) => handler(request).allow_any_origin(),
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // A poisoned lock is safe to use: no method panics halfway through an update, so the state is consistent.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
