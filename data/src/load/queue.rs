//! The work queue as loaders and workers use it, and its HTTP side.
//!
//! A worker beside the cluster engine brings an implementation of its own; a loader somewhere else goes through a root.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Client, ClientError, Reply};

/// The kind of the tasks that workers load.
pub const KIND: &str = "load";

/// What can go wrong with the queue, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The claim ran out or was taken over.
    #[error("the claim is no longer held")]
    ClaimLost,
    /// The queue is full, or out of reach: try again.
    #[error("{reason}")]
    Unavailable {
        /// Why.
        reason: String,
        /// The pause that is asked for.
        retry_after: Option<Duration>,
    },
    /// There is no queue at this endpoint.
    #[error("there is no work queue at {0}")]
    NoQueue(String),
    /// It will not work by trying again.
    #[error("{0}")]
    Refused(String),
}

/// A task to push.
#[derive(Clone, Debug)]
pub struct Push {
    /// Pushing the same key again changes nothing.
    pub key: Option<String>,
    /// What to do.
    pub body: Value,
    /// Attempts before the task is dead.
    pub attempts_max: u32,
}

/// A claimed task.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// Names the claim.
    pub receipt: String,
    /// What to do.
    pub body: Value,
    /// What was noted last; `Null` at first.
    pub progress: Value,
    /// The how-manieth attempt it is.
    pub attempt: u32,
}

/// A task as it stands.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its id, for example `task-12`.
    pub id: String,
    /// `ready`, `claimed`, `done` or `dead`.
    pub state: String,
    /// What to do.
    pub body: Value,
    /// Who claimed it last.
    pub worker: String,
    /// Whether it was cancelled.
    pub cancelled: bool,
}

/// How many tasks of a kind there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// May be claimed, now or after a delay.
    pub ready: u64,
    /// Claimed.
    pub claimed: u64,
    /// Finished, ever.
    pub done: u64,
    /// Given up.
    pub dead: u64,
}

impl Counts {
    /// All there ever were, but for those that were dropped.
    pub fn total(&self) -> u64 {
        self.ready + self.claimed + self.done + self.dead
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ready, {} claimed, {} done, {} dead", self.ready, self.claimed, self.done, self.dead)
    }
}

/// The durable queue of tasks, see the `cluster` crate for what its words mean.
#[async_trait]
pub trait TaskQueue: Send + Sync + 'static {
    /// Adds tasks, all or none.
    async fn push(&self, kind: &str, tasks: Vec<Push>) -> Result<(), QueueError>;
    /// Claims the first ready task.
    async fn claim(&self, kind: &str, lease: Duration, worker: &str) -> Result<Option<Claimed>, QueueError>;
    /// Makes a claim last and notes progress; returns whether the task was cancelled.
    async fn extend(&self, receipt: &str, lease: Duration, progress: &Value) -> Result<bool, QueueError>;
    /// Finishes a task.
    async fn ack(&self, receipt: &str, result: &Value) -> Result<(), QueueError>;
    /// Gives a task back; without a reason the attempt does not count.
    async fn nack(&self, receipt: &str, delay: Duration, reason: Option<&str>) -> Result<(), QueueError>;
    /// Unfinished tasks of a kind, the first ones. Asked for in all states at once: one whose claim runs out between two
    /// questions would be in neither answer.
    async fn unfinished(&self, kind: &str) -> Result<Vec<Listed>, QueueError>;
    /// The task of a receipt, while it is kept.
    async fn task(&self, receipt: &str) -> Result<Option<Listed>, QueueError>;
    /// How many tasks of the kind there are.
    async fn counts(&self, kind: &str) -> Result<Counts, QueueError>;
}

/// Unfinished tasks that are looked at, about.
const UNFINISHED_MAX: usize = 100;

/// The queue through a root.
#[derive(Clone, Debug)]
pub struct HttpQueue {
    client: Client,
}

impl HttpQueue {
    /// The queue that this client's endpoint leads to.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    async fn post(&self, path: &[&str], body: &Value) -> Result<Value, QueueError> {
        let path: Vec<&str> = ["_trawl", "queue"].iter().chain(path).copied().collect();
        self.answer(self.client.send_json(Method::POST, &path, body).await)
    }

    fn answer(&self, reply: Result<Reply, ClientError>) -> Result<Value, QueueError> {
        let reply = reply.map_err(|error| QueueError::Unavailable { reason: error.to_string(), retry_after: None })?;
        let reason = || reply.error_reason();
        match reply.status {
            200..300 => Ok(reply.json()),
            409 => Err(QueueError::ClaimLost),
            429 | 502..=504 => Err(QueueError::Unavailable { reason: reason(), retry_after: reply.retry_after }),
            400 | 404 | 405 if reason().contains("no handler found") || reply.json().is_null() => {
                Err(QueueError::NoQueue(self.client.endpoint()))
            }
            status => Err(QueueError::Refused(format!("status {status}: {}", reason()))),
        }
    }
}

fn listed(task: &Value) -> Listed {
    let text = |key: &str| task[key].as_str().unwrap_or_default().to_owned();
    let cancelled = task["cancelled"] == true;
    Listed { id: text("id"), state: text("state"), body: task["body"].clone(), worker: text("worker"), cancelled }
}

fn time(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

#[async_trait]
impl TaskQueue for HttpQueue {
    async fn push(&self, kind: &str, tasks: Vec<Push>) -> Result<(), QueueError> {
        let task = |task: Push| json!({ "key": task.key, "body": task.body, "attempts_max": task.attempts_max });
        let tasks: Vec<Value> = tasks.into_iter().map(task).collect();
        self.post(&[kind], &json!({ "tasks": tasks })).await.map(drop)
    }

    async fn claim(&self, kind: &str, lease: Duration, worker: &str) -> Result<Option<Claimed>, QueueError> {
        let mut answer = self.post(&[kind, "_claim"], &json!({ "lease": time(lease), "worker": worker })).await?;
        let claim = answer["claim"].take();
        let Some(receipt) = claim["receipt"].as_str() else { return Ok(None) };
        Ok(Some(Claimed {
            receipt: receipt.to_owned(),
            body: claim["body"].clone(),
            progress: claim["progress"].clone(),
            attempt: claim["attempt"].as_u64().and_then(|attempt| attempt.try_into().ok()).unwrap_or(1),
        }))
    }

    async fn extend(&self, receipt: &str, lease: Duration, progress: &Value) -> Result<bool, QueueError> {
        let body = json!({ "receipt": receipt, "lease": time(lease), "progress": progress });
        Ok(self.post(&["_extend"], &body).await?["cancelled"] == true)
    }

    async fn ack(&self, receipt: &str, result: &Value) -> Result<(), QueueError> {
        self.post(&["_ack"], &json!({ "receipt": receipt, "result": result })).await.map(drop)
    }

    async fn nack(&self, receipt: &str, delay: Duration, reason: Option<&str>) -> Result<(), QueueError> {
        let body = json!({ "receipt": receipt, "delay": time(delay), "reason": reason });
        self.post(&["_nack"], &body).await.map(drop)
    }

    async fn unfinished(&self, kind: &str) -> Result<Vec<Listed>, QueueError> {
        let (mut found, mut after) = (Vec::new(), "task-0".to_owned());
        loop {
            let query = [("kind", kind), ("after", after.as_str()), ("size", "100")];
            let answer = self.answer(self.client.get_with(&["_trawl", "queue", "tasks"], &query).await)?;
            for task in answer["tasks"].as_array().into_iter().flatten() {
                let task = listed(task);
                after.clone_from(&task.id);
                if task.state != "done" {
                    found.push(task);
                }
            }
            if answer["more"] != true || found.len() >= UNFINISHED_MAX {
                return Ok(found);
            }
        }
    }

    async fn task(&self, receipt: &str) -> Result<Option<Listed>, QueueError> {
        let id = format!("task-{}", receipt.split('-').next().unwrap_or_default());
        let reply = self.client.get(&["_trawl", "queue", "tasks", &id]).await;
        let is_gone = |reply: &Reply| reply.json()["error"]["type"] == "resource_not_found_exception";
        if reply.as_ref().is_ok_and(|reply| reply.status == 404 && is_gone(reply)) {
            return Ok(None);
        }
        Ok(Some(listed(&self.answer(reply)?)))
    }

    async fn counts(&self, kind: &str) -> Result<Counts, QueueError> {
        let answer = self.answer(self.client.get_with(&["_trawl", "queue"], &[("shards", "false")]).await)?;
        let counts = &answer["kinds"][kind];
        let count = |name: &str| counts[name].as_u64().unwrap_or(0);
        Ok(Counts { ready: count("ready"), claimed: count("claimed"), done: count("done"), dead: count("dead") })
    }
}
