//! Joining the catalog's mapping with the fields that documents brought.

use std::collections::BTreeMap;

use trawl_proto::v1::{self, DynamicType};

use super::{FieldType, Leaf, Object};
use crate::analysis::Analyzer;
use crate::date::DateFormats;

/// The longest value of a dynamic string's `.keyword`, in characters.
pub const DYNAMIC_IGNORE_ABOVE: u32 = 256;

/// The bit of a type in [`super::Field::dynamic`].
pub(crate) const fn bit(dynamic_type: DynamicType) -> u32 {
    1 << dynamic_type as u32
}

/// The catalog's tree with the dynamic fields in it.
pub(super) fn join(root: &Object, dynamic: &[v1::DynamicField]) -> Object {
    let mut joined = root.clone();
    for field in dynamic {
        let parts: Vec<&str> = field.path.split('.').collect();
        add(&mut joined, &parts, field.types);
    }
    joined
}

fn add(object: &mut Object, parts: &[&str], types: u32) {
    let Some((name, rest)) = parts.split_first() else { return };
    let node = object.properties.entry((*name).to_owned()).or_default();
    if !rest.is_empty() {
        return add(node.object.get_or_insert_default(), rest, types);
    }
    match &mut node.leaf {
        Some(Leaf { dynamic: None, .. }) => {}
        // The same path from another shard.
        Some(leaf) => *leaf = dynamic_leaf(types | leaf.dynamic.unwrap_or_default()),
        None => node.leaf = Some(dynamic_leaf(types)),
    }
}

fn dynamic_leaf(types: u32) -> Leaf {
    let (field_type, fields) = least_type(types);
    Leaf { field_type, fields, dynamic: Some(types) }
}

/// The least type that holds every type of the set, with its multi-fields.
fn least_type(types: u32) -> (FieldType, BTreeMap<String, FieldType>) {
    let long = bit(DynamicType::DynamicLong);
    let double = bit(DynamicType::DynamicDouble);
    let plain = match types {
        types if types == long => Some(FieldType::Long),
        types if types != 0 && types & !(long | double) == 0 => Some(FieldType::Double),
        types if types == bit(DynamicType::DynamicBoolean) => Some(FieldType::Boolean),
        types if types == bit(DynamicType::DynamicDate) => Some(FieldType::Date { formats: DateFormats::default() }),
        _ => None,
    };
    match plain {
        Some(field_type) => (field_type, BTreeMap::new()),
        None => (
            FieldType::Text { analyzer: Analyzer::Standard },
            BTreeMap::from([("keyword".to_owned(), FieldType::Keyword { ignore_above: Some(DYNAMIC_IGNORE_ABOVE) })]),
        ),
    }
}
