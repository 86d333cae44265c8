//! `constant_score`: a query's documents with one and the same score.

use trawl_proto::v1;

use super::{Lowering, Node, Parsed, Parser, build, members, unsupported};
use crate::{
    error::Error,
    http::{error::parsing, json::Json, keys},
};

#[derive(Debug)]
struct ConstantScore {
    filter: Parsed,
    boost: f32,
}

pub(super) fn parse(parser: &mut Parser, body: &Json) -> Result<Parsed, Error> {
    let mut filter = None;
    let mut boost = 1.0;
    for (key, value) in members(body, "constant_score")? {
        match key.as_str() {
            "filter" => filter = Some(parser.query(value)?),
            "boost" => boost = keys::boost(value, "constant_score")?,
            _ => return Err(unsupported("constant_score", key)),
        }
    }
    let filter = filter.ok_or_else(|| parsing("[constant_score] requires a 'filter' element"))?;
    Ok(Box::new(ConstantScore { filter, boost }))
}

impl Node for ConstantScore {
    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<v1::Query, Error> {
        Ok(build::boosted(build::constant(self.filter.lower(lowering)?), self.boost))
    }
}
