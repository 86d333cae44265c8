//! From JSON to the tree, strict: what is not honoured is an error that names it.
//!
//! Parameters that state what is true of every field here anyway (`"index": true`) are taken and
//! forgotten, since clients write them out.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{DEPTH_MAX, Dynamic, FieldType, Leaf, MappingError, Node, Object, join_path};
use crate::analysis::Analyzer;
use crate::date::DateFormats;

/// Names that documents cannot have at the top level, since hits show them.
pub(crate) const METADATA_FIELDS: &[&str] = &[
    "_doc_count",
    "_field_names",
    "_id",
    "_ignored",
    "_index",
    "_nested_path",
    "_routing",
    "_seq_no",
    "_source",
    "_tier",
    "_version",
];

/// The tree of the object under `mappings`.
pub(super) fn root(json: &Value) -> Result<Object, MappingError> {
    let map = json
        .as_object()
        .ok_or_else(|| MappingError::parsing(format!("Expected map for mappings but got a {}", class_of(json))))?;
    let mut object = Object::default();
    let mut unsupported = Vec::new();
    for (key, value) in map {
        match key.as_str() {
            "dynamic" => object.dynamic = Some(dynamic(value)?),
            "properties" => properties("", value, &mut object, 0)?,
            // Dates are told from strings, numbers in strings are not: the defaults of Elasticsearch.
            "date_detection" if *value == Value::Bool(true) => {}
            "numeric_detection" if *value == Value::Bool(false) => {}
            _ => unsupported.push(format!(" [{key} : {}]", plain(value))),
        }
    }
    if !unsupported.is_empty() {
        return Err(MappingError::parsing(format!(
            "Root mapping definition has unsupported parameters: {}",
            unsupported.concat()
        )));
    }
    if let Some(name) = METADATA_FIELDS.iter().find(|name| object.properties.contains_key(**name)) {
        return Err(MappingError::parsing(format!("Field [{name}] is defined more than once")));
    }
    Ok(object)
}

fn dynamic(value: &Value) -> Result<Dynamic, MappingError> {
    match value {
        Value::Bool(true) => Ok(Dynamic::True),
        Value::Bool(false) => Ok(Dynamic::False),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Ok(Dynamic::True),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Ok(Dynamic::False),
        Value::String(text) if text.eq_ignore_ascii_case("strict") => Ok(Dynamic::Strict),
        other => Err(MappingError::parsing(format!(
            "No enum constant Dynamic [{}]: expected [true], [false] or [strict]",
            plain(other)
        ))),
    }
}

fn properties(path: &str, value: &Value, object: &mut Object, depth: usize) -> Result<(), MappingError> {
    let map = value.as_object().ok_or_else(|| MappingError::parsing("properties must be a map type"))?;
    for (name, definition) in map {
        let full = join_path(path, name);
        let parts: Vec<&str> = name.split('.').collect();
        if parts.iter().any(|part| part.trim().is_empty()) {
            return Err(MappingError::illegal(if name.trim().is_empty() {
                "field name cannot be an empty string".to_owned()
            } else {
                format!("field name cannot contain only whitespace: [{full}]")
            }));
        }
        // Checked here so that the recursion is bounded; the exact limit is checked at the end.
        if depth + parts.len() > DEPTH_MAX + 2 {
            return Err(MappingError::illegal(format!(
                "Limit of mapping depth [{DEPTH_MAX}] has been exceeded due to object field [{full}]"
            )));
        }
        let definition = definition.as_object().ok_or_else(|| {
            MappingError::parsing(format!(
                "Expected map for property [fields] on field [{full}] but got a {}",
                class_of(definition)
            ))
        })?;
        let node = node(&full, definition, depth + parts.len())?;
        insert(path, object, &parts, node)?;
    }
    Ok(())
}

/// Puts a node under a name that may be dotted.
fn insert(path: &str, object: &mut Object, parts: &[&str], node: Node) -> Result<(), MappingError> {
    let Some((first, rest)) = parts.split_first() else { return Ok(()) };
    let path = join_path(path, first);
    let twice =
        |path: &str| MappingError::illegal(format!("can't merge a non object mapping [{path}] with an object mapping"));
    if rest.is_empty() {
        let Some(there) = object.properties.get_mut(*first) else {
            object.properties.insert((*first).to_owned(), node);
            return Ok(());
        };
        return match (there.object.take(), node.object) {
            (Some(old), Some(new)) => {
                there.object = Some(super::merge::objects(&path, &old, new)?);
                Ok(())
            }
            _ => Err(twice(&path)),
        };
    }
    let there = object.properties.entry((*first).to_owned()).or_default();
    if there.leaf.is_some() {
        return Err(twice(&path));
    }
    insert(&path, there.object.get_or_insert_default(), rest, node)
}

/// One definition: an object when it has properties or says so, else a field.
fn node(path: &str, definition: &Map<String, Value>, depth: usize) -> Result<Node, MappingError> {
    let type_name = match definition.get("type") {
        Some(Value::String(name)) => Some(name.as_str()),
        Some(other) => {
            return Err(MappingError::parsing(format!(
                "No handler for type [{}] declared on field [{path}]",
                plain(other)
            )));
        }
        None => None,
    };
    match type_name {
        Some("object") => {}
        None if ["properties", "dynamic", "enabled", "subobjects"].iter().any(|key| definition.contains_key(*key)) => {}
        None => return Err(MappingError::parsing(format!("No type specified for field [{path}]"))),
        Some(name) => return Ok(Node { leaf: Some(leaf(path, name, definition)?), object: None }),
    }
    let mut object = Object::default();
    for (key, value) in definition {
        match key.as_str() {
            "type" => {}
            "dynamic" => object.dynamic = Some(dynamic(value)?),
            "properties" => properties(path, value, &mut object, depth)?,
            "enabled" | "subobjects" if is_true(value) => {}
            _ => return Err(unknown_parameter(key, path, "object")),
        }
    }
    Ok(Node { leaf: None, object: Some(object) })
}

fn leaf(path: &str, type_name: &str, definition: &Map<String, Value>) -> Result<Leaf, MappingError> {
    let mut fields = BTreeMap::new();
    if let Some(value) = definition.get("fields") {
        let map = value.as_object().ok_or_else(|| {
            MappingError::parsing(format!(
                "Expected map for property [fields] on field [{path}] but got a {}",
                class_of(value)
            ))
        })?;
        for (name, definition) in map {
            let full = join_path(path, name);
            if name.contains('.') {
                return Err(MappingError::parsing(format!(
                    "Field name [{name}] which is a multi field of [{path}] cannot contain '.'"
                )));
            }
            if name.trim().is_empty() {
                return Err(MappingError::illegal("field name cannot be an empty string"));
            }
            let definition = definition.as_object().ok_or_else(|| {
                MappingError::parsing(format!(
                    "Expected map for property [fields] on field [{full}] but got a {}",
                    class_of(definition)
                ))
            })?;
            match definition.get("type") {
                None => return Err(MappingError::parsing(format!("no type specified for property [{name}]"))),
                Some(Value::String(kind)) if kind == "object" => {
                    return Err(MappingError::parsing(format!("Type [object] cannot be used in multi field [{full}]")));
                }
                Some(Value::String(kind)) => fields.insert(name.clone(), field_type(&full, kind, definition, true)?),
                Some(other) => {
                    return Err(MappingError::parsing(format!(
                        "no handler for type [{}] declared on field [{name}]",
                        plain(other)
                    )));
                }
            };
        }
    }
    Ok(Leaf { field_type: field_type(path, type_name, definition, false)?, fields, dynamic: None })
}

fn field_type(
    path: &str,
    type_name: &str,
    definition: &Map<String, Value>,
    multi: bool,
) -> Result<FieldType, MappingError> {
    let mut field_type = match type_name {
        "text" => FieldType::Text { analyzer: Analyzer::Standard },
        "keyword" => FieldType::Keyword { ignore_above: None },
        "long" => FieldType::Long,
        "integer" => FieldType::Integer,
        "short" => FieldType::Short,
        "byte" => FieldType::Byte,
        "double" => FieldType::Double,
        "float" => FieldType::Float,
        "boolean" => FieldType::Boolean,
        "date" => FieldType::Date { formats: DateFormats::default() },
        "ip" => FieldType::Ip,
        other => {
            return Err(MappingError::parsing(format!("No handler for type [{other}] declared on field [{path}]")));
        }
    };
    if let FieldType::Text { analyzer } = &mut field_type
        && let Some(value) = definition.get("analyzer")
    {
        *analyzer = named_analyzer(value)?;
    }
    for (key, value) in definition {
        let honoured = match (key.as_str(), &mut field_type) {
            ("type", _) | ("analyzer", FieldType::Text { .. }) => true,
            ("fields", _) => !multi,
            ("search_analyzer" | "search_quote_analyzer", FieldType::Text { analyzer }) => {
                let wanted = named_analyzer(value)?;
                if wanted != *analyzer {
                    return Err(MappingError::parsing(format!(
                        "[{key}] of field [{path}] must be its analyzer: [{}] is not [{}]",
                        wanted.name(),
                        analyzer.name()
                    )));
                }
                true
            }
            ("ignore_above", FieldType::Keyword { ignore_above }) => {
                // Elasticsearch's own default means no limit.
                *ignore_above = Some(characters(path, value)?).filter(|characters| *characters != i32::MAX as u32);
                true
            }
            ("format", FieldType::Date { formats }) => {
                *formats = date_formats(path, value)?;
                true
            }
            (key, field_type) => states_what_is_true(key, value, field_type),
        };
        if !honoured {
            return Err(unknown_parameter(key, path, type_name));
        }
    }
    Ok(field_type)
}

/// Whether the parameter is one that Elasticsearch has for this type, at the value that holds here.
fn states_what_is_true(key: &str, value: &Value, field_type: &FieldType) -> bool {
    match (key, field_type) {
        ("norms", FieldType::Text { .. }) => is_true(value),
        ("index_options", FieldType::Text { .. }) => value == "positions",
        ("fielddata", FieldType::Text { .. }) | ("norms", FieldType::Keyword { .. }) => is_false(value),
        ("index_options", FieldType::Keyword { .. }) => value == "docs",
        ("doc_values", field_type) => !field_type.is_text() && is_true(value),
        ("coerce", field_type) => field_type.is_numeric() && is_true(value),
        ("ignore_malformed", FieldType::Text { .. } | FieldType::Keyword { .. }) => false,
        ("index", _) => is_true(value),
        ("store" | "ignore_malformed", _) => is_false(value),
        _ => false,
    }
}

fn named_analyzer(value: &Value) -> Result<Analyzer, MappingError> {
    value.as_str().and_then(Analyzer::parse).ok_or_else(|| {
        MappingError::parsing(format!("analyzer [{}] has not been configured in mappings", plain(value)))
    })
}

fn characters(path: &str, value: &Value) -> Result<u32, MappingError> {
    let number = match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    number.filter(|number| *number > 0).and_then(|number| u32::try_from(number).ok()).ok_or_else(|| {
        MappingError::illegal(format!("[ignore_above] must be positive, got [{}] on field [{path}]", plain(value)))
    })
}

fn date_formats(path: &str, value: &Value) -> Result<DateFormats, MappingError> {
    let text = value
        .as_str()
        .ok_or_else(|| MappingError::parsing(format!("Invalid format: [{}] on field [{path}]", plain(value))))?;
    DateFormats::parse(text).map_err(|format| {
        MappingError::parsing(format!("Invalid format: [{format}]: unknown date format on field [{path}]"))
    })
}

fn unknown_parameter(key: &str, path: &str, type_name: &str) -> MappingError {
    let name = path.rsplit('.').next().unwrap_or(path);
    MappingError::parsing(format!("unknown parameter [{key}] on mapper [{name}] of type [{type_name}]"))
}

fn is_true(value: &Value) -> bool {
    *value == Value::Bool(true) || value == "true"
}

fn is_false(value: &Value) -> bool {
    *value == Value::Bool(false) || value == "false"
}

/// A value as a person would write it in a sentence.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The Java class that Elasticsearch would have read the value into.
fn class_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "java.lang.Boolean",
        Value::Number(number) if number.is_f64() => "java.lang.Double",
        Value::Number(_) => "java.lang.Integer",
        Value::String(_) => "java.lang.String",
        Value::Array(_) => "java.util.ArrayList",
        Value::Object(_) => "java.util.LinkedHashMap",
    }
}
