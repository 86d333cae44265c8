//! Claims jobs and runs them, a bounded number at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use trawl_cluster::Error as EngineError;
use trawl_cluster::work_queue::{Claim, TaskId, TaskState};

use super::run::{Ended, Run};
use super::{KIND, ParseQuery};
use crate::lifecycle::now_ms;
use crate::root::Root;

/// How often dead jobs whose time is over are looked for.
const CLEAN_INTERVAL: Duration = Duration::from_secs(300);
/// Dead jobs looked at in one go.
const CLEAN_MAX: usize = 1_000;
/// How long a job rests that could not go on.
const RETRY_DELAY: Duration = Duration::from_secs(5);

/// Runs jobs until `shutdown`; those at work are given back then.
pub(crate) async fn run(root: Arc<Root>, parse: ParseQuery, shutdown: CancellationToken) {
    let config = root.config.by_query.clone();
    let room = Arc::new(Semaphore::new(config.concurrency.max(1)));
    let mut at_work = JoinSet::new();
    let mut clean_at = Instant::now() + CLEAN_INTERVAL;
    loop {
        while at_work.try_join_next().is_some() {}
        let Some(Ok(permit)) = shutdown.run_until_cancelled(room.clone().acquire_owned()).await else { break };
        let claimed = root.engine.queue.claim(KIND, config.lease, root.config.name.as_str()).await;
        match claimed {
            Ok(Some(claim)) => {
                let (root, stop) = (root.clone(), shutdown.clone());
                at_work.spawn(async move {
                    work(&root, parse, claim, &stop).await;
                    drop(permit);
                });
                continue;
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "cannot claim a job"),
        }
        drop(permit);
        if clean_at <= Instant::now() {
            if let Err(error) = clean(&root).await {
                tracing::debug!(%error, "cannot look for old jobs");
            }
            clean_at = Instant::now() + CLEAN_INTERVAL;
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = root.by_query.pushed.notified() => {}
            () = tokio::time::sleep(config.idle_poll) => {}
        }
    }
    while at_work.join_next().await.is_some() {}
}

/// One job under one claim.
async fn work(root: &Root, parse: ParseQuery, claim: Claim, stop: &CancellationToken) {
    let (receipt, attempt) = (claim.receipt, claim.attempt);
    let queue = &root.engine.queue;
    tracing::info!(task = receipt.task.0, attempt, "a job by query goes on");
    let run = match Run::new(root, parse, claim) {
        Ok(run) => run,
        Err(error) => {
            let _ = queue.nack(receipt, RETRY_DELAY, Some(&error.to_string())).await;
            return;
        }
    };
    let ended = tokio::select! {
        ended = run.run() => ended,
        // Not part of the attempt: whoever claims it next goes on where this one is.
        () = stop.cancelled() => {
            let _ = queue.nack(receipt, Duration::ZERO, None).await;
            return;
        }
    };
    let settled = match ended {
        Ended::Done(progress) => match serde_json::to_vec(&progress) {
            Ok(result) => queue.ack(receipt, result.into()).await,
            Err(error) => queue.nack(receipt, RETRY_DELAY, Some(&error.to_string())).await,
        },
        Ended::Later(reason) => {
            tracing::warn!(task = receipt.task.0, reason, "a job by query cannot go on now");
            queue.nack(receipt, RETRY_DELAY, Some(&reason)).await
        }
        Ended::Lost => Err(EngineError::ClaimLost(receipt)),
    };
    match settled {
        Ok(()) => root.by_query.ended.notify_waiters(),
        Err(error) => tracing::warn!(task = receipt.task.0, %error, "a job by query is somebody else's now"),
    }
}

/// Forgets cancelled and given up jobs after as long as finished ones are kept.
async fn clean(root: &Root) -> Result<(), EngineError> {
    let queue = &root.engine.queue;
    let keep_ms = root.config.by_query.keep.as_millis() as u64;
    let dead = queue.tasks(KIND, Some(TaskState::Dead), TaskId(0), CLEAN_MAX).await?;
    let now = now_ms();
    let old: Vec<TaskId> = dead.iter().filter(|task| task.changed_ms + keep_ms < now).map(|task| task.id).collect();
    if !old.is_empty() {
        queue.drop_dead(&old).await?;
    }
    Ok(())
}
