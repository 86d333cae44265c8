//! `_delete_by_query` and `_update_by_query`: background work that survives the root it runs on.
//!
//! A request becomes a task of the work queue. Any root claims it ([`worker`]) and carries it out
//! ([`run`]), noting how far it is; when that root dies, another claims the task and goes on.
//!
//! ```text
//! request ─> push ─> claim ─> page ─> note what will be written ─> write ─> note what came of it ─┐
//!                      ^       ^────────────────────────────────────────────────────────────────┘
//!                      └── the claim ran out: what was noted is written again, which changes nothing
//! ```

mod run;
pub(crate) mod worker;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;
use trawl_cluster::catalog::newer;
use trawl_cluster::work_queue::{NewTask, Task, TaskId, TaskState};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::Error;
use crate::request::Lower;
use crate::root::Root;

/// The kind of these tasks in the work queue.
pub const KIND: &str = "by_query";
/// Tasks that are listed at once.
const LIST_MAX: usize = 1_000;
/// First and longest pause before a task's state is asked again.
const ASK_MIN: Duration = Duration::from_millis(20);
const ASK_MAX: Duration = Duration::from_millis(500);

/// Makes the query of a job again, on whichever root runs it: the body's `query`, the query string's
/// parameters, and the time that `now` stands for.
pub type ParseQuery = fn(Option<&str>, &[(String, String)], i64) -> Result<Lower, Error>;

/// What is done to the documents that match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// They are deleted.
    Delete,
    /// They are indexed again as they are: fields that the mapping got since are indexed too.
    Update,
}

/// An index as it was when the job was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Its uid: an index made anew under the name is another one.
    pub uid: String,
}

/// A request, as it stands in the queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Form of this record; 1, also where none is written. A root that does not know it leaves the job to others.
    #[serde(default = "first_format")]
    pub format: u32,
    /// What to do.
    pub action: Action,
    /// Where; one after the other.
    pub targets: Vec<Target>,
    /// The body's `query`, as JSON text.
    pub query: Option<String>,
    /// The query string's parameters that make a query.
    pub query_params: Vec<(String, String)>,
    /// What `now` stands for, milliseconds since the epoch.
    pub now_ms: i64,
    /// Whether version conflicts are counted and passed over, instead of ending the job.
    pub proceed: bool,
    /// At most so many documents.
    pub max_docs: Option<u64>,
    /// Documents of one batch.
    pub batch: u32,
    /// Documents per second at most.
    pub requests_per_second: Option<f64>,
    /// Whether to refresh the indices at the end.
    pub refresh: bool,
}

/// A document that is about to be written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    routing: Option<String>,
    seq: u64,
    term: u64,
}

/// Why a document was not written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Name of its index.
    pub index: String,
    /// Its `_id`.
    pub id: String,
    /// As Elasticsearch names it.
    pub error_type: String,
    /// A sentence.
    pub reason: String,
    /// HTTP's.
    pub status: u16,
}

/// How far a job is, and at its end what came of it. Noted with the task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// When it began, milliseconds since the epoch by the clock of the root that began it; 0: it has not.
    pub started_ms: u64,
    /// Documents that matched at the start (at most `max_docs`).
    pub total: u64,
    /// Documents indexed again.
    pub updated: u64,
    /// Documents deleted.
    pub deleted: u64,
    /// Batches written.
    pub batches: u64,
    /// Documents that were newer than what was found.
    pub version_conflicts: u64,
    /// Writes that were tried again.
    pub retries: u64,
    /// Time spent waiting for `requests_per_second`.
    pub throttled_ms: u64,
    /// The first documents that failed.
    pub failures: Vec<Failed>,
    /// The index at work, by its place in the job.
    target: usize,
    /// `_tie` and `_id` of the last document planned in it.
    after: Option<(u64, String)>,
    /// For each index the position of every shard at the start: (incarnation, seq).
    bounds: Vec<Vec<(u64, u64)>>,
    /// What is being written, if anything.
    planned: Vec<Planned>,
    /// Set at the end: how long it took.
    pub took_ms: Option<u64>,
    /// Whether it ended because it was cancelled.
    pub cancelled: bool,
    /// Why it could not go on at all: type, reason, HTTP status.
    pub error: Option<(String, String, u16)>,
}

/// The only form of a [`Job`] so far.
pub(crate) const FORMAT: u32 = 1;

fn first_format() -> u32 {
    1
}

impl Job {
    /// From the queue.
    fn read(body: &[u8]) -> Result<Self, Error> {
        let unreadable = |error: serde_json::Error| Error::Internal(format!("the job cannot be read: {error}"));
        let job: Self = serde_json::from_slice(body).map_err(unreadable)?;
        match job.format > FORMAT {
            true => Err(newer("the job", job.format, FORMAT).into()),
            false => Ok(job),
        }
    }
}

impl Progress {
    /// Documents dealt with.
    pub fn done(&self) -> u64 {
        self.updated + self.deleted + self.version_conflicts + self.failures.len() as u64
    }
}

/// A job as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct JobState {
    /// The task's number.
    pub id: TaskId,
    /// What was asked for.
    pub job: Job,
    /// How far it is.
    pub progress: Progress,
    /// Whether it has ended.
    pub ended: bool,
    /// Whether it was asked to end.
    pub cancelled: bool,
    /// When it was asked for, milliseconds since the epoch.
    pub pushed_ms: u64,
    /// Since then, or until it ended.
    pub running: Duration,
}

/// What a root shares between those who ask for jobs and those who run them.
#[derive(Debug, Default)]
pub struct ByQuery {
    /// A job was pushed here.
    pushed: Notify,
    /// A job ended here.
    ended: Notify,
}

/// Puts a job into the queue. The same job with the same idempotency key is the task that it was before, as long as
/// that is kept.
pub(crate) async fn start(root: &Root, job: &Job, idempotency_key: Option<&str>) -> Result<TaskId, Error> {
    let encoded = |job: &Job| serde_json::to_vec(job).map_err(|error| Error::Internal(error.to_string()));
    let key = match idempotency_key {
        Some(key) => Some(format!("{key}/{:016x}", xxh3_64(&encoded(&Job { now_ms: 0, ..job.clone() })?))),
        None => None,
    };
    let task = NewTask { key, body: encoded(job)?.into(), attempts_max: root.config.by_query.attempts_max };
    let ids = root.engine.queue.push(KIND, vec![task]).await?;
    root.by_query.pushed.notify_one();
    ids.into_iter().next().ok_or_else(|| Error::Internal("a task was pushed without an id".to_owned()))
}

/// A job, while it is kept.
pub(crate) async fn get(root: &Root, id: TaskId) -> Result<Option<JobState>, Error> {
    let task = root.engine.queue.task(id).await?;
    task.filter(|task| task.kind == KIND).map(state).transpose()
}

/// A job once it has ended, or as it stands when the time is over.
pub(crate) async fn wait(root: &Root, id: TaskId, deadline: Option<Instant>) -> Result<Option<JobState>, Error> {
    let mut pause = ASK_MIN;
    loop {
        let ended = root.by_query.ended.notified();
        match get(root, id).await? {
            Some(state) if !state.ended => {}
            other => return Ok(other),
        }
        let until = Instant::now() + pause;
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return get(root, id).await;
        }
        tokio::select! {
            () = ended => pause = ASK_MIN,
            () = tokio::time::sleep_until(deadline.map_or(until, |deadline| deadline.min(until))) => {
                pause = (pause * 2).min(ASK_MAX);
            }
        }
    }
}

/// Jobs that have not ended, oldest first.
pub(crate) async fn running(root: &Root) -> Result<Vec<JobState>, Error> {
    let mut found = Vec::new();
    for kind in [TaskState::Ready, TaskState::Claimed] {
        for task in root.engine.queue.tasks(KIND, Some(kind), TaskId(0), LIST_MAX).await? {
            found.push(state(task)?);
        }
    }
    found.sort_by_key(|state| state.id);
    found.dedup_by_key(|state| state.id);
    Ok(found)
}

/// Asks a job to end. False when it is not there or has ended.
pub(crate) async fn cancel(root: &Root, id: TaskId) -> Result<bool, Error> {
    if get(root, id).await?.is_none() {
        return Ok(false);
    }
    Ok(root.engine.queue.cancel(id).await?)
}

fn state(task: Task) -> Result<JobState, Error> {
    let unreadable = |error: serde_json::Error| Error::Internal(format!("task {} cannot be read: {error}", task.id.0));
    let job = Job::read(&task.body)?;
    let mut progress = read_progress(&task.progress).map_err(unreadable)?;
    let ended = matches!(task.state, TaskState::Done | TaskState::Dead);
    if task.state == TaskState::Dead && progress.took_ms.is_none() {
        // Cancelled before anybody began, or given up.
        progress.cancelled = task.cancelled;
        if !task.cancelled {
            progress.error = Some(("exception".to_owned(), format!("given up: {}", task.reason), 500));
        }
    }
    let until = if ended { task.changed_ms } else { crate::lifecycle::now_ms() };
    Ok(JobState {
        id: task.id,
        job,
        progress,
        ended,
        cancelled: task.cancelled,
        pushed_ms: task.pushed_ms,
        running: Duration::from_millis(until.saturating_sub(task.pushed_ms)),
    })
}

fn read_progress(bytes: &[u8]) -> Result<Progress, serde_json::Error> {
    if bytes.is_empty() { Ok(Progress::default()) } else { serde_json::from_slice(bytes) }
}
