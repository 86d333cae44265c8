//! The physical schema of a replica: what a shard's tantivy index is made of.
//!
//! A tantivy schema is fixed when an index is created, a mapping grows. So a replica has, from the
//! start: the hidden fields, one field for each field of the mapping that it was created with, a pool
//! of spare text fields, and two JSON fields for everything that comes later and is not analysed.
//! [`fields`] says which logical field lives where.
//!
//! ```text
//! _id _routing _slot _seq_no _version _primary_term _tie _mapping _source   hidden
//! m0 m1 m1_len m2 …          fields of the mapping at creation, in the mapping's order
//! s0 s0_len … s31 s31_len    spare text fields, given out in order of first appearance
//! _dyn                       values by their own type: columns only, one flat key per dotted path
//! _str                       strings, and the text form of every dynamic value: terms and a column
//! ```

pub mod fields;

use std::collections::HashMap;

use tantivy::schema::{
    BytesOptions, DateOptions, DateTimePrecision, Field, IndexRecordOption, IpAddrOptions, JsonObjectOptions,
    NumericOptions, Schema, SchemaBuilder, TextFieldIndexing, TextOptions,
};
use trawl_data::mapping::{FieldType, Mapping};

pub use fields::{FieldMap, Physical, Resolved};

use crate::apply::tokens::TOKENIZER;

/// Name of the `_id` field: a raw term without norms and frequencies, and a string column.
pub const ID: &str = "_id";
/// Name of the `_routing` field: stored and a string column, only where a routing was given.
pub const ROUTING: &str = "_routing";
/// Name of the `_slot` field: u64, indexed and fast.
pub const SLOT: &str = "_slot";
/// Name of the `_seq_no` field: u64, fast.
pub const SEQ_NO: &str = "_seq_no";
/// Name of the `_version` field: u64, fast.
pub const VERSION: &str = "_version";
/// Name of the `_primary_term` field: u64, fast.
pub const PRIMARY_TERM: &str = "_primary_term";
/// Name of the `_tie` field: u64, fast; xxh3_64 of the `_id`.
pub const TIE: &str = "_tie";
/// Name of the `_mapping` field: u64, fast; the mapping version the document was parsed with.
pub const MAPPING_VERSION: &str = "_mapping";
/// Name of the `_source` field: stored bytes.
pub const SOURCE: &str = "_source";
/// Name of the JSON field for values of their own type.
pub const DYNAMIC: &str = "_dyn";
/// Name of the JSON field for strings and text forms.
pub const STRINGS: &str = "_str";
/// Format of the schema that [`PhysicalSchema::new`] gives. An index is opened only with the schema that it was made with,
/// so one that differs in anything is a new format, and those before have to be given still.
pub const SCHEMA_FORMAT: u32 = 1;
/// How many spare text fields a new replica has.
pub const SPARES_DEFAULT: u32 = 32;

/// The fields that every replica has, whatever its mapping.
#[derive(Clone, Copy, Debug)]
pub struct Hidden {
    /// See [`ID`].
    pub id: Field,
    /// See [`ROUTING`].
    pub routing: Field,
    /// See [`SLOT`].
    pub slot: Field,
    /// See [`SEQ_NO`].
    pub seq_no: Field,
    /// See [`VERSION`].
    pub version: Field,
    /// See [`PRIMARY_TERM`].
    pub primary_term: Field,
    /// See [`TIE`].
    pub tie: Field,
    /// See [`MAPPING_VERSION`].
    pub mapping_version: Field,
    /// See [`SOURCE`].
    pub source: Field,
    /// See [`DYNAMIC`].
    pub dynamic: Field,
    /// See [`STRINGS`].
    pub strings: Field,
}

/// A text field and the column with its exact number of tokens.
#[derive(Clone, Debug)]
pub struct TextField {
    /// Name of the text field.
    pub name: String,
    /// The text field: frequencies, positions and norms.
    pub field: Field,
    /// Name of the length column.
    pub length_name: String,
    /// The length column: u64, fast.
    pub length: Field,
}

/// A field of its own for one field of the mapping.
#[derive(Clone, Debug)]
pub enum Own {
    /// A text field with its length column.
    Text(TextField),
    /// Any other type.
    Plain {
        /// Physical name.
        name: String,
        /// The tantivy field.
        field: Field,
    },
}

/// The tantivy schema of one replica, and what its fields are for.
#[derive(Clone, Debug)]
pub struct PhysicalSchema {
    /// The tantivy schema.
    pub schema: Schema,
    /// The hidden fields.
    pub hidden: Hidden,
    /// The mapping version whose fields have physical fields of their own.
    pub mapping_version: u64,
    /// Logical path to the field of its own.
    pub own: HashMap<String, Own>,
    /// The pool of spare text fields.
    pub spares: Vec<TextField>,
}

impl PhysicalSchema {
    /// The schema of a replica created with this mapping and number of spare text fields: the same
    /// arguments give the same schema, always.
    pub fn new(mapping: &Mapping, mapping_version: u64, spares: u32) -> Self {
        let mut builder = Schema::builder();
        let hidden = add_hidden(&mut builder);
        let own = mapping
            .fields()
            .enumerate()
            .map(|(number, field)| {
                (field.path.clone(), add_own(&mut builder, &format!("m{number}"), &field.field_type))
            })
            .collect();
        let spares = (0..spares).map(|number| add_text(&mut builder, &format!("s{number}"))).collect();
        Self { schema: builder.build(), hidden, mapping_version, own, spares }
    }

    /// Number of spare text fields.
    pub fn spare_count(&self) -> u32 {
        u32::try_from(self.spares.len()).unwrap_or(u32::MAX)
    }
}

fn add_hidden(builder: &mut SchemaBuilder) -> Hidden {
    let fast = NumericOptions::default().set_fast();
    Hidden {
        id: builder.add_text_field(ID, raw().set_fast("raw")),
        routing: builder.add_text_field(ROUTING, raw().set_stored().set_fast("raw")),
        slot: builder.add_u64_field(SLOT, NumericOptions::default().set_indexed().set_fast()),
        seq_no: builder.add_u64_field(SEQ_NO, fast.clone()),
        version: builder.add_u64_field(VERSION, fast.clone()),
        primary_term: builder.add_u64_field(PRIMARY_TERM, fast.clone()),
        tie: builder.add_u64_field(TIE, fast.clone()),
        mapping_version: builder.add_u64_field(MAPPING_VERSION, fast),
        source: builder.add_bytes_field(SOURCE, BytesOptions::default().set_stored()),
        dynamic: builder.add_json_field(DYNAMIC, JsonObjectOptions::default().set_fast("raw")),
        strings: builder
            .add_json_field(STRINGS, JsonObjectOptions::default().set_indexing_options(raw_indexing()).set_fast("raw")),
    }
}

fn add_own(builder: &mut SchemaBuilder, name: &str, field_type: &FieldType) -> Own {
    let number = NumericOptions::default().set_indexed().set_fast();
    let field = match field_type {
        FieldType::Text { .. } => return Own::Text(add_text(builder, name)),
        FieldType::Keyword { .. } => builder.add_text_field(name, raw().set_fast("raw")),
        FieldType::Long | FieldType::Integer | FieldType::Short | FieldType::Byte => {
            builder.add_i64_field(name, number)
        }
        FieldType::Double | FieldType::Float => builder.add_f64_field(name, number),
        FieldType::Boolean => builder.add_bool_field(name, number),
        FieldType::Date { .. } => builder.add_date_field(
            name,
            DateOptions::default().set_indexed().set_fast().set_precision(DateTimePrecision::Milliseconds),
        ),
        FieldType::Ip => builder.add_ip_addr_field(name, IpAddrOptions::default().set_indexed().set_fast()),
    };
    Own::Plain { name: name.to_owned(), field }
}

/// Norms must go with frequencies: without them tantivy stores block maxima of 0 and WAND loses hits.
fn add_text(builder: &mut SchemaBuilder, name: &str) -> TextField {
    let indexing = TextFieldIndexing::default()
        .set_tokenizer(TOKENIZER)
        .set_index_option(IndexRecordOption::WithFreqsAndPositions)
        .set_fieldnorms(true);
    let length_name = format!("{name}_len");
    TextField {
        name: name.to_owned(),
        field: builder.add_text_field(name, TextOptions::default().set_indexing_options(indexing)),
        length: builder.add_u64_field(&length_name, NumericOptions::default().set_fast()),
        length_name,
    }
}

fn raw_indexing() -> TextFieldIndexing {
    TextFieldIndexing::default().set_tokenizer("raw").set_index_option(IndexRecordOption::Basic).set_fieldnorms(false)
}

fn raw() -> TextOptions {
    TextOptions::default().set_indexing_options(raw_indexing())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// When this fails, replicas that exist cannot be opened any more: see [`SCHEMA_FORMAT`].
    #[test]
    fn the_schema_of_format_1_stays_as_it_is() {
        let field = |field_type: &str| serde_json::json!({"type": field_type});
        let types = ["text", "keyword", "long", "integer", "double", "float", "boolean", "date", "ip"];
        let properties: serde_json::Map<_, _> = types.iter().map(|name| (format!("a_{name}"), field(name))).collect();
        let mapping = Mapping::parse(&serde_json::json!({ "properties": properties })).unwrap();
        let schema = serde_json::to_vec(&PhysicalSchema::new(&mapping, 1, 2).schema).unwrap();
        assert_eq!((SCHEMA_FORMAT, xxhash_rust::xxh3::xxh3_64(&schema)), (1, 1_642_337_847_219_244_485));
    }
}
