//! For one mapping version: where the values of its fields go in one physical schema.

use trawl_data::analysis::Analyzer;
use trawl_data::mapping::{FieldType, Mapping};

use crate::schema::{Own, PhysicalSchema, fields};

/// Where the values of one field of the mapping go.
#[derive(Clone, Debug)]
pub enum Place {
    /// Into a text field of its own (its number in [`Layout::texts`]).
    OwnText {
        /// Index into [`Layout::texts`].
        text: usize,
    },
    /// Into a field of its own.
    Own(tantivy::schema::Field),
    /// Under a key of the JSON field; text into the key's spare field.
    Key(String),
}

/// Where a mapping version's fields live.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The mapping.
    pub mapping: Mapping,
    /// Its version.
    pub version: u64,
    /// Parallel to the mapping's fields.
    pub places: Vec<(Place, FieldType)>,
    /// Text fields of their own: the field, its length column, its analyzer.
    pub texts: Vec<OwnText>,
}

/// A text field of its own.
#[derive(Clone, Copy, Debug)]
pub struct OwnText {
    /// The text field.
    pub field: tantivy::schema::Field,
    /// Its length column.
    pub length: tantivy::schema::Field,
    /// Makes its terms.
    pub analyzer: Analyzer,
}

impl Layout {
    /// The places of a mapping's fields.
    pub fn new(mapping: &Mapping, version: u64, physical: &PhysicalSchema) -> Self {
        let mut texts = Vec::new();
        let places = mapping
            .fields()
            .map(|field| {
                let place = match (physical.own.get(&field.path), &field.field_type) {
                    (Some(Own::Text(text)), FieldType::Text { analyzer }) => {
                        texts.push(OwnText { field: text.field, length: text.length, analyzer: *analyzer });
                        Place::OwnText { text: texts.len() - 1 }
                    }
                    (Some(Own::Plain { field, .. }), field_type) if !field_type.is_text() => Place::Own(*field),
                    _ => Place::Key(fields::key(mapping, field).to_owned()),
                };
                (place, field.field_type.clone())
            })
            .collect();
        Self { mapping: mapping.clone(), version, places, texts }
    }
}
