//! Trims the logs at what every assigned replica has committed.
//!
//! A log with two or more holders keeps a tail, so that a replica that restarts or lags a little finds
//! what it misses. With a single holder the log is the second copy: it is kept until it is large. A
//! holder that does not answer holds the log.

use std::collections::HashMap;

use trawl_cluster::Error;
use trawl_cluster::shard_log::Head;
use trawl_cluster::view::View;
use trawl_proto::{Epoch, NodeName, Seq, ShardKey, v1};

use crate::config::LeadConfig;
use crate::root::Root;

/// Shards whose heads are read in one call.
const HEADS_MAX: usize = 1_000;

/// Remembers what was looked at, so that a quiet cluster costs one read of the heads.
#[derive(Default)]
pub(super) struct Trimmer {
    /// The head at which nothing could be trimmed.
    looked_at: HashMap<ShardKey, (Seq, u32)>,
}

/// How often a head that does not move is looked at again: a holder may have committed in between.
const LOOKS_MAX: u32 = 3;

impl Trimmer {
    /// Trims what can be trimmed now.
    pub(super) async fn round(&mut self, root: &Root, epoch: Epoch) -> Result<(), Error> {
        let view = root.viewer.view();
        let shards: Vec<_> = view.uids.values().flat_map(|record| record.shard_keys()).collect();
        self.looked_at.retain(|shard, _| view.uids.contains_key(&shard.index_uid));
        for shards in shards.chunks(HEADS_MAX) {
            let heads = root.engine.log.heads(shards).await?;
            let heads = shards.iter().zip(heads).filter_map(|(shard, head)| Some((shard, head?)));
            let due: Vec<_> = heads.filter(|(shard, head)| self.due(&view, shard, head, &root.config.lead)).collect();
            if !due.is_empty() {
                self.trim(root, epoch, &view, due).await?;
            }
        }
        Ok(())
    }

    /// Whether asking the leaves could be worth it.
    fn due(&mut self, view: &View, shard: &ShardKey, head: &Head, config: &LeadConfig) -> bool {
        let holders = view.assignments.get(shard).map_or(0, |assignment| assignment.leaves.len());
        let tail = head.last.0 - head.trimmed.0;
        // A tenth more than the tail, so that a steady stream is not trimmed row by row.
        let wanted = holders > 0
            && match keep(head, holders, config) {
                Some(0) => tail > 0,
                Some(keep) => tail > keep + keep / 10,
                None => false,
            };
        let looks = self.looked_at.get(shard).filter(|(last, _)| *last == head.last).map_or(0, |(_, looks)| *looks);
        if wanted {
            self.looked_at.insert(shard.clone(), (head.last, looks + 1));
        }
        wanted && looks < LOOKS_MAX
    }

    async fn trim(&self, root: &Root, epoch: Epoch, view: &View, due: Vec<(&ShardKey, Head)>) -> Result<(), Error> {
        let committed = committed(root, view, &due).await;
        for (shard, head) in due {
            let holders = view.assignments.get(shard).map_or(&[][..], |assignment| &assignment.leaves);
            let of_holder = |leaf: &NodeName| committed.get(&(shard.clone(), leaf.clone())).copied();
            let committed: Option<Vec<_>> = holders.iter().map(of_holder).collect();
            let Some(committed) = committed else { continue };
            if let Some(through) = through(&head, &committed, &root.config.lead) {
                root.engine.log.trim(epoch, shard, through).await?;
                tracing::debug!(%shard, %through, "log trimmed");
            }
        }
        Ok(())
    }
}

/// What the assigned leaves have committed of each shard, in the log's present incarnation.
async fn committed(root: &Root, view: &View, due: &[(&ShardKey, Head)]) -> HashMap<(ShardKey, NodeName), Seq> {
    let mut by_leaf: HashMap<&NodeName, Vec<String>> = HashMap::new();
    for (shard, _) in due {
        for leaf in view.assignments.get(shard).iter().flat_map(|assignment| &assignment.leaves) {
            by_leaf.entry(leaf).or_default().push(shard.index_uid.0.clone());
        }
    }
    let calls = by_leaf.into_iter().filter_map(|(leaf, mut index_uids)| {
        index_uids.sort();
        index_uids.dedup();
        let client = root.leaves.by_name(view, leaf)?;
        let request = v1::StatusRequest { index_uids, fields: false, poisoned: false };
        Some(async move { (leaf, client.status(request, root.config.leaves.status_timeout).await) })
    });
    let mut committed = HashMap::new();
    for (leaf, answer) in futures::future::join_all(calls).await {
        for replica in answer.into_iter().flat_map(|answer| answer.replicas) {
            let Some(shard) = replica.shard.as_ref().map(ShardKey::from) else { continue };
            let head = due.iter().find(|(there, _)| **there == shard).map(|(_, head)| head);
            // A replica that holds what the log has lost holds the log until it is repaired.
            let is_broken = |head: &Head| replica.broken || replica.committed > head.last.0;
            if head.is_some_and(|head| head.incarnation.0 == replica.incarnation && !is_broken(head)) {
                committed.insert((shard, leaf.clone()), Seq(replica.committed));
            }
        }
    }
    committed
}

/// How many operations stay in the log; `None`: all of them.
fn keep(head: &Head, holders: usize, config: &LeadConfig) -> Option<u64> {
    match (head.bytes >= config.log_bytes_high, holders) {
        (true, _) => Some(0),
        (false, 0 | 1) => None,
        (false, _) => Some(config.trim_keep),
    }
}

/// Through which seq the log can be trimmed, given what each of its holders has committed; `None` when
/// there is nothing to trim.
fn through(head: &Head, committed: &[Seq], config: &LeadConfig) -> Option<Seq> {
    let keep = keep(head, committed.len(), config)?;
    let held = committed.iter().min()?.0;
    let through = Seq(held.min(head.last.0.saturating_sub(keep)));
    (through > head.trimmed).then_some(through)
}

#[cfg(test)]
mod tests {
    use trawl_proto::Incarnation;

    use super::*;

    fn head(last: u64, trimmed: u64, bytes: u64) -> Head {
        Head {
            incarnation: Incarnation(1),
            last: Seq(last),
            chain: 0,
            trimmed: Seq(trimmed),
            mapping_version: 1,
            bytes,
            time_ms: 0,
        }
    }

    fn config() -> LeadConfig {
        LeadConfig { trim_keep: 100, log_bytes_high: 1_000, ..LeadConfig::default() }
    }

    #[test]
    fn the_slowest_holder_and_the_tail_hold_the_log() {
        let of = |head: &Head, committed: &[u64]| {
            let committed: Vec<_> = committed.iter().copied().map(Seq).collect();
            through(head, &committed, &config()).map(|seq| seq.0)
        };
        assert_eq!(of(&head(1_000, 0, 10), &[1_000, 1_000]), Some(900));
        assert_eq!(of(&head(1_000, 0, 10), &[1_000, 300]), Some(300));
        assert_eq!(of(&head(1_000, 300, 10), &[1_000, 300]), None);
        assert_eq!(of(&head(50, 0, 10), &[50, 50]), None);
        assert_eq!(of(&head(1_000, 0, 10), &[1_000]), None, "a single holder's log is its second copy");
        assert_eq!(of(&head(1_000, 0, 2_000), &[990]), Some(990), "until it is large");
        assert_eq!(of(&head(1_000, 0, 2_000), &[]), None);
    }
}
