//! From the tree to the JSON that users see.

use serde_json::{Map, Value, json};

use super::{FieldType, Leaf, Node, Object};
use crate::analysis::Analyzer;
use crate::date::DateFormats;

/// The object under `mappings`.
pub(super) fn root(object: &Object) -> Value {
    Value::Object(object_json(object))
}

fn object_json(object: &Object) -> Map<String, Value> {
    let mut map = Map::new();
    if let Some(dynamic) = object.dynamic {
        map.insert("dynamic".to_owned(), dynamic.name().into());
    }
    if !object.properties.is_empty() {
        let properties: Map<String, Value> =
            object.properties.iter().map(|(name, node)| (name.clone(), node_json(node))).collect();
        map.insert("properties".to_owned(), properties.into());
    }
    map
}

fn node_json(node: &Node) -> Value {
    let mut map = match &node.object {
        Some(object) => object_json(object),
        None => Map::new(),
    };
    match &node.leaf {
        Some(leaf) => map.append(&mut leaf_json(leaf)),
        // Without properties nothing else says that it is an object.
        None if !map.contains_key("properties") => {
            map.insert("type".to_owned(), "object".into());
        }
        None => {}
    }
    map.into()
}

fn leaf_json(leaf: &Leaf) -> Map<String, Value> {
    let mut map = type_json(&leaf.field_type);
    if !leaf.fields.is_empty() {
        let fields: Map<String, Value> =
            leaf.fields.iter().map(|(name, field_type)| (name.clone(), type_json(field_type).into())).collect();
        map.insert("fields".to_owned(), fields.into());
    }
    map
}

fn type_json(field_type: &FieldType) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("type".to_owned(), field_type.name().into());
    match field_type {
        FieldType::Text { analyzer } if *analyzer != Analyzer::Standard => {
            map.insert("analyzer".to_owned(), analyzer.name().into());
        }
        FieldType::Keyword { ignore_above: Some(characters) } => {
            map.insert("ignore_above".to_owned(), json!(characters));
        }
        FieldType::Date { formats } if *formats != DateFormats::default() => {
            map.insert("format".to_owned(), formats.to_string().into());
        }
        _ => {}
    }
    map
}
