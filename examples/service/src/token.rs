//! `/token`: a short-lived token for a map on this service's own pages.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{ConnectInfo, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header::RETRY_AFTER};
use map_server::same_origin;
use osdatahub_auth::HandOut;

use crate::Service;

/// Minimum remaining lifetime of a token for a page.
const MIN_REMAINING: Duration = Duration::from_secs(120);

/// What a page requests with this token costs transactions that `Pace` does not see. Leave the route out if your pages
/// use `/tiles`.
pub(crate) async fn token(
    State(service): State<Arc<Service>>,
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Response {
    // Add your own check here: is there a session, and may its user see the map? The check below only refuses pages
    // of other sites. It does not stop people or programs.
    if !same_origin::is_from_own_page(&headers) {
        return (StatusCode::FORBIDDEN, HandOut::headers()).into_response();
    }
    // Behind a proxy, take the client's address from the header that your proxy sets, and from no other.
    if let Err(wait) = service.rate_limit.admit(client.ip()) {
        let wait = [(RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1))];
        return (StatusCode::TOO_MANY_REQUESTS, HandOut::headers(), wait).into_response();
    }
    match service.tokens.hand_out(MIN_REMAINING).await {
        Ok(hand_out) => (HandOut::headers(), Json(hand_out)).into_response(),
        Err(error) => HandOut::refusal(&error).into_response(),
    }
}
