//! Small constructors of wire queries.

use trawl_proto::v1::{self, query::Kind, value};

/// A query of a kind, without boost.
pub fn query(kind: Kind) -> v1::Query {
    v1::Query { kind: Some(kind), boost: None }
}

/// Every document.
pub fn all() -> v1::Query {
    query(Kind::MatchAll(v1::MatchAll {}))
}

/// No document.
pub fn none() -> v1::Query {
    query(Kind::MatchNone(v1::MatchNone {}))
}

/// Whether it is known to match nothing.
pub fn is_none(query: &v1::Query) -> bool {
    matches!(query.kind, Some(Kind::MatchNone(_)))
}

/// With its score multiplied.
pub fn boosted(mut query: v1::Query, boost: f32) -> v1::Query {
    if boost != 1.0 {
        query.boost = Some(query.boost.unwrap_or(1.0) * boost);
    }
    query
}

/// A string value.
pub fn string(text: impl Into<String>) -> v1::Value {
    v1::Value { kind: Some(value::Kind::String(text.into())) }
}

/// Documents with a value.
pub fn term(field: &str, value: v1::Value) -> v1::Query {
    query(Kind::Term(v1::Term { field: field.to_owned(), value: Some(value) }))
}

/// Documents with one of the values, score 1; one value is a term with score 1 only if it is no string.
pub fn term_set(field: &str, values: Vec<v1::Value>) -> v1::Query {
    if values.is_empty() {
        return none();
    }
    query(Kind::TermSet(v1::TermSet { field: field.to_owned(), values }))
}

/// Any of the queries, at least `minimum`, scores summed; one query is itself.
pub fn any(mut queries: Vec<v1::Query>, minimum: u32) -> v1::Query {
    if minimum as usize > queries.len() {
        return none();
    }
    if queries.len() == 1
        && let Some(only) = queries.pop()
    {
        return only;
    }
    query(Kind::Boolean(v1::Boolean { should: queries, minimum_should_match: minimum, ..Default::default() }))
}

/// All of the queries, scores summed; one query is itself.
pub fn every(mut queries: Vec<v1::Query>) -> v1::Query {
    if queries.len() == 1
        && let Some(only) = queries.pop()
    {
        return only;
    }
    if queries.is_empty() || queries.iter().any(is_none) {
        return none();
    }
    query(Kind::Boolean(v1::Boolean { must: queries, ..Default::default() }))
}

/// The best of the queries; those that match nothing are left out, one query is itself.
pub fn best(queries: Vec<v1::Query>, tie_breaker: f32) -> v1::Query {
    let mut queries: Vec<v1::Query> = queries.into_iter().filter(|query| !is_none(query)).collect();
    match queries.len() {
        0 => none(),
        1 => queries.remove(0),
        _ => query(Kind::DisjunctionMax(v1::DisjunctionMax { queries, tie_breaker })),
    }
}

/// The query's documents, score 1.
pub fn constant(inner: v1::Query) -> v1::Query {
    if is_none(&inner) {
        return inner;
    }
    query(Kind::ConstantScore(Box::new(v1::ConstantScore { query: Some(Box::new(inner)) })))
}

/// Documents that have a value.
pub fn exists(field: &str) -> v1::Query {
    query(Kind::Exists(v1::Exists { field: field.to_owned() }))
}

/// Documents of these `_id`s.
pub fn ids(ids: Vec<String>) -> v1::Query {
    if ids.is_empty() { none() } else { query(Kind::Ids(v1::Ids { ids })) }
}

/// By how much a query multiplies the scores of those below it, at most.
pub fn factor(query: &v1::Query) -> f32 {
    let ties = match &query.kind {
        Some(Kind::DisjunctionMax(max)) => max.tie_breaker.max(1.0),
        _ => 1.0,
    };
    query.boost.unwrap_or(1.0) * ties
}

/// The queries directly below one.
pub fn children(query: &v1::Query) -> impl Iterator<Item = &v1::Query> {
    let lists: [&[v1::Query]; 4] = match &query.kind {
        Some(Kind::Boolean(boolean)) => [&boolean.must, &boolean.should, &boolean.filter, &boolean.must_not],
        Some(Kind::DisjunctionMax(max)) => [&max.queries, &[], &[], &[]],
        Some(Kind::ConstantScore(constant)) => {
            [constant.query.as_deref().map_or(&[], std::slice::from_ref), &[], &[], &[]]
        }
        _ => [&[]; 4],
    };
    lists.into_iter().flatten()
}
