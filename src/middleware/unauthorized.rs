//! What the library learnt from a 401 that it returns.

use std::fmt;

use crate::{fault::Verdict, status::Action};

/// Response extension on every 401 of a request that [`BearerAuth`](crate::BearerAuth) authenticated: why the API
/// refused it.
///
/// ```no_run
/// # async fn f(os: reqwest_middleware::ClientWithMiddleware) -> Result<(), Box<dyn std::error::Error>> {
/// use osdatahub_auth::Unauthorized;
///
/// let response = os.get("https://api.os.uk/search/names/v1/find?query=Bath").send().await?;
/// match response.extensions().get::<Unauthorized>() {
///     Some(Unauthorized::NotAboutToken) => eprintln!("the OS Names API is not in our project"),
///     Some(why) => eprintln!("{why}"),
///     None => println!("{}", response.error_for_status()?.text().await?),
/// }
/// # Ok(())
/// # }
/// ```
///
/// It is about the 401 that you get. If the request was repeated, that is the second one, whatever the first one said.
/// `Display` says what to do.
///
/// It survives `reqwest-retry` and `reqwest-tracing`. `Response::error_for_status` loses it, because it drops the
/// response: look at the extension first. A 401 without it belongs to a request that `BearerAuth` passed through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unauthorized {
    /// The API refused the request for a reason other than the token. Most often the API is not in the project.
    NotAboutToken,
    /// The API rejected the token. The request could not be repeated, no other token was available, or the repeated
    /// request was refused as well.
    TokenRejected,
    /// The API rejected a token that is too new to be replaced; see [`TokenManager::reject`](crate::TokenManager::reject).
    TokenTooNew,
    /// The 401 gave no reason that the library understands. Also if it came from another origin after a redirect, or if
    /// its reason cannot be known after a redirect or for a `HEAD`.
    Unexplained,
}

impl Unauthorized {
    /// `learnt` is the verdict on the 401 and what the manager did about it. `None` if the token was left alone, because
    /// the 401 says nothing about it.
    pub(super) fn new(learnt: Option<(Verdict, Action)>, is_replay: bool) -> Self {
        match learnt {
            None | Some((Verdict::Unexplained, _)) => Self::Unexplained,
            Some((Verdict::NotAboutToken, _)) => Self::NotAboutToken,
            // A replay's token is usually new. Its age matters less than the fact that it, too, was refused.
            Some((Verdict::AboutToken, Action::TooNew)) if !is_replay => Self::TokenTooNew,
            Some((Verdict::AboutToken, _)) => Self::TokenRejected,
        }
    }
}

/// What happened and what to do.
impl fmt::Display for Unauthorized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAboutToken => {
                "the API refused the request, and not because of the access token: add the API to the project on the OS Data Hub if it is not in it"
            }
            Self::TokenRejected => {
                "the API rejected the access token, and no new one helped: send the request again; if that keeps failing, look in the log for failed refreshes, and at the project on the OS Data Hub"
            }
            Self::TokenTooNew => {
                "the API rejected an access token that is too new to be replaced: send the request again in 5 to 60 s"
            }
            Self::Unexplained => {
                "the API refused the request without a known reason: look at the URL, the headers and the body of the response"
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_of_the_table_is_decided_by_verdict_action_and_replay() {
        use Action::{Replace, TooNew};
        use Verdict::{AboutToken, NotAboutToken, Unexplained};
        for (learnt, first, replay) in [
            (None, Unauthorized::Unexplained, Unauthorized::Unexplained),
            (
                Some((NotAboutToken, Action::NotAboutToken)),
                Unauthorized::NotAboutToken,
                Unauthorized::NotAboutToken,
            ),
            (
                Some((AboutToken, Replace)),
                Unauthorized::TokenRejected,
                Unauthorized::TokenRejected,
            ),
            (
                Some((AboutToken, TooNew)),
                Unauthorized::TokenTooNew,
                Unauthorized::TokenRejected,
            ),
            (
                Some((Unexplained, Replace)),
                Unauthorized::Unexplained,
                Unauthorized::Unexplained,
            ),
            (
                Some((Unexplained, TooNew)),
                Unauthorized::Unexplained,
                Unauthorized::Unexplained,
            ),
        ] {
            assert_eq!(Unauthorized::new(learnt, false), first, "{learnt:?}");
            assert_eq!(Unauthorized::new(learnt, true), replay, "{learnt:?}");
        }
    }

    #[test]
    fn display_says_what_to_do_in_lower_case_without_a_full_stop() {
        for (why, advice) in [
            (Unauthorized::NotAboutToken, "add the API to the project"),
            (Unauthorized::TokenRejected, "send the request again"),
            (Unauthorized::TokenTooNew, "in 5 to 60 s"),
            (Unauthorized::Unexplained, "look at"),
        ] {
            let shown = why.to_string();
            assert!(
                shown.starts_with(char::is_lowercase) && !shown.ends_with('.'),
                "{shown}"
            );
            assert!(shown.contains(advice), "{shown}");
        }
    }
}
