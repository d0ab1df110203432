//! The project of the fake hub: its credentials, and the tokens issued for them.

use std::collections::HashMap;
use std::iter::repeat_with;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::header::AUTHORIZATION;

use super::answer::FakeAnswer;
use super::fault::{Fault, NO_CREDENTIAL, TOKEN_EXPIRED, TOKEN_MISSING, TOKEN_UNKNOWN};
use super::request::ReceivedRequest;
use crate::credentials::ProjectCredentials;
use crate::schedule;

/// Token lifetime on the Data Hub.
const OS_LIFETIME: Duration = Duration::from_secs(299);

/// Retention of a token after its expiry. Until then a request with it gets the "expired" fault, and afterwards the
/// "invalid" one, as for an unknown token.
const EXPIRED_TOKEN_RETENTION: Duration = Duration::from_secs(60 * 60);

pub(super) struct Project {
    pub(super) credentials: ProjectCredentials,
    /// The same credentials in the form that HTTP Basic sends (RFC 7617).
    basic_credentials: String,
    pub(super) lifetime: Duration,
    pub(super) send_numbers: bool,
    /// Issued tokens, except those that were revoked or expired long ago.
    tokens: HashMap<String, Validity>,
}

impl Project {
    /// A project with random credentials.
    pub(super) fn new() -> Self {
        let (credentials, basic_credentials) = with_basic(&random_alphanumerics(32), &random_alphanumerics(16));
        Self {
            credentials,
            basic_credentials,
            lifetime: OS_LIFETIME,
            send_numbers: false,
            tokens: HashMap::new(),
        }
    }

    pub(super) fn set_credentials(&mut self, key: &str, secret: &str) {
        (self.credentials, self.basic_credentials) = with_basic(key, secret);
    }

    /// The response to a token request that OS would refuse. `None` if it is good.
    pub(super) fn refuse_token_request(&self, request: &ReceivedRequest) -> Option<FakeAnswer> {
        if request.authorization("Basic") != Some(&self.basic_credentials) {
            let body = r#"{"ErrorCode":"invalid_client","Error":"Client credentials are invalid"}"#;
            return Some(FakeAnswer::json(401, body));
        }
        if !request.has_client_credentials_grant() {
            let body = r#"{"ErrorCode":"invalid_request","Error":"Required param : grant_type"}"#;
            return Some(FakeAnswer::json(400, body));
        }
        None
    }

    /// Issues a token. Older ones stay valid.
    pub(super) fn issue_token(&mut self) -> FakeAnswer {
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

    pub(super) fn check_bearer(&self, request: &ReceivedRequest) -> Result<(), Fault> {
        if !request.headers.contains_key(AUTHORIZATION) {
            return Err(NO_CREDENTIAL);
        }
        let token = request.authorization("Bearer").ok_or(TOKEN_MISSING)?;
        match self.tokens.get(token) {
            Some(validity) if validity.expired_for().is_some() => Err(TOKEN_EXPIRED),
            Some(_) => Ok(()),
            None => Err(TOKEN_UNKNOWN),
        }
    }

    pub(super) fn revoke_all(&mut self) {
        self.tokens.clear();
    }

    /// The time after which a manager that has any of the tokens now would replace it because of a 401.
    pub(super) fn replaceable_in(&self) -> Duration {
        let lifetimes = self.tokens.values().map(|validity| validity.lifetime);
        lifetimes.map(schedule::min_age_to_replace).max().unwrap_or_default()
    }
}

/// Validity of a token. It has a start and a lifetime, because their sum may be more than an `Instant` can hold.
struct Validity {
    start: Instant,
    lifetime: Duration,
}

impl Validity {
    /// The time since the token expired. `None` if it is still valid.
    fn expired_for(&self) -> Option<Duration> {
        self.start.elapsed().checked_sub(self.lifetime)
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

/// Credentials, and the same in the form that HTTP Basic sends (RFC 7617).
fn with_basic(key: &str, secret: &str) -> (ProjectCredentials, String) {
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
}
