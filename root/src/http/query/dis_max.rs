//! `dis_max`: the best of several queries.

use trawl_proto::v1::{self, query::Kind};

use super::{Lowering, Node, Parsed, Parser, build, members, unsupported};
use crate::{
    error::Error,
    http::{error::parsing, json::Json, keys},
};

#[derive(Debug)]
struct DisMax {
    queries: Vec<Parsed>,
    tie_breaker: f32,
    boost: f32,
}

pub(super) fn parse(parser: &mut Parser, body: &Json) -> Result<Parsed, Error> {
    let mut queries = None;
    let mut tie_breaker = 0.0;
    let mut boost = 1.0;
    for (key, value) in members(body, "dis_max")? {
        match key.as_str() {
            "queries" => queries = Some(parser.queries(value)?),
            "tie_breaker" => tie_breaker = keys::float(value, key)? as f32,
            "boost" => boost = keys::boost(value, "dis_max")?,
            _ => return Err(unsupported("dis_max", key)),
        }
    }
    let queries = queries.ok_or_else(|| parsing("[dis_max] requires 'queries' field with at least one clause"))?;
    Ok(Box::new(DisMax { queries, tie_breaker, boost }))
}

impl Node for DisMax {
    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<v1::Query, Error> {
        let queries: Result<Vec<v1::Query>, Error> = self.queries.iter().map(|query| query.lower(lowering)).collect();
        let queries = queries?;
        if queries.iter().all(build::is_none) {
            return Ok(build::none());
        }
        let joined = build::query(Kind::DisjunctionMax(v1::DisjunctionMax { queries, tie_breaker: self.tie_breaker }));
        Ok(build::boosted(joined, self.boost))
    }
}
