//! Routes: what each path gets, as set by a test or as OS does.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use url::Url;

use super::answer::FakeAnswer;
use super::api::Api;
use super::fault::NOT_IN_PROJECT;
use super::request::ReceivedRequest;

/// OS's host sends it for any path that is not an API's.
const LANDING_PAGE: &str = r#"{"title":"OS Data Hub APIs"}"#;

/// Handler that a test registers for a path prefix.
pub(super) type Handler = dyn Fn(&ReceivedRequest) -> FakeAnswer + Send + Sync;

/// What a path gets.
#[derive(Clone)]
pub(super) enum Route {
    Respond(FakeAnswer),
    /// The only route that does not require a Bearer token.
    RespondToAnyone(FakeAnswer),
    CallHandler(Arc<Handler>),
    Redirect(Url),
    /// The API is not in the project.
    Refuse,
    /// No test has set a route.
    Sample(&'static Api),
}

impl Route {
    /// The response to a request that has passed every check.
    pub(super) fn response(self, request: &ReceivedRequest) -> FakeAnswer {
        match self {
            Self::Respond(response) | Self::RespondToAnyone(response) => response,
            Self::CallHandler(handler) => handler(request),
            Self::Redirect(to) => FakeAnswer::new(redirect_status(request), "").with_header("Location", to.as_str()),
            Self::Refuse => NOT_IN_PROJECT.response(&request.path),
            Self::Sample(api) => api.sample(request),
        }
    }
}

/// A 302 for the `url` in a listing of the Downloads API, and a 307 if the request asks for a redirect, or for OS Net.
fn redirect_status(request: &ReceivedRequest) -> u16 {
    if request.path.starts_with("/downloads/") && request.parameter("redirect").is_none() {
        302
    } else {
        307
    }
}

#[derive(Default)]
pub(super) struct Routes {
    exact: HashMap<String, Route>,
    /// The first match wins, so the newest is at the front.
    prefixes: VecDeque<(String, Route)>,
}

impl Routes {
    pub(super) fn set(&mut self, path: String, route: Route) {
        self.exact.insert(path, route);
    }

    pub(super) fn set_under(&mut self, prefix: String, route: Route) {
        self.prefixes.push_front((prefix, route));
    }

    pub(super) fn find(&self, path: &str) -> Route {
        let under_prefix = || self.prefixes.iter().find(|(prefix, _)| path.starts_with(prefix));
        let set = self.exact.get(path).or_else(|| under_prefix().map(|(_, route)| route));
        match (set, Api::of(path)) {
            (Some(route), _) => route.clone(),
            (None, Some(api)) => Route::Sample(api),
            (None, None) => Route::RespondToAnyone(FakeAnswer::json(200, LANDING_PAGE)),
        }
    }
}
