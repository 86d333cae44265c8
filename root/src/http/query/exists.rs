//! `exists`: documents with any value in a field or object, score 1.

use trawl_proto::v1;

use super::{Lowering, Node, Parsed, build, members, unsupported};
use crate::{
    error::Error,
    http::{error::parsing, filter_path::matches, json::Json, keys},
};

#[derive(Debug)]
struct Exists {
    field: String,
    boost: f32,
}

pub(super) fn parse(body: &Json) -> Result<Parsed, Error> {
    let mut field = None;
    let mut boost = 1.0;
    for (key, value) in members(body, "exists")? {
        match key.as_str() {
            "field" => field = Some(keys::text(value, key)?),
            "boost" => boost = keys::boost(value, "exists")?,
            _ => return Err(unsupported("exists", key)),
        }
    }
    let field = field.ok_or_else(|| parsing("[exists] must be provided with a [field]"))?;
    Ok(Box::new(Exists { field, boost }))
}

impl Node for Exists {
    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<v1::Query, Error> {
        Ok(build::boosted(on(lowering, &self.field)?, self.boost))
    }
}

/// Documents with a value in a field, in any field of an object, or in any field of a pattern.
pub(super) fn on(lowering: &mut Lowering<'_>, path: &str) -> Result<v1::Query, Error> {
    if matches!(path, "_id" | "_index" | "_source" | "*") {
        lowering.clause()?;
        return Ok(build::constant(build::all()));
    }
    let mapping = lowering.mapping;
    if let Some(field) = lowering.field(path) {
        lowering.clause()?;
        return Ok(build::exists(&field.path));
    }
    let inside = format!("{path}.");
    let is_object = mapping.is_object(path);
    let mut queries = Vec::new();
    for field in mapping.fields() {
        let wanted =
            if is_object { field.path.starts_with(&inside) } else { path.contains('*') && matches(path, &field.path) };
        if wanted {
            lowering.clause()?;
            queries.push(build::exists(&field.path));
        }
    }
    Ok(match queries.len() {
        0 => build::none(),
        1 => queries.remove(0),
        _ => build::constant(build::any(queries, 1)),
    })
}
