//! Poison: an operation that panics or hangs whenever it is tried.
//!
//! ```text
//! apply ─> poison at seq s ─> opened again, applies up to s, waits ─> the leader records a skip of s
//!                                        │        (serves meanwhile)              │
//!                                        └────────────── goes on <── the view shows it
//! ```
//!
//! The leader has nothing skipped that another replica has applied: then the trouble is this replica's
//! own, and it tries again after a pause.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use trawl_cluster::shard_log::Record;
use trawl_proto::{Generation, Seq};

use super::Replica;

/// The first pause before poison that nobody has skipped is tried again, and the longest.
const RETRY_MIN: Duration = Duration::from_secs(60);
const RETRY_MAX: Duration = Duration::from_secs(3_600);

/// The operation that a replica waits before.
#[derive(Debug)]
pub(super) struct Poison {
    at: Generation,
    reason: String,
    pause: Duration,
    retry_at: Instant,
    /// The replica is here, right before the poison's row, so there is nothing to read.
    held_at: Option<Seq>,
}

impl Replica {
    /// The operation that the replica waits before, and what it did.
    pub fn poison(&self) -> Option<(Generation, String)> {
        self.poison.lock().as_ref().map(|poison| (poison.at, poison.reason.clone()))
    }

    /// Sets the operations that are to be left out.
    pub fn set_skips(&self, skips: Option<&Arc<BTreeMap<Generation, Arc<str>>>>) {
        let present = self.skips.load();
        let changed = match skips {
            Some(skips) => !Arc::ptr_eq(&present, skips),
            None => !present.is_empty(),
        };
        if changed {
            self.skips.store(skips.cloned().unwrap_or_default());
            self.wake.notify_one();
        }
    }

    /// Remembers what cannot be applied.
    pub(super) fn meet_poison(&self, at: Generation, reason: String) {
        let mut poison = self.poison.lock();
        let before = poison.as_ref().filter(|poison| poison.at == at);
        let pause = before.map_or(RETRY_MIN, |poison| (poison.pause * 2).min(RETRY_MAX));
        *poison = Some(Poison { at, reason, pause, retry_at: Instant::now() + pause, held_at: None });
    }

    /// Takes the rows away that must not be tried now.
    pub(super) fn hold(&self, rows: &mut Vec<Record>) {
        let mut poison = self.poison.lock();
        let Some(there) = &mut *poison else { return };
        let Some(first) = rows.first() else { return };
        let at = there.at;
        if first.first > at.seq || first.incarnation > at.incarnation || self.skips.load().contains_key(&at) {
            *poison = None;
            return;
        }
        if there.retry_at <= Instant::now() {
            return;
        }
        if let Some(place) = rows.iter().position(|row| row.last >= at.seq) {
            there.held_at = Some(Seq(first.first.0 - 1)).filter(|_| place == 0);
            rows.truncate(place);
        }
    }

    /// Whether the replica, having applied through `applied`, stands right before poison.
    pub(super) fn is_held(&self, applied: Seq) -> bool {
        self.poison.lock().as_ref().is_some_and(|poison| {
            let is_waiting = poison.retry_at > Instant::now() && !self.skips.load().contains_key(&poison.at);
            is_waiting && poison.held_at == Some(applied)
        })
    }
}
