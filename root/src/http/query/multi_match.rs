//! `multi_match`: a text in several fields.

use trawl_proto::v1;

use super::{
    Lowering, Node, Parsed,
    analysed::TextOptions,
    build,
    fields::{self, FieldPattern},
    match_query::{query_text, text_option},
    members,
};
use crate::{
    error::Error,
    http::{
        error::{illegal, parsing},
        json::Json,
        keys,
    },
};

#[derive(Debug)]
struct MultiMatch {
    fields: Vec<FieldPattern>,
    text: String,
    combine: Combine,
    tie_breaker: Option<f32>,
    options: TextOptions,
    boost: f32,
}

/// How the fields' scores become one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Combine {
    /// The best field counts.
    Best,
    /// All fields count.
    Most,
    /// The best field counts, words in this order.
    Phrase,
}

impl Combine {
    pub(super) fn parse(json: &Json, query: &str) -> Result<Self, Error> {
        match keys::text(json, "type")?.as_str() {
            "best_fields" => Ok(Self::Best),
            "most_fields" => Ok(Self::Most),
            "phrase" => Ok(Self::Phrase),
            other @ ("cross_fields" | "phrase_prefix" | "bool_prefix") => {
                Err(illegal(format!("[{query}] query does not support type [{other}]")))
            }
            other => Err(parsing(format!("failed to parse [{query}] query type [{other}]. unknown type."))),
        }
    }

    /// The fields' queries as one.
    pub(super) fn join(self, queries: Vec<v1::Query>, tie_breaker: Option<f32>) -> v1::Query {
        let default = if self == Self::Most { 1.0 } else { 0.0 };
        build::best(queries, tie_breaker.unwrap_or(default))
    }
}

pub(super) fn parse(body: &Json) -> Result<Parsed, Error> {
    const NAME: &str = "multi_match";
    let mut fields = Vec::new();
    let mut text = None;
    let mut combine = Combine::Best;
    let mut tie_breaker = None;
    let mut options = TextOptions::default();
    let mut boost = 1.0;
    for (key, value) in members(body, NAME)? {
        match key.as_str() {
            "query" => text = Some(query_text(value, NAME)?),
            "fields" => fields = FieldPattern::parse_all(value)?,
            "type" => combine = Combine::parse(value, NAME)?,
            "tie_breaker" => tie_breaker = Some(keys::float(value, key)? as f32),
            "boost" => boost = keys::boost(value, NAME)?,
            "slop" => options.slop = keys::count(value, key)?,
            _ => text_option(&mut options, NAME, key, value)?,
        }
    }
    if combine == Combine::Phrase && options.fuzziness.is_some() {
        return Err(parsing("Fuzziness not allowed for type [phrase]"));
    }
    let text = text.ok_or_else(|| parsing("No text specified for multi_match query"))?;
    Ok(Box::new(MultiMatch { fields, text, combine, tie_breaker, options, boost }))
}

impl Node for MultiMatch {
    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<v1::Query, Error> {
        // A wildcard also meets fields that cannot hold the text; those then match nothing.
        let lenient = self.options.lenient || self.fields.iter().any(FieldPattern::is_wildcard);
        let options = TextOptions { lenient, ..self.options.clone() };
        let mut queries = Vec::new();
        for (field, boost) in fields::resolve(lowering, &self.fields) {
            let query = match self.combine {
                Combine::Phrase => options.phrase(lowering, field, &self.text)?,
                Combine::Best | Combine::Most => options.terms(lowering, field, &self.text)?,
            };
            queries.push(build::boosted(query, boost));
        }
        Ok(build::boosted(self.combine.join(queries, self.tie_breaker), self.boost))
    }
}
