//! The copy of a request, for a replay.

use reqwest::Request;

/// Copies a request. `None` if its body is a stream.
///
/// Every request pays for this. `Request::try_clone` allocates a map for the timeout even if there is none, which takes
/// most of its time. Requests to OS usually have neither a body nor a timeout. Not inlined: within the middleware's
/// future it would slow down requests even with the replay turned off.
#[inline(never)]
pub(super) fn copy(request: &Request) -> Option<Request> {
    if request.body().is_some() || request.timeout().is_some() {
        return request.try_clone();
    }
    let mut copy = Request::new(request.method().clone(), request.url().clone());
    *copy.headers_mut() = request.headers().clone();
    *copy.version_mut() = request.version();
    Some(copy)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderValue, Method, Version};
    use reqwest::Body;

    use super::*;

    fn request() -> Request {
        let url = "https://api.os.uk/search/names/v1/find?query=Bath".parse().unwrap();
        let mut request = Request::new(Method::HEAD, url);
        let headers = request.headers_mut();
        headers.append("accept", HeaderValue::from_static("a"));
        headers.append("accept", HeaderValue::from_static("b"));
        *request.version_mut() = Version::HTTP_2;
        request
    }

    #[track_caller]
    fn assert_same(copy: &Request, original: &Request) {
        assert_eq!((copy.method(), copy.url()), (original.method(), original.url()));
        assert_eq!(copy.headers(), original.headers());
        assert_eq!(
            (copy.version(), copy.timeout()),
            (original.version(), original.timeout())
        );
        let bytes = |request: &Request| request.body().and_then(Body::as_bytes).map(<[u8]>::to_vec);
        assert_eq!(bytes(copy), bytes(original));
    }

    #[test]
    fn a_copy_has_everything_of_the_original() {
        let plain = request();
        let mut with_timeout = request();
        *with_timeout.timeout_mut() = Some(Duration::from_secs(3));
        let mut with_body = request();
        *with_body.body_mut() = Some("body".into());
        for original in [plain, with_timeout, with_body] {
            assert_same(&copy(&original).unwrap(), &original);
        }
    }
}
