//! `_msearch`: many searches in one request, NDJSON pairs of header and body.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};

use super::{
    call::{Call, INDEX_PARAMS},
    error::{ApiError, illegal, not_json, parsing},
    json::{self, Json, Members, object},
    keys,
    params::Params,
    render::millis,
    respond::Answer,
    search,
};
use crate::error::Error;

/// Parameters of `_msearch`.
pub(crate) const PARAMS: &[&[&str]] = &[
    &["max_concurrent_searches", "typed_keys", "rest_total_hits_as_int", "search_type", "ccs_minimize_roundtrips"],
    &["max_concurrent_shard_requests", "pre_filter_shard_size"],
    INDEX_PARAMS,
];

/// Headers of the whole request that hold for each search.
const INHERITED: &[&str] = &[
    "typed_keys",
    "rest_total_hits_as_int",
    "search_type",
    "ignore_unavailable",
    "allow_no_indices",
    "expand_wildcards",
];

struct Item {
    expression: String,
    params: Params,
    body: Members,
}

/// `GET|POST /_msearch`, `/{index}/_msearch`
pub(crate) async fn msearch(call: Call) -> Result<Answer, ApiError> {
    let started = std::time::Instant::now();
    let items = parse(&call.body, call.segment(0), &call.params, call.shared.limits.msearch_items_max)?;
    let most = call.shared.limits.msearch_concurrency_max.max(1);
    let wanted = call.params.number::<usize>("max_concurrent_searches")?.unwrap_or(most);
    let call = Arc::new(call);
    let searches: Vec<_> = items.into_iter().map(|item| one(Arc::clone(&call), item)).collect();
    let answers: Vec<Result<Json, ApiError>> = stream::iter(searches).buffered(wanted.clamp(1, most)).collect().await;
    let responses: Vec<Json> = answers
        .into_iter()
        .map(|answer| match answer {
            Ok(Json::Object(mut members)) => {
                members.push(("status".to_owned(), 200_u32.into()));
                Json::Object(members)
            }
            Ok(other) => other,
            Err(error) => error.body(),
        })
        .collect();
    Ok(Answer::ok(object! { "took" => millis(started.elapsed()), "responses" => responses }))
}

async fn one(call: Arc<Call>, item: Result<Item, Error>) -> Result<Json, ApiError> {
    let item = item?;
    call.root().await_known(&item.expression).await;
    search::one(&call, &item.expression, &item.body, &item.params).await
}

/// The pairs. An error in a header is one of the request; an error in a body is that search's own.
fn parse(text: &Bytes, expression: &str, params: &Params, items_max: usize) -> Result<Vec<Result<Item, Error>>, Error> {
    if text.trim_ascii().is_empty() {
        return Err(parsing("request body or source parameter is required"));
    }
    if text.last() != Some(&b'\n') {
        return Err(illegal("The msearch request must be terminated by a newline [\\n]"));
    }
    let mut lines = text[..text.len() - 1].split(|byte| *byte == b'\n');
    let mut items = Vec::new();
    while let Some(header) = lines.next() {
        let Some(body) = lines.next() else {
            if header.trim_ascii().is_empty() {
                break;
            }
            return Err(illegal("a search in the msearch request has a header but no body"));
        };
        if items.len() >= items_max {
            return Err(illegal(format!("more than [{items_max}] searches in one msearch request")));
        }
        let (expression, params) = parse_header(header, expression, params)?;
        items.push(parse_body(body).map(|body| Item { expression, params, body }));
    }
    if items.is_empty() {
        return Err(Error::invalid("action_request_validation_exception", "Validation Failed: 1: no requests added;"));
    }
    Ok(items)
}

fn parse_header(line: &[u8], expression: &str, params: &Params) -> Result<(String, Params), Error> {
    let mut expression = expression.to_owned();
    let mut pairs: Vec<(String, String)> =
        INHERITED.iter().filter_map(|name| Some(((*name).to_owned(), params.get(name)?.to_owned()))).collect();
    if line.trim_ascii().is_empty() {
        return Ok((expression, Params::from_pairs(pairs)));
    }
    let header = json::parse(line).map_err(|error| not_json(&error))?;
    for (key, value) in keys::object(&header, "header")? {
        match key.as_str() {
            "index" | "indices" => expression = keys::texts(value, key)?.join(","),
            "search_type"
            | "preference"
            | "routing"
            | "request_cache"
            | "allow_partial_search_results"
            | "ignore_unavailable"
            | "allow_no_indices"
            | "ccs_minimize_roundtrips"
            | "ignore_throttled" => {
                pairs.push((key.clone(), keys::text(value, key)?));
            }
            "expand_wildcards" => pairs.push((key.clone(), keys::texts(value, key)?.join(","))),
            _ => return Err(illegal(format!("key [{key}] is not supported in the metadata section"))),
        }
    }
    Ok((expression, Params::from_pairs(pairs)))
}

fn parse_body(line: &[u8]) -> Result<Members, Error> {
    match json::parse(line).map_err(|error| not_json(&error))? {
        Json::Object(members) => Ok(members),
        other => Err(parsing(format!("Expected [START_OBJECT] but found [{}]", other.token()))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parsed(text: &str) -> Result<Vec<Result<Item, Error>>, Error> {
        parse(&Bytes::from(text.to_owned()), "default", &Params::default(), 3)
    }

    #[test]
    fn pairs() {
        let items = parsed("{}\n{\"size\":1}\n{\"index\":[\"a\",\"b\"],\"preference\":\"x\"}\nbad\n").unwrap();
        let first = items[0].as_ref().unwrap();
        assert_eq!((first.expression.as_str(), first.body.len()), ("default", 1));
        assert!(items[1].is_err());
        let items = parsed("{\"index\":[\"a\",\"b\"],\"preference\":\"x\"}\n{}\n").unwrap();
        let second = items[0].as_ref().unwrap();
        assert_eq!((second.expression.as_str(), second.params.get("preference")), ("a,b", Some("x")));
    }

    #[test]
    fn malformed_requests() {
        for text in ["", "{}\n{}", "{}\n", "{\"foo\":1}\n{}\n", "{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n"] {
            assert!(parsed(text).is_err(), "{text:?}");
        }
    }
}
