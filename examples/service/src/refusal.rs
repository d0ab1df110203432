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

/// Refusal of a request. The client learns whether it is at fault and when to try again, and the log has the reason.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The client's mistake, and what is wrong.
    BadRequest(&'static str),
    NotFound,
    /// Our mistake.
    SetUp,
    /// OS failed, or sent something else than its API's data.
    Upstream,
    Late,
    /// No transaction can be spent for so long.
    Busy(Duration),
    NoToken(Error),
}

impl Refusal {
    /// OS's status is about *our* request, so a 401, 403 or 429 is not passed on. Its body never is.
    pub(crate) fn of_response(api: &str, response: &reqwest::Response) -> Self {
        match response.status() {
            StatusCode::BAD_REQUEST => Self::BadRequest("OS cannot answer this request"),
            StatusCode::NOT_FOUND => Self::NotFound,
            StatusCode::UNAUTHORIZED => Self::of_unauthorized(api, response.extensions().get()),
            StatusCode::FORBIDDEN => {
                tracing::error!(
                    api,
                    "OS forbids the request: does the project include the API and its data?"
                );
                Self::SetUp
            }
            // From `Pace`, which says how long in either case.
            StatusCode::TOO_MANY_REQUESTS => Self::Busy(pace::retry_after(response).unwrap_or(DEFAULT_WAIT)),
            status => Self::upstream(api, &format!("OS answered {status}")),
        }
    }

    fn of_unauthorized(api: &str, why: Option<&Unauthorized>) -> Self {
        let reason = why.map_or(
            "OS got no access token: does BearerAuth cover its origin?".to_owned(),
            ToString::to_string,
        );
        if let Some(Unauthorized::TokenRejected | Unauthorized::TokenTooNew) = why {
            tracing::warn!(api, "{reason}");
            return Self::Busy(DEFAULT_WAIT);
        }
        tracing::error!(api, "{reason}");
        Self::SetUp
    }

    pub(crate) fn of_error(api: &str, error: &reqwest_middleware::Error) -> Self {
        // The library logs why there is no token, once for each refresh that fails.
        if let Some(error) = Error::find_in(error) {
            return Self::NoToken(error.clone());
        }
        let mut chain = std::iter::successors(Some(error as &dyn std::error::Error), |&error| error.source());
        if chain.any(|error| error.downcast_ref().is_some_and(reqwest::Error::is_timeout)) {
            return Self::late(api);
        }
        Self::upstream(api, &format!("the request to OS failed: {error:#}"))
    }

    pub(crate) fn late(api: &str) -> Self {
        tracing::warn!(api, "OS took too long to answer");
        Self::Late
    }

    pub(crate) fn upstream(api: &str, reason: &str) -> Self {
        tracing::warn!(api, "{reason}");
        Self::Upstream
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut headers = HeaderMap::from_iter([(CACHE_CONTROL, HeaderValue::from_static("no-store"))]);
        let (status, text) = match self {
            Self::BadRequest(what) => (StatusCode::BAD_REQUEST, what),
            Self::NotFound => (StatusCode::NOT_FOUND, "not found"),
            Self::SetUp => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "this service is not set up correctly",
            ),
            Self::Upstream => (StatusCode::BAD_GATEWAY, "the data is not available at the moment"),
            Self::Late => (StatusCode::GATEWAY_TIMEOUT, "the data took too long to arrive"),
            Self::Busy(wait) => {
                headers.insert(RETRY_AFTER, wait.as_secs().max(1).into());
                (StatusCode::SERVICE_UNAVAILABLE, "this service is busy")
            }
            Self::NoToken(error) => return HandOut::refusal(&error).into_response(),
        };
        (status, headers, text).into_response()
    }
}
