//! The work queue: durable tasks that competing workers claim, extend, and finish.
//!
//! ```text
//! ready ──claim──> claimed ──ack──> done
//!   ^                │ │ nack, or the claim ran out: ready again after a delay,
//!   └────────────────┘ └──> dead, after too many attempts (replay makes it ready again)
//! ```
//!
//! Claim times are the engine's clock, the only place where one counts.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::Error;

/// A task's number, unique in the cluster; grows with every push.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(pub u64);

/// The proof of a claim: good until the claim runs out or another claim is made.
/// As text (`Display`, `FromStr`): `TASK-CLAIM`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Receipt {
    /// The task.
    pub task: TaskId,
    /// The how-manieth claim of the task it is, from 1.
    pub claim: u64,
}

/// A task to push.
#[derive(Clone, Debug)]
pub struct NewTask {
    /// Pushing the same key of the same kind again, while the task is kept in any state, changes nothing
    /// and answers with the first task's id.
    pub key: Option<String>,
    /// What to do; only the workers of its kind understand it.
    pub body: Bytes,
    /// The task is dead after this many attempts; at least 1.
    pub attempts_max: u32,
}

/// A task that was claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Names the claim in every later call.
    pub receipt: Receipt,
    /// What to do.
    pub body: Bytes,
    /// What the last worker noted, see [`WorkQueue::extend`]; empty at first.
    pub progress: Bytes,
    /// The how-manieth attempt it is, from 1. A claim that ran out was an attempt; one that was
    /// given back by `nack` with no reason was not.
    pub attempt: u32,
}

/// A task's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TaskState {
    /// May be claimed, now or after its delay.
    Ready,
    /// Claimed, and the claim has not run out.
    Claimed,
    /// Finished.
    Done,
    /// Given up after too many attempts, or cancelled.
    Dead,
}

/// A task as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// Its kind.
    pub kind: String,
    /// The key it was pushed with.
    pub key: Option<String>,
    /// Its state. A claim that ran out counts as ready.
    pub state: TaskState,
    /// What to do.
    pub body: Bytes,
    /// What its worker noted last; for a finished task its result.
    pub progress: Bytes,
    /// Attempts begun.
    pub attempts: u32,
    /// Attempts allowed.
    pub attempts_max: u32,
    /// Who claimed it last; empty when nobody did.
    pub worker: String,
    /// Why the last attempt failed; empty when none did.
    pub reason: String,
    /// Whether it shall be cancelled: its worker hears of it when it extends.
    pub cancelled: bool,
    /// Milliseconds since the epoch, by the engine's clock.
    pub pushed_ms: u64,
    /// When its state changed last, likewise.
    pub changed_ms: u64,
}

/// Size of a task's body, progress or result at most.
pub const TASK_BYTES_MAX: usize = 1 << 20;
/// Length of a task's kind or key at most.
pub const TASK_KEY_BYTES_MAX: usize = 1_024;
/// Kinds without a task that is kept whose counts are, those with the most finished tasks; every load has a
/// kind of its own.
pub(crate) const KINDS_DONE_MAX: u32 = 64;
/// A reason longer than this is cut off.
const REASON_BYTES_MAX: usize = 4_096;

/// How many tasks of a kind there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// May be claimed, now or after a delay.
    pub ready: u64,
    /// Claimed.
    pub claimed: u64,
    /// Finished, ever; finished tasks themselves are kept for a while only. Of kinds without any task that
    /// is kept, so many counts are forgotten that a bounded number is left.
    pub done: u64,
    /// Dead and kept.
    pub dead: u64,
}

/// The durable queue of tasks. Cheap to share behind an `Arc`. Every change is durable on return.
#[async_trait]
pub trait WorkQueue: Send + Sync + 'static {
    /// Adds tasks, all or none; ids in their order.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for a body over [`TASK_BYTES_MAX`] or a kind or key over [`TASK_KEY_BYTES_MAX`];
    /// [`Error::QueueFull`] at the limit of kept tasks.
    async fn push(&self, kind: &str, tasks: Vec<NewTask>) -> Result<Vec<TaskId>, Error>;

    /// Claims the ready task of the kind that was pushed first, for `lease`. Two workers never get the
    /// same task. A task whose claims ran out `attempts_max` times becomes dead instead.
    async fn claim(&self, kind: &str, lease: Duration, worker: &str) -> Result<Option<Claim>, Error>;

    /// Makes the claim last `lease` from now and notes progress if given. Returns whether the task
    /// was cancelled meanwhile; then the worker stops and acknowledges.
    ///
    /// # Errors
    /// [`Error::ClaimLost`] when the claim ran out or was taken over; [`Error::TooLarge`] for progress over
    /// [`TASK_BYTES_MAX`].
    async fn extend(&self, receipt: Receipt, lease: Duration, progress: Option<Bytes>) -> Result<bool, Error>;

    /// Finishes the task with a result (it takes the progress's place). A cancelled task becomes dead.
    ///
    /// # Errors
    /// [`Error::ClaimLost`]; [`Error::TooLarge`] for a result over [`TASK_BYTES_MAX`].
    async fn ack(&self, receipt: Receipt, result: Bytes) -> Result<(), Error>;

    /// Gives the task back: ready again after `delay`, or dead if this was the last attempt. Without a
    /// reason the attempt does not count (a worker that shuts down).
    ///
    /// # Errors
    /// [`Error::ClaimLost`].
    async fn nack(&self, receipt: Receipt, delay: Duration, reason: Option<&str>) -> Result<(), Error>;

    /// A task, while it is kept.
    async fn task(&self, id: TaskId) -> Result<Option<Task>, Error>;

    /// Tasks of a kind (any state, or one) with ids after `after`, ascending, at most `limit`.
    async fn tasks(
        &self,
        kind: &str,
        state: Option<TaskState>,
        after: TaskId,
        limit: usize,
    ) -> Result<Vec<Task>, Error>;

    /// Cancels: a ready task is dead at once, a claimed one when its worker hears of it. False when
    /// the task is not there or has ended.
    async fn cancel(&self, id: TaskId) -> Result<bool, Error>;

    /// Makes dead tasks ready again with no attempts used; what was noted as progress stays. Returns how
    /// many were dead.
    async fn replay(&self, ids: &[TaskId]) -> Result<u64, Error>;

    /// Forgets dead tasks. Returns how many were dead.
    async fn drop_dead(&self, ids: &[TaskId]) -> Result<u64, Error>;

    /// How many tasks of the kind there are.
    async fn counts(&self, kind: &str) -> Result<QueueCounts, Error>;

    /// The kinds of which tasks are kept that are not done, sorted; at most `limit`.
    async fn kinds(&self, limit: usize) -> Result<Vec<String>, Error>;
}

/// Refuses tasks that are over the limits.
pub(crate) fn check_tasks(kind: &str, tasks: &[NewTask]) -> Result<(), Error> {
    check_size("task kind", kind.len(), TASK_KEY_BYTES_MAX)?;
    for task in tasks {
        check_size("task key", task.key.as_ref().map_or(0, String::len), TASK_KEY_BYTES_MAX)?;
        check_size("task", task.body.len(), TASK_BYTES_MAX)?;
    }
    Ok(())
}

/// Refuses progress or a result over the limit.
pub(crate) fn check_result(result: &[u8]) -> Result<(), Error> {
    check_size("task result", result.len(), TASK_BYTES_MAX)
}

fn check_size(what: &'static str, bytes: usize, bytes_max: usize) -> Result<(), Error> {
    if bytes > bytes_max {
        return Err(Error::TooLarge { what, bytes: bytes as u64, bytes_max: bytes_max as u64 });
    }
    Ok(())
}

/// A reason, cut off where it is too long to keep.
pub(crate) fn shortened(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)]
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.task.0, self.claim)
    }
}

impl FromStr for Receipt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text
            .split_once('-')
            .and_then(|(task, claim)| Some(Self { task: TaskId(task.parse().ok()?), claim: claim.parse().ok()? }));
        parsed.ok_or_else(|| format!("{text:?} is no receipt: it should look like 12-1"))
    }
}
