//! Responses of the fake hub.

use std::str::FromStr;

use bytes::Bytes;
use http::header::ACCESS_CONTROL_ALLOW_ORIGIN;
use http::{HeaderName, HeaderValue, Response, StatusCode};

use super::fault;

/// A canned response for a [`FakeDataHub`](crate::FakeDataHub) to send. A test can use it to give an API's data, or
/// to simulate a failure.
///
/// The hub adds `Content-Length` and `Date` unless you set them. Everything else is sent unchanged.
#[derive(Debug, Clone)]
pub struct FakeAnswer(pub(super) Response<Bytes>);

impl FakeAnswer {
    /// A response without headers. It has no `Content-Type` either.
    ///
    /// # Panics
    /// If `status` is not the status of a final response: below 200 or above 999.
    #[must_use]
    pub fn new(status: u16, body: impl Into<Bytes>) -> Self {
        let mut response = Response::new(body.into());
        *response.status_mut() = match StatusCode::from_u16(status) {
            Ok(status) if !status.is_informational() => status,
            _ => panic!("{status} is not the status of a final response"),
        };
        Self(response)
    }

    /// A 429 in the words of OS's gateway, without a `Retry-After`: OS documents none, and none has been recorded.
    ///
    /// It fits the APIs and the token endpoint. What the token endpoint sends is not recorded, and its gateway is the
    /// same.
    ///
    /// ```
    /// # use osdatahub_auth::{FakeAnswer, FakeDataHub};
    /// # fn limit(hub: &FakeDataHub) {
    /// hub.fail_next(1, FakeAnswer::rate_limited()); // the token endpoint
    /// hub.fail_api_next(3, FakeAnswer::rate_limited());
    /// # }
    /// ```
    #[must_use]
    pub fn rate_limited() -> Self {
        fault::RATE_LIMITED.as_json()
    }

    /// Adds a header. Headers of the same name stay. Defaults to no headers.
    ///
    /// # Panics
    /// If the name or the value is not valid in HTTP.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        let (Ok(name), Ok(value)) = (HeaderName::from_str(name), HeaderValue::from_str(value)) else {
            panic!("the name or the value of the header {name:?} is not valid in HTTP")
        };
        self.0.headers_mut().append(name, value);
        self
    }

    pub(super) fn of_type(content_type: &str, status: u16, body: impl Into<Bytes>) -> Self {
        Self::new(status, body).with_header("Content-Type", content_type)
    }

    pub(super) fn json(status: u16, body: impl Into<Bytes>) -> Self {
        Self::of_type("application/json", status, body)
    }

    /// Lets pages of any origin read the response (CORS), unless it already has an `Access-Control-Allow-Origin`.
    pub(super) fn allow_any_origin(mut self) -> Self {
        let any = HeaderValue::from_static("*");
        self.0.headers_mut().entry(ACCESS_CONTROL_ALLOW_ORIGIN).or_insert(any);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "99 is not the status of a final response")]
    fn an_invalid_status_panics() {
        let _ = FakeAnswer::new(99, "");
    }
}
