//! A look at the beginning of a response's body, which takes nothing away from who reads it next.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use reqwest::{Body, Response, ResponseBuilderExt};
use tokio::time::timeout;

/// Apigee's faults have about 200 bytes, and come with the headers.
const LONGEST_LOOK: Duration = Duration::from_secs(1);
const FARTHEST_LOOK: usize = 16 * 1024;

/// The beginning of the body, as much as there is within 1 s and 16 KiB; and the response as if nobody had looked, with
/// its url, version, headers, extensions and body, down to an error in the middle of it.
pub(crate) async fn peek(response: Response) -> (Vec<u8>, Response) {
    let url = response.url().clone();
    let (mut parts, body) = http::Response::<Body>::from(response).into_parts();
    let mut body = Peeked {
        seen: VecDeque::new(),
        rest: body,
    };
    let mut beginning = Vec::new();
    // Running out of time is one way to have seen enough.
    let _ = timeout(LONGEST_LOOK, body.look(&mut beginning)).await;
    // The url of a reqwest::Response travels in an extension that only this builder can make.
    if let Some(extensions) = http::Response::builder().url(url).extensions_mut() {
        parts.extensions.extend(std::mem::take(extensions));
    }
    let response = http::Response::from_parts(parts, Body::wrap(body));
    (beginning, response.into())
}

/// A body of which the first frames have been seen already.
struct Peeked {
    seen: VecDeque<Result<Frame<Bytes>, reqwest::Error>>,
    rest: Body,
}

impl Peeked {
    async fn look(&mut self, beginning: &mut Vec<u8>) {
        while beginning.len() < FARTHEST_LOOK {
            let Some(frame) = self.rest.frame().await else {
                return;
            };
            let failed = frame.is_err();
            if let Some(data) = frame.as_ref().ok().and_then(Frame::data_ref) {
                let room = FARTHEST_LOOK - beginning.len();
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
