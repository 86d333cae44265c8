//! What the operations of a batch came to: asked of every replica at once, which tells them at the same
//! time that the log has grown. The first complete answer wins.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;
use trawl_cluster::catalog::{IndexRecord, decode, keys};
use trawl_cluster::shard_log::Appended;
use trawl_proto::{NodeName, v1};

use super::batches::Batch;
use crate::root::Root;

/// Between two rounds when no replica could answer.
const RETRY: Duration = Duration::from_millis(100);

/// Outcomes by seq, as far as they are known before the time is over.
pub(super) async fn ask(root: &Root, batch: &Batch, appended: &Appended, wait: Duration) -> BTreeMap<u64, v1::Outcome> {
    let deadline = Instant::now() + wait;
    let mut known = BTreeMap::new();
    while Instant::now() < deadline {
        let answered = round(root, batch, appended, deadline, &mut known).await;
        // A replica that answers with less has forgotten, and so have the others.
        if answered || known.len() == batch.places.len() || is_deleted(root, batch).await {
            break;
        }
        tokio::time::sleep(RETRY.min(deadline.saturating_duration_since(Instant::now()))).await;
    }
    known
}

/// Whether the batch's index was deleted since. The view alone does not tell: it may not show an index yet
/// that was just made.
pub(super) async fn is_deleted(root: &Root, batch: &Batch) -> bool {
    let uid = &batch.record.uid;
    if root.viewer.view().uids.contains_key(uid) {
        return false;
    }
    match root.engine.store.get(&keys::index(&batch.record.name)).await {
        Ok(None) => true,
        Ok(Some(entry)) => decode::<IndexRecord>(&entry.key, &entry.value).is_ok_and(|record| record.uid != *uid),
        Err(_) => false,
    }
}

/// Asks every replica once; whether any answered.
async fn round(
    root: &Root,
    batch: &Batch,
    appended: &Appended,
    deadline: Instant,
    known: &mut BTreeMap<u64, v1::Outcome>,
) -> bool {
    let request = v1::OutcomesRequest {
        shard: Some((&batch.shard).into()),
        incarnation: appended.incarnation.0,
        first_seq: appended.first.0,
        last_seq: appended.last.0,
    };
    let view = root.viewer.view();
    let clients = replicas(root, batch).into_iter().filter_map(|leaf| root.leaves.by_name(&view, &leaf));
    let mut calls: FuturesUnordered<_> = clients
        .map(|client| {
            let request = request.clone();
            let left = deadline.saturating_duration_since(Instant::now());
            async move { client.outcomes(request, left).await }
        })
        .collect();
    let mut answered = false;
    while let Some(answer) = calls.next().await {
        let Ok(answer) = answer else { continue };
        if answer.failure.is_some() {
            continue;
        }
        answered = true;
        let asked = appended.first.0..=appended.last.0;
        let outcomes = answer.outcomes.into_iter().filter(|outcome| asked.contains(&outcome.seq));
        known.extend(outcomes.map(|outcome| (outcome.seq, outcome)));
        if known.len() == batch.places.len() {
            break;
        }
    }
    answered
}

/// Serving replicas; when there are none, those that are still catching up.
fn replicas(root: &Root, batch: &Batch) -> Vec<NodeName> {
    let view = root.viewer.view();
    match view.serving.get(&batch.shard) {
        Some(serving) if !serving.is_empty() => serving.clone(),
        _ => view.assignments.get(&batch.shard).map(|assignment| assignment.leaves.clone()).unwrap_or_default(),
    }
}
