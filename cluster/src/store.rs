//! The cluster store: a small consistent key-value store with compare-and-set over several keys.
//!
//! No clocks and no TTLs: expiry is judged by observers (see `lease`). Everything in it is small
//! (definitions, membership, assignments); documents never pass through it.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::Error;

/// A point in the store's history; grows with every commit, across all keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// A key's present value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// The commit that wrote it.
    pub revision: Revision,
}

/// What has to hold for a commit to take place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The key is there and was last written by this revision.
    At(String, Revision),
    /// The key is not there.
    Absent(String),
}

/// What a commit does to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets the value.
    Put(String, Bytes),
    /// Removes the key; nothing happens when it is not there.
    Delete(String),
}

/// One step of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Everything under the prefix as of a revision, sorted by key. Always the first step, and
    /// again when the engine could not tell what had changed in between.
    Snapshot(Vec<Entry>, Revision),
    /// Keys written or removed since the step before, in commit order; a key that was written more
    /// than once in between may appear with its last value only.
    Changed(Vec<Update>, Revision),
}

/// One changed key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// The key has a new value.
    Put(Entry),
    /// The key is gone.
    Deleted(String),
}

/// The consistent key-value store. Cheap to share behind an `Arc`.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Returns the key's entry, or `None`.
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error>;

    /// Returns all entries under the prefix, sorted by key, as of one revision.
    async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), Error>;

    /// Follows a prefix: a snapshot first, then every change, in order, none missed. Survives a loss
    /// of the engine (it waits and goes on). Ends only when dropped.
    fn watch(&self, prefix: &str) -> BoxStream<'static, Change>;

    /// Carries out all writes in one transaction if all guards hold, and returns its revision.
    /// Durable when it returns.
    ///
    /// # Errors
    /// [`Error::Conflict`] names the first guard that did not hold; nothing was written then.
    async fn commit(&self, guards: &[Guard], writes: &[Write]) -> Result<Revision, Error>;

    /// As [`Store::commit`], but watches may hear of it up to two seconds later: for counters that merely grow, of
    /// which there are so many that each observer should be woken for a number of them at once.
    async fn commit_unhurried(&self, guards: &[Guard], writes: &[Write]) -> Result<Revision, Error> {
        self.commit(guards, writes).await
    }
}
