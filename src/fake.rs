//! A Data Hub on loopback, for tests and examples.

mod message;
mod state;

use std::{
    convert::Infallible,
    fmt, io,
    iter::repeat_n,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http_body_util::Full;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use url::Url;

pub use self::message::{FakeAnswer, ReceivedRequest};
use self::state::{Reaction, Route, State, with_basic};
use crate::ProjectCredentials;

const TOKEN_PATH: &str = "/oauth2/token/v1";

/// When accepting fails, file descriptors have mostly run out; a moment later some may be free again.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// An imitation of the OS Data Hub on a free loopback port: its token endpoint, and APIs that want its tokens. Needs the
/// feature `test-util`.
///
/// It answers as the Data Hub does, with its oddities: numbers sent as strings, a landing page with status 200 on
/// unknown paths, three kinds of 401 that are about the token and one that is not. It can be told to fail, to be
/// slow, to revoke its tokens, and it shows what it received.
///
/// Every request counts and is kept once its body has arrived, before it is answered. A path in `/maps/`,
/// `/features/`, `/search/`, `/downloads/` or `/positioning/` wants a Bearer token (RFC 6750) and then answers 200
/// with a little JSON that names the path. There it also does what a page of another origin needs (the CORS protocol):
/// preflights are answered, and every answer but those of [`answer_path`](Self::answer_path) may be read by anybody; the
/// token endpoint's never. A request whose body is larger than 4 MiB gets a 413 and is not kept.
///
/// Once it is dropped, its tasks end: the listener and every connection are closed as soon as the runtime gets to it.
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
    /// Holds the one task that accepts; dropping the set aborts it.
    _server: JoinSet<()>,
}

impl FakeDataHub {
    /// Starts a hub on a free port of 127.0.0.1, with tasks on the current tokio runtime.
    ///
    /// # Errors
    /// Whatever keeps the port from being opened.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let origin = Url::parse(&format!("http://{address}/")).map_err(io::Error::other)?;
        let state = Arc::new(Mutex::new(State::new()));
        let mut server = JoinSet::new();
        server.spawn(accept_forever(listener, Arc::clone(&state)));
        Ok(Self {
            origin,
            state,
            _server: server,
        })
    }

    /// The project's key and secret: 32 and 16 alphanumerics, random for each hub.
    #[must_use]
    pub fn credentials(&self) -> ProjectCredentials {
        self.state().credentials.clone()
    }

    /// Regenerates the project's key and secret, as on the Data Hub, to these.
    ///
    /// The old ones are refused at once; the tokens that they bought go on working. Defaults to random ones.
    ///
    /// # Panics
    /// If [`ProjectCredentials::new`] refuses them.
    pub fn set_credentials(&self, key: &str, secret: &str) {
        let (credentials, basic) = with_basic(key, secret);
        let mut state = self.state();
        state.credentials = credentials;
        state.basic = basic;
    }

    /// Where the hub is: `http://127.0.0.1:PORT/`.
    #[must_use]
    pub fn origin(&self) -> Url {
        self.origin.clone()
    }

    /// Where the hub gives tokens: `http://127.0.0.1:PORT/oauth2/token/v1`.
    #[must_use]
    pub fn token_url(&self) -> Url {
        self.url(TOKEN_PATH)
    }

    /// The URL of a path on this hub, with its query if it has one.
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

    /// The start of a client that reaches the hub, as it goes round any proxy that the environment names.
    pub fn client_builder(&self) -> reqwest::ClientBuilder {
        reqwest::Client::builder().no_proxy()
    }

    /// The life of the tokens issued from now on, counted from when the answer is made.
    ///
    /// Sent as `expires_in`, in seconds: a whole number without a decimal point, any other with one.
    /// Defaults to OS's 299 s.
    pub fn set_lifetime(&self, lifetime: Duration) {
        self.state().lifetime = lifetime;
    }

    /// Whether `expires_in` and `issued_at` are JSON numbers, as in OS's specification, and not strings, as in its
    /// answers. Defaults to `false`: strings.
    pub fn send_numbers(&self, numbers: bool) {
        self.state().numbers = numbers;
    }

    /// How long each token request waits for its answer, a failure too, from when it arrives. Credentials are judged
    /// and tokens made after the wait. Defaults to no time at all.
    pub fn set_delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// Gives the next `n` token requests this answer, after those of earlier calls.
    ///
    /// Each request takes its answer when it arrives. Defaults to no failure. For a failure without end there is
    /// [`fail`](Self::fail), which comes after all of these.
    pub fn fail_next(&self, n: usize, with: FakeAnswer) {
        self.state().failures.extend(repeat_n(with, n));
    }

    /// Gives every token request this answer, until [`recover`](Self::recover). Defaults to no failure.
    pub fn fail(&self, with: FakeAnswer) {
        self.state().outage = Some(with);
    }

    /// Ends the failures of [`fail`](Self::fail) and [`fail_next`](Self::fail_next), and changes nothing else.
    pub fn recover(&self) {
        let mut state = self.state();
        state.failures.clear();
        state.outage = None;
    }

    /// Makes every token issued so far invalid.
    ///
    /// A manager does not replace a token because of a 401 that it has had for less than 5 s, or a quarter of its life
    /// if that is less (see [`TokenManager::reject`](crate::TokenManager::reject)). In a test set a life of 2 s, say,
    /// and revoke when the token is older than half a second.
    pub fn revoke_all(&self) {
        self.state().tokens.clear();
    }

    /// Takes the API at this exact path out of the project: with a valid token, the answer is the 401 that is not about
    /// the token.
    ///
    /// The last call for a path counts, here and in [`redirect_path`](Self::redirect_path) and
    /// [`answer_path`](Self::answer_path); a query plays no part, and the token endpoint's path is not for them.
    pub fn refuse_path(&self, path: &str) {
        self.route(path, Route::Refuse);
    }

    /// Redirects this exact path, with a 307 and after the Bearer check, as the Downloads API does to its storage.
    pub fn redirect_path(&self, path: &str, to: Url) {
        self.route(path, Route::Redirect(to));
    }

    /// Gives every request to this exact path this answer, whatever its method and without a Bearer check.
    pub fn answer_path(&self, path: &str, with: FakeAnswer) {
        self.route(path, Route::Answer(with));
    }

    /// Gives every request whose path begins with this what the function answers, after the Bearer check.
    ///
    /// For what has many paths, such as map tiles. [`refuse_path`](Self::refuse_path), `redirect_path` and
    /// `answer_path` come before it, and of several prefixes that fit the last one named counts. The answer is sent as
    /// it is, but for `Access-Control-Allow-Origin: *`, if it has none. The function may ask the hub, and should not
    /// block.
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
    pub fn answer_under(&self, prefix: &str, with: impl Fn(&ReceivedRequest) -> FakeAnswer + Send + Sync + 'static) {
        let prefix = self.url(prefix).path().to_owned();
        self.state().prefixes.push_front((prefix, Arc::new(with)));
    }

    /// How many POST requests the token endpoint has received, those that failed included.
    #[must_use]
    pub fn token_posts(&self) -> usize {
        self.state().token_posts
    }

    /// How many requests have come for any path but the token endpoint's, preflights left out.
    #[must_use]
    pub fn api_requests(&self) -> usize {
        self.state().api_requests
    }

    /// All that was received, in order of arrival; only the last 10,000 requests are kept.
    #[must_use]
    pub fn received(&self) -> Vec<ReceivedRequest> {
        self.state().received.iter().cloned().collect()
    }

    fn route(&self, path: &str, route: Route) {
        // As a client would send it: with a leading slash, percent-encoded.
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

async fn accept_forever(listener: TcpListener, state: Arc<Mutex<State>>) {
    // Dropped with this task, and every connection with it.
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(serve(stream, Arc::clone(&state)));
            }
            Err(_) => tokio::time::sleep(ACCEPT_AGAIN_AFTER).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, state: Arc<Mutex<State>>) {
    let service = service_fn(|request| async {
        let answer = match ReceivedRequest::read(request).await {
            Some(request) => answer(&state, &request).await,
            None => FakeAnswer::new(413, ""),
        };
        Ok::<_, Infallible>(answer.0.map(Full::new))
    });
    // A client may break off whenever it likes; that is not the hub's failure.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(state: &Mutex<State>, request: &ReceivedRequest) -> FakeAnswer {
    let reaction = lock(state).receive(request);
    match reaction {
        Reaction::Answer(answer) => answer,
        Reaction::AfterDelay(delay, failure) => {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            failure.unwrap_or_else(|| lock(state).answer_token(request))
        }
        Reaction::Ask(answerer) => answerer(request).for_any_origin(),
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // No method panics halfway through a change, so what a panic leaves is whole.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
