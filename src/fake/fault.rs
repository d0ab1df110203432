//! Faults of Apigee, the gateway in front of OS's APIs, in the envelope that each API sends.

use std::path::Path;

use super::answer::FakeAnswer;
use super::api::Api;

/// A refusal by the gateway.
#[derive(Debug)]
pub(super) struct Fault {
    status: u16,
    code: &'static str,
    text: &'static str,
    /// Whether it is about the token. Such a fault comes with a challenge.
    is_about_token: bool,
}

pub(super) const TOKEN_EXPIRED: Fault =
    about_token("keymanagement.service.access_token_expired", "Access Token expired");
pub(super) const TOKEN_UNKNOWN: Fault =
    about_token("keymanagement.service.invalid_access_token", "Invalid Access Token");
/// There is an `Authorization`, but not for Bearer.
pub(super) const TOKEN_MISSING: Fault = about_token("oauth.v2.InvalidAccessToken", "Invalid access token");
/// There is no credential at all. OS then looks for a key, its other way to authenticate.
pub(super) const NO_CREDENTIAL: Fault = Fault {
    status: 401,
    code: "steps.oauth.v2.FailedToResolveAPIKey",
    text: "Failed to resolve API Key variable request.queryparam.key",
    is_about_token: false,
};
pub(super) const NOT_IN_PROJECT: Fault = Fault {
    status: 401,
    code: "keymanagement.service.InvalidAPICallAsNoApiProductMatchFound",
    text: "Invalid API call as no apiproduct match found",
    is_about_token: false,
};
pub(super) const RATE_LIMITED: Fault = Fault {
    status: 429,
    code: "policies.ratelimit.QuotaViolation",
    // The two spaces are Apigee's.
    text: "Rate limit quota violation. Quota limit  exceeded. Identifier : _default",
    is_about_token: false,
};

const fn about_token(code: &'static str, text: &'static str) -> Fault {
    Fault {
        status: 401,
        code,
        text,
        is_about_token: true,
    }
}

impl Fault {
    /// The response to a request for this path: OWS where OS sends it, XML for an image, and otherwise JSON.
    pub(super) fn response(&self, path: &str) -> FakeAnswer {
        let response = if Api::of(path).is_some_and(|api| api.sends_ows) {
            self.as_ows()
        } else if Path::new(path).extension().is_some_and(|extension| extension == "png") {
            self.as_xml()
        } else {
            self.as_json()
        };
        if self.is_about_token {
            response.with_header("WWW-Authenticate", &self.challenge())
        } else {
            response
        }
    }

    pub(super) fn as_json(&self) -> FakeAnswer {
        let Self { status, code, text, .. } = self;
        let body = format!(r#"{{"fault":{{"faultstring":"{text}","detail":{{"errorcode":"{code}"}}}}}}"#);
        FakeAnswer::json(*status, body)
    }

    fn as_xml(&self) -> FakeAnswer {
        let Self { status, code, text, .. } = self;
        let body =
            format!("<fault><faultstring>{text}</faultstring><detail><errorcode>{code}</errorcode></detail></fault>");
        FakeAnswer::of_type("application/xml", *status, body)
    }

    /// An OGC exception report. It has the bare code, without the name of the policy in front.
    fn as_ows(&self) -> FakeAnswer {
        let Self { status, code, text, .. } = self;
        let code = code.rsplit('.').next().unwrap_or(code);
        let body = format!(
            r#"<?xml version="1.0" encoding="UTF-8"?><ows:ExceptionReport xmlns:ows="http://www.opengis.net/ows/1.1" version="1.0.0"><ows:Exception exceptionCode="{code}"><ows:ExceptionText>{text}</ows:ExceptionText></ows:Exception></ows:ExceptionReport>"#
        );
        FakeAnswer::of_type("application/xml", *status, body)
    }

    fn challenge(&self) -> String {
        let Self { code, text, .. } = self;
        format!(r#"Bearer realm="null",error="invalid_token",error_description="{code}: {text}""#)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_api_sends_a_fault_in_its_envelope() {
        let json = r#"{"fault":{"faultstring":"Access Token expired","detail":{"errorcode":"keymanagement.service.access_token_expired"}}}"#;
        let xml = "<fault><faultstring>Access Token expired</faultstring><detail><errorcode>keymanagement.service.access_token_expired</errorcode></detail></fault>";
        let ows = r#"<?xml version="1.0" encoding="UTF-8"?><ows:ExceptionReport xmlns:ows="http://www.opengis.net/ows/1.1" version="1.0.0"><ows:Exception exceptionCode="access_token_expired"><ows:ExceptionText>Access Token expired</ows:ExceptionText></ows:Exception></ows:ExceptionReport>"#;
        for (path, body) in [
            ("/search/names/v1/find", json),
            ("/features/ngd/ofa/v1/collections/bld-fts-building-1/items", json),
            ("/maps/vector/ngd/ota/v1/collections/ngd-base/tiles/3857/7/42/63", json),
            ("/maps/raster/v1/zxy/Road_3857/7/63/42.png", xml),
            ("/maps/raster/v1/wmts", ows),
            ("/maps/vector/v1/vts", ows),
            ("/maps/vector/v1/vts/tile/7/42/63.pbf", ows),
            ("/features/v1/wfs", ows),
        ] {
            let response = TOKEN_EXPIRED.response(path).0;
            assert_eq!(response.body(), body, "{path}");
            assert_eq!(
                response.headers()["WWW-Authenticate"],
                r#"Bearer realm="null",error="invalid_token",error_description="keymanagement.service.access_token_expired: Access Token expired""#
            );
        }
    }
}
