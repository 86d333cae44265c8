//! Searches and their answers.

use std::sync::Arc;
use std::time::Duration;

use trawl_cluster::catalog::IndexRecord;
use trawl_data::mapping::Mapping;
use trawl_proto::{NodeName, v1};

use crate::aggregation::AggregationResult;
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
    /// For logs: 32 hexadecimal digits, or empty.
    pub trace_id: String,
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
            trace_id: String::new(),
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
