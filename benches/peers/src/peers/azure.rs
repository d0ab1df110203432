//! `azure_core`: its `BearerTokenAuthorizationPolicy`, the only public way to its cache, with a stub transport.
//!
//! Its credential is a trait, which `azure_identity` implements for Microsoft's own endpoints only. The
//! implementation here makes one POST to the endpoint under test.

use std::{hint::black_box, sync::Arc};

use async_trait::async_trait;
use azure_core::{
    credentials::{AccessToken, TokenCredential, TokenRequestOptions},
    error::ErrorKind,
    http::{
        AsyncRawResponse, Context, Method, Request, StatusCode, Url,
        headers::{AUTHORIZATION, HeaderValue, Headers},
        policies::{Policy, PolicyResult, auth::BearerTokenAuthorizationPolicy},
    },
    time::{Duration, OffsetDateTime},
};
use http::HeaderMap;
use reqwest::Client;

use super::{Calls, Failure, Peer, Timed, by_hand::fetch, poll_once};
use crate::endpoint::Endpoint;

/// Policy, and the rest of its pipeline.
pub struct Azure {
    policy: BearerTokenAuthorizationPolicy,
    next: [Arc<dyn Policy>; 1],
}

impl Peer for Azure {
    const NAME: &'static str = "azure_core";
    const RULE: &'static str = "By a caller, which holds the lock meanwhile, once less than 5 min are left: with a \
                                lifetime of 299 s on every request. A failure is ignored while the token is valid \
                                (`bearer_token_policy.rs`).";
    const PARSES_RESPONSE: bool = false;

    async fn start(endpoint: &Endpoint) -> Result<Self, Failure> {
        let credential = Credential {
            client: Client::new(),
            url: endpoint.url(),
        };
        Ok(Self {
            policy: BearerTokenAuthorizationPolicy::new(Arc::new(credential), ["scope"]),
            next: [Arc::new(Stub)],
        })
    }

    async fn authorize(&self, headers: &mut HeaderMap) -> Result<(), Failure> {
        let mut request = request();
        self.policy.send(&Context::default(), &mut request, &self.next).await?;
        let header = request.headers().get_str(&AUTHORIZATION)?;
        headers.insert(http::header::AUTHORIZATION, header.parse()?);
        Ok(())
    }

    /// The pipeline is the floor: with any policy it boxes the response, its headers and the futures.
    fn timed(self) -> Timed {
        Timed {
            calls: calls_through(Arc::new(self.policy), self.next.clone()),
            floor: Some(calls_through(Arc::new(ConstantHeader), self.next)),
        }
    }
}

fn calls_through(policy: Arc<dyn Policy>, next: [Arc<dyn Policy>; 1]) -> Calls {
    let (context, mut request) = (Context::default(), request());
    Box::new(move |calls| {
        for _ in 0..calls {
            let response = poll_once(policy.send(&context, &mut request, &next)).expect("the stub's response");
            black_box((response, &request));
        }
    })
}

/// Request over https, because the policy rejects any other scheme.
fn request() -> Request {
    let url = Url::parse("https://api.os.uk/search/names/v1/find").expect("a URL");
    Request::new(url, Method::Get)
}

/// Credential that makes one POST and never retries.
#[derive(Debug)]
struct Credential {
    client: Client,
    url: String,
}

#[async_trait]
impl TokenCredential for Credential {
    async fn get_token(
        &self,
        _scopes: &[&str],
        _options: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        let (token, lifetime) = fetch(&self.client, &self.url)
            .await
            .map_err(|error| azure_core::Error::new(ErrorKind::Credential, error))?;
        let lifetime =
            Duration::try_from(lifetime).map_err(|error| azure_core::Error::new(ErrorKind::Credential, error))?;
        Ok(AccessToken::new(token, OffsetDateTime::now_utc() + lifetime))
    }
}

/// Transport that responds at once.
#[derive(Debug)]
struct Stub;

#[async_trait]
impl Policy for Stub {
    async fn send(&self, _context: &Context, request: &mut Request, _next: &[Arc<dyn Policy>]) -> PolicyResult {
        black_box(request);
        Ok(AsyncRawResponse::from_bytes(StatusCode::Ok, Headers::new(), ""))
    }
}

/// Policy that sets a fixed header: the floor of the pipeline.
#[derive(Debug)]
struct ConstantHeader;

#[async_trait]
impl Policy for ConstantHeader {
    async fn send(&self, context: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        request.insert_header(AUTHORIZATION, HeaderValue::from_static("Bearer constant"));
        next[0].send(context, request, &next[1..]).await
    }
}
