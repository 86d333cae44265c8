//! The work queue as this root shows it: what waits, what is at work, and how far logs and replicas are.

use trawl_cluster::WorkQueue;
use trawl_cluster::work_queue::{QueueCounts, Task, TaskId, TaskState};

use crate::error::Error;
use crate::root::Root;

/// The kind of the tasks that workers load; always shown.
const LOAD: &str = "load";
/// Kinds that are shown at most.
const KINDS_MAX: usize = 1_000;
/// Tasks of one answer at most.
pub(crate) const TASKS_MAX: usize = 1_000;
/// Bytes of one answer's tasks, roughly; what is over is left for the next page.
const TASKS_BYTES_MAX: usize = 8 << 20;
/// Tasks that are read from the engine at once.
const PAGE: usize = 16;

/// The queue itself.
pub(crate) fn queue(root: &Root) -> &dyn WorkQueue {
    &*root.engine.queue
}

/// How many tasks there are, per kind.
///
/// # Errors
/// [`Error::Unavailable`] when the engine is out of reach.
pub(crate) async fn counts(root: &Root) -> Result<Vec<(String, QueueCounts)>, Error> {
    let mut kinds = queue(root).kinds(KINDS_MAX).await?;
    if !kinds.iter().any(|kind| kind == LOAD) {
        kinds.insert(0, LOAD.to_owned());
    }
    let mut counted = Vec::with_capacity(kinds.len());
    for kind in kinds {
        let counts = queue(root).counts(&kind).await?;
        counted.push((kind, counts));
    }
    Ok(counted)
}

/// Tasks of a kind (all kinds when `None`) with ids after `after`, ascending; fewer than `size` when they are large.
/// Also says whether there are more.
///
/// # Errors
/// [`Error::Unavailable`] when the engine is out of reach.
pub(crate) async fn tasks(
    root: &Root,
    kind: Option<&str>,
    state: Option<TaskState>,
    after: TaskId,
    size: usize,
) -> Result<(Vec<Task>, bool), Error> {
    let kinds = match kind {
        Some(kind) => vec![kind.to_owned()],
        None => counts(root).await?.into_iter().map(|(kind, _)| kind).collect(),
    };
    let mut found = Vec::new();
    for kind in kinds {
        found.extend(of_kind(root, &kind, state, after, size + 1).await?);
    }
    found.sort_by_key(|task| task.id);
    let mut bytes = 0;
    let fits = |task: &Task| {
        bytes += task.body.len() + task.progress.len();
        bytes <= TASKS_BYTES_MAX
    };
    let fitting = found.iter().take(size).map(fits).take_while(|fits| *fits).count().max(1);
    let more = found.len() > fitting;
    found.truncate(fitting);
    Ok((found, more))
}

async fn of_kind(
    root: &Root,
    kind: &str,
    state: Option<TaskState>,
    mut after: TaskId,
    size: usize,
) -> Result<Vec<Task>, Error> {
    let (mut found, mut bytes) = (Vec::new(), 0);
    while found.len() < size && bytes <= TASKS_BYTES_MAX {
        let page = queue(root).tasks(kind, state, after, PAGE.min(size - found.len())).await?;
        let Some(last) = page.last() else { break };
        after = last.id;
        bytes += page.iter().map(|task| task.body.len() + task.progress.len()).sum::<usize>();
        found.extend(page);
    }
    Ok(found)
}
