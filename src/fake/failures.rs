//! Failures that a test has asked for, of the token endpoint or of the APIs.

use std::{collections::VecDeque, iter::repeat_n};

use super::answer::FakeAnswer;

#[derive(Default)]
pub(super) struct Failures {
    queued: VecDeque<FakeAnswer>,
    outage: Option<FakeAnswer>,
}

impl Failures {
    pub(super) fn queue(&mut self, n: usize, response: FakeAnswer) {
        self.queued.extend(repeat_n(response, n));
    }

    pub(super) fn begin_outage(&mut self, response: FakeAnswer) {
        self.outage = Some(response);
    }

    pub(super) fn recover(&mut self) {
        *self = Self::default();
    }

    /// Takes the failure for the next request: from the queue first, then from the outage.
    pub(super) fn take(&mut self) -> Option<FakeAnswer> {
        self.queued.pop_front().or_else(|| self.outage.clone())
    }
}
