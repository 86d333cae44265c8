//! Where each logical field of a shard lives in this replica's physical schema.
//!
//! A [`FieldMap`] is immutable and made for one state of the replica: a mapping version and the
//! dynamic fields seen so far. Everything above the leaf speaks logical names; this is the one place
//! that translates them.
//!
//! A field that has no field of its own lives under a *key*: its text in the spare text field given
//! to the key, everything else in the two JSON fields under the key:
//!
//! | type | value in `_dyn` | value in `_str` |
//! | --- | --- | --- |
//! | long family | `i64` | |
//! | double, float | `f64` | |
//! | boolean, date | bool, date in nanoseconds | |
//! | ip | the string of [`ip_key`] (tantivy has no addresses inside JSON) | |
//! | keyword, dynamic string | | the string |
//! | dynamic number, boolean | as above | its canonical JSON text (`5`, `5.0`, `true`) |
//! | dynamic date | date | as it was written |
//!
//! So `.keyword` of a dynamic field is one column and one dictionary with every value as Elasticsearch
//! would have it had it seen strings, whichever types which shard has seen in which order; and a
//! whole-value lookup of a number is a lookup of its text forms ([`number_texts`]).

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::sync::Arc;

use tantivy::Term;
use trawl_data::analysis::Analyzer;
use trawl_data::document::number_text;
use trawl_data::mapping::{DYNAMIC_IGNORE_ABOVE, Field, FieldType, Mapping};
use trawl_proto::v1;

use super::{DYNAMIC, Own, PhysicalSchema, STRINGS, TextField};

/// The bit of a dynamic type in `DynamicField::types`.
pub const fn type_bit(dynamic_type: v1::DynamicType) -> u32 {
    1 << (dynamic_type as u32)
}

/// An address as it stands in the JSON field: 32 lower-case hexadecimal digits, so that the order of
/// strings is the order of addresses.
pub fn ip_key(address: Ipv6Addr) -> String {
    format!("{:032x}", u128::from(address))
}

/// The texts that a dynamic number of this value can have: `5` and `5.0` for five.
pub fn number_texts(value: &v1::value::Kind) -> Vec<String> {
    use v1::value::Kind;
    match value {
        Kind::Long(value) => {
            let double = *value as f64;
            // 2^63 is no `i64`, and beyond 2^53 not every whole number is a double.
            let is_same = double < 9_223_372_036_854_775_808.0 && double as i64 == *value;
            std::iter::once(value.to_string()).chain(is_same.then(|| number_text(double))).collect()
        }
        Kind::Double(value) => {
            let is_whole = value.fract() == 0.0 && value.abs() < 9_223_372_036_854_775_808.0;
            std::iter::once(number_text(*value)).chain(is_whole.then(|| (*value as i64).to_string())).collect()
        }
        _ => Vec::new(),
    }
}

/// A JSON path with one flat key, as tantivy wants it: dots and backslashes escaped.
pub fn escape_key(key: &str) -> String {
    key.replace('\\', "\\\\").replace('.', "\\.")
}

/// The key under which a field without a field of its own lives.
///
/// It is the path, but for the `.keyword` of a text field: that lives under the text's own path,
/// where the strings of a dynamic field are too, so that a mapping declared later finds them.
pub fn key<'a>(mapping: &Mapping, field: &'a Field) -> &'a str {
    let is_keyword_of_text = field.dynamic.is_some()
        || (matches!(field.field_type, FieldType::Keyword { .. })
            && field.path.strip_suffix(".keyword") == Some(field.source_path.as_str())
            && mapping.field(&field.source_path).is_some_and(|parent| parent.field_type.is_text()));
    if is_keyword_of_text { &field.source_path } else { &field.path }
}

/// One place where values of a logical field live.
#[derive(Clone, Debug)]
pub enum Physical {
    /// A text field, its own or a spare one: positions, frequencies and norms.
    Text {
        /// The tantivy field.
        field: tantivy::schema::Field,
        /// Its name.
        name: String,
        /// The u64 column with the exact number of tokens; a document has a value in it when it has
        /// any value in the field.
        length_name: String,
        /// What its text was analysed with.
        analyzer: Analyzer,
    },
    /// A raw string field, indexed without frequencies and norms, and a string column.
    Keyword {
        /// The tantivy field.
        field: tantivy::schema::Field,
        /// Its name, and its column's.
        name: String,
    },
    /// An indexed and fast `i64` field.
    Long {
        /// The tantivy field.
        field: tantivy::schema::Field,
        /// Its name, and its column's.
        name: String,
    },
    /// An indexed and fast `f64` field.
    Double {
        /// The tantivy field.
        field: tantivy::schema::Field,
        /// Its name, and its column's.
        name: String,
    },
    /// An indexed and fast boolean field.
    Boolean {
        /// The tantivy field.
        field: tantivy::schema::Field,
        /// Its name, and its column's.
        name: String,
    },
    /// A date field: column in milliseconds, terms truncated to seconds (exact matches need the
    /// column).
    Date {
        /// The tantivy field.
        field: tantivy::schema::Field,
        /// Its name, and its column's.
        name: String,
    },
    /// An indexed and fast address field.
    Ip {
        /// The tantivy field.
        field: tantivy::schema::Field,
        /// Its name, and its column's.
        name: String,
    },
    /// Values of their own type under a key: columns only, one per type.
    Typed {
        /// Full name for fast field readers and aggregations (`_dyn.` and the escaped key).
        column: String,
        /// Where the values' text forms are, which only dynamic fields have.
        texts: Option<Key>,
    },
    /// Strings under a key: raw terms without frequencies and norms, and a string column.
    Strings {
        /// The key's terms.
        key: Key,
        /// Full name of the column (`_str.` and the escaped key).
        column: String,
    },
}

/// A key of [`STRINGS`].
#[derive(Clone, Debug)]
pub struct Key {
    /// The JSON field.
    pub field: tantivy::schema::Field,
    /// The key, unescaped.
    pub path: String,
}

impl Key {
    /// The term of a string under the key.
    pub fn term(&self, text: &str) -> Term {
        let mut term = Term::from_field_json_path(self.field, &escape_key(&self.path), false);
        term.append_type_and_str(text);
        term
    }
}

impl Physical {
    /// The column's name for fast field readers and aggregations; for text the length column.
    pub fn column(&self) -> &str {
        match self {
            Self::Text { length_name, .. } => length_name,
            Self::Keyword { name, .. }
            | Self::Long { name, .. }
            | Self::Double { name, .. }
            | Self::Boolean { name, .. }
            | Self::Date { name, .. }
            | Self::Ip { name, .. } => name,
            Self::Typed { column, .. } | Self::Strings { column, .. } => column,
        }
    }
}

/// A logical field: its type, and where its values are.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The type that users see.
    pub field_type: FieldType,
    /// Usually one; the text and the typed values of a dynamic field with strings and other values, the
    /// strings and the typed values of its `.keyword`; none when no document of this shard ever had a
    /// value.
    pub parts: Vec<Physical>,
}

/// All logical fields of a replica in one state. Cheap to share in an `Arc`.
#[derive(Clone, Debug)]
pub struct FieldMap {
    mapping: Arc<Mapping>,
    mapping_version: u64,
    fields_version: u64,
    dynamic: Vec<v1::DynamicField>,
    resolved: HashMap<String, Resolved>,
}

impl FieldMap {
    /// The fields of a catalog mapping and the keys in use (in order of first appearance).
    pub fn new(
        physical: &PhysicalSchema,
        catalog: &Mapping,
        mapping_version: u64,
        dynamic: &[v1::DynamicField],
    ) -> Self {
        let unmapped: Vec<v1::DynamicField> = unmapped(catalog, dynamic).cloned().collect();
        let mapping = if unmapped.is_empty() { catalog.clone() } else { catalog.with_dynamic(&unmapped) };
        let keys: HashMap<&str, &v1::DynamicField> = dynamic.iter().map(|field| (field.path.as_str(), field)).collect();
        let mut resolved: HashMap<String, Resolved> = mapping
            .fields()
            .map(|field| {
                let parts = match physical.own.get(&field.path) {
                    Some(own) => vec![own_part(own, &field.field_type)],
                    None => keys
                        .get(key(&mapping, field))
                        .map(|dynamic| key_parts(physical, field, dynamic))
                        .unwrap_or_default(),
                };
                (field.path.clone(), Resolved { field_type: field.field_type.clone(), parts })
            })
            .collect();
        // Other shards may have seen strings where this one saw numbers only: the text forms are there.
        for field in &unmapped {
            let keyword = Resolved { field_type: DYNAMIC_KEYWORD, parts: keyword_parts(physical, field) };
            resolved.entry(format!("{}.keyword", field.path)).or_insert(keyword);
        }
        let fields_version = fields_version(dynamic);
        Self { mapping: Arc::new(mapping), mapping_version, fields_version, dynamic: unmapped, resolved }
    }

    /// Where a logical field lives; `None` when neither the mapping nor any document has it.
    pub fn resolve(&self, logical: &str) -> Option<&Resolved> {
        self.resolved.get(logical)
    }

    /// The catalog's mapping together with the dynamic fields.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// The catalog's mapping version in use.
    pub fn mapping_version(&self) -> u64 {
        self.mapping_version
    }

    /// Grows when the replica learns of a new dynamic field or type.
    pub fn fields_version(&self) -> u64 {
        self.fields_version
    }

    /// The fields that documents brought and the catalog's mapping does not declare, in order of
    /// first appearance.
    pub fn dynamic(&self) -> &[v1::DynamicField] {
        &self.dynamic
    }

    /// All logical text fields that have values, by path, in no particular order.
    pub fn text_fields(&self) -> impl Iterator<Item = (&str, &Physical)> {
        self.resolved.iter().flat_map(|(path, resolved)| {
            resolved
                .parts
                .iter()
                .filter(|part| matches!(part, Physical::Text { .. }))
                .map(move |part| (path.as_str(), part))
        })
    }
}

/// The dynamic fields that the catalog's mapping does not declare, in order of first appearance.
pub fn unmapped<'a>(
    catalog: &'a Mapping,
    dynamic: &'a [v1::DynamicField],
) -> impl Iterator<Item = &'a v1::DynamicField> + 'a {
    dynamic.iter().filter(|field| catalog.field(&field.path).is_none())
}

/// Counts fields and types, which are only ever added: equal numbers on one replica mean equal fields.
pub fn fields_version(dynamic: &[v1::DynamicField]) -> u64 {
    dynamic.iter().map(|field| 1 + u64::from(field.types.count_ones()) + u64::from(field.spare.is_some())).sum()
}

fn own_part(own: &Own, field_type: &FieldType) -> Physical {
    match own {
        Own::Text(text) => text_part(text, field_type),
        Own::Plain { name, field } => {
            let (name, field) = (name.clone(), *field);
            match field_type {
                FieldType::Long | FieldType::Integer | FieldType::Short | FieldType::Byte => {
                    Physical::Long { field, name }
                }
                FieldType::Double | FieldType::Float => Physical::Double { field, name },
                FieldType::Boolean => Physical::Boolean { field, name },
                FieldType::Date { .. } => Physical::Date { field, name },
                FieldType::Ip => Physical::Ip { field, name },
                FieldType::Keyword { .. } | FieldType::Text { .. } => Physical::Keyword { field, name },
            }
        }
    }
}

fn text_part(text: &TextField, field_type: &FieldType) -> Physical {
    let analyzer = match field_type {
        FieldType::Text { analyzer } => *analyzer,
        _ => Analyzer::Standard,
    };
    Physical::Text { field: text.field, name: text.name.clone(), length_name: text.length_name.clone(), analyzer }
}

/// What the `.keyword` of a dynamic field is.
pub const DYNAMIC_KEYWORD: FieldType = FieldType::Keyword { ignore_above: Some(DYNAMIC_IGNORE_ABOVE) };

fn key_parts(physical: &PhysicalSchema, field: &Field, dynamic: &v1::DynamicField) -> Vec<Physical> {
    let is_dynamic = field.dynamic.is_some();
    let has_typed = dynamic.types & !type_bit(v1::DynamicType::DynamicString) != 0;
    match &field.field_type {
        FieldType::Keyword { .. } if is_dynamic => keyword_parts(physical, dynamic),
        FieldType::Keyword { .. } => vec![strings(physical, &dynamic.path)],
        FieldType::Text { .. } => {
            let spare = dynamic.spare.and_then(|spare| physical.spares.get(spare as usize));
            let text = spare.map(|spare| text_part(spare, &field.field_type));
            text.into_iter().chain(has_typed.then(|| typed(physical, &dynamic.path, is_dynamic))).collect()
        }
        _ => vec![typed(physical, &dynamic.path, is_dynamic)],
    }
}

/// Where the `.keyword` of a dynamic field is: all text forms, and for the order of hits and for
/// numeric bounds the values of their own type.
fn keyword_parts(physical: &PhysicalSchema, dynamic: &v1::DynamicField) -> Vec<Physical> {
    let has_typed = dynamic.types & !type_bit(v1::DynamicType::DynamicString) != 0;
    let typed = has_typed.then(|| typed(physical, &dynamic.path, true));
    std::iter::once(strings(physical, &dynamic.path)).chain(typed).collect()
}

fn strings(physical: &PhysicalSchema, path: &str) -> Physical {
    let key = Key { field: physical.hidden.strings, path: path.to_owned() };
    Physical::Strings { key, column: format!("{STRINGS}.{}", escape_key(path)) }
}

fn typed(physical: &PhysicalSchema, path: &str, is_dynamic: bool) -> Physical {
    let texts = is_dynamic.then(|| Key { field: physical.hidden.strings, path: path.to_owned() });
    Physical::Typed { column: format!("{DYNAMIC}.{}", escape_key(path)), texts }
}
