//! The routes, and what they share.

use std::{future::ready, num::NonZeroU32, sync::Arc};

use axum::{Router, extract::Request, routing::get};
use http::{HeaderValue, header::X_CONTENT_TYPE_OPTIONS};
use map_server::rate_limit::RateLimit;
use metrics_exporter_prometheus::PrometheusHandle;
use osdatahub_auth::TokenManager;
use tower_http::{set_header::SetResponseHeaderLayer, trace::TraceLayer};

use crate::{Os, api::Api, geocode, health, pace::Pace, tiles, token};

/// Quota of a client for `/token`: enough for a dozen pages behind one address.
const TOKENS_PER_MINUTE: u32 = 30;

/// State of the service.
#[derive(Debug)]
pub struct Service {
    pub(crate) names: Api,
    pub(crate) maps: Api,
    pub(crate) tokens: TokenManager,
    pub(crate) rate_limit: RateLimit,
}

impl Service {
    /// Service in front of OS that spends at most `per_minute` transactions of each API.
    #[must_use]
    pub fn new(os: &Os, per_minute: NonZeroU32) -> Self {
        let api = |name| Api::new(name, os, Pace::new(name, per_minute));
        Self {
            names: api("names"),
            maps: api("maps"),
            tokens: os.tokens.clone(),
            rate_limit: RateLimit::new(TOKENS_PER_MINUTE),
        }
    }

    /// Router of all routes, for the map server's `listener::serve_until`.
    pub fn router(self, metrics: PrometheusHandle) -> Router {
        // The path alone: a query says what a user is looking for.
        let span =
            |request: &Request| tracing::info_span!("request", method = %request.method(), path = request.uri().path());
        let nosniff = HeaderValue::from_static("nosniff");
        Router::new()
            .route("/geocode", get(geocode::geocode))
            .route("/tiles/{z}/{x}/{y}", get(tiles::tile))
            .route("/token", get(token::token))
            .route("/livez", get(health::livez))
            .route("/readyz", get(health::readyz))
            .route("/metrics", get(move || ready(metrics.render())))
            .layer(SetResponseHeaderLayer::overriding(X_CONTENT_TYPE_OPTIONS, nosniff))
            // `Refusal` logs why a request failed, and one line is enough.
            .layer(TraceLayer::new_for_http().make_span_with(span).on_failure(()))
            .with_state(Arc::new(self))
    }
}
