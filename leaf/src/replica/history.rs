//! What a replica tells the leader when the log has lost history that it holds.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use trawl_proto::v1::failure::Kind;
use trawl_proto::{Seq, failure, v1};

use super::tail::blocking;
use super::{Phase, Replica};
use crate::apply::Core;
use crate::apply::rows::Point;

/// A replica that the log does not continue, though it should. Everything it holds is committed.
#[derive(Debug)]
pub struct Broken {
    /// How, for a person.
    reason: String,
    /// All that the leader asks for, but the earlier points.
    history: v1::HistoryResponse,
    /// The first point of its rows.
    oldest: Seq,
}

/// Earlier points told at most; the oldest are left out. About 12 bytes each.
const EARLIER_POINTS_MAX: usize = 1 << 20;

impl Replica {
    /// Whether the log has lost history that the replica holds.
    pub fn is_broken(&self) -> bool {
        self.broken.lock().is_some()
    }

    pub(super) fn broken_reason(&self) -> Option<String> {
        self.broken.lock().as_ref().map(|broken| broken.reason.clone())
    }

    /// Where the replica stands, as it was committed.
    pub fn history(&self, with_points: bool) -> v1::HistoryResponse {
        if let Some(broken) = &*self.broken.lock() {
            let mut history = v1::HistoryResponse { rows: None, ..broken.history.clone() };
            if with_points {
                history.rows.clone_from(&broken.history.rows);
            }
            return history;
        }
        let progress = self.progress();
        if self.empty.load(Ordering::Relaxed) {
            return v1::HistoryResponse::default();
        }
        let failure = match progress.applied.incarnation.0 {
            0 => Some(failure(Kind::Unavailable, format!("shard {} is not open: {}", self.shard, progress.reason))),
            _ => None,
        };
        v1::HistoryResponse { failure, committed: Some(progress.committed.into()), ..v1::HistoryResponse::default() }
    }

    /// While the log has lost history: points of rows before those that a commit remembers, which end at or
    /// behind `after` and begin at or before `through`. From the outcomes, which are kept for longer.
    pub async fn earlier_points(self: &Arc<Self>, after: Seq, through: Seq) -> Vec<Point> {
        let Some(end) = self.broken.lock().as_ref().map(|broken| broken.oldest.min(through)) else { return Vec::new() };
        if after > end {
            return Vec::new();
        }
        let replica = self.clone();
        let read = blocking(move || {
            let places = match replica.outcome_files.lock().as_mut() {
                Some(files) => files.find(after.0, end.0)?,
                None => Vec::new(),
            };
            let mut rows = Vec::new();
            for place in places {
                rows.extend(place.points(after.0, end.0)?);
            }
            Ok(without_gap(rows, end))
        });
        read.await.unwrap_or_else(|error| {
            tracing::warn!(shard = %self.shard, reason = error.reason(), "cannot read the points of earlier rows");
            Vec::new()
        })
    }

    /// The log has lost history: the leader will hear of it. A replica that serves goes on serving.
    pub(super) fn set_broken(&self, core: &Core, reason: &str) {
        let mut broken = self.broken.lock();
        if broken.is_none() {
            tracing::error!(shard = %self.shard, reason, "the log has lost history that this replica holds");
        }
        let state = core.state();
        let oldest = state.rows.points().next().map(|point| point.seq).unwrap_or_default();
        let history = v1::HistoryResponse {
            failure: None,
            broken: true,
            committed: Some(core.committed().into()),
            chain: state.chain,
            mapping_version: state.mapping_version,
            time_ms: state.time_ms,
            rows: Some(state.rows.to_proto()),
            ..v1::HistoryResponse::default()
        };
        *broken = Some(Broken { reason: format!("the log has lost history: {reason}"), history, oldest });
        drop(broken);
        if self.progress.borrow().phase != Phase::Serving {
            self.set_phase(Phase::Recovering, format!("waits for the leader to begin a new incarnation: {reason}"));
        }
    }

    /// The log continues the replica (again), or the replica is made anew.
    pub(super) fn set_whole(&self) {
        *self.broken.lock() = None;
    }
}

/// The ends of the last rows up to the one that holds `end`, as far back as no row is missing. Rows are
/// given with their first operation.
fn without_gap(mut rows: Vec<(Seq, Point)>, end: Seq) -> Vec<Point> {
    if rows.last().is_none_or(|(first, point)| *first > end || point.seq < end) {
        return Vec::new();
    }
    let follows = |pair: &[(Seq, Point)]| pair[0].1.seq.next() == pair[1].0;
    let begin = rows.windows(2).rposition(|pair| !follows(pair)).map_or(0, |gap| gap + 1);
    rows.drain(..begin.max(rows.len().saturating_sub(EARLIER_POINTS_MAX)));
    // The chain begins with 0.
    let start = rows.first().filter(|(first, _)| *first == Seq(1)).map(|_| Point { seq: Seq(0), chain: 0 });
    start.into_iter().chain(rows.into_iter().map(|(_, point)| point)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_told_as_far_back_as_no_row_is_missing() {
        let of = |rows: &[(u64, u64)], end| {
            let rows = rows.iter().map(|(first, seq)| (Seq(*first), Point { seq: Seq(*seq), chain: *seq }));
            without_gap(rows.collect(), Seq(end)).iter().map(|point| point.seq.0).collect::<Vec<_>>()
        };
        assert_eq!(of(&[(4, 5), (6, 9), (10, 20)], 20), [5, 9, 20]);
        assert_eq!(of(&[(1, 5), (6, 9), (10, 20)], 12), [0, 5, 9, 20], "the row that holds the end, and the start");
        assert_eq!(of(&[(1, 5), (7, 9), (10, 20)], 20), [9, 20], "one is missing");
        assert_eq!(of(&[(1, 5), (6, 9)], 20), [0; 0], "the last are missing");
        assert_eq!(of(&[], 20), [0; 0]);
    }
}
