//! A claimed task from its claim to its end: what it came to, and the telling of it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::backoff::Backoff;
use super::super::hold::Hold;
use super::super::job::Job;
use super::super::pipeline::Finished;
use super::super::queue::{Claimed, QueueError, TaskQueue};
use super::super::send::Failure;
use super::super::task::{REJECTED_FIRST_MAX, Tally};

/// The pause after the first failed attempt; doubled with each further one.
const AGAIN_FIRST: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(300);

/// A claimed task.
pub(super) struct AtWork {
    pub(super) claimed: Claimed,
    pub(super) job: Arc<Job>,
    pub(super) hold: Hold,
    pub(super) ended: Ended,
    /// Pieces that could not be read, with the first reason.
    pub(super) unread: Vec<u32>,
    pub(super) reason: String,
}

/// Why nothing more of a task is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// Everything was, or is still being read.
    No,
    /// The claim is lost.
    Lost,
    /// The task was cancelled.
    Cancelled,
    /// The worker was told to end.
    Stopped,
    /// The reading thread panicked.
    Panicked,
}

/// What a task came to.
pub(super) enum Ending {
    Done(Tally),
    Failed,
    Lost,
    GivenBack,
}

impl AtWork {
    /// Tells the queue what became of the task.
    pub(super) async fn end(self, queue: Arc<dyn TaskQueue>, retry_for: Duration, finished: Finished) -> Ending {
        let Self { claimed, job, hold, ended, unread, reason } = self;
        let Finished { failure, rejected, .. } = finished;
        let receipt = claimed.receipt.as_str();
        let more = rejected.saturating_sub(REJECTED_FIRST_MAX as u64);
        if more > 0 {
            tracing::warn!(task = receipt, "and {more} more of this task were rejected");
        }
        let lost = matches!(failure, Some(Failure::ClaimLost)) || ended == Ended::Lost || hold.lost.is_cancelled();
        if lost {
            tracing::warn!(task = receipt, "the claim ran out: the task is another worker's");
            return Ending::Lost;
        }
        let problem = match (&failure, ended) {
            (Some(failure), _) => Some(failure.to_string()),
            (None, Ended::Panicked) => Some("the reading thread panicked".to_owned()),
            (None, _) if !unread.is_empty() => {
                let more = unread.iter().collect::<HashSet<_>>().len() - 1;
                Some(if more > 0 { format!("{reason}; and {more} more files") } else { reason })
            }
            (None, _) => None,
        };
        job.note(|progress| progress.unread = unread);
        let tally = job.progress().tally;
        if problem.is_some() || ended == Ended::Stopped {
            // What was done of it is noted, so that the next attempt goes on from there.
            if let Err(QueueError::ClaimLost) = hold.end().await {
                return Ending::Lost;
            }
        } else {
            drop(hold);
        }
        let pause = if problem.is_some() { pause_after(claimed.attempt) } else { Duration::ZERO };
        let mut backoff = Backoff::new(retry_for);
        loop {
            let (answer, ending) = match (&problem, ended) {
                (Some(reason), _) => (queue.nack(receipt, pause, Some(reason)).await, Ending::Failed),
                (None, Ended::Stopped) => (queue.nack(receipt, pause, None).await, Ending::GivenBack),
                (None, Ended::Cancelled) => (queue.ack(receipt, &result(&tally)).await, Ending::Failed),
                (None, _) => (queue.ack(receipt, &result(&tally)).await, Ending::Done(tally.clone())),
            };
            match answer {
                Ok(()) => {
                    match &problem {
                        Some(reason) => tracing::warn!(task = receipt, reason, "task failed"),
                        None => tracing::info!(task = receipt, loaded = tally.loaded, "task ended"),
                    }
                    return ending;
                }
                Err(QueueError::ClaimLost) => return Ending::Lost,
                Err(error) => match backoff.pause(Instant::now(), None) {
                    Ok(pause) => tokio::time::sleep(pause).await,
                    Err(_) => {
                        tracing::warn!(task = receipt, %error, "cannot say what became of a task");
                        return Ending::Lost;
                    }
                },
            }
        }
    }
}

/// A task's result, as `trawl queue status` shows it.
fn result(tally: &Tally) -> Value {
    json!(tally)
}

/// The pause after a failed attempt.
pub(super) fn pause_after(attempt: u32) -> Duration {
    AGAIN_MAX.min(AGAIN_FIRST.saturating_mul(1 << attempt.saturating_sub(1).min(16)))
}
