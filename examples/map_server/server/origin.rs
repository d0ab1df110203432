//! Whether it is one of our own pages that asks.

use axum::http::{
    HeaderMap, Uri,
    header::{HOST, ORIGIN},
    uri::Authority,
};

/// Browsers say where a request comes from, and no page can make them say otherwise: in `Sec-Fetch-Site`, which all of
/// them have sent since 2023 to servers with https and on loopback, or else in `Origin`. Who says nothing, like curl, is
/// refused; who lies, like curl if told to, is not kept out by this.
pub(crate) fn is_own(headers: &HeaderMap) -> bool {
    match headers.get("Sec-Fetch-Site") {
        Some(site) => site == "same-origin",
        None => names_us(headers).unwrap_or(false),
    }
}

/// `Origin` names the host that the request was sent to.
fn names_us(headers: &HeaderMap) -> Option<bool> {
    let origin: Uri = headers.get(ORIGIN)?.to_str().ok()?.parse().ok()?;
    let host: Authority = headers.get(HOST)?.to_str().ok()?.parse().ok()?;
    Some(origin.scheme().is_some() && origin.authority() == Some(&host))
}
