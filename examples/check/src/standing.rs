//! Standing of an API: what its answer says about the project.

use osdatahub_auth::Unauthorized;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    InProject,
    NotInProject,
    Limited,
    TokenRefused,
    /// OS did not see the token, so something on the way removed it.
    TokenLost,
    Other,
    /// No answer, or no token for the request.
    NoAnswer,
}

/// What a response says about the project, from its status, the library's reason for a 401 and the fault's code.
///
/// OS's own sources disagree on 401 or 403 for an API that is not in the project, so either counts.
pub(crate) fn classify(status: u16, unauthorized: Option<Unauthorized>, code: Option<&str>) -> Standing {
    match (status, unauthorized) {
        (200..=399, _) => Standing::InProject,
        (401, _) if code.is_some_and(|code| code.ends_with("FailedToResolveAPIKey")) => Standing::TokenLost,
        (401, Some(Unauthorized::NotAboutToken)) | (403, _) => Standing::NotInProject,
        (401, Some(Unauthorized::TokenRejected | Unauthorized::TokenTooNew)) => Standing::TokenRefused,
        (429, _) => Standing::Limited,
        _ => Standing::Other,
    }
}

impl Standing {
    /// A project needs only the APIs that its service uses, so one that is missing is not a fault.
    pub(crate) fn needs_attention(self) -> bool {
        !matches!(self, Self::InProject | Self::NotInProject)
    }

    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::InProject => "in the project",
            Self::NotInProject => "not in the project",
            Self::Limited => "rate limit reached",
            Self::TokenRefused => "token refused",
            Self::TokenLost => "token not received",
            Self::Other => "other answer",
            Self::NoAnswer => "no answer",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_has_its_standing() {
        use Unauthorized::{NotAboutToken, TokenRejected, TokenTooNew, Unexplained};
        let lost = Some("steps.oauth.v2.FailedToResolveAPIKey");
        for (status, unauthorized, code, standing) in [
            (200, None, None, Standing::InProject),
            (302, None, None, Standing::InProject),
            (401, Some(NotAboutToken), Some("x.NoProduct"), Standing::NotInProject),
            (401, Some(NotAboutToken), lost, Standing::TokenLost),
            (403, None, None, Standing::NotInProject),
            (401, Some(TokenRejected), None, Standing::TokenRefused),
            (401, Some(TokenTooNew), None, Standing::TokenRefused),
            (401, Some(Unexplained), None, Standing::Other),
            (401, None, None, Standing::Other),
            (429, None, None, Standing::Limited),
            (404, None, None, Standing::Other),
            (503, None, None, Standing::Other),
        ] {
            assert_eq!(
                classify(status, unauthorized, code),
                standing,
                "{status} {unauthorized:?}"
            );
        }
    }

    #[test]
    fn an_api_outside_the_project_needs_no_attention_but_a_limit_does() {
        assert!(!Standing::InProject.needs_attention() && !Standing::NotInProject.needs_attention());
        for standing in [
            Standing::Limited,
            Standing::TokenRefused,
            Standing::TokenLost,
            Standing::Other,
            Standing::NoAnswer,
        ] {
            assert!(standing.needs_attention(), "{standing:?}");
        }
    }
}
