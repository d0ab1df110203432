//! The Bearer challenge of a 401: its `WWW-Authenticate` header (RFC 9110, section 11.6.1; RFC 6750, section 3).

use http::{HeaderMap, header::WWW_AUTHENTICATE};

use crate::fault::Verdict;

/// The verdict from the headers alone, if they give one: from the code of a fault, or from RFC 6750's error.
pub(crate) fn verdict(headers: &HeaderMap) -> Option<Verdict> {
    let challenges = headers.get_all(WWW_AUTHENTICATE).iter();
    challenges
        .map(|value| bearer_error(&String::from_utf8_lossy(value.as_bytes())))
        .find_map(|BearerError { error, description }| {
            let code = description.split(':').next().unwrap_or_default();
            // Apigee sends `invalid_token` with every fault, so its code counts first.
            Verdict::of_code(code.trim()).or(match error.as_str() {
                "invalid_token" => Some(Verdict::AboutToken),
                "insufficient_scope" => Some(Verdict::NotAboutToken),
                _ => None,
            })
        })
}

/// The parameters `error` and `error_description` of a Bearer challenge; empty if they are missing.
#[derive(Debug, Default, PartialEq, Eq)]
struct BearerError {
    error: String,
    description: String,
}

/// Parses a header value, which may hold several challenges.
fn bearer_error(header: &str) -> BearerError {
    let mut found = BearerError::default();
    let mut bearer = false;
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
                bearer = word.eq_ignore_ascii_case("Bearer");
                rest = after;
            }
            Some(after) => {
                let (value, after) = value(after.trim_start());
                rest = after;
                if bearer && word.eq_ignore_ascii_case("error") {
                    found.error = value;
                } else if bearer && word.eq_ignore_ascii_case("error_description") {
                    found.description = value;
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

    #[track_caller]
    fn says(header: &str, error: &str, description: &str) {
        let expected = BearerError {
            error: error.to_owned(),
            description: description.to_owned(),
        };
        assert_eq!(bearer_error(header), expected, "{header}");
    }

    #[test]
    fn the_bearer_challenge_is_read_wherever_it_stands() {
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

    fn fault(code: &str) -> Vec<u8> {
        format!(r#"{{"fault":{{"faultstring":"…","detail":{{"errorcode":"{code}"}}}}}}"#).into()
    }

    #[test]
    fn every_known_fault_is_judged_alike_in_header_and_body() {
        for (code, expected) in [
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
            assert_eq!(Verdict::of_body(&fault(code)), expected, "{code}");
            let header = format!(r#"Bearer realm="null",error="invalid_token",error_description="{code}: some words""#);
            assert_eq!(verdict(&headers(&header)), Some(expected), "{code}");
        }
    }

    #[test]
    fn a_plain_rfc_6750_challenge_is_enough() {
        let judged = |header| verdict(&headers(header));
        assert_eq!(judged(r#"Bearer error="invalid_token""#), Some(Verdict::AboutToken));
        assert_eq!(
            judged(r#"Bearer error="insufficient_scope""#),
            Some(Verdict::NotAboutToken)
        );
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
        fn whatever_is_quoted_is_read_as_it_was_meant_among_other_challenges(
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
            prop_assert_eq!(bearer_error(&header), BearerError { error, description }, "{}", header);
        }

        #[test]
        fn any_text_is_read_without_a_panic(header in "\\PC*", pieces in "(Bearer|error|=|\"|\\\\|,| |é)*") {
            let _ = bearer_error(&header);
            let found = bearer_error(&pieces);
            prop_assert!(found.error.len() + found.description.len() <= pieces.len());
        }
    }
}
