//! OS's faults: the codes that Apigee, its gateway, puts into a 401, and what each says about the token.

mod xml;

use std::borrow::Cow;

use self::xml::{Event, Events};

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

    /// The verdict from a code of Apigee's policies, as observed at OS or listed in Apigee's documentation.
    pub(crate) fn of_code(code: &str) -> Option<Self> {
        match last_segment(code) {
            "access_token_expired"
            | "access_token_not_approved"
            | "invalid_access_token"
            | "AccessTokenExpired"
            | "InvalidAccessToken" => Some(Self::AboutToken),
            "apiresource_doesnot_exist"
            | "FailedToResolveAPIKey"
            | "InvalidAPICallAsNoApiProductMatchFound"
            | "InvalidApiKey"
            | "InvalidApiKeyForGivenResource" => Some(Self::NotAboutToken),
            _ => None,
        }
    }
}

/// The part of a code that says what happened. What stands before it names the policy, and depends on the envelope:
/// `oauth.v2.`, `keymanagement.service.`, `steps.oauth.v2.` or nothing.
pub(crate) fn last_segment(code: &str) -> &str {
    code.rsplit('.').next().unwrap_or(code)
}

/// The code of the fault in a body.
pub(crate) fn code(body: &[u8]) -> Option<String> {
    // Lossy, because what arrived may end within a character, and XML may have another encoding. Codes are ASCII.
    let body = String::from_utf8_lossy(body);
    let body = body.trim_start_matches('\u{feff}').trim_start();
    if body.starts_with('<') {
        code_in_xml(body).map(|code| code.trim().to_owned())
    } else {
        let json: serde_json::Value = serde_json::from_str(body).ok()?;
        let code = json.pointer("/fault/detail/errorcode")?.as_str()?;
        Some(code.to_owned())
    }
}

/// The code in one of two envelopes: Apigee's `fault` of map tiles, and the OWS `ExceptionReport` of WFS, WMTS and
/// vector tiles (OGC 06-121r9, clause 8).
fn code_in_xml(document: &str) -> Option<Cow<'_, str>> {
    let (mut envelope, mut general) = (None, None);
    let mut events = Events::of(document);
    while let Some(event) = events.next() {
        match (envelope, event) {
            (Some("fault"), Event::Start(tag)) if tag.name == "errorcode" && !tag.is_empty => {
                return text_until_end_of(tag.name, events);
            }
            (Some("ExceptionReport"), Event::Start(tag)) if tag.name == "Exception" => {
                let code = tag.attribute("exceptionCode").map(Cow::Borrowed);
                // A report may have several exceptions, and a general one may come first.
                if code
                    .as_ref()
                    .is_some_and(|code| Verdict::of_code(code.trim()).is_some())
                {
                    return code;
                }
                general = general.or(code);
            }
            (None, Event::Start(tag)) if matches!(tag.name, "fault" | "ExceptionReport") && !tag.is_empty => {
                envelope = Some(tag.name);
            }
            (Some(open), Event::End(name)) if open == name => envelope = None,
            _ => {}
        }
    }
    general
}

/// The text of an element that contains nothing else.
fn text_until_end_of<'a>(element: &str, events: Events<'a>) -> Option<Cow<'a, str>> {
    let mut text = Cow::Borrowed("");
    for event in events {
        match event {
            Event::Text(part) => text += part,
            Event::End(name) if name == element => return Some(text),
            _ => return None,
        }
    }
    None
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
        let cdata = b"<!DOCTYPE fault><a:fault><!-- - --><a:errorcode><![CDATA[oauth.v2]]>.X</a:errorcode>";
        let ows = b"<?xml version='1.0'?><ows:ExceptionReport a='>'><ows:Exception locator=\"'>\" exceptionCode='oauth.v2.X'>";
        for whole in [&json[..], xml, cdata, ows] {
            assert!(code(whole).is_some());
            for end in 0..whole.len() {
                assert_eq!(code(&whole[..end]), None, "{end}");
            }
        }
    }

    const TOKEN: [&str; 5] = [
        "access_token_expired",
        "access_token_not_approved",
        "invalid_access_token",
        "InvalidAccessToken",
        "AccessTokenExpired",
    ];
    const OTHER: [&str; 5] = [
        "InvalidAPICallAsNoApiProductMatchFound",
        "apiresource_doesnot_exist",
        "InvalidApiKeyForGivenResource",
        "InvalidApiKey",
        "FailedToResolveAPIKey",
    ];

    /// The code in each envelope that OS is known to send.
    fn envelopes(code: &str) -> [String; 3] {
        [
            json!({"fault": {"faultstring": "…", "detail": {"errorcode": code}}}).to_string(),
            format!("<fault><faultstring>…</faultstring><detail><errorcode>{code}</errorcode></detail></fault>"),
            format!(
                r#"<ows:ExceptionReport xmlns:ows="http://www.opengis.net/ows/1.1" version="1.0.0"><ows:Exception exceptionCode="{code}"><ows:ExceptionText>…</ows:ExceptionText></ows:Exception></ows:ExceptionReport>"#
            ),
        ]
    }

    #[test]
    fn a_code_is_judged_by_its_last_segment_in_every_envelope() {
        for prefix in [
            "",
            "oauth.v2.",
            "keymanagement.service.",
            "steps.oauth.v2.",
            "new.prefix.",
        ] {
            for (codes, verdict) in [(TOKEN, Verdict::AboutToken), (OTHER, Verdict::NotAboutToken)] {
                for body in codes.iter().flat_map(|code| envelopes(&format!("{prefix}{code}"))) {
                    assert_eq!(Verdict::of_body(body.as_bytes()), verdict, "{body}");
                }
            }
        }
    }

    #[test]
    fn a_general_exception_does_not_hide_a_known_one() {
        for known in TOKEN.iter().chain(&OTHER) {
            let report = format!(
                r#"<ExceptionReport><Exception exceptionCode="NoApplicableCode"/><Exception/><Exception exceptionCode="{known}"/>"#
            );
            assert_eq!(code(report.as_bytes()).as_deref(), Some(*known));
        }
    }

    #[test]
    fn a_code_that_merely_begins_or_ends_like_a_known_one_explains_nothing() {
        for code in TOKEN.iter().chain(&OTHER) {
            for unknown in [
                format!("{code}X"),
                format!("X{code}"),
                format!("oauth.v2.{code}.other"),
                format!("oauth.v2.Not{code}"),
                format!("{code}."),
                format!("{code}ForGivenResources"),
                swap_case(code),
            ] {
                for body in envelopes(&unknown) {
                    assert_eq!(Verdict::of_body(body.as_bytes()), Verdict::Unexplained, "{body}");
                }
            }
        }
    }

    fn swap_case(text: &str) -> String {
        let swap = |c: char| {
            if c.is_ascii_lowercase() {
                c.to_ascii_uppercase()
            } else {
                c.to_ascii_lowercase()
            }
        };
        text.chars().map(swap).collect()
    }

    #[test]
    fn xml_may_be_written_in_any_of_its_ways() {
        for xml in [
            r#"<ExceptionReport><Exception exceptionCode="a.X"/></ExceptionReport>"#,
            r"<ows:ExceptionReport><ows:Exception exceptionCode='a.X'></ows:Exception></ows:ExceptionReport>",
            "<o:ExceptionReport\n><o:Exception\n\tlocator=\"x\"\n\texceptionCode\n=\r\n\"a.X\"\n>",
            r#"<r:ExceptionReport a='>' b="'>"><r:Exception locator="exceptionCode='no'" exceptionCode="a.X" >"#,
            r#"<ExceptionReport><Exception exceptionCodes="no" theexceptionCode="no" exceptionCode=" a.X ">"#,
            r#"<!-- <fault><errorcode>no</errorcode> --><ExceptionReport><!-- > --><Exception exceptionCode="a.X">"#,
            r"<e><!DOCTYPE fault><ns:fault><ns:detail><ns:errorcode>a.X</ns:errorcode>",
            "<fault><detail><errorcode\n>\n <![CDATA[a.X]]>\n</errorcode\n>",
            "<fault><errorcode>a.<![CDATA[X]]></errorcode>",
            "<fault><errorcode><!-- no -->a.X<!-- no --></errorcode>",
            "<fault><faultstring><![CDATA[<errorcode>no</errorcode>]]></faultstring><errorcode>a.X</errorcode>",
            "<fault><faultstring>a > b, \" and '</faultstring><?p <errorcode>no</errorcode>?><errorcode>a.X</errorcode>",
            "<fault><errorcode/><errorcode>a.X</errorcode>",
            r#"<ExceptionReport><Exception exceptionCode="a.X"/><Exception exceptionCode="no"/></ExceptionReport>"#,
        ] {
            assert_eq!(code(xml.as_bytes()).as_deref(), Some("a.X"), "{xml}");
        }
    }

    #[test]
    fn what_only_looks_like_a_code_is_none() {
        for xml in [
            "<!-- <fault><errorcode>a.X</errorcode></fault> -->",
            "<![CDATA[<fault><errorcode>a.X</errorcode></fault>]]>",
            "<?x <fault><errorcode>a.X</errorcode></fault>?>",
            r#"<a b="<fault><errorcode>a.X</errorcode></fault>">"#,
            r#"<a b="><fault><errorcode>a.X</errorcode></fault>"#,
            r#"<!DOCTYPE a [<!ENTITY b "<fault><errorcode>a.X</errorcode></fault>">]>"#,
            r#"<!DOCTYPE a [<!ENTITY b "-> <fault><errorcode>a.X</errorcode></fault>">]>"#,
            "<fault></fault><errorcode>a.X</errorcode>",
            "<fault/><errorcode>a.X</errorcode>",
            "<faulty><errorcode>a.X</errorcode></faulty>",
            "<fault><errorcodes>a.X</errorcodes></fault>",
            "<fault><errorcode><b>a.X</b></errorcode></fault>",
            "<fault><errorcode>a.X</errorcodes></fault>",
            "<fault><errorcode>a.X< /errorcode></fault>",
            "<fault>1 < 2<errorcode>a.X</errorcode></fault>",
            r#"<Exception exceptionCode="a.X"/>"#,
            r#"<ExceptionReport exceptionCode="a.X"/>"#,
            r#"<ExceptionReport></ExceptionReport><Exception exceptionCode="a.X"/>"#,
            r#"<ExceptionReport><ExceptionText exceptionCode="a.X"/></ExceptionReport>"#,
            r#"<ExceptionReport><Exception code="a.X"/></ExceptionReport>"#,
            "<ExceptionReport><Exception exceptionCode=a.X/></ExceptionReport>",
            r#"<ExceptionReport><Exception>exceptionCode="a.X"</Exception></ExceptionReport>"#,
        ] {
            assert_eq!(code(xml.as_bytes()), None, "{xml}");
        }
    }

    #[test]
    fn a_character_that_is_cut_or_in_another_encoding_hides_no_code() {
        let [json, xml, ows] = envelopes("oauth.v2.X").map(|body| body.replace('…', "\u{1}"));
        for (body, cut) in [(json, false), (xml, true), (ows, true)] {
            // In ISO 8859-1 an é is one byte, which is not UTF-8.
            let mut body = body.into_bytes();
            for byte in &mut body {
                if *byte == 1 {
                    *byte = 0xe9;
                }
            }
            if cut {
                body.extend_from_slice(&"é".as_bytes()[..1]);
            }
            let read = code(&body);
            assert_eq!(
                read.as_deref(),
                Some("oauth.v2.X"),
                "{}",
                String::from_utf8_lossy(&body)
            );
        }
    }

    #[test]
    fn what_cannot_be_understood_is_unexplained() {
        for body in ["", "<html>401</html>"]
            .map(str::to_owned)
            .into_iter()
            .chain(envelopes("oauth.v2.NeverSeen"))
        {
            assert_eq!(Verdict::of_body(body.as_bytes()), Verdict::Unexplained);
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
        fn any_bytes_are_read_without_a_panic(
            body: Vec<u8>,
            markup in "(<a:fault>|<fault|<errorcode>|</errorcode>|<ExceptionReport>|<Exception |exceptionCode=|<!--|-->|<!\\[CDATA\\[|\\]\\]>|[a-z/>'\"é])*",
        ) {
            let _ = code(&body);
            if let Some(code) = code(markup.as_bytes()) {
                // In a CDATA section it is text.
                prop_assert!(!code.contains("</errorcode>") || markup.contains("<![CDATA["));
            }
        }

        #[test]
        fn xml_that_is_cut_off_has_the_same_code_or_none(
            markup in "(<a:fault>|<errorcode>|</errorcode>|<ExceptionReport>|<Exception exceptionCode=\"|<!--|-->|<!\\[CDATA\\[|\\]\\]>|[a-c/>'\"é])*",
        ) {
            let xml = format!("<x>{markup}");
            let whole = code(xml.as_bytes());
            for end in 0..xml.len() {
                if let Some(read) = code(&xml.as_bytes()[..end]) {
                    prop_assert_eq!(Some(read), whole.clone());
                }
            }
        }
    }
}
