//! JSON as requests and answers hold it: keys keep their order, a key given twice is an error, and
//! a stored document goes through unparsed.
//!
//! `serde_json::Value` would sort keys (the order of sort keys and highlight fields matters) and
//! silently keep the last of two equal keys.

use std::{collections::HashSet, fmt};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, SeqAccess, Visitor},
    ser::{Error as _, SerializeMap},
};
use serde_json::{Number, value::RawValue};

/// Members of an object, in order.
pub type Members = Vec<(String, Json)>;

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number, as exact as JSON text allows.
    Number(Number),
    /// A string.
    String(String),
    /// An array.
    Array(Vec<Json>),
    /// An object with unique keys.
    Object(Members),
    /// JSON text that is passed on as it is (a document's source). Never made by parsing.
    Raw(Bytes),
}

/// Makes an object: `object! { "took" => 5, "name" => name }`.
macro_rules! object {
    ($($key:expr => $value:expr),* $(,)?) => {
        $crate::http::json::Json::Object(vec![$(($key.into(), $crate::http::json::Json::from($value))),*])
    };
}
pub(crate) use object;

/// Parses one JSON value that fills the whole text. Nesting deeper than 128 is an error.
pub fn parse(text: &[u8]) -> Result<Json, serde_json::Error> {
    serde_json::from_slice(text)
}

impl Json {
    /// The member of an object; `None` for anything else.
    pub fn get(&self, key: &str) -> Option<&Json> {
        self.as_object()?.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// The members, if this is an object.
    pub fn as_object(&self) -> Option<&Members> {
        match self {
            Self::Object(members) => Some(members),
            _ => None,
        }
    }

    /// The elements, if this is an array.
    pub fn as_array(&self) -> Option<&[Json]> {
        match self {
            Self::Array(elements) => Some(elements),
            _ => None,
        }
    }

    /// The text, if this is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// Whether this is neither an object nor an array.
    pub fn is_scalar(&self) -> bool {
        matches!(self, Self::Null | Self::Bool(_) | Self::Number(_) | Self::String(_))
    }

    /// A scalar as a person would write it: strings without quotes.
    pub fn scalar_text(&self) -> Option<String> {
        match self {
            Self::Bool(value) => Some(value.to_string()),
            Self::Number(value) => Some(value.to_string()),
            Self::String(value) => Some(value.clone()),
            _ => None,
        }
    }

    /// The same as `serde_json::Value` (keys lose their order).
    pub fn to_value(&self) -> serde_json::Value {
        use serde_json::Value;
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Number(value) => Value::Number(value.clone()),
            Self::String(value) => Value::String(value.clone()),
            Self::Array(elements) => Value::Array(elements.iter().map(Self::to_value).collect()),
            Self::Object(members) => {
                Value::Object(members.iter().map(|(key, value)| (key.clone(), value.to_value())).collect())
            }
            Self::Raw(text) => serde_json::from_slice(text).unwrap_or(Value::Null),
        }
    }

    /// What Elasticsearch calls the first token of this value in messages.
    pub fn token(&self) -> &'static str {
        match self {
            Self::Null => "VALUE_NULL",
            Self::Bool(_) => "VALUE_BOOLEAN",
            Self::Number(_) => "VALUE_NUMBER",
            Self::String(_) => "VALUE_STRING",
            Self::Array(_) => "START_ARRAY",
            Self::Object(_) | Self::Raw(_) => "START_OBJECT",
        }
    }

    /// As compact text.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(256);
        self.write(&mut text);
        text
    }

    /// Appends compact text.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => out.extend_from_slice(b"null"),
            Self::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
            Self::Number(value) => out.extend_from_slice(value.to_string().as_bytes()),
            Self::String(value) => write_string(value, out),
            Self::Array(elements) => {
                out.push(b'[');
                for (at, element) in elements.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    element.write(out);
                }
                out.push(b']');
            }
            Self::Object(members) => {
                out.push(b'{');
                for (at, (key, value)) in members.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    write_string(key, out);
                    out.push(b':');
                    value.write(out);
                }
                out.push(b'}');
            }
            Self::Raw(text) if text.is_empty() => out.extend_from_slice(b"null"),
            Self::Raw(text) => out.extend_from_slice(text.trim_ascii()),
        }
    }
}

/// Appends a string with its quotes.
pub(crate) fn write_string(text: &str, out: &mut Vec<u8>) {
    // Writing to a vector cannot fail, and a string can always be written as JSON.
    let _ = serde_json::to_writer(out, text);
}

/// Compact JSON text with line breaks and two blanks of indentation per level, as Elasticsearch's
/// `pretty` prints it. The text must be valid JSON; anything else comes out as something, without panic.
pub fn pretty(compact: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(compact.len() * 2);
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    let line = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.resize(out.len() + depth * 2, b' ');
    };
    let mut at = 0;
    while at < compact.len() {
        let byte = compact[at];
        at += 1;
        if in_string {
            out.push(byte);
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        match byte {
            b'"' => {
                in_string = true;
                out.push(byte);
            }
            b'{' | b'[' => {
                let rest = compact[at..].trim_ascii_start();
                out.push(byte);
                if matches!(rest.first(), Some(b'}' | b']')) {
                    out.push(b' ');
                    out.push(rest[0]);
                    at = compact.len() - rest.len() + 1;
                } else {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                line(&mut out, depth);
            }
            b':' => out.extend_from_slice(b" : "),
            _ if byte.is_ascii_whitespace() => {}
            _ => out.push(byte),
        }
    }
    out.push(b'\n');
    out
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Json, E> {
        Ok(Json::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Json, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = access.next_element()? {
            elements.push(element);
        }
        Ok(Json::Array(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Json, A::Error> {
        let mut members = Members::new();
        let mut seen = HashSet::new();
        while let Some((key, value)) = access.next_entry::<String, Json>()? {
            if !seen.insert(key.clone()) {
                return Err(serde::de::Error::custom(format!("Duplicate field '{key}'")));
            }
            members.push((key, value));
        }
        Ok(Json::Object(members))
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(value) => value.serialize(serializer),
            Self::String(value) => serializer.serialize_str(value),
            Self::Array(elements) => serializer.collect_seq(elements),
            Self::Object(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (key, value) in members {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
            Self::Raw(text) => {
                let raw: &RawValue = serde_json::from_slice(text).map_err(S::Error::custom)?;
                raw.serialize(serializer)
            }
        }
    }
}

impl From<serde_json::Value> for Json {
    fn from(value: serde_json::Value) -> Self {
        use serde_json::Value;
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(value),
            Value::Number(value) => Self::Number(value),
            Value::String(value) => Self::String(value),
            Value::Array(elements) => Self::Array(elements.into_iter().map(Self::from).collect()),
            Value::Object(members) => {
                Self::Object(members.into_iter().map(|(key, value)| (key, Self::from(value))).collect())
            }
        }
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<f64> for Json {
    fn from(value: f64) -> Self {
        Number::from_f64(value).map_or(Self::Null, Self::Number)
    }
}

impl From<f32> for Json {
    /// The shortest decimal that reads back as the same f32: 0.1, not 0.10000000149.
    fn from(value: f32) -> Self {
        if !value.is_finite() {
            return Self::Null;
        }
        value.to_string().parse::<f64>().map_or(Self::Null, Self::from)
    }
}

impl<T: Into<Json>> From<Option<T>> for Json {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

macro_rules! from {
    ($($kind:ty => $variant:ident),*) => {
        $(impl From<$kind> for Json {
            fn from(value: $kind) -> Self {
                Self::$variant(value.into())
            }
        })*
    };
}
from!(bool => Bool, u32 => Number, u64 => Number, i64 => Number, i32 => Number, u16 => Number, usize => Number, String => String, Vec<Json> => Array, Members => Object);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn order_of_keys_is_kept_and_duplicates_are_refused() {
        let text = br#"{"b":1,"a":[true,null,1.5,"x\n"]}"#;
        assert_eq!(parse(text).unwrap().to_bytes(), text);
        assert!(parse(br#"{"a":1,"a":2}"#).unwrap_err().to_string().contains("Duplicate field 'a'"));
    }

    #[test]
    fn a_thousand_levels_are_an_error_not_a_crash() {
        let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
        assert!(parse(deep.as_bytes()).is_err());
    }

    #[test]
    fn pretty_prints_as_elasticsearch_does() {
        let text = pretty(br#"{"a":{"b":[1,2],"c":[]},"d":"x:{,}\"","e":{}}"#);
        let expected = "{\n  \"a\" : {\n    \"b\" : [\n      1,\n      2\n    ],\n    \"c\" : [ ]\n  },\n  \"d\" : \"x:{,}\\\"\",\n  \"e\" : { }\n}\n";
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }

    #[test]
    fn floats_are_short() {
        assert_eq!(Json::from(0.1_f32).to_bytes(), b"0.1");
        assert_eq!(Json::from(1.0_f32).to_bytes(), b"1.0");
        assert_eq!(Json::from(f32::NAN).to_bytes(), b"null");
    }

    proptest! {
        #[test]
        fn any_text_is_handled(text in ".{0,80}") {
            let _ = parse(text.as_bytes());
            pretty(text.as_bytes());
        }

        #[test]
        fn pretty_keeps_the_value(text in "[a-z\"\\\\{}:, ]{0,20}", number in any::<i64>()) {
            let json = object! { "k" => text, "n" => vec![Json::from(number), object!{}] };
            prop_assert_eq!(parse(&pretty(&json.to_bytes())).unwrap(), json);
        }
    }
}
