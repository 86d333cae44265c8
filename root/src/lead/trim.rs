//! Trims the logs at what every assigned replica has committed.
//!
//! A log with two or more holders keeps a tail, so that a replica that restarts or lags a little finds
//! what it misses. With a single holder the log is the second copy: it is kept until it is large. A
//! holder that does not answer holds the log. So does one that is being copied from another leaf: it says
//! where it will stand.
//!
//! At half its size limit a log is trimmed without a tail, and a holder that is absent, or lags far
//! behind the others, holds it no longer: it has to copy from another when it comes back. One that is not
//! serving yet but says where it stands, as every replica that joins, holds it until three quarters of the
//! limit: else under steady writes it would have to begin again and again. So a log is full only when no
//! replica keeps up.

use std::collections::{BTreeMap, HashMap};

use trawl_cluster::Error;
use trawl_cluster::shard_log::Head;
use trawl_cluster::view::View;
use trawl_proto::{Epoch, Generation, Incarnation, NodeName, Seq, ShardKey, v1};

use super::fenced;
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

/// How far a holder is.
#[derive(Clone, Copy, Debug)]
struct Hold {
    /// What it has committed, or will have once it is copied.
    seq: Seq,
    /// Whether it is on its way to serving.
    is_joining: bool,
    /// Whether it is still being copied: it holds the log, but nothing of what would be trimmed.
    is_copied: bool,
}

/// How large a log is, by its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Size {
    Small,
    /// Half of the limit.
    Large,
    /// Three quarters.
    NearlyFull,
}

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
            any_large |= due.iter().any(|(shard, head)| size(&view, shard, head, &root.config.lead) >= Size::Large);
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
        let size = size(view, shard, head, config);
        let wanted = holders > 0
            && match keep(size, holders, config) {
                Some(0) => tail > 0,
                Some(keep) => tail > keep + keep / 10,
                None => false,
            };
        let looks = self.looked_at.get(shard).filter(|(last, _)| *last == head.last).map_or(0, |(_, looks)| *looks);
        if wanted {
            self.looked_at.insert(shard.clone(), (head.last, looks + 1));
        }
        // The head of a log that is full does not move, however often a holder commits.
        wanted && (size >= Size::Large || looks < LOOKS_MAX)
    }

    async fn trim(&self, root: &Root, epoch: Epoch, view: &View, due: Vec<(&ShardKey, Head)>) -> Result<(), Error> {
        let (heads, committed) = committed(root, view, &due).await?;
        for (shard, head) in due {
            let Some(seen) = heads.get(shard).map(Head::mark) else { continue };
            let holders = view.assignments.get(shard).map_or(&[][..], |assignment| &assignment.leaves);
            let of_holder = |leaf: &NodeName| committed.get(&(shard.clone(), leaf.clone())).copied();
            let committed: Vec<_> = holders.iter().map(of_holder).collect();
            let size = size(view, shard, &head, &root.config.lead);
            if let Some(through) = through(&head, &committed, size, &root.config.lead) {
                match fenced::trim(root, epoch, shard, seen, through).await {
                    // What is to be done about it is decided elsewhere.
                    Err(error @ (Error::OtherIncarnation { .. } | Error::OtherHistory { .. })) => {
                        tracing::warn!(%shard, %error, "log is not trimmed");
                        continue;
                    }
                    trimmed => trimmed?,
                }
                tracing::debug!(%shard, %through, "log trimmed");
                let lost =
                    holders.iter().zip(&committed).filter(|(_, hold)| hold.is_none_or(|hold| hold.seq < through));
                for (leaf, hold) in lost {
                    tracing::warn!(%shard, %leaf, ?hold, %through, "replica lost its hold on a large log");
                }
            }
        }
        Ok(())
    }
}

/// The heads of the logs, and what the assigned leaves have committed of each shard, in the log's present incarnation. A replica that
/// holds what the log has lost holds the log until it is repaired, also before it has noticed: what it has
/// committed is not what would be trimmed.
async fn committed(
    root: &Root,
    view: &View,
    due: &[(&ShardKey, Head)],
) -> Result<(HashMap<ShardKey, Head>, HashMap<(ShardKey, NodeName), Hold>), Error> {
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
            let Some(head) = heads.get(&shard) else { continue };
            let is_joining = replica.state() == v1::replica_status::State::Recovering;
            let here = Generation { incarnation: Incarnation(replica.incarnation), seq: Seq(replica.committed) };
            // One that is copied has nothing yet that the log could have lost; its source is asked as well.
            let (at, is_copied) = match replica.copy_generation {
                Some(at) => (Generation::from(at), true),
                None => (here, false),
            };
            if at.incarnation != head.incarnation || at.seq > head.last {
                continue;
            }
            if is_copied || compare(&*root.engine.log, &shard, Some(head), &replica).await? == Found::Fits {
                committed.insert((shard, leaf.clone()), Hold { seq: at.seq, is_joining, is_copied });
            }
        }
    }
    Ok((heads, committed))
}

fn size(view: &View, shard: &ShardKey, head: &Head, config: &LeadConfig) -> Size {
    let own = view.uids.get(&shard.index_uid).and_then(|record| record.log_bytes_max);
    let half = own.map_or(config.log_bytes_high, |bytes_max| bytes_max / 2);
    match head.bytes {
        bytes if bytes >= half + half / 2 => Size::NearlyFull,
        bytes if bytes >= half => Size::Large,
        _ => Size::Small,
    }
}

/// How many operations stay in the log; `None`: all of them.
fn keep(size: Size, holders: usize, config: &LeadConfig) -> Option<u64> {
    match (size, holders) {
        (Size::Large | Size::NearlyFull, _) => Some(0),
        (Size::Small, 0 | 1) => None,
        (Size::Small, _) => Some(config.trim_keep),
    }
}

/// Through which seq the log can be trimmed, given how far each of its holders is (`None`: it did not
/// answer); `None` when there is nothing to trim.
fn through(head: &Head, holders: &[Option<Hold>], size: Size, config: &LeadConfig) -> Option<Seq> {
    let keep = keep(size, holders.len(), config)?;
    let best = holders.iter().flatten().filter(|hold| !hold.is_copied).map(|hold| hold.seq).max()?.0;
    let slack = (head.last.0 - head.trimmed.0) / LAG_SHARE;
    let holds = |holder: &Option<Hold>| match (size, holder) {
        (Size::Small, _) => true,
        (_, None) => false,
        (_, Some(hold)) => hold.seq.0 + slack >= best || (hold.is_joining && size < Size::NearlyFull),
    };
    let held: Option<Vec<Hold>> = holders.iter().filter(|holder| holds(holder)).copied().collect();
    let held = held?.into_iter().map(|hold| hold.seq.0).min()?;
    let through = Seq(held.min(head.last.0.saturating_sub(keep)));
    (through > head.trimmed).then_some(through)
}

#[cfg(test)]
mod tests {
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

    fn of(head: &Head, committed: &[u64], size: Size) -> Option<u64> {
        // 0 stands for a holder that did not answer.
        let hold = |seq: &u64| (*seq > 0).then_some(Hold { seq: Seq(*seq), is_joining: false, is_copied: false });
        let holders: Vec<_> = committed.iter().map(hold).collect();
        through(head, &holders, size, &config()).map(|seq| seq.0)
    }

    #[test]
    fn the_slowest_holder_and_the_tail_hold_the_log() {
        let of = |head: &Head, committed: &[u64]| of(head, committed, Size::Small);
        assert_eq!(of(&head(1_000, 0, 10), &[1_000, 1_000]), Some(900));
        assert_eq!(of(&head(1_000, 0, 10), &[1_000, 300]), Some(300));
        assert_eq!(of(&head(1_000, 300, 10), &[1_000, 300]), None);
        assert_eq!(of(&head(1_000, 0, 10), &[1_000, 0]), None, "who does not answer holds the log");
        assert_eq!(of(&head(50, 0, 10), &[50, 50]), None);
        assert_eq!(of(&head(1_000, 0, 10), &[1_000]), None, "a single holder's log is its second copy");
    }

    #[test]
    fn a_large_log_is_held_by_those_who_keep_up() {
        let of = |head: &Head, committed: &[u64]| of(head, committed, Size::Large);
        assert_eq!(of(&head(1_000, 0, 2_000), &[990]), Some(990));
        assert_eq!(of(&head(1_000, 0, 2_000), &[]), None);
        assert_eq!(of(&head(1_000, 0, 2_000), &[0, 0]), None, "nobody answers");
        assert_eq!(of(&head(1_000, 0, 2_000), &[900, 0]), Some(900), "absent");
        assert_eq!(of(&head(1_000, 0, 2_000), &[900, 700]), Some(700), "a little behind");
        assert_eq!(of(&head(1_000, 0, 2_000), &[900, 600]), Some(900), "far behind");
        assert_eq!(of(&head(1_000, 800, 2_000), &[900, 840]), Some(900), "far behind in a short log");
    }

    #[test]
    fn who_joins_holds_a_large_log_until_it_is_nearly_full() {
        let of = |size| {
            let joining = Hold { seq: Seq(200), is_joining: true, is_copied: true };
            let holders = [Some(Hold { seq: Seq(990), is_joining: false, is_copied: false }), Some(joining)];
            assert_eq!(through(&head(1_000, 0, 2_000), &[None, Some(joining)], size, &config()), None);
            through(&head(1_000, 0, 2_000), &holders, size, &config()).map(|seq| seq.0)
        };
        assert_eq!(of(Size::Small), Some(200));
        assert_eq!(of(Size::Large), Some(200));
        assert_eq!(of(Size::NearlyFull), Some(990));
    }
}
