//! Requests and responses of the fake hub.

use std::str::FromStr;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CONTENT_TYPE, ORIGIN,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use url::form_urlencoded;

/// Limit on a request's body. It is far above any query or polygon that an OS API accepts.
const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

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

    pub(super) fn json(status: u16, body: impl Into<Bytes>) -> Self {
        Self::new(status, body).with_header("Content-Type", "application/json")
    }

    /// Lets pages of any origin read the response (CORS), unless it already has an `Access-Control-Allow-Origin`.
    pub(super) fn allow_any_origin(mut self) -> Self {
        let any = HeaderValue::from_static("*");
        self.0.headers_mut().entry(ACCESS_CONTROL_ALLOW_ORIGIN).or_insert(any);
        self
    }
}

/// A request that the hub received. `Authorization` is marked sensitive, so that `Debug` does not show it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ReceivedRequest {
    /// The method.
    pub method: Method,
    /// The path and the query.
    pub path: String,
    /// The headers, unchanged.
    pub headers: HeaderMap,
    /// The body. Empty if the request had none.
    pub body: Bytes,
}

impl ReceivedRequest {
    /// Reads a request to the end of its body. `None` if the body is too large, or if the connection broke first.
    pub(super) async fn read(request: Request<Incoming>) -> Option<Self> {
        let (mut head, body) = request.into_parts();
        let body = Limited::new(body, MAX_BODY_BYTES).collect().await.ok()?;
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

    pub(super) fn path_without_query(&self) -> &str {
        let query_start = self.path.find('?');
        query_start.map_or(&self.path, |start| &self.path[..start])
    }

    /// The credentials in `Authorization`, if they are for this scheme.
    pub(super) fn authorization(&self, scheme: &str) -> Option<&str> {
        let value = self.headers.get(AUTHORIZATION)?.to_str().ok()?;
        let (sent_scheme, credentials) = value.split_once(' ')?;
        sent_scheme.eq_ignore_ascii_case(scheme).then_some(credentials)
    }

    /// Whether this is a CORS preflight. A browser sends one without a token, before a page's request to another
    /// origin.
    pub(super) fn is_preflight(&self) -> bool {
        self.method == Method::OPTIONS
            && self.headers.contains_key(ORIGIN)
            && self.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// The response that allows a preflight. It repeats the requested headers, because `*` would not cover
    /// `Authorization`.
    pub(super) fn preflight_response(&self) -> FakeAnswer {
        let mut response = FakeAnswer::new(200, "")
            .with_header("Access-Control-Allow-Methods", "GET, POST, OPTIONS")
            .allow_any_origin();
        if let Some(requested) = self.headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
            let headers = response.0.headers_mut();
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, requested.clone());
        }
        response
    }

    pub(super) fn has_client_credentials_grant(&self) -> bool {
        let content_type = self.headers.get(CONTENT_TYPE);
        let content_type = content_type.map_or(&b""[..], |value| value.as_bytes());
        content_type.starts_with(b"application/x-www-form-urlencoded")
            && form_urlencoded::parse(&self.body)
                .any(|(name, value)| name == "grant_type" && value == "client_credentials")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "99 is not the status of a final response")]
    fn a_status_that_is_none_panics() {
        let _ = FakeAnswer::new(99, "");
    }
}
