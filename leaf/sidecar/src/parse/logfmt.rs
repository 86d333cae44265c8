//! logfmt: `level=info msg="listening on :80" port=80`. The crates of that name are unmaintained and small.

use std::borrow::Cow;

use super::{level, time};
use crate::record::{Record, Value};

/// A record, if the line is made of `key=value` and nothing else. One pair alone is taken for a sentence.
pub fn parse(line: &str) -> Option<Record<'_>> {
    let mut rest = line.trim();
    let mut pairs = Vec::new();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c == '"' || c.is_whitespace())?;
        let (key, after) = rest.split_at(end);
        let after = after.strip_prefix('=').filter(|_| !key.is_empty())?;
        let (value, after) = value(after)?;
        pairs.push((key, value));
        if !after.is_empty() && !after.starts_with(char::is_whitespace) {
            return None;
        }
        rest = after.trim_start();
    }
    (pairs.len() >= 2).then(|| record(pairs))
}

fn value(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(char::is_whitespace).unwrap_or(text.len());
        return Some((Cow::Borrowed(&text[..end]), &text[end..]));
    };
    let mut escaped = false;
    let end = quoted.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })?;
    let inner = &quoted[..end];
    let value = match inner.contains('\\') {
        false => Cow::Borrowed(inner),
        // What is not escaped as in JSON stays as it is.
        true => Cow::Owned(serde_json::from_str(&text[..end + 2]).unwrap_or_else(|_| inner.to_owned())),
    };
    Some((value, &quoted[end + 1..]))
}

fn record<'a>(pairs: Vec<(&'a str, Cow<'a, str>)>) -> Record<'a> {
    let mut record = Record::default();
    let mut has_message = false;
    for (key, value) in pairs {
        match key {
            "time" | "ts" | "timestamp" | "t" if record.time_ns.is_none() => {
                record.time_ns = time::whole(&value).or_else(|| time::since_epoch(&value));
                if record.time_ns.is_some() {
                    continue;
                }
            }
            "level" | "lvl" | "severity" if record.severity == 0 => {
                record.severity = level::severity(&value).unwrap_or(0);
                if record.severity > 0 {
                    continue;
                }
            }
            "msg" | "message" if !has_message => {
                record.message = value;
                has_message = true;
                continue;
            }
            _ => {}
        }
        record.fields.push((Cow::Borrowed(key), Value::Text(value)));
    }
    record
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_line_of_prometheus() {
        let line =
            r#"ts=2026-11-23T03:01:41.123Z caller=main.go:1 level=info msg="Server is \"ready\"" took=5ms empty= "#;
        let record = parse(line).unwrap();
        assert_eq!((record.severity, &*record.message), (9, "Server is \"ready\""));
        assert_eq!(record.time_ns, Some(1_795_402_901_123_000_000));
        let keys: Vec<_> = record.fields.iter().map(|(key, _)| &**key).collect();
        assert_eq!(keys, ["caller", "took", "empty"]);
    }

    #[test]
    fn sentences_are_not_logfmt() {
        for line in ["a=b", "started with x=1 y=2", "x=1 y", "", "=1 =2", "x=\"1 y=2", "x=\"1\"2 y=3"] {
            assert!(parse(line).is_none(), "{line}");
        }
    }
}
