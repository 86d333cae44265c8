//! What a load task says, and what its worker notes about it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::report::Rejection;
use crate::readers::{Mark, Piece};

/// Rejected documents of a task that are told and kept one by one; the rest is only counted.
pub(super) const REJECTED_FIRST_MAX: usize = 20;
/// Length of a reason and of a place that is kept: a reason may quote the document.
const REJECTED_TEXT_CHARS_MAX: usize = 500;

/// The form of the body; a worker refuses one it does not know.
pub(super) const FORMAT: u32 = 1;

/// A task that any worker can carry out: read these pieces and send their documents to the index.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadTask {
    /// Form of this record; 1.
    pub format: u32,
    /// The index to load into.
    pub index: String,
    /// Its uid when the task was made: an index of the same name that was made anew is another one.
    pub uid: String,
    /// What to read, in this order.
    pub pieces: Vec<Piece>,
    /// The field that holds each document's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_field: Option<String>,
    /// The longest document, in bytes.
    pub record_bytes_max: usize,
    /// Size of a batch; the same in every attempt, so that a batch sent again is the same batch.
    pub batch_bytes: usize,
    /// Documents in a batch at most.
    pub batch_documents: usize,
    /// Set when the task is pushed although an equal one was done before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<String>,
}

impl LoadTask {
    /// The key: the same for the same content, range, index and way of reading.
    pub fn key(&self) -> String {
        // A record of strings and numbers is always JSON.
        let body = serde_json::to_vec(self).unwrap_or_default();
        format!("{}/{:032x}", self.index, xxh3_128(&body))
    }

    /// Stored bytes of all pieces.
    pub fn bytes(&self) -> u64 {
        self.pieces.iter().map(Piece::bytes).sum()
    }
}

/// A position within a task: a piece and a mark in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Number of the piece.
    pub piece: u32,
    /// Where in it.
    pub mark: Mark,
}

impl Position {
    /// The beginning.
    pub const START: Self = Self { piece: 0, mark: Mark::START };
}

/// Counts of documents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Documents acknowledged.
    pub loaded: u64,
    /// Of these, documents that took the place of one with the same `_id`.
    pub replaced: u64,
    /// Bytes of those loaded.
    pub bytes: u64,
    /// Documents rejected, by kind.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rejected: BTreeMap<String, u64>,
    /// The first of them, for whoever looks at the task: most never reached the index, which keeps dead letters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected_first: Vec<Rejected>,
}

/// A document that was rejected, as it is kept with its task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// File and line.
    pub place: String,
    /// What counts are kept by.
    pub kind: String,
    /// Why.
    pub reason: String,
}

impl Tally {
    /// Adds another.
    pub fn add(&mut self, other: &Self) {
        self.loaded += other.loaded;
        self.replaced += other.replaced;
        self.bytes += other.bytes;
        for (kind, count) in &other.rejected {
            *self.rejected.entry(kind.clone()).or_default() += count;
        }
        let room = REJECTED_FIRST_MAX.saturating_sub(self.rejected_first.len());
        self.rejected_first.extend(other.rejected_first.iter().take(room).cloned());
    }

    /// What came since `earlier`, which this one began with.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let mut rejected = self.rejected.clone();
        for (kind, count) in &mut rejected {
            *count = count.saturating_sub(earlier.rejected.get(kind).copied().unwrap_or(0));
        }
        rejected.retain(|_, count| *count > 0);
        Self {
            loaded: self.loaded.saturating_sub(earlier.loaded),
            replaced: self.replaced.saturating_sub(earlier.replaced),
            bytes: self.bytes.saturating_sub(earlier.bytes),
            rejected,
            rejected_first: Vec::new(),
        }
    }

    /// The number of everything rejected.
    pub fn rejected_total(&self) -> u64 {
        self.rejected.values().sum()
    }

    /// Counts a rejection.
    pub(super) fn reject(&mut self, rejection: &Rejection) {
        *self.rejected.entry(rejection.kind.clone()).or_default() += 1;
        if self.rejected_first.len() < REJECTED_FIRST_MAX {
            let short = |text: &str| text.chars().take(REJECTED_TEXT_CHARS_MAX).collect();
            let (place, reason) = (short(&rejection.place.to_string()), short(&rejection.reason));
            self.rejected_first.push(Rejected { place, kind: rejection.kind.clone(), reason });
        }
    }
}

/// How far a task is: everything before `at` is acknowledged or rejected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Where to go on.
    pub at: Position,
    /// Of what is before.
    #[serde(default)]
    pub tally: Tally,
    /// Pieces before `at` that could not be read and are to be tried again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<u32>,
    /// What the pieces up to and with `at` were, for one that cuts them again; see `resume`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<u64>,
}

impl Default for Progress {
    fn default() -> Self {
        Self { at: Position::START, tally: Tally::default(), unread: Vec::new(), chain: None }
    }
}
