//! Documents applied but not committed: what the committed index does not know yet.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::decide::Stamp;

/// Ids touched since the last commit. Shared between the applying thread and real-time gets.
#[derive(Debug, Default)]
pub struct Pending {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    ids: HashMap<String, Option<Stamp>>,
    bytes: u64,
}

impl Pending {
    /// `None`: not touched since the last commit. `Some(None)`: deleted.
    pub fn get(&self, id: &str) -> Option<Option<Stamp>> {
        self.inner.lock().ids.get(id).copied()
    }

    /// Records what an operation did, and the size of its document.
    pub fn insert(&self, id: &str, stamp: Option<Stamp>, bytes: usize) {
        let mut inner = self.inner.lock();
        inner.bytes += bytes as u64;
        match inner.ids.get_mut(id) {
            Some(there) => *there = stamp,
            None => {
                inner.ids.insert(id.to_owned(), stamp);
            }
        }
    }

    /// Forgets everything: the index and its searcher are up to date. Memory of a large map is given
    /// back.
    pub fn clear(&self) {
        *self.inner.lock() = Inner::default();
    }

    /// Number of ids, and bytes of their documents.
    pub fn size(&self) -> (usize, u64) {
        let inner = self.inner.lock();
        (inner.ids.len(), inner.bytes)
    }
}
