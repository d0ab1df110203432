//! The token endpoint's responses: parsed into a token, or classified as an error. Pure. No error quotes a response.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::StatusCode;
use serde::{Deserialize, Deserializer};

use crate::error::{Error, ErrorKind};
use crate::{fault, schedule::DAY};

/// The lifetime of a token without `expires_in`. Below OS's 299 s.
pub(super) const DEFAULT_LIFETIME: Duration = Duration::from_secs(240);

/// A successful token response (RFC 6749, section 5.1).
pub(crate) struct TokenResponse {
    pub(crate) access_token: String,
    /// The remaining lifetime when the response was sent. Counted from before the request, it ends a little early.
    pub(crate) lifetime: Duration,
    pub(super) age: Age,
    pub(super) without_expires_in: bool,
}

/// The age of a token when its response was sent, by the server's own clock. A cache on the way may have kept it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    /// Subtracted from the lifetime. Zero if the response does not say.
    Possible(Duration),
    /// Counts as zero, because a clock must be wrong.
    Impossible(Duration),
}

/// The body of a success as OS sends it: numbers may be strings. Unknown fields are ignored.
#[derive(Deserialize)]
struct Body {
    access_token: String,
    token_type: Option<String>,
    #[serde(default, deserialize_with = "number_or_string")]
    expires_in: Option<f64>,
    /// Unix time in milliseconds. It only makes the lifetime more exact, so a malformed one is ignored.
    #[serde(default)]
    issued_at: serde_json::Value,
}

/// Parses the body of a 2xx response. `date` is its `Date` header. `from_cache` is whether it has an `Age` header.
pub(crate) fn parse(body: &[u8], date: Option<SystemTime>, from_cache: bool) -> Result<TokenResponse, Error> {
    // serde's own message would quote the response.
    let body: Body = serde_json::from_slice(without_bom(body))
        .map_err(|_| malformed("the token endpoint's answer holds no access token: the token_url may be wrong"))?;
    if let Some(token_type) = body.token_type
        && !["Bearer", "BearerToken"]
            .iter()
            .any(|known| known.eq_ignore_ascii_case(&token_type))
    {
        return Err(malformed("the token endpoint sent a token of another type than Bearer"));
    }
    let expires_in = match body.expires_in {
        Some(seconds) => lifetime(seconds)
            .ok_or_else(|| malformed("the token endpoint sent a token with an impossible expires_in"))?,
        None => DEFAULT_LIFETIME,
    };
    let age = Age::new(token_age(&body.issued_at, date), expires_in, from_cache);
    Ok(TokenResponse {
        access_token: body.access_token,
        lifetime: match age {
            Age::Possible(age) => expires_in.saturating_sub(age),
            Age::Impossible(_) => expires_in,
        },
        age,
        without_expires_in: body.expires_in.is_none(),
    })
}

impl Age {
    /// No token is as old as its lifetime. One that is almost as old comes from a cache, which says so in `Age` (RFC
    /// 9111, section 5.1). Without it a clock is wrong, and such short lives would cost a POST a second.
    fn new(age: Option<Duration>, expires_in: Duration, from_cache: bool) -> Self {
        match age {
            Some(age) if age >= expires_in || (age > expires_in * 3 / 4 && !from_cache) => Self::Impossible(age),
            age => Self::Possible(age.unwrap_or_default()),
        }
    }
}

/// The body without a byte order mark, which some gateways write, and which a parser may ignore (RFC 8259, section 8.1).
fn without_bom(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)
}

/// Validates `expires_in`: rejects zero, negative and NaN; caps it at a day.
fn lifetime(seconds: f64) -> Option<Duration> {
    let positive = seconds.is_finite() && seconds > 0.0;
    // Seconds that overflow a duration are above a day as well.
    let lifetime = Duration::try_from_secs_f64(seconds).unwrap_or(DAY);
    (positive && !lifetime.is_zero()).then(|| lifetime.min(DAY))
}

/// The time from `issued_at` to the `Date` of the response. `None` if one is missing, or if it is negative.
fn token_age(issued_at: &serde_json::Value, date: Option<SystemTime>) -> Option<Duration> {
    let issued_at = match issued_at {
        serde_json::Value::Number(number) => number.as_u64()?,
        serde_json::Value::String(text) => text.parse().ok()?,
        _ => return None,
    };
    let sent_at = date?.duration_since(UNIX_EPOCH).ok()?;
    sent_at.checked_sub(Duration::from_millis(issued_at))
}

/// Reads a JSON number, or a string with one. Anything else becomes NaN, which `lifetime` rejects.
fn number_or_string<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::Null => Ok(None),
        serde_json::Value::Number(number) => Ok(number.as_f64()),
        serde_json::Value::String(text) => Ok(Some(text.trim().parse().unwrap_or(f64::NAN))),
        _ => Ok(Some(f64::NAN)),
    }
}

/// Whether the body is needed: for the token, or because the status alone does not decide the kind of error.
pub(super) fn needs_body(status: StatusCode) -> bool {
    status.is_success() || status == StatusCode::BAD_REQUEST
}

/// Classifies a response that is not 2xx.
pub(crate) fn failure(status: StatusCode, body: &[u8], retry_after: Option<Duration>) -> Error {
    use ErrorKind::{CredentialsRejected, RateLimited, RequestRejected, Unavailable};
    let (kind, what) = match status.as_u16() {
        401 => (CredentialsRejected, BAD_CREDENTIALS),
        400 if names_invalid_client(body) => (CredentialsRejected, BAD_CREDENTIALS),
        429 => (RateLimited, "it limits the rate of token requests"),
        408 | 425 | 500..=599 => (Unavailable, "the failure is on its side"),
        300..=399 => (RequestRejected, "redirects are not followed: check the token_url"),
        403 => (
            RequestRejected,
            "check the token_url and any proxy on the way, and whether a firewall refused the request",
        ),
        407 => (RequestRejected, "a proxy on the way wants a user and a password"),
        _ => (RequestRejected, "check the token_url and any proxy on the way"),
    };
    let status = status.as_u16();
    let error = Error::with_message(kind, format!("the token endpoint answered {status}: {what}"));
    match retry_after {
        Some(wait) => error.with_retry_after(wait),
        None => error,
    }
}

const BAD_CREDENTIALS: &str = "it does not accept the Project API Key and Secret; check or replace them";

/// Looks for `invalid_client` in the three known envelopes: OS's own, RFC 6749's and Apigee's fault.
fn names_invalid_client(body: &[u8]) -> bool {
    let envelope: serde_json::Value = serde_json::from_slice(without_bom(body)).unwrap_or_default();
    ["ErrorCode", "error"]
        .iter()
        .any(|name| envelope[name] == "invalid_client")
        || fault::code(body).is_some_and(|code| {
            fault::last_segment(&code) == "InvalidClientIdentifier" || code.contains("invalid_client")
        })
}

/// The error for a 2xx response above the size limit.
pub(super) fn too_long() -> Error {
    malformed("the token endpoint sent more than 64 KiB, which is not a token")
}

fn malformed(message: &'static str) -> Error {
    Error::with_message(ErrorKind::MalformedResponse, message)
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::select};
    use serde_json::json;

    use super::*;

    /// A number as a server may write it.
    fn written(number: u64, as_string: bool) -> serde_json::Value {
        if as_string {
            json!(number.to_string())
        } else {
            json!(number)
        }
    }

    /// A canary, as a string or inside a value of the wrong type.
    fn any_value() -> impl Strategy<Value = serde_json::Value> {
        let values = vec![
            json!("canary"),
            json!(["canary"]),
            json!({"canary": "canary"}),
            json!(299),
            json!(null),
        ];
        select(values)
    }

    /// Known fields with values of any type, or a bare value. serde's own errors would quote either.
    fn any_answer() -> impl Strategy<Value = serde_json::Value> {
        let fields = [
            "access_token",
            "token_type",
            "expires_in",
            "issued_at",
            "error",
            "ErrorCode",
            "fault",
        ];
        let fields = select(fields.to_vec()).prop_map(str::to_owned);
        let answer = proptest::collection::hash_map(fields, any_value(), 0..5);
        prop_oneof![4 => answer.prop_map(|fields| json!(fields)), 1 => any_value()]
    }

    proptest! {
        #[test]
        fn every_life_is_read_less_the_age_that_the_server_tells(
            access_token in "[!-~]{1,64}",
            token_type in select(vec!["Bearer", "bearer", "BearerToken", "BEARERTOKEN"]),
            expires_in in prop_oneof![1..600_u64, 1..=u64::MAX],
            sent_at in prop_oneof![0..600_u64, 0..4_000_000_000_u64],
            age in prop_oneof![0..600_u64, 0..4_000_000_000_u64],
            as_strings: [bool; 2],
            from_cache: bool,
        ) {
            let issued_at = sent_at.checked_sub(age);
            let issued_at = issued_at.map(|seconds| written(seconds * 1_000, as_strings[0]));
            let body = json!({
                "unknown": {"of": ["any", "shape"]},
                "access_token": access_token,
                "token_type": token_type,
                "expires_in": written(expires_in, as_strings[1]),
                "issued_at": issued_at,
            });
            let date = UNIX_EPOCH + Duration::from_secs(sent_at);
            let response = parse(body.to_string().as_bytes(), Some(date), from_cache).unwrap();
            let whole = Duration::from_secs(expires_in).min(DAY);
            let age = if issued_at.is_some() { age } else { 0 };
            let left = whole.checked_sub(Duration::from_secs(age)).filter(|left| !left.is_zero());
            let left = left.filter(|left| from_cache || *left >= whole / 4);
            prop_assert_eq!(response.lifetime, left.unwrap_or(whole));
            prop_assert_eq!(response.access_token, access_token);
        }

        #[test]
        fn no_response_gives_a_lifetime_of_zero_or_of_more_than_a_day(
            expires_in in prop_oneof![proptest::num::f64::ANY, 0.0..1e6],
            as_string: bool,
            date in proptest::option::of(0..u64::from(u32::MAX)),
            from_cache: bool,
        ) {
            let expires_in = if as_string { json!(expires_in.to_string()) } else { json!(expires_in) };
            let body = json!({"access_token": "t", "expires_in": expires_in, "issued_at": 1_634_663_382_476_u64});
            let date = date.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
            match parse(body.to_string().as_bytes(), date, from_cache) {
                Ok(response) => prop_assert!(!response.lifetime.is_zero() && response.lifetime <= DAY),
                Err(error) => prop_assert_eq!(error.kind(), ErrorKind::MalformedResponse),
            }
        }

        #[test]
        fn an_answer_of_any_shape_is_never_quoted(answer in any_answer(), status in select(vec![200_u16, 400, 401, 503])) {
            let body = answer.to_string();
            for end in [body.len(), body.len() / 2] {
                let error = match StatusCode::from_u16(status).unwrap() {
                    StatusCode::OK => parse(&body.as_bytes()[..end], None, false).err(),
                    status => Some(failure(status, &body.as_bytes()[..end], None)),
                };
                let shown = format!("{error:#?} {}", error.as_ref().map(ToString::to_string).unwrap_or_default());
                prop_assert!(!shown.contains("canary"), "{} of {}", shown, body);
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(body: Vec<u8>) {
            let _ = parse(&body, None, false);
            prop_assert!(!failure(StatusCode::BAD_REQUEST, &body, None).is_transient());
        }

        #[test]
        fn the_status_decides_and_only_a_400_is_asked_for_more(
            status in (300..=599_u16).prop_filter("its body counts", |status| *status != 400),
            body: Vec<u8>,
            retry_after in proptest::option::of(0..100_u64),
        ) {
            let retry_after = retry_after.map(Duration::from_secs);
            let status = StatusCode::from_u16(status).unwrap();
            let error = failure(status, &body, retry_after);
            prop_assert_eq!(error.kind(), failure(status, br#"{"error":"invalid_client"}"#, None).kind());
            prop_assert_eq!(error.retry_after(), retry_after);
            prop_assert_eq!(
                error.is_transient(),
                [408, 425, 429].contains(&status.as_u16()) || status.is_server_error()
            );
            prop_assert!(error.to_string().contains(status.as_str()));
        }
    }
}
