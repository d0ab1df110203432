//! Table of the results, at most 80 columns wide.

use std::fmt::Write;

use crate::answer::Answer;
use crate::standing::Standing;

/// A row on the way to OS, or on the token.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) is_good: bool,
    pub(crate) result: String,
}

impl Row {
    pub(crate) fn new(name: &'static str, is_good: bool, result: impl Into<String>) -> Self {
        let result = result.into();
        Self { name, is_good, result }
    }
}

pub(crate) fn of_rows(rows: &[Row]) -> String {
    let mut table = String::new();
    for Row { name, is_good, result } in rows {
        let mut lines = wrapped(result, 56).into_iter();
        let first = lines.next().unwrap_or_default();
        let _ = writeln!(table, "{} {name:20}{first}", mark(!is_good));
        lines.for_each(|line| _ = writeln!(table, "  {:20}{line}", ""));
    }
    table
}

pub(crate) fn of_answers(answers: &[(&str, Option<Answer>)]) -> String {
    let mut table = format!("{:49}Retry-  rate         WWW-Auth-\n", "");
    let _ = writeln!(
        table,
        "  {:19}status  {:18}  After   limit  CORS  enticate",
        "API", "result"
    );
    for (api, answer) in answers {
        let standing = answer.as_ref().map_or(Standing::NoAnswer, |answer| answer.standing);
        let status = answer
            .as_ref()
            .map_or("–".to_owned(), |answer| answer.status.to_string());
        let [retry, limit, cors, challenge] = answer.as_ref().map(Answer::undocumented).unwrap_or_default().map(yes);
        let mark = mark(standing.needs_attention());
        let _ = writeln!(
            table,
            "{mark} {api:19}{status:6}  {:18}  {retry:6}  {limit:5}  {cors:4}  {challenge}",
            standing.describe()
        );
        if let Some(fault) = answer.as_ref().and_then(|answer| answer.fault.as_ref()) {
            let code = fault.code.as_deref().unwrap_or("no code");
            let _ = writeln!(table, "    {}, {code}", fault.envelope);
        }
    }
    table
}

fn mark(needs_attention: bool) -> char {
    if needs_attention { '!' } else { ' ' }
}

fn yes(is_present: bool) -> &'static str {
    if is_present { "yes" } else { "–" }
}

pub(crate) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    #[test]
    fn no_line_is_wider_than_80_columns() {
        let body =
            br#"{"fault":{"detail":{"errorcode":"keymanagement.service.InvalidAPICallAsNoApiProductMatchFound"}}}"#;
        let answer = Answer::new(403, HeaderMap::new(), body.to_vec(), None);
        let rows = [Row::new("key accepted", false, "a long reason ".repeat(20))];
        let table = of_rows(&rows) + &of_answers(&[("Linked Identifiers", Some(answer)), ("OS Net", None)]);
        for line in table.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        assert!(
            table.contains("not in the project") && table.contains("no answer") && table.contains("! key accepted")
        );
    }
}
