//! Documents gathered into one bulk request.

use std::ops::Range;

use bytes::Bytes;
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

use super::report::Rejection;
use super::task::{Position, Tally};
use crate::readers::{Place, Record};

/// One document in a batch.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) place: Place,
    /// Hash of its id when another document may have the same; 0 for an id that no other can have.
    pub(super) id_hash: u64,
    /// Where its action and source lines stand in the body.
    pub(super) lines: Range<usize>,
    /// Length of its source.
    pub(super) bytes: u64,
}

/// A full batch.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    pub(super) number: u64,
    /// Where its documents begin: what tells it from other batches of the same load.
    pub(super) start: Position,
    /// Where they end.
    pub(super) end: Position,
    pub(super) body: Bytes,
    /// May be empty, when there was nothing but faults.
    pub(super) items: Vec<Item>,
    /// What was rejected among its documents before it was sent.
    pub(super) rejected: Tally,
}

/// A batch being filled.
#[derive(Debug)]
pub(super) struct Builder {
    bytes_max: usize,
    documents_max: usize,
    number: u64,
    start: Position,
    end: Position,
    body: Vec<u8>,
    items: Vec<Item>,
    rejected: Tally,
}

impl Builder {
    /// Batches of what stands behind `start`.
    pub(super) fn new(bytes_max: usize, documents_max: usize, start: Position) -> Self {
        Self {
            bytes_max,
            documents_max: documents_max.max(1),
            number: 0,
            start,
            end: start,
            body: Vec::new(),
            items: Vec::new(),
            rejected: Tally::default(),
        }
    }

    /// Whether the document has to wait for the next batch.
    pub(super) fn is_full_for(&self, record: &Record) -> bool {
        let bytes = self.body.len() + record.source.len() + record.id.len() + 32;
        !self.items.is_empty() && (bytes > self.bytes_max || self.items.len() >= self.documents_max)
    }

    pub(super) fn add(&mut self, record: Record) {
        #[derive(Serialize)]
        struct Action<'a> {
            index: Id<'a>,
        }
        #[derive(Serialize)]
        struct Id<'a> {
            _id: &'a str,
        }
        let start = self.body.len();
        // Writing a string to a vector cannot fail.
        serde_json::to_writer(&mut self.body, &Action { index: Id { _id: &record.id } }).ok();
        self.body.push(b'\n');
        self.body.extend_from_slice(&record.source);
        self.body.push(b'\n');
        let id_hash = if record.id_given { xxh3_64(record.id.as_bytes()).max(1) } else { 0 };
        let bytes = record.source.len() as u64;
        self.end = Position { piece: record.input, mark: record.next };
        self.items.push(Item { place: record.place, id_hash, lines: start..self.body.len(), bytes });
    }

    /// Something that is no document stands here.
    pub(super) fn reject(&mut self, rejection: &Rejection, end: Position) {
        self.rejected.reject(rejection);
        self.end = self.end.max(end);
    }

    /// The batch, if there is anything in it; a new one begins.
    pub(super) fn take(&mut self) -> Option<Batch> {
        if self.items.is_empty() && self.rejected.rejected.is_empty() {
            return None;
        }
        self.number += 1;
        let body = Bytes::from(std::mem::take(&mut self.body));
        let start = std::mem::replace(&mut self.start, self.end);
        Some(Batch {
            number: self.number,
            start,
            end: self.end,
            body,
            items: std::mem::take(&mut self.items),
            rejected: std::mem::take(&mut self.rejected),
        })
    }
}
