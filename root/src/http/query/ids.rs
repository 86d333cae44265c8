//! `ids`: documents by `_id`, score 1.

use trawl_proto::v1;

use super::{Lowering, Node, Parsed, build, members, unsupported};
use crate::{
    error::Error,
    http::{error::illegal, json::Json, keys},
};

#[derive(Debug)]
struct Ids {
    ids: Vec<String>,
    boost: f32,
}

pub(super) fn parse(body: &Json) -> Result<Parsed, Error> {
    let mut ids = None;
    let mut boost = 1.0;
    for (key, value) in members(body, "ids")? {
        match key.as_str() {
            "values" => ids = Some(keys::texts(value, key)?),
            "boost" => boost = keys::boost(value, "ids")?,
            _ => return Err(unsupported("ids", key)),
        }
    }
    let ids = ids.ok_or_else(|| illegal("[ids] requires providing ids"))?;
    if ids.len() > 65_536 {
        return Err(illegal(format!("[ids] has [{}] values, more than [65536]", ids.len())));
    }
    Ok(Box::new(Ids { ids, boost }))
}

impl Node for Ids {
    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<v1::Query, Error> {
        lowering.clause()?;
        Ok(build::boosted(build::ids(self.ids.clone()), self.boost))
    }
}
