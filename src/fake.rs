//! Fake Data Hub: an HTTP server on loopback, for tests and examples.

mod answer;
mod api;
mod failures;
mod fault;
mod project;
mod rate_limit;
mod request;
mod routes;
mod sample;
mod server;
mod state;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::{fmt, io, time::Duration};

use http::StatusCode;
use tokio::{net::TcpListener, task::JoinSet, time::sleep};
use url::Url;

pub use self::answer::FakeAnswer;
pub use self::request::ReceivedRequest;
use self::routes::Route;
use self::state::{State, TOKEN_PATH};
use crate::credentials::ProjectCredentials;

/// A fake OS Data Hub on a loopback port, with a token endpoint and APIs that require its tokens. Your tests can use
/// it in place of OS. Needs the feature `test-util`.
///
/// It copies the Data Hub's oddities:
/// - The token endpoint sends numbers as strings. It answers a `GET` with a 404 in plain text.
/// - An unknown path gets a landing page with status 200.
/// - Three kinds of 401 are about the token. Two are not: the API is not in the project, and no credential was sent.
/// - A refusal comes as JSON, as XML for an image, and as an OWS exception report from WFS, WMTS and Vector Tiles.
/// - The Downloads API redirects with a 302, or with a 307 if the query has `redirect`.
///
/// You can make it fail, respond slowly or revoke its tokens, and it shows you the requests that it received.
///
/// The hub records every request once its body has arrived, before it responds. If a body is larger than 4 MiB, the
/// request gets a 413 and is not recorded.
///
/// A path under `/maps/`, `/features/`, `/search/`, `/downloads/` or `/positioning/` is an API path. It requires a
/// Bearer token (RFC 6750), and then responds with a short sample in the API's format. A path for which you set a
/// response requires the token too, except with [`answer_public_path`](Self::answer_public_path). The hub is stricter
/// here than OS, which serves a few lists, such as that of its open products, without a token.
///
/// All paths of APIs support CORS, so that a page of another origin can call them. The hub responds to preflights, and
/// adds `Access-Control-Allow-Origin: *` to each response that has no such header. The token endpoint has no CORS, and
/// neither have the paths of `answer_public_path`.
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
    /// The server's task. Dropping the set aborts it, which closes all connections.
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
        Self::start_on((Ipv4Addr::LOCALHOST, 0)).await
    }

    /// Starts a hub on a fixed address, such as `([127, 0, 0, 1], 8080)`. Other programs can then be set up to use it.
    ///
    /// # Errors
    /// If the port cannot be opened, for example because it is in use.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn start_on(address: impl Into<SocketAddr>) -> io::Result<Self> {
        let listener = TcpListener::bind(address.into()).await?;
        let mut address = listener.local_addr()?;
        if address.ip().is_unspecified() {
            // All addresses of the machine, of which a client needs one.
            address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        let origin = Url::parse(&format!("http://{address}/")).map_err(io::Error::other)?;
        let state = Arc::new(Mutex::new(State::new()));
        let mut server = JoinSet::new();
        server.spawn(server::run(listener, Arc::clone(&state)));
        Ok(Self {
            origin,
            state,
            _server: server,
        })
    }

    /// The project's current key and secret. Defaults to random alphanumerics, 32 for the key and 16 for the secret.
    #[must_use]
    pub fn credentials(&self) -> ProjectCredentials {
        self.state().project.credentials.clone()
    }

    /// Replaces the project's key and secret, as regenerating them on the Data Hub does.
    ///
    /// The old ones are rejected at once. Tokens that were issued for them keep working. Defaults to random values.
    ///
    /// # Panics
    /// If [`ProjectCredentials::new`] rejects the values.
    pub fn set_credentials(&self, key: &str, secret: &str) {
        self.state().project.set_credentials(key, secret);
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
        self.state().project.lifetime = lifetime;
    }

    /// Sends `expires_in` and `issued_at` as JSON numbers instead of strings. OS's specification has numbers, but its
    /// responses have strings. Defaults to `false`: strings.
    pub fn send_numbers(&self, numbers: bool) {
        self.state().project.send_numbers = numbers;
    }

    /// Delays every response to a token request, failures included. The delay starts when the request arrives. The
    /// hub checks the credentials and issues the token after the delay. Defaults to zero.
    pub fn set_delay(&self, delay: Duration) {
        self.state().token_delay = delay;
    }

    /// Limits the transactions a minute, and refuses more with a 429. Defaults to `None`: no limit.
    ///
    /// OS allows 50 in development mode and 600 in live mode. It counts them for each API of a project. The hub counts
    /// token requests too, as if for an API: whether OS does so is not known.
    pub fn set_rate_limit(&self, per_minute: Option<u32>) {
        self.state().rate_limit.per_minute = per_minute;
    }

    /// Queues this response for `n` token requests, behind the responses that earlier calls queued.
    ///
    /// A request takes its response from the queue when it arrives. Defaults to an empty queue. For a failure that
    /// does not end, use [`fail`](Self::fail), which takes effect once the queue is empty.
    pub fn fail_next(&self, n: usize, response: FakeAnswer) {
        self.state().token_failures.queue(n, response);
    }

    /// Sends this response to every token request, until [`recover`](Self::recover). Defaults to no failure.
    pub fn fail(&self, response: FakeAnswer) {
        self.state().token_failures.begin_outage(response);
    }

    /// Queues this response for `n` requests that have a valid token, to any API, as [`fail_next`](Self::fail_next)
    /// does for token requests. Routes do not matter. Defaults to an empty queue.
    pub fn fail_api_next(&self, n: usize, response: FakeAnswer) {
        self.state().api_failures.queue(n, response);
    }

    /// Sends this response to every request that has a valid token, to any API, until [`recover`](Self::recover).
    /// Takes effect once the queue of [`fail_api_next`](Self::fail_api_next) is empty. Defaults to no failure.
    pub fn fail_api(&self, response: FakeAnswer) {
        self.state().api_failures.begin_outage(response);
    }

    /// Ends all failures, of the token endpoint and of the APIs. Other settings stay.
    pub fn recover(&self) {
        let mut state = self.state();
        state.token_failures.recover();
        state.api_failures.recover();
    }

    /// Revokes every token issued so far.
    ///
    /// A 401 does not make a manager replace a new token: see [`TokenManager::reject`](crate::TokenManager::reject).
    /// In a test, use [`revoke_all_when_replaceable`](Self::revoke_all_when_replaceable).
    pub fn revoke_all(&self) {
        self.state().project.revoke_all();
    }

    /// Waits until a 401 would make a manager replace each of the tokens, and then revokes them all. After a replacement,
    /// the next one needs a token of twice that age, so use it once for each manager.
    ///
    /// A 401 replaces a token only after the manager has held it for 5 s, or for a quarter of its lifetime if that is
    /// shorter. The age that the token had when it was issued does not count, so only a shorter
    /// [`set_lifetime`](Self::set_lifetime) makes this quicker: with 2 s, the wait is 0.5 s.
    ///
    /// Call it once the manager has a token. If the hub has issued none, there is no wait.
    pub async fn revoke_all_when_replaceable(&self) {
        let wait = self.state().project.replaceable_in();
        sleep(wait).await;
        self.revoke_all();
    }

    /// Removes the API at this exact path from the project. A request with a valid token then gets the 401 that is
    /// not about the token.
    ///
    /// A path has one route: a later call of this method, [`redirect_path`](Self::redirect_path),
    /// [`answer_path`](Self::answer_path) or [`answer_public_path`](Self::answer_public_path) replaces it. The query is
    /// ignored. A route for the token endpoint's path has no effect.
    pub fn refuse_path(&self, path: &str) {
        self.route(path, Route::Refuse);
    }

    /// Removes a whole API from the project: every path that begins with this prefix, such as `/search/places/`.
    ///
    /// A route for an exact path takes precedence. If several prefixes match, the one registered last wins.
    pub fn refuse_under(&self, prefix: &str) {
        self.route_under(prefix, Route::Refuse);
    }

    /// Redirects this exact path, after the Bearer check.
    ///
    /// The status is 307, as for large files of OS Net. Under `/downloads/` it is 302 unless the query has `redirect`,
    /// as for the `url` in a listing of the Downloads API.
    pub fn redirect_path(&self, path: &str, to: Url) {
        self.route(path, Route::Redirect(to));
    }

    /// Sends this response to every request for this exact path, for any method, after the Bearer check.
    pub fn answer_path(&self, path: &str, response: FakeAnswer) {
        self.route(path, Route::Respond(response));
    }

    /// Sends this response to every request for this exact path, for any method and *without* a Bearer check.
    ///
    /// Use it for what is not OS's API: a page, a gateway's own path, or the storage that a download is redirected to. A
    /// test of an API that uses it would pass without a token. The hub adds no CORS headers.
    pub fn answer_public_path(&self, path: &str, response: FakeAnswer) {
        self.route(path, Route::RespondToAnyone(response));
    }

    /// Registers a handler for every path that begins with this prefix. It runs after the Bearer check.
    ///
    /// Use it for APIs with many paths, such as map tiles. Precedence is as for [`refuse_under`](Self::refuse_under).
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
        self.route_under(prefix, Route::CallHandler(Arc::new(handler)));
    }

    /// Registers an observer, which sees each request with the status of its response, just before that is sent.
    ///
    /// Use it to log. It may call the hub's methods, and should not block. A later call replaces the observer.
    /// Defaults to none.
    pub fn on_response(&self, observer: impl Fn(&ReceivedRequest, StatusCode) + Send + Sync + 'static) {
        self.state().observer = Some(Arc::new(observer));
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
        let path = self.encoded_path(path);
        self.state().routes.set(path, route);
    }

    fn route_under(&self, prefix: &str, route: Route) {
        let prefix = self.encoded_path(prefix);
        self.state().routes.set_under(prefix, route);
    }

    /// A path as it is in a request: with a leading slash, and percent-encoded.
    fn encoded_path(&self, path: &str) -> String {
        self.url(path).path().to_owned()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        server::lock(&self.state)
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
