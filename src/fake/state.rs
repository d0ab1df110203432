//! What the fake hub knows, and how it answers. Nothing here waits.

use std::{
    collections::{HashMap, VecDeque},
    iter::repeat_with,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::Method;
use url::Url;

use super::{FakeAnswer, ReceivedRequest, TOKEN_PATH};
use crate::ProjectCredentials;

/// Where OS's APIs live. Any other path gets the landing page.
const API_PREFIXES: [&str; 5] = ["/maps/", "/features/", "/search/", "/downloads/", "/positioning/"];

/// What the Data Hub gives.
const OS_LIFETIME: Duration = Duration::from_secs(299);

/// For this long after its expiry a token is "expired"; then it is forgotten, and "invalid" like any unknown one.
const EXPIRED_IS_KNOWN_FOR: Duration = Duration::from_secs(60 * 60);

/// A hub may serve a long test, and must not grow with it.
const REQUESTS_KEPT: usize = 10_000;

pub(super) struct State {
    pub(super) credentials: ProjectCredentials,
    /// What HTTP Basic carries for these credentials.
    pub(super) basic: String,
    pub(super) lifetime: Duration,
    pub(super) numbers: bool,
    pub(super) delay: Duration,
    pub(super) failures: VecDeque<FakeAnswer>,
    pub(super) outage: Option<FakeAnswer>,
    /// Neither revoked nor long expired.
    pub(super) tokens: HashMap<String, Life>,
    pub(super) routes: HashMap<String, Route>,
    /// By prefix; the first that fits counts.
    pub(super) prefixes: VecDeque<(String, Arc<Answerer>)>,
    pub(super) token_posts: usize,
    pub(super) api_requests: usize,
    pub(super) received: VecDeque<ReceivedRequest>,
}

impl State {
    pub(super) fn new() -> Self {
        let (credentials, basic) = with_basic(&random_alphanumerics(32), &random_alphanumerics(16));
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
            prefixes: VecDeque::new(),
            token_posts: 0,
            api_requests: 0,
            received: VecDeque::new(),
        }
    }

    /// Counts and keeps a request, and decides what to do with it.
    pub(super) fn receive(&mut self, request: &ReceivedRequest) -> Reaction {
        if self.received.len() == REQUESTS_KEPT {
            self.received.pop_front();
        }
        self.received.push_back(request.clone());

        if request.path_alone() != TOKEN_PATH {
            return self.react_to_api(request);
        }
        if request.method != Method::POST {
            return Reaction::Answer(FakeAnswer::new(405, "").with_header("Allow", "POST"));
        }
        self.token_posts += 1;
        let failure = self.failures.pop_front().or_else(|| self.outage.clone());
        Reaction::AfterDelay(self.delay, failure)
    }

    pub(super) fn answer_token(&mut self, request: &ReceivedRequest) -> FakeAnswer {
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

    fn react_to_api(&mut self, request: &ReceivedRequest) -> Reaction {
        let path = request.path_alone();
        let route = self.routes.get(path);
        let answerer = self.prefixes.iter().find(|(prefix, _)| path.starts_with(prefix));
        let is_api = answerer.is_some() || API_PREFIXES.iter().any(|api| path.starts_with(api));
        if request.is_preflight() && is_api && !matches!(route, Some(Route::Answer(_))) {
            return Reaction::Answer(request.preflight_answer());
        }
        self.api_requests += 1;
        if let Some(Route::Answer(answer)) = route {
            return Reaction::Answer(answer.clone());
        }
        if route.is_none() && !is_api {
            return Reaction::Answer(FakeAnswer::json(200, r#"{"title":"OS Data Hub APIs"}"#));
        }
        let answer = match (self.check_bearer(request), route, answerer) {
            (Err(fault), _, _) => {
                let challenge = fault.challenge();
                fault.answer(path).with_header("WWW-Authenticate", &challenge)
            }
            (Ok(()), Some(Route::Refuse), _) => NOT_IN_PROJECT.answer(path),
            (Ok(()), Some(Route::Redirect(to)), _) => FakeAnswer::new(307, "").with_header("Location", to.as_str()),
            (Ok(()), _, Some((_, answerer))) => return Reaction::Ask(Arc::clone(answerer)),
            (Ok(()), _, None) => FakeAnswer::json(200, path_json(path)),
        };
        Reaction::Answer(answer.for_any_origin())
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

/// What a test does with the requests below a prefix.
pub(super) type Answerer = dyn Fn(&ReceivedRequest) -> FakeAnswer + Send + Sync;

/// What is left to do about a request once the state is no longer locked.
pub(super) enum Reaction {
    Answer(FakeAnswer),
    /// To wait, and then to answer with this failure, or else with a token.
    AfterDelay(Duration, Option<FakeAnswer>),
    Ask(Arc<Answerer>),
}

/// What to do with a path, instead of what its prefix says.
pub(super) enum Route {
    Answer(FakeAnswer),
    Redirect(Url),
    Refuse,
}

/// The life of a token. Kept as start and length, as their sum may be more than an `Instant` can hold.
pub(super) struct Life {
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
            let body = format!(r#"{{"fault":{{"faultstring":"{text}","detail":{{"errorcode":"{code}"}}}}}}"#);
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
    let issued_at = issued_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
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

/// Credentials, and what HTTP Basic carries for them (RFC 7617).
pub(super) fn with_basic(key: &str, secret: &str) -> (ProjectCredentials, String) {
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
}
