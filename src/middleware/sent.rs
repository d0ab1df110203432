//! The facts about a sent request that are needed to judge its 401.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use http::Method;
use reqwest::{Request, Response, Url};
use url::Position;

use super::{challenge, peek::peek};
use crate::{fault::Verdict, origins::Origin};

/// OS's are shorter than 20.
const MAX_API_LENGTH: usize = 64;

/// What a 401 is compared with. The client consumes the request, and a copy of its URL would cost every request an
/// allocation. So this keeps a hash.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent<'a> {
    origin: &'a Origin,
    path_and_query: u64,
    is_head: bool,
    is_replay: bool,
}

impl<'a> Sent<'a> {
    pub(super) fn new(request: &Request, origin: &'a Origin) -> Self {
        Self {
            origin,
            path_and_query: path_and_query(request.url()),
            is_head: request.method() == Method::HEAD,
            is_replay: false,
        }
    }

    /// The same request, sent for the second time.
    pub(super) fn again(self) -> Self {
        Self {
            is_replay: true,
            ..self
        }
    }

    pub(super) fn is_replay(&self) -> bool {
        self.is_replay
    }

    /// The verdict on the 401 to this request. `None` if it says nothing about the token.
    pub(super) async fn verdict(&self, response: Response) -> (Option<Verdict>, Response) {
        if !self.is_from_origin(&response) {
            return (None, response);
        }
        let (verdict, response) = judge(response).await;
        (self.counts(verdict, &response).then_some(verdict), response)
    }

    /// Whether the response is from the origin that got the token. `reqwest` drops the token when it follows a redirect
    /// to another origin.
    fn is_from_origin(&self, response: &Response) -> bool {
        self.origin.is_of(response.url())
    }

    /// Whether a 401 from the same origin says anything about the token.
    ///
    /// If it gives no reason, it may not. After a redirect, the last request may have gone without the token, because
    /// the redirect led through another origin. A redirect back to the same URL cannot be seen. And the reason may have
    /// been in the body, which the response to a `HEAD` does not have.
    fn counts(&self, verdict: Verdict, response: &Response) -> bool {
        verdict != Verdict::Unexplained || !(self.was_redirected(response) || self.is_head)
    }

    /// The part of the request's path that names the API. `None` after a redirect, since the server chose that URL.
    pub(super) fn api<'r>(&self, response: &'r Response) -> Option<&'r str> {
        (!self.was_redirected(response)).then(|| api(response.url()))
    }

    fn was_redirected(&self, response: &Response) -> bool {
        path_and_query(response.url()) != self.path_and_query
    }
}

/// The verdict on a 401. Its headers count first, because reading the body takes time.
async fn judge(response: Response) -> (Verdict, Response) {
    if let Some(verdict) = challenge::verdict(response.headers()) {
        return (verdict, response);
    }
    let names_another_error = challenge::names_another_error(response.headers());
    let (beginning, response) = peek(response).await;
    let verdict = match Verdict::of_body(&beginning) {
        Verdict::Unexplained if names_another_error => Verdict::NotAboutToken,
        verdict => verdict,
    };
    (verdict, response)
}

/// The first two segments of the path, such as `/maps/raster`. Deeper ones may contain user data. Truncated if they are
/// long.
fn api(url: &Url) -> &str {
    let path = url.path();
    let end = path.match_indices('/').nth(2).map_or(path.len(), |(end, _)| end);
    // The path of a URL is ASCII.
    path.get(..end.min(MAX_API_LENGTH)).unwrap_or_default()
}

/// A hash of path and query, which are what a request targets within its origin.
///
/// Keyed at random, so that no server can construct a URL with the same hash as the request's and redirect there. Every
/// request pays for the hash, so it costs one multiplication per 8 bytes, as in wyhash. With std's `SipHash` a chain would
/// take 2 to 3 % longer.
fn path_and_query(url: &Url) -> u64 {
    static KEY: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(()));
    let text = url[Position::BeforePath..Position::AfterQuery].as_bytes();
    let (words, rest) = text.as_chunks();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let key = *KEY;
    words.iter().chain([&last]).fold(key ^ text.len() as u64, |hash, word| {
        let product = u128::from(hash ^ u64::from_le_bytes(*word)) * u128::from(key | 1);
        #[expect(clippy::cast_possible_truncation, reason = "it takes both halves")]
        let halves = (product as u64, (product >> 64) as u64);
        halves.0 ^ halves.1
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn hash(path: &str) -> u64 {
        path_and_query(&format!("https://api.os.uk{path}").parse().unwrap())
    }

    #[test]
    fn a_url_has_the_same_hash_without_its_fragment_and_at_another_origin() {
        for path in [
            "/",
            "/maps/raster/v1/zxy/Road_3857/7/63/42.png",
            "/search/names/v1/find?query=Bath",
        ] {
            assert_eq!(hash(path), hash(&format!("{path}#fragment")));
            let elsewhere = format!("https://gateway.example:8443{path}").parse().unwrap();
            assert_eq!(hash(path), path_and_query(&elsewhere));
        }
        assert_ne!(hash("/x"), hash("/x?"));
        assert_ne!(hash("/x?y"), hash("/x/y"));
    }

    #[test]
    fn a_url_that_collides_under_xor_and_rotation_has_another_hash() {
        let crafted = "/text-that-the/server-chose-and-more-of-it/xxxxxnArno$:9.=YkH017";
        assert_ne!(hash(crafted), hash("/search/names/v1/find?query=Bath"));
    }

    #[test]
    fn an_api_is_the_first_two_segments_of_its_path_and_never_long() {
        let api = |path: &str| api(&format!("https://api.os.uk{path}").parse().unwrap()).to_owned();
        for (path, expected) in [
            ("", "/"),
            ("/", "/"),
            ("/downloads", "/downloads"),
            ("/maps/raster", "/maps/raster"),
            ("/maps/raster/", "/maps/raster"),
            ("/maps/raster/v1/zxy/Road_3857/7/63/42.png", "/maps/raster"),
            ("/search/names?query=/a/b/c", "/search/names"),
            ("/search/names#/a/b/c", "/search/names"),
            ("/é/\n/x", "/%C3%A9/"),
        ] {
            assert_eq!(api(path), expected, "{path}");
        }
        assert_eq!(api(&format!("/search/{}", "x".repeat(10_000))).len(), MAX_API_LENGTH);
    }

    #[test]
    fn ten_thousand_tiles_have_ten_thousand_hashes() {
        let tiles =
            (0..100).flat_map(|x| (0..100).map(move |y| format!("/maps/raster/v1/zxy/Road_3857/7/{x}/{y}.png")));
        let hashes: HashSet<_> = tiles.map(|tile| hash(&tile)).collect();
        assert_eq!(hashes.len(), 10_000);
    }
}
