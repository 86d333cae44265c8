//! Partial aggregations of a shard, in tantivy's intermediate form.
//!
//! Bounded in memory by [`Limits`]; the collection itself, with its look at the clock, is in
//! [`crate::search::collect`].

use tantivy::aggregation::agg_req::Aggregations;
use tantivy::aggregation::intermediate_agg_result::IntermediateAggregationResults;
use tantivy::aggregation::{AggContextParams, AggregationError, AggregationLimitsGuard, AggregationSegmentCollector};
use tantivy::collector::SegmentCollector;
use tantivy::tokenizer::TokenizerManager;
use tantivy::{DocId, SegmentOrdinal, SegmentReader};
use trawl_data::aggregation::{AggregationField, to_tantivy};
use trawl_proto::v1::{self, Failure, failure};

use crate::ShardSearcher;
use crate::schema::Physical;
use crate::search::Cancel;

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

/// The request's aggregations in physical names; `None` for none.
///
/// # Errors
/// `INVALID` for a field that cannot be aggregated, naming it.
pub fn prepare(searcher: &ShardSearcher, aggregations: &[v1::Aggregation]) -> Result<Option<Aggregations>, Failure> {
    if aggregations.is_empty() {
        return Ok(None);
    }
    let resolve = |field: &str| {
        let resolved = searcher.fields.resolve(field)?;
        let field_type = resolved.field_type.clone();
        // A text field is refused whatever is under its key.
        if field_type.is_text() {
            return Some(AggregationField { column: String::new(), field_type });
        }
        let part = resolved.parts.iter().find(|part| !matches!(part, Physical::Text { .. }));
        Some(AggregationField { column: part.map_or_else(|| "_none".to_owned(), |part| part.column().to_owned()), field_type })
    };
    to_tantivy(aggregations, &resolve)
        .map(Some)
        .map_err(|error| trawl_proto::failure(failure::Kind::Invalid, error.0))
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

/// Partial results as they travel; empty when none were `wanted`.
///
/// # Errors
/// `INTERNAL` when they cannot be encoded.
pub fn encode(merged: Option<IntermediateAggregationResults>, wanted: bool) -> Result<Vec<u8>, Failure> {
    if !wanted {
        return Ok(Vec::new());
    }
    postcard::to_stdvec(&merged.unwrap_or_default())
        .map_err(|error| trawl_proto::failure(failure::Kind::Internal, format!("cannot encode aggregations: {error}")))
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
