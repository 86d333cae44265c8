//! Has operations skipped that panic or hang wherever they are tried.
//!
//! [`decide`] says which, from what the replicas report; the driver records them, fenced. A record goes
//! when its operation is trimmed from the log, or with the index.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use trawl_cluster::Error;
use trawl_cluster::catalog::{SkipRecord, keys};
use trawl_cluster::shard_log::Head;
use trawl_cluster::store::{Guard, Revision, Write};
use trawl_cluster::view::View;
use trawl_proto::{Generation, IndexUid, NodeName, ShardKey, v1};

use super::Leader;

/// Operations of one shard that are skipped at a time; beyond it the shard stands still, for whatever
/// sends them has to be mended first.
const SKIPS_MAX: usize = 1_000;
/// Longest reason that is kept, in bytes.
const REASON_BYTES_MAX: usize = 1_024;

/// What a replica says of itself.
#[derive(Clone, Debug)]
struct Report {
    applied: Generation,
    /// What it cannot apply, and why.
    poison: Option<(Generation, String)>,
}

/// What the live leaves say, by shard. A leaf that did not answer has no entry.
type Reports = BTreeMap<ShardKey, BTreeMap<NodeName, Report>>;

/// An operation to have skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Skip {
    shard: ShardKey,
    at: Generation,
    reason: String,
}

/// What has to be skipped: what an assigned replica cannot apply, is in the log's present incarnation and
/// not skipped yet. Not before every other live holder has answered, and not when one of them has applied
/// it: then the trouble is with the replica and not with the operation.
fn decide(view: &View, heads: &HashMap<ShardKey, Head>, reports: &Reports) -> Vec<Skip> {
    let mut skips = Vec::new();
    for (shard, reports) in reports {
        let (Some(assignment), Some(head)) = (view.assignments.get(shard), heads.get(shard)) else { continue };
        let skipped = view.skips.get(shard);
        let is_alive = |leaf: &&NodeName| view.leaf(leaf).is_some_and(|node| node.alive);
        let has_answered = |leaf: &NodeName| reports.contains_key(leaf);
        if !assignment.leaves.iter().filter(is_alive).all(has_answered) {
            continue;
        }
        let holders = || reports.iter().filter(|(leaf, _)| assignment.leaves.contains(leaf)).map(|(_, report)| report);
        let found: BTreeMap<Generation, &String> =
            holders().filter_map(|report| report.poison.as_ref()).map(|(at, reason)| (*at, reason)).collect();
        for (at, reason) in found {
            let is_in_log = at.incarnation == head.incarnation && at.seq > head.trimmed && at.seq <= head.last;
            let is_applied =
                holders().any(|report| report.applied.incarnation == at.incarnation && report.applied >= at);
            let is_known = skipped.is_some_and(|skipped| skipped.contains_key(&at) || skipped.len() >= SKIPS_MAX);
            if is_in_log && !is_applied && !is_known {
                let reason = reason[..reason.floor_char_boundary(REASON_BYTES_MAX)].to_owned();
                skips.push(Skip { shard: shard.clone(), at, reason });
            }
        }
    }
    skips
}

/// The skips that nobody will meet again: trimmed, or of an incarnation that is over.
fn obsolete(view: &View, heads: &HashMap<ShardKey, Head>) -> Vec<(ShardKey, Generation)> {
    let of_shard = |(shard, skips): (&ShardKey, &std::sync::Arc<BTreeMap<Generation, _>>)| {
        let head = heads.get(shard);
        let is_over = |at: &&Generation| {
            head.is_some_and(|head| at.incarnation < head.incarnation || at.seq <= head.trimmed)
                || (head.is_none() && !view.uids.contains_key(&shard.index_uid))
        };
        skips.keys().filter(is_over).map(|at| (shard.clone(), *at)).collect::<Vec<_>>()
    };
    view.skips.iter().flat_map(of_shard).collect()
}

impl Leader<'_> {
    /// Asks who has met poison, and has it skipped.
    pub(super) async fn skip_poison(&self) -> Result<(), Error> {
        let view = self.root.viewer.view();
        let poisoned = self.ask(&view, v1::StatusRequest { poisoned: true, ..Default::default() }).await;
        let uids: BTreeSet<IndexUid> = poisoned.into_keys().map(|shard| shard.index_uid).collect();
        if uids.is_empty() {
            return Ok(());
        }
        let index_uids = uids.into_iter().map(|uid| uid.0).collect();
        let reports = self.ask(&view, v1::StatusRequest { index_uids, ..Default::default() }).await;
        let heads = self.heads(reports.keys().cloned().collect()).await?;
        for skip in decide(&view, &heads, &reports) {
            // Decided on this assignment: a replica that came since may have applied the operation.
            let Some(assignment) = view.revision_of(&keys::assignment(&skip.shard)) else { continue };
            let revision = self.record(&skip, assignment).await?;
            tracing::error!(shard = %skip.shard, at = %skip.at, reason = skip.reason, "operation is skipped");
            self.root.metrics.operations_skipped.inc();
            self.root.viewer.at_least(revision, super::VIEW_TIMEOUT).await;
        }
        Ok(())
    }

    /// Removes the records of operations that are no longer in their logs.
    pub(super) async fn forget_skips(&self) -> Result<(), Error> {
        let view = self.root.viewer.view();
        if view.skips.is_empty() {
            return Ok(());
        }
        let heads = self.heads(view.skips.keys().cloned().collect()).await?;
        let writes: Vec<_> =
            obsolete(&view, &heads).iter().map(|(shard, at)| Write::Delete(keys::skip(shard, *at))).collect();
        if !writes.is_empty() {
            self.commit("forget-skips", Vec::new(), writes).await?;
        }
        Ok(())
    }

    async fn record(&self, skip: &Skip, assignment: Revision) -> Result<Revision, Error> {
        let key = keys::skip(&skip.shard, skip.at);
        let guards = vec![Guard::At(keys::assignment(&skip.shard), assignment), Guard::Absent(key.clone())];
        let record = SkipRecord { format: 1, reason: skip.reason.clone() };
        let value = serde_json::to_vec(&record).map_err(|error| Error::Corrupt(error.to_string()))?;
        self.commit("skip", guards, vec![Write::Put(key, value.into())]).await
    }

    async fn heads(&self, shards: Vec<ShardKey>) -> Result<HashMap<ShardKey, Head>, Error> {
        let heads = self.root.engine.log.heads(&shards).await?;
        Ok(shards.into_iter().zip(heads).filter_map(|(shard, head)| Some((shard, head?))).collect())
    }

    async fn ask(&self, view: &View, request: v1::StatusRequest) -> Reports {
        let root = self.root;
        let clients = view.leaves().filter(|node| node.alive).filter_map(|node| root.leaves.client(&node.record));
        let calls = clients.map(|client| {
            let request = request.clone();
            async move { (client.name().clone(), client.status(request, root.config.leaves.status_timeout).await) }
        });
        let mut reports = Reports::new();
        for (leaf, answer) in futures::future::join_all(calls).await {
            for replica in answer.into_iter().flat_map(|answer| answer.replicas) {
                let Some(shard) = replica.shard.as_ref().map(ShardKey::from) else { continue };
                let applied = v1::Generation { incarnation: replica.incarnation, seq: replica.applied }.into();
                let poison = replica.poison.map(|at| (at.into(), replica.poison_reason));
                reports.entry(shard).or_default().insert(leaf.clone(), Report { applied, poison });
            }
        }
        reports
    }
}

#[cfg(test)]
mod tests;
