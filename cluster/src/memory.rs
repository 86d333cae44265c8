//! A store in memory, for tests of what is built on stores under a paused clock.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use tokio::sync::watch;

use crate::Error;
use crate::store::{Change, Entry, Guard, Revision, Store, Update, Write};

/// The store. While it is cut off, every call fails and watches stand still.
#[derive(Default)]
pub(crate) struct MemoryStore {
    state: Mutex<State>,
    wakes: watch::Sender<u64>,
    cut_off: AtomicBool,
}

/// A deleted key stays without a value.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    revision: Revision,
    entries: BTreeMap<String, (Option<Bytes>, Revision)>,
}

impl State {
    pub(crate) fn get(&self, key: &str) -> Option<Entry> {
        let (value, revision) = self.entries.get(key)?;
        Some(Entry { key: key.to_owned(), value: value.clone()?, revision: *revision })
    }

    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    pub(crate) fn commit(&mut self, guards: &[Guard], writes: &[Write]) -> Result<Revision, Guard> {
        for guard in guards {
            let (key, expected) = match guard {
                Guard::At(key, revision) => (key, Some(*revision)),
                Guard::Absent(key) => (key, None),
            };
            if self.get(key).map(|entry| entry.revision) != expected {
                return Err(guard.clone());
            }
        }
        self.revision.0 += 1;
        for write in writes {
            let (key, value) = match write {
                Write::Put(key, value) => (key, Some(value.clone())),
                Write::Delete(key) => (key, None),
            };
            self.entries.insert(key.clone(), (value, self.revision));
        }
        Ok(self.revision)
    }

    fn changes(&self, prefix: &str, after: Option<Revision>) -> Option<Change> {
        let under = self.entries.iter().filter(|(key, _)| key.starts_with(prefix));
        let Some(after) = after else {
            return Some(Change::Snapshot(under.filter_map(|(key, _)| self.get(key)).collect(), self.revision));
        };
        let update = |key: &String| self.get(key).map_or_else(|| Update::Deleted(key.clone()), Update::Put);
        let mut newer: Vec<_> = under.filter(|(_, (_, revision))| *revision > after).collect();
        newer.sort_by_key(|(_, (_, revision))| *revision);
        let updates: Vec<Update> = newer.into_iter().map(|(key, _)| update(key)).collect();
        (!updates.is_empty()).then_some(Change::Changed(updates, self.revision))
    }
}

impl MemoryStore {
    pub(crate) fn cut_off(&self, cut_off: bool) {
        self.cut_off.store(cut_off, Ordering::Relaxed);
        self.wakes.send_modify(|wakes| *wakes += 1);
    }

    fn check(&self) -> Result<(), Error> {
        if self.cut_off.load(Ordering::Relaxed) {
            return Err(Error::Unavailable("cut off".into()));
        }
        Ok(())
    }
}

/// So that a watch can outlive the borrow of its store.
#[derive(Clone, Default)]
pub(crate) struct SharedStore(pub(crate) std::sync::Arc<MemoryStore>);

#[async_trait]
impl Store for SharedStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.0.check()?;
        Ok(self.0.state.lock().expect("not poisoned").get(key))
    }

    async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), Error> {
        self.0.check()?;
        match self.0.state.lock().expect("not poisoned").changes(prefix, None) {
            Some(Change::Snapshot(entries, revision)) => Ok((entries, revision)),
            _ => unreachable!("no revision to start from gives a snapshot"),
        }
    }

    fn watch(&self, prefix: &str) -> BoxStream<'static, Change> {
        let start = (self.0.clone(), self.0.wakes.subscribe(), prefix.to_owned(), None);
        futures::stream::unfold(start, |(store, mut wakes, prefix, mut seen)| async move {
            loop {
                wakes.borrow_and_update();
                if store.check().is_ok() {
                    let change = store.state.lock().expect("not poisoned").changes(&prefix, seen);
                    if let Some(change) = change {
                        let (Change::Snapshot(_, revision) | Change::Changed(_, revision)) = &change;
                        seen = Some(*revision);
                        return Some((change, (store, wakes, prefix, seen)));
                    }
                }
                wakes.changed().await.ok()?;
            }
        })
        .boxed()
    }

    async fn commit(&self, guards: &[Guard], writes: &[Write]) -> Result<Revision, Error> {
        self.0.check()?;
        let committed = self.0.state.lock().expect("not poisoned").commit(guards, writes);
        self.0.wakes.send_modify(|wakes| *wakes += 1);
        committed.map_err(Error::Conflict)
    }
}
