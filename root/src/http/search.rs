//! `_search` and `_count`.

use std::sync::{Arc, OnceLock};

use trawl_data::mapping::Mapping;

use super::{
    aggs::Rendering,
    call::{Call, INDEX_PARAMS, resolve_options},
    error::{ApiError, illegal, parsing},
    fetch::SOURCE_PARAMS,
    json::{Json, Members, object},
    params::Params,
    position, query,
    render::{self, Show},
    respond::Answer,
    search_body::{SearchBody, now_ms, query_of},
};
use crate::{
    error::Error,
    request::{IndexView, Lower, Lowered, SearchRequest},
    root::Root,
};

/// Parameters that make a query.
pub(crate) const QUERY_PARAMS: &[&str] = &["q", "df", "default_operator", "analyzer", "lenient", "analyze_wildcard"];

const BODY_PARAMS: &[&str] = &[
    "from",
    "size",
    "sort",
    "track_total_hits",
    "track_scores",
    "version",
    "seq_no_primary_term",
    "explain",
    "timeout",
];

const EXECUTION_PARAMS: &[&str] = &[
    "preference",
    "routing",
    "search_type",
    "allow_partial_search_results",
    "rest_total_hits_as_int",
    "typed_keys",
    "request_cache",
    "batched_reduce_size",
    "max_concurrent_shard_requests",
    "pre_filter_shard_size",
    "ccs_minimize_roundtrips",
    "ignore_throttled",
];

/// Parameters of `_search`.
pub(crate) const PARAMS: &[&[&str]] = &[QUERY_PARAMS, BODY_PARAMS, EXECUTION_PARAMS, INDEX_PARAMS, SOURCE_PARAMS];

/// Parameters of `_count`.
pub(crate) const COUNT_PARAMS: &[&[&str]] = &[QUERY_PARAMS, &["preference", "routing"], INDEX_PARAMS];

/// How a search is carried out, beside what it asks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Execution {
    pub(crate) preference: Option<String>,
    pub(crate) fresh_statistics: bool,
    pub(crate) allow_partial: bool,
}

impl Execution {
    /// From the query string or a header of `_msearch`.
    pub(crate) fn parse(params: &Params) -> Result<Self, Error> {
        if let Some(routing) = params.get("routing").filter(|routing| !routing.is_empty()) {
            return Err(illegal(format!("[routing] of searches is not supported, found [{routing}]")));
        }
        let fresh_statistics = match params.get("search_type") {
            None | Some("" | "query_then_fetch") => false,
            Some("dfs_query_then_fetch") => true,
            Some(other) => return Err(illegal(format!("No search type for [{other}]"))),
        };
        // Hints that have nothing to act on here are checked and done with.
        for name in ["request_cache", "ccs_minimize_roundtrips", "ignore_throttled"] {
            params.flag(name)?;
        }
        for name in ["batched_reduce_size", "max_concurrent_shard_requests", "pre_filter_shard_size"] {
            params.number::<u32>(name)?;
        }
        Ok(Self {
            preference: params.get("preference").map(str::to_owned),
            fresh_statistics,
            allow_partial: params.flag("allow_partial_search_results")?.unwrap_or(true),
        })
    }
}

/// `GET|POST /_search`
pub(crate) async fn search_all(call: Call) -> Result<Answer, ApiError> {
    run(call, "").await
}

/// `GET|POST /{index}/_search`
pub(crate) async fn search(call: Call) -> Result<Answer, ApiError> {
    let expression = call.segment(0).to_owned();
    run(call, &expression).await
}

async fn run(call: Call, expression: &str) -> Result<Answer, ApiError> {
    let json = one(&call, expression, &call.object()?, &call.params).await?;
    Ok(Answer::ok(json))
}

/// One search: parsed, resolved, carried out, rendered.
pub(crate) async fn one(call: &Call, expression: &str, members: &Members, params: &Params) -> Result<Json, ApiError> {
    let body = Arc::new(SearchBody::parse(members, params)?);
    let execution = Execution::parse(params)?;
    let typed_keys = params.flag("typed_keys")?.unwrap_or(false);
    let total_as_number = params.flag("rest_total_hits_as_int")?.unwrap_or(false);
    let after = call.header(position::AFTER).map(position::decode).transpose()?.unwrap_or_default();
    let expression = if expression.is_empty() { "_all" } else { expression };
    let indices = call.root().resolve(expression, resolve_options(params)?)?;

    let planned = Arc::clone(&body);
    let (lower, misfit) = watched(move |view| planned.lower(view));
    let defaults = SearchRequest::new(indices, lower);
    let request = SearchRequest {
        from: body.from,
        size: body.size,
        track_total: body.track_total.unwrap_or(defaults.track_total),
        track_scores: body.track_scores,
        min_score: body.min_score,
        timeout: body.timeout.unwrap_or(defaults.timeout),
        preference: execution.preference,
        after,
        fresh_statistics: execution.fresh_statistics,
        allow_partial: execution.allow_partial,
        query_id: call.header("x-opaque-id").map_or_else(some_id, str::to_owned),
        trace_id: call.header("traceparent").and_then(trace_id).unwrap_or_default().to_owned(),
        ..defaults
    };
    let first = request.indices.first().cloned();
    let response = call.root().search(request).await.map_err(|error| misfit.explain(error))?;
    let mapping = if response.aggregations.is_empty() { None } else { mapping_of(call.root(), first.as_deref()).await };
    let rendering = Rendering { mapping: mapping.as_deref(), typed_keys, children: &[] };
    Ok(render::search(&response, &body, Show { total_as_number, rendering }))
}

/// For a search that its caller did not name: the same in the query logs of all leaves.
fn some_id() -> String {
    format!("{:016x}", rand::random::<u64>())
}

/// The trace's id in a `traceparent` header (W3C Trace Context, section 3.2): `00-ID-SPAN-FLAGS`.
fn trace_id(header: &str) -> Option<&str> {
    let id = header.split('-').nth(1)?;
    (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

/// The mapping that says which aggregated fields are dates.
async fn mapping_of(root: &Root, index: Option<&str>) -> Option<Arc<Mapping>> {
    root.index_view(index?).await.ok().map(|view| view.mapping)
}

/// `GET|POST /{index}/_count`
pub(crate) async fn count(call: Call) -> Result<Answer, ApiError> {
    let mut query = query_of(&call.params)?;
    for (key, value) in &call.object()? {
        match key.as_str() {
            "query" if query.is_none() => query = Some(query::parse(value)?),
            "query" => {}
            _ => return Err(parsing(format!("request does not support [{key}]")).into()),
        }
    }
    Execution::parse(&call.params)?;
    let query = query.unwrap_or_else(query::match_all);
    let now = now_ms();
    let (lower, misfit) = watched(move |view: &IndexView| {
        let mut lowering = query::Lowering::new(&view.record.name, &view.mapping, now);
        let query = query::lower(&query, &mut lowering)?;
        Ok(Lowered { query, uses_dynamic: lowering.uses_dynamic, ..Lowered::default() })
    });
    let indices = call.indices()?;
    let (count, shards) = call.root().count(&indices, &lower).await.map_err(|error| misfit.explain(error))?;
    Ok(Answer::ok(object! { "count" => count, "_shards" => render::shards(&shards, true) }))
}

/// Remembers the index that a query did not fit.
struct Misfit(Arc<OnceLock<(String, String)>>);

impl Misfit {
    /// An error of lowering is what each shard of the index would have said.
    fn explain(&self, error: Error) -> ApiError {
        match (self.0.get(), &error) {
            (Some((index, uid)), Error::Invalid { .. }) => ApiError::on_all_shards(error.into(), index, uid),
            _ => error.into(),
        }
    }
}

fn watched(lower: impl Fn(&IndexView) -> Result<Lowered, Error> + Send + Sync + 'static) -> (Lower, Misfit) {
    let misfit = Arc::new(OnceLock::new());
    let noted = Arc::clone(&misfit);
    let lower = move |view: &IndexView| {
        lower(view).inspect_err(|_| {
            let _ = noted.set((view.record.name.clone(), view.record.uid.to_string()));
        })
    };
    (Arc::new(lower), Misfit(misfit))
}
