//! Record of the answers' shapes, fit to be attached to an issue.

use serde_json::{Map, Value, json};

use crate::answer::Answer;
use crate::fault::Fault;
use crate::shape;

/// The record of all answers. No value that OS sends is in it, except those on the lists of harmless ones.
pub(crate) fn of(from: &str, answers: &[(&str, Option<Answer>)]) -> Value {
    let answers: Vec<_> = answers
        .iter()
        .map(|(api, answer)| of_answer(api, answer.as_ref()))
        .collect();
    json!({
        "about": "Shapes of the answers of OS's APIs. Each value is replaced by its type.",
        "from": from,
        "answers": answers,
    })
}

fn of_answer(api: &str, answer: Option<&Answer>) -> Value {
    let Some(answer) = answer else {
        return json!({"api": api, "status": null});
    };
    let mut headers = Map::new();
    for (name, value) in &answer.headers {
        headers.insert(name.to_string(), shape::of_header(name, value).into());
    }
    json!({
        "api": api,
        "status": answer.status,
        "unauthorized": answer.unauthorized.map(|why| format!("{why:?}")),
        "envelope": answer.fault.as_ref().map(|fault| fault.envelope),
        "code": answer.fault.as_ref().and_then(Fault::known_code),
        "headers": headers,
        "body": shape::of_body(&answer.body),
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use osdatahub_auth::Unauthorized;

    use super::*;

    #[test]
    fn no_secret_token_coordinate_address_or_value_of_a_header_is_recorded() {
        let canaries = [
            "CanaryKey0123456789",
            "CanarySecret0123",
            "ZclClFcksJlZ19vnJOt09Yj3xme0",
            "437293.5",
            "1, CANARY STREET",
            "canary-header",
        ];
        let joined = canaries.join(" ");
        let json = json!({"a": canaries, "n": 437_293.5, "fault": {"detail": {"errorcode": canaries[2]}}, canaries[2]: 1, canaries[4]: {canaries[0]: joined}});
        let xml = format!(
            "<fault a=\"{joined}\"><b>{joined}</b><![CDATA[{joined}]]><!--{joined}--><errorcode>{}</errorcode>{joined}",
            canaries[2]
        );
        let mut headers = HeaderMap::new();
        for name in [
            "content-type",
            "retry-after",
            "x-ratelimit-limit",
            "access-control-allow-origin",
            "www-authenticate",
            "location",
            "x-any",
        ] {
            headers.insert(name, joined.parse().unwrap());
        }
        headers.append(
            "www-authenticate",
            format!("Bearer realm=\"{joined}\"").parse().unwrap(),
        );
        for status in [200, 401, 500] {
            for body in [json.to_string(), xml.clone(), joined.clone(), format!("{{{joined}")] {
                let answer = Answer::new(
                    status,
                    headers.clone(),
                    body.into_bytes(),
                    Some(Unauthorized::Unexplained),
                );
                let record = of("OS", &[("Names", Some(answer))]).to_string();
                for canary in canaries {
                    assert!(!record.contains(canary), "{canary}: {record}");
                }
                assert!(record.contains("x-any") && record.contains("Unexplained"), "{record}");
            }
        }
    }
}
