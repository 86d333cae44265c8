//! Whether all replicas of a shard are so far behind its log that no more should be written to it.
//!
//! The limit is the index's (`index.trawl.log_age`), and the time is the log's own: between its last row
//! and the last row that the most advanced replica has applied. What is known is asked anew while writes
//! come in, at most twice a second and by one write at a time; the others go by what is known.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;
use trawl_cluster::catalog::IndexRecord;
use trawl_proto::{IndexUid, ShardKey, v1};

use super::batches::Batch;
use crate::error::Error;
use crate::limits::Limit;
use crate::root::Root;

/// How old what is known may be.
const AGE_MAX: Duration = Duration::from_millis(500);
/// How long asking may take; who is asked too late is not waited for.
const ASK_TIME_MAX: Duration = Duration::from_secs(1);
/// Indices that are remembered.
const INDICES_MAX: usize = 1_000;

/// What is known of the lag of indices that have a limit.
#[derive(Debug, Default)]
pub struct Lags(Mutex<HashMap<IndexUid, Known>>);

#[derive(Clone, Debug)]
struct Known {
    asked_at: Instant,
    /// Least lag of any replica, per shard that has one.
    shards: HashMap<ShardKey, Duration>,
}

/// Refuses the batch when its index has a limit and all replicas are over it.
pub(super) async fn check(root: &Root, batch: &Batch) -> Result<(), Error> {
    let Some(max) = batch.record.log_age_max_ms.map(Duration::from_millis) else { return Ok(()) };
    if root.lags.is_due(&batch.record.uid, Instant::now()) {
        let shards = ask(root, &batch.record).await;
        root.lags.learn(&batch.record.uid, shards);
    }
    match root.lags.of(&batch.shard) {
        Some(lag) if lag > max => {
            root.metrics.refusals.count(Limit::LogAge);
            Err(Error::TooManyRequests {
                reason: format!(
                    "all replicas of shard [{}][{}] are {lag:.1?} behind its log, more than [index.trawl.log_age] of {max:?}",
                    batch.record.name, batch.shard.number
                ),
                retry_after: Duration::from_secs(1),
            })
        }
        _ => Ok(()),
    }
}

impl Lags {
    /// Whether the caller should ask; marks it as asked, so that one does.
    fn is_due(&self, uid: &IndexUid, now: Instant) -> bool {
        let mut known = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(known) = known.get_mut(uid) {
            let is_due = now.duration_since(known.asked_at) >= AGE_MAX;
            if is_due {
                known.asked_at = now;
            }
            return is_due;
        }
        if known.len() >= INDICES_MAX {
            known.clear();
        }
        known.insert(uid.clone(), Known { asked_at: now, shards: HashMap::new() });
        true
    }

    fn learn(&self, uid: &IndexUid, shards: HashMap<ShardKey, Duration>) {
        let mut known = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(known) = known.get_mut(uid) {
            known.shards = shards;
        }
    }

    fn of(&self, shard: &ShardKey) -> Option<Duration> {
        let known = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        known.get(&shard.index_uid)?.shards.get(shard).copied()
    }
}

/// Asks the leaves that hold the index, and the engine for the heads. A shard of which nobody says
/// anything has no lag that is known.
async fn ask(root: &Root, record: &IndexRecord) -> HashMap<ShardKey, Duration> {
    let view = root.viewer.view();
    let shards: Vec<ShardKey> = record.shard_keys().collect();
    let leaves = shards.iter().filter_map(|shard| view.assignments.get(shard)).flat_map(|record| &record.leaves);
    let mut leaves: Vec<_> = leaves.collect();
    leaves.sort();
    leaves.dedup();
    let request = v1::StatusRequest { index_uids: vec![record.uid.0.clone()], fields: false, poisoned: false };
    let calls = leaves.into_iter().filter_map(|leaf| root.leaves.by_name(&view, leaf)).map(|client| {
        let request = request.clone();
        async move { client.status(request, ASK_TIME_MAX).await.ok() }
    });
    let heads = tokio::time::timeout(ASK_TIME_MAX, root.engine.log.heads(&shards));
    let (answers, heads) = tokio::join!(futures::future::join_all(calls), heads);
    let times: HashMap<&ShardKey, u64> = match heads {
        Ok(Ok(heads)) => shards.iter().zip(heads).filter_map(|(shard, head)| Some((shard, head?.time_ms))).collect(),
        _ => HashMap::new(),
    };
    let mut lags: HashMap<ShardKey, Duration> = HashMap::new();
    for replica in answers.into_iter().flatten().flat_map(|answer| answer.replicas) {
        let Some(shard) = replica.shard.as_ref().map(ShardKey::from) else { continue };
        if !counts(&replica) {
            continue;
        }
        let lag = lag(&replica, times.get(&shard).copied());
        lags.entry(shard).and_modify(|least| *least = lag.min(*least)).or_insert(lag);
    }
    lags
}

/// Whether a replica can tell how far it is behind: one that joins and has applied nothing yet cannot.
fn counts(replica: &v1::ReplicaStatus) -> bool {
    replica.applied_time_ms > 0 || replica.state() == v1::replica_status::State::Serving
}

/// How far a replica is behind; nothing before its first operation, when there is no time to compare with.
pub(crate) fn lag(replica: &v1::ReplicaStatus, head_time_ms: Option<u64>) -> Duration {
    let head = head_time_ms.unwrap_or_default().max(replica.head_time_ms);
    match replica.applied_time_ms {
        0 => Duration::ZERO,
        applied => Duration::from_millis(head.saturating_sub(applied)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_write_asks_and_the_others_go_by_what_is_known() {
        let (lags, uid) = (Lags::default(), IndexUid::from("u"));
        let shard = ShardKey::new("u", 0);
        let now = Instant::now();
        assert!(lags.is_due(&uid, now));
        assert!(!lags.is_due(&uid, now));
        assert_eq!(lags.of(&shard), None);
        lags.learn(&uid, HashMap::from([(shard.clone(), Duration::from_secs(3))]));
        assert_eq!(lags.of(&shard), Some(Duration::from_secs(3)));
        assert!(lags.is_due(&uid, now + AGE_MAX));
        assert!(!lags.is_due(&uid, now + AGE_MAX));
    }

    #[test]
    fn the_lag_is_in_the_logs_time() {
        let replica =
            |head_time_ms, applied_time_ms| v1::ReplicaStatus { head_time_ms, applied_time_ms, ..Default::default() };
        assert_eq!(lag(&replica(5_000, 3_000), None), Duration::from_secs(2));
        assert_eq!(lag(&replica(5_000, 3_000), Some(9_000)), Duration::from_secs(6));
        assert_eq!(lag(&replica(5_000, 0), Some(9_000)), Duration::ZERO);
        assert_eq!(lag(&replica(0, 3_000), None), Duration::ZERO);
    }

    #[test]
    fn who_joins_does_not_keep_up_before_it_has_applied_anything() {
        let replica = |state: v1::replica_status::State, applied_time_ms| {
            counts(&v1::ReplicaStatus { state: state.into(), applied_time_ms, ..Default::default() })
        };
        assert!(!replica(v1::replica_status::State::Recovering, 0));
        assert!(replica(v1::replica_status::State::Recovering, 3_000));
        assert!(replica(v1::replica_status::State::Serving, 0), "nothing was written yet");
    }
}
