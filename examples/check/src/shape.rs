//! Shape of a body or a header: its structure, with each value replaced by its type.

use std::collections::BTreeSet;

use http::{HeaderName, HeaderValue, header};
use serde_json::{Map, Value};

/// Media types that a record may name.
const MEDIA_TYPES: [&str; 11] = [
    "application/geo+json",
    "application/json",
    "application/octet-stream",
    "application/problem+json",
    "application/vnd.mapbox-vector-tile",
    "application/xml",
    "image/jpeg",
    "image/png",
    "text/html",
    "text/plain",
    "text/xml",
];

/// The shape of a body: of JSON a tree, of XML its paths, and otherwise a word.
pub(crate) fn of_body(body: &[u8]) -> Value {
    let text = String::from_utf8_lossy(body);
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.is_empty() {
        "empty".into()
    } else if let Ok(json) = serde_json::from_str(text) {
        of_json(&json)
    } else if text.starts_with('<') {
        of_xml(text)
    } else if std::str::from_utf8(body).is_ok() {
        "text".into()
    } else {
        "binary".into()
    }
}

fn of_json(json: &Value) -> Value {
    match json {
        Value::Null => "null".into(),
        Value::Bool(_) => "boolean".into(),
        Value::Number(_) => "number".into(),
        Value::String(_) => "string".into(),
        Value::Array(items) => {
            let mut shapes: Vec<_> = items.iter().map(of_json).collect();
            // A thousand coordinates have one shape.
            shapes.dedup();
            shapes.into()
        }
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| (safe_name(name), of_json(value)));
            Value::Object(fields.collect::<Map<_, _>>())
        }
    }
}

/// The path of each element, and of each attribute after an `@`. Text and the values of attributes are dropped.
fn of_xml(text: &str) -> Value {
    let (mut open, mut paths) = (Vec::new(), BTreeSet::new());
    let mut rest = text;
    while let Some((_, tag)) = rest.split_once('<') {
        let end_mark = match tag {
            _ if tag.starts_with("!--") => "-->",
            _ if tag.starts_with("![CDATA[") => "]]>",
            _ => ">",
        };
        let Some((tag, after)) = tag.split_once(end_mark) else {
            break;
        };
        rest = after;
        if tag.starts_with('/') {
            open.pop();
        } else if !tag.starts_with(['!', '?']) {
            let name = tag
                .split(|c: char| c.is_whitespace() || c == '/')
                .next()
                .unwrap_or_default();
            open.push(safe_name(name));
            let path = open.join("/");
            // In `name="value" name="value"`, a name is what stands before each second quotation mark.
            let names = tag[name.len()..]
                .split(['"', '\''])
                .step_by(2)
                .filter_map(|part| part.trim().strip_suffix('='));
            paths.extend(names.map(|name| format!("{path}@{}", safe_name(name.trim()))));
            paths.insert(path);
            if tag.ends_with('/') {
                open.pop();
            }
        }
    }
    paths.into_iter().collect::<Vec<_>>().into()
}

/// A name, if it can hardly be data: letters, a few signs and at most two digits. Some objects have data for names.
fn safe_name(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-:.".contains(c);
    let digits = name.chars().filter(char::is_ascii_digit).count();
    if name.len() <= 40 && digits <= 2 && name.chars().all(is_plain) {
        name.to_owned()
    } else {
        "…".to_owned()
    }
}

/// A header's value, if it is on the list of harmless ones; otherwise `string`.
pub(crate) fn of_header(name: &HeaderName, value: &HeaderValue) -> String {
    let value = value.to_str().unwrap_or_default().trim();
    let is_number = !value.is_empty() && value.len() <= 5 && value.bytes().all(|byte| byte.is_ascii_digit());
    let is_limit = *name == header::RETRY_AFTER || name.as_str().replace('-', "").contains("ratelimit");
    let media_type = value.split(';').next().unwrap_or_default().trim();
    if *name == header::CONTENT_TYPE && MEDIA_TYPES.contains(&media_type) {
        media_type.to_owned()
    } else if *name == header::ACCESS_CONTROL_ALLOW_ORIGIN && value == "*" || is_limit && is_number {
        value.to_owned()
    } else if *name == header::WWW_AUTHENTICATE && value.starts_with("Bearer ") {
        let error = ["invalid_token", "insufficient_scope", "invalid_request"];
        let error = error.iter().find(|error| value.contains(&format!("error=\"{error}\"")));
        error.map_or("Bearer".to_owned(), |error| format!("Bearer error=\"{error}\""))
    } else {
        "string".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_keeps_its_structure_and_loses_its_values() {
        let body =
            json!({"results": [{"X": 1.5, "NAME1": "Bath"}, {"X": 2, "NAME1": "Wells"}], "12 High St": [null, true]});
        let shape = json!({"results": [{"X": "number", "NAME1": "string"}], "…": ["null", "boolean"]});
        assert_eq!(of_body(body.to_string().as_bytes()), shape);
    }

    #[test]
    fn xml_keeps_its_paths_and_loses_its_values() {
        let body = br#"<?xml version="1.0"?><a:r xmlns="x" v='2'><!-- <z> --><a:e code="1 High St"/><t>51.5</t><![CDATA[<y>]]></a:r>"#;
        assert_eq!(
            of_body(body),
            json!(["a:r", "a:r/a:e", "a:r/a:e@code", "a:r/t", "a:r@v", "a:r@xmlns"])
        );
    }

    #[test]
    fn anything_else_is_a_word() {
        assert_eq!(of_body(b""), "empty");
        assert_eq!(of_body(b"Not Found"), "text");
        assert_eq!(of_body(b"\x89PNG\xff"), "binary");
    }

    #[test]
    fn only_harmless_values_of_headers_are_kept() {
        for (name, value, shape) in [
            ("content-type", "application/json; charset=utf-8", "application/json"),
            ("content-type", "application/secret", "string"),
            ("retry-after", "30", "30"),
            ("retry-after", "canary", "string"),
            ("x-ratelimit-limit", "50", "50"),
            ("access-control-allow-origin", "*", "*"),
            ("access-control-allow-origin", "https://canary.example", "string"),
            (
                "www-authenticate",
                r#"Bearer realm="canary",error="invalid_token""#,
                r#"Bearer error="invalid_token""#,
            ),
            ("set-cookie", "canary", "string"),
        ] {
            let value = HeaderValue::from_static(value);
            assert_eq!(of_header(&HeaderName::from_static(name), &value), shape, "{name}");
        }
    }
}
