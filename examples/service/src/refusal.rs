//! What a client of this service gets in place of OS's errors.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{CACHE_CONTROL, RETRY_AFTER},
};
use osdatahub_auth::{Error, HandOut, Unauthorized};

use crate::pace;

/// Wait that a client is told if nothing better is known.
const DEFAULT_WAIT: Duration = Duration::from_secs(10);

/// Refusal of a request. The client learns whether it is at fault, and when to try again. The log has the reason.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The client asked for something that this service does not offer.
    BadRequest(&'static str),
    /// OS has no such thing.
    NotFound,
    /// Our set-up is wrong.
    SetUp,
    /// OS failed, or sent something else than it documents.
    Upstream,
    /// OS took too long.
    Late,
    /// There is no transaction to spend at the moment.
    Busy(Duration),
    /// There is no token at the moment.
    NoToken(Error),
}

impl Refusal {
    /// OS's status is about *our* request, so hardly any is passed on. Its body never is.
    pub(crate) fn of_response(api: &str, response: &reqwest::Response) -> Self {
        let status = response.status();
        match status {
            StatusCode::BAD_REQUEST => Self::BadRequest("OS cannot answer this request"),
            StatusCode::NOT_FOUND => Self::NotFound,
            StatusCode::UNAUTHORIZED => Self::of_unauthorized(api, response.extensions().get().copied()),
            StatusCode::FORBIDDEN => {
                tracing::error!(
                    api,
                    "OS forbids the request: does the project include the API and its premium data?"
                );
                Self::SetUp
            }
            // OS's, or our own from `Pace`, which has logged the former.
            StatusCode::TOO_MANY_REQUESTS => Self::Busy(pace::retry_after(response).unwrap_or(DEFAULT_WAIT)),
            _ => {
                tracing::warn!(api, %status, "OS did not answer the request");
                Self::Upstream
            }
        }
    }

    /// A client of this service has no token of OS's, so a 401 would mislead it.
    fn of_unauthorized(api: &str, why: Option<Unauthorized>) -> Self {
        match why {
            Some(why @ Unauthorized::TokenTooNew) => {
                tracing::warn!(api, "{why}");
                Self::Busy(DEFAULT_WAIT)
            }
            Some(why @ Unauthorized::TokenRejected) => {
                tracing::warn!(api, "{why}");
                Self::Upstream
            }
            Some(why) => {
                tracing::error!(api, "{why}");
                Self::SetUp
            }
            None => {
                tracing::error!(api, "OS got no access token: does BearerAuth cover this origin?");
                Self::SetUp
            }
        }
    }

    pub(crate) fn of_error(api: &str, error: &reqwest_middleware::Error) -> Self {
        // The library logs why there is no token, once for each refresh that fails.
        if let Some(error) = Error::find_in(error) {
            return Self::NoToken(error.clone());
        }
        let timed_out = |error: &reqwest::Error| error.is_timeout();
        let chain = std::iter::successors(Some(error as &dyn std::error::Error), |&error| error.source());
        if chain.filter_map(|error| error.downcast_ref()).any(timed_out) {
            return Self::late(api);
        }
        tracing::warn!(api, error = format!("{error:#}"), "the request to OS failed");
        Self::Upstream
    }

    pub(crate) fn late(api: &str) -> Self {
        tracing::warn!(api, "OS took too long to answer");
        Self::Late
    }

    /// OS sent a 200 with something else in it than the API's data.
    pub(crate) fn unexpected(api: &str, what: &str) -> Self {
        tracing::error!(api, "OS answered 200, but {what}");
        Self::Upstream
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::NoToken(error) => return HandOut::refusal(&error).into_response(),
            Self::BadRequest(what) => (StatusCode::BAD_REQUEST, what),
            Self::NotFound => (StatusCode::NOT_FOUND, "not found"),
            Self::SetUp => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "this service is not set up correctly",
            ),
            Self::Upstream => (StatusCode::BAD_GATEWAY, "the data is not available at the moment"),
            Self::Late => (StatusCode::GATEWAY_TIMEOUT, "the data took too long to arrive"),
            Self::Busy(_) => (StatusCode::SERVICE_UNAVAILABLE, "this service is busy"),
        };
        let mut headers = HeaderMap::from_iter([(CACHE_CONTROL, HeaderValue::from_static("no-store"))]);
        if let Self::Busy(wait) = self {
            headers.insert(RETRY_AFTER, wait.as_secs().max(1).into());
        }
        (status, headers, text).into_response()
    }
}
