//! `/_tasks`: background jobs, in Elasticsearch's shape.
//!
//! Tasks belong to the whole cluster, not to the root that happens to run them, so all have one node
//! in their names, `trawl`.

use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;
use trawl_cluster::work_queue::TaskId;

use super::{
    by_query as jobs,
    call::Call,
    error::{ApiError, illegal},
    filter_path::matches,
    json::{Json, Members, object},
    params::Params,
    respond::Answer,
};
use crate::by_query::{self, Action, JobState};

/// The node that all tasks are named by.
const NODE: &str = "trawl";
/// How long a request waits for a task's end, where it says nothing.
const WAIT: Duration = Duration::from_secs(30);

/// Parameters of the list and of cancelling several.
pub(crate) const LIST_PARAMS: &[&[&str]] =
    &[&["actions", "detailed", "group_by", "master_timeout", "nodes", "timeout", "wait_for_completion"]];
/// Parameters of one task.
pub(crate) const GET_PARAMS: &[&[&str]] = &[&["timeout", "wait_for_completion"]];

/// A task's name: `trawl:12`.
pub(crate) fn name(id: TaskId) -> String {
    format!("{NODE}:{}", id.0)
}

fn parse_name(text: &str) -> Result<TaskId, ApiError> {
    let malformed = || ApiError::from(illegal(format!("malformed task id {text}")));
    let (node, number) = text.split_once(':').ok_or_else(malformed)?;
    let number = number.parse().map_err(|_| malformed())?;
    if node == NODE { Ok(TaskId(number)) } else { Err(missing(text)) }
}

fn missing(name: &str) -> ApiError {
    let reason = format!("task [{name}] isn't running and hasn't stored its results");
    ApiError::new(StatusCode::NOT_FOUND, "resource_not_found_exception", reason)
}

/// `GET /_tasks`
pub(crate) async fn list(call: Call) -> Result<Answer, ApiError> {
    let group_by = group_by(&call.params)?;
    let mut running = wanted(&call).await?;
    if call.params.flag("wait_for_completion")?.unwrap_or(false) {
        let deadline = Instant::now() + call.params.duration("timeout")?.unwrap_or(WAIT);
        for state in &running {
            by_query::wait(call.root(), state.id, Some(deadline)).await?;
        }
        running = wanted(&call).await?;
    }
    let detailed = call.params.flag("detailed")?.unwrap_or(false);
    Ok(Answer::ok(shown(&running, detailed, group_by)))
}

/// `GET /_tasks/{id}`
pub(crate) async fn get(call: Call) -> Result<Answer, ApiError> {
    let id = parse_name(call.segment(0))?;
    let wait = call.params.flag("wait_for_completion")?.unwrap_or(false);
    let timeout = call.params.duration("timeout")?.unwrap_or(WAIT);
    let state = match wait {
        true => by_query::wait(call.root(), id, Some(Instant::now() + timeout)).await?,
        false => by_query::get(call.root(), id).await?,
    };
    let state = state.ok_or_else(|| missing(call.segment(0)))?;
    if wait && !state.ended {
        let reason = format!("Timed out waiting for completion of task [{}]", call.segment(0));
        return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "timeout_exception", reason));
    }
    let mut members: Members =
        vec![("completed".to_owned(), state.ended.into()), ("task".to_owned(), task(&state, true))];
    if state.ended {
        members.push(match &state.progress.error {
            Some((error_type, reason, _)) => {
                ("error".to_owned(), object! { "type" => error_type.as_str(), "reason" => reason.as_str() })
            }
            None => ("response".to_owned(), jobs::response(&state)),
        });
    }
    Ok(Answer::ok(Json::Object(members)))
}

/// `POST /_tasks/{id}/_cancel`
pub(crate) async fn cancel(call: Call) -> Result<Answer, ApiError> {
    let id = parse_name(call.segment(0))?;
    if !by_query::cancel(call.root(), id).await? {
        let reason = format!("task [{}] is not found", call.segment(0));
        return Err(ApiError::new(StatusCode::NOT_FOUND, "resource_not_found_exception", reason));
    }
    answer_cancelled(&call, vec![id]).await
}

/// `POST /_tasks/_cancel`
pub(crate) async fn cancel_all(call: Call) -> Result<Answer, ApiError> {
    let mut cancelled = Vec::new();
    for state in wanted(&call).await? {
        if by_query::cancel(call.root(), state.id).await? {
            cancelled.push(state.id);
        }
    }
    answer_cancelled(&call, cancelled).await
}

async fn answer_cancelled(call: &Call, ids: Vec<TaskId>) -> Result<Answer, ApiError> {
    let wait = call.params.flag("wait_for_completion")?.unwrap_or(false);
    let deadline = Instant::now() + call.params.duration("timeout")?.unwrap_or(WAIT);
    let mut states = Vec::new();
    for id in ids {
        let state = match wait {
            true => by_query::wait(call.root(), id, Some(deadline)).await?,
            false => by_query::get(call.root(), id).await?,
        };
        states.extend(state);
    }
    Ok(Answer::ok(shown(&states, true, group_by(&call.params)?)))
}

/// Running tasks that the request's parameters let through.
async fn wanted(call: &Call) -> Result<Vec<JobState>, ApiError> {
    if call.params.list("nodes").is_some_and(|nodes| !nodes.iter().any(|node| matches(node, NODE) || node == "_all")) {
        return Ok(Vec::new());
    }
    let actions = call.params.list("actions").filter(|actions| !actions.is_empty());
    let mut running = by_query::running(call.root()).await?;
    if let Some(actions) = actions {
        running.retain(|state| actions.iter().any(|pattern| matches(pattern, action(state))));
    }
    Ok(running)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum GroupBy {
    Nodes,
    Parents,
    None,
}

fn group_by(params: &Params) -> Result<GroupBy, ApiError> {
    match params.get("group_by") {
        None | Some("nodes") => Ok(GroupBy::Nodes),
        Some("parents") => Ok(GroupBy::Parents),
        Some("none") => Ok(GroupBy::None),
        Some(other) => {
            Err(illegal(format!("[group_by] must be one of [nodes], [parents] or [none] but was [{other}]")).into())
        }
    }
}

fn shown(states: &[JobState], detailed: bool, group_by: GroupBy) -> Json {
    let by_name = || states.iter().map(|state| (name(state.id), task(state, detailed))).collect::<Members>();
    match group_by {
        GroupBy::None => object! { "tasks" => states.iter().map(|state| task(state, detailed)).collect::<Vec<_>>() },
        GroupBy::Parents => object! { "tasks" => Json::Object(by_name()) },
        GroupBy::Nodes if states.is_empty() => object! { "nodes" => Json::Object(Members::new()) },
        GroupBy::Nodes => {
            let node = object! { "name" => NODE, "roles" => Vec::<Json>::new(), "tasks" => Json::Object(by_name()) };
            object! { "nodes" => Json::Object(vec![(NODE.to_owned(), node)]) }
        }
    }
}

fn action(state: &JobState) -> &'static str {
    match state.job.action {
        Action::Delete => "indices:data/write/delete/byquery",
        Action::Update => "indices:data/write/update/byquery",
    }
}

fn task(state: &JobState, detailed: bool) -> Json {
    let mut members: Members = vec![
        ("node".to_owned(), NODE.into()),
        ("id".to_owned(), state.id.0.into()),
        ("type".to_owned(), "transport".into()),
        ("action".to_owned(), action(state).into()),
    ];
    if detailed {
        let mut status = jobs::counts(state);
        // A task's status has all counters, an answer only those of its kind.
        if state.job.action == Action::Delete {
            status.insert(1, ("updated".to_owned(), 0_u64.into()));
        }
        status.insert(2, ("created".to_owned(), 0_u64.into()));
        let what = match state.job.action {
            Action::Delete => "delete-by-query",
            Action::Update => "update-by-query",
        };
        let names: Vec<&str> = state.job.targets.iter().map(|target| target.name.as_str()).collect();
        members.push(("status".to_owned(), Json::Object(status)));
        members.push(("description".to_owned(), format!("{what} [{}]", names.join(", ")).into()));
    }
    members.extend([
        ("start_time_in_millis".to_owned(), Json::from(state.pushed_ms)),
        ("running_time_in_nanos".to_owned(), u64::try_from(state.running.as_nanos()).unwrap_or(u64::MAX).into()),
        ("cancellable".to_owned(), true.into()),
        ("cancelled".to_owned(), state.cancelled.into()),
        ("headers".to_owned(), Json::Object(Members::new())),
    ]);
    Json::Object(members)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_of_tasks() {
        assert_eq!(parse_name(&name(TaskId(12))).unwrap(), TaskId(12));
        assert_eq!(parse_name("other:12").unwrap_err().status, StatusCode::NOT_FOUND);
        for bad in ["12", "trawl:", "trawl:x", ""] {
            assert_eq!(parse_name(bad).unwrap_err().status, StatusCode::BAD_REQUEST, "{bad}");
        }
    }
}
