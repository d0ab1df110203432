//! Same-origin check: whether a request comes from one of this server's own pages.

use axum::http::{
    HeaderMap, HeaderValue, Uri,
    header::{HOST, ORIGIN},
    uri::Authority,
};

/// Whether the browser says that the request comes from a page of this server.
///
/// Browsers say so in `Sec-Fetch-Site`, and no page can change it. They send it only over https and to loopback, so
/// serve this over https. A request without it is rejected: a page's GET to its own server has no `Origin` to check
/// instead. If there is an `Origin`, it must be this server's too.
///
/// This does not stop programs such as curl, which can send any header.
pub(crate) fn is_from_own_page(headers: &HeaderMap) -> bool {
    let same_origin = headers.get("Sec-Fetch-Site").is_some_and(|site| site == "same-origin");
    same_origin
        && headers
            .get(ORIGIN)
            .is_none_or(|origin| is_this_host(origin, headers).unwrap_or(false))
}

/// Whether `Origin` is the host that the request was sent to.
fn is_this_host(origin: &HeaderValue, headers: &HeaderMap) -> Option<bool> {
    let origin: Uri = origin.to_str().ok()?.parse().ok()?;
    let host: Authority = headers.get(HOST)?.to_str().ok()?.parse().ok()?;
    Some(origin.scheme().is_some() && origin.authority() == Some(&host))
}
