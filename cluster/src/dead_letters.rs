//! Dead letters: operations that replicas rejected for their content, kept for people to see, mend and
//! replay.
//!
//! Every replica rejects the same operations, and each hands its rejections over before it commits past
//! them; per shard the engine keeps how far rejections are known, so that each is kept once, and one that
//! was dropped does not come back from a replica that lags.

use async_trait::async_trait;
use bytes::Bytes;
use trawl_proto::{Generation, IndexUid, ShardKey};

use crate::Error;

/// A dead letter's address. Ordered by shard, then place in its history.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LetterKey {
    /// The shard that the operation was for.
    pub shard: ShardKey,
    /// The operation's place.
    pub at: Generation,
}

/// A rejected operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Where it stood.
    pub key: LetterKey,
    /// The document's id.
    pub id: String,
    /// The encoded `v1::Operation`.
    pub operation: Bytes,
    /// The mapping version that it was applied with.
    pub mapping_version: u64,
    /// The kind of error, for example `document_parsing_exception`.
    pub error_type: String,
    /// The reason, for a person.
    pub reason: String,
    /// The log's time when it was appended, milliseconds since the epoch.
    pub time_ms: u64,
}

/// What is kept, and what was not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LetterCounts {
    /// Letters kept.
    pub kept: u64,
    /// Bytes of their operations.
    pub bytes: u64,
    /// Letters that made room for newer ones, ever.
    pub aged_out: u64,
}

/// The dead letters of all shards. Cheap to share behind an `Arc`.
#[async_trait]
pub trait DeadLetters: Send + Sync + 'static {
    /// Keeps the letters of one shard, given in order, and notes that all rejections through `through`
    /// are known. Letters at or before what was noted earlier are left out, and so are those of a shard
    /// that has no log any more (its letters went with it). The letters that came first, of the whole
    /// cluster, make room at the limit (and are counted). Durable on return.
    async fn record(&self, shard: &ShardKey, through: Generation, letters: Vec<DeadLetter>) -> Result<(), Error>;

    /// Letters in key order behind `after`, of one index or of all, at most `limit`.
    async fn letters(
        &self,
        index: Option<&IndexUid>,
        after: Option<&LetterKey>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, Error>;

    /// One letter.
    async fn letter(&self, key: &LetterKey) -> Result<Option<DeadLetter>, Error>;

    /// Forgets letters (dropped, or replayed with success). Returns how many were there.
    async fn remove(&self, keys: &[LetterKey]) -> Result<u64, Error>;

    /// How many there are.
    async fn counts(&self) -> Result<LetterCounts, Error>;
}
