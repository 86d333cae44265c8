//! `fuzzy`: terms within an edit distance, score 1.

use trawl_proto::v1::{self, query::Kind};

use super::{
    Lowering, Node, Parsed, build,
    fuzziness::Fuzziness,
    one_field, strings_only,
    term::{no_value, term_text},
    unsupported,
};
use crate::{
    error::Error,
    http::{json::Json, keys},
};

#[derive(Debug)]
pub(super) struct Fuzzy {
    pub(super) field: String,
    pub(super) term: String,
    pub(super) fuzziness: Fuzziness,
    pub(super) prefix_length: u32,
    pub(super) transpositions: bool,
    pub(super) boost: f32,
}

pub(super) fn parse(body: &Json) -> Result<Parsed, Error> {
    let (field, value) = one_field(body, "fuzzy")?;
    let mut fuzzy = Fuzzy {
        field: field.to_owned(),
        term: String::new(),
        fuzziness: Fuzziness::AUTO,
        prefix_length: 0,
        transpositions: true,
        boost: 1.0,
    };
    let mut term = None;
    match value {
        Json::Object(members) => {
            for (key, value) in members {
                match key.as_str() {
                    "value" => term = Some(term_text(value, "fuzzy")?),
                    "boost" => fuzzy.boost = keys::boost(value, "fuzzy")?,
                    "fuzziness" => fuzzy.fuzziness = Fuzziness::from_json(value)?,
                    "prefix_length" => fuzzy.prefix_length = keys::count(value, key)?,
                    "transpositions" => fuzzy.transpositions = keys::boolean(value, key)?,
                    _ => return Err(unsupported("fuzzy", key)),
                }
            }
        }
        value => term = Some(term_text(value, "fuzzy")?),
    }
    fuzzy.term = term.ok_or_else(|| no_value("fuzzy", field))?;
    Ok(Box::new(fuzzy))
}

impl Node for Fuzzy {
    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<v1::Query, Error> {
        let Some(field) = lowering.field(&self.field) else { return Ok(build::none()) };
        Ok(build::boosted(self.on(lowering, field)?, self.boost))
    }
}

impl Fuzzy {
    /// The query on a field.
    pub(super) fn on(
        &self,
        lowering: &mut Lowering<'_>,
        field: &trawl_data::mapping::Field,
    ) -> Result<v1::Query, Error> {
        lowering.clause()?;
        strings_only(field, "fuzzy", "keyword and text")?;
        Ok(build::query(Kind::Fuzzy(v1::Fuzzy {
            field: field.path.clone(),
            term: self.term.clone(),
            distance: self.fuzziness.distance(&self.term),
            transpositions: self.transpositions,
            prefix_length: self.prefix_length,
        })))
    }
}
