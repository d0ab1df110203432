//! The server: the page, its files, and the token. One module for the example and for the tests of the map page.

mod clients;
mod origin;

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
use clients::Clients;
use osdatahub_auth::{BearerAuth, FakeDataHub, HandOut, TokenEndpoint, TokenManager};
use reqwest::Url;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

/// A page that gets a token with this much left of OS's 299 s comes again after a minute and a half at the earliest.
const AT_LEAST: Duration = Duration::from_secs(120);

/// What a page may ask in a minute: far more than it does, and enough for a dozen of them behind one address.
const TOKENS_PER_MINUTE: u32 = 30;

/// However many pages say that the API refused their token, the server looks no more often than this.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// A page waits for its token while the server looks.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// OS's raster tiles, in the projection that web maps use.
const TILES: &str = "/maps/raster/v1/zxy/Road_3857/{z}/{x}/{y}.png";

/// A tile of the smallest scale: as little as can be asked of the API.
const ONE_TILE: &str = "/maps/raster/v1/zxy/Road_3857/7/63/42.png";

const PAGE: &str = include_str!("../page/index.html");

/// The page's files: path, type, content. `maplibre/` is as it comes from npm.
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

/// What the server knows.
pub(crate) struct MapServer {
    tokens: TokenManager,
    /// Sends the server's own requests, with `BearerAuth` in its chain.
    os: ClientWithMiddleware,
    /// Where the tiles are, and nothing else: the one origin that the page may send the token to.
    api: String,
    /// More tiles to show, from elsewhere and without a token: a URL with `{z}/{x}/{y}`, or nothing.
    overlay: String,
    clients: Clients,
    looked: Mutex<Option<Instant>>,
}

impl MapServer {
    /// `os` is a client with these tokens' `BearerAuth`, and `api` the origin of OS's APIs.
    pub(crate) fn new(tokens: TokenManager, os: ClientWithMiddleware, api: &Url) -> Self {
        Self {
            tokens,
            os,
            api: api.origin().ascii_serialization(),
            overlay: String::new(),
            clients: Clients::new(TOKENS_PER_MINUTE),
            looked: Mutex::new(None),
        }
    }

    /// The same in front of a fake Data Hub.
    pub(crate) fn of_fake(hub: &FakeDataHub) -> Result<Self, Box<dyn std::error::Error>> {
        let endpoint = TokenEndpoint::builder(hub.credentials())
            .token_url(hub.token_url())
            .build()?;
        let tokens = TokenManager::builder(endpoint).build()?;
        let os = ClientBuilder::new(hub.client_builder().build()?)
            .with(BearerAuth::new(tokens.clone()).with_origin(hub.origin())?)
            .build();
        Ok(Self::new(tokens, os, &hub.origin()))
    }

    /// Shows these tiles over the map. Their server does not get the token. Defaults to none.
    pub(crate) fn with_overlay(mut self, tiles: &str) -> Self {
        tiles.clone_into(&mut self.overlay);
        self
    }

    /// To be served with each connection's address, which the limit on tokens goes by.
    pub(crate) fn router(self) -> Router {
        let server = Arc::new(self);
        let mut router = Router::new().route("/", get(page)).route("/token", get(token));
        for (path, kind, content) in FILES {
            let file = ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache")], content);
            router = router.route(path, get(move || async move { file }));
        }
        let guard = middleware::map_response_with_state(Arc::clone(&server), guard);
        router.layer(guard).with_state(server)
    }

    /// A page says that the API refused its token. A page's word is no proof, but a reason to look: `BearerAuth` gets
    /// the same refusal, if it is one, and replaces the token.
    async fn look_again(&self) {
        let mut looked = self.looked.lock().await;
        if looked.is_none_or(|looked| looked.elapsed() >= LOOK_AGAIN_AFTER) {
            let look = self.os.get(format!("{}{ONE_TILE}", self.api)).send();
            // Whatever comes of it, the next line of the caller hands out the token that there is.
            let _ = timeout(LOOK_LIMIT, look).await;
            *looked = Some(Instant::now());
        }
    }
}

/// The token for the page. `?refused` says that the API refused the last one.
async fn token(
    State(server): State<Arc<MapServer>>,
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    // Your own check belongs here: is there a session, and may its user see the map? What follows only keeps other
    // sites' pages out, not people or programs.
    if !origin::is_own(&headers) {
        return (StatusCode::FORBIDDEN, HandOut::headers()).into_response();
    }
    // Behind a proxy, all clients have its address: take theirs from the header that the proxy sets, and from no other.
    if let Err(wait) = server.clients.admit(client.ip()) {
        let wait = [(RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1))];
        return (StatusCode::TOO_MANY_REQUESTS, HandOut::headers(), wait).into_response();
    }
    if uri.query() == Some("refused") {
        server.look_again().await;
    }
    match server.tokens.hand_out(AT_LEAST).await {
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

/// Nothing but the page's own files runs, and nothing goes anywhere but to this server and to where the tiles are.
async fn guard(State(server): State<Arc<MapServer>>, mut response: Response) -> Response {
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
