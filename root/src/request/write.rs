//! Writes and what they came to.

use std::time::Duration;

use trawl_cluster::work_queue::Receipt;
use trawl_proto::{Seq, v1};

use super::search::ShardsSummary;
use crate::error::Error;

/// One operation of a write.
#[derive(Clone, Debug, PartialEq)]
pub struct WriteItem {
    /// The index's name; made with defaults when it does not exist.
    pub index: String,
    /// With an empty `id` for an automatic one (then always a create).
    pub operation: v1::Operation,
}

/// When a write's effect has to be visible to searches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refresh {
    /// With the next periodic refresh.
    #[default]
    False,
    /// Before the answer, forcing a refresh.
    True,
    /// Before the answer.
    WaitFor,
}

/// How to write.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// When to be visible.
    pub refresh: Refresh,
    /// How long to wait altogether.
    pub timeout: Duration,
    /// Whether to wait for each operation's outcome; else all are `Accepted` when durable.
    pub wait_for_outcome: bool,
    /// The same key, the same write: repeating it changes nothing.
    pub idempotency_key: Option<String>,
    /// The claim of a task that the write is done for: nothing is written once it is lost.
    pub claim: Option<Receipt>,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self {
            refresh: Refresh::False,
            timeout: Duration::from_secs(60),
            wait_for_outcome: true,
            idempotency_key: None,
            claim: None,
        }
    }
}

/// What a write came to.
#[derive(Clone, Debug)]
pub struct WriteResult {
    /// One per item, in order.
    pub items: Vec<ItemOutcome>,
    /// The last position written per shard, for `X-Trawl-Position`.
    pub positions: Vec<v1::Position>,
    /// Whether a refresh was asked for and done on every serving replica.
    pub refreshed: bool,
}

/// What one operation came to.
#[derive(Clone, Debug)]
pub struct ItemOutcome {
    /// Name of the index.
    pub index: String,
    /// The `_id`, given or made; empty only if none was given and none could be made.
    pub id: String,
    /// Durable in the log, or why not.
    pub result: Result<ItemWritten, Error>,
}

/// An operation that is durable in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct ItemWritten {
    /// What it did, as far as known.
    pub outcome: WriteOutcome,
    /// Its shard.
    pub shard: u32,
    /// The incarnation that its seq counts in.
    pub primary_term: u64,
    /// Copies: configured, known to have it, failed.
    pub shards: ShardsSummary,
}

/// An operation's outcome.
#[derive(Clone, Debug, PartialEq)]
pub enum WriteOutcome {
    /// Known: also a conflict or a rejection is an outcome.
    Done(v1::Outcome),
    /// Durable, but no replica could say in time; `_trawl/operations` tells later.
    Accepted {
        /// Its place in the log.
        seq: Seq,
    },
}
