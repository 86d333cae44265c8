//! What can go wrong with an engine, by what the caller can do about it.

use trawl_proto::{Epoch, Incarnation, Seq, ShardKey};

use crate::store::Guard;
use crate::work_queue::Receipt;

/// An error of the store, the logs or the queue.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A guard did not hold: read again and decide anew.
    #[error("commit lost to another: {0:?} does not hold")]
    Conflict(Guard),
    /// The caller leads no more.
    #[error("epoch {epoch} is fenced off: {highest} has been here")]
    Fenced {
        /// The caller's epoch.
        epoch: Epoch,
        /// The highest epoch seen.
        highest: Epoch,
    },
    /// The shard has no log (not yet, or no more).
    #[error("there is no log for shard {0}")]
    NoSuchLog(ShardKey),
    /// The log is at its limit; try again when replicas have caught up.
    #[error("the log of shard {shard} is full: {bytes} of {bytes_max} bytes")]
    LogFull {
        /// The shard.
        shard: ShardKey,
        /// Size of the rows kept.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The queue or a table beside it is at its limit.
    #[error("the queue is full: it keeps {kept_max} tasks at most")]
    QueueFull {
        /// The limit.
        kept_max: u64,
    },
    /// Too many appends wait in this process; try again.
    #[error("too many appends are waiting for the cluster engine")]
    Busy,
    /// The claim ran out or was taken over: what the worker still does for it does not count.
    #[error("the claim {0} is no longer held")]
    ClaimLost(Receipt),
    /// The log has begun another incarnation meanwhile.
    #[error("the log of shard {shard} is at incarnation {found}")]
    OtherIncarnation {
        /// The shard.
        shard: ShardKey,
        /// The log's incarnation.
        found: Incarnation,
    },
    /// The log does not have a row that it had: the engine lost it.
    #[error("the log of shard {shard} no longer has what it had at {seq}")]
    OtherHistory {
        /// The shard.
        shard: ShardKey,
        /// Where something else stands now.
        seq: Seq,
    },
    /// The rows asked for were trimmed; copy from another replica.
    #[error("the log of shard {shard} was trimmed through {trimmed}")]
    Trimmed {
        /// The shard.
        shard: ShardKey,
        /// The last seq gone.
        trimmed: Seq,
    },
    /// A batch, key or value is over its limit; it will never be taken.
    #[error("{what} of {bytes} bytes is over the limit of {bytes_max}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The engine is out of reach or overloaded; try again.
    #[error("the cluster engine is unavailable: {0}")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What is stored cannot be understood (damage, or a newer version wrote it).
    #[error("stored record cannot be read: {0}")]
    Corrupt(String),
    /// The node may not take part.
    #[error(transparent)]
    Refused(#[from] crate::protocol::Refusal),
    /// The cluster URL is not one.
    #[error("bad cluster url {url:?}: {reason}")]
    BadUrl {
        /// As given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
}
