//! `term`: one value, not analysed.

use trawl_proto::v1;

use super::{Lowering, Node, Parsed, build, one_field, unsupported, values};
use crate::{
    error::Error,
    http::{
        error::{illegal, parsing},
        filter_path::matches,
        json::Json,
        keys,
    },
};

#[derive(Debug)]
struct Term {
    field: String,
    text: String,
    boost: f32,
}

pub(super) fn parse(body: &Json) -> Result<Parsed, Error> {
    let (field, value) = one_field(body, "term")?;
    let mut boost = 1.0;
    let mut text = None;
    match value {
        Json::Object(members) => {
            for (key, value) in members {
                match key.as_str() {
                    "value" | "term" => text = Some(term_text(value, "term")?),
                    "boost" => boost = keys::boost(value, "term")?,
                    "case_insensitive" if !keys::boolean(value, key)? => {}
                    _ => return Err(unsupported("term", key)),
                }
            }
        }
        Json::Array(_) => return Err(parsing("[term] query does not support array of values")),
        value => text = Some(term_text(value, "term")?),
    }
    let text = text.ok_or_else(|| no_value("term", field))?;
    Ok(Box::new(Term { field: field.to_owned(), text, boost }))
}

/// An object that says everything but what to look for.
pub(super) fn no_value(query: &str, field: &str) -> Error {
    illegal(format!("value cannot be null: [{query}] query on [{field}] has no [value]"))
}

/// The text of a value: any scalar but null.
pub(super) fn term_text(json: &Json, query: &str) -> Result<String, Error> {
    match json {
        Json::Null => Err(illegal("value cannot be null")),
        Json::Array(_) => Err(parsing(format!("[{query}] query does not support array of values"))),
        json => json.scalar_text().ok_or_else(|| {
            parsing(format!("[{query}] query malformed, expected a value but found [{}]", json.token()))
        }),
    }
}

/// The document of an `_id`.
pub(super) fn of_id(id: &str, boost: f32) -> Result<v1::Query, Error> {
    Ok(build::boosted(build::ids(vec![id.to_owned()]), boost))
}

/// Everything or nothing, depending on the index's name.
pub(super) fn of_index(lowering: &Lowering<'_>, pattern: &str) -> v1::Query {
    if matches(pattern, lowering.index) { build::all() } else { build::none() }
}

impl Node for Term {
    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<v1::Query, Error> {
        match self.field.as_str() {
            "_id" => return of_id(&self.text, self.boost),
            "_index" => return Ok(build::boosted(of_index(lowering, &self.text), self.boost)),
            _ => {}
        }
        let Some(field) = lowering.field(&self.field) else { return Ok(build::none()) };
        Ok(build::boosted(values::exact(lowering, field, &self.text)?, self.boost))
    }
}
