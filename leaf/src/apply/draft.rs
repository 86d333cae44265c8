//! From `_source` to what tantivy indexes, in two steps: [`Draft::parse`] is pure and may reject;
//! [`Draft::finish`] puts the values into fields once the keys are known, and cannot fail.

use tantivy::schema::OwnedValue;
use tantivy::{DateTime, TantivyDocument};
use trawl_data::analysis::Analyzer;
use trawl_data::document::{DynamicValue, Value, number_text};
use trawl_data::mapping::{DYNAMIC_IGNORE_ABOVE, FieldType};
use trawl_proto::v1::{DynamicType, OperationError};

use super::keys::{Keys, Wanted};
use super::layout::{Layout, Place};
use super::tokens::{Analyzers, EncodedTokens};
use crate::schema::PhysicalSchema;
use crate::schema::fields::{ip_key, type_bit};

/// Bytes of a document's other values, usually.
const OTHER_BYTES: usize = 512;

/// The hidden fields' values of one document.
#[derive(Clone, Debug)]
pub struct HiddenValues<'a> {
    /// `_id`.
    pub id: &'a str,
    /// `_routing`, where one was given.
    pub routing: Option<&'a str>,
    /// `_seq_no`.
    pub seq: u64,
    /// `_version`.
    pub version: u64,
    /// `_primary_term`.
    pub primary_term: u64,
    /// The document as it came.
    pub source: &'a [u8],
}

/// A valid, analysed document whose keys are not placed yet.
#[derive(Debug, Default)]
pub struct Draft {
    plain: Vec<(tantivy::schema::Field, OwnedValue)>,
    /// Parallel to the layout's texts.
    texts: Vec<Option<EncodedTokens>>,
    keyed: Vec<Keyed>,
    mapping_version: u64,
}

/// All values under one key.
#[derive(Debug)]
struct Keyed {
    wanted: Wanted,
    tokens: EncodedTokens,
    /// Of their own type.
    values: Vec<OwnedValue>,
    /// Strings and text forms.
    strings: Vec<OwnedValue>,
}

impl Draft {
    /// Parses and analyses a document.
    ///
    /// # Errors
    /// When the document does not fit the mapping, as Elasticsearch words it.
    pub fn parse(layout: &Layout, id: &str, source: &[u8], analyzers: &mut Analyzers) -> Result<Self, OperationError> {
        let document = layout.mapping.parse_document(source).map_err(|error| document_error(error, id))?;
        let mut draft =
            Self { texts: vec![None; layout.texts.len()], mapping_version: layout.version, ..Self::default() };
        for (number, value) in document.mapped {
            if let Some((place, field_type)) = layout.places.get(number) {
                draft.add_mapped(layout, place, field_type, value, analyzers);
            }
        }
        for (path, value) in document.dynamic {
            if path.contains(['\0', '\u{1}']) {
                let reason = format!("field name [{}] contains a control character", path.escape_default());
                return Err(error("document_parsing_exception", reason));
            }
            draft.add_dynamic(path, value, analyzers);
        }
        Ok(draft)
    }

    /// What it wants of keys, in order of first appearance in the document.
    pub fn wanted(&self) -> Vec<Wanted> {
        self.keyed.iter().map(|keyed| keyed.wanted.clone()).collect()
    }

    /// The document for tantivy. `keys` has learned what this draft wants.
    pub fn finish(
        self,
        physical: &PhysicalSchema,
        layout: &Layout,
        keys: &Keys,
        values: &HiddenValues<'_>,
    ) -> TantivyDocument {
        // Nearly all of a document is its source and its tokens: room for them at once saves copying.
        let tokens: usize = self.texts.iter().flatten().map(|tokens| tokens.text.len()).sum();
        let mut document = TantivyDocument::with_capacity(values.source.len() + tokens + OTHER_BYTES);
        let hidden = &physical.hidden;
        document.add_text(hidden.id, values.id);
        if let Some(routing) = values.routing {
            document.add_text(hidden.routing, routing);
        }
        let slot = trawl_data::routing::slot(values.routing.unwrap_or(values.id));
        document.add_u64(hidden.slot, u64::from(slot));
        document.add_u64(hidden.seq_no, values.seq);
        document.add_u64(hidden.version, values.version);
        document.add_u64(hidden.primary_term, values.primary_term);
        document.add_u64(hidden.tie, trawl_data::routing::tie(values.id));
        document.add_u64(hidden.mapping_version, self.mapping_version);
        document.add_bytes(hidden.source, values.source);
        for (field, value) in &self.plain {
            document.add_field_value(*field, value);
        }
        for (tokens, text) in self.texts.iter().zip(&layout.texts) {
            if let Some(tokens) = tokens {
                document.add_text(text.field, &tokens.text);
                document.add_u64(text.length, tokens.count);
            }
        }
        let (mut typed, mut strings) = (Vec::new(), Vec::new());
        for keyed in self.keyed {
            if keyed.wanted.text
                && let Some(spare) = keys.spare(&keyed.wanted.key).and_then(|spare| physical.spares.get(spare as usize))
            {
                document.add_text(spare.field, &keyed.tokens.text);
                document.add_u64(spare.length, keyed.tokens.count);
            }
            add_values(&mut typed, &keyed.wanted.key, keyed.values);
            add_values(&mut strings, &keyed.wanted.key, keyed.strings);
        }
        for (field, object) in [(hidden.dynamic, typed), (hidden.strings, strings)] {
            if !object.is_empty() {
                document.add_field_value(field, &OwnedValue::Object(object));
            }
        }
        document
    }

    fn add_mapped(
        &mut self,
        layout: &Layout,
        place: &Place,
        field_type: &FieldType,
        value: Value,
        analyzers: &mut Analyzers,
    ) {
        match (place, value) {
            (Place::OwnText { text }, Value::Text(value) | Value::Keyword(value)) => {
                self.texts[*text].get_or_insert_default().push(&value, layout.texts[*text].analyzer, analyzers);
            }
            (Place::OwnText { .. }, _) => {}
            (Place::Own(field), value) => self.plain.push((*field, own_value(value))),
            (Place::Key(key), Value::Text(value)) => {
                let analyzer = field_type.analyzer().unwrap_or(Analyzer::Standard);
                let keyed = self.keyed(key, DynamicType::DynamicString);
                keyed.wanted.text = true;
                keyed.tokens.push(&value, analyzer, analyzers);
            }
            (Place::Key(key), Value::Keyword(value)) => {
                self.keyed(key, DynamicType::DynamicString).strings.push(OwnedValue::Str(value));
            }
            (Place::Key(key), value) => {
                let (dynamic_type, value) = key_value(value);
                self.keyed(key, dynamic_type).values.push(value);
            }
        }
    }

    fn add_dynamic(&mut self, path: String, value: DynamicValue, analyzers: &mut Analyzers) {
        match value {
            DynamicValue::String(value) => {
                let keyed = self.keyed(&path, DynamicType::DynamicString);
                keyed.wanted.text = true;
                keyed.tokens.push(&value, Analyzer::Standard, analyzers);
                if value.chars().count() <= DYNAMIC_IGNORE_ABOVE as usize {
                    keyed.strings.push(OwnedValue::Str(value));
                }
            }
            DynamicValue::Long(value) => {
                self.add_typed(&path, DynamicType::DynamicLong, OwnedValue::I64(value), value.to_string());
            }
            DynamicValue::Double(value) => {
                self.add_typed(&path, DynamicType::DynamicDouble, OwnedValue::F64(value), number_text(value));
            }
            DynamicValue::Boolean(value) => {
                self.add_typed(&path, DynamicType::DynamicBoolean, OwnedValue::Bool(value), value.to_string());
            }
            DynamicValue::Date(ms, text) => {
                self.add_typed(&path, DynamicType::DynamicDate, OwnedValue::Date(date(ms)), text);
            }
        }
    }

    fn add_typed(&mut self, path: &str, dynamic_type: DynamicType, value: OwnedValue, text: String) {
        let keyed = self.keyed(path, dynamic_type);
        keyed.values.push(value);
        keyed.strings.push(OwnedValue::Str(text));
    }

    fn keyed(&mut self, key: &str, dynamic_type: DynamicType) -> &mut Keyed {
        let at = match self.keyed.iter().position(|keyed| keyed.wanted.key == key) {
            Some(at) => at,
            None => {
                self.keyed.push(Keyed {
                    wanted: Wanted { key: key.to_owned(), types: 0, text: false },
                    tokens: EncodedTokens::default(),
                    values: Vec::new(),
                    strings: Vec::new(),
                });
                self.keyed.len() - 1
            }
        };
        let keyed = &mut self.keyed[at];
        keyed.wanted.types |= type_bit(dynamic_type);
        keyed
    }
}

fn add_values(object: &mut Vec<(String, OwnedValue)>, key: &str, mut values: Vec<OwnedValue>) {
    match values.len() {
        0 => {}
        1 => object.extend(values.pop().map(|value| (key.to_owned(), value))),
        _ => object.push((key.to_owned(), OwnedValue::Array(values))),
    }
}

/// A rejection with a type and a reason.
pub fn error(error_type: &str, reason: impl Into<String>) -> OperationError {
    OperationError { r#type: error_type.to_owned(), reason: reason.into(), caused_by: None }
}

fn date(ms: i64) -> DateTime {
    // Nanoseconds of an i64 reach from 1677 to 2262; beyond, the nearest is taken.
    DateTime::from_timestamp_nanos(ms.saturating_mul(1_000_000))
}

fn own_value(value: Value) -> OwnedValue {
    match value {
        Value::Text(value) | Value::Keyword(value) => OwnedValue::Str(value),
        Value::Long(value) => OwnedValue::I64(value),
        Value::Double(value) => OwnedValue::F64(value),
        Value::Boolean(value) => OwnedValue::Bool(value),
        Value::Date(ms) => OwnedValue::Date(date(ms)),
        Value::Ip(address) => OwnedValue::IpAddr(address),
    }
}

fn key_value(value: Value) -> (DynamicType, OwnedValue) {
    let dynamic_type = match &value {
        Value::Text(_) | Value::Keyword(_) => DynamicType::DynamicString,
        Value::Long(_) => DynamicType::DynamicLong,
        Value::Double(_) => DynamicType::DynamicDouble,
        Value::Boolean(_) => DynamicType::DynamicBoolean,
        Value::Date(_) => DynamicType::DynamicDate,
        Value::Ip(address) => return (DynamicType::DynamicString, OwnedValue::Str(ip_key(*address))),
    };
    (dynamic_type, own_value(value))
}

fn document_error(error: trawl_data::document::DocumentError, id: &str) -> OperationError {
    let error = error.with_id(id);
    OperationError {
        r#type: error.error_type.to_owned(),
        reason: error.reason,
        caused_by: error
            .caused_by
            .map(|(cause, reason)| Box::new(OperationError { r#type: cause, reason, caused_by: None })),
    }
}
