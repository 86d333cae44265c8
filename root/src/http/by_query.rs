//! `_delete_by_query` and `_update_by_query`: a request becomes a job, and its end an answer.

use std::sync::Arc;

use http::StatusCode;

use super::{
    call::{Call, INDEX_PARAMS},
    error::{ApiError, illegal, parsing},
    json::{self, Json, Members, object},
    keys,
    params::Params,
    query,
    respond::Answer,
    search::{Execution, QUERY_PARAMS},
    search_body::{now_ms, query_of},
    tasks,
};
use crate::{
    by_query::{self, Action, Job, JobState, Progress, Target},
    error::Error,
    request::{IndexView, Lower, Lowered},
};

/// Documents of one batch, where the request says nothing.
const BATCH: u32 = 1_000;
/// Documents of one batch at most.
const BATCH_MAX: u32 = 10_000;

/// Parameters of both.
pub(crate) const PARAMS: &[&[&str]] = &[
    QUERY_PARAMS,
    INDEX_PARAMS,
    &[
        "conflicts",
        "max_docs",
        "preference",
        "refresh",
        "request_cache",
        "requests_per_second",
        "routing",
        "scroll",
        "scroll_size",
        "search_timeout",
        "search_type",
        "size",
        "slices",
        "timeout",
        "wait_for_active_shards",
        "wait_for_completion",
    ],
];

/// `POST /{index}/_delete_by_query`
pub(crate) async fn delete(call: Call) -> Result<Answer, ApiError> {
    run(call, Action::Delete).await
}

/// `POST /{index}/_update_by_query`
pub(crate) async fn update(call: Call) -> Result<Answer, ApiError> {
    run(call, Action::Update).await
}

async fn run(call: Call, action: Action) -> Result<Answer, ApiError> {
    let mut job = job(&call, action)?;
    let lower = parse_query(job.query.as_deref(), &job.query_params, job.now_ms)?;
    for name in call.indices()? {
        let view = call.root().index_view(&name).await?;
        // What does not fit is said now, not in a task that somebody has to look at.
        lower(&view)?;
        job.targets.push(Target { name, uid: view.record.uid.0.clone() });
    }
    let wait = call.params.flag("wait_for_completion")?.unwrap_or(true);
    let id = by_query::start(call.root(), &job, call.header("idempotency-key")).await?;
    if !wait {
        return Ok(Answer::ok(object! { "task" => tasks::name(id) }));
    }
    let state = by_query::wait(call.root(), id, None).await?;
    let state = state.ok_or_else(|| Error::Internal(format!("task {} is not kept any more", id.0)))?;
    if let Some((error_type, reason, status)) = &state.progress.error {
        return Err(ApiError::new(status_of(*status), error_type.as_str(), reason.as_str()));
    }
    let status = state.progress.failures.iter().map(|failed| failed.status).max().unwrap_or(200);
    Ok(Answer::status(status_of(status), response(&state)))
}

fn status_of(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn job(call: &Call, action: Action) -> Result<Job, ApiError> {
    let params = &call.params;
    Execution::parse(params)?;
    for name in ["scroll", "search_timeout", "timeout"] {
        params.duration(name)?;
    }
    if let Some(slices) = params.get("slices").filter(|slices| !matches!(*slices, "1" | "auto")) {
        return Err(illegal(format!("[slices] is not supported, found [{slices}]")).into());
    }
    let mut job = Job {
        format: by_query::FORMAT,
        action,
        targets: Vec::new(),
        query: None,
        query_params: query_params(params),
        now_ms: now_ms(),
        proceed: conflicts(params.get("conflicts").unwrap_or("abort"))?,
        max_docs: params.number("max_docs")?,
        batch: params.number("scroll_size")?.or(params.number("size")?).unwrap_or(BATCH),
        requests_per_second: rate(params)?,
        refresh: params.flag("refresh")?.unwrap_or(false),
    };
    for (key, value) in &call.object()? {
        match key.as_str() {
            "query" => job.query = Some(String::from_utf8_lossy(&value.to_bytes()).into_owned()),
            "conflicts" => job.proceed = conflicts(&keys::text(value, key)?)?,
            "max_docs" => job.max_docs = Some(keys::count(value, key)?.into()),
            "script" => return Err(illegal("[script] is not supported").into()),
            _ => return Err(parsing(format!("request does not support [{key}]")).into()),
        }
    }
    if job.batch == 0 || job.batch > BATCH_MAX {
        return Err(illegal(format!("[scroll_size] must be from 1 to {BATCH_MAX}, found [{}]", job.batch)).into());
    }
    if job.max_docs == Some(0) {
        return Err(illegal("[max_docs] parameter must be positive, found [0]").into());
    }
    if action == Action::Delete && job.query.is_none() && job.query_params.is_empty() {
        let reason = "Validation Failed: 1: query is missing;";
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "action_request_validation_exception", reason));
    }
    Ok(job)
}

fn conflicts(text: &str) -> Result<bool, Error> {
    match text {
        "proceed" => Ok(true),
        "abort" => Ok(false),
        other => Err(illegal(format!("conflicts may only be \"proceed\" or \"abort\" but was [{other}]"))),
    }
}

/// `requests_per_second`: `-1` is no limit.
fn rate(params: &Params) -> Result<Option<f64>, Error> {
    let Some(text) = params.get("requests_per_second") else { return Ok(None) };
    match text.parse::<f64>() {
        Ok(-1.0) => Ok(None),
        Ok(rate) if rate > 0.0 && rate.is_finite() => Ok(Some(rate)),
        _ => Err(illegal(format!(
            "[requests_per_second] must be a float greater than 0. Use -1 to disable throttling. Found [{text}]"
        ))),
    }
}

fn query_params(params: &Params) -> Vec<(String, String)> {
    let given = QUERY_PARAMS.iter().filter_map(|name| Some(((*name).to_owned(), params.get(name)?.to_owned())));
    if params.get("q").is_none() { Vec::new() } else { given.collect() }
}

/// The query of a job.
///
/// # Errors
/// As a search with it.
pub fn parse_query(body: Option<&str>, params: &[(String, String)], now_ms: i64) -> Result<Lower, Error> {
    let of_params = query_of(&Params::from_pairs(params.to_vec()))?;
    let query = match (of_params, body) {
        (Some(query), _) => query,
        (None, Some(body)) => {
            let json = json::parse(body.as_bytes()).map_err(|error| parsing(error.to_string()))?;
            query::parse(&json)?
        }
        (None, None) => query::match_all(),
    };
    Ok(Arc::new(move |view: &IndexView| {
        let mut lowering = query::Lowering::new(&view.record.name, &view.mapping, now_ms);
        let query = query::lower(&query, &mut lowering)?;
        Ok(Lowered { query, uses_dynamic: lowering.uses_dynamic, ..Lowered::default() })
    }))
}

/// What a job answers at its end.
pub(crate) fn response(state: &JobState) -> Json {
    let progress = &state.progress;
    let mut members: Members =
        vec![("took".to_owned(), progress.took_ms.unwrap_or_default().into()), ("timed_out".to_owned(), false.into())];
    members.extend(counts(state));
    if progress.cancelled {
        members.push(("canceled".to_owned(), "by user request".into()));
    }
    let failures: Vec<Json> = progress
        .failures
        .iter()
        .map(|failed| {
            object! {
                "index" => failed.index.as_str(),
                "id" => failed.id.as_str(),
                "cause" => object! {
                    "type" => failed.error_type.as_str(),
                    "reason" => failed.reason.as_str(),
                    "index" => failed.index.as_str()
                },
                "status" => failed.status
            }
        })
        .collect();
    members.push(("failures".to_owned(), failures.into()));
    Json::Object(members)
}

/// How far a job is.
pub(crate) fn counts(state: &JobState) -> Members {
    let Progress { total, updated, deleted, batches, version_conflicts, retries, throttled_ms, .. } = &state.progress;
    let mut members: Members = vec![("total".to_owned(), (*total).into())];
    if state.job.action == Action::Update {
        members.push(("updated".to_owned(), (*updated).into()));
    }
    members.extend([
        ("deleted".to_owned(), Json::from(*deleted)),
        ("batches".to_owned(), (*batches).into()),
        ("version_conflicts".to_owned(), (*version_conflicts).into()),
        ("noops".to_owned(), 0_u64.into()),
        ("retries".to_owned(), object! { "bulk" => *retries, "search" => 0_u64 }),
        ("throttled_millis".to_owned(), (*throttled_ms).into()),
        ("requests_per_second".to_owned(), state.job.requests_per_second.unwrap_or(-1.0).into()),
        ("throttled_until_millis".to_owned(), 0_u64.into()),
    ]);
    members
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rates_and_conflicts_are_read() {
        let params = |text: &str| Params::parse(text);
        assert_eq!(rate(&params("")).unwrap(), None);
        assert_eq!(rate(&params("requests_per_second=-1")).unwrap(), None);
        assert_eq!(rate(&params("requests_per_second=0.5")).unwrap(), Some(0.5));
        for bad in ["0", "-2", "inf", "x"] {
            assert!(rate(&params(&format!("requests_per_second={bad}"))).is_err(), "{bad}");
        }
        assert!(conflicts("proceed").unwrap() && !conflicts("abort").unwrap());
        assert!(conflicts("other").is_err());
        assert_eq!(query_params(&params("q=a&df=b&size=3")).len(), 2);
        assert!(query_params(&params("df=b")).is_empty());
    }
}
