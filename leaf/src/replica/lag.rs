//! How far a replica is behind its log: in operations, and in the log's own time.
//!
//! The log's time is written by those who append, never decreases, and is the same for everybody, so the
//! lag does not depend on this machine's clock. It is as fresh as the last look at the heads.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use trawl_cluster::Viewer;
use trawl_proto::Seq;

use super::Progress;
use crate::node::Replicas;

/// How far behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Operations that are in the log and not applied.
    pub operations: u64,
    /// Between the last operation applied and the last one in the log.
    pub time: Duration,
}

/// The log's head as it was seen last.
#[derive(Debug, Default)]
pub struct SeenHead(Mutex<(Seq, u64)>);

impl SeenHead {
    /// Notes a head and its time. A log may also have lost its tail, so the last look counts.
    pub fn see(&self, last: Seq, time_ms: u64) {
        *self.0.lock() = (last, time_ms);
    }

    /// The head and its time; what is applied was in the log, even if nobody has looked since.
    pub fn at_least(&self, progress: &Progress) -> (Seq, u64) {
        let seen = *self.0.lock();
        if progress.applied.seq >= seen.0 { (progress.applied.seq, progress.time_ms) } else { seen }
    }

    /// How far a replica is behind it.
    pub fn lag(&self, progress: &Progress) -> Lag {
        let (head, time_ms) = self.at_least(progress);
        let operations = head.0.saturating_sub(progress.applied.seq.0);
        // Before the first operation there is no time to compare with.
        let is_timed = operations > 0 && progress.time_ms > 0;
        let behind_ms = if is_timed { time_ms.saturating_sub(progress.time_ms) } else { 0 };
        Lag { operations, time: Duration::from_millis(behind_ms) }
    }
}

/// Shows the lag of every replica when the metrics are read, so that no figure outlives its replica.
pub struct LagCollector {
    /// The replicas.
    pub replicas: Arc<Replicas>,
    /// Knows the names of indices.
    pub viewer: Viewer,
}

impl std::fmt::Debug for LagCollector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LagCollector").finish_non_exhaustive()
    }
}

impl Collector for LagCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let view = self.viewer.view();
        let lags: Vec<_> = self
            .replicas
            .all()
            .iter()
            .filter_map(|replica| {
                let shard = replica.shard();
                let index = view.uids.get(&shard.index_uid)?.name.clone();
                Some(([("index", index), ("shard", shard.number.to_string())], replica.lag()))
            })
            .collect();
        let help = "Operations in the log of the shard that its replica here has not applied";
        let mut operations = encoder.encode_descriptor("trawl_leaf_lag_operations", help, None, MetricType::Gauge)?;
        for (labels, lag) in &lags {
            let gauge = ConstGauge::new(i64::try_from(lag.operations).unwrap_or(i64::MAX));
            gauge.encode(operations.encode_family(labels)?)?;
        }
        let help = "Log time between the last operation applied here and the last one in the log";
        let mut seconds = encoder.encode_descriptor("trawl_leaf_lag_seconds", help, None, MetricType::Gauge)?;
        for (labels, lag) in &lags {
            ConstGauge::new(lag.time.as_secs_f64()).encode(seconds.encode_family(labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use trawl_proto::{Generation, Incarnation};

    use super::*;
    use crate::replica::Phase;

    fn at(seq: u64, time_ms: u64) -> Progress {
        let applied = Generation { incarnation: Incarnation(1), seq: Seq(seq) };
        Progress { phase: Phase::Serving, reason: "".into(), applied, committed: applied, chain: 0, time_ms }
    }

    #[test]
    fn the_lag_is_of_the_last_look_and_never_negative() {
        let head = SeenHead::default();
        let lag = |progress: &Progress| {
            let lag = head.lag(progress);
            (lag.operations, lag.time.as_millis())
        };
        assert_eq!(lag(&at(0, 0)), (0, 0));
        head.see(Seq(10), 5_000);
        assert_eq!(lag(&at(0, 0)), (10, 0), "nothing applied yet: no time to compare with");
        assert_eq!(lag(&at(4, 3_000)), (6, 2_000));
        assert_eq!(lag(&at(10, 5_000)), (0, 0));
        assert_eq!(lag(&at(12, 6_000)), (0, 0), "the replica was told of more since the last look");
        assert_eq!(head.at_least(&at(12, 6_000)), (Seq(12), 6_000));
        head.see(Seq(3), 100);
        assert_eq!(lag(&at(1, 50)), (2, 50));
    }
}
