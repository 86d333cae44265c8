//! How a replica comes to serve, for people: what it is at, how far it is, and how long that takes or took.
//!
//! ```text
//! init ──> index (copies) ──> verify (checks files) ──> translog (catches up) ──> finalize (warms up) ──> done
//! ```
//!
//! The names are Elasticsearch's. What is there already is passed over, and a failure begins again where it must.

use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use tokio::time::Instant;
use trawl_proto::clock::unix_ms;
use trawl_proto::v1::recovery::Stage;
use trawl_proto::{NodeName, Seq, v1};

use super::Replica;
use crate::copy::client::Progress;

/// The last recovery of a replica, or the one that is going on.
#[derive(Default)]
pub struct Recovery(Mutex<State>);

#[derive(Clone, Debug, Default)]
struct State {
    stage: Stage,
    /// The leaf that it is, or was, copied from.
    source: Option<NodeName>,
    began: Option<Instant>,
    started_ms: u64,
    took_ms: u64,
    /// Of the last copy, once it has ended.
    copied: Copied,
    checked_bytes: u64,
    check_bytes: u64,
    /// Where catching up with the log began, and where it was to end.
    log_from: u64,
    log_to: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Copied {
    files: u64,
    files_done: u64,
    bytes: u64,
    bytes_done: u64,
    bytes_reused: u64,
}

impl Copied {
    fn of(progress: &Progress) -> Self {
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Self {
            files: read(&progress.files),
            files_done: read(&progress.files_done),
            bytes: read(&progress.bytes),
            bytes_done: read(&progress.copied),
            bytes_reused: read(&progress.reused),
        }
    }
}

impl Recovery {
    /// A replica that served, or was never open, begins to come back.
    pub(super) fn begin(&self) {
        let mut state = self.0.lock();
        if matches!(state.stage, Stage::Unspecified | Stage::Done) {
            *state =
                State { stage: Stage::Init, began: Some(Instant::now()), started_ms: unix_ms(), ..State::default() };
        }
    }

    /// It is copied from a leaf.
    pub(super) fn copies(&self, source: &NodeName) {
        let mut state = self.0.lock();
        (state.stage, state.source) = (Stage::Index, Some(source.clone()));
    }

    /// The copy is here, or was given up.
    pub(super) fn copied(&self, progress: &Progress) {
        self.0.lock().copied = Copied::of(progress);
    }

    /// Files are checked; so far so many bytes of so many.
    pub(super) fn checks(&self, done: u64, all: u64) {
        let mut state = self.0.lock();
        if !matches!(state.stage, Stage::Unspecified | Stage::Done) {
            (state.stage, state.checked_bytes, state.check_bytes) = (Stage::Verify, done, all);
        }
    }

    /// It catches up with the log.
    pub(super) fn catches_up(&self, from: Seq, to: Seq) {
        let mut state = self.0.lock();
        (state.stage, state.log_from, state.log_to) = (Stage::Translog, from.0, to.0.max(from.0));
    }

    /// It warms up.
    pub(super) fn warms_up(&self) {
        self.0.lock().stage = Stage::Finalize;
    }

    /// It serves.
    pub(super) fn end(&self) {
        let mut state = self.0.lock();
        if let Some(began) = state.began.take() {
            state.took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            state.stage = Stage::Done;
        }
    }
}

impl Replica {
    /// The last recovery, or the one that is going on.
    pub fn recovery(&self) -> v1::Recovery {
        let state = self.recovery.0.lock().clone();
        let copied = match state.stage {
            Stage::Index => Copied::of(&self.copying),
            _ => state.copied,
        };
        let took = state.began.map(|began| u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
        let applied = self.progress.borrow().applied.seq.0;
        v1::Recovery {
            stage: state.stage.into(),
            source: state.source.map(|source| source.to_string()).unwrap_or_default(),
            started_ms: state.started_ms,
            took_ms: took.unwrap_or(state.took_ms),
            files: copied.files,
            files_done: copied.files_done,
            bytes: copied.bytes,
            bytes_done: copied.bytes_done,
            bytes_reused: copied.bytes_reused,
            check_bytes: state.check_bytes,
            checked_bytes: state.checked_bytes,
            operations: state.log_to - state.log_from,
            operations_done: applied.clamp(state.log_from, state.log_to) - state.log_from,
        }
    }
}
