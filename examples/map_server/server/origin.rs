//! Whether it is one of our own pages that asks.

use axum::http::{
    HeaderMap, HeaderValue, Uri,
    header::{HOST, ORIGIN},
    uri::Authority,
};

/// Browsers say where a request comes from, and no page can make them say otherwise: in `Sec-Fetch-Site`, which they
/// send to https and to loopback only, so serve this over https. Without it nobody is admitted, as a page's GET to its
/// own server has no `Origin` to go by instead; if there is one all the same, it must be ours too. Who lies, like curl
/// if told to, is not kept out by this.
pub(crate) fn is_own(headers: &HeaderMap) -> bool {
    let same_origin = headers.get("Sec-Fetch-Site").is_some_and(|site| site == "same-origin");
    same_origin
        && headers
            .get(ORIGIN)
            .is_none_or(|origin| names_us(origin, headers).unwrap_or(false))
}

/// `Origin` names the host that the request was sent to.
fn names_us(origin: &HeaderValue, headers: &HeaderMap) -> Option<bool> {
    let origin: Uri = origin.to_str().ok()?.parse().ok()?;
    let host: Authority = headers.get(HOST)?.to_str().ok()?.parse().ok()?;
    Some(origin.scheme().is_some() && origin.authority() == Some(&host))
}
