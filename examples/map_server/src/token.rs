//! Token route: hands out a short-lived token to the page.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{ConnectInfo, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use osdatahub_auth::HandOut;

use crate::{MapServer, same_origin};

/// Minimum remaining lifetime of a token for a page. A page renews its token 30 s before expiry, so it asks every 90 s
/// at most.
const MIN_REMAINING: Duration = Duration::from_secs(120);

/// Token route of the page. `?refused` reports that the API refused the last token.
pub(crate) async fn token(
    State(server): State<Arc<MapServer>>,
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    // Add your own check here: is there a session, and may its user see the map? The check below only refuses pages
    // of other sites. It does not stop people or programs.
    if !same_origin::is_from_own_page(&headers) {
        return (StatusCode::FORBIDDEN, HandOut::headers()).into_response();
    }
    // Behind a proxy, every client has the proxy's address. Take the client's from the header that your proxy sets,
    // and from no other header.
    if let Err(wait) = server.rate_limit.admit(client.ip()) {
        let wait = [(RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1))];
        return (StatusCode::TOO_MANY_REQUESTS, HandOut::headers(), wait).into_response();
    }
    if uri.query() == Some("refused") {
        server.probe.run().await;
    }
    match server.tokens.hand_out(MIN_REMAINING).await {
        Ok(hand_out) => (HandOut::headers(), Json(hand_out)).into_response(),
        Err(error) => HandOut::refusal(&error).into_response(),
    }
}
