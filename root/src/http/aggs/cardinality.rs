//! `cardinality`: about how many distinct values there are.

use trawl_proto::v1;

use super::{Kind, Named, Rendering, field, unsupported};
use crate::{
    aggregation::AggregationResult,
    error::Error,
    http::{
        json::{Json, Members},
        keys,
        query::Lowering,
    },
};

#[derive(Debug)]
struct Cardinality {
    field: String,
    missing: Option<String>,
}

pub(super) fn parse(body: &Json) -> Result<Box<dyn Kind>, Error> {
    const TYPE: &str = "cardinality";
    let mut path = None;
    let mut missing = None;
    for (key, value) in keys::object(body, TYPE)? {
        match key.as_str() {
            "field" => path = Some(field::name(value)?),
            "missing" => missing = Some(keys::text(value, key)?),
            // The estimate is as good as it gets, whatever is asked for.
            "precision_threshold" => drop(keys::count(value, key)?),
            _ => return Err(unsupported(TYPE, key)),
        }
    }
    Ok(Box::new(Cardinality { field: field::required(path, TYPE)?, missing }))
}

impl Kind for Cardinality {
    fn lower(&self, _: &Named<'_>, lowering: &mut Lowering<'_>) -> Result<v1::aggregation::Kind, Error> {
        let field = field::check(lowering, &self.field, "cardinality", field::is_any)?;
        Ok(v1::aggregation::Kind::Cardinality(v1::CardinalityAggregation {
            field: self.field.clone(),
            missing: field::missing(lowering, field, &self.missing)?,
        }))
    }

    fn type_name(&self, _: &AggregationResult) -> &'static str {
        "cardinality"
    }

    fn render(&self, result: &AggregationResult, _: &Rendering<'_>) -> Members {
        let value = match result {
            AggregationResult::Value(value) => value.unwrap_or_default().round() as u64,
            _ => 0,
        };
        vec![("value".to_owned(), value.into())]
    }
}
