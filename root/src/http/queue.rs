//! `/_trawl/queue`: the work queue for loaders, and for people.
//!
//! A task's body, progress and result are JSON here. Ids are text, `task-12`; a receipt names a claim of one.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use trawl_cluster::work_queue::{NewTask, QueueCounts, Receipt, Task, TaskId, TaskState};

use super::{
    call::Call,
    cluster::{trawl_log, trawl_replica},
    error::{ApiError, illegal},
    json::{Json, Members, object},
    params,
    respond::Answer,
};
use crate::queue::{self, TASKS_MAX};

/// Parameters of the overview.
pub(crate) const STATUS_PARAMS: &[&[&str]] = &[&["shards"]];
/// Parameters of the listing.
pub(crate) const TASKS_PARAMS: &[&[&str]] = &[&["kind", "state", "after", "size"]];

/// Tasks of one push at most.
const PUSH_MAX: usize = 1_000;
/// Ids that one request may name.
const IDS_MAX: usize = 10_000;
/// How long a claim may last.
const LEASE_MAX: Duration = Duration::from_secs(3_600);
/// How long a task may be held back.
const DELAY_MAX: Duration = Duration::from_secs(24 * 3_600);

/// `GET /_trawl/queue`: tasks by kind and state, each shard's log and how far its replicas are.
pub(crate) async fn status(call: Call) -> Result<Answer, ApiError> {
    let shards = call.params.flag("shards")?.unwrap_or(true);
    let kinds = queue::counts(call.root()).await?;
    let kinds = kinds.into_iter().map(|(kind, counts)| (kind, counts_body(counts))).collect();
    let mut members: Members = vec![("kinds".to_owned(), Json::Object(kinds))];
    if shards {
        let status = call.root().status().await?;
        members.push(("logs".to_owned(), status.logs.iter().map(trawl_log).collect::<Vec<_>>().into()));
        members.push(("replicas".to_owned(), status.replicas.iter().map(trawl_replica).collect::<Vec<_>>().into()));
    }
    Ok(Answer::ok(Json::Object(members)))
}

fn counts_body(counts: QueueCounts) -> Json {
    object! { "ready" => counts.ready, "claimed" => counts.claimed, "done" => counts.done, "dead" => counts.dead }
}

/// `GET /_trawl/queue/tasks`
pub(crate) async fn tasks(call: Call) -> Result<Answer, ApiError> {
    let state = match call.params.get("state") {
        None => None,
        Some("ready") => Some(TaskState::Ready),
        Some("claimed") => Some(TaskState::Claimed),
        Some("done") => Some(TaskState::Done),
        Some("dead") => Some(TaskState::Dead),
        Some(other) => {
            return Err(illegal(format!("[state] must be ready, claimed, done or dead, found [{other}]")).into());
        }
    };
    let after = call.params.get("after").map(task_id).transpose()?.unwrap_or(TaskId(0));
    let size = call.params.number::<usize>("size")?.unwrap_or(100).clamp(1, TASKS_MAX);
    let (tasks, more) = queue::tasks(call.root(), call.params.get("kind"), state, after, size).await?;
    let tasks: Vec<Json> = tasks.iter().map(task_body).collect();
    Ok(Answer::ok(object! { "tasks" => tasks, "more" => more }))
}

/// `GET /_trawl/queue/tasks/{id}`
pub(crate) async fn task(call: Call) -> Result<Answer, ApiError> {
    let id = task_id(call.segment(0))?;
    match queue::queue(call.root()).task(id).await.map_err(crate::error::Error::from)? {
        Some(task) => Ok(Answer::ok(task_body(&task))),
        None => {
            let reason = format!("there is no task [{}]", call.segment(0));
            Err(ApiError::new(StatusCode::NOT_FOUND, "resource_not_found_exception", reason))
        }
    }
}

/// `POST /_trawl/queue/tasks/_replay`: makes dead tasks ready again. A task that was cancelled was ended on purpose: only
/// who names it gets it back, and is told that it had been cancelled.
pub(crate) async fn replay(call: Call) -> Result<Answer, ApiError> {
    let queue = queue::queue(call.root());
    let (ids, left_alone, by_name) = match chosen(&call).await? {
        Chosen::Named(ids) => (ids, 0, true),
        Chosen::Dead { failed, cancelled } => (failed, cancelled.len(), false),
    };
    let mut had_been_cancelled = 0_u64;
    for id in ids.iter().filter(|_| by_name) {
        let task = queue.task(*id).await.map_err(crate::error::Error::from)?;
        let is_cancelled = |task: Task| task.state == TaskState::Dead && task.cancelled;
        had_been_cancelled += u64::from(task.is_some_and(is_cancelled));
    }
    let replayed = queue.replay(&ids).await.map_err(crate::error::Error::from)?;
    Ok(Answer::ok(object! {
        "replayed" => replayed,
        "missing" => (ids.len() as u64).saturating_sub(replayed),
        "had_been_cancelled" => had_been_cancelled,
        "cancelled_left_alone" => left_alone as u64,
    }))
}

/// `POST /_trawl/queue/tasks/_drop`: forgets dead tasks.
pub(crate) async fn drop(call: Call) -> Result<Answer, ApiError> {
    let ids = match chosen(&call).await? {
        Chosen::Named(ids) => ids,
        Chosen::Dead { failed, cancelled } => [failed, cancelled].concat(),
    };
    let dropped = queue::queue(call.root()).drop_dead(&ids).await.map_err(crate::error::Error::from)?;
    Ok(Answer::ok(object! { "dropped" => dropped, "missing" => (ids.len() as u64).saturating_sub(dropped) }))
}

/// `POST /_trawl/queue/tasks/_cancel`: ends tasks that have not ended.
pub(crate) async fn cancel(call: Call) -> Result<Answer, ApiError> {
    let ids = ids(&call.object()?)?;
    let mut cancelled = 0_u64;
    for id in &ids {
        let did = queue::queue(call.root()).cancel(*id).await.map_err(crate::error::Error::from)?;
        cancelled += u64::from(did);
    }
    Ok(Answer::ok(object! { "cancelled" => cancelled, "missing" => (ids.len() as u64) - cancelled }))
}

/// `POST /_trawl/queue/{kind}`: pushes tasks.
pub(crate) async fn push(call: Call) -> Result<Answer, ApiError> {
    let body = call.object()?;
    let tasks = array(&body, "tasks")?;
    if tasks.len() > PUSH_MAX {
        return Err(
            illegal(format!("[tasks] holds {} tasks, at most {PUSH_MAX} can be pushed at once", tasks.len())).into()
        );
    }
    let task = |task: &Json| -> Result<NewTask, ApiError> {
        let members = task.as_object().ok_or_else(|| illegal("[tasks] must hold objects"))?;
        known(members, &["key", "body", "attempts_max"])?;
        let attempts_max = match find(members, "attempts_max") {
            None | Some(Json::Null) => 5,
            Some(number) => {
                let number = number.scalar_text().and_then(|text| text.parse().ok()).filter(|number| *number > 0);
                number.ok_or_else(|| illegal("[attempts_max] must be a number from 1"))?
            }
        };
        let key = optional_text(members, "key")?.map(str::to_owned);
        let body = find(members, "body").ok_or_else(|| illegal("a task must have a [body]"))?;
        Ok(NewTask { key, body: body.to_bytes().into(), attempts_max })
    };
    known(&body, &["tasks"])?;
    let tasks = tasks.iter().map(task).collect::<Result<Vec<_>, _>>()?;
    let ids = queue::queue(call.root()).push(call.segment(0), tasks).await.map_err(crate::error::Error::from)?;
    let ids: Vec<Json> = ids.into_iter().map(|id| shown(id).into()).collect();
    Ok(Answer::ok(object! { "tasks" => ids }))
}

/// `POST /_trawl/queue/{kind}/_claim`: claims a task.
pub(crate) async fn claim(call: Call) -> Result<Answer, ApiError> {
    let body = call.object()?;
    known(&body, &["lease", "worker"])?;
    let worker = optional_text(&body, "worker")?.unwrap_or_default();
    let claim = queue::queue(call.root()).claim(call.segment(0), lease(&body)?, worker).await;
    let claim = claim.map_err(crate::error::Error::from)?.map(|claim| {
        object! {
            "receipt" => claim.receipt.to_string(),
            "body" => stored(&claim.body),
            "progress" => stored(&claim.progress),
            "attempt" => claim.attempt,
        }
    });
    Ok(Answer::ok(object! { "claim" => claim }))
}

/// `POST /_trawl/queue/_extend`: makes a claim last.
pub(crate) async fn extend(call: Call) -> Result<Answer, ApiError> {
    let body = call.object()?;
    known(&body, &["receipt", "lease", "progress"])?;
    let progress = find(&body, "progress").filter(|progress| **progress != Json::Null);
    let progress = progress.map(|progress| Bytes::from(progress.to_bytes()));
    let cancelled = queue::queue(call.root()).extend(receipt(&body)?, lease(&body)?, progress).await;
    Ok(Answer::ok(object! { "cancelled" => cancelled.map_err(crate::error::Error::from)? }))
}

/// `POST /_trawl/queue/_ack`: a task is finished.
pub(crate) async fn ack(call: Call) -> Result<Answer, ApiError> {
    let body = call.object()?;
    known(&body, &["receipt", "result"])?;
    let result = find(&body, "result").map(Json::to_bytes).unwrap_or_default();
    queue::queue(call.root()).ack(receipt(&body)?, result.into()).await.map_err(crate::error::Error::from)?;
    Ok(Answer::ok(object! { "acknowledged" => true }))
}

/// `POST /_trawl/queue/_nack`: a task is given back.
pub(crate) async fn nack(call: Call) -> Result<Answer, ApiError> {
    let body = call.object()?;
    known(&body, &["receipt", "delay", "reason"])?;
    let delay = match optional_text(&body, "delay")? {
        Some(text) => params::duration(text, "delay")?.min(DELAY_MAX),
        None => Duration::ZERO,
    };
    let reason = optional_text(&body, "reason")?;
    let nacked = queue::queue(call.root()).nack(receipt(&body)?, delay, reason).await;
    nacked.map_err(crate::error::Error::from)?;
    Ok(Answer::ok(object! { "acknowledged" => true }))
}

fn task_body(task: &Task) -> Json {
    let state = match task.state {
        TaskState::Ready => "ready",
        TaskState::Claimed => "claimed",
        TaskState::Done => "done",
        TaskState::Dead => "dead",
    };
    let time = |ms: u64| trawl_data::date::format_date(i64::try_from(ms).unwrap_or_default());
    object! {
        "id" => shown(task.id),
        "kind" => task.kind.as_str(),
        "key" => task.key.as_deref(),
        "state" => state,
        "attempts" => task.attempts,
        "attempts_max" => task.attempts_max,
        "worker" => task.worker.as_str(),
        "reason" => task.reason.as_str(),
        "cancelled" => task.cancelled,
        "pushed" => time(task.pushed_ms),
        "changed" => time(task.changed_ms),
        "body" => stored(&task.body),
        "progress" => stored(&task.progress),
    }
}

/// What a task holds, as JSON; what is none is shown as text.
fn stored(bytes: &Bytes) -> Json {
    match serde_json::from_slice::<serde::de::IgnoredAny>(bytes) {
        _ if bytes.is_empty() => Json::Null,
        Ok(_) => Json::Raw(bytes.clone()),
        Err(_) => String::from_utf8_lossy(bytes).into_owned().into(),
    }
}

fn shown(id: TaskId) -> String {
    format!("task-{}", id.0)
}

fn task_id(text: &str) -> Result<TaskId, ApiError> {
    let number = text.strip_prefix("task-").and_then(|number| number.parse().ok());
    number.map(TaskId).ok_or_else(|| illegal(format!("[{text}] is no task: it should look like task-12")).into())
}

/// The tasks that a request is about.
enum Chosen {
    /// Those of `{"ids": [...]}`.
    Named(Vec<TaskId>),
    /// All dead ones of a kind or of all kinds.
    Dead { failed: Vec<TaskId>, cancelled: Vec<TaskId> },
}

async fn chosen(call: &Call) -> Result<Chosen, ApiError> {
    let body = call.object()?;
    known(&body, &["ids", "kind", "all"])?;
    if find(&body, "ids").is_some() {
        return ids(&body).map(Chosen::Named);
    }
    let kind = optional_text(&body, "kind")?;
    if kind.is_none() && find(&body, "all") != Some(&Json::Bool(true)) {
        return Err(illegal("one of [ids], [kind] and [all] is needed").into());
    }
    let (mut failed, mut cancelled, mut after) = (Vec::new(), Vec::new(), TaskId(0));
    loop {
        let (tasks, more) = queue::tasks(call.root(), kind, Some(TaskState::Dead), after, TASKS_MAX).await?;
        for task in tasks {
            after = task.id;
            let sort = if task.cancelled { &mut cancelled } else { &mut failed };
            sort.push(task.id);
        }
        if !more || failed.len() >= IDS_MAX || cancelled.len() >= IDS_MAX {
            return Ok(Chosen::Dead { failed, cancelled });
        }
    }
}

fn ids(body: &Members) -> Result<Vec<TaskId>, ApiError> {
    let ids = array(body, "ids")?;
    if ids.len() > IDS_MAX {
        return Err(illegal(format!("[ids] holds {} ids, at most {IDS_MAX} can be given at once", ids.len())).into());
    }
    ids.iter().map(|id| task_id(id.as_str().unwrap_or_default())).collect()
}

fn receipt(body: &Members) -> Result<Receipt, ApiError> {
    let text = optional_text(body, "receipt")?.ok_or_else(|| illegal("[receipt] is missing"))?;
    text.parse().map_err(|error| illegal(format!("[receipt]: {error}")).into())
}

fn lease(body: &Members) -> Result<Duration, ApiError> {
    let text = optional_text(body, "lease")?.unwrap_or("60s");
    Ok(params::duration(text, "lease")?.clamp(Duration::from_millis(100), LEASE_MAX))
}

fn find<'a>(members: &'a Members, name: &str) -> Option<&'a Json> {
    members.iter().find(|(key, _)| key == name).map(|(_, value)| value)
}

fn array<'a>(members: &'a Members, name: &str) -> Result<&'a [Json], ApiError> {
    find(members, name).and_then(Json::as_array).ok_or_else(|| illegal(format!("[{name}] must be an array")).into())
}

fn optional_text<'a>(members: &'a Members, name: &str) -> Result<Option<&'a str>, ApiError> {
    match find(members, name) {
        None | Some(Json::Null) => Ok(None),
        Some(value) => value.as_str().map(Some).ok_or_else(|| illegal(format!("[{name}] must be text")).into()),
    }
}

fn known(members: &Members, names: &[&str]) -> Result<(), ApiError> {
    match members.iter().find(|(key, _)| !names.contains(&key.as_str())) {
        Some((key, _)) => Err(illegal(format!("unknown field [{key}]")).into()),
        None => Ok(()),
    }
}
