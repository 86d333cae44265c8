//! `match_all` and `match_none`.

use trawl_proto::v1;

use super::{Lowering, Node, Parsed, build, members, unsupported};
use crate::{
    error::Error,
    http::{json::Json, keys},
};

#[derive(Debug)]
pub(super) struct MatchAll {
    pub(super) boost: f32,
}

#[derive(Debug)]
struct MatchNone;

pub(super) fn parse(body: &Json) -> Result<Parsed, Error> {
    let mut boost = 1.0;
    for (key, value) in members(body, "match_all")? {
        match key.as_str() {
            "boost" => boost = keys::boost(value, "match_all")?,
            _ => return Err(unsupported("match_all", key)),
        }
    }
    Ok(Box::new(MatchAll { boost }))
}

pub(super) fn parse_none(body: &Json) -> Result<Parsed, Error> {
    for (key, value) in members(body, "match_none")? {
        match key.as_str() {
            "boost" => drop(keys::boost(value, "match_none")?),
            _ => return Err(unsupported("match_none", key)),
        }
    }
    Ok(Box::new(MatchNone))
}

impl Node for MatchAll {
    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<v1::Query, Error> {
        lowering.clause()?;
        Ok(build::boosted(build::all(), self.boost))
    }
}

impl Node for MatchNone {
    fn lower(&self, _: &mut Lowering<'_>) -> Result<v1::Query, Error> {
        Ok(build::none())
    }
}
