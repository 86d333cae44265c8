//! Batches into the shard logs.

use std::time::Duration;

use tokio::time::Instant;
use trawl_cluster::Error as EngineError;
use trawl_cluster::shard_log::{Append, Appended};
use trawl_cluster::work_queue::Receipt;

use super::batches::Batch;
use super::lag;
use crate::error::Error;
use crate::limits::Limit;
use crate::root::Root;

/// How often a log that is not there yet is looked for.
const LOG_POLL: Duration = Duration::from_millis(50);

/// Appends all batches in one call; results in their order. The log of a new index may have to be
/// waited for. Batches of shards whose replicas are too far behind are refused.
pub(super) async fn append(root: &Root, batches: &[Batch], claim: Option<Receipt>) -> Vec<Result<Appended, Error>> {
    let deadline = Instant::now() + root.config.write.append_wait_max;
    let mut results: Vec<Option<Result<Appended, Error>>> = Vec::with_capacity(batches.len());
    for batch in batches {
        results.push(lag::check(root, batch).await.err().map(Err));
    }
    loop {
        let open: Vec<usize> = (0..batches.len()).filter(|at| results[*at].is_none()).collect();
        if open.is_empty() {
            break;
        }
        let answers = once(root, open.iter().map(|at| to_append(&batches[*at], claim)).collect(), deadline).await;
        for (at, answer) in open.iter().zip(answers) {
            let exists = || root.viewer.view().uids.contains_key(&batches[*at].record.uid);
            results[*at] = match answer {
                Ok(appended) => Some(Ok(appended)),
                Err(Refused::NoLog) if !exists() => Some(Err(Error::NoSuchIndex(batches[*at].record.name.clone()))),
                Err(Refused::NoLog) if Instant::now() < deadline => None,
                Err(Refused::NoLog) => Some(Err(Error::Unavailable(format!(
                    "[{}][{}] has no log yet: nobody leads, or the leader is busy",
                    batches[*at].record.name, batches[*at].shard.number
                )))),
                Err(Refused::For(error)) => Some(Err(error)),
            };
        }
        if results.iter().any(Option::is_none) {
            tokio::time::sleep(LOG_POLL).await;
        }
    }
    results.into_iter().flatten().collect()
}

enum Refused {
    NoLog,
    For(Error),
}

impl From<EngineError> for Refused {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::NoSuchLog(_) => Self::NoLog,
            error => Self::For(error.into()),
        }
    }
}

async fn once(root: &Root, batches: Vec<Append>, deadline: Instant) -> Vec<Result<Appended, Refused>> {
    let count = batches.len();
    let all = |error: Error| (0..count).map(|_| Err(Refused::For(error.clone()))).collect();
    // When time runs out the batches may still become durable; the error says "not known", and a write
    // with a key may be repeated.
    let deadline = match root.log_gate.enter(root.config.write.append_wait_max) {
        Ok(wait) => deadline.min(Instant::now() + wait),
        Err(error) => return all(error),
    };
    let result = match tokio::time::timeout_at(deadline, root.engine.log.append(batches)).await {
        Ok(result) => result.map_err(|error| counted(root, error).into()),
        Err(_) => Err(Error::Unavailable("the cluster engine did not answer in time".to_owned())),
    };
    root.log_gate.note(&result);
    match result {
        Ok(results) => results.into_iter().map(|result| result.map_err(|error| counted(root, error).into())).collect(),
        Err(error) => all(error),
    }
}

/// Counts what a limit refused.
fn counted(root: &Root, error: EngineError) -> EngineError {
    match error {
        EngineError::LogFull { .. } => root.metrics.refusals.count(Limit::LogSize),
        EngineError::Busy => root.metrics.refusals.count(Limit::AppendQueue),
        _ => {}
    }
    error
}

fn to_append(batch: &Batch, claim: Option<Receipt>) -> Append {
    Append {
        shard: batch.shard.clone(),
        mapping_version: batch.record.mapping_version,
        operations: batch.places.len() as u32,
        body: batch.body.clone(),
        message_id: batch.message_id.clone(),
        claim,
        log_bytes_max: batch.record.log_bytes_max,
    }
}
