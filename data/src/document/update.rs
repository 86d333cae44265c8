//! Updates: what a partial document makes of the one that is there.
//!
//! Objects are merged key by key, everything else is replaced, as Elasticsearch does. Both documents
//! are read as text: what is not touched stays exactly as it was written, numbers and key order too.

use std::borrow::Cow;
use std::collections::HashMap;

use super::DocumentError;
use super::json::{Kind, Parser};

/// From how many members on an object's keys are hashed.
const MEMBERS_SCANNED_MAX: usize = 16;

/// The body of an update request; documents and `_source` as they were written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpdateRequest<'a> {
    /// What to merge into the document.
    pub doc: Option<&'a str>,
    /// The document to begin with when there is none.
    pub upsert: Option<&'a str>,
    /// Whether `doc` is the document to begin with.
    pub doc_as_upsert: bool,
    /// Whether an update that changes nothing is none.
    pub detect_noop: bool,
    /// What to return of the new document: JSON text.
    pub source: Option<&'a str>,
    /// The document's `_seq_no` has to be this one.
    pub if_seq_no: Option<u64>,
    /// The document's `_primary_term` has to be this one.
    pub if_primary_term: Option<u64>,
}

impl<'a> UpdateRequest<'a> {
    /// Reads the keys of the body; documents only as far as they are JSON.
    ///
    /// # Errors
    /// `x_content_parse_exception` for malformed JSON, unknown keys and values of a wrong type,
    /// `illegal_argument_exception` for scripts.
    pub fn parse(body: &'a [u8]) -> Result<Self, DocumentError> {
        Self::read(body).map_err(|error| match error.error_type {
            "document_parsing_exception" => DocumentError::new("x_content_parse_exception", error.reason),
            _ => error,
        })
    }

    fn read(body: &'a [u8]) -> Result<Self, DocumentError> {
        let mut request = Self { detect_noop: true, ..Self::default() };
        let mut parser = Parser::new(body)?;
        if parser.peek()? != Kind::Object {
            return Err(parser.malformed(parser.at(), "[UpdateRequest] expected START_OBJECT"));
        }
        parser.object(&mut |parser, key, at| {
            let kind = parser.peek()?;
            let start = parser.at();
            parser.skip()?;
            let text = parser.slice(start, parser.at());
            let wrong = || {
                let reason = format!("[UpdateRequest] {key} doesn't support values of type: {}", token(kind));
                Err(parser.malformed(start, &reason))
            };
            let flag = |text: &str| match text {
                "true" | "\"true\"" => Some(true),
                "false" | "\"false\"" => Some(false),
                _ => None,
            };
            match (key.as_ref(), kind) {
                ("doc", Kind::Object) => request.doc = Some(text),
                ("upsert", Kind::Object) => request.upsert = Some(text),
                ("_source", Kind::Null) => {}
                ("_source", _) => request.source = Some(text),
                ("doc_as_upsert", _) => match flag(text) {
                    Some(flag) => request.doc_as_upsert = flag,
                    None => return wrong(),
                },
                ("detect_noop", _) => match flag(text) {
                    Some(flag) => request.detect_noop = flag,
                    None => return wrong(),
                },
                ("if_seq_no", Kind::Number) => match text.parse() {
                    Ok(number) => request.if_seq_no = Some(number),
                    Err(_) => return wrong(),
                },
                ("if_primary_term", Kind::Number) => match text.parse() {
                    Ok(number) => request.if_primary_term = Some(number),
                    Err(_) => return wrong(),
                },
                ("doc" | "upsert" | "if_seq_no" | "if_primary_term", _) => return wrong(),
                ("script" | "scripted_upsert", _) => {
                    let reason = format!("[{key}] is not supported in an update, only partial documents are");
                    return Err(DocumentError::new("illegal_argument_exception", reason));
                }
                _ => return Err(parser.malformed(at, &format!("[UpdateRequest] unknown field [{key}]"))),
            }
            Ok(())
        })?;
        if !parser.at_end() {
            return Err(parser.malformed(parser.at(), "[UpdateRequest] expected nothing behind the object"));
        }
        Ok(request)
    }

    /// The document to begin with when there is none.
    pub fn initial(&self) -> Option<&'a str> {
        if self.doc_as_upsert { self.doc } else { self.upsert }
    }
}

/// What merging came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// The new document.
    pub source: Vec<u8>,
    /// Whether it says anything else than the old one.
    pub changed: bool,
}

/// Merges a partial document into a stored one. Two values are the same when they say the same: `1.0`
/// and `1.00`, `"a"` and `"\u0061"`, objects with their keys in another order; `1` and `1.0` are not.
///
/// # Errors
/// When either is no JSON object.
pub fn merge(source: &[u8], changes: &str) -> Result<Merged, DocumentError> {
    let (old, new) = (Node::parse(source)?, Node::parse(changes.as_bytes())?);
    let mut out = String::with_capacity(source.len() + changes.len());
    let mut changed = false;
    match (&old.members, &new.members) {
        (Some(old), Some(new)) => merge_members(old, new, &mut out, &mut changed)?,
        _ => return Err(DocumentError::new("document_parsing_exception", "an update merges objects only")),
    }
    Ok(Merged { source: out.into_bytes(), changed })
}

/// A value as text; of an object that is in no array also its members.
struct Node<'a> {
    text: &'a str,
    members: Option<Vec<Member<'a>>>,
}

struct Member<'a> {
    key: Cow<'a, str>,
    /// The key as it was written, with its quotes.
    written: &'a str,
    value: Node<'a>,
}

impl<'a> Node<'a> {
    fn parse(text: &'a [u8]) -> Result<Self, DocumentError> {
        let mut parser = Parser::new(text)?;
        let node = Self::next(&mut parser)?;
        if parser.at_end() {
            Ok(node)
        } else {
            Err(parser.malformed(parser.at(), "expected nothing behind the object"))
        }
    }

    fn next(parser: &mut Parser<'a>) -> Result<Self, DocumentError> {
        let kind = parser.peek()?;
        let start = parser.at();
        let mut members = None;
        if kind == Kind::Object {
            let list = members.insert(Vec::new());
            parser.object(&mut |parser, key, at| {
                // A key ends with its closing quote; behind it are blanks and the colon.
                let written = parser.slice(at, parser.at()).trim_end_matches([':', ' ', '\t', '\n', '\r']);
                let value = Self::next(parser)?;
                list.push(Member { key, written, value });
                Ok(())
            })?;
        } else {
            parser.skip()?;
        }
        Ok(Self { text: parser.slice(start, parser.at()), members })
    }
}

fn merge_members(
    old: &[Member<'_>],
    new: &[Member<'_>],
    out: &mut String,
    changed: &mut bool,
) -> Result<(), DocumentError> {
    let (old_places, new_places) = (Places::of(old), Places::of(new));
    out.push('{');
    let mut first = true;
    let mut begin = |out: &mut String, member: &Member<'_>| {
        if !std::mem::take(&mut first) {
            out.push(',');
        }
        out.push_str(member.written);
        out.push(':');
    };
    for member in old {
        begin(out, member);
        let Some(change) = new_places.find(new, &member.key) else {
            out.push_str(member.value.text);
            continue;
        };
        match (&member.value.members, &change.value.members) {
            (Some(old), Some(new)) => merge_members(old, new, out, changed)?,
            _ => {
                out.push_str(change.value.text);
                *changed = *changed || !same(member.value.text, change.value.text)?;
            }
        }
    }
    for member in new.iter().filter(|member| old_places.find(old, &member.key).is_none()) {
        begin(out, member);
        out.push_str(member.value.text);
        *changed = true;
    }
    out.push('}');
    Ok(())
}

/// Finds members by key.
struct Places<'a>(Option<HashMap<&'a str, usize>>);

impl<'a> Places<'a> {
    fn of(members: &'a [Member<'_>]) -> Self {
        let hashed = members.len() > MEMBERS_SCANNED_MAX;
        Self(hashed.then(|| members.iter().enumerate().map(|(at, member)| (member.key.as_ref(), at)).collect()))
    }

    fn find<'m, 't>(&self, members: &'m [Member<'t>], key: &str) -> Option<&'m Member<'t>> {
        match &self.0 {
            Some(places) => members.get(*places.get(key)?),
            None => members.iter().find(|member| member.key == key),
        }
    }
}

/// Whether two values say the same.
fn same(left: &str, right: &str) -> Result<bool, DocumentError> {
    Ok(left == right || value(&mut Parser::new(left.as_bytes())?)? == value(&mut Parser::new(right.as_bytes())?)?)
}

/// What a value says.
#[derive(PartialEq)]
enum Said<'a> {
    Object(HashMap<Cow<'a, str>, Said<'a>>),
    Array(Vec<Said<'a>>),
    String(Cow<'a, str>),
    /// Digits and sign.
    Whole(&'a str),
    /// The bits of the nearest double.
    Broken(u64),
    Boolean(bool),
    Null,
}

fn value<'a>(parser: &mut Parser<'a>) -> Result<Said<'a>, DocumentError> {
    Ok(match parser.peek()? {
        Kind::Object => {
            let mut members = HashMap::new();
            parser.object(&mut |parser, key, _| {
                members.insert(key, value(parser)?);
                Ok(())
            })?;
            Said::Object(members)
        }
        Kind::Array => {
            let mut elements = Vec::new();
            parser.array(&mut |parser| {
                elements.push(value(parser)?);
                Ok(())
            })?;
            Said::Array(elements)
        }
        Kind::String => Said::String(parser.string()?),
        Kind::Number => match parser.number()? {
            "-0" => Said::Whole("0"),
            text if text.contains(['.', 'e', 'E']) => Said::Broken(text.parse::<f64>().unwrap_or_default().to_bits()),
            text => Said::Whole(text),
        },
        Kind::Boolean(value) => {
            parser.literal(Kind::Boolean(value));
            Said::Boolean(value)
        }
        Kind::Null => {
            parser.literal(Kind::Null);
            Said::Null
        }
    })
}

fn token(kind: Kind) -> &'static str {
    match kind {
        Kind::Object => "START_OBJECT",
        Kind::Array => "START_ARRAY",
        Kind::String => "VALUE_STRING",
        Kind::Number => "VALUE_NUMBER",
        Kind::Boolean(_) => "VALUE_BOOLEAN",
        Kind::Null => "VALUE_NULL",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use serde_json::{Map, Value as Json};

    use super::*;

    fn merged(source: &str, changes: &str) -> (String, bool) {
        let merged = merge(source.as_bytes(), changes).unwrap();
        (String::from_utf8(merged.source).unwrap(), merged.changed)
    }

    #[test]
    fn objects_are_merged_and_everything_else_is_replaced() {
        let source = r#"{"a":1, "b" : {"x":[1,2],"y":{"z":1.10}},"c":"old"}"#;
        for (changes, expected, changed) in [
            ("{}", r#"{"a":1,"b":{"x":[1,2],"y":{"z":1.10}},"c":"old"}"#, false),
            (r#"{"c":"new","d":null}"#, r#"{"a":1,"b":{"x":[1,2],"y":{"z":1.10}},"c":"new","d":null}"#, true),
            (
                r#"{"b":{"x":[3],"w":12345678901234567890123}}"#,
                r#"{"a":1,"b":{"x":[3],"y":{"z":1.10},"w":12345678901234567890123},"c":"old"}"#,
                true,
            ),
            (r#"{"b":5}"#, r#"{"a":1,"b":5,"c":"old"}"#, true),
            (r#"{"a":{"n":1}}"#, r#"{"a":{"n":1},"b":{"x":[1,2],"y":{"z":1.10}},"c":"old"}"#, true),
        ] {
            assert_eq!(merged(source, changes), (expected.to_owned(), changed), "{changes}");
        }
    }

    #[test]
    fn what_says_the_same_changes_nothing() {
        for (source, changes, changed) in [
            (r#"{"a":1.0}"#, r#"{"a":1.00}"#, false),
            (r#"{"a":1}"#, r#"{"a":1.0}"#, true),
            (r#"{"a":0}"#, r#"{"a":-0}"#, false),
            (r#"{"a":"a"}"#, r#"{"\u0061":"\u0061"}"#, false),
            (r#"{"a":[{"x":1,"y":2}]}"#, r#"{"a":[ {"y":2,"x":1} ]}"#, false),
            (r#"{"a":[1,2]}"#, r#"{"a":[2,1]}"#, true),
            (r#"{"a":null}"#, r#"{"a":null}"#, false),
            (r#"{"a":true}"#, r#"{"a":false}"#, true),
            (r#"{"a":{}}"#, r#"{"a":{}}"#, false),
        ] {
            assert_eq!(merged(source, changes).1, changed, "{source} {changes}");
        }
    }

    #[test]
    fn requests_are_read_and_wrong_ones_are_named() {
        let body = br#"{"doc": {"a": 1},"doc_as_upsert":true,"_source":["a"],"if_seq_no":3,"if_primary_term":1}"#;
        let request = UpdateRequest::parse(body).unwrap();
        assert_eq!((request.doc, request.initial()), (Some("{\"a\": 1}"), Some("{\"a\": 1}")));
        assert_eq!((request.source, request.if_seq_no, request.detect_noop), (Some("[\"a\"]"), Some(3), true));
        let wrong = |body: &str| {
            let error = UpdateRequest::parse(body.as_bytes()).unwrap_err();
            (error.error_type, error.reason)
        };
        for (body, reason) in [
            (r#"{"dc":{}}"#, "[1:2] [UpdateRequest] unknown field [dc]"),
            (r#"{"doc":5}"#, "[1:8] [UpdateRequest] doc doesn't support values of type: VALUE_NUMBER"),
            (
                r#"{"doc":{},"detect_noop":1}"#,
                "[1:25] [UpdateRequest] detect_noop doesn't support values of type: VALUE_NUMBER",
            ),
            (r#"[]"#, "[1:1] [UpdateRequest] expected START_OBJECT"),
            (r#"{"doc":{}}}"#, "[1:11] [UpdateRequest] expected nothing behind the object"),
            (
                r#"{"doc":{"a":}}"#,
                "[1:13] Unexpected character ('}' (code 125)): expected a valid value (JSON String, Number, Array, Object or token 'null', 'true' or 'false')",
            ),
        ] {
            assert_eq!(wrong(body), ("x_content_parse_exception", reason.to_owned()));
        }
        for key in ["script", "scripted_upsert"] {
            let (error_type, reason) = wrong(&format!("{{\"{key}\":true}}"));
            assert_eq!(error_type, "illegal_argument_exception");
            assert!(reason.contains(key), "{reason}");
        }
    }

    fn plain_merge(old: &mut Map<String, Json>, new: &Map<String, Json>) {
        for (key, value) in new {
            match (old.get_mut(key), value) {
                (Some(Json::Object(old)), Json::Object(new)) => plain_merge(old, new),
                _ => {
                    old.insert(key.clone(), value.clone());
                }
            }
        }
    }

    fn document() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            (-2i64..3).prop_map(Json::from),
            "[a\"\\\\é]{0,2}".prop_map(Json::from),
        ];
        let value = leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Json::from),
                prop::collection::btree_map("[a-c]", inner, 0..4)
                    .prop_map(|map| Json::Object(map.into_iter().collect())),
            ]
        });
        prop::collection::btree_map("[a-c]", value, 0..4).prop_map(|map| Json::Object(map.into_iter().collect()))
    }

    proptest! {
        #[test]
        fn merging_text_is_merging_values(old in document(), new in document()) {
            let merged = merge(old.to_string().as_bytes(), &new.to_string()).unwrap();
            let mut expected = old.clone();
            plain_merge(expected.as_object_mut().unwrap(), new.as_object().unwrap());
            prop_assert_eq!(merged.changed, expected != old);
            prop_assert_eq!(serde_json::from_slice::<Json>(&merged.source).unwrap(), expected);
        }

        #[test]
        fn any_text_is_handled(body in "[{}\\[\\]\":,a-c0-9 docupsert_\\\\]{0,40}", other in "[{}\\[\\]\":,a-c0-9]{0,20}") {
            let _ = UpdateRequest::parse(body.as_bytes());
            let _ = merge(other.as_bytes(), &body);
        }
    }
}
