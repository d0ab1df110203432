//! Requests to the fake hub.

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION,
    CONTENT_TYPE, HOST, ORIGIN,
};
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use url::form_urlencoded;

use super::answer::FakeAnswer;

/// Limit on a request's body. It is far above any query or polygon that an OS API accepts.
const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

/// A request that the hub received. `Authorization` is marked sensitive, so that `Debug` does not show it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ReceivedRequest {
    /// The method.
    pub method: Method,
    /// The path, without the query.
    pub path: String,
    /// The query, without its question mark. `None` if the request had none.
    pub query: Option<String>,
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
        Some(Self {
            method: head.method,
            path: head.uri.path().to_owned(),
            query: head.uri.query().map(str::to_owned),
            headers: head.headers,
            body: body.to_bytes(),
        })
    }

    /// The value of a query parameter, decoded.
    pub(super) fn parameter(&self, name: &str) -> Option<String> {
        let query = self.query.as_ref()?.as_bytes();
        let mut parameters = form_urlencoded::parse(query);
        parameters
            .find(|(parameter, _)| parameter.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.into_owned())
    }

    /// The URL of another path on the host that this request was sent to.
    pub(super) fn url_of(&self, path: &str) -> String {
        let host = self.headers.get(HOST).and_then(|host| host.to_str().ok());
        format!("http://{}{path}", host.unwrap_or_default())
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
