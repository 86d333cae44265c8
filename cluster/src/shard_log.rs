//! The shard log: per shard, a durable, ordered, bounded sequence of batches of operations.
//!
//! Seqs count operations, rows hold batches. Commit order is seq order: a reader never sees a seq
//! before all lower ones. Each row carries `chain = hash(previous chain, first seq, bytes)`, by which
//! a replica notices that the engine lost history.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use trawl_proto::{Epoch, Incarnation, Seq, ShardKey};

use crate::Error;
use crate::work_queue::Receipt;

/// A batch to append to one shard's log.
#[derive(Clone, Debug)]
pub struct Append {
    /// The shard.
    pub shard: ShardKey,
    /// The mapping version that the batch has to be applied with, or a later one: the log's version
    /// never goes back.
    pub mapping_version: u64,
    /// Number of operations in `body`; at least 1.
    pub operations: u32,
    /// The encoded `v1::Batch`, not compressed (the engine compresses).
    pub body: Bytes,
    /// Appending the same id again within an hour writes nothing and answers as the first time.
    pub message_id: Option<String>,
    /// The claim that the batch is appended for: checked in the same transaction, so that a worker that
    /// was paused past its claim cannot write.
    pub claim: Option<Receipt>,
    /// The log's size limit in bytes where the index has one of its own; else the engine's
    /// ([`EngineOptions::log_bytes_max`](crate::EngineOptions::log_bytes_max)).
    pub log_bytes_max: Option<u64>,
}

/// Where a batch went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The log's incarnation.
    pub incarnation: Incarnation,
    /// Seq of the batch's first operation.
    pub first: Seq,
    /// Seq of the batch's last operation.
    pub last: Seq,
    /// Whether the message id had been seen and nothing was written.
    pub duplicate: bool,
}

/// One row of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The log's incarnation when the row was written.
    pub incarnation: Incarnation,
    /// Seq of the first operation.
    pub first: Seq,
    /// Seq of the last operation.
    pub last: Seq,
    /// Apply with exactly this mapping version. Never decreases along the log.
    pub mapping_version: u64,
    /// The rules of the apply state machine to use; raised only when all leaves know them.
    pub apply_version: u32,
    /// Milliseconds since the epoch, by the appenders' clocks, never decreasing along the log.
    pub time_ms: u64,
    /// Hash over the row before (0 for the first) and this one; see [`chain`].
    pub chain: u64,
    /// The encoded `v1::Batch`.
    pub body: Bytes,
}

/// The log's end and start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The present incarnation.
    pub incarnation: Incarnation,
    /// The last seq appended; 0 for an empty log.
    pub last: Seq,
    /// The chain at `last`; 0 for an empty log.
    pub chain: u64,
    /// Everything up to here has been trimmed; reading can start after it.
    pub trimmed: Seq,
    /// The last mapping version used.
    pub mapping_version: u64,
    /// Bytes of the rows still kept.
    pub bytes: u64,
    /// The time of the last row appended, as in [`Record::time_ms`]; 0 for an empty log.
    pub time_ms: u64,
}

impl Head {
    /// Where the log ends.
    pub fn mark(&self) -> Mark {
        Mark { incarnation: self.incarnation, seq: self.last, chain: self.chain }
    }
}

/// A place in a log's history: the end of a row, as somebody saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The log's incarnation then.
    pub incarnation: Incarnation,
    /// The last seq of the row; 0 before the first.
    pub seq: Seq,
    /// The chain there.
    pub chain: u64,
}

/// What a replica holds that becomes the start of a new incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// The last seq that it contains.
    pub seq: Seq,
    /// The chain there.
    pub chain: u64,
    /// The mapping version that it has reached.
    pub mapping_version: u64,
    /// The log's time that it has reached, milliseconds since the epoch.
    pub time_ms: u64,
}

/// The chain value of a row: xxh3_64 over the previous row's chain, the first seq (both little
/// endian) and the uncompressed body.
pub fn chain(previous: u64, first: Seq, body: &[u8]) -> u64 {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    hasher.update(&previous.to_le_bytes());
    hasher.update(&first.0.to_le_bytes());
    hasher.update(body);
    hasher.digest()
}

/// The durable logs of all shards. Cheap to share behind an `Arc`.
#[async_trait]
pub trait ShardLog: Send + Sync + 'static {
    /// Refuses every later fenced call below this epoch. A new leader calls it before anything else.
    ///
    /// # Errors
    /// [`Error::Fenced`] when a higher epoch was here before.
    async fn fence(&self, epoch: Epoch) -> Result<(), Error>;

    /// Creates empty logs (incarnation 1) for shards that have none.
    ///
    /// # Errors
    /// [`Error::Fenced`] when the epoch is no longer the highest.
    async fn create(&self, epoch: Epoch, shards: &[ShardKey]) -> Result<(), Error>;

    /// Removes whole logs (of deleted indices), and the dead letters of their shards.
    ///
    /// # Errors
    /// [`Error::Fenced`] when the epoch is no longer the highest.
    async fn remove(&self, epoch: Epoch, shards: &[ShardKey]) -> Result<(), Error>;

    /// Appends batches, each atomically and all durable on return (concurrent calls share one
    /// fsync). Results stand in the order of the batches.
    ///
    /// # Errors
    /// Per batch: [`Error::NoSuchLog`], [`Error::LogFull`], [`Error::ClaimLost`] (not for a message id
    /// that is known: that answers as the first time).
    async fn append(&self, batches: Vec<Append>) -> Result<Vec<Result<Appended, Error>>, Error>;

    /// Reads rows that contain operations after `after`, in order, until about `bytes_max` of body
    /// (at least one row if there is one).
    ///
    /// # Errors
    /// [`Error::Trimmed`] when rows after `after` are gone; [`Error::NoSuchLog`].
    async fn read(&self, shard: &ShardKey, after: Seq, bytes_max: usize) -> Result<Vec<Record>, Error>;

    /// Follows a log from behind `after`: every row once, in order. Survives a loss of the engine.
    /// Ends with an error item when the log is trimmed past the reader or removed. When a new incarnation
    /// begins, a tail that stands exactly at its base goes on; another ends with [`Error::Trimmed`] (it
    /// stands before the base) or [`Error::OtherIncarnation`], at the latest when a row comes that does not
    /// continue what it has read.
    fn tail(&self, shard: &ShardKey, after: Seq) -> BoxStream<'static, Result<Record, Error>>;

    /// Drops rows that lie wholly at or before `through`, if the log still has what stood at `seen` when that was
    /// decided: an engine that lost its tail may have grown past it again, with rows that no replica has. `through` is
    /// not behind `seen`.
    ///
    /// # Errors
    /// [`Error::Fenced`] when the epoch is no longer the highest; [`Error::OtherIncarnation`] and
    /// [`Error::OtherHistory`] when the log is no longer the one that was seen; [`Error::NoSuchLog`].
    async fn trim(&self, epoch: Epoch, shard: &ShardKey, seen: Mark, through: Seq) -> Result<(), Error>;

    /// Begins a new incarnation (`from` + 1) after the engine was found to have lost history: the log goes
    /// on behind what a replica holds. In one transaction: all rows are taken out; the head stands at `base`
    /// (trimmed and last are its seq, then its chain; mapping version and time are at least its own); and
    /// the rows of incarnation `from` behind `fork`, which were acknowledged since the loss, stand behind
    /// the base with new seqs and chain values, in the same order, with their own message ids (which from
    /// now on answer with the new seqs) and mapping versions (never decreasing). A row that only ends behind
    /// `fork` is among them.
    ///
    /// # Errors
    /// [`Error::Fenced`]; [`Error::OtherIncarnation`] when the log is no longer at `from`;
    /// [`Error::NoSuchLog`].
    async fn restart(
        &self,
        epoch: Epoch,
        shard: &ShardKey,
        from: Incarnation,
        fork: Seq,
        base: Base,
    ) -> Result<Head, Error>;

    /// The heads of logs in the order asked; `None` where there is no log.
    async fn heads(&self, shards: &[ShardKey]) -> Result<Vec<Option<Head>>, Error>;

    /// The name of the engine's history, where it is another than the one whose logs were compared with the
    /// replicas last: a standby took over, or another server stands there. Until somebody
    /// [accepts](Self::accept_history) it, appends wait a little and are refused then. Always `None` for
    /// engines that cannot tell.
    async fn new_history(&self) -> Result<Option<String>, Error> {
        Ok(None)
    }

    /// Lets appends go on in a history that [`Self::new_history`] named.
    ///
    /// # Errors
    /// [`Error::Fenced`]; [`Error::Unavailable`] when yet another history has begun.
    async fn accept_history(&self, _epoch: Epoch, _history: &str) -> Result<(), Error> {
        Ok(())
    }
}
