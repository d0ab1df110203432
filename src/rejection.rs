//! Is this 401 about the token? Pure.

mod challenge;

use http::{HeaderMap, header};

use crate::fault;

/// What a 401 says of the token that the request carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The token is no good: expired, revoked or unknown. Another one helps.
    AboutToken,
    /// The token is good, but not for this: the API is not in the project, say. Another one would fare no better.
    NotAboutToken,
    /// Nothing that can be understood: an empty answer, a firewall's page.
    Unclear,
}

/// The verdict of the headers alone, if they give one: a `WWW-Authenticate` names the fault, or RFC 6750's error.
pub(crate) fn by_challenge(headers: &HeaderMap) -> Option<Verdict> {
    let challenges = headers.get_all(header::WWW_AUTHENTICATE).iter();
    challenges
        .map(|value| challenge::bearer_error(&String::from_utf8_lossy(value.as_bytes())))
        .find_map(|said| {
            let code = said.description.split(':').next().unwrap_or_default();
            // Apigee says invalid_token of everything, so its code goes first.
            by_code(code.trim()).or(match said.error.as_str() {
                "invalid_token" => Some(Verdict::AboutToken),
                "insufficient_scope" => Some(Verdict::NotAboutToken),
                _ => None,
            })
        })
}

/// The verdict of the body's fault, from as much of the body as could be had.
pub(crate) fn by_body(body: &[u8]) -> Verdict {
    fault::code(body)
        .and_then(|code| by_code(&code))
        .unwrap_or(Verdict::Unclear)
}

/// Apigee's codes, as seen with OS and in Apigee's documentation of its `OAuthV2` policy.
fn by_code(code: &str) -> Option<Verdict> {
    match code {
        "keymanagement.service.access_token_expired"
        | "keymanagement.service.access_token_not_approved"
        | "keymanagement.service.invalid_access_token"
        | "oauth.v2.InvalidAccessToken" => Some(Verdict::AboutToken),
        "keymanagement.service.InvalidAPICallAsNoApiProductMatchFound"
        | "keymanagement.service.apiresource_doesnot_exist"
        | "oauth.v2.InvalidApiKeyForGivenResource" => Some(Verdict::NotAboutToken),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::WWW_AUTHENTICATE, value.parse().unwrap())])
    }

    fn fault(code: &str) -> Vec<u8> {
        format!(r#"{{"fault":{{"faultstring":"…","detail":{{"errorcode":"{code}"}}}}}}"#).into()
    }

    #[test]
    fn every_known_fault_is_judged_alike_in_header_and_body() {
        for (code, verdict) in [
            ("keymanagement.service.access_token_expired", Verdict::AboutToken),
            ("keymanagement.service.access_token_not_approved", Verdict::AboutToken),
            ("keymanagement.service.invalid_access_token", Verdict::AboutToken),
            ("oauth.v2.InvalidAccessToken", Verdict::AboutToken),
            (
                "keymanagement.service.InvalidAPICallAsNoApiProductMatchFound",
                Verdict::NotAboutToken,
            ),
            (
                "keymanagement.service.apiresource_doesnot_exist",
                Verdict::NotAboutToken,
            ),
            ("oauth.v2.InvalidApiKeyForGivenResource", Verdict::NotAboutToken),
        ] {
            assert_eq!(by_body(&fault(code)), verdict, "{code}");
            let header = format!(r#"Bearer realm="null",error="invalid_token",error_description="{code}: some words""#);
            assert_eq!(by_challenge(&challenge(&header)), Some(verdict), "{code}");
        }
    }

    #[test]
    fn a_plain_rfc_6750_challenge_is_enough() {
        let judged = |header| by_challenge(&challenge(header));
        assert_eq!(judged(r#"Bearer error="invalid_token""#), Some(Verdict::AboutToken));
        assert_eq!(
            judged(r#"Bearer error="insufficient_scope""#),
            Some(Verdict::NotAboutToken)
        );
        assert_eq!(judged(r#"Bearer realm="null""#), None);
        assert_eq!(judged(r#"Basic error="invalid_token""#), None);
        assert_eq!(by_challenge(&HeaderMap::new()), None);
    }

    #[test]
    fn what_cannot_be_understood_is_unclear() {
        for body in [&b""[..], b"<html>401</html>", &fault("some.code.nobody.has.seen")] {
            assert_eq!(by_body(body), Verdict::Unclear);
        }
    }
}
