//! `/livez` and `/readyz`: the probes of an orchestrator.

use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;
use osdatahub_auth::TokenState;

use crate::Service;

/// The process runs. A restart helps against nothing else, least of all against an outage of OS.
pub(crate) async fn livez() -> &'static str {
    "alive\n"
}

/// Ready while there is a token. This sends no request, so a probe may call it as often as it likes.
pub(crate) async fn readyz(State(service): State<Arc<Service>>) -> (StatusCode, String) {
    let status = service.tokens.status();
    let code = match status.state {
        TokenState::Fresh | TokenState::Stale => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    // The kind alone: the rest of the error is for operators.
    let last_error = status
        .last_error
        .map_or("none".to_owned(), |error| error.kind().to_string());
    (code, format!("{:?}, last error: {last_error}\n", status.state))
}
