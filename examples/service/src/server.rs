//! The routes, and what they share.

use std::{fmt, num::NonZeroU32, sync::Arc};

use axum::{
    Router,
    extract::Request,
    middleware::{from_fn, map_response},
    response::Response,
    routing::get,
};
use http::{HeaderValue, header::X_CONTENT_TYPE_OPTIONS};
use map_server::rate_limit::RateLimit;
use metrics_exporter_prometheus::PrometheusHandle;
use osdatahub_auth::TokenManager;
use tower_http::trace::TraceLayer;

use crate::{Os, api::Api, geocode, health, metrics, pace::Pace, tiles, token};

/// Quota of a client for `/token`: enough for a dozen pages behind one address.
const TOKENS_PER_MINUTE: u32 = 30;

/// State of the service.
pub struct Service {
    pub(crate) names: Api,
    pub(crate) maps: Api,
    pub(crate) tokens: TokenManager,
    pub(crate) rate_limit: RateLimit,
    pub(crate) metrics: PrometheusHandle,
}

impl Service {
    /// Service in front of OS that spends at most `per_minute` transactions of each API.
    #[must_use]
    pub fn new(os: &Os, per_minute: NonZeroU32, metrics: PrometheusHandle) -> Self {
        let api = |name| Api::new(name, os, Pace::new(name, per_minute));
        Self {
            names: api("names"),
            maps: api("maps"),
            tokens: os.tokens.clone(),
            rate_limit: RateLimit::new(TOKENS_PER_MINUTE),
            metrics,
        }
    }

    /// Router of all routes, for the map server's `listener::serve_until`.
    pub fn router(self) -> Router {
        // The path alone: a query says what somebody is looking for.
        let span =
            |request: &Request| tracing::info_span!("request", method = %request.method(), path = request.uri().path());
        Router::new()
            .route("/geocode", get(geocode::geocode))
            .route("/tiles/{z}/{x}/{y}", get(tiles::tile))
            .route("/token", get(token::token))
            .route("/livez", get(health::livez))
            .route("/readyz", get(health::readyz))
            .route("/metrics", get(metrics::metrics))
            .layer(from_fn(metrics::track))
            .layer(map_response(no_sniffing))
            // `Refusal` logs why a request failed, and one line is enough.
            .layer(TraceLayer::new_for_http().make_span_with(span).on_failure(()))
            .with_state(Arc::new(self))
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}

async fn no_sniffing(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
