//! Page with the map: its files, and the security headers of every response.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{
        HeaderName, HeaderValue,
        header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS},
    },
    response::{Html, IntoResponse, Response},
    routing::get,
};
use reqwest::Url;

use crate::MapServer;

/// Path template of OS's raster tiles, in the projection that web maps use.
const TILES: &str = "/maps/raster/v1/zxy/Road_3857/{z}/{x}/{y}.png";

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

/// Routes of the page and its files.
pub(crate) fn routes() -> Router<Arc<MapServer>> {
    let mut router = Router::new().route("/", get(page));
    for (path, kind, content) in FILES {
        let file = ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache")], content);
        router = router.route(path, get(move || async move { file }));
    }
    router
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
pub(crate) async fn security_headers(State(server): State<Arc<MapServer>>, mut response: Response) -> Response {
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
