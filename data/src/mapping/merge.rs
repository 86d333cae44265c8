//! Growing a mapping: what an update may add, and how a contradiction is worded.

use super::{FieldType, Leaf, MappingError, Node, Object, join_path};

/// `old` with everything that `new` adds. `new` decides `dynamic` where it says anything.
pub(super) fn objects(path: &str, old: &Object, new: Object) -> Result<Object, MappingError> {
    let mut merged = old.clone();
    merged.dynamic = new.dynamic.or(old.dynamic);
    for (name, node) in new.properties {
        let path = join_path(path, &name);
        let node = match merged.properties.get(&name) {
            Some(there) => nodes(&path, there, node)?,
            None => node,
        };
        merged.properties.insert(name, node);
    }
    Ok(merged)
}

fn nodes(path: &str, old: &Node, new: Node) -> Result<Node, MappingError> {
    match (old, new) {
        (Node { object: Some(old), .. }, Node { object: Some(new), .. }) => {
            Ok(Node { leaf: None, object: Some(objects(path, old, new)?) })
        }
        (Node { leaf: Some(old), .. }, Node { leaf: Some(new), .. }) => {
            Ok(Node { leaf: Some(leaves(path, old, new)?), object: None })
        }
        (Node { object: Some(_), .. }, _) => {
            Err(MappingError::illegal(format!("can't merge a non object mapping [{path}] with an object mapping")))
        }
        (Node { leaf: Some(old), .. }, _) => Err(cannot_change(path, old.field_type.name(), "object")),
        (_, new) => Ok(new),
    }
}

fn leaves(path: &str, old: &Leaf, new: Leaf) -> Result<Leaf, MappingError> {
    let mut merged = old.clone();
    merged.field_type = types(path, &old.field_type, new.field_type)?;
    for (name, field_type) in new.fields {
        let path = join_path(path, &name);
        let field_type = match old.fields.get(&name) {
            Some(there) => types(&path, there, field_type)?,
            None => field_type,
        };
        merged.fields.insert(name, field_type);
    }
    Ok(merged)
}

fn types(path: &str, old: &FieldType, new: FieldType) -> Result<FieldType, MappingError> {
    let parameter = |name: &str, old: &str, new: &str| {
        MappingError::illegal(format!(
            "Mapper for [{path}] conflicts with existing mapper:\n\tCannot update parameter [{name}] from [{old}] to [{new}]"
        ))
    };
    match (old, &new) {
        (FieldType::Text { analyzer: old }, FieldType::Text { analyzer: wanted }) if old != wanted => {
            Err(parameter("analyzer", analyzer_name(old), analyzer_name(wanted)))
        }
        (FieldType::Date { formats: old }, FieldType::Date { formats: wanted }) if old != wanted => {
            Err(parameter("format", &old.to_string(), &wanted.to_string()))
        }
        // `ignore_above` may change: it concerns documents to come.
        (old, new_type) if old.name() == new_type.name() => Ok(new),
        (old, new) => Err(cannot_change(path, old.name(), new.name())),
    }
}

/// Elasticsearch calls the analyzer that a field has when it names none `default`.
fn analyzer_name(analyzer: &crate::analysis::Analyzer) -> &'static str {
    match analyzer {
        crate::analysis::Analyzer::Standard => "default",
        other => other.name(),
    }
}

fn cannot_change(path: &str, old: &str, new: &str) -> MappingError {
    MappingError::illegal(format!("mapper [{path}] cannot be changed from type [{old}] to [{new}]"))
}
