//! What a replica tells the leader when the log has lost history that it holds.

use std::sync::atomic::Ordering;

use trawl_proto::v1::failure::Kind;
use trawl_proto::{failure, v1};

use super::{Phase, Replica};
use crate::apply::Core;

/// A replica that the log does not continue, though it should. Everything it holds is committed.
#[derive(Debug)]
pub struct Broken {
    /// How, for a person.
    reason: String,
    /// All that the leader asks for.
    history: v1::HistoryResponse,
}

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

    /// The log has lost history: the leader will hear of it. A replica that serves goes on serving.
    pub(super) fn set_broken(&self, core: &Core, reason: &str) {
        let mut broken = self.broken.lock();
        if broken.is_none() {
            tracing::error!(shard = %self.shard, reason, "the log has lost history that this replica holds");
        }
        let state = core.state();
        let history = v1::HistoryResponse {
            failure: None,
            broken: true,
            committed: Some(core.committed().into()),
            chain: state.chain,
            mapping_version: state.mapping_version,
            time_ms: state.time_ms,
            rows: Some(state.rows.to_proto()),
        };
        *broken = Some(Broken { reason: format!("the log has lost history: {reason}"), history });
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
