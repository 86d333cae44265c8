//! The typed requests and answers between `http` and the rest of the root.
//!
//! `http` turns bodies into these and these into bodies; nothing below knows JSON or HTTP.

use std::sync::Arc;
use std::time::Duration;

use trawl_cluster::catalog::IndexRecord;
use trawl_cluster::work_queue::Receipt;
use trawl_data::mapping::Mapping;
use trawl_proto::{NodeName, Seq, v1};

pub use crate::aggregation::{AggregationResult, Bucket, BucketKey, ExtendedStats};
use crate::error::Error;

/// A search over one or more indices.
#[derive(Clone)]
pub struct SearchRequest {
    /// Concrete names, as [`crate::Root::resolve`] gives them; none answers an empty result.
    pub indices: Vec<String>,
    /// Makes the query of one index.
    pub lower: Lower,
    /// How many hits to skip.
    pub from: u32,
    /// How many hits to return.
    pub size: u32,
    /// How far to count.
    pub track_total: TrackTotal,
    /// Whether scores are wanted although the sort does not need them.
    pub track_scores: bool,
    /// Hits below are left out and not counted.
    pub min_score: Option<f32>,
    /// From now; an answer comes by then, complete or marked with what is missing.
    pub timeout: Duration,
    /// `_only_nodes:A,B`, `_prefer_nodes:A,B`, `_local` (no effect), or any text: the same text, the
    /// same replicas.
    pub preference: Option<String>,
    /// The answer contains at least these writes.
    pub after: Vec<v1::Position>,
    /// `dfs_query_then_fetch`: ask for statistics first, always.
    pub fresh_statistics: bool,
    /// Whether an answer without some shards is one.
    pub allow_partial: bool,
    /// For logs; empty for none.
    pub query_id: String,
}

impl SearchRequest {
    /// The defaults of Elasticsearch: ten hits, counted to 10,000, within 10 s.
    pub fn new(indices: Vec<String>, lower: Lower) -> Self {
        Self {
            indices,
            lower,
            from: 0,
            size: 10,
            track_total: TrackTotal::UpTo(10_000),
            track_scores: false,
            min_score: None,
            timeout: Duration::from_secs(10),
            preference: None,
            after: Vec::new(),
            fresh_statistics: false,
            allow_partial: true,
            query_id: String::new(),
        }
    }
}

/// Makes the query of one index: names are resolved and texts analysed with its mapping. Called
/// again when newer dynamic fields are learned, so it has to be pure.
pub type Lower = Arc<dyn Fn(&IndexView) -> Result<Lowered, Error> + Send + Sync>;

/// A request's part that depends on an index's mapping, in wire form.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lowered {
    /// What to find.
    pub query: v1::Query,
    /// Empty: score descending.
    pub sort: Vec<v1::SortKey>,
    /// As many as sort keys (one score when there are none), or none.
    pub search_after: Vec<v1::SortValue>,
    /// What to compute over all matches.
    pub aggregations: Vec<v1::Aggregation>,
    /// What to return of the winners.
    pub fetch: v1::FetchOptions,
    /// Whether a field is named that is dynamic or unknown: lowered again when the view was not the
    /// latest.
    pub uses_dynamic: bool,
}

/// An index as a query is planned on it.
#[derive(Clone, Debug)]
pub struct IndexView {
    /// Its definition.
    pub record: Arc<IndexRecord>,
    /// The catalog's mapping plus the dynamic fields that the leaves report.
    pub mapping: Arc<Mapping>,
    /// The catalog's mapping alone.
    pub catalog_mapping: Arc<Mapping>,
}

/// How far matches are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrackTotal {
    /// Exactly up to this number, at least that beyond.
    UpTo(u64),
    /// Always exactly.
    Exact,
    /// Not at all.
    No,
}

impl TrackTotal {
    /// As the wire says it.
    pub fn count_up_to(self) -> u64 {
        match self {
            Self::UpTo(limit) => limit,
            Self::Exact => u64::MAX,
            Self::No => 0,
        }
    }
}

/// One merged answer.
#[derive(Clone, Debug, Default)]
pub struct SearchResponse {
    /// From the request's arrival to this answer.
    pub took: Duration,
    /// Whether time ran out somewhere, so that hits or shards are missing.
    pub timed_out: bool,
    /// Exactly what answered and what did not.
    pub shards: ShardsSummary,
    /// `None` when not tracked.
    pub total: Option<Total>,
    /// The greatest score of all matches; `None` when not computed or nothing matched.
    pub max_score: Option<f32>,
    /// In sort order; `from` already skipped.
    pub hits: Vec<FoundHit>,
    /// In the order asked.
    pub aggregations: Vec<(String, AggregationResult)>,
}

/// Number of matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Total {
    /// The number, or a lower bound.
    pub value: u64,
    /// Whether it is the number.
    pub exact: bool,
}

/// One hit with its document.
#[derive(Clone, Debug)]
pub struct FoundHit {
    /// Name of its index.
    pub index: String,
    /// Its `_id`.
    pub id: String,
    /// `None` when no score was computed.
    pub score: Option<f32>,
    /// One per sort key.
    pub sort: Vec<v1::SortValue>,
    /// As asked for by the fetch options.
    pub document: v1::Document,
}

/// Which shards answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShardsSummary {
    /// Asked for (for writes: configured copies).
    pub total: u32,
    /// Answered, skipped ones included.
    pub successful: u32,
    /// Known to have no match without asking.
    pub skipped: u32,
    /// Did not answer.
    pub failed: u32,
    /// Why they did not.
    pub failures: Vec<ShardFailure>,
}

/// Why a shard did not answer.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardFailure {
    /// Name of the index.
    pub index: String,
    /// Number of the shard.
    pub shard: u32,
    /// Who was asked last; `None` when there was nobody to ask.
    pub node: Option<NodeName>,
    /// Kind and reason.
    pub failure: v1::Failure,
}

/// How names that match nothing are taken by [`crate::Root::resolve`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResolveOptions {
    /// Leave out plain names that do not exist, instead of failing.
    pub ignore_unavailable: bool,
    /// Whether no index at all is a valid answer (for wildcards and `_all`).
    pub allow_no_indices: bool,
}

impl Default for ResolveOptions {
    fn default() -> Self {
        Self { ignore_unavailable: false, allow_no_indices: true }
    }
}

/// How to make an index.
#[derive(Clone, Debug)]
pub struct CreateIndex {
    /// 1 to 1,024.
    pub shards: u32,
    /// Extra replicas of each shard.
    pub replicas: u32,
    /// `None`: only on demand.
    pub refresh_interval: Option<Duration>,
    /// Bytes that each shard's log may keep; `None`: as the cluster has it.
    pub log_bytes_max: Option<u64>,
    /// By how much all replicas of a shard may be behind before writes are refused; `None`: no limit.
    pub log_age_max: Option<Duration>,
    /// How long a leaf may be away before its replicas are replaced; `None`: as the cluster has it.
    pub replace_after: Option<Duration>,
    /// The mapping.
    pub mapping: Mapping,
}

/// Settings of an index to be changed while it is used; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChangeIndex {
    /// See [`CreateIndex::refresh_interval`].
    pub refresh_interval: Option<Option<Duration>>,
    /// See [`CreateIndex::log_bytes_max`].
    pub log_bytes_max: Option<Option<u64>>,
    /// See [`CreateIndex::log_age_max`].
    pub log_age_max: Option<Option<Duration>>,
    /// See [`CreateIndex::replicas`].
    pub replicas: Option<u32>,
    /// See [`CreateIndex::replace_after`].
    pub replace_after: Option<Option<Duration>>,
}

impl ChangeIndex {
    /// The record of the index afterwards.
    pub(crate) fn apply(&self, record: &IndexRecord) -> IndexRecord {
        let ms = |time: Option<Duration>| time.map(|time| time.as_millis() as u64);
        IndexRecord {
            refresh_interval_ms: self.refresh_interval.map_or(record.refresh_interval_ms, ms),
            log_bytes_max: self.log_bytes_max.unwrap_or(record.log_bytes_max),
            log_age_max_ms: self.log_age_max.map_or(record.log_age_max_ms, ms),
            replicas: self.replicas.unwrap_or(record.replicas),
            replace_after_ms: self.replace_after.map_or(record.replace_after_ms, ms),
            ..record.clone()
        }
    }
}

/// What came of [`crate::Root::create_index`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// The index's uid.
    pub uid: String,
    /// Whether every shard had a serving replica before the time was over.
    pub shards_acknowledged: bool,
    /// What is taken but cannot be carried out as things are, for a person.
    pub warnings: Vec<String>,
}

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

/// Traffic-light state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HealthStatus {
    /// Every configured replica serves.
    Green,
    /// Every shard is served, but not by every configured replica.
    Yellow,
    /// A shard has no serving replica.
    Red,
}

impl HealthStatus {
    /// `green`, `yellow` or `red`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Green => "green",
            Self::Yellow => "yellow",
            Self::Red => "red",
        }
    }
}

/// Health of some indices together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The worst of all.
    pub status: HealthStatus,
    /// Whether a wait for a better status ended without it.
    pub timed_out: bool,
    /// Live roots and leaves.
    pub nodes: u32,
    /// Live leaves.
    pub leaves: u32,
    /// Shards with at least one serving replica (`active_primary_shards`).
    pub shards_served: u32,
    /// Replicas that serve.
    pub replicas_serving: u32,
    /// Replicas that are assigned to a live leaf and do not serve yet.
    pub replicas_recovering: u32,
    /// Configured replicas without a live leaf.
    pub replicas_unassigned: u32,
    /// Why it cannot be green as things are, for a person.
    pub reasons: Vec<String>,
    /// Per index, by name.
    pub indices: Vec<IndexHealth>,
}

/// Health of one index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexHealth {
    /// Its name.
    pub name: String,
    /// The worst of its shards.
    pub status: HealthStatus,
    /// Number of shards.
    pub shards: u32,
    /// Configured extra replicas.
    pub replicas: u32,
    /// Shards with at least one serving replica.
    pub shards_served: u32,
    /// Replicas that serve.
    pub replicas_serving: u32,
    /// Replicas that are assigned to a live leaf and do not serve yet.
    pub replicas_recovering: u32,
    /// Configured replicas without a live leaf.
    pub replicas_unassigned: u32,
}

/// Everything for `_cat` and `/_trawl/cluster`.
#[derive(Clone, Debug)]
pub struct ClusterStatus {
    /// Who leads.
    pub leader: Option<LeaderStatus>,
    /// All roots, by name.
    pub roots: Vec<NodeStatus>,
    /// All leaves, by name.
    pub leaves: Vec<NodeStatus>,
    /// All indices, by name.
    pub indices: Vec<Arc<IndexRecord>>,
    /// All replicas, assigned or only configured, by index name, shard, leaf.
    pub replicas: Vec<ReplicaInfo>,
    /// The logs of all shards, by index name and shard; none when the engine cannot be reached.
    pub logs: Vec<LogInfo>,
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderStatus {
    /// The root.
    pub name: NodeName,
    /// Its fencing number.
    pub epoch: u64,
    /// Milliseconds since the epoch.
    pub since_ms: u64,
}

/// A node as seen from this root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// As it registered itself.
    pub record: trawl_cluster::catalog::NodeRecord,
    /// Whether its counter moves.
    pub alive: bool,
    /// Whether this root's connection to it works; roots: always true.
    pub connected: bool,
    /// Whether it is to hold nothing; leaves only.
    pub draining: bool,
}

/// State of one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaState {
    /// Answers queries.
    Serving,
    /// Opening or catching up.
    Recovering,
    /// Stopped; `status.reason` says why.
    Failed,
    /// Assigned to a leaf that is not there.
    Unreachable,
    /// Configured, but there is no leaf to hold it.
    Unassigned,
}

/// One replica.
#[derive(Clone, Debug)]
pub struct ReplicaInfo {
    /// Name of the index.
    pub index: String,
    /// Uid of the index.
    pub uid: String,
    /// Number of the shard.
    pub shard: u32,
    /// `None` when unassigned.
    pub leaf: Option<NodeName>,
    /// Its state.
    pub state: ReplicaState,
    /// As its leaf reports it; `None` when the leaf did not answer.
    pub status: Option<v1::ReplicaStatus>,
    /// Operations in the shard's log that it has not applied; `None` when the leaf did not answer.
    pub lag_operations: Option<u64>,
    /// Log time between the last operation applied and the last one in the log.
    pub lag: Option<Duration>,
}

/// One shard's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogInfo {
    /// Name of the index.
    pub index: String,
    /// Number of the shard.
    pub shard: u32,
    /// Operations that are kept.
    pub operations: u64,
    /// Their size.
    pub bytes: u64,
    /// At this size appends are refused; `None`: the engine's default.
    pub bytes_max: Option<u64>,
}
