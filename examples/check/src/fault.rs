//! Fault in a refusal: its envelope and its code.

use serde_json::Value;

/// Codes that OS or Apigee document. Only these go into a record.
const KNOWN: [&str; 12] = [
    "access_token_expired",
    "access_token_not_approved",
    "apiresource_doesnot_exist",
    "invalid_access_token",
    "AccessTokenExpired",
    "FailedToResolveAPIKey",
    "InvalidAccessToken",
    "InvalidAPICallAsNoApiProductMatchFound",
    "InvalidApiKey",
    "InvalidApiKeyForGivenResource",
    "QuotaViolation",
    "SpikeArrestViolation",
];

#[derive(Debug, PartialEq)]
pub(crate) struct Fault {
    pub(crate) envelope: &'static str,
    /// `None` if there is none, or if it does not look like a code.
    pub(crate) code: Option<String>,
}

impl Fault {
    pub(crate) fn in_body(body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let text = text.trim_start_matches('\u{feff}').trim();
        let (envelope, code) = if text.is_empty() {
            ("empty", None)
        } else if let Ok(json) = serde_json::from_str::<Value>(text) {
            let code = json.pointer("/fault/detail/errorcode").and_then(Value::as_str);
            let envelope = if json.get("fault").is_some() {
                "JSON fault"
            } else {
                "JSON"
            };
            (envelope, code.map(str::to_owned))
        } else if text.contains("ExceptionReport") {
            ("OWS report", between(text, "exceptionCode=\"", "\""))
        } else if text.contains("<errorcode") {
            ("XML fault", between(text, "<errorcode>", "<"))
        } else if text.starts_with('<') {
            ("XML or HTML", None)
        } else {
            ("other", None)
        };
        Self {
            envelope,
            code: code
                .map(|code| code.trim().to_owned())
                .filter(|code| looks_like_code(code)),
        }
    }

    /// The code for a record: the last segment, if it is a known one.
    pub(crate) fn known_code(&self) -> Option<&'static str> {
        let last = self.code.as_deref()?.rsplit('.').next()?;
        KNOWN.into_iter().find(|known| *known == last)
    }
}

fn between(text: &str, start: &str, end: &str) -> Option<String> {
    let (_, rest) = text.split_once(start)?;
    Some(rest.split_once(end)?.0.to_owned())
}

/// The longest known code has 60 bytes, which fits a line of the table.
const MAX_CODE_BYTES: usize = 62;

/// Words with dots between them, such as `oauth.v2.InvalidAccessToken`. A server could also send a token or an address
/// here, which has digits or spaces.
fn looks_like_code(code: &str) -> bool {
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    code.len() <= MAX_CODE_BYTES && code.split('.').all(|word| word == "v2" || is_word(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_read_from_each_envelope() {
        for (body, envelope, code) in [
            (
                r#"{"fault":{"faultstring":"x","detail":{"errorcode":"oauth.v2.InvalidApiKey"}}}"#,
                "JSON fault",
                Some("oauth.v2.InvalidApiKey"),
            ),
            (
                "<fault><detail><errorcode>\n oauth.v2.X </errorcode></detail></fault>",
                "XML fault",
                Some("oauth.v2.X"),
            ),
            (
                r#"<ows:ExceptionReport><ows:Exception exceptionCode="InvalidApiKey"/></ows:ExceptionReport>"#,
                "OWS report",
                Some("InvalidApiKey"),
            ),
            (r#"{"error":"x"}"#, "JSON", None),
            ("<html>no</html>", "XML or HTML", None),
            ("no", "other", None),
            ("", "empty", None),
        ] {
            let code = code.map(str::to_owned);
            assert_eq!(Fault::in_body(body.as_bytes()), Fault { envelope, code }, "{body}");
        }
    }

    #[test]
    fn what_does_not_look_like_a_code_is_not_shown() {
        for code in [
            "ZclClFcksJlZ19vnJOt09Yj3xme0",
            "1, Fake Street",
            "\u{1b}[2J",
            "a..b",
            "",
        ] {
            let body = serde_json::json!({"fault": {"detail": {"errorcode": code}}}).to_string();
            assert_eq!(Fault::in_body(body.as_bytes()).code, None, "{code}");
        }
    }
}
