//! Documents on their way to tantivy's indexing thread, bounded by bytes.
//!
//! Applying is faster than indexing, and tantivy lets 10,000 documents wait in between, however large they
//! are. They take memory, are out of the processor's caches when their turn comes, and a commit has to wait
//! for all of them. So a document is let in only when few bytes are waiting:
//!
//! ```text
//! apply thread ── waits while BYTES_MAX are on their way ──> tantivy's queue ──> indexing thread
//!       ^                                                                             │
//!       └──────────────── woken when half of them are indexed ────────────────────────┘
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tantivy::TantivyDocument;
use tantivy::schema::Document;

/// Bytes of sources on their way; what is made of them is two to three times as much.
const BYTES_MAX: usize = 256 << 10;
/// What a document takes besides its source.
const DOCUMENT_BYTES: usize = 256;
/// How long to wait at most. The indexing thread may be busy with writing a full segment, or may have died;
/// handing the document over then tells.
const PATIENCE: Duration = Duration::from_millis(200);

/// What is on its way to one writer.
#[derive(Clone, Debug, Default)]
pub struct Backlog(Arc<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    bytes: AtomicUsize,
    lock: Mutex<()>,
    half: Condvar,
}

impl Backlog {
    /// Waits until there is room for a document whose source has so many bytes.
    pub fn enter(&self, document: TantivyDocument, source_bytes: usize) -> Incoming {
        let waiting = &self.0;
        if waiting.bytes.load(Ordering::Acquire) >= BYTES_MAX {
            let mut guard = waiting.lock.lock();
            let is_over = |(): &mut ()| waiting.bytes.load(Ordering::Acquire) > BYTES_MAX / 2;
            let _ = waiting.half.wait_while_for(&mut guard, is_over, PATIENCE);
        }
        let bytes = source_bytes + DOCUMENT_BYTES;
        waiting.bytes.fetch_add(bytes, Ordering::AcqRel);
        Incoming { document, room: Some(Room { waiting: waiting.clone(), bytes }) }
    }
}

/// A document for the index. Once it is being indexed it is no longer on its way.
#[derive(Debug)]
pub struct Incoming {
    document: TantivyDocument,
    room: Option<Room>,
}

impl From<TantivyDocument> for Incoming {
    /// Bounded by nothing but tantivy's queue.
    fn from(document: TantivyDocument) -> Self {
        Self { document, room: None }
    }
}

impl Document for Incoming {
    type Value<'a> = <TantivyDocument as Document>::Value<'a>;
    type FieldsValuesIter<'a> = <TantivyDocument as Document>::FieldsValuesIter<'a>;

    fn iter_fields_and_values(&self) -> Self::FieldsValuesIter<'_> {
        self.document.iter_fields_and_values()
    }

    fn into_tantivy_document(self) -> TantivyDocument {
        drop(self.room);
        self.document
    }
}

/// A share of what may be on its way.
#[derive(Debug)]
struct Room {
    waiting: Arc<Waiting>,
    bytes: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        const HALF: usize = BYTES_MAX / 2;
        let before = self.waiting.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        if before > HALF && before - self.bytes <= HALF {
            // With the lock, else the waiting thread could look, miss this and sleep.
            let _guard = self.waiting.lock.lock();
            self.waiting.half.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_wait_for_room_and_get_it_when_half_are_done() {
        let backlog = Backlog::default();
        let size = BYTES_MAX / 8;
        let enter = move |backlog: &Backlog| backlog.enter(TantivyDocument::default(), size);
        let mut inside: Vec<Incoming> = (0..8).map(|_| enter(&backlog)).collect();
        let waiting = backlog.clone();
        let late = std::thread::spawn(move || enter(&waiting));
        while !inside.is_empty() && !late.is_finished() {
            drop(inside.pop().map(Document::into_tantivy_document));
            std::thread::yield_now();
        }
        assert!(late.join().is_ok());
        drop(inside);
        assert_eq!(backlog.0.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_thread_that_indexes_nothing_is_not_waited_for_for_ever() {
        let backlog = Backlog::default();
        let inside: Vec<Incoming> = (0..2).map(|_| backlog.enter(TantivyDocument::default(), BYTES_MAX)).collect();
        assert_eq!(inside.len(), 2);
    }
}
