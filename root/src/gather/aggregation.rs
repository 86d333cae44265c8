//! Merges the shards' partial aggregations into final ones.
//!
//! Every shard sent all its buckets (see [`trawl_data::aggregation`]), so counts are exact and the order
//! and the cut made here are those of one index that holds everything.

mod buckets;
mod metrics;

use std::collections::BTreeMap;

use bytes::Bytes;
use tantivy::TantivyError;
use tantivy::aggregation::agg_result::{AggregationResult as Found, AggregationResults, BucketResult};
use tantivy::aggregation::intermediate_agg_result::IntermediateAggregationResults;
use tantivy::aggregation::{AggregationError, AggregationLimitsGuard};
use tokio::time::Instant;
use trawl_data::aggregation::{AggregationField, Partial, ValueKind, field_of, range_name, to_tantivy};
use trawl_proto::v1::{self, aggregation::Kind};

use crate::aggregation::AggregationResult;
use crate::error::Error;

/// Buckets of one answer, as in Elasticsearch (`search.max_buckets`).
pub const BUCKETS_MAX: usize = 65_536;
/// Bytes that finishing may use, as tantivy estimates them.
const MEMORY_BYTES_MAX: u64 = 256 << 20;

/// The final results, in the order asked for; empty ones when there is no partial result. Each partial result comes
/// with its format, and need not have the same.
///
/// # Errors
/// [`Error::Invalid`] when there are too many buckets, [`Error::Internal`] when a partial result cannot
/// be read.
pub fn merge(wanted: &[v1::Aggregation], partials: &[(u32, Bytes)]) -> Result<Vec<(String, AggregationResult)>, Error> {
    merge_until(wanted, partials, None)
}

/// As [`merge`], looking at the deadline between two steps.
///
/// # Errors
/// As [`merge`]; [`Error::Timeout`].
pub fn merge_until(
    wanted: &[v1::Aggregation],
    partials: &[(u32, Bytes)],
    deadline: Option<Instant>,
) -> Result<Vec<(String, AggregationResult)>, Error> {
    let in_time = || match deadline {
        Some(deadline) if Instant::now() >= deadline => Err(Error::Timeout("aggregations take too long".to_owned())),
        _ => Ok(()),
    };
    let mut merging = Merging::default();
    let mut merged: Option<IntermediateAggregationResults> = None;
    for (format, bytes) in partials.iter().filter(|(_, bytes)| !bytes.is_empty()) {
        in_time()?;
        let partial =
            Partial::decode(*format, bytes.clone()).map_err(|error| Error::Internal(format!("a shard's {error}")))?;
        merging.learn(partial.kinds);
        match &mut merged {
            Some(merged) => merged.merge_fruits(partial.results).map_err(failed)?,
            None => merged = Some(partial.results),
        }
    }
    in_time()?;
    let results = merging.finish(wanted, merged.unwrap_or_default())?;
    in_time()?;
    let results = merging.results(wanted, results)?;
    let buckets: usize = results.iter().map(|(_, result)| buckets::count(result)).sum();
    if buckets > BUCKETS_MAX {
        return Err(too_many(format!("{buckets}")));
    }
    Ok(results)
}

/// What is known of the fields.
#[derive(Default)]
pub(super) struct Merging {
    kinds: BTreeMap<String, ValueKind>,
}

impl Merging {
    /// A field is what the shards that have it say; numbers are doubles where one says so.
    fn learn(&mut self, kinds: BTreeMap<String, ValueKind>) {
        for (field, kind) in kinds {
            self.kinds
                .entry(field)
                .and_modify(|known| {
                    if *known == ValueKind::Long && kind == ValueKind::Double {
                        *known = kind;
                    }
                })
                .or_insert(kind);
        }
    }

    fn kind(&self, field: &str) -> Option<ValueKind> {
        self.kinds.get(field).copied()
    }

    /// Tantivy's final results.
    fn finish(
        &self,
        wanted: &[v1::Aggregation],
        merged: IntermediateAggregationResults,
    ) -> Result<AggregationResults, Error> {
        let resolve = |field: &str| self.kind(field).map(|kind| AggregationField { column: field.to_owned(), kind });
        let request = to_tantivy(wanted, &resolve).map_err(|error| Error::Invalid {
            error_type: "illegal_argument_exception",
            reason: error.0,
            caused_by: None,
        })?;
        let guard = AggregationLimitsGuard::new(Some(MEMORY_BYTES_MAX), Some(u32::MAX));
        merged.into_final_result(request, guard).map_err(failed)
    }

    /// The results of sibling aggregations, in the order asked for.
    fn results(
        &self,
        wanted: &[v1::Aggregation],
        mut found: AggregationResults,
    ) -> Result<Vec<(String, AggregationResult)>, Error> {
        wanted.iter().map(|aggregation| Ok((aggregation.name.clone(), self.result(aggregation, &mut found)?))).collect()
    }

    fn result(&self, wanted: &v1::Aggregation, found: &mut AggregationResults) -> Result<AggregationResult, Error> {
        let name = &wanted.name;
        let mismatch = || Error::Internal(format!("aggregation [{name}] has a result of another kind"));
        let kind = field_of(wanted).and_then(|field| self.kind(field));
        if let Some(Kind::Range(range)) = &wanted.kind {
            let ranges = range
                .ranges
                .iter()
                .enumerate()
                .map(|(number, range)| (range, found.0.remove(&range_name(name, number))));
            return self.ranges(wanted, ranges);
        }
        let result = found.0.remove(name).ok_or_else(mismatch)?;
        match (&wanted.kind, result) {
            (Some(Kind::Terms(terms)), Found::BucketResult(BucketResult::Terms { buckets, .. })) => {
                self.terms(wanted, terms, buckets, kind)
            }
            (
                Some(Kind::Histogram(_) | Kind::DateHistogram(_)),
                Found::BucketResult(BucketResult::Histogram { buckets }),
            ) => self.histogram(wanted, buckets, kind),
            (Some(Kind::Metric(metric)), Found::MetricResult(result)) => {
                metrics::result(metric.kind(), result, kind).ok_or_else(mismatch)
            }
            (Some(Kind::Cardinality(_)), Found::MetricResult(result)) => {
                metrics::cardinality(result).ok_or_else(mismatch)
            }
            _ => Err(mismatch()),
        }
    }

    /// The results of sub-aggregations of a bucket without documents.
    fn empty(&self, wanted: &[v1::Aggregation]) -> Result<Vec<(String, AggregationResult)>, Error> {
        let found = self.finish(wanted, IntermediateAggregationResults::default())?;
        self.results(wanted, found)
    }
}

/// 400: more buckets than an answer may have.
pub(crate) fn too_many(current: String) -> Error {
    Error::Invalid {
        error_type: "too_many_buckets_exception",
        reason: format!(
            "Trying to create too many buckets. Must be less than or equal to: [{BUCKETS_MAX}] but was [{current}]."
        ),
        caused_by: None,
    }
}

fn failed(error: TantivyError) -> Error {
    match error {
        TantivyError::AggregationError(AggregationError::MemoryExceeded { .. }) => too_many("more".to_owned()),
        TantivyError::AggregationError(AggregationError::BucketLimitExceeded { current, .. }) => {
            too_many(current.to_string())
        }
        TantivyError::InvalidArgument(reason) => {
            Error::Invalid { error_type: "illegal_argument_exception", reason, caused_by: None }
        }
        other => Error::Internal(format!("merging aggregations: {other}")),
    }
}

#[cfg(test)]
mod tests;
