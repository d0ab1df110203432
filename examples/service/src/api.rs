//! Client for one of OS's APIs: a chain of layers.

use std::time::Duration;

use http::HeaderMap;
use reqwest::{Response, StatusCode, Url};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use reqwest_retry::{
    DefaultRetryableStrategy, RetryTransientMiddleware, Retryable, RetryableStrategy, policies::ExponentialBackoff,
};
use reqwest_tracing::TracingMiddleware;
use tokio::time::timeout;

use crate::{Os, pace::Pace, refusal::Refusal};

/// Time limit of a request with all its waits and retries.
const TIMEOUT: Duration = Duration::from_secs(10);

/// One API, which OS counts by itself.
#[derive(Debug)]
pub(crate) struct Api {
    name: &'static str,
    origin: Url,
    client: ClientWithMiddleware,
}

impl Api {
    /// Client with the layers in this order:
    ///
    /// - **Tracing** is the outermost, so that a request has one span with all its attempts, and no token in it.
    /// - **Retry** stands outside pacing, because every attempt costs a transaction and has to take its turn.
    /// - **Pacing** stands outside `BearerAuth`, so that the token is taken after the wait for the turn and not before.
    /// - **`BearerAuth`** stands next to the client. What it repeats after a 401 does not take a turn. It happens once
    ///   for a revoked token, and `Pace` leaves room for it.
    pub(crate) fn new(name: &'static str, os: &Os, pace: Pace) -> Self {
        let policy = ExponentialBackoff::builder()
            .retry_bounds(Duration::from_millis(100), Duration::from_secs(1))
            .build_with_max_retries(2);
        let client = ClientBuilder::new(os.http.clone())
            .with(TracingMiddleware::default())
            .with(RetryTransientMiddleware::new_with_policy_and_strategy(
                policy,
                UnlessRateLimited,
            ))
            .with(pace)
            .with(os.auth.clone())
            .build();
        let origin = os.origin.clone();
        Self { name, origin, client }
    }

    /// Sends a `GET`. The response is a 200 or a 304: anything else is a refusal.
    pub(crate) async fn get(
        &self,
        path: &str,
        query: &[(&str, &str)],
        headers: HeaderMap,
    ) -> Result<Response, Refusal> {
        let mut url = self.origin.clone();
        url.set_path(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = self.client.get(url).headers(headers);
        let response = match timeout(TIMEOUT, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(Refusal::of_error(self.name, &error)),
            Err(_) => return Err(Refusal::late(self.name)),
        };
        match response.status() {
            StatusCode::OK | StatusCode::NOT_MODIFIED => Ok(response),
            _ => Err(Refusal::of_response(self.name, &response)),
        }
    }
}

/// Retry strategy that leaves a 429 alone. The default one repeats it within a second, which costs more transactions.
struct UnlessRateLimited;

impl RetryableStrategy for UnlessRateLimited {
    fn handle(&self, result: &reqwest_middleware::Result<Response>) -> Option<Retryable> {
        match result {
            Ok(response) if response.status() == StatusCode::TOO_MANY_REQUESTS => None,
            result => DefaultRetryableStrategy.handle(result),
        }
    }
}
