//! Checks that bytes are one JSON object, and finds its id, in one pass without building anything.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, de::DeserializeSeed};

use super::FaultKind;

/// Why bytes are no document.
#[derive(Debug)]
pub(super) struct CheckError {
    pub(super) kind: FaultKind,
    pub(super) reason: String,
}

/// Returns the id when `id_field` (a dotted path) is asked for.
pub(super) fn check(source: &[u8], id_field: Option<&str>) -> Result<Option<String>, CheckError> {
    if let Err(error) = std::str::from_utf8(source) {
        let reason = format!("invalid UTF-8 at byte {}", error.valid_up_to());
        return Err(CheckError { kind: FaultKind::InvalidUtf8, reason });
    }
    let first = source.iter().find(|byte| !byte.is_ascii_whitespace());
    if first != Some(&b'{') {
        return Err(match serde_json::from_slice::<IgnoredAny>(source) {
            Ok(_) => CheckError { kind: FaultKind::NotAnObject, reason: "not a JSON object".to_owned() },
            Err(error) => invalid(&error),
        });
    }
    let mut found = Found::Nothing;
    let mut deserializer = serde_json::Deserializer::from_slice(source);
    let seed = Object { path: id_field, found: &mut found };
    seed.deserialize(&mut deserializer).and_then(|()| deserializer.end()).map_err(|error| invalid(&error))?;
    match (id_field, found) {
        (None, _) => Ok(None),
        (Some(_), Found::Id(id)) => Ok(Some(id)),
        (Some(field), Found::Nothing) => {
            Err(CheckError { kind: FaultKind::NoId, reason: format!("no field [{field}] to take the id from") })
        }
        (Some(field), Found::Unfit) => {
            let reason = format!("field [{field}] is no id: not a string, number or boolean, or empty");
            Err(CheckError { kind: FaultKind::NoId, reason })
        }
    }
}

fn invalid(error: &serde_json::Error) -> CheckError {
    CheckError { kind: FaultKind::InvalidJson, reason: format!("invalid JSON: {error}") }
}

enum Found {
    Nothing,
    Unfit,
    Id(String),
}

/// Walks an object, looking for the value at `path`.
struct Object<'a> {
    path: Option<&'a str>,
    found: &'a mut Found,
}

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some(path) = self.path else {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(());
        };
        while let Some(Key(key)) = map.next_key()? {
            if key == path {
                let value: serde_json::Value = map.next_value()?;
                *self.found = match value {
                    serde_json::Value::String(text) if !text.is_empty() => Found::Id(text),
                    serde_json::Value::Number(number) => Found::Id(number.to_string()),
                    serde_json::Value::Bool(value) => Found::Id(value.to_string()),
                    _ => Found::Unfit,
                };
                continue;
            }
            let rest = path.strip_prefix(key.as_ref()).and_then(|rest| rest.strip_prefix('.'));
            match rest {
                Some(rest) => {
                    let value: serde_json::Value = map.next_value()?;
                    find_below(&value, rest, self.found);
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

fn find_below(value: &serde_json::Value, path: &str, found: &mut Found) {
    let pointer = format!("/{}", path.replace('~', "~0").replace('/', "~1").replace('.', "/"));
    match value.pointer(&pointer) {
        None => {}
        Some(serde_json::Value::String(text)) if !text.is_empty() => *found = Found::Id(text.clone()),
        Some(serde_json::Value::Number(number)) => *found = Found::Id(number.to_string()),
        Some(serde_json::Value::Bool(value)) => *found = Found::Id(value.to_string()),
        Some(_) => *found = Found::Unfit,
    }
}

/// A key, borrowed where it has no escapes.
struct Key<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn kind(source: &[u8], id: Option<&str>) -> FaultKind {
        check(source, id).unwrap_err().kind
    }

    #[test]
    fn finds_ids_and_faults() {
        assert_eq!(check(br#" {"a": [1, {"b": null}]} "#, None).unwrap(), None);
        assert_eq!(check(br#"{"a": {"b": 7}, "c": "x"}"#, Some("a.b")).unwrap(), Some("7".to_owned()));
        assert_eq!(check(br#"{"a.b": "dotted"}"#, Some("a.b")).unwrap(), Some("dotted".to_owned()));
        assert_eq!(check(br#"{"\u0061": true}"#, Some("a")).unwrap(), Some("true".to_owned()));
        assert_eq!(kind(br#"{"a": 1}"#, Some("b")), FaultKind::NoId);
        assert_eq!(kind(br#"{"a": null}"#, Some("a")), FaultKind::NoId);
        assert_eq!(kind(br#"{"a": ""}"#, Some("a")), FaultKind::NoId);
        assert_eq!(kind(br#"[1]"#, None), FaultKind::NotAnObject);
        assert_eq!(kind(br#"{"a": 1"#, None), FaultKind::InvalidJson);
        assert_eq!(kind(br#"{"a": 1} {"#, None), FaultKind::InvalidJson);
        assert_eq!(kind(b"hello", None), FaultKind::InvalidJson);
        assert_eq!(kind(b"", None), FaultKind::InvalidJson);
        assert_eq!(kind(b"{\"a\": \"\xff\"}", None), FaultKind::InvalidUtf8);
    }

    #[test]
    fn deep_nesting_is_no_stack_overflow() {
        let deep = format!("{{\"a\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        // Whether it is accepted is the server's business; here it must only not crash.
        let _ = check(deep.as_bytes(), None);
        let _ = check(deep.as_bytes(), Some("a.b"));
    }
}
