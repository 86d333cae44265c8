//! Aggregations: bodies to a tree ([`parse`]), the tree to the wire form with one index's mapping
//! ([`lower`]), and merged results to JSON ([`render`]).
//!
//! To add an aggregation: a file in `aggs/` with a `parse` function and a [`Kind`], and a line in
//! `kind`.

mod buckets;
mod cardinality;
mod date_histogram;
mod field;
mod histogram;
mod metric;
mod range;
mod terms;

#[cfg(test)]
mod tests;

use std::fmt::Debug;

use trawl_data::mapping::Mapping;
use trawl_proto::v1;

pub(crate) use self::field::fielddata;
use super::{
    error::{illegal, parsing},
    json::{Json, Members},
    keys,
    query::Lowering,
};
use crate::{
    aggregation::AggregationResult,
    error::{Cause, Error},
};

/// How many aggregations one request may have.
const COUNT_MAX: usize = 500;
/// How deep they may nest.
const DEPTH_MAX: usize = 14;

/// One kind of aggregation with its settings.
pub trait Kind: Send + Sync + Debug {
    /// The wire form on one index.
    fn lower(&self, named: &Named<'_>, lowering: &mut Lowering<'_>) -> Result<v1::aggregation::Kind, Error>;
    /// Whether it may have sub-aggregations.
    fn is_bucket(&self) -> bool {
        false
    }
    /// What `typed_keys` puts before the name.
    fn type_name(&self, result: &AggregationResult) -> &'static str;
    /// The result as Elasticsearch shows it.
    fn render(&self, result: &AggregationResult, rendering: &Rendering<'_>) -> Members;
}

/// One aggregation as asked for.
#[derive(Debug)]
pub struct Aggregation {
    name: String,
    kind: Box<dyn Kind>,
    meta: Option<Json>,
    children: Vec<Aggregation>,
}

/// What a kind may want to know of its surroundings when it is lowered.
pub struct Named<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its sub-aggregations.
    pub children: &'a [Aggregation],
}

/// How results are shown.
#[derive(Clone, Copy, Default)]
pub struct Rendering<'a> {
    /// To know which fields are dates.
    pub mapping: Option<&'a Mapping>,
    /// Whether names carry their type.
    pub typed_keys: bool,
    /// Sub-aggregations of the one that is rendered.
    pub children: &'a [Aggregation],
}

/// Parses the value of a body's `aggs` key.
///
/// # Errors
/// Whatever is unknown, by name.
pub fn parse(json: &Json) -> Result<Vec<Aggregation>, Error> {
    let mut count = 0;
    parse_level(json, 0, &mut count)
}

fn parse_level(json: &Json, depth: usize, count: &mut usize) -> Result<Vec<Aggregation>, Error> {
    if depth > DEPTH_MAX {
        return Err(illegal(format!("aggregations are nested deeper than [{DEPTH_MAX}]")));
    }
    let mut parsed = Vec::new();
    for (name, body) in keys::object(json, "aggs")? {
        *count += 1;
        if *count > COUNT_MAX {
            return Err(illegal(format!("more than [{COUNT_MAX}] aggregations in one request")));
        }
        if name.is_empty() || name.contains(['[', ']', '>']) {
            return Err(parsing(format!(
                "Invalid aggregation name [{name}]. Aggregation names can contain any character except '[', ']', and '>'"
            )));
        }
        parsed.push(parse_one(name, body, depth, count)?);
    }
    Ok(parsed)
}

fn parse_one(name: &str, body: &Json, depth: usize, count: &mut usize) -> Result<Aggregation, Error> {
    let mut found: Option<(&str, Box<dyn Kind>)> = None;
    let mut children = None;
    let mut meta = None;
    for (key, value) in keys::object(body, name)? {
        match key.as_str() {
            "aggs" | "aggregations" => {
                if children.is_some() {
                    return Err(parsing(format!("Found two sub aggregation definitions under [{name}]")));
                }
                children = Some(parse_level(value, depth + 1, count)?);
            }
            "meta" => meta = Some(Json::Object(keys::object(value, key)?.clone())),
            key => {
                if let Some((first, _)) = found {
                    return Err(parsing(format!(
                        "Found two aggregation type definitions in [{name}]: [{first}] and [{key}]"
                    )));
                }
                found = Some((key, kind(key, name, value)?));
            }
        }
    }
    let Some((type_name, kind)) = found else {
        return Err(parsing(format!("Missing definition for aggregation [{name}]")));
    };
    let children = children.unwrap_or_default();
    if !children.is_empty() && !kind.is_bucket() {
        return Err(illegal(format!("Aggregator [{name}] of type [{type_name}] cannot accept sub-aggregations")));
    }
    Ok(Aggregation { name: name.to_owned(), kind, meta, children })
}

fn kind(type_name: &str, name: &str, body: &Json) -> Result<Box<dyn Kind>, Error> {
    match type_name {
        "avg" | "min" | "max" | "sum" | "value_count" | "stats" | "extended_stats" => metric::parse(type_name, body),
        "cardinality" => cardinality::parse(body),
        "date_histogram" => date_histogram::parse(body),
        "date_range" => range::parse_dates(body),
        "histogram" => histogram::parse(body),
        "range" => range::parse(body),
        "terms" => terms::parse(name, body),
        _ => Err(Error::Invalid {
            error_type: "parsing_exception",
            reason: format!("Unknown aggregation type [{type_name}]"),
            caused_by: Some(Cause {
                error_type: "named_object_not_found_exception".to_owned(),
                reason: format!("unknown field [{type_name}]"),
            }),
        }),
    }
}

/// A key that an aggregation does not know.
fn unsupported(type_name: &str, key: &str) -> Error {
    Error::invalid("x_content_parse_exception", format!("[{type_name}] unknown field [{key}]"))
}

/// The wire form of all on one index.
///
/// # Errors
/// A field that the aggregation cannot work on.
pub fn lower(aggregations: &[Aggregation], lowering: &mut Lowering<'_>) -> Result<Vec<v1::Aggregation>, Error> {
    aggregations
        .iter()
        .map(|aggregation| {
            let named = Named { name: &aggregation.name, children: &aggregation.children };
            Ok(v1::Aggregation {
                name: aggregation.name.clone(),
                kind: Some(aggregation.kind.lower(&named, lowering)?),
                aggregations: lower(&aggregation.children, lowering)?,
            })
        })
        .collect()
}

/// Results as members of an object, in the order asked for.
pub fn render(
    aggregations: &[Aggregation],
    results: &[(String, AggregationResult)],
    rendering: &Rendering<'_>,
) -> Members {
    let mut members = Members::new();
    for aggregation in aggregations {
        let Some((_, result)) = results.iter().find(|(name, _)| *name == aggregation.name) else { continue };
        let mut body = Members::new();
        if let Some(meta) = &aggregation.meta {
            body.push(("meta".to_owned(), meta.clone()));
        }
        body.extend(aggregation.kind.render(result, &Rendering { children: &aggregation.children, ..*rendering }));
        let name = if rendering.typed_keys {
            format!("{}#{}", aggregation.kind.type_name(result), aggregation.name)
        } else {
            aggregation.name.clone()
        };
        members.push((name, Json::Object(body)));
    }
    members
}
