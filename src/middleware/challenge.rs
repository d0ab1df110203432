//! The challenges of a 401: its `WWW-Authenticate` header (RFC 9110, section 11.6.1; RFC 6750, section 3).

use http::{HeaderMap, header::WWW_AUTHENTICATE};

use crate::fault::Verdict;

/// The verdict from the headers alone, if they leave no doubt.
pub(crate) fn verdict(headers: &HeaderMap) -> Option<Verdict> {
    all_challenges(headers).find_map(|challenge| challenge.verdict())
}

/// Whether a challenge has a registered error other than `invalid_token`. The token is then not the reason, unless a
/// fault in the body says otherwise.
pub(crate) fn names_another_error(headers: &HeaderMap) -> bool {
    all_challenges(headers).any(|challenge| challenge.names_another_error())
}

fn all_challenges(headers: &HeaderMap) -> impl Iterator<Item = Challenge> {
    let values = headers.get_all(WWW_AUTHENTICATE).iter();
    values.flat_map(|value| challenges(&String::from_utf8_lossy(value.as_bytes())))
}

/// A challenge of the scheme `Bearer` or `DPoP`: its parameters `error` and `error_description`, empty if they are
/// missing.
#[derive(Debug, Default, PartialEq, Eq)]
struct Challenge {
    error: String,
    description: String,
}

impl Challenge {
    /// The verdict from the code of a fault, or else from `invalid_token` (RFC 6750, section 3.1).
    fn verdict(&self) -> Option<Verdict> {
        let code = self.description.split(':').next().unwrap_or_default();
        // Apigee sends `invalid_token` with every fault, so its code counts first.
        Verdict::of_code(code.trim()).or((self.error == "invalid_token").then_some(Verdict::AboutToken))
    }

    /// RFC 6750, section 3.1; RFC 9470, section 3; RFC 9449, sections 7.1 and 9. Errors that are not registered, such
    /// as `expired_token`, have no agreed meaning.
    fn names_another_error(&self) -> bool {
        matches!(
            self.error.as_str(),
            "insufficient_scope"
                | "invalid_request"
                | "insufficient_user_authentication"
                | "invalid_dpop_proof"
                | "use_dpop_nonce"
        )
    }
}

/// Parses a header value, which may hold several challenges.
fn challenges(header: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut is_ours = false;
    let mut rest = header;
    while !rest.is_empty() {
        let (word, after) = token(rest);
        if word.is_empty() {
            // A separator, or a character that is not allowed here.
            rest = skip_one(rest);
            continue;
        }
        match after.trim_start().strip_prefix('=') {
            // A word without a value starts a challenge; a word with one is a parameter of it.
            None => {
                rest = after;
                is_ours = ["Bearer", "DPoP"]
                    .iter()
                    .any(|scheme| word.eq_ignore_ascii_case(scheme));
                if is_ours {
                    found.push(Challenge::default());
                }
            }
            Some(after) => {
                let (value, after) = value(after.trim_start());
                rest = after;
                if let Some(challenge) = found.last_mut().filter(|_| is_ours) {
                    if word.eq_ignore_ascii_case("error") {
                        challenge.error = value;
                    } else if word.eq_ignore_ascii_case("error_description") {
                        challenge.description = value;
                    }
                }
            }
        }
    }
    found
}

fn skip_one(text: &str) -> &str {
    let mut chars = text.chars();
    chars.next();
    chars.as_str()
}

/// Splits off the token that the text starts with (RFC 9110, section 5.6.2).
fn token(text: &str) -> (&str, &str) {
    let is_in_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let end = text.find(|c| !is_in_token(c)).unwrap_or(text.len());
    text.split_at(end)
}

/// Splits off the token or quoted string that the text starts with (RFC 9110, section 5.6.4).
fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = token(text);
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => value.extend(chars.next()),
            c => value.push(c),
        }
    }
    (value, chars.as_str())
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::select};

    use super::*;

    fn first_challenge(header: &str) -> Challenge {
        challenges(header).into_iter().next().unwrap_or_default()
    }

    #[track_caller]
    fn says(header: &str, error: &str, description: &str) {
        let expected = Challenge {
            error: error.to_owned(),
            description: description.to_owned(),
        };
        assert_eq!(first_challenge(header), expected, "{header}");
    }

    #[test]
    fn the_bearer_challenge_is_read_in_any_position() {
        says(
            r#"Bearer realm="null",error="invalid_token",error_description="keymanagement.service.access_token_expired: Access Token expired""#,
            "invalid_token",
            "keymanagement.service.access_token_expired: Access Token expired",
        );
        says("bearer ERROR = invalid_token", "invalid_token", "");
        says(r#"Basic realm="x", Bearer error="a""#, "a", "");
        says(r#"Negotiate abc==, Bearer error="a", error_description="b""#, "a", "b");
        says(r#"Bearer error="a", Basic error="not ours""#, "a", "");
        says(
            r#"Bearer error="with \"quotes\", and = signs""#,
            r#"with "quotes", and = signs"#,
            "",
        );
    }

    #[test]
    fn what_is_no_bearer_error_says_nothing() {
        for header in [
            "",
            "Bearer",
            r#"Bearer realm="error=invalid_token""#,
            r#"Basic error="invalid_token""#,
            "=,=,\"",
            "Bearer error",
            "ünïcode",
        ] {
            says(header, "", "");
        }
        says(r#"Bearer error="never closed"#, "never closed", "");
        says("Bearer error=\"a\\", "a", "");
    }

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(WWW_AUTHENTICATE, value.parse().unwrap())])
    }

    #[test]
    fn the_code_of_a_fault_counts_before_the_error() {
        for prefix in ["", "oauth.v2.", "keymanagement.service.", "steps.oauth.v2."] {
            for (code, expected) in [
                ("access_token_expired", Verdict::AboutToken),
                ("InvalidAccessToken", Verdict::AboutToken),
                ("InvalidAPICallAsNoApiProductMatchFound", Verdict::NotAboutToken),
                ("FailedToResolveAPIKey", Verdict::NotAboutToken),
            ] {
                for error in ["invalid_token", "invalid_request"] {
                    let description = format!("{prefix}{code}: some words");
                    let header = format!(r#"Bearer realm="null",error="{error}",error_description="{description}""#);
                    assert_eq!(verdict(&headers(&header)), Some(expected), "{header}");
                }
            }
        }
    }

    #[test]
    fn a_registered_error_says_whether_the_token_is_the_reason_and_any_other_says_nothing() {
        let judged = |scheme, error| {
            let headers = headers(&format!(r#"{scheme} realm="x", error="{error}""#));
            (verdict(&headers), names_another_error(&headers))
        };
        for scheme in ["Bearer", "bearer", "DPoP"] {
            assert_eq!(judged(scheme, "invalid_token"), (Some(Verdict::AboutToken), false));
            for error in [
                "insufficient_scope",
                "invalid_request",
                "insufficient_user_authentication",
                "invalid_dpop_proof",
                "use_dpop_nonce",
            ] {
                assert_eq!(judged(scheme, error), (None, true), "{error}");
            }
            for error in [
                "expired_token",
                "unauthorized",
                "invalid_tokens",
                "invalid_client",
                "INVALID_TOKEN",
                "",
            ] {
                assert_eq!(judged(scheme, error), (None, false), "{error}");
            }
        }
        assert_eq!(judged("Basic", "invalid_token"), (None, false));
        assert_eq!(judged("Basic", "invalid_request"), (None, false));
    }

    #[test]
    fn each_challenge_is_judged_by_itself() {
        let judged = |header| verdict(&headers(header));
        let first =
            r#"Bearer error="expired_token", error_description="InvalidAccessTokens", Bearer error="invalid_token""#;
        assert_eq!(judged(first), Some(Verdict::AboutToken));
        let mixed = r#"Bearer realm="x", DPoP algs="ES256", error="use_dpop_nonce""#;
        assert_eq!(judged(mixed), None);
        assert!(names_another_error(&headers(mixed)));
        let both = r#"Bearer error="invalid_token", Bearer error="insufficient_scope", error_description="x""#;
        assert_eq!(judged(both), Some(Verdict::AboutToken));
    }

    #[test]
    fn a_plain_rfc_6750_challenge_is_enough() {
        let judged = |header| verdict(&headers(header));
        assert_eq!(judged(r#"Bearer error="invalid_token""#), Some(Verdict::AboutToken));
        assert_eq!(judged(r#"Bearer realm="null""#), None);
        assert_eq!(judged(r#"Basic error="invalid_token""#), None);
        assert_eq!(verdict(&HeaderMap::new()), None);
    }

    fn quoted(text: &str) -> String {
        format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
    }

    const OTHERS: [&str; 5] = [
        "",
        "Basic realm=\"a, Bearer error=b\"",
        "Negotiate abc==",
        "Digest error=x, error_description=\"y\"",
        "ApiKey",
    ];

    proptest! {
        #[test]
        fn a_quoted_string_is_read_as_meant_among_other_challenges(
            error in "\\PC*",
            description in "\\PC*",
            realm in "\\PC*",
            before in select(&OTHERS),
            after in select(&OTHERS),
        ) {
            let [e, d, r] = [&error, &description, &realm].map(|text| quoted(text));
            let ours = format!("Bearer realm={r},error={e}, error_description = {d}");
            let header = [before, &ours, after].map(str::to_owned).into_iter().filter(|part| !part.is_empty());
            let header = header.collect::<Vec<_>>().join(", ");
            prop_assert_eq!(first_challenge(&header), Challenge { error, description }, "{}", header);
        }

        #[test]
        fn any_text_is_read_without_a_panic(header in "\\PC*", pieces in "(Bearer|error|=|\"|\\\\|,| |é)*") {
            let _ = challenges(&header);
            let found = challenges(&pieces);
            let length: usize = found.iter().map(|found| found.error.len() + found.description.len()).sum();
            prop_assert!(length <= pieces.len());
        }
    }
}
