//! Deletes that are remembered, so that a document made again goes on counting versions.
//!
//! Which deletes are remembered decides outcomes, so it has to be a pure function of the log: they
//! expire by the log's time, and beyond [`TOMBSTONES_MAX`] the oldest goes first. Both numbers are
//! part of the apply rules (apply version 1), not settings.

use std::collections::{BTreeMap, HashMap};

use trawl_proto::v1;

use super::decide::Stamp;

/// How long a delete is remembered, in milliseconds of the log's time.
pub const TOMBSTONE_MS: u64 = 60_000;
/// How many deletes are remembered at most.
pub const TOMBSTONES_MAX: usize = 8_192;

/// The remembered deletes of one shard.
#[derive(Clone, Debug, Default)]
pub struct Tombstones {
    by_id: HashMap<String, Tombstone>,
    by_seq: BTreeMap<u64, String>,
}

#[derive(Clone, Copy, Debug)]
struct Tombstone {
    stamp: Stamp,
    time_ms: u64,
}

impl Tombstones {
    /// What is remembered of the document at a time of the log.
    pub fn get(&self, id: &str, now_ms: u64) -> Option<Stamp> {
        self.by_id
            .get(id)
            .filter(|tombstone| now_ms.saturating_sub(tombstone.time_ms) <= TOMBSTONE_MS)
            .map(|tombstone| tombstone.stamp)
    }

    /// Remembers a delete.
    pub fn insert(&mut self, id: &str, stamp: Stamp, time_ms: u64) {
        self.remove(id);
        self.by_id.insert(id.to_owned(), Tombstone { stamp, time_ms });
        self.by_seq.insert(stamp.seq, id.to_owned());
        if self.by_seq.len() > TOMBSTONES_MAX
            && let Some((_, oldest)) = self.by_seq.pop_first()
        {
            self.by_id.remove(&oldest);
        }
    }

    /// Forgets a delete: the document exists again.
    pub fn remove(&mut self, id: &str) {
        if let Some(tombstone) = self.by_id.remove(id) {
            self.by_seq.remove(&tombstone.stamp.seq);
        }
    }

    /// Drops what has expired. Changes nothing that [`Tombstones::get`] would answer.
    pub fn expire(&mut self, now_ms: u64) {
        while let Some(entry) = self.by_seq.first_entry() {
            let expired = self
                .by_id
                .get(entry.get())
                .is_none_or(|tombstone| now_ms.saturating_sub(tombstone.time_ms) > TOMBSTONE_MS);
            if !expired {
                break;
            }
            self.by_id.remove(entry.get());
            entry.remove();
        }
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// As kept in a commit, in seq order. The primary term is left out: a remembered delete never
    /// meets a condition.
    pub fn to_proto(&self) -> Vec<v1::Tombstone> {
        self.by_seq
            .values()
            .filter_map(|id| self.by_id.get(id).map(|tombstone| (id, tombstone)))
            .map(|(id, tombstone)| v1::Tombstone {
                id: id.clone(),
                seq: tombstone.stamp.seq,
                version: tombstone.stamp.version,
                time_ms: tombstone.time_ms,
            })
            .collect()
    }

    /// From a commit.
    pub fn from_proto(tombstones: Vec<v1::Tombstone>) -> Self {
        let mut these = Self::default();
        for tombstone in tombstones {
            let stamp = Stamp { seq: tombstone.seq, primary_term: 0, version: tombstone.version };
            these.insert(&tombstone.id, stamp, tombstone.time_ms);
        }
        these
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn stamp(seq: u64) -> Stamp {
        Stamp { seq, primary_term: 0, version: seq }
    }

    #[test]
    fn a_delete_is_remembered_for_a_minute_of_the_log() {
        let mut tombstones = Tombstones::default();
        tombstones.insert("a", stamp(1), 1_000);
        assert_eq!(tombstones.get("a", 61_000), Some(stamp(1)));
        assert_eq!(tombstones.get("a", 61_001), None);
        tombstones.expire(61_000);
        assert_eq!(tombstones.len(), 1);
        tombstones.expire(61_001);
        assert!(tombstones.is_empty());
    }

    #[test]
    fn the_oldest_goes_first_and_a_commit_keeps_the_rest() {
        let mut tombstones = Tombstones::default();
        for seq in 1..=TOMBSTONES_MAX as u64 + 1 {
            tombstones.insert(&seq.to_string(), stamp(seq), 0);
        }
        assert_eq!(tombstones.len(), TOMBSTONES_MAX);
        assert_eq!(tombstones.get("1", 0), None);
        let again = Tombstones::from_proto(tombstones.to_proto());
        assert_eq!(again.len(), TOMBSTONES_MAX);
        assert_eq!(again.get("2", 0), Some(stamp(2)));
    }
}
