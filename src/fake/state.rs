//! State of the fake hub, and how it decides on a response. Nothing here waits or does I/O.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{iter::repeat_with, path::Path, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::Method;
use url::Url;

use super::TOKEN_PATH;
use super::message::{FakeAnswer, ReceivedRequest};
use crate::credentials::ProjectCredentials;

/// Path prefixes of OS's APIs. Any other path gets the landing page, unless it has a route or a handler.
const API_PREFIXES: [&str; 5] = ["/maps/", "/features/", "/search/", "/downloads/", "/positioning/"];

/// Token lifetime on the Data Hub.
const OS_LIFETIME: Duration = Duration::from_secs(299);

/// Retention of a token after its expiry. Until then a request with it gets the "expired" fault, and afterwards the
/// "invalid" one, as for an unknown token.
const EXPIRED_TOKEN_RETENTION: Duration = Duration::from_secs(60 * 60);

/// Limit on the recorded requests, so that a long test does not use more and more memory.
const MAX_RECORDED_REQUESTS: usize = 10_000;

/// Settings, issued tokens, routes and recorded requests of a hub.
pub(super) struct State {
    pub(super) credentials: ProjectCredentials,
    /// The same credentials in the form that HTTP Basic sends (RFC 7617).
    pub(super) basic_credentials: String,
    pub(super) lifetime: Duration,
    pub(super) send_numbers: bool,
    pub(super) delay: Duration,
    pub(super) queued_failures: VecDeque<FakeAnswer>,
    pub(super) outage: Option<FakeAnswer>,
    /// Issued tokens, except those that were revoked or expired long ago.
    pub(super) tokens: HashMap<String, Validity>,
    pub(super) routes: HashMap<String, Route>,
    /// Handlers by path prefix. The first match wins, so the newest is at the front.
    pub(super) handlers: VecDeque<(String, Arc<Handler>)>,
    pub(super) token_posts: usize,
    pub(super) api_requests: usize,
    pub(super) received: VecDeque<ReceivedRequest>,
}

impl State {
    pub(super) fn new() -> Self {
        let (key, secret) = (random_alphanumerics(32), random_alphanumerics(16));
        let (credentials, basic_credentials) = credentials_with_basic(&key, &secret);
        Self {
            credentials,
            basic_credentials,
            lifetime: OS_LIFETIME,
            send_numbers: false,
            delay: Duration::ZERO,
            queued_failures: VecDeque::new(),
            outage: None,
            tokens: HashMap::new(),
            routes: HashMap::new(),
            handlers: VecDeque::new(),
            token_posts: 0,
            api_requests: 0,
            received: VecDeque::new(),
        }
    }

    /// Records and counts a request, and decides what to do with it.
    pub(super) fn receive(&mut self, request: &ReceivedRequest) -> Action {
        if self.received.len() == MAX_RECORDED_REQUESTS {
            self.received.pop_front();
        }
        self.received.push_back(request.clone());

        if request.path_without_query() != TOKEN_PATH {
            return self.receive_api_request(request);
        }
        if request.method != Method::POST {
            return Action::Respond(FakeAnswer::new(405, "").with_header("Allow", "POST"));
        }
        self.token_posts += 1;
        Action::RespondToTokenRequest {
            delay: self.delay,
            failure: self.queued_failures.pop_front().or_else(|| self.outage.clone()),
        }
    }

    /// The response to a token request that is not told to fail: a new token, or the reason why there is none.
    pub(super) fn token_response(&mut self, request: &ReceivedRequest) -> FakeAnswer {
        if request.authorization("Basic") != Some(&self.basic_credentials) {
            let body = r#"{"ErrorCode":"invalid_client","Error":"Client credentials are invalid"}"#;
            return FakeAnswer::json(401, body);
        }
        if !request.has_client_credentials_grant() {
            let body = r#"{"ErrorCode":"invalid_request","Error":"Required param : grant_type"}"#;
            return FakeAnswer::json(400, body);
        }
        let token = random_alphanumerics(28);
        let body = token_json(&token, self.lifetime, SystemTime::now(), self.send_numbers);
        let validity = Validity {
            start: Instant::now(),
            lifetime: self.lifetime,
        };
        let is_retained = |expired_for| expired_for < EXPIRED_TOKEN_RETENTION;
        self.tokens
            .retain(|_, validity| validity.expired_for().is_none_or(is_retained));
        self.tokens.insert(token, validity);
        FakeAnswer::json(200, body)
    }

    fn receive_api_request(&mut self, request: &ReceivedRequest) -> Action {
        let path = request.path_without_query();
        let route = self.routes.get(path);
        let handler = self.handlers.iter().find(|(prefix, _)| path.starts_with(prefix));
        let is_api = handler.is_some() || API_PREFIXES.iter().any(|prefix| path.starts_with(prefix));
        if request.is_preflight() && is_api && !matches!(route, Some(Route::Respond(_))) {
            return Action::Respond(request.preflight_response());
        }
        self.api_requests += 1;
        if let Some(Route::Respond(response)) = route {
            return Action::Respond(response.clone());
        }
        if route.is_none() && !is_api {
            return Action::Respond(FakeAnswer::json(200, r#"{"title":"OS Data Hub APIs"}"#));
        }
        let response = match (self.check_bearer(request), route, handler) {
            (Err(fault), _, _) => {
                let challenge = fault.challenge();
                fault.response(path).with_header("WWW-Authenticate", &challenge)
            }
            (Ok(()), Some(Route::Refuse), _) => NOT_IN_PROJECT.response(path),
            (Ok(()), Some(Route::Redirect(to)), _) => FakeAnswer::new(307, "").with_header("Location", to.as_str()),
            (Ok(()), _, Some((_, handler))) => return Action::CallHandler(Arc::clone(handler)),
            (Ok(()), _, None) => FakeAnswer::json(200, path_json(path)),
        };
        Action::Respond(response.allow_any_origin())
    }

    fn check_bearer(&self, request: &ReceivedRequest) -> Result<(), Fault> {
        let token = request.authorization("Bearer").ok_or(TOKEN_MISSING)?;
        match self.tokens.get(token) {
            Some(validity) if validity.expired_for().is_some() => Err(TOKEN_EXPIRED),
            Some(_) => Ok(()),
            None => Err(TOKEN_UNKNOWN),
        }
    }
}

/// Handler that a test registers for a path prefix.
pub(super) type Handler = dyn Fn(&ReceivedRequest) -> FakeAnswer + Send + Sync;

/// Next step for a request. It is taken with the state unlocked, because it may wait, or call a handler that locks
/// the state.
pub(super) enum Action {
    Respond(FakeAnswer),
    /// Wait for `delay`, then send the failure if there is one, and otherwise [`State::token_response`].
    RespondToTokenRequest {
        delay: Duration,
        failure: Option<FakeAnswer>,
    },
    CallHandler(Arc<Handler>),
}

/// Route for one exact path. It takes precedence over handlers and API prefixes.
pub(super) enum Route {
    Respond(FakeAnswer),
    Redirect(Url),
    Refuse,
}

/// Validity of a token. It has a start and a lifetime, because their sum may be more than an `Instant` can hold.
pub(super) struct Validity {
    start: Instant,
    lifetime: Duration,
}

impl Validity {
    /// The time since the token expired. `None` if it is still valid.
    fn expired_for(&self) -> Option<Duration> {
        self.start.elapsed().checked_sub(self.lifetime)
    }
}

/// Fault of Apigee, the gateway in front of OS's APIs: its code and its text.
struct Fault(&'static str, &'static str);

const TOKEN_EXPIRED: Fault = Fault("keymanagement.service.access_token_expired", "Access Token expired");
const TOKEN_UNKNOWN: Fault = Fault("keymanagement.service.invalid_access_token", "Invalid Access Token");
const TOKEN_MISSING: Fault = Fault("oauth.v2.InvalidAccessToken", "Invalid access token");
const NOT_IN_PROJECT: Fault = Fault(
    "keymanagement.service.InvalidAPICallAsNoApiProductMatchFound",
    "Invalid API call as no apiproduct match found",
);

impl Fault {
    /// A 401 with the fault in its body. A path that ends in `.png` gets XML, as OS sends for a map tile. Any other
    /// path gets JSON.
    fn response(&self, path: &str) -> FakeAnswer {
        let Self(code, text) = self;
        if Path::new(path).extension().is_some_and(|extension| extension == "png") {
            let body = format!(
                "<fault><faultstring>{text}</faultstring><detail><errorcode>{code}</errorcode></detail></fault>"
            );
            FakeAnswer::new(401, body).with_header("Content-Type", "application/xml")
        } else {
            let body = format!(r#"{{"fault":{{"faultstring":"{text}","detail":{{"errorcode":"{code}"}}}}}}"#);
            FakeAnswer::json(401, body)
        }
    }

    /// The `WWW-Authenticate` challenge for a fault that is about the token.
    fn challenge(&self) -> String {
        let Self(code, text) = self;
        format!(r#"Bearer realm="null",error="invalid_token",error_description="{code}: {text}""#)
    }
}

/// Body of OS's token response, with two fields that Apigee may add: `scope` and `status`.
fn token_json(token: &str, lifetime: Duration, issued_at: SystemTime, send_numbers: bool) -> String {
    let expires_in = seconds(lifetime);
    let issued_at = issued_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let quote = if send_numbers { "" } else { "\"" };
    format!(
        r#"{{"access_token":"{token}","expires_in":{quote}{expires_in}{quote},"issued_at":{quote}{issued_at}{quote},"token_type":"Bearer","scope":"","status":"approved"}}"#
    )
}

/// Formats a duration in seconds. Whole seconds stay exact, because they do not go through `f64`.
fn seconds(duration: Duration) -> String {
    match duration.subsec_nanos() {
        0 => duration.as_secs().to_string(),
        _ => duration.as_secs_f64().to_string(),
    }
}

fn path_json(path: &str) -> String {
    serde_json::json!({"path": path}).to_string()
}

/// Credentials, and the same in the form that HTTP Basic sends (RFC 7617).
pub(super) fn credentials_with_basic(key: &str, secret: &str) -> (ProjectCredentials, String) {
    let credentials = ProjectCredentials::new(key, secret).unwrap_or_else(|error| panic!("{error}"));
    (credentials, STANDARD.encode(format!("{key}:{secret}")))
}

fn random_alphanumerics(length: usize) -> String {
    repeat_with(fastrand::alphanumeric).take(length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_answer_has_the_shape_of_oss() {
        let issued_at = UNIX_EPOCH + Duration::from_millis(1_634_663_382_476);
        assert_eq!(
            token_json("ZclClFcksJlZ19vnJOt09Yj3xme0", OS_LIFETIME, issued_at, false),
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
        assert_eq!(seconds(Duration::from_secs(u64::MAX)), "18446744073709551615");
    }

    #[test]
    fn a_life_may_be_longer_than_the_clock() {
        let validity = Validity {
            start: Instant::now(),
            lifetime: Duration::MAX,
        };
        assert_eq!(validity.expired_for(), None);
    }

    #[test]
    fn any_path_makes_valid_json() {
        assert_eq!(path_json(r#"/maps/"\"#), r#"{"path":"/maps/\"\\"}"#);
    }

    #[test]
    fn a_fault_comes_as_xml_for_an_image() {
        assert_eq!(
            TOKEN_EXPIRED
                .response("/maps/raster/v1/zxy/Road_3857/7/63/42.png")
                .0
                .body(),
            "<fault><faultstring>Access Token expired</faultstring><detail><errorcode>keymanagement.service.access_token_expired</errorcode></detail></fault>"
        );
        assert_eq!(
            TOKEN_EXPIRED.response("/search/names/v1/find").0.body(),
            r#"{"fault":{"faultstring":"Access Token expired","detail":{"errorcode":"keymanagement.service.access_token_expired"}}}"#
        );
    }
}
