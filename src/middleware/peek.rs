//! A peek at the start of a response's body, which leaves the whole body for the next reader.

use std::task::{Context, Poll};
use std::{collections::VecDeque, pin::Pin, time::Duration};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use reqwest::{Body, Response, ResponseBuilderExt};
use tokio::time::timeout;

/// Apigee's faults are about 200 bytes long and arrive with the headers.
const MAX_TIME: Duration = Duration::from_secs(1);
const MAX_BYTES: usize = 16 * 1024;

/// Reads the start of the body, for at most 1 s and 16 KiB, and puts it back.
///
/// The response comes back unchanged: its URL, version, headers, extensions and body, even an error in mid-body.
pub(crate) async fn peek(response: Response) -> (Vec<u8>, Response) {
    let url = response.url().clone();
    let (mut parts, body) = http::Response::<Body>::from(response).into_parts();
    let mut body = Peeked {
        seen: VecDeque::new(),
        rest: body,
    };
    let mut beginning = Vec::new();
    // After a timeout, what has arrived is enough.
    let _ = timeout(MAX_TIME, body.look(&mut beginning)).await;
    // reqwest keeps the URL in an extension that only this builder can make.
    if let Some(extensions) = http::Response::builder().url(url).extensions_mut() {
        parts.extensions.extend(std::mem::take(extensions));
    }
    let response = http::Response::from_parts(parts, Body::wrap(body));
    (beginning, response.into())
}

/// A body whose first frames have been read already.
struct Peeked {
    seen: VecDeque<Result<Frame<Bytes>, reqwest::Error>>,
    rest: Body,
}

impl Peeked {
    async fn look(&mut self, beginning: &mut Vec<u8>) {
        while beginning.len() < MAX_BYTES {
            let Some(frame) = self.rest.frame().await else {
                return;
            };
            let failed = frame.is_err();
            if let Some(data) = frame.as_ref().ok().and_then(Frame::data_ref) {
                let room = MAX_BYTES - beginning.len();
                beginning.extend_from_slice(&data[..data.len().min(room)]);
            }
            self.seen.push_back(frame);
            if failed {
                return;
            }
        }
    }
}

impl HttpBody for Peeked {
    type Data = Bytes;
    type Error = reqwest::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, reqwest::Error>>> {
        match self.seen.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None => Pin::new(&mut self.rest).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.seen.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let frames = self.seen.iter().filter_map(|frame| frame.as_ref().ok()?.data_ref());
        let seen: u64 = frames.map(|data| data.len() as u64).sum();
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(seen));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(seen));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tokio::time::Instant;

    use super::*;

    /// A body that arrives in these pieces and then ends or hangs.
    struct Pieces {
        left: VecDeque<Bytes>,
        hangs: bool,
    }

    impl HttpBody for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.left.pop_front() {
                None if self.hangs => Poll::Pending,
                piece => Poll::Ready(piece.map(|piece| Ok(Frame::data(piece)))),
            }
        }

        fn is_end_stream(&self) -> bool {
            self.left.is_empty() && !self.hangs
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.left.iter().map(|piece| piece.len() as u64).sum())
        }
    }

    /// A response whose body arrives in pieces of these lengths, each with a different letter.
    fn response(lengths: &[usize], hangs: bool) -> Response {
        let letters = b'a'..;
        let left = letters
            .zip(lengths)
            .map(|(letter, length)| vec![letter; *length].into());
        let left = left.collect();
        http::Response::new(Body::wrap(Pieces { left, hangs })).into()
    }

    #[tokio::test(start_paused = true)]
    async fn the_beginning_has_16_kib_and_no_byte_more() {
        let (beginning, response) = peek(response(&[1_000, 20_000], false)).await;
        assert_eq!(beginning.len(), 16 * 1024);
        assert!(beginning.starts_with(b"aaaa") && beginning.ends_with(b"bbbb"));
        assert_eq!(response.bytes().await.unwrap().len(), 21_000);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_seen_enough_does_not_wait_for_more() {
        let start = Instant::now();
        let (beginning, _) = peek(response(&[16 * 1024], true)).await;
        assert_eq!(beginning.len(), 16 * 1024);
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_hangs_is_looked_at_for_a_second() {
        let start = Instant::now();
        let (beginning, _) = peek(response(&[10], true)).await;
        assert_eq!(beginning, b"aaaaaaaaaa");
        assert_eq!(start.elapsed(), MAX_TIME);
    }

    #[tokio::test(start_paused = true)]
    async fn the_body_keeps_its_size_hint_and_its_end() {
        for (lengths, hangs) in [
            (&[][..], false),
            (&[], true),
            (&[10, 20], false),
            (&[10, 20_000, 30_000], false),
        ] {
            let (_, peeked) = peek(response(lengths, hangs)).await;
            let (mut peeked, mut untouched) = (Body::from(peeked), Body::from(response(lengths, hangs)));
            for _ in 0..lengths.len() {
                assert_eq!(peeked.size_hint().exact(), untouched.size_hint().exact(), "{lengths:?}");
                assert_eq!(peeked.is_end_stream(), untouched.is_end_stream(), "{lengths:?}");
                let [ours, theirs] = [&mut peeked, &mut untouched].map(|body| body.frame());
                let [ours, theirs] = [ours.await, theirs.await].map(|frame| frame.unwrap().unwrap().into_data());
                assert_eq!(ours.unwrap(), theirs.unwrap());
            }
            assert_eq!(peeked.size_hint().exact(), Some(0));
            assert_eq!(peeked.is_end_stream(), !hangs, "{lengths:?}");
        }
    }
}
