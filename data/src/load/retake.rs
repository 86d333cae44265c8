//! A load whose claim ran out takes its own task up again, unless another process has it.
//!
//! A claim runs out when the cluster is away, or this process paused, for longer than the claim lasts. That nobody else
//! is there is the ordinary case: then the load goes on from the progress that is stored, as one that is started again.

use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::queue::{Claimed, Listed, QueueError, TaskQueue};
use super::report::{Observer, Report};
use super::{LoadError, LoadOptions};

/// Between two attempts while it is not clear whose the task is.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// The name under which this process claims.
pub(super) fn name() -> String {
    format!("trawl load, process {}", std::process::id())
}

/// Claims the task of `lost` again.
///
/// # Errors
/// `ClaimLost`, which says who has it or what became of it; `GaveUp` when the queue stays away for too long.
pub(super) async fn retake(
    queue: &dyn TaskQueue,
    kind: &str,
    lost: &Claimed,
    options: &LoadOptions,
    observer: &dyn Observer,
    report: &Report,
) -> Result<Claimed, LoadError> {
    observer.retaking();
    let name = name();
    let mut backoff = Backoff::new(options.retry_for);
    let started = Instant::now();
    loop {
        let pause = match find(queue, kind, lost, options.claim_time, &name).await {
            Ok(Found::Claimed(claimed)) => return Ok(*claimed),
            Ok(Found::Elsewhere(task)) => {
                // A claim of this process whose answer was lost lasts for its time, and the way to it takes some, too.
                let in_doubt = started.elapsed() < options.claim_time * 2;
                match standing(task.as_ref(), &name, in_doubt) {
                    Ok(()) => ASK_EVERY,
                    Err(reason) => return Err(LoadError::ClaimLost { reason, report: Box::new(report.clone()) }),
                }
            }
            Err(QueueError::Unavailable { reason, retry_after }) => match backoff.pause(Instant::now(), retry_after) {
                Ok(pause) => {
                    observer.retrying(&reason, pause);
                    pause
                }
                Err(give_up) => {
                    let report = Box::new(report.clone());
                    return Err(LoadError::GaveUp { tried: give_up.tried, last: reason, report });
                }
            },
            Err(error) => return Err(LoadError::Queue(error)),
        };
        if options.stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return Err(LoadError::Interrupted { report: Box::new(report.clone()) });
        }
    }
}

enum Found {
    Claimed(Box<Claimed>),
    /// Not to be had; as it stands, if it is kept.
    Elsewhere(Option<Listed>),
}

async fn find(
    queue: &dyn TaskQueue,
    kind: &str,
    lost: &Claimed,
    claim_time: Duration,
    name: &str,
) -> Result<Found, QueueError> {
    if let Some(claimed) = queue.claim(kind, claim_time, name).await? {
        if claimed.body["run"] == lost.body["run"] {
            return Ok(Found::Claimed(Box::new(claimed)));
        }
        // The same load, started once more after this one had ended.
        queue.nack(&claimed.receipt, Duration::ZERO, None).await.ok();
    }
    queue.task(&lost.receipt).await.map(Found::Elsewhere)
}

/// Whether the task may yet be had; else why not.
fn standing(task: Option<&Listed>, name: &str, in_doubt: bool) -> Result<(), String> {
    let Some(task) = task else {
        return Err("this load's task is no longer in the queue: another process finished it, or it was dropped".into());
    };
    match task.state.as_str() {
        "done" => Err("another process has taken over this load and finished it".to_owned()),
        "dead" if task.cancelled => Err("this load was cancelled".to_owned()),
        "dead" => Err("this load's task is dead: `trawl queue dead list` says why".to_owned()),
        "claimed" if task.worker != name || !in_doubt => {
            Err(format!("another process has taken over this load and is at work on it: {}", task.worker))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn only_what_another_holds_or_has_ended_is_given_up() {
        let is = |state: &str, worker: &str, in_doubt| {
            let (id, state, worker) = ("task-1".to_owned(), state.to_owned(), worker.to_owned());
            standing(Some(&Listed { id, state, body: Value::Null, worker, cancelled: true }), "me", in_doubt)
        };
        assert_eq!(is("ready", "other", true), Ok(()));
        assert_eq!(is("claimed", "me", true), Ok(()));
        assert!(is("claimed", "me", false).is_err_and(|reason| reason.contains("at work")));
        assert!(is("claimed", "other", true).is_err_and(|reason| reason.ends_with("other")));
        assert!(is("done", "other", true).is_err_and(|reason| reason.contains("finished")));
        assert!(is("dead", "me", true).is_err_and(|reason| reason.contains("cancelled")));
        assert!(standing(None, "me", true).is_err());
    }
}
