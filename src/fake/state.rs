//! State of the fake hub, and how it decides on a response. Nothing here waits or does I/O.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};

use super::answer::FakeAnswer;
use super::api::Api;
use super::failures::Failures;
use super::fault::RATE_LIMITED;
use super::project::Project;
use super::rate_limit::RateLimit;
use super::request::ReceivedRequest;
use super::routes::{Route, Routes};

pub(super) const TOKEN_PATH: &str = "/oauth2/token/v1";

/// Limit on the recorded requests, so that a long test does not use more and more memory.
const MAX_RECORDED_REQUESTS: usize = 10_000;

pub(super) type Observer = dyn Fn(&ReceivedRequest, StatusCode) + Send + Sync;

pub(super) struct State {
    pub(super) project: Project,
    pub(super) token_delay: Duration,
    pub(super) token_failures: Failures,
    pub(super) api_failures: Failures,
    pub(super) rate_limit: RateLimit,
    pub(super) routes: Routes,
    pub(super) token_posts: usize,
    pub(super) api_requests: usize,
    pub(super) received: VecDeque<ReceivedRequest>,
    pub(super) observer: Option<Arc<Observer>>,
}

/// Next step for a request. It is taken with the state unlocked, because it may wait, or call a handler that locks
/// the state.
pub(super) enum Action {
    Respond(FakeAnswer),
    /// Wait for `delay`, then send the failure if there is one, and otherwise [`State::token_response`].
    RespondToTokenRequest {
        delay: Duration,
        failure: Option<FakeAnswer>,
    },
    /// The request is good: send what its route says.
    RespondToApiRequest(Route),
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            project: Project::new(),
            token_delay: Duration::ZERO,
            token_failures: Failures::default(),
            api_failures: Failures::default(),
            rate_limit: RateLimit::default(),
            routes: Routes::default(),
            token_posts: 0,
            api_requests: 0,
            received: VecDeque::new(),
            observer: None,
        }
    }

    /// Records and counts a request, and decides what to do with it.
    pub(super) fn receive(&mut self, request: &ReceivedRequest) -> Action {
        if self.received.len() == MAX_RECORDED_REQUESTS {
            self.received.pop_front();
        }
        self.received.push_back(request.clone());

        if request.path != TOKEN_PATH {
            return self.receive_api_request(request);
        }
        if request.method != Method::POST {
            return Action::Respond(FakeAnswer::of_type("text/plain", 404, "Not Found"));
        }
        self.token_posts += 1;
        Action::RespondToTokenRequest {
            delay: self.token_delay,
            failure: self.token_failures.take(),
        }
    }

    /// The response to a token request that is not told to fail: a new token, or the reason why there is none.
    pub(super) fn token_response(&mut self, request: &ReceivedRequest) -> FakeAnswer {
        if let Some(refusal) = self.project.refuse_token_request(request) {
            return refusal;
        }
        if !self.rate_limit.admits(TOKEN_PATH, Instant::now()) {
            return RATE_LIMITED.response(TOKEN_PATH);
        }
        self.project.issue_token()
    }

    fn receive_api_request(&mut self, request: &ReceivedRequest) -> Action {
        let path = request.path.as_str();
        let route = self.routes.find(path);
        if let Route::RespondToAnyone(response) = route {
            self.api_requests += 1;
            return Action::Respond(response);
        }
        if request.is_preflight() {
            return Action::Respond(request.preflight_response());
        }
        self.api_requests += 1;
        let response = if let Err(fault) = self.project.check_bearer(request) {
            fault.response(path)
        } else if let Some(failure) = self.api_failures.take() {
            failure
        } else if !self.rate_limit.admits(Api::name_of(path), Instant::now()) {
            RATE_LIMITED.response(path)
        } else {
            return Action::RespondToApiRequest(route);
        };
        Action::Respond(response.allow_any_origin())
    }
}
