//! Access logs of Apache and nginx, common and combined.

use std::borrow::Cow;

use super::time;
use crate::record::{Record, Value};

/// A record, if the line is one of an access log. The message is the request line.
pub fn parse(line: &str) -> Option<Record<'_>> {
    let (client, rest) = line.split_once(' ')?;
    let (identity, rest) = rest.split_once(' ')?;
    let (user, rest) = rest.split_once(" [")?;
    let (stamp, rest) = rest.split_once("] ")?;
    let time_ns = time::of_access_log(stamp)?;
    let (request, rest) = quoted(rest)?;
    let mut words = rest.trim_start().splitn(3, ' ');
    let status: u16 = words.next()?.parse().ok().filter(|status| (100..1_000).contains(status))?;
    let bytes = words.next()?;
    let mut rest = words.next().unwrap_or_default();

    let mut record = Record::text(request);
    record.time_ns = Some(time_ns);
    record.severity = if status >= 500 {
        17
    } else if status >= 400 {
        13
    } else {
        9
    };
    text(&mut record, "client.address", client);
    text(&mut record, "identity", identity);
    text(&mut record, "user.name", user);
    record.fields.push((Cow::Borrowed("http.response.status_code"), Value::Integer(i64::from(status))));
    match bytes.parse() {
        Ok(bytes) => record.fields.push((Cow::Borrowed("http.response.body.size"), Value::Integer(bytes))),
        Err(_) => text(&mut record, "http.response.body.size_text", bytes),
    }
    let mut parts = request.split(' ');
    if let (Some(method), Some(path), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next()) {
        text(&mut record, "http.request.method", method);
        text(&mut record, "url.original", path);
        text(&mut record, "network.protocol", version);
    }
    for name in ["http.request.referrer", "user_agent.original"] {
        if let Some((value, after)) = quoted(rest) {
            text(&mut record, name, value);
            rest = after.trim_start();
        }
    }
    // What a format has beyond combined is kept as it is.
    text(&mut record, "rest", rest);
    Some(record)
}

fn text<'a>(record: &mut Record<'a>, key: &'static str, value: &'a str) {
    if !value.is_empty() && value != "-" {
        record.fields.push((Cow::Borrowed(key), Value::Text(Cow::Borrowed(value))));
    }
}

/// A text in quotes at the start, as it is written (both servers escape quotes in it), and what follows.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('"')?;
    let mut escaped = false;
    let end = inner.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })?;
    Some((&inner[..end], &inner[end + 1..]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_of_apache_and_nginx() {
        let line = r#"127.0.0.1 - frank [10/Oct/2000:13:55:36 -0700] "GET /apache_pb.gif HTTP/1.0" 200 2326"#;
        let record = parse(line).unwrap();
        assert_eq!((record.severity, &*record.message), (9, "GET /apache_pb.gif HTTP/1.0"));
        assert_eq!(record.time_ns, Some(971_211_336_000_000_000));
        let line = r#"203.0.113.7 - - [23/Nov/2026:03:01:41 +0000] "POST /x?q=\"a\" HTTP/1.1" 502 - "https://example.org/" "Mozilla/5.0 (X11)" 0.004 up"#;
        let record = parse(line).unwrap();
        assert_eq!(record.severity, 17);
        let field = |name: &str| record.fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        assert_eq!(field("user_agent.original"), Some(Value::Text("Mozilla/5.0 (X11)".into())));
        assert_eq!(field("rest"), Some(Value::Text("0.004 up".into())));
        assert_eq!(field("http.response.body.size"), None);
    }

    #[test]
    fn garbage_of_a_scanner_is_kept() {
        let record = parse(r#"198.51.100.1 - - [23/Nov/2026:03:01:41 +0000] "\x16\x03\x01" 400 157 "-" "-""#).unwrap();
        assert_eq!((record.severity, &*record.message), (13, r"\x16\x03\x01"));
        assert!(parse("127.0.0.1 - - [x] \"GET / HTTP/1.0\" 200 1").is_none());
    }
}
