//! What goes in and out of the fake hub.

use std::str::FromStr;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_REQUEST_HEADERS,
        ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CONTENT_TYPE, ORIGIN,
    },
};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use url::form_urlencoded;

/// Far above any query or polygon that an OS API takes.
const LARGEST_BODY: usize = 4 * 1024 * 1024;

/// An answer of the test's own making.
///
/// It is sent as it is; HTTP's own `Content-Length` and `Date` are added unless it has them.
#[derive(Debug, Clone)]
pub struct FakeAnswer(pub(super) Response<Bytes>);

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
        let (Ok(name), Ok(value)) = (HeaderName::from_str(name), HeaderValue::from_str(value)) else {
            panic!("HTTP does not allow this name or value of a header: {name:?}")
        };
        self.0.headers_mut().append(name, value);
        self
    }

    pub(super) fn json(status: u16, body: impl Into<Bytes>) -> Self {
        Self::new(status, body).with_header("Content-Type", "application/json")
    }

    /// Lets the pages of any origin read the answer, unless it says itself who may.
    pub(super) fn for_any_origin(mut self) -> Self {
        let any = HeaderValue::from_static("*");
        self.0.headers_mut().entry(ACCESS_CONTROL_ALLOW_ORIGIN).or_insert(any);
        self
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
    pub(super) async fn read(request: Request<Incoming>) -> Option<Self> {
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

    pub(super) fn path_alone(&self) -> &str {
        let query = self.path.find('?');
        query.map_or(&self.path, |query| &self.path[..query])
    }

    /// What follows the scheme in `Authorization`, if it is this scheme.
    pub(super) fn authorization(&self, scheme: &str) -> Option<&str> {
        let value = self.headers.get(AUTHORIZATION)?.to_str().ok()?;
        let (given, credentials) = value.split_once(' ')?;
        given.eq_ignore_ascii_case(scheme).then_some(credentials)
    }

    /// Whether a browser asks on behalf of a page of another origin whether it may send a request.
    pub(super) fn is_preflight(&self) -> bool {
        self.method == Method::OPTIONS
            && self.headers.contains_key(ORIGIN)
            && self.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// It may, with whatever headers: a `*` would not cover `Authorization`.
    pub(super) fn preflight_answer(&self) -> FakeAnswer {
        let mut answer = FakeAnswer::new(200, "")
            .with_header("Access-Control-Allow-Methods", "GET, POST, OPTIONS")
            .for_any_origin();
        if let Some(wanted) = self.headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
            let headers = answer.0.headers_mut();
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
        }
        answer
    }

    pub(super) fn has_grant_type(&self) -> bool {
        let kind = self.headers.get(CONTENT_TYPE).map_or(&b""[..], |kind| kind.as_bytes());
        kind.starts_with(b"application/x-www-form-urlencoded")
            && form_urlencoded::parse(&self.body)
                .any(|(name, value)| name == "grant_type" && value == "client_credentials")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "99 is not the status of an answer")]
    fn a_status_that_is_none_panics() {
        let _ = FakeAnswer::new(99, "");
    }
}
