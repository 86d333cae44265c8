//! JSON lines: an object per line. Values are not looked into: they go on as the text they are.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{level, time};
use crate::record::{Record, Value};

/// A record, if the line is one JSON object.
pub fn parse(line: &str) -> Option<Record<'_>> {
    if !line.starts_with('{') {
        return None;
    }
    let mut deserializer = serde_json::Deserializer::from_str(line);
    let record = deserializer.deserialize_map(Object).ok()?;
    deserializer.end().ok()?;
    Some(record)
}

struct Object;

impl<'de> Visitor<'de> for Object {
    type Value = Record<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Record<'de>, A::Error> {
        let mut record = Record { fields: Vec::with_capacity(12), ..Record::default() };
        let mut has_message = false;
        while let Some(key) = map.next_key_seed(Key)? {
            let value: &RawValue = map.next_value()?;
            take(&mut record, &mut has_message, key, value.get());
        }
        Ok(record)
    }
}

/// A key as it stands in the line where it needs no unescaping.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

/// Puts one member where it belongs. A name that usually means something but holds something else is a field like any other.
fn take<'a>(record: &mut Record<'a>, has_message: &mut bool, key: Cow<'a, str>, value: &'a str) {
    match &*key {
        "@timestamp" | "timestamp" | "time" | "ts" | "t" | "datetime" if record.time_ns.is_none() => {
            record.time_ns = match text(value) {
                Some(text) => time::whole(&text),
                None => time::since_epoch(value),
            };
            if record.time_ns.is_some() {
                return;
            }
        }
        "level" | "severity" | "lvl" | "severity_text" | "log.level" | "levelname" if record.severity == 0 => {
            let severity = match text(value) {
                Some(text) => level::severity(&text),
                None => of_number(value),
            };
            if let Some(severity) = severity {
                record.severity = severity;
                return;
            }
        }
        "message" | "msg" | "body" if !*has_message => {
            if let Some(text) = text(value) {
                record.message = text;
                *has_message = true;
                return;
            }
        }
        "trace_id" | "trace.id" | "traceId" | "traceid" if record.trace_id.is_none() => {
            record.trace_id = hexadecimal(value, 32);
            if record.trace_id.is_some() {
                return;
            }
        }
        "span_id" | "span.id" | "spanId" | "spanid" if record.span_id.is_none() => {
            record.span_id = hexadecimal(value, 16);
            if record.span_id.is_some() {
                return;
            }
        }
        _ => {}
    }
    record.fields.push((key, Value::Json(Cow::Borrowed(value))));
}

/// The text of a JSON string.
pub fn text(value: &str) -> Option<Cow<'_, str>> {
    let inner = value.strip_prefix('"')?.strip_suffix('"')?;
    if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Some(Cow::Borrowed(inner));
    }
    serde_json::from_str(value).ok().map(Cow::Owned)
}

fn hexadecimal(value: &str, length: usize) -> Option<Cow<'_, str>> {
    text(value).filter(|text| text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Levels of bunyan and pino: 10 to 60.
fn of_number(value: &str) -> Option<u8> {
    Some(match value {
        "10" => 1,
        "20" => 5,
        "30" => 9,
        "40" => 13,
        "50" => 17,
        "60" => 21,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_line_of_tracing_subscriber() {
        let line = r#"{"timestamp":"2026-11-23T03:01:41.123456Z","level":"INFO","message":"leaf started","leaf":"leaf-0","target":"trawl::leaf"}"#;
        let record = parse(line).unwrap();
        assert_eq!(record.severity, 9);
        assert_eq!(record.message, "leaf started");
        assert_eq!(record.time_ns, Some(1_795_402_901_123_456_000));
        assert_eq!(record.fields[0], ("leaf".into(), Value::Json(r#""leaf-0""#.into())));
        assert_eq!(record.fields.len(), 2);
    }

    #[test]
    fn a_line_of_pino() {
        let line = r#"{"level":50,"time":1531171074631,"pid":657,"hostname":"box","msg":"a \"b\"","err":{"type":"E","stack":"a\nb"}}"#;
        let record = parse(line).unwrap();
        assert_eq!((record.severity, &*record.message), (17, "a \"b\""));
        assert_eq!(record.time_ns, Some(1_531_171_074_631_000_000));
        assert_eq!(record.fields[2].1, Value::Json(r#"{"type":"E","stack":"a\nb"}"#.into()));
    }

    #[test]
    fn names_that_hold_something_else_stay_fields() {
        let record = parse(r#"{"time":"5ms","level":{"x":1},"message":7,"trace_id":"no"}"#).unwrap();
        assert_eq!((record.time_ns, record.severity, record.trace_id.is_none()), (None, 0, true));
        assert_eq!(record.fields.len(), 4);
    }

    #[test]
    fn what_is_not_one_object_is_not_taken() {
        for line in ["", "{", "[1]", "{}x", "{\"a\":}", "7", "{\"a\":1}{\"b\":2}"] {
            assert!(parse(line).is_none(), "{line}");
        }
    }
}
