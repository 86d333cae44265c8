//! `match`: the terms of a text in one field.

use trawl_data::analysis::Analyzer;
use trawl_proto::v1;

use super::{
    Lowering, Node, Parsed, analysed::TextOptions, build, fuzziness::Fuzziness,
    minimum_should_match::MinimumShouldMatch, one_field, unsupported,
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
struct Match {
    field: String,
    text: String,
    options: TextOptions,
    boost: f32,
}

pub(super) fn parse(body: &Json) -> Result<Parsed, Error> {
    let (field, value) = one_field(body, "match")?;
    let mut options = TextOptions::default();
    let mut boost = 1.0;
    let mut text = None;
    match value {
        Json::Object(members) => {
            for (key, value) in members {
                match key.as_str() {
                    "query" => text = Some(query_text(value, "match")?),
                    "boost" => boost = keys::boost(value, "match")?,
                    _ => text_option(&mut options, "match", key, value)?,
                }
            }
        }
        value => text = Some(query_text(value, "match")?),
    }
    let text = text.ok_or_else(|| parsing("No text specified for text query"))?;
    Ok(Box::new(Match { field: field.to_owned(), text, options, boost }))
}

/// The text of a query: any scalar but null.
pub(super) fn query_text(json: &Json, query: &str) -> Result<String, Error> {
    match json {
        Json::Null => Err(illegal(format!("[{query}] requires query value: No text specified for text query"))),
        json => json
            .scalar_text()
            .ok_or_else(|| parsing(format!("[{query}] unknown token [{}] after [query]", json.token()))),
    }
}

/// The options that `match` and `multi_match` share.
pub(super) fn text_option(options: &mut TextOptions, query: &str, key: &str, value: &Json) -> Result<(), Error> {
    match key {
        "operator" => options.all_terms = operator(value)?,
        "minimum_should_match" => {
            options.minimum_should_match =
                if *value == Json::Null { None } else { Some(MinimumShouldMatch::from_json(value)?) }
        }
        "fuzziness" => options.fuzziness = if *value == Json::Null { None } else { Some(Fuzziness::from_json(value)?) },
        "prefix_length" => options.prefix_length = keys::count(value, key)?,
        "fuzzy_transpositions" => options.transpositions = keys::boolean(value, key)?,
        "lenient" => options.lenient = keys::boolean(value, key)?,
        "zero_terms_query" => options.zero_terms_all = zero_terms(value)?,
        "analyzer" => options.analyzer = Some(analyzer(value, query)?),
        // There are no synonyms here, so either choice is the same.
        "auto_generate_synonyms_phrase_query" => drop(keys::boolean(value, key)?),
        _ => return Err(unsupported(query, key)),
    }
    Ok(())
}

/// Whether an operator is `and`.
pub(super) fn operator(json: &Json) -> Result<bool, Error> {
    match keys::text(json, "operator")?.to_ascii_lowercase().as_str() {
        "and" => Ok(true),
        "or" => Ok(false),
        other => Err(illegal(format!(
            "No enum constant org.elasticsearch.index.query.Operator.{}",
            other.to_ascii_uppercase()
        ))),
    }
}

/// Whether `zero_terms_query` is `all`.
pub(super) fn zero_terms(json: &Json) -> Result<bool, Error> {
    match keys::text(json, "zero_terms_query")?.to_ascii_lowercase().as_str() {
        "none" => Ok(false),
        "all" => Ok(true),
        other => Err(parsing(format!("Unsupported zero_terms_query value [{other}]"))),
    }
}

/// An analyzer by name.
pub(super) fn analyzer(json: &Json, query: &str) -> Result<Analyzer, Error> {
    let name = keys::text(json, "analyzer")?;
    Analyzer::parse(&name).ok_or_else(|| illegal(format!("[{query}] analyzer [{name}] not found")))
}

impl Node for Match {
    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<v1::Query, Error> {
        if self.field == "_id" {
            return super::term::of_id(&self.text, self.boost);
        }
        let Some(field) = lowering.field(&self.field) else { return Ok(build::none()) };
        Ok(build::boosted(self.options.terms(lowering, field, &self.text)?, self.boost))
    }
}
