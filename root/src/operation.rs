//! What became of one operation whose write was answered with `accepted`.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use trawl_proto::{Seq, ShardKey, v1};

use crate::catalog;
use crate::error::Error;
use crate::root::Root;

/// What is known of an operation.
#[derive(Clone, Debug, PartialEq)]
pub enum OperationState {
    /// It is not in the log: not yet, or never.
    Absent,
    /// It is durable, and no replica can say yet what it came to.
    Pending,
    /// It has been applied, so long ago that no replica remembers its outcome.
    Forgotten,
    /// Its outcome.
    Done(v1::Outcome),
}

impl Root {
    /// The state of an operation, and the incarnation that its seq counts in.
    ///
    /// # Errors
    /// [`Error::NoSuchIndex`]; [`Error::Invalid`] for a shard that the index does not have;
    /// [`Error::Unavailable`] when the log is out of reach.
    pub async fn operation(
        &self,
        index: &str,
        shard: u32,
        seq: Seq,
        timeout: Duration,
    ) -> Result<(OperationState, u64), Error> {
        let view = self.viewer.view();
        let record = catalog::record(&view, index)?;
        if shard >= record.shards {
            return Err(Error::illegal_argument(format!(
                "index [{index}] has [{}] shards, not [{shard}]",
                record.shards
            )));
        }
        let shard = ShardKey { index_uid: record.uid.clone(), number: shard };
        let heads = self.engine.log.heads(std::slice::from_ref(&shard)).await?;
        let Some(head) = heads.into_iter().next().flatten() else { return Ok((OperationState::Absent, 0)) };
        let incarnation = head.incarnation.0;
        if seq > head.last || seq.0 == 0 {
            return Ok((OperationState::Absent, incarnation));
        }
        let leaves = match view.serving.get(&shard) {
            Some(serving) if !serving.is_empty() => serving.clone(),
            _ => view.assignments.get(&shard).map(|assignment| assignment.leaves.clone()).unwrap_or_default(),
        };
        let request =
            v1::OutcomesRequest { shard: Some((&shard).into()), incarnation, first_seq: seq.0, last_seq: seq.0 };
        let mut calls: FuturesUnordered<_> = leaves
            .iter()
            .filter_map(|leaf| self.leaves.by_name(&view, leaf))
            .map(|client| {
                let request = request.clone();
                async move { client.outcomes(request, timeout).await }
            })
            .collect();
        let mut state = OperationState::Pending;
        while let Some(answer) = calls.next().await {
            let Ok(answer) = answer else { continue };
            if answer.failure.is_some() {
                continue;
            }
            match answer.outcomes.into_iter().find(|outcome| outcome.seq == seq.0) {
                Some(outcome) => return Ok((OperationState::Done(outcome), incarnation)),
                None => state = OperationState::Forgotten,
            }
        }
        Ok((state, incarnation))
    }
}
