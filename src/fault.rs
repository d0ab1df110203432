//! OS's faults: the codes that Apigee, its gateway, puts into a 401, and what each says about the token.

/// Whether a 401 is about the token that the request carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The token expired, was revoked, or is unknown. Another token helps.
    AboutToken,
    /// The token is good, but not for this request: for example, the API is not in the project. Another token would be
    /// refused as well.
    NotAboutToken,
    /// The 401 gives no known reason: an empty body, a firewall's page.
    Unexplained,
}

impl Verdict {
    /// The verdict from the fault in a body, from as much of the body as has arrived.
    pub(crate) fn of_body(body: &[u8]) -> Self {
        code(body)
            .and_then(|code| Self::of_code(&code))
            .unwrap_or(Self::Unexplained)
    }

    /// The verdict from a code of Apigee's `OAuthV2` policy, as recorded with OS and in Apigee's documentation.
    pub(crate) fn of_code(code: &str) -> Option<Self> {
        match code {
            "keymanagement.service.access_token_expired"
            | "keymanagement.service.access_token_not_approved"
            | "keymanagement.service.invalid_access_token"
            | "oauth.v2.InvalidAccessToken" => Some(Self::AboutToken),
            "keymanagement.service.InvalidAPICallAsNoApiProductMatchFound"
            | "keymanagement.service.apiresource_doesnot_exist"
            | "oauth.v2.InvalidApiKeyForGivenResource" => Some(Self::NotAboutToken),
            _ => None,
        }
    }
}

/// The `errorcode` of the fault in a body. APIs send it as JSON, map tiles as XML.
pub(crate) fn code(body: &[u8]) -> Option<String> {
    let body = std::str::from_utf8(body).ok()?;
    let body = body.trim_start_matches('\u{feff}').trim_start();
    if body.starts_with('<') {
        let (_, fault) = body.split_once("<fault")?;
        let (_, code) = fault.split_once("<errorcode>")?;
        let (code, _) = code.split_once("</errorcode>")?;
        Some(code.trim().to_owned())
    } else {
        let json: serde_json::Value = serde_json::from_str(body).ok()?;
        let code = json.pointer("/fault/detail/errorcode")?.as_str()?;
        Some(code.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_code_is_read_from_json_and_from_xml() {
        let json = br#"{"fault":{"faultstring":"x","detail":{"errorcode":"oauth.v2.X"}}}"#;
        assert_eq!(code(json).as_deref(), Some("oauth.v2.X"));
        let xml = b"<?xml version=\"1.0\"?>\n<fault><faultstring>x</faultstring><detail>\n  <errorcode>oauth.v2.X</errorcode>\n</detail></fault>";
        assert_eq!(code(xml).as_deref(), Some("oauth.v2.X"));
    }

    #[test]
    fn anything_else_has_no_code() {
        for body in [
            &b""[..],
            b"\xff\xfe",
            b"<html><body>401</body></html>",
            b"<fault><errorcode>cut o",
            b"<errorcode>oauth.v2.X</errorcode>",
            b"{}",
            b"[]",
            b"null",
            br#"{"fault":"x"}"#,
            br#"{"fault":{"detail":{"errorcode":401}}}"#,
            br#"{"fault":{"detail":{"errorcode":"cut"#,
        ] {
            assert_eq!(code(body), None, "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn a_fault_that_is_cut_off_has_no_code() {
        let json = br#"{"fault":{"faultstring":"Invalid Access Token","detail":{"errorcode":"oauth.v2.X"}}}"#;
        let xml = b"<fault><faultstring>Invalid Access Token</faultstring><detail><errorcode>oauth.v2.X</errorcode>";
        for whole in [&json[..], xml] {
            assert!(code(whole).is_some());
            for end in 0..whole.len() {
                assert_eq!(code(&whole[..end]), None, "{end}");
            }
        }
    }

    fn fault(code: &str) -> Vec<u8> {
        format!(r#"{{"fault":{{"faultstring":"…","detail":{{"errorcode":"{code}"}}}}}}"#).into()
    }

    #[test]
    fn what_cannot_be_understood_is_unclear() {
        for body in [&b""[..], b"<html>401</html>", &fault("some.code.nobody.has.seen")] {
            assert_eq!(Verdict::of_body(body), Verdict::Unexplained);
        }
    }

    proptest! {
        #[test]
        fn every_code_is_read_as_it_was_written(errorcode in "[!-;=-~]{1,64}", faultstring in "[^<>]*") {
            let json = json!({"fault": {"faultstring": faultstring, "detail": {"errorcode": errorcode}}});
            prop_assert_eq!(code(json.to_string().as_bytes()), Some(errorcode.clone()));
            let xml = format!(
                "\u{feff} <fault><faultstring>{faultstring}</faultstring><detail><errorcode> {errorcode} </errorcode>"
            );
            prop_assert_eq!(code(xml.as_bytes()), Some(errorcode));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(body: Vec<u8>, markup in "(<fault|<errorcode>|</errorcode>|[a-z])*") {
            let _ = code(&body);
            if let Some(code) = code(markup.as_bytes()) {
                prop_assert!(!code.contains("</errorcode>"));
            }
        }
    }
}
