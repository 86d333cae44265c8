//! Trims the logs at what every assigned replica has committed.
//!
//! A log with two or more holders keeps a tail, so that a replica that restarts or lags a little finds
//! what it misses. With a single holder the log is the second copy: it is kept until it is large. A
//! holder that does not answer holds the log.
//!
//! At half its size limit a log is trimmed without a tail, and a holder that is absent, or lags far
//! behind the others, holds it no longer: it has to copy from another when it comes back. So a log is
//! full only when no replica keeps up.

use std::collections::{BTreeMap, HashMap};

use trawl_cluster::Error;
use trawl_cluster::shard_log::Head;
use trawl_cluster::view::View;
use trawl_proto::{Epoch, NodeName, Seq, ShardKey, v1};

use super::repair::history::{Found, compare};
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

/// A holder that is behind the best one by more than this share of a large log has lost it.
const LAG_SHARE: u64 = 4;

impl Trimmer {
    /// Trims what can be trimmed now.
    ///
    /// Returns whether a log is large, so that the next round should come soon.
    pub(super) async fn round(&mut self, root: &Root, epoch: Epoch) -> Result<bool, Error> {
        let mut any_large = false;
        let view = root.viewer.view();
        let shards: Vec<_> = view.uids.values().flat_map(|record| record.shard_keys()).collect();
        self.looked_at.retain(|shard, _| view.uids.contains_key(&shard.index_uid));
        for shards in shards.chunks(HEADS_MAX) {
            let heads = root.engine.log.heads(shards).await?;
            let heads = shards.iter().zip(heads).filter_map(|(shard, head)| Some((shard, head?)));
            let due: Vec<_> = heads.filter(|(shard, head)| self.due(&view, shard, head, &root.config.lead)).collect();
            any_large |= due.iter().any(|(shard, head)| is_large(&view, shard, head, &root.config.lead));
            if !due.is_empty() {
                self.trim(root, epoch, &view, due).await?;
            }
        }
        Ok(any_large)
    }

    /// Whether asking the leaves could be worth it.
    fn due(&mut self, view: &View, shard: &ShardKey, head: &Head, config: &LeadConfig) -> bool {
        let holders = view.assignments.get(shard).map_or(0, |assignment| assignment.leaves.len());
        let tail = head.last.0 - head.trimmed.0;
        // A tenth more than the tail, so that a steady stream is not trimmed row by row.
        let large = is_large(view, shard, head, config);
        let wanted = holders > 0
            && match keep(large, holders, config) {
                Some(0) => tail > 0,
                Some(keep) => tail > keep + keep / 10,
                None => false,
            };
        let looks = self.looked_at.get(shard).filter(|(last, _)| *last == head.last).map_or(0, |(_, looks)| *looks);
        if wanted {
            self.looked_at.insert(shard.clone(), (head.last, looks + 1));
        }
        // The head of a log that is full does not move, however often a holder commits.
        wanted && (large || looks < LOOKS_MAX)
    }

    async fn trim(&self, root: &Root, epoch: Epoch, view: &View, due: Vec<(&ShardKey, Head)>) -> Result<(), Error> {
        let committed = committed(root, view, &due).await?;
        for (shard, head) in due {
            let holders = view.assignments.get(shard).map_or(&[][..], |assignment| &assignment.leaves);
            let of_holder = |leaf: &NodeName| committed.get(&(shard.clone(), leaf.clone())).copied();
            let committed: Vec<_> = holders.iter().map(of_holder).collect();
            let large = is_large(view, shard, &head, &root.config.lead);
            if let Some(through) = through(&head, &committed, large, &root.config.lead) {
                root.engine.log.trim(epoch, shard, through).await?;
                tracing::debug!(%shard, %through, "log trimmed");
                let lost = holders.iter().zip(&committed).filter(|(_, seq)| seq.is_none_or(|seq| seq < through));
                for (leaf, committed) in lost {
                    tracing::warn!(%shard, %leaf, ?committed, %through, "replica lost its hold on a large log");
                }
            }
        }
        Ok(())
    }
}

/// What the assigned leaves have committed of each shard, in the log's present incarnation. A replica that
/// holds what the log has lost holds the log until it is repaired, also before it has noticed: what it has
/// committed is not what would be trimmed.
async fn committed(
    root: &Root,
    view: &View,
    due: &[(&ShardKey, Head)],
) -> Result<HashMap<(ShardKey, NodeName), Seq>, Error> {
    let mut by_leaf: BTreeMap<&NodeName, Vec<String>> = BTreeMap::new();
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
    let answers = futures::future::join_all(calls).await;
    // Read again: the heads have to be newer than the answers.
    let shards: Vec<ShardKey> = due.iter().map(|(shard, _)| (*shard).clone()).collect();
    let heads = root.engine.log.heads(&shards).await?;
    let heads: HashMap<ShardKey, Head> =
        shards.into_iter().zip(heads).filter_map(|(s, head)| Some((s, head?))).collect();
    let mut committed = HashMap::new();
    for (leaf, answer) in answers {
        for replica in answer.into_iter().flat_map(|answer| answer.replicas) {
            let Some(shard) = replica.shard.as_ref().map(ShardKey::from) else { continue };
            let Some(head) = heads.get(&shard).filter(|head| head.incarnation.0 == replica.incarnation) else {
                continue;
            };
            if compare(&*root.engine.log, &shard, Some(head), &replica).await? == Found::Fits {
                committed.insert((shard, leaf.clone()), Seq(replica.committed));
            }
        }
    }
    Ok(committed)
}

/// Whether a log has reached half of its size limit.
fn is_large(view: &View, shard: &ShardKey, head: &Head, config: &LeadConfig) -> bool {
    let own = view.uids.get(&shard.index_uid).and_then(|record| record.log_bytes_max);
    head.bytes >= own.map_or(config.log_bytes_high, |bytes_max| bytes_max / 2)
}

/// How many operations stay in the log; `None`: all of them.
fn keep(large: bool, holders: usize, config: &LeadConfig) -> Option<u64> {
    match (large, holders) {
        (true, _) => Some(0),
        (false, 0 | 1) => None,
        (false, _) => Some(config.trim_keep),
    }
}

/// Through which seq the log can be trimmed, given what each of its holders has committed (`None`: it did
/// not answer); `None` when there is nothing to trim.
fn through(head: &Head, committed: &[Option<Seq>], large: bool, config: &LeadConfig) -> Option<Seq> {
    let keep = keep(large, committed.len(), config)?;
    let best = committed.iter().flatten().max()?.0;
    let slack = (head.last.0 - head.trimmed.0) / LAG_SHARE;
    let holds = |seq: &Option<Seq>| !large || seq.is_some_and(|seq| seq.0 + slack >= best);
    let held: Option<Vec<Seq>> = committed.iter().filter(|seq| holds(seq)).copied().collect();
    let held = held?.into_iter().min()?.0;
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
        LeadConfig { trim_keep: 100, ..LeadConfig::default() }
    }

    fn of(head: &Head, committed: &[u64], large: bool) -> Option<u64> {
        // 0 stands for a holder that did not answer.
        let committed: Vec<_> = committed.iter().map(|seq| (*seq > 0).then_some(Seq(*seq))).collect();
        through(head, &committed, large, &config()).map(|seq| seq.0)
    }

    #[test]
    fn the_slowest_holder_and_the_tail_hold_the_log() {
        let of = |head: &Head, committed: &[u64]| of(head, committed, false);
        assert_eq!(of(&head(1_000, 0, 10), &[1_000, 1_000]), Some(900));
        assert_eq!(of(&head(1_000, 0, 10), &[1_000, 300]), Some(300));
        assert_eq!(of(&head(1_000, 300, 10), &[1_000, 300]), None);
        assert_eq!(of(&head(1_000, 0, 10), &[1_000, 0]), None, "who does not answer holds the log");
        assert_eq!(of(&head(50, 0, 10), &[50, 50]), None);
        assert_eq!(of(&head(1_000, 0, 10), &[1_000]), None, "a single holder's log is its second copy");
    }

    #[test]
    fn a_large_log_is_held_by_those_who_keep_up() {
        let of = |head: &Head, committed: &[u64]| of(head, committed, true);
        assert_eq!(of(&head(1_000, 0, 2_000), &[990]), Some(990));
        assert_eq!(of(&head(1_000, 0, 2_000), &[]), None);
        assert_eq!(of(&head(1_000, 0, 2_000), &[0, 0]), None, "nobody answers");
        assert_eq!(of(&head(1_000, 0, 2_000), &[900, 0]), Some(900), "absent");
        assert_eq!(of(&head(1_000, 0, 2_000), &[900, 700]), Some(700), "a little behind");
        assert_eq!(of(&head(1_000, 0, 2_000), &[900, 600]), Some(900), "far behind");
        assert_eq!(of(&head(1_000, 800, 2_000), &[900, 840]), Some(900), "far behind in a short log");
    }
}
