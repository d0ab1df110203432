//! A Data Hub on loopback, for tests and examples.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    fmt, io,
    iter::{repeat_n, repeat_with},
    path::Path,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use url::{Url, form_urlencoded};

use crate::ProjectCredentials;

const TOKEN_PATH: &str = "/oauth2/token/v1";

/// Where OS's APIs live. Any other path gets the landing page.
const API_PREFIXES: [&str; 5] = [
    "/maps/",
    "/features/",
    "/search/",
    "/downloads/",
    "/positioning/",
];

/// What the Data Hub gives.
const OS_LIFETIME: Duration = Duration::from_secs(299);

/// For this long after its expiry a token is "expired"; then it is forgotten, and "invalid" like any unknown one.
const EXPIRED_IS_KNOWN_FOR: Duration = Duration::from_secs(60 * 60);

/// A hub may serve a long test, and must not grow with it.
const REQUESTS_KEPT: usize = 10_000;

/// Far above any query or polygon that an OS API takes.
const LARGEST_BODY: usize = 4 * 1024 * 1024;

/// When accepting fails, file descriptors have mostly run out; a moment later some may be free again.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// An imitation of the OS Data Hub on a free loopback port: its token endpoint, and APIs that want its tokens.
///
/// It answers as the Data Hub does, with its oddities: numbers sent as strings, a landing page with status 200 on
/// unknown paths, three kinds of 401 that are about the token and one that is not. It can be told to fail, to be
/// slow, to revoke its tokens, and it shows what it received.
///
/// Every request counts and is kept once its body has arrived, before it is answered. A path in `/maps/`,
/// `/features/`, `/search/`, `/downloads/` or `/positioning/` wants a Bearer token (RFC 6750) and then answers 200
/// with a little JSON that names the path. A request whose body is larger than 4 MiB gets a 413 and is not kept.
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

    /// Regenerates the project's key and secret, as on the Data Hub, and returns the new ones.
    ///
    /// The old ones are refused at once; the tokens that they bought go on working.
    #[expect(
        clippy::must_use_candidate,
        reason = "refusing the old pair is a use of its own"
    )]
    pub fn replace_credentials(&self) -> ProjectCredentials {
        let mut state = self.state();
        (state.credentials, state.basic) = random_credentials();
        state.credentials.clone()
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

    /// How many POST requests the token endpoint has received, those that failed included.
    #[must_use]
    pub fn token_posts(&self) -> usize {
        self.state().token_posts
    }

    /// How many requests have come for any path but the token endpoint's.
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

/// An answer of the test's own making.
///
/// It is sent as it is; HTTP's own `Content-Length` and `Date` are added unless it has them.
#[derive(Debug, Clone)]
pub struct FakeAnswer(Response<Bytes>);

impl FakeAnswer {
    /// An answer without headers, not even a `Content-Type`.
    ///
    /// # Panics
    /// If `status` is not that of an answer: below 200 or above 999.
    #[must_use]
    pub fn new(status: u16, body: impl Into<Bytes>) -> Self {
        let mut response = Response::new(body.into());
        *response.status_mut() = match StatusCode::from_u16(status) {
            Ok(status) if !status.is_informational() => status,
            _ => panic!("{status} is not the status of an answer"),
        };
        Self(response)
    }

    /// Adds a header, also to others of the same name. Defaults to none.
    ///
    /// # Panics
    /// If HTTP does not allow the name or the value.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        let (Ok(name), Ok(value)) = (HeaderName::from_str(name), HeaderValue::from_str(value))
        else {
            panic!("HTTP does not allow this name or value of a header: {name:?}")
        };
        self.0.headers_mut().append(name, value);
        self
    }

    fn json(status: u16, body: impl Into<Bytes>) -> Self {
        Self::new(status, body).with_header("Content-Type", "application/json")
    }
}

/// A request as the hub received it. `Authorization` is marked sensitive, so that `Debug` does not show it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ReceivedRequest {
    /// The method.
    pub method: Method,
    /// The path, with its query.
    pub path: String,
    /// The headers, as they came.
    pub headers: HeaderMap,
    /// The body; empty if there was none.
    pub body: Bytes,
}

impl ReceivedRequest {
    /// `None` if the body is too large, or if the connection broke before its end.
    async fn read(request: Request<Incoming>) -> Option<Self> {
        let (mut head, body) = request.into_parts();
        let body = Limited::new(body, LARGEST_BODY).collect().await.ok()?;
        for (name, value) in &mut head.headers {
            if name == AUTHORIZATION {
                value.set_sensitive(true);
            }
        }
        let path = head.uri.path_and_query();
        Some(Self {
            method: head.method,
            path: path.map_or("/", |path| path.as_str()).to_owned(),
            headers: head.headers,
            body: body.to_bytes(),
        })
    }

    fn path_alone(&self) -> &str {
        let query = self.path.find('?');
        query.map_or(&self.path, |query| &self.path[..query])
    }

    /// What follows the scheme in `Authorization`, if it is this scheme.
    fn authorization(&self, scheme: &str) -> Option<&str> {
        let value = self.headers.get(AUTHORIZATION)?.to_str().ok()?;
        let (given, credentials) = value.split_once(' ')?;
        given.eq_ignore_ascii_case(scheme).then_some(credentials)
    }

    fn has_grant_type(&self) -> bool {
        let kind = self
            .headers
            .get(CONTENT_TYPE)
            .map_or(&b""[..], |kind| kind.as_bytes());
        kind.starts_with(b"application/x-www-form-urlencoded")
            && form_urlencoded::parse(&self.body)
                .any(|(name, value)| name == "grant_type" && value == "client_credentials")
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
    let (answer, delay) = lock(state).receive(request);
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    answer.unwrap_or_else(|| lock(state).answer_token(request))
}

/// All that the hub knows. Its methods never wait.
struct State {
    credentials: ProjectCredentials,
    /// What HTTP Basic carries for these credentials.
    basic: String,
    lifetime: Duration,
    numbers: bool,
    delay: Duration,
    failures: VecDeque<FakeAnswer>,
    outage: Option<FakeAnswer>,
    /// Neither revoked nor long expired.
    tokens: HashMap<String, Life>,
    routes: HashMap<String, Route>,
    token_posts: usize,
    api_requests: usize,
    received: VecDeque<ReceivedRequest>,
}

impl State {
    fn new() -> Self {
        let (credentials, basic) = random_credentials();
        Self {
            credentials,
            basic,
            lifetime: OS_LIFETIME,
            numbers: false,
            delay: Duration::ZERO,
            failures: VecDeque::new(),
            outage: None,
            tokens: HashMap::new(),
            routes: HashMap::new(),
            token_posts: 0,
            api_requests: 0,
            received: VecDeque::new(),
        }
    }

    /// Counts and keeps a request, and decides its answer; `None` is for a token, which is made after the delay.
    fn receive(&mut self, request: &ReceivedRequest) -> (Option<FakeAnswer>, Duration) {
        if self.received.len() == REQUESTS_KEPT {
            self.received.pop_front();
        }
        self.received.push_back(request.clone());

        if request.path_alone() != TOKEN_PATH {
            self.api_requests += 1;
            return (Some(self.answer_api(request)), Duration::ZERO);
        }
        if request.method != Method::POST {
            let refusal = FakeAnswer::new(405, "").with_header("Allow", "POST");
            return (Some(refusal), Duration::ZERO);
        }
        self.token_posts += 1;
        let failure = self.failures.pop_front().or_else(|| self.outage.clone());
        (failure, self.delay)
    }

    fn answer_token(&mut self, request: &ReceivedRequest) -> FakeAnswer {
        if request.authorization("Basic") != Some(&self.basic) {
            let body = r#"{"ErrorCode":"invalid_client","Error":"Client credentials are invalid"}"#;
            return FakeAnswer::json(401, body);
        }
        if !request.has_grant_type() {
            let body = r#"{"ErrorCode":"invalid_request","Error":"Required param : grant_type"}"#;
            return FakeAnswer::json(400, body);
        }
        let token = random_alphanumerics(28);
        let body = token_json(&token, self.lifetime, SystemTime::now(), self.numbers);
        let life = Life {
            start: Instant::now(),
            length: self.lifetime,
        };
        let known = |ended| ended < EXPIRED_IS_KNOWN_FOR;
        self.tokens.retain(|_, life| life.ended().is_none_or(known));
        self.tokens.insert(token, life);
        FakeAnswer::json(200, body)
    }

    fn answer_api(&self, request: &ReceivedRequest) -> FakeAnswer {
        let path = request.path_alone();
        let route = self.routes.get(path);
        if let Some(Route::Answer(answer)) = route {
            return answer.clone();
        }
        if route.is_none() && !API_PREFIXES.iter().any(|api| path.starts_with(api)) {
            return FakeAnswer::json(200, r#"{"title":"OS Data Hub APIs"}"#);
        }
        if let Err(fault) = self.check_bearer(request) {
            let challenge = fault.challenge();
            return fault
                .answer(path)
                .with_header("WWW-Authenticate", &challenge);
        }
        match route {
            Some(Route::Refuse) => NOT_IN_PROJECT.answer(path),
            Some(Route::Redirect(to)) => {
                FakeAnswer::new(307, "").with_header("Location", to.as_str())
            }
            _ => FakeAnswer::json(200, path_json(path)),
        }
    }

    fn check_bearer(&self, request: &ReceivedRequest) -> Result<(), Fault> {
        let token = request.authorization("Bearer").ok_or(TOKEN_MISSING)?;
        match self.tokens.get(token) {
            Some(life) if life.ended().is_some() => Err(TOKEN_EXPIRED),
            Some(_) => Ok(()),
            None => Err(TOKEN_UNKNOWN),
        }
    }
}

/// What to do with a path, instead of what its prefix says.
enum Route {
    Answer(FakeAnswer),
    Redirect(Url),
    Refuse,
}

/// The life of a token. Kept as start and length, as their sum may be more than an `Instant` can hold.
struct Life {
    start: Instant,
    length: Duration,
}

impl Life {
    /// How long ago it ended, if it has.
    fn ended(&self) -> Option<Duration> {
        self.start.elapsed().checked_sub(self.length)
    }
}

/// A refusal by Apigee, on which OS's APIs run.
struct Fault {
    code: &'static str,
    text: &'static str,
}

const TOKEN_EXPIRED: Fault = Fault {
    code: "keymanagement.service.access_token_expired",
    text: "Access Token expired",
};
const TOKEN_UNKNOWN: Fault = Fault {
    code: "keymanagement.service.invalid_access_token",
    text: "Invalid Access Token",
};
const TOKEN_MISSING: Fault = Fault {
    code: "oauth.v2.InvalidAccessToken",
    text: "Invalid access token",
};
const NOT_IN_PROJECT: Fault = Fault {
    code: "keymanagement.service.InvalidAPICallAsNoApiProductMatchFound",
    text: "Invalid API call as no apiproduct match found",
};

impl Fault {
    /// A 401 in XML for an image's path, otherwise in JSON.
    fn answer(&self, path: &str) -> FakeAnswer {
        let Self { code, text } = self;
        if Path::new(path).extension().is_some_and(|is| is == "png") {
            let body = format!(
                "<fault><faultstring>{text}</faultstring><detail><errorcode>{code}</errorcode></detail></fault>"
            );
            FakeAnswer::new(401, body).with_header("Content-Type", "application/xml")
        } else {
            let body = format!(
                r#"{{"fault":{{"faultstring":"{text}","detail":{{"errorcode":"{code}"}}}}}}"#
            );
            FakeAnswer::json(401, body)
        }
    }

    /// The `WWW-Authenticate` of a fault that is about the token.
    fn challenge(&self) -> String {
        let Self { code, text } = self;
        format!(r#"Bearer realm="null",error="invalid_token",error_description="{code}: {text}""#)
    }
}

/// OS's answer, with two of the fields that Apigee may add.
fn token_json(token: &str, lifetime: Duration, issued_at: SystemTime, numbers: bool) -> String {
    let expires_in = seconds(lifetime);
    let issued_at = issued_at
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis();
    let quote = if numbers { "" } else { "\"" };
    format!(
        r#"{{"access_token":"{token}","expires_in":{quote}{expires_in}{quote},"issued_at":{quote}{issued_at}{quote},"token_type":"Bearer","scope":"","status":"approved"}}"#
    )
}

/// Exact for whole seconds, however many.
fn seconds(duration: Duration) -> String {
    match duration.subsec_nanos() {
        0 => duration.as_secs().to_string(),
        _ => duration.as_secs_f64().to_string(),
    }
}

fn path_json(path: &str) -> String {
    // Of what JSON wants escaped, a URI's path can hold these two.
    let path = path.replace('\\', r"\\").replace('"', r#"\""#);
    format!(r#"{{"path":"{path}"}}"#)
}

/// New credentials, and what HTTP Basic carries for them (RFC 7617).
fn random_credentials() -> (ProjectCredentials, String) {
    let (key, secret) = (random_alphanumerics(32), random_alphanumerics(16));
    let basic = STANDARD.encode(format!("{key}:{secret}"));
    #[expect(
        clippy::expect_used,
        reason = "only colons and control characters are refused"
    )]
    let credentials = ProjectCredentials::new(key, secret).expect("alphanumerics are credentials");
    (credentials, basic)
}

fn random_alphanumerics(length: usize) -> String {
    repeat_with(fastrand::alphanumeric).take(length).collect()
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // No method panics halfway through a change, so what a panic leaves is whole.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_answer_has_the_shape_of_oss() {
        let issued_at = UNIX_EPOCH + Duration::from_millis(1_634_663_382_476);
        assert_eq!(
            token_json(
                "ZclClFcksJlZ19vnJOt09Yj3xme0",
                OS_LIFETIME,
                issued_at,
                false
            ),
            r#"{"access_token":"ZclClFcksJlZ19vnJOt09Yj3xme0","expires_in":"299","issued_at":"1634663382476","token_type":"Bearer","scope":"","status":"approved"}"#
        );
        assert_eq!(
            token_json("ZclClFcksJlZ19vnJOt09Yj3xme0", OS_LIFETIME, issued_at, true),
            r#"{"access_token":"ZclClFcksJlZ19vnJOt09Yj3xme0","expires_in":299,"issued_at":1634663382476,"token_type":"Bearer","scope":"","status":"approved"}"#
        );
    }

    #[test]
    fn whole_seconds_have_no_decimal_point() {
        assert_eq!(seconds(Duration::ZERO), "0");
        assert_eq!(seconds(Duration::from_millis(1500)), "1.5");
        assert_eq!(
            seconds(Duration::from_secs(u64::MAX)),
            "18446744073709551615"
        );
    }

    #[test]
    fn a_life_may_be_longer_than_the_clock() {
        let life = Life {
            start: Instant::now(),
            length: Duration::MAX,
        };
        assert_eq!(life.ended(), None);
    }

    #[test]
    fn any_path_makes_valid_json() {
        assert_eq!(path_json(r#"/maps/"\"#), r#"{"path":"/maps/\"\\"}"#);
    }

    #[test]
    fn a_fault_comes_as_xml_for_an_image() {
        assert_eq!(
            TOKEN_EXPIRED
                .answer("/maps/raster/v1/zxy/Road_3857/7/63/42.png")
                .0
                .body(),
            "<fault><faultstring>Access Token expired</faultstring><detail><errorcode>keymanagement.service.access_token_expired</errorcode></detail></fault>"
        );
        assert_eq!(
            TOKEN_EXPIRED.answer("/search/names/v1/find").0.body(),
            r#"{"fault":{"faultstring":"Access Token expired","detail":{"errorcode":"keymanagement.service.access_token_expired"}}}"#
        );
    }

    #[test]
    #[should_panic(expected = "99 is not the status of an answer")]
    fn a_status_that_is_none_panics() {
        let _ = FakeAnswer::new(99, "");
    }
}
