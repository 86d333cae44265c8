//! The cluster engine's work queue as loaders and workers use it, and the roots that the store knows.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use trawl_cluster::engines::redacted;
use trawl_cluster::work_queue::{NewTask, Receipt, Task, TaskId, TaskState, WorkQueue};
use trawl_cluster::{Engine, EngineOptions, Error, LEASE_TIME, Viewer};
use trawl_data::load::{
    Client,
    queue::{Claimed, Counts, Listed, Push, QueueError, TaskQueue},
};

/// How long one request to a root may take before it is sent again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Pauses between attempts to open an engine: doubling, from and to.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Tasks that are looked at at once.
const UNFINISHED_MAX: usize = 100;

/// Opens a cluster engine: its queue, and a client of whichever roots live, kept current until `stop`. One that is away
/// or not there yet is waited for, as long as `patience`.
///
/// # Errors
/// When the engine cannot be opened.
pub async fn open(
    url: &str,
    patience: Duration,
    stop: &CancellationToken,
) -> anyhow::Result<(Arc<dyn TaskQueue>, Client)> {
    let engine = connect_within(url, patience).await?;
    let none: [&str; 0] = [];
    let client = Client::of(&none, REQUEST_TIMEOUT)?;
    tokio::spawn(stop.clone().run_until_cancelled_owned(follow(engine.clone(), client.clone(), stop.clone())));
    Ok((Arc::new(EngineQueue(engine.queue)), client))
}

async fn connect_within(url: &str, patience: Duration) -> anyhow::Result<Engine> {
    let started = Instant::now();
    let mut pause = PAUSE_FIRST;
    loop {
        let (error, may_come) = match connect(url).await {
            Ok(engine) => return Ok(engine),
            Err(failed) => failed,
        };
        let left = patience.saturating_sub(started.elapsed());
        if !may_come || left.is_zero() {
            return Err(error);
        }
        if pause == PAUSE_FIRST {
            tracing::warn!(error = format!("{error:#}"), "waiting for the cluster engine");
        }
        tokio::time::sleep(pause.min(left)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Connects once; an error says whether trying again may help.
async fn connect(url: &str) -> Result<Engine, (anyhow::Error, bool)> {
    // Connecting would make an empty one, in which nothing is ever to be done.
    if let Some(directory) = url.strip_prefix("sqlite:").filter(|directory| !directory.is_empty())
        && !Path::new(directory).is_dir()
    {
        let error =
            anyhow::anyhow!("there is no cluster engine in {directory}: `trawl up` keeps its own in DATA_DIR/cluster");
        return Err((error, true));
    }
    trawl_cluster::connect(url, &EngineOptions::default()).await.map_err(|error| {
        let may_come = matches!(error, Error::Unavailable(_));
        (anyhow::Error::new(error).context(format!("cannot open the cluster engine {}", redacted(url))), may_come)
    })
}

/// The address of a root that lives.
///
/// # Errors
/// When the engine cannot be opened, or knows none for as long as `patience`.
pub async fn root(url: &str, patience: Duration) -> anyhow::Result<String> {
    let stop = CancellationToken::new();
    let (_, client) = open(url, patience, &stop).await?;
    let known = root_known(&client, url, patience).await;
    stop.cancel();
    known.map(|()| client.endpoint())
}

/// Waits until a root is known to live, as long as `patience`.
///
/// # Errors
/// When there is none.
pub async fn root_known(client: &Client, url: &str, patience: Duration) -> anyhow::Result<()> {
    let known = async {
        while client.endpoint().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let known = tokio::time::timeout(patience, known).await;
    known.with_context(|| {
        format!("no root of the cluster {} is alive; `trawl up` starts a whole cluster", redacted(url))
    })
}

/// Keeps the client's endpoints the live roots that the store knows.
async fn follow(engine: Engine, client: Client, stop: CancellationToken) {
    let viewer = Viewer::start(engine.store, LEASE_TIME, stop);
    let mut views = viewer.subscribe();
    loop {
        let view = views.borrow_and_update().clone();
        let alive = view.roots().filter(|node| node.alive).filter_map(|node| node.record.http.clone());
        client.set_endpoints(&alive.collect::<Vec<_>>());
        if views.changed().await.is_err() {
            return;
        }
    }
}

/// The queue of an engine.
struct EngineQueue(Arc<dyn WorkQueue>);

fn failed(error: Error) -> QueueError {
    match error {
        Error::ClaimLost(_) => QueueError::ClaimLost,
        Error::TooLarge { .. } | Error::Corrupt(_) => QueueError::Refused(error.to_string()),
        Error::Unavailable(source) => QueueError::Unavailable { reason: source.to_string(), retry_after: None },
        other => QueueError::Unavailable { reason: other.to_string(), retry_after: None },
    }
}

/// A task as listed, done or not.
fn listed(task: Task) -> Listed {
    let state = match task.state {
        TaskState::Ready => "ready",
        TaskState::Claimed => "claimed",
        TaskState::Done => "done",
        TaskState::Dead => "dead",
    };
    Listed {
        id: format!("task-{}", task.id.0),
        state: state.to_owned(),
        body: json(&task.body),
        worker: task.worker,
        cancelled: task.cancelled,
    }
}

fn receipt(text: &str) -> Result<Receipt, QueueError> {
    text.parse().map_err(QueueError::Refused)
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_default()
}

#[async_trait::async_trait]
impl TaskQueue for EngineQueue {
    async fn push(&self, kind: &str, tasks: Vec<Push>) -> Result<(), QueueError> {
        let task =
            |task: Push| NewTask { key: task.key, body: task.body.to_string().into(), attempts_max: task.attempts_max };
        self.0.push(kind, tasks.into_iter().map(task).collect()).await.map(drop).map_err(failed)
    }

    async fn claim(&self, kind: &str, lease: Duration, worker: &str) -> Result<Option<Claimed>, QueueError> {
        let claim = self.0.claim(kind, lease, worker).await.map_err(failed)?;
        Ok(claim.map(|claim| Claimed {
            receipt: claim.receipt.to_string(),
            body: json(&claim.body),
            progress: json(&claim.progress),
            attempt: claim.attempt,
        }))
    }

    async fn extend(&self, text: &str, lease: Duration, progress: &Value) -> Result<bool, QueueError> {
        self.0.extend(receipt(text)?, lease, Some(progress.to_string().into())).await.map_err(failed)
    }

    async fn ack(&self, text: &str, result: &Value) -> Result<(), QueueError> {
        self.0.ack(receipt(text)?, result.to_string().into()).await.map_err(failed)
    }

    async fn nack(&self, text: &str, delay: Duration, reason: Option<&str>) -> Result<(), QueueError> {
        self.0.nack(receipt(text)?, delay, reason).await.map_err(failed)
    }

    async fn unfinished(&self, kind: &str) -> Result<Vec<Listed>, QueueError> {
        let (mut found, mut after) = (Vec::new(), TaskId(0));
        loop {
            let tasks = self.0.tasks(kind, None, after, UNFINISHED_MAX).await.map_err(failed)?;
            let is_last = tasks.len() < UNFINISHED_MAX;
            for task in tasks {
                after = task.id;
                if task.state != TaskState::Done {
                    found.push(listed(task));
                }
            }
            if is_last || found.len() >= UNFINISHED_MAX {
                return Ok(found);
            }
        }
    }

    async fn task(&self, text: &str) -> Result<Option<Listed>, QueueError> {
        let task = self.0.task(receipt(text)?.task).await.map_err(failed)?;
        Ok(task.map(listed))
    }

    async fn counts(&self, kind: &str) -> Result<Counts, QueueError> {
        let counts = self.0.counts(kind).await.map_err(failed)?;
        Ok(Counts { ready: counts.ready, claimed: counts.claimed, done: counts.done, dead: counts.dead })
    }
}
