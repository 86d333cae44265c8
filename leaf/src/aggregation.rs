//! Partial aggregations of a shard, in tantivy's intermediate form.
//!
//! Bounded in memory by [`Limits`]; the collection itself, with its look at the clock, is in
//! [`crate::search::collect`].

use std::cell::RefCell;
use std::collections::BTreeMap;

use tantivy::aggregation::agg_req::Aggregations;
use tantivy::aggregation::intermediate_agg_result::IntermediateAggregationResults;
use tantivy::aggregation::{AggContextParams, AggregationError, AggregationLimitsGuard, AggregationSegmentCollector};
use tantivy::collector::SegmentCollector;
use tantivy::tokenizer::TokenizerManager;
use tantivy::{DocId, SegmentOrdinal, SegmentReader};
use trawl_cluster::protocol::PROTOCOL;
use trawl_data::aggregation::{AggregationField, Partial, ValueKind, format_for, formats, to_tantivy};
use trawl_proto::v1::{self, Failure, failure};

use crate::ShardSearcher;
use crate::schema::Physical;
use crate::search::Cancel;

/// Size of one shard's partial results at most. Terms are exact, so a shard sends every bucket it has,
/// and the root holds those of all shards at once.
pub const PARTIAL_BYTES_MAX: usize = 8 << 20;

/// What the aggregations of one shard may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes, as tantivy estimates them. Default 64 MiB.
    pub memory_bytes: u64,
    /// Buckets of a finished result. Default 65,536.
    pub buckets: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory_bytes: 64 << 20, buckets: 65_536 }
    }
}

/// A request's aggregations in physical names.
pub struct Prepared {
    /// As tantivy has them.
    pub aggregations: Aggregations,
    kinds: BTreeMap<String, ValueKind>,
}

/// The request's aggregations in physical names; `None` for none.
///
/// # Errors
/// `INVALID` for a field that cannot be aggregated, naming it.
pub fn prepare(searcher: &ShardSearcher, aggregations: &[v1::Aggregation]) -> Result<Option<Prepared>, Failure> {
    if aggregations.is_empty() {
        return Ok(None);
    }
    let kinds = RefCell::new(BTreeMap::new());
    let resolve = |field: &str| {
        let resolved = searcher.fields.resolve(field)?;
        let kind = ValueKind::of(&resolved.field_type);
        kinds.borrow_mut().insert(field.to_owned(), kind);
        // A text field is refused whatever else is under its key; a field without parts has no values.
        let part = resolved.parts.iter().find(|part| !matches!(part, Physical::Text { .. }));
        let column = part.map_or("_none", Physical::column).to_owned();
        Some(AggregationField { column, kind })
    };
    let aggregations =
        to_tantivy(aggregations, &resolve).map_err(|error| trawl_proto::failure(failure::Kind::Invalid, error.0))?;
    Ok(Some(Prepared { aggregations, kinds: kinds.into_inner() }))
}

/// Collects the aggregations of one segment.
pub struct SegmentAggregation(AggregationSegmentCollector);

impl SegmentAggregation {
    /// A collector for a segment.
    pub fn new(
        aggregations: &Aggregations,
        cancel: &Cancel,
        reader: &SegmentReader,
        segment: SegmentOrdinal,
    ) -> tantivy::Result<Self> {
        let limits = cancel.limits();
        let guard = AggregationLimitsGuard::new(Some(limits.memory_bytes), Some(limits.buckets));
        let context = AggContextParams::new(guard, TokenizerManager::default());
        AggregationSegmentCollector::from_agg_req_and_reader(aggregations, reader, segment, &context).map(Self)
    }

    /// Takes matching, live documents: ascending, at most a block of them.
    pub fn collect(&mut self, docs: &[DocId]) {
        if !docs.is_empty() {
            self.0.collect_block(docs);
        }
    }

    /// The segment's partial results.
    pub fn finish(self) -> tantivy::Result<IntermediateAggregationResults> {
        self.0.harvest()
    }
}

/// Adds a segment's partial results to those of others.
pub fn merge(
    merged: &mut Option<IntermediateAggregationResults>,
    next: IntermediateAggregationResults,
) -> tantivy::Result<()> {
    match merged {
        Some(merged) => merged.merge_fruits(next),
        None => {
            *merged = Some(next);
            Ok(())
        }
    }
}

/// The format of partial results for a root that reads these.
///
/// # Errors
/// `UNAVAILABLE` when this leaf writes none of them: another may be of the root's version.
pub fn format(read: &[u32]) -> Result<u32, Failure> {
    let written = formats(PROTOCOL);
    format_for(written, read).ok_or_else(|| {
        let reason = format!(
            "the root reads partial aggregations of the formats {read:?}, this leaf (Trawl {}) writes {written:?}: they \
             are of versions too far apart, finish the upgrade",
            env!("CARGO_PKG_VERSION")
        );
        trawl_proto::failure(failure::Kind::Unavailable, reason)
    })
}

/// Partial results as they travel, in this format; empty when none were asked for.
///
/// # Errors
/// `INVALID` when they are larger than [`PARTIAL_BYTES_MAX`]; `INTERNAL` when they cannot be encoded.
pub fn encode(
    merged: Option<IntermediateAggregationResults>,
    prepared: Option<Prepared>,
    format: u32,
) -> Result<Vec<u8>, Failure> {
    let Some(Prepared { kinds, .. }) = prepared else { return Ok(Vec::new()) };
    let partial = Partial { kinds, results: merged.unwrap_or_default() };
    let bytes = partial.encode(format).map_err(|error| {
        trawl_proto::failure(failure::Kind::Internal, format!("cannot encode aggregations: {error}"))
    })?;
    if bytes.len() > PARTIAL_BYTES_MAX {
        let size = bytes.len();
        let reason = format!(
            "too_many_buckets: the buckets of one shard take {size} bytes, the limit is {PARTIAL_BYTES_MAX}; use a field \
             with fewer values, or narrow the query"
        );
        return Err(trawl_proto::failure(failure::Kind::Invalid, reason));
    }
    Ok(bytes)
}

/// An error of an aggregation as a person can act on it.
pub fn reason(error: &AggregationError) -> String {
    match error {
        AggregationError::MemoryExceeded { limit, .. } => {
            format!("too_many_buckets: the aggregations need more than the limit of {limit:?} of memory on one shard")
        }
        AggregationError::BucketLimitExceeded { limit, current } => {
            format!("too_many_buckets: trying to create too many buckets ({current}); the limit is {limit}")
        }
        other => other.to_string(),
    }
}
