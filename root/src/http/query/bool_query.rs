//! `bool`: queries that must, should, may only filter, or must not match.

use trawl_proto::v1::{self, query::Kind};

use super::{Lowering, Node, Parsed, Parser, build, members, minimum_should_match::MinimumShouldMatch, unsupported};
use crate::{
    error::Error,
    http::{json::Json, keys},
};

#[derive(Debug, Default)]
struct Bool {
    must: Vec<Parsed>,
    should: Vec<Parsed>,
    filter: Vec<Parsed>,
    must_not: Vec<Parsed>,
    minimum_should_match: Option<MinimumShouldMatch>,
    boost: Option<f32>,
}

pub(super) fn parse(parser: &mut Parser, body: &Json) -> Result<Parsed, Error> {
    let mut parsed = Bool::default();
    for (key, value) in members(body, "bool")? {
        match key.as_str() {
            "must" => parsed.must = parser.queries(value)?,
            "should" => parsed.should = parser.queries(value)?,
            "filter" => parsed.filter = parser.queries(value)?,
            "must_not" | "mustNot" => parsed.must_not = parser.queries(value)?,
            "minimum_should_match" => parsed.minimum_should_match = Some(MinimumShouldMatch::from_json(value)?),
            "boost" => parsed.boost = Some(keys::boost(value, "bool")?),
            // What Elasticsearch always does unless told otherwise, and so does this.
            "adjust_pure_negative" if keys::boolean(value, key)? => {}
            _ => return Err(unsupported("bool", key)),
        }
    }
    Ok(Box::new(parsed))
}

impl Node for Bool {
    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<v1::Query, Error> {
        let mut all = |queries: &[Parsed]| -> Result<Vec<v1::Query>, Error> {
            queries.iter().map(|query| query.lower(lowering)).collect()
        };
        let boolean = v1::Boolean {
            must: all(&self.must)?,
            should: all(&self.should)?,
            filter: all(&self.filter)?,
            must_not: all(&self.must_not)?,
            minimum_should_match: 0,
        };
        Ok(build::boosted(join(boolean, self.minimum_should_match.as_ref()), self.boost.unwrap_or(1.0)))
    }
}

/// Completes a boolean query as Elasticsearch does: without anything it matches all, with only
/// `must_not` all else, and `should` is optional only beside `must` or `filter`.
pub(super) fn join(mut boolean: v1::Boolean, minimum: Option<&MinimumShouldMatch>) -> v1::Query {
    let required = !boolean.must.is_empty() || !boolean.filter.is_empty();
    if !required && boolean.should.is_empty() {
        if boolean.must_not.is_empty() {
            return build::all();
        }
        boolean.filter.push(build::all());
    }
    let default = u32::from(!required && !boolean.should.is_empty());
    boolean.minimum_should_match = match minimum {
        Some(minimum) if !boolean.should.is_empty() => minimum.of(boolean.should.len()).max(default),
        _ => default,
    };
    let impossible = boolean.minimum_should_match as usize > boolean.should.len()
        || boolean.must.iter().chain(&boolean.filter).any(build::is_none);
    if impossible {
        return build::none();
    }
    build::query(Kind::Boolean(boolean))
}
