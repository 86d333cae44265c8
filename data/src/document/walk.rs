//! The walk over a document: which value belongs to which field.
//!
//! Names may be dotted (`{"a.b": 1}` is `{"a": {"b": 1}}`), arrays may hold objects (their values are
//! those of one field together), and `null` is no value, as in Elasticsearch.

use std::borrow::Cow;
use std::collections::HashSet;

use super::coerce::{Misfit, Scalar, coerce};
use super::json::{Kind, Parser};
use super::{Document, DocumentError, DynamicValue, Value};
use crate::date::detect_date;
use crate::mapping::{DEPTH_MAX, Dynamic, FIELDS_MAX, Field, FieldType, METADATA_FIELDS, Mapping, Node, Object};

/// The longest path of a dynamic field in bytes, so that its terms fit into an index.
const PATH_BYTES_MAX: usize = 4096;

/// How much of a value is shown in an error, in characters.
const PREVIEW_CHARS_MAX: usize = 1000;

pub(super) fn document(mapping: &Mapping, source: &[u8]) -> Result<Document, DocumentError> {
    let mut parser = Parser::new(source)?;
    if parser.at_end() {
        return Err(located(&parser, parser.at(), "document_parsing_exception", "failed to parse, document is empty"));
    }
    if parser.peek()? != Kind::Object {
        return Err(located(
            &parser,
            parser.at(),
            "document_parsing_exception",
            "Malformed content, must start with an object",
        ));
    }
    let mut walk = Walk { mapping, path: String::new(), document: Document::default() };
    let level = Level { object: Some(mapping.root()), dynamic: mapping.dynamic(), depth: 0 };
    walk.object(&mut parser, level)?;
    if !parser.at_end() {
        return Err(located(
            &parser,
            parser.at(),
            "document_parsing_exception",
            "Malformed content, found extra data after parsing",
        ));
    }
    walk.check_number_of_fields()?;
    Ok(walk.document)
}

struct Walk<'m> {
    mapping: &'m Mapping,
    /// Of the value that is being read.
    path: String,
    document: Document,
}

/// The object that is being read.
#[derive(Clone, Copy)]
struct Level<'m> {
    /// Its mapping, if it has one.
    object: Option<&'m Object>,
    /// What happens to unknown names in it.
    dynamic: Dynamic,
    /// How many objects it lies in.
    depth: usize,
}

impl<'m> Level<'m> {
    fn node(&self, name: &str) -> Option<&'m Node> {
        self.object.and_then(|object| object.properties.get(name))
    }

    fn below(&self, node: Option<&'m Node>) -> Self {
        let object = node.and_then(|node| node.object.as_ref());
        let dynamic = object.and_then(|object| object.dynamic).unwrap_or(self.dynamic);
        Self { object, dynamic, depth: self.depth + 1 }
    }
}

/// Whether the node is a field of the catalog's mapping.
fn is_mapped(node: Option<&Node>) -> bool {
    node.is_some_and(|node| node.leaf.as_ref().is_some_and(|leaf| leaf.dynamic.is_none()))
}

impl<'m> Walk<'m> {
    fn object(&mut self, parser: &mut Parser<'_>, level: Level<'m>) -> Result<(), DocumentError> {
        parser.object(&mut |parser, key, at| self.property(parser, level, &key, at))
    }

    /// Reads the value of a key, dotted or not, of the object at `level`.
    fn property(
        &mut self,
        parser: &mut Parser<'_>,
        mut level: Level<'m>,
        key: &str,
        at: usize,
    ) -> Result<(), DocumentError> {
        if level.depth == 0 && METADATA_FIELDS.contains(&key) {
            let reason = format!(
                "Field [{key}] is a metadata field and cannot be added inside a document. Use the index API request parameters."
            );
            return Err(located(parser, at, "document_parsing_exception", &reason));
        }
        check_name(parser, key, at)?;
        let parent_length = self.path.len();
        let mut parts = key.split('.').peekable();
        let mut result = Ok(());
        while let Some(part) = parts.next() {
            let node = level.node(part);
            if node.is_none() && level.dynamic == Dynamic::Strict {
                let within = if self.path.is_empty() { "_doc" } else { &self.path };
                let reason =
                    format!("mapping set to strict, dynamic introduction of [{part}] within [{within}] is not allowed");
                result = Err(located(parser, at, "strict_dynamic_mapping_exception", &reason));
                break;
            }
            self.push(part);
            if node.is_none() && level.dynamic == Dynamic::False {
                result = parser.skip();
                break;
            }
            if parts.peek().is_none() {
                result = self.value(parser, level, node);
                break;
            }
            if is_mapped(node) {
                result = Err(self.not_an_object(parser, key, at));
                break;
            }
            level = level.below(node);
            if let Err(error) = self.check_depth(level) {
                result = Err(error);
                break;
            }
        }
        self.path.truncate(parent_length);
        result
    }

    /// Reads one value of the field or object at `self.path`.
    fn value(
        &mut self,
        parser: &mut Parser<'_>,
        level: Level<'m>,
        node: Option<&'m Node>,
    ) -> Result<(), DocumentError> {
        let kind = parser.peek()?;
        let at = parser.at();
        match kind {
            Kind::Null => {
                parser.literal(kind);
                Ok(())
            }
            Kind::Array => parser.array(&mut |parser| self.value(parser, level, node)),
            Kind::Object if is_mapped(node) => {
                parser.skip()?;
                Err(self.object_for_a_value(parser, at))
            }
            Kind::Object => {
                let below = level.below(node);
                self.check_depth(below)?;
                self.object(parser, below)
            }
            Kind::String => {
                let text = parser.string()?;
                self.scalar(parser, at, node, Scalar::String(&text))
            }
            Kind::Number => {
                let text = parser.number()?;
                self.scalar(parser, at, node, Scalar::Number(text))
            }
            Kind::Boolean(value) => {
                parser.literal(kind);
                self.scalar(parser, at, node, Scalar::Boolean(value))
            }
        }
    }

    fn scalar(
        &mut self,
        parser: &Parser<'_>,
        at: usize,
        node: Option<&Node>,
        scalar: Scalar<'_>,
    ) -> Result<(), DocumentError> {
        if !is_mapped(node) {
            if node.is_some_and(|node| node.leaf.is_none() && node.object.is_some()) {
                let path = &self.path;
                let reason = format!(
                    "object mapping for [{path}] tried to parse field [{path}] as object, but found a concrete value"
                );
                return Err(located(parser, at, "document_parsing_exception", &reason));
            }
            return self.dynamic(parser, at, scalar);
        }
        let mapping = self.mapping;
        for number in mapping.targets(&self.path) {
            let Some(field) = mapping.field_at(*number) else { continue };
            match coerce(&field.field_type, scalar) {
                Ok(Some(value)) => self.document.mapped.push((*number, value)),
                Ok(None) => {}
                Err(misfit) => return Err(failed(parser, at, &field.path, &field.field_type, misfit, scalar.text())),
            }
        }
        Ok(())
    }

    /// A value of a field that the mapping does not have: its type is that of the value alone.
    fn dynamic(&mut self, parser: &Parser<'_>, at: usize, scalar: Scalar<'_>) -> Result<(), DocumentError> {
        if self.path.len() > PATH_BYTES_MAX {
            let shown: String = self.path.chars().take(64).collect();
            return Err(DocumentError::new(
                "illegal_argument_exception",
                format!("Field name [{shown}...] is longer than the limit of [{PATH_BYTES_MAX}] bytes"),
            ));
        }
        let value = match scalar {
            Scalar::Boolean(value) => DynamicValue::Boolean(value),
            Scalar::String(text) => match detect_date(text) {
                Some(ms) => DynamicValue::Date(ms, text.to_owned()),
                None => DynamicValue::String(text.to_owned()),
            },
            Scalar::Number(text) => match text.parse::<i64>() {
                Ok(number) => DynamicValue::Long(number),
                Err(_) => match coerce(&FieldType::Double, scalar) {
                    Ok(Some(Value::Double(number))) => DynamicValue::Double(number),
                    Ok(_) => return Ok(()),
                    Err(misfit) => return Err(failed(parser, at, &self.path, &FieldType::Double, misfit, text)),
                },
            },
        };
        self.document.dynamic.push((self.path.clone(), value));
        Ok(())
    }

    fn push(&mut self, part: &str) {
        if !self.path.is_empty() {
            self.path.push('.');
        }
        self.path.push_str(part);
    }

    /// As Elasticsearch counts: fields of the top level have depth 1.
    fn check_depth(&self, level: Level<'_>) -> Result<(), DocumentError> {
        if level.depth < DEPTH_MAX {
            return Ok(());
        }
        Err(DocumentError::new(
            "illegal_argument_exception",
            format!("Limit of mapping depth [{DEPTH_MAX}] has been exceeded due to object field [{}]", self.path),
        ))
    }

    /// An index that had this document alone would have no more fields than are allowed.
    fn check_number_of_fields(&self) -> Result<(), DocumentError> {
        if self.mapping.size() + self.document.dynamic.len() <= FIELDS_MAX {
            return Ok(());
        }
        let new: HashSet<&str> = self.document.dynamic.iter().map(|(path, _)| path.as_str()).collect();
        if self.mapping.size() + new.len() <= FIELDS_MAX {
            return Ok(());
        }
        Err(DocumentError::new(
            "illegal_argument_exception",
            format!("Limit of total fields [{FIELDS_MAX}] has been exceeded while adding new fields [{}]", new.len()),
        ))
    }

    /// For a dotted name that goes through a field.
    fn not_an_object(&self, parser: &Parser<'_>, key: &str, at: usize) -> DocumentError {
        let type_name = self.mapping.field(&self.path).map_or("object", |field| field.field_type.name());
        let reason = format!(
            "Could not dynamically add mapping for field [{key}]. Existing mapping for [{}] must be of type object but found [{type_name}].",
            self.path
        );
        located(parser, at, "document_parsing_exception", &reason)
    }

    /// For an object where a field's value should be; it has been read through.
    fn object_for_a_value(&self, parser: &Parser<'_>, at: usize) -> DocumentError {
        let fallback = FieldType::Keyword { ignore_above: None };
        let field_type = self.mapping.field(&self.path).map_or(&fallback, |field: &Field| &field.field_type);
        let misfit = match field_type {
            kind if kind.is_numeric() => ("illegal_argument_exception", "Cannot parse object as number".to_owned()),
            FieldType::Boolean => {
                ("x_content_parse_exception", "Current token (START_OBJECT) not of boolean type".to_owned())
            }
            _ => (
                "illegal_argument_exception",
                format!("Expected text at {} but found START_OBJECT", parser.location(at)),
            ),
        };
        let preview = serde_json::from_str(parser.slice(at, parser.at())).map(|json| java(&json)).unwrap_or_default();
        failed(parser, at, &self.path, field_type, misfit, &preview)
    }
}

/// Names that Elasticsearch refuses too.
fn check_name(parser: &Parser<'_>, key: &str, at: usize) -> Result<(), DocumentError> {
    if !key.is_empty() && !key.contains('.') && !key.trim().is_empty() {
        return Ok(());
    }
    let reason = if key.is_empty() {
        "field name cannot be an empty string".to_owned()
    } else if key.starts_with('.') || key.ends_with('.') {
        format!("field name starting or ending with a [.] makes object resolution ambiguous: [{key}]")
    } else if key.split('.').any(|part| part.trim().is_empty()) {
        format!("field name cannot contain only whitespace: ['{key}']")
    } else {
        return Ok(());
    };
    let mut error = located(parser, at, "document_parsing_exception", "failed to parse");
    error.caused_by = Some(("illegal_argument_exception".to_owned(), reason));
    Err(error)
}

fn located(parser: &Parser<'_>, at: usize, error_type: &'static str, reason: &str) -> DocumentError {
    DocumentError::new(error_type, format!("[{}] {reason}", parser.location(at)))
}

fn failed(
    parser: &Parser<'_>,
    at: usize,
    path: &str,
    field_type: &FieldType,
    misfit: Misfit,
    preview: &str,
) -> DocumentError {
    let preview: Cow<'_, str> = match preview.char_indices().nth(PREVIEW_CHARS_MAX) {
        Some((cut, _)) => format!("{}...", &preview[..cut]).into(),
        None => preview.into(),
    };
    let reason = format!(
        "failed to parse field [{path}] of type [{}] in document with id '{{id}}'. Preview of field's value: '{preview}'",
        field_type.name()
    );
    let mut error = located(parser, at, "document_parsing_exception", &reason);
    error.caused_by = Some((misfit.0.to_owned(), misfit.1));
    error
}

/// A value as Java prints it: `{a=1, b=[1, 2]}`.
fn java(json: &serde_json::Value) -> String {
    match json {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Array(values) => format!("[{}]", values.iter().map(java).collect::<Vec<_>>().join(", ")),
        serde_json::Value::Object(map) => {
            let entries: Vec<String> = map.iter().map(|(key, value)| format!("{key}={}", java(value))).collect();
            format!("{{{}}}", entries.join(", "))
        }
        other => other.to_string(),
    }
}
