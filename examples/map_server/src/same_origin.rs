//! Same-origin check: whether a request comes from one of this server's own pages.

use axum::http::{
    HeaderMap,
    header::{HOST, ORIGIN},
    uri::Authority,
};

/// Whether the browser says that the request comes from a page of this server.
///
/// Browsers say so in `Sec-Fetch-Site`, which no page can change. A request without that header is refused: with a
/// page's GET to its own server, browsers send no `Origin` to compare instead. If there is an `Origin`, it must be this
/// server's. No browser repeats either header, so a request that does is refused.
///
/// This does not stop programs such as curl, which can send any header.
#[must_use]
pub fn is_from_own_page(headers: &HeaderMap) -> bool {
    let is_same_origin = headers.get_all("Sec-Fetch-Site").iter().eq(["same-origin"]);
    let is_origin = |own: String| headers.get_all(ORIGIN).iter().eq([&own]);
    is_same_origin && (!headers.contains_key(ORIGIN) || own_origin(headers).is_some_and(is_origin))
}

/// Origin of this server as its pages see it: the browser's scheme, and `Host`.
///
/// The server itself speaks http, and cannot see whether a proxy in front of it speaks https. But browsers send
/// `Sec-Fetch-Site` only over https and to loopback. So the scheme is http for a loopback host, and https for any
/// other.
fn own_origin(headers: &HeaderMap) -> Option<String> {
    let host: Authority = headers.get(HOST)?.to_str().ok()?.parse().ok()?;
    let scheme = match host.host() {
        "localhost" | "127.0.0.1" | "[::1]" => "http",
        _ => "https",
    };
    Some(format!("{scheme}://{host}"))
}
