//! Documents applied but not committed: what the committed index does not know yet.

use std::collections::HashMap;

use bytes::Bytes;
use parking_lot::Mutex;

use super::decide::Stamp;

/// Ids touched since the last commit. Shared between the applying thread and real-time gets.
#[derive(Debug, Default)]
pub struct Pending {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    ids: HashMap<String, Option<Touched>>,
    bytes: u64,
    /// Bytes of the sources kept.
    kept_bytes: usize,
    /// Whether sources were let go since the last commit.
    incomplete: bool,
}

/// A document written since the last commit.
#[derive(Clone, Debug)]
pub struct Touched {
    /// Where it stands.
    pub stamp: Stamp,
    /// Its `_routing`, where one was given.
    pub routing: Option<String>,
    /// Its source; unset when there was no room for all of them.
    pub source: Option<Bytes>,
}

impl Pending {
    /// `None`: not touched since the last commit. `Some(None)`: deleted.
    pub fn get(&self, id: &str) -> Option<Option<Stamp>> {
        self.inner.lock().ids.get(id).map(|touched| touched.as_ref().map(|touched| touched.stamp))
    }

    /// The document as it was written last; `None` and `Some(None)` as in [`Pending::get`].
    pub fn document(&self, id: &str) -> Option<Option<Touched>> {
        self.inner.lock().ids.get(id).cloned()
    }

    /// Whether the document was written since the last commit and its source was let go: only a commit
    /// shows it again.
    pub fn lacks_source(&self, id: &str) -> bool {
        let inner = self.inner.lock();
        inner.incomplete
            && inner.ids.get(id).is_some_and(|touched| matches!(touched, Some(touched) if touched.source.is_none()))
    }

    /// Records that a document was deleted.
    pub fn delete(&self, id: &str) {
        self.inner.lock().set(id, None);
    }

    /// Records that a document was written.
    pub fn put(&self, id: &str, touched: Touched) {
        let mut inner = self.inner.lock();
        let bytes = source_bytes(&touched);
        inner.bytes += bytes as u64;
        inner.kept_bytes += bytes;
        inner.set(id, Some(touched));
    }

    /// Lets all sources go when they have more bytes than this.
    pub fn keep_sources_within(&self, bytes_max: usize) {
        let mut inner = self.inner.lock();
        if inner.kept_bytes > bytes_max {
            inner.ids.values_mut().flatten().for_each(|touched| touched.source = None);
            inner.kept_bytes = 0;
            inner.incomplete = true;
        }
    }

    /// Forgets everything: the index and its searcher are up to date. Memory of a large map is given
    /// back.
    pub fn clear(&self) {
        *self.inner.lock() = Inner::default();
    }

    /// Number of ids, and bytes of the documents written since the last commit.
    pub fn size(&self) -> (usize, u64) {
        let inner = self.inner.lock();
        (inner.ids.len(), inner.bytes)
    }
}

impl Inner {
    fn set(&mut self, id: &str, touched: Option<Touched>) {
        let before = match self.ids.get_mut(id) {
            Some(there) => std::mem::replace(there, touched),
            None => self.ids.insert(id.to_owned(), touched).flatten(),
        };
        self.kept_bytes -= before.as_ref().map_or(0, source_bytes);
    }
}

fn source_bytes(touched: &Touched) -> usize {
    touched.source.as_ref().map_or(0, Bytes::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(source: &'static str) -> Touched {
        Touched { stamp: Stamp { seq: 1, primary_term: 1, version: 1 }, routing: None, source: Some(source.into()) }
    }

    #[test]
    fn sources_are_kept_within_bounds_and_stamps_for_all() {
        let pending = Pending::default();
        pending.put("a", written("12345"));
        pending.put("a", written("123"));
        pending.put("b", written("12"));
        pending.keep_sources_within(5);
        assert!(!pending.lacks_source("a"));
        pending.put("c", written("1"));
        pending.keep_sources_within(5);
        assert!(pending.lacks_source("a") && pending.lacks_source("c"));
        assert_eq!(pending.get("a"), Some(Some(Stamp { seq: 1, primary_term: 1, version: 1 })));
        pending.delete("b");
        pending.put("a", written("123"));
        assert!(!pending.lacks_source("a") && !pending.lacks_source("b") && !pending.lacks_source("d"));
        assert_eq!(pending.size(), (3, 14));
        pending.clear();
        assert_eq!(pending.size(), (0, 0));
        assert!(!pending.lacks_source("c"));
    }
}
