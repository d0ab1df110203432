//! Server of the map page: the page, its files, and the token route.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{ConnectInfo, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode, Uri,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
        },
    },
    middleware,
    response::{Html, IntoResponse, Response},
    routing::get,
};
use osdatahub_auth::{BearerAuth, FakeDataHub, HandOut, TokenEndpoint, TokenManager};
use reqwest::Url;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use crate::{clients::ClientLimiter, origin};

/// Minimum remaining lifetime of a token for a page. A page renews 30 s before expiry, so it does not ask again for
/// 90 s.
const MIN_REMAINING: Duration = Duration::from_secs(120);

/// Quota of a client: far more than a page needs, and enough for a dozen pages behind one address.
const TOKENS_PER_MINUTE: u32 = 30;

/// Minimum time between probes of the API, however many pages say that it refused their token.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);

/// Time limit of a probe, because a page waits for its token meanwhile.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Path template of OS's raster tiles, in the projection that web maps use.
const TILES: &str = "/maps/raster/v1/zxy/Road_3857/{z}/{x}/{y}.png";

/// Tile for probes, at the smallest scale: one of the cheapest requests to the API.
const PROBE_TILE: &str = "/maps/raster/v1/zxy/Road_3857/7/63/42.png";

const PAGE: &str = include_str!("../page/index.html");

/// Files of the page: path, type, content. `maplibre/` is unchanged from npm.
const FILES: [(&str, &str, &[u8]); 7] = [
    ("/page.css", "text/css", include_bytes!("../page/page.css")),
    ("/map.js", "text/javascript", include_bytes!("../page/map.js")),
    ("/failed.js", "text/javascript", include_bytes!("../page/failed.js")),
    ("/token.js", "text/javascript", include_bytes!("../page/token.js")),
    (
        "/maplibre/maplibre-gl.css",
        "text/css",
        include_bytes!("../page/maplibre/maplibre-gl.css"),
    ),
    (
        "/maplibre/maplibre-gl.mjs",
        "text/javascript",
        include_bytes!("../page/maplibre/maplibre-gl.mjs"),
    ),
    (
        "/maplibre/maplibre-gl-worker.mjs",
        "text/javascript",
        include_bytes!("../page/maplibre/maplibre-gl-worker.mjs"),
    ),
];

/// State of the server.
#[derive(Debug)]
pub struct MapServer {
    tokens: TokenManager,
    /// Client for the server's own requests, with `BearerAuth` in its chain.
    os: ClientWithMiddleware,
    /// Origin of the tiles, and the only one that the page may send the token to.
    api: String,
    /// URL template of overlay tiles, with `{z}/{x}/{y}`; they get no token. Empty for no overlay.
    overlay: String,
    limiter: ClientLimiter,
    last_probe: Mutex<Option<Instant>>,
}

impl MapServer {
    /// Server for these tokens. `os` is a client with their `BearerAuth`, and `api` is the origin of OS's APIs.
    #[must_use]
    pub fn new(tokens: TokenManager, os: ClientWithMiddleware, api: &Url) -> Self {
        Self {
            tokens,
            os,
            api: api.origin().ascii_serialization(),
            overlay: String::new(),
            limiter: ClientLimiter::new(TOKENS_PER_MINUTE),
            last_probe: Mutex::new(None),
        }
    }

    /// Server for a fake Data Hub.
    ///
    /// # Errors
    ///
    /// If a client cannot be built.
    pub fn of_fake(hub: &FakeDataHub) -> Result<Self, Box<dyn std::error::Error>> {
        let endpoint = TokenEndpoint::builder(hub.credentials())
            .token_url(hub.token_url())
            .build()?;
        let tokens = TokenManager::builder(endpoint).build()?;
        let os = ClientBuilder::new(hub.client_builder().build()?)
            .with(BearerAuth::new(tokens.clone()).with_origin(hub.origin())?)
            .build();
        Ok(Self::new(tokens, os, &hub.origin()))
    }

    /// Sets the URL template of tiles to show over the map. They are requested without the token. Defaults to none.
    #[must_use]
    pub fn with_overlay(mut self, tiles: &str) -> Self {
        tiles.clone_into(&mut self.overlay);
        self
    }

    /// Router of all routes. Serve it with connection info, because the rate limit uses the client's address.
    pub fn router(self) -> Router {
        let server = Arc::new(self);
        let mut router = Router::new().route("/", get(page)).route("/token", get(token));
        for (path, kind, content) in FILES {
            let file = ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache")], content);
            router = router.route(path, get(move || async move { file }));
        }
        let headers = middleware::map_response_with_state(Arc::clone(&server), security_headers);
        router.layer(headers).with_state(server)
    }

    /// Probes the API with one request, after a page said that the API refused its token.
    ///
    /// The server does not rely on what a page says. If the API refuses the probe too, `BearerAuth` replaces the
    /// token.
    async fn probe_api(&self) {
        let mut last_probe = self.last_probe.lock().await;
        if last_probe.is_none_or(|probed| probed.elapsed() >= PROBE_INTERVAL) {
            let probe = self.os.get(format!("{}{PROBE_TILE}", self.api)).send();
            // The result does not matter: the caller then hands out the current token, replaced or not.
            let _ = timeout(PROBE_TIMEOUT, probe).await;
            *last_probe = Some(Instant::now());
        }
    }
}

/// Token route of the page. `?refused` says that the API refused the last token.
async fn token(
    State(server): State<Arc<MapServer>>,
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    // Add your own check here: is there a session, and may its user see the map? The check below only rejects pages
    // of other sites. It does not stop people or programs.
    if !origin::is_own(&headers) {
        return (StatusCode::FORBIDDEN, HandOut::headers()).into_response();
    }
    // Behind a proxy, every client has the proxy's address. Take the client's from the header that your proxy sets,
    // and from no other header.
    if let Err(wait) = server.limiter.admit(client.ip()) {
        let wait = [(RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1))];
        return (StatusCode::TOO_MANY_REQUESTS, HandOut::headers(), wait).into_response();
    }
    if uri.query() == Some("refused") {
        server.probe_api().await;
    }
    match server.tokens.hand_out(MIN_REMAINING).await {
        Ok(hand_out) => (HandOut::headers(), Json(hand_out)).into_response(),
        Err(error) => HandOut::refusal(&error).into_response(),
    }
}

async fn page(State(server): State<Arc<MapServer>>) -> impl IntoResponse {
    let overlay = server.overlay.replace('&', "&amp;").replace('"', "&quot;");
    let page = PAGE
        .replace("{{tiles}}", &format!("{}{TILES}", server.api))
        .replace("{{overlay}}", &overlay);
    ([(CACHE_CONTROL, "no-cache")], Html(page))
}

/// Sets the security headers of every response.
///
/// Only the page's own files may run, and the page may connect only to this server and to the origins of the tiles.
async fn security_headers(State(server): State<Arc<MapServer>>, mut response: Response) -> Response {
    let overlay = server
        .overlay
        .parse()
        .map_or(String::new(), |url: Url| url.origin().ascii_serialization());
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; worker-src 'self'; \
         connect-src 'self' {} {overlay}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        server.api
    );
    let headers = response.headers_mut();
    if let Ok(policy) = policy.try_into() {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    for (name, value) in [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
