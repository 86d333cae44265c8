//! `prefix`: terms that start with a text, score 1.

use trawl_proto::v1::{self, query::Kind};

use super::{
    Lowering, Node, Parsed, build, one_field, strings_only,
    term::{no_value, term_text},
    unsupported,
};
use crate::{
    error::Error,
    http::{json::Json, keys},
};

#[derive(Debug)]
struct Prefix {
    field: String,
    prefix: String,
    boost: f32,
}

pub(super) fn parse(body: &Json) -> Result<Parsed, Error> {
    let (field, value) = one_field(body, "prefix")?;
    let mut boost = 1.0;
    let mut prefix = None;
    match value {
        Json::Object(members) => {
            for (key, value) in members {
                match key.as_str() {
                    "value" => prefix = Some(term_text(value, "prefix")?),
                    "boost" => boost = keys::boost(value, "prefix")?,
                    "case_insensitive" if !keys::boolean(value, key)? => {}
                    _ => return Err(unsupported("prefix", key)),
                }
            }
        }
        value => prefix = Some(term_text(value, "prefix")?),
    }
    let prefix = prefix.ok_or_else(|| no_value("prefix", field))?;
    Ok(Box::new(Prefix { field: field.to_owned(), prefix, boost }))
}

impl Node for Prefix {
    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<v1::Query, Error> {
        let Some(field) = lowering.field(&self.field) else { return Ok(build::none()) };
        Ok(build::boosted(on(lowering, field, &self.prefix)?, self.boost))
    }
}

/// The prefix on a field.
pub(super) fn on(
    lowering: &mut Lowering<'_>,
    field: &trawl_data::mapping::Field,
    prefix: &str,
) -> Result<v1::Query, Error> {
    lowering.clause()?;
    strings_only(field, "prefix", "keyword, text and wildcard")?;
    Ok(build::query(Kind::Prefix(v1::Prefix { field: field.path.clone(), prefix: prefix.to_owned() })))
}
