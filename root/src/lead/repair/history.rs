//! Lets appends go on when the engine's history has changed: a standby has taken over, or another server
//! stands there, and either may have been behind.
//!
//! Until then nothing is appended to any log (see [`new_history`](trawl_cluster::ShardLog::new_history)), so
//! one that has lost its tail does not grow meanwhile, and no seq stands for two operations. Every replica is
//! compared with its log. Where the log does not continue it, the leaf finds the same and the log is repaired
//! before appends go on. Who does not answer is waited for as long as a repair would wait.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;
use trawl_cluster::fit::{Fit, Standing, fit};
use trawl_cluster::shard_log::Head;
use trawl_cluster::view::View;
use trawl_cluster::{Error, ShardLog};
use trawl_proto::{Generation, Incarnation, NodeName, Seq, ShardKey, v1};

use super::super::fenced;
use super::Repairer;
use crate::config::LeadConfig;

/// Shards whose heads are read in one call.
const HEADS_MAX: usize = 1_000;
/// Rounds in which everything has to fit, one after the other: in the first, a replica may still have
/// rows at hand that it read before.
const ROUNDS: u32 = 2;
/// A repair that does not come about holds up all other logs for so many times
/// [`LeadConfig::repair_wait_max`] at most.
const BROKEN_WAITS: u32 = 3;

/// A history that is being looked at.
pub(super) struct NewHistory {
    name: String,
    since: Instant,
    /// Rounds in which everything fitted, without one in between in which it did not.
    fitting: u32,
}

/// How one replica goes together with its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::lead) enum Found {
    /// The log continues it, or it has to copy.
    Fits,
    /// The log has lost history that it holds.
    Broken,
    /// Its leaf is gone or does not answer, or it is not open yet.
    Silent,
}

/// What leaves say, by leaf and shard.
type Statuses = HashMap<(NodeName, ShardKey), v1::ReplicaStatus>;

impl Repairer<'_> {
    /// One look at a history that is new, if there is one.
    pub(super) async fn look_at_history(&mut self, view: &View) -> Result<(), Error> {
        let Some(name) = self.root.engine.log.new_history().await? else {
            self.new_history = None;
            return Ok(());
        };
        let found = self.compare(view).await?;
        let new = match &mut self.new_history {
            Some(new) if new.name == name => new,
            other => {
                tracing::warn!(
                    history = name,
                    "the cluster engine goes on in another history: appends wait until \
                    every log is known to continue its replicas"
                );
                other.insert(NewHistory { name, since: Instant::now(), fitting: 0 })
            }
        };
        new.fitting = if found.iter().all(|found| *found == Found::Fits) { new.fitting + 1 } else { 0 };
        let waited = new.since.elapsed();
        if may_go_on(&found, new.fitting, waited, &self.root.config.lead) {
            let (epoch, log, name) = (self.epoch, self.root.engine.log.clone(), new.name.clone());
            let accept = async move { log.accept_history(epoch, &name).await };
            fenced::carry(self.root, "accept-history", accept).await?;
            match new.fitting {
                0 => tracing::error!(?found, ?waited, "appends go on though not every replica is known to fit"),
                _ => tracing::info!(?waited, "appends go on"),
            }
            self.new_history = None;
        }
        Ok(())
    }

    /// Compares every replica with its log.
    async fn compare(&self, view: &View) -> Result<BTreeSet<Found>, Error> {
        let statuses = self.statuses(view).await;
        let shards: Vec<ShardKey> =
            view.assignments.keys().filter(|shard| view.uids.contains_key(&shard.index_uid)).cloned().collect();
        let mut found = BTreeSet::new();
        for shards in shards.chunks(HEADS_MAX) {
            let heads = self.root.engine.log.heads(shards).await?;
            for (shard, head) in shards.iter().zip(heads) {
                for leaf in view.assignments.get(shard).iter().flat_map(|assignment| &assignment.leaves) {
                    found.insert(match statuses.get(&(leaf.clone(), shard.clone())) {
                        Some(replica) if replica.incarnation > 0 => {
                            compare(&*self.root.engine.log, shard, head.as_ref(), replica).await?
                        }
                        _ => Found::Silent,
                    });
                }
            }
        }
        Ok(found)
    }

    async fn statuses(&self, view: &View) -> Statuses {
        let leaves = view.leaves().filter(|node| node.alive);
        let calls = leaves.filter_map(|node| {
            let (client, name) = (self.root.leaves.client(&node.record)?, node.record.name.clone());
            let timeout = self.root.config.leaves.status_timeout;
            Some(async move { (name, client.status(v1::StatusRequest::default(), timeout).await) })
        });
        let mut statuses = Statuses::new();
        for (leaf, answer) in join_all(calls).await {
            for replica in answer.into_iter().flat_map(|answer| answer.replicas) {
                if let Some(shard) = replica.shard.as_ref().map(ShardKey::from) {
                    statuses.insert((leaf.clone(), shard), replica);
                }
            }
        }
        statuses
    }
}

/// Compares what a leaf says of its replica with the log's head, which was read later.
pub(in crate::lead) async fn compare(
    log: &dyn ShardLog,
    shard: &ShardKey,
    head: Option<&Head>,
    replica: &v1::ReplicaStatus,
) -> Result<Found, Error> {
    let at = Generation { incarnation: Incarnation(replica.incarnation), seq: Seq(replica.applied) };
    let Some(head) = head else { return Ok(if at.seq > Seq(0) { Found::Broken } else { Found::Fits }) };
    let mut next = None;
    if (head.trimmed..head.last).contains(&at.seq) {
        next = match log.read(shard, at.seq, 1).await {
            Ok(rows) => rows.into_iter().next(),
            // It has changed since the head was read: the next round looks again.
            Err(Error::NoSuchLog(_) | Error::Trimmed { .. }) => return Ok(Found::Silent),
            Err(error) => return Err(error),
        };
    }
    Ok(match fit(head, Standing { at, chain: replica.chain }, next.as_ref()) {
        _ if replica.broken => Found::Broken,
        Fit::Broken(_) => Found::Broken,
        Fit::Continues | Fit::Begins(_) | Fit::Behind(_) => Found::Fits,
    })
}

/// Whether appends may go on, so long after the history was found to be another one.
fn may_go_on(found: &BTreeSet<Found>, fitting: u32, waited: Duration, config: &LeadConfig) -> bool {
    if found.contains(&Found::Broken) {
        return waited >= config.repair_wait_max * BROKEN_WAITS;
    }
    match found.contains(&Found::Silent) {
        true => waited >= config.repair_wait_max,
        false => fitting >= ROUNDS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appends_wait_for_repairs_and_for_who_is_silent_but_not_for_ever() {
        let config = LeadConfig { repair_wait_max: Duration::from_secs(10), ..LeadConfig::default() };
        let of = |found: &[Found], fitting, waited_s| {
            may_go_on(&found.iter().copied().collect(), fitting, Duration::from_secs(waited_s), &config)
        };
        assert!(!of(&[Found::Fits], 1, 1), "once is not enough");
        assert!(of(&[Found::Fits], 2, 2) && of(&[], 2, 2));
        assert!(!of(&[Found::Fits, Found::Silent], 0, 9));
        assert!(of(&[Found::Fits, Found::Silent], 0, 10));
        assert!(!of(&[Found::Broken, Found::Silent], 0, 29));
        assert!(of(&[Found::Broken], 0, 30));
    }
}
