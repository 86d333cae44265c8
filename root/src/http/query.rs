//! The query language: bodies to a tree ([`parse`]), and the tree, with one index's mapping, to the
//! wire form ([`Node::lower`]).
//!
//! To add a query: a file in `query/` with a `parse` function and a [`Node`], and a line in
//! `Parser::named`.

pub mod analysed;
mod bool_query;
pub mod build;
mod constant_score;
mod dis_max;
mod exists;
pub mod fields;
pub mod fuzziness;
mod fuzzy;
mod ids;
mod match_all;
mod match_phrase;
mod match_query;
pub mod minimum_should_match;
mod multi_match;
mod prefix;
mod query_string;
mod range;
mod term;
mod terms;
pub mod values;

#[cfg(test)]
mod tests;

use std::fmt::Debug;

use trawl_data::mapping::{Field, Mapping};
use trawl_proto::v1;

pub use self::query_string::{QueryString, Settings as QueryStringSettings};
use super::{
    error::{illegal, parsing},
    json::{Json, Members},
    keys,
};
use crate::error::{Cause, Error};

/// How deep queries may nest.
pub const DEPTH_MAX: usize = 30;
/// How deep a lowered query may nest: syntax inside a `query_string` comes on top of the body's own
/// nesting, and the wire form is decoded with a limit of 100 messages, two per level.
const LOWERED_DEPTH_MAX: usize = 45;
/// What the boosts on the way to a clause may multiply to: the scores of all clauses together are then
/// still far from what 32 bits can hold.
const BOOST_MAX: f32 = 1e18;
/// How many clauses a query may come to.
pub const CLAUSES_MAX: usize = 1_024;

/// A parsed query, not yet bound to an index.
pub trait Node: Send + Sync + Debug {
    /// The query on one index.
    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<v1::Query, Error>;
}

/// A parsed query.
pub type Parsed = Box<dyn Node>;

/// Parses the value of a body's `query` key.
pub fn parse(json: &Json) -> Result<Parsed, Error> {
    Parser::default().query(json)
}

/// The query of a body without one.
pub fn match_all() -> Parsed {
    Box::new(match_all::MatchAll { boost: 1.0 })
}

/// Keeps the limits while parsing.
#[derive(Default)]
pub struct Parser {
    depth: usize,
    nodes: usize,
}

impl Parser {
    /// An object with one member: the name of the query and its body.
    pub fn query(&mut self, json: &Json) -> Result<Parsed, Error> {
        let members = json.as_object().ok_or_else(|| {
            parsing(format!("[_na] query malformed, must start with start_object, found [{}]", json.token()))
        })?;
        let Some((name, body)) = members.first() else {
            return Err(illegal("query malformed, empty clause found"));
        };
        if let Some((second, _)) = members.get(1) {
            return Err(parsing(format!(
                "[{name}] malformed query, expected [END_OBJECT] but found [FIELD_NAME] ([{second}])"
            )));
        }
        self.nodes += 1;
        if self.nodes > CLAUSES_MAX {
            return Err(too_many_clauses());
        }
        if self.depth >= DEPTH_MAX {
            return Err(too_deep(DEPTH_MAX));
        }
        self.depth += 1;
        let parsed = self.named(name, body);
        self.depth -= 1;
        parsed
    }

    fn named(&mut self, name: &str, body: &Json) -> Result<Parsed, Error> {
        match name {
            "bool" => bool_query::parse(self, body),
            "constant_score" => constant_score::parse(self, body),
            "dis_max" => dis_max::parse(self, body),
            "exists" => exists::parse(body),
            "fuzzy" => fuzzy::parse(body),
            "ids" => ids::parse(body),
            "match" => match_query::parse(body),
            "match_all" => match_all::parse(body),
            "match_none" => match_all::parse_none(body),
            "match_phrase" => match_phrase::parse(body),
            "multi_match" => multi_match::parse(body),
            "prefix" => prefix::parse(body),
            "query_string" => query_string::parse(body),
            "range" => range::parse(body),
            "term" => term::parse(body),
            "terms" => terms::parse(body),
            _ => Err(Error::Invalid {
                error_type: "parsing_exception",
                reason: format!("unknown query [{name}]"),
                caused_by: Some(Cause {
                    error_type: "named_object_not_found_exception".to_owned(),
                    reason: format!("unknown field [{name}]"),
                }),
            }),
        }
    }

    /// One query or an array of them.
    pub fn queries(&mut self, json: &Json) -> Result<Vec<Parsed>, Error> {
        match json {
            Json::Array(elements) => elements.iter().map(|element| self.query(element)).collect(),
            single => Ok(vec![self.query(single)?]),
        }
    }
}

/// A query on one index, within the limits.
///
/// # Errors
/// What the query's nodes answer; a limit that is passed.
pub fn lower(query: &Parsed, lowering: &mut Lowering<'_>) -> Result<v1::Query, Error> {
    let lowered = query.lower(lowering)?;
    let mut open: Vec<(&v1::Query, usize, f32)> = vec![(&lowered, 1, 1.0)];
    while let Some((query, depth, factor)) = open.pop() {
        if depth > LOWERED_DEPTH_MAX {
            return Err(too_deep(LOWERED_DEPTH_MAX));
        }
        let factor = factor * build::factor(query);
        if factor > BOOST_MAX || factor.is_nan() {
            return Err(illegal(format!(
                "[boost] is too large: the boosts of nested queries multiply, and may come to [{BOOST_MAX:e}] at most"
            )));
        }
        open.extend(build::children(query).map(|child| (child, depth + 1, factor)));
    }
    Ok(lowered)
}

/// What queries are lowered with.
pub struct Lowering<'a> {
    /// Name of the index.
    pub index: &'a str,
    /// Its mapping, dynamic fields included.
    pub mapping: &'a Mapping,
    /// What `now` means in dates: the same for the whole request.
    pub now_ms: i64,
    /// Whether a field was named that is dynamic or unknown.
    pub uses_dynamic: bool,
    clauses: usize,
}

impl<'a> Lowering<'a> {
    /// A start on one index.
    pub fn new(index: &'a str, mapping: &'a Mapping, now_ms: i64) -> Self {
        Self { index, mapping, now_ms, uses_dynamic: false, clauses: 0 }
    }

    /// The field of a path, remembering whether the answer may change as documents come in.
    pub fn field(&mut self, path: &str) -> Option<&'a Field> {
        let field = self.mapping.field(path);
        self.uses_dynamic |= field.is_none_or(|field| field.dynamic.is_some());
        field
    }

    /// Counts one clause.
    pub fn clause(&mut self) -> Result<(), Error> {
        self.clauses += 1;
        if self.clauses > CLAUSES_MAX { Err(too_many_clauses()) } else { Ok(()) }
    }
}

fn too_deep(depth_max: usize) -> Error {
    illegal(format!("The nested depth of the query exceeds the maximum nested depth for queries set in [{depth_max}]"))
}

fn too_many_clauses() -> Error {
    Error::Invalid {
        error_type: "query_shard_exception",
        reason: format!("failed to create query: maxClauseCount is set to {CLAUSES_MAX}"),
        caused_by: Some(Cause {
            error_type: "too_many_clauses".to_owned(),
            reason: format!("maxClauseCount is set to {CLAUSES_MAX}"),
        }),
    }
}

/// A query that does not fit the index.
pub fn does_not_fit(error_type: &str, reason: impl Into<String>) -> Error {
    let reason = reason.into();
    Error::Invalid {
        error_type: "query_shard_exception",
        reason: format!("failed to create query: {reason}"),
        caused_by: Some(Cause { error_type: error_type.to_owned(), reason }),
    }
}

/// Refuses a field that is neither text nor keyword.
pub fn strings_only(field: &Field, query: &str, takes: &str) -> Result<(), Error> {
    let field_type = &field.field_type;
    if field_type.is_text() || field_type.is_keyword() {
        return Ok(());
    }
    let reason = format!(
        "Can only use {query} queries on {takes} fields - not on [{}] which is of type [{}]",
        field.path,
        field_type.name()
    );
    Err(does_not_fit("illegal_argument_exception", reason))
}

/// A key that a query does not know.
pub fn unsupported(query: &str, key: &str) -> Error {
    parsing(format!("[{query}] query does not support [{key}]"))
}

/// Splits `{field: body}`; some queries take further keys beside the field.
pub fn one_field<'a>(body: &'a Json, query: &str) -> Result<(&'a str, &'a Json), Error> {
    let members = keys::object(body, query)?;
    let Some((field, value)) = members.first() else {
        return Err(illegal(format!("[{query}] requires a field name: field name is null or empty")));
    };
    if field.is_empty() {
        return Err(illegal("field name is null or empty"));
    }
    if let Some((second, _)) = members.get(1) {
        return Err(parsing(format!(
            "[{query}] query doesn't support multiple fields, found [{field}] and [{second}]"
        )));
    }
    Ok((field, value))
}

/// The members of a query that is all keys, no field.
pub fn members<'a>(body: &'a Json, query: &str) -> Result<&'a Members, Error> {
    body.as_object().ok_or_else(|| parsing(format!("[{query}] query malformed, no start_object after query name")))
}
