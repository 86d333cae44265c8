//! `match_phrase`: the words of a text in this order, in one field.

use trawl_proto::v1;

use super::{
    Lowering, Node, Parsed,
    analysed::TextOptions,
    build,
    match_query::{analyzer, query_text, zero_terms},
    one_field, unsupported,
};
use crate::{
    error::Error,
    http::{error::parsing, json::Json, keys},
};

#[derive(Debug)]
struct MatchPhrase {
    field: String,
    text: String,
    options: TextOptions,
    boost: f32,
}

pub(super) fn parse(body: &Json) -> Result<Parsed, Error> {
    const NAME: &str = "match_phrase";
    let (field, value) = one_field(body, NAME)?;
    let mut options = TextOptions::default();
    let mut boost = 1.0;
    let mut text = None;
    match value {
        Json::Object(members) => {
            for (key, value) in members {
                match key.as_str() {
                    "query" => text = Some(query_text(value, NAME)?),
                    "boost" => boost = keys::boost(value, NAME)?,
                    "slop" => options.slop = keys::count(value, key)?,
                    "analyzer" => options.analyzer = Some(analyzer(value, NAME)?),
                    "zero_terms_query" => options.zero_terms_all = zero_terms(value)?,
                    _ => return Err(unsupported(NAME, key)),
                }
            }
        }
        value => text = Some(query_text(value, NAME)?),
    }
    let text = text.ok_or_else(|| parsing("No text specified for text query"))?;
    Ok(Box::new(MatchPhrase { field: field.to_owned(), text, options, boost }))
}

impl Node for MatchPhrase {
    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<v1::Query, Error> {
        let Some(field) = lowering.field(&self.field) else { return Ok(build::none()) };
        Ok(build::boosted(self.options.phrase(lowering, field, &self.text)?, self.boost))
    }
}
