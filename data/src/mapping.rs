//! The logical mapping of an index: which fields documents have and what they are.
//!
//! A [`Mapping`] is a value: parsed from the JSON that Elasticsearch takes ([`Mapping::parse`]),
//! grown by [`Mapping::merge`], shown by [`Mapping::to_json`], and joined with the dynamic fields
//! that replicas report by [`Mapping::with_dynamic`]. It knows nothing of how a replica stores a field.
//!
//! Objects are only a way to write dotted paths. A node of the tree may be a field and an object at
//! once, but only through dynamic values, which never conflict.

mod closed;
mod dynamic;
mod merge;
mod parse;
mod show;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::analysis::Analyzer;
use crate::date::DateFormats;

pub use dynamic::DYNAMIC_IGNORE_ABOVE;
pub(crate) use dynamic::bit as dynamic_bit;
pub(crate) use parse::METADATA_FIELDS;

/// The most fields an index may have, objects and multi-fields counted.
pub const FIELDS_MAX: usize = 1000;

/// The deepest field: one of the top level has depth 1, one in an object 2.
pub const DEPTH_MAX: usize = 20;

/// The longest keyword in bytes: what Lucene, and so Elasticsearch, can index.
pub const KEYWORD_BYTES_MAX: usize = 32766;

/// What happens to a field of a document that the mapping does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Dynamic {
    /// It becomes a dynamic field.
    #[default]
    True,
    /// It is stored in `_source` only.
    False,
    /// The document is rejected.
    Strict,
}

impl Dynamic {
    /// As mappings show it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::True => "true",
            Self::False => "false",
            Self::Strict => "strict",
        }
    }
}

/// What a field is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FieldType {
    /// Analysed text.
    Text {
        /// Makes its terms, of documents and of queries.
        analyzer: Analyzer,
    },
    /// One term as it is.
    Keyword {
        /// Values of more characters than this are not indexed.
        ignore_above: Option<u32>,
    },
    /// 64 bits.
    Long,
    /// 32 bits.
    Integer,
    /// 16 bits.
    Short,
    /// 8 bits.
    Byte,
    /// 64-bit floating point.
    Double,
    /// 32-bit floating point.
    Float,
    /// True or false.
    Boolean,
    /// An instant, in milliseconds.
    Date {
        /// How it may be written.
        formats: DateFormats,
    },
    /// An IPv4 or IPv6 address.
    Ip,
}

impl FieldType {
    /// The name in mappings.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Text { .. } => "text",
            Self::Keyword { .. } => "keyword",
            Self::Long => "long",
            Self::Integer => "integer",
            Self::Short => "short",
            Self::Byte => "byte",
            Self::Double => "double",
            Self::Float => "float",
            Self::Boolean => "boolean",
            Self::Date { .. } => "date",
            Self::Ip => "ip",
        }
    }

    /// Whether it is analysed text.
    pub fn is_text(&self) -> bool {
        matches!(self, Self::Text { .. })
    }

    /// Whether it is a keyword.
    pub fn is_keyword(&self) -> bool {
        matches!(self, Self::Keyword { .. })
    }

    /// Whether its values are whole numbers.
    pub fn is_integer(&self) -> bool {
        self.integer_range().is_some()
    }

    /// Whether its values are numbers, whole or not.
    pub fn is_numeric(&self) -> bool {
        self.is_integer() || matches!(self, Self::Double | Self::Float)
    }

    /// Whether it is a date.
    pub fn is_date(&self) -> bool {
        matches!(self, Self::Date { .. })
    }

    /// The analyzer of a text field.
    pub fn analyzer(&self) -> Option<Analyzer> {
        match self {
            Self::Text { analyzer } => Some(*analyzer),
            _ => None,
        }
    }

    /// Least and greatest value of a whole-number type.
    pub fn integer_range(&self) -> Option<(i64, i64)> {
        match self {
            Self::Long => Some((i64::MIN, i64::MAX)),
            Self::Integer => Some((i32::MIN.into(), i32::MAX.into())),
            Self::Short => Some((i16::MIN.into(), i16::MAX.into())),
            Self::Byte => Some((i8::MIN.into(), i8::MAX.into())),
            _ => None,
        }
    }
}

/// A leaf field or multi-field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Dotted logical name, multi-fields included (`title.raw`).
    pub path: String,
    /// Where the value comes from in the document (`title`).
    pub source_path: String,
    /// What it is.
    pub field_type: FieldType,
    /// The set of types seen (bit n is `v1::DynamicType` n) when it comes from documents and not
    /// from the catalog's mapping.
    pub dynamic: Option<u32>,
}

/// The fields of an index. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Mapping {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: Object,
    /// Sorted by path.
    fields: Vec<Field>,
    /// From a source path to the numbers of the fields that its values feed: those of the catalog.
    targets: HashMap<String, Vec<usize>>,
    /// The dynamic fields there may be, once there can be no more.
    closed: Option<Arc<BTreeSet<String>>>,
}

/// An object: a level of the tree.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Object {
    pub(crate) dynamic: Option<Dynamic>,
    pub(crate) properties: BTreeMap<String, Node>,
}

/// What stands under one name: a field, an object, or both.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Node {
    pub(crate) leaf: Option<Leaf>,
    pub(crate) object: Option<Object>,
}

/// A field with its multi-fields.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Leaf {
    pub(crate) field_type: FieldType,
    pub(crate) fields: BTreeMap<String, FieldType>,
    pub(crate) dynamic: Option<u32>,
}

/// Why a mapping was not taken, as Elasticsearch words it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct MappingError {
    /// `mapper_parsing_exception` or `illegal_argument_exception`.
    pub error_type: &'static str,
    /// Names the part at fault.
    pub reason: String,
}

impl MappingError {
    fn parsing(reason: impl Into<String>) -> Self {
        Self { error_type: "mapper_parsing_exception", reason: reason.into() }
    }

    fn illegal(reason: impl Into<String>) -> Self {
        Self { error_type: "illegal_argument_exception", reason: reason.into() }
    }
}

impl Default for Mapping {
    /// The empty mapping: every field is dynamic.
    fn default() -> Self {
        Self::from_root(Object::default())
    }
}

impl PartialEq for Mapping {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
            || (self.inner.root == other.inner.root && self.inner.closed == other.inner.closed)
    }
}

impl Mapping {
    /// Reads the object under `mappings`.
    ///
    /// # Errors
    /// An unknown type or parameter, by name; too many fields; too deep a tree.
    pub fn parse(json: &serde_json::Value) -> Result<Self, MappingError> {
        let mapping = Self::from_root(parse::root(json)?);
        mapping.check_limits()?;
        Ok(mapping)
    }

    /// As Elasticsearch shows it under `mappings`; parameters at their defaults are left out.
    /// Of a mapping without dynamic fields, [`Mapping::parse`] gives the same mapping again.
    pub fn to_json(&self) -> serde_json::Value {
        show::root(&self.inner.root)
    }

    /// This mapping and what an update (the body of `PUT _mapping`) adds to it.
    ///
    /// # Errors
    /// What [`Mapping::parse`] refuses, and everything that contradicts what is there.
    pub fn merge(&self, update: &serde_json::Value) -> Result<Self, MappingError> {
        let mapping = Self::from_root(merge::objects("", &self.inner.root, parse::root(update)?)?);
        mapping.check_limits()?;
        Ok(match self.closed() {
            Some(closed) => mapping.close(closed.iter().cloned()),
            None => mapping,
        })
    }

    /// What users see and queries are planned on: this mapping and the dynamic fields that replicas
    /// report. A dynamic field has the least type that holds every type seen (see [`Field::dynamic`]);
    /// one with a string among them is text with a `.keyword` of at most 256 characters.
    ///
    /// A path that the catalog maps stays as the catalog says.
    pub fn with_dynamic(&self, dynamic: &[trawl_proto::v1::DynamicField]) -> Self {
        if dynamic.is_empty() {
            return self.clone();
        }
        Self::from_root(dynamic::join(&self.inner.root, dynamic))
    }

    /// The field or multi-field of this dotted path.
    pub fn field(&self, path: &str) -> Option<&Field> {
        self.field_number(path).map(|number| &self.inner.fields[number])
    }

    /// The place of a field among [`Mapping::fields`].
    pub fn field_number(&self, path: &str) -> Option<usize> {
        self.inner.fields.binary_search_by(|field| field.path.as_str().cmp(path)).ok()
    }

    /// The field at a place among [`Mapping::fields`].
    pub fn field_at(&self, number: usize) -> Option<&Field> {
        self.inner.fields.get(number)
    }

    /// Every field and multi-field, sorted by path (bytewise).
    pub fn fields(&self) -> impl ExactSizeIterator<Item = &Field> {
        self.inner.fields.iter()
    }

    /// Whether the path names an object: other fields lie below it (or may).
    pub fn is_object(&self, path: &str) -> bool {
        let mut object = &self.inner.root;
        for part in path.split('.') {
            match object.properties.get(part).and_then(|node| node.object.as_ref()) {
                Some(inner) => object = inner,
                None => return false,
            }
        }
        true
    }

    /// What happens to unknown fields at the top level.
    pub fn dynamic(&self) -> Dynamic {
        self.inner.root.dynamic.unwrap_or_default()
    }

    /// How many fields, multi-fields and objects it has: what [`FIELDS_MAX`] limits. A dynamic field
    /// counts as one, whatever its values make of it.
    pub fn size(&self) -> usize {
        let counted = |field: &&Field| field.dynamic.is_none() || field.path == field.source_path;
        self.inner.fields.iter().filter(counted).count() + count_objects(&self.inner.root)
    }

    pub(crate) fn root(&self) -> &Object {
        &self.inner.root
    }

    /// The numbers of the catalog's fields that are fed from a source path.
    pub(crate) fn targets(&self, source_path: &str) -> &[usize] {
        self.inner.targets.get(source_path).map_or(&[], Vec::as_slice)
    }

    fn from_root(root: Object) -> Self {
        let mut fields: BTreeMap<String, Field> = BTreeMap::new();
        collect("", &root, &mut fields);
        let fields: Vec<Field> = fields.into_values().collect();
        let mut targets: HashMap<String, Vec<usize>> = HashMap::new();
        for (number, field) in fields.iter().enumerate().filter(|(_, field)| field.dynamic.is_none()) {
            targets.entry(field.source_path.clone()).or_default().push(number);
        }
        Self { inner: Arc::new(Inner { root, fields, targets, closed: None }) }
    }

    fn check_limits(&self) -> Result<(), MappingError> {
        if self.size() > FIELDS_MAX {
            return Err(MappingError::illegal(format!("Limit of total fields [{FIELDS_MAX}] has been exceeded")));
        }
        match too_deep("", &self.inner.root, 0) {
            Some(path) => Err(MappingError::illegal(format!(
                "Limit of mapping depth [{DEPTH_MAX}] has been exceeded due to object field [{path}]"
            ))),
            None => Ok(()),
        }
    }
}

/// `name` below `path`.
pub(crate) fn join_path(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Fields of their own first, so that a dynamic multi-field never hides a field of the same path.
fn collect(path: &str, object: &Object, fields: &mut BTreeMap<String, Field>) {
    for (name, node) in &object.properties {
        let path = join_path(path, name);
        if let Some(inner) = &node.object {
            collect(&path, inner, fields);
        }
        let Some(leaf) = &node.leaf else { continue };
        for (name, field_type) in &leaf.fields {
            let multi = join_path(&path, name);
            fields.entry(multi.clone()).or_insert_with(|| Field {
                path: multi,
                source_path: path.clone(),
                field_type: field_type.clone(),
                dynamic: leaf.dynamic,
            });
        }
        let field = Field {
            path: path.clone(),
            source_path: path.clone(),
            field_type: leaf.field_type.clone(),
            dynamic: leaf.dynamic,
        };
        fields.insert(path, field);
    }
}

fn count_objects(object: &Object) -> usize {
    object.properties.values().filter_map(|node| node.object.as_ref()).map(|inner| 1 + count_objects(inner)).sum()
}

fn too_deep(path: &str, object: &Object, depth: usize) -> Option<String> {
    object.properties.iter().find_map(|(name, node)| {
        let path = join_path(path, name);
        let inner = node.object.as_ref()?;
        if depth + 2 > DEPTH_MAX { Some(path) } else { too_deep(&path, inner, depth + 1) }
    })
}

#[cfg(test)]
mod tests;
