//! Answer of an API to the one request that it gets.

use http::{HeaderMap, header};
use osdatahub_auth::Unauthorized;
use reqwest::Response;
use reqwest_middleware::ClientWithMiddleware;

use crate::fault::Fault;
use crate::standing::{Standing, classify};

/// The part of a body that is read. Capabilities can be large, and their beginning shows their shape.
const MAX_BODY_BYTES: usize = 256 * 1024;

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) unauthorized: Option<Unauthorized>,
    pub(crate) fault: Option<Fault>,
    pub(crate) standing: Standing,
}

impl Answer {
    /// Sends the request. `None` if there is no response.
    pub(crate) async fn to(client: &ClientWithMiddleware, url: reqwest::Url) -> Option<Self> {
        // With an `Origin`, as of a page in a browser, because a server may send CORS headers only then.
        let request = client.get(url).header(header::ORIGIN, "https://www.example.org");
        let response = request.send().await.ok()?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let unauthorized = response.extensions().get().copied();
        Some(Self::new(status, headers, start_of_body(response).await, unauthorized))
    }

    pub(crate) fn new(status: u16, headers: HeaderMap, body: Vec<u8>, unauthorized: Option<Unauthorized>) -> Self {
        let fault = (status >= 400).then(|| Fault::in_body(&body));
        let code = fault.as_ref().and_then(|fault| fault.code.as_deref());
        let standing = classify(status, unauthorized, code);
        Self {
            status,
            headers,
            body,
            unauthorized,
            fault,
            standing,
        }
    }

    /// Whether the headers that OS does not document are there: `Retry-After`, those of a rate limit, CORS, and
    /// `WWW-Authenticate`.
    pub(crate) fn undocumented(&self) -> [bool; 4] {
        let has_limit = |name: &http::HeaderName| name.as_str().replace('-', "").contains("ratelimit");
        [
            self.headers.contains_key(header::RETRY_AFTER),
            self.headers.keys().any(has_limit),
            self.headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN),
            self.headers.contains_key(header::WWW_AUTHENTICATE),
        ]
    }
}

async fn start_of_body(mut response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() >= MAX_BODY_BYTES {
            break;
        }
    }
    body
}
