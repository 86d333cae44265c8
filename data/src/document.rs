//! Documents: from the bytes that a client sent to typed values of fields.
//!
//! [`Mapping::parse_document`] walks the JSON once. A field of the catalog's mapping is strict: its
//! values are coerced as Elasticsearch does, or the document is rejected in Elasticsearch's words.
//! Every other value becomes a dynamic one, typed by itself alone. No input panics, and nothing here
//! looks at a clock or a setting: what becomes of a document is a pure function of its bytes and the
//! mapping, so that every replica decides the same.

mod coerce;
mod json;
pub mod update;
mod walk;

use std::net::Ipv6Addr;

use trawl_proto::v1::DynamicType;

use crate::mapping::{Mapping, dynamic_bit};

pub use crate::date::format_date;

/// The most nested arrays and objects of a document, ignored parts included.
pub const NESTING_MAX: usize = 100;

/// One typed value of a mapped field.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Text still to be analysed.
    Text(String),
    /// One term.
    Keyword(String),
    /// A number of any whole-number type.
    Long(i64),
    /// A number of any floating-point type; finite, `float` already rounded to 32 bits.
    Double(f64),
    /// True or false.
    Boolean(bool),
    /// Milliseconds since the epoch.
    Date(i64),
    /// An address; IPv4 as IPv4-mapped IPv6.
    Ip(Ipv6Addr),
}

/// What a document says, field by field.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document {
    /// Values of mapped fields, in the order of the document. The number is the field's place among
    /// [`Mapping::fields`]. One value in the document feeds its field and all its multi-fields.
    pub mapped: Vec<(usize, Value)>,
    /// Values of other fields by dotted path, in the order of the document.
    pub dynamic: Vec<(String, DynamicValue)>,
}

/// One value of a field that the mapping does not have.
#[derive(Clone, Debug, PartialEq)]
pub enum DynamicValue {
    /// A whole number that fits in 64 bits.
    Long(i64),
    /// Any other number; finite.
    Double(f64),
    /// True or false.
    Boolean(bool),
    /// A string that is a whole ISO 8601 date: its milliseconds, and the string.
    Date(i64, String),
    /// Any other string.
    String(String),
}

impl DynamicValue {
    /// Its type.
    pub fn dynamic_type(&self) -> DynamicType {
        match self {
            Self::Long(_) => DynamicType::DynamicLong,
            Self::Double(_) => DynamicType::DynamicDouble,
            Self::Boolean(_) => DynamicType::DynamicBoolean,
            Self::Date(..) => DynamicType::DynamicDate,
            Self::String(_) => DynamicType::DynamicString,
        }
    }

    /// Its type's bit in `v1::DynamicField::types`.
    pub fn type_bit(&self) -> u32 {
        dynamic_bit(self.dynamic_type())
    }
}

/// Why a document or a value was rejected, as Elasticsearch words it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct DocumentError {
    /// The type that Elasticsearch's error has.
    pub error_type: &'static str,
    /// A sentence. Where Elasticsearch names the document, it says `document with id '{id}'`:
    /// see [`DocumentError::with_id`].
    pub reason: String,
    /// Type and reason of the cause, where there is one.
    pub caused_by: Option<(String, String)>,
}

impl DocumentError {
    fn new(error_type: &'static str, reason: impl Into<String>) -> Self {
        Self { error_type, reason: reason.into(), caused_by: None }
    }

    /// The same error with the document's id in its sentence.
    pub fn with_id(mut self, id: &str) -> Self {
        self.reason = self.reason.replacen("document with id '{id}'", &format!("document with id '{id}'"), 1);
        self
    }
}

impl Mapping {
    /// What a document says under this mapping (the catalog's, without dynamic fields).
    ///
    /// Strings for numbers, numbers for strings and so on are coerced as Elasticsearch does; arrays
    /// give several values, `null` none. A keyword longer than its `ignore_above` gives none.
    ///
    /// # Errors
    /// Malformed or too deeply nested JSON, duplicate keys, a value that does not fit its field, a
    /// field that `dynamic: strict` forbids, more fields than an index may have.
    pub fn parse_document(&self, source: &[u8]) -> Result<Document, DocumentError> {
        walk::document(self, source)
    }
}

/// The text form of a dynamic number with a fraction or too great for 64 bits: the shortest JSON that
/// reads as the same double.
pub fn number_text(value: f64) -> String {
    serde_json::Number::from_f64(value).map_or_else(|| value.to_string(), |number| number.to_string())
}

#[cfg(test)]
mod tests;
