//! Merging the shards' partial aggregations, within the search's deadline.
//!
//! Merging is work for a processor and cannot be interrupted in the middle, so large ones run on a bounded
//! number of threads. Who gets no thread in time, or is not done in time, is answered without: an answer
//! comes by its deadline, marked as timed out.

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};
use trawl_proto::v1;

use super::Part;
use crate::aggregation::AggregationResult;
use crate::error::Error;
use crate::gather;
use crate::limits::Limit;
use crate::root::Root;
use crate::scatter::Scattered;

/// Partial results up to this size are merged at once, without a thread of their own.
const INLINE_BYTES_MAX: usize = 16 << 10;

/// Aggregations by name, in the order asked for.
type Aggregations = Vec<(String, AggregationResult)>;

/// The merged aggregations, and whether they were made in time; if not, they are those of no shard.
///
/// # Errors
/// [`Error::Invalid`] when there are too many buckets.
pub(super) async fn aggregate(
    root: &Root,
    deadline: Instant,
    parts: &[Part],
    scattered: &mut Scattered<v1::ShardSearchResult>,
) -> Result<(Aggregations, bool), Error> {
    let Some(wanted) = parts.first().map(|part| &part.lowered.aggregations).filter(|wanted| !wanted.is_empty()) else {
        return Ok((Vec::new(), true));
    };
    let answers = scattered.shards.iter_mut().filter_map(|shard| shard.as_mut().ok());
    let partials = answers.map(|answer| {
        let result = &mut answer.value;
        (result.aggregation_format, std::mem::take(&mut result.aggregations))
    });
    let partials: Vec<(u32, Bytes)> = partials.collect();
    let merged = merge(root, deadline, wanted, partials).await;
    if let Err(Error::Invalid { error_type: "too_many_buckets_exception", .. }) = &merged {
        root.metrics.refusals.count(Limit::Buckets);
    }
    match merged? {
        Some(aggregations) => Ok((aggregations, true)),
        None => Ok((gather::aggregation::merge(wanted, &[])?, false)),
    }
}

/// `None` when the deadline came first.
async fn merge(
    root: &Root,
    deadline: Instant,
    wanted: &[v1::Aggregation],
    partials: Vec<(u32, Bytes)>,
) -> Result<Option<Aggregations>, Error> {
    let bytes: usize = partials.iter().map(|(_, bytes)| bytes.len()).sum();
    if bytes <= INLINE_BYTES_MAX {
        return gather::aggregation::merge(wanted, &partials).map(Some);
    }
    if bytes > root.config.search.partial_bytes_max {
        return Err(gather::aggregation::too_many("many more".to_owned()));
    }
    let Ok(Ok(permit)) = timeout_at(deadline, root.merges.clone().acquire_owned()).await else { return Ok(None) };
    let wanted = wanted.to_vec();
    let merging = tokio::task::spawn_blocking(move || {
        let merged = gather::aggregation::merge_until(&wanted, &partials, Some(deadline));
        // Not before the work is really over, although nobody may be waiting for it any more.
        drop(permit);
        merged
    });
    match timeout_at(deadline, merging).await {
        Err(_) | Ok(Ok(Err(Error::Timeout(_)))) => Ok(None),
        Ok(Ok(merged)) => merged.map(Some),
        Ok(Err(error)) => Err(Error::Internal(format!("merging aggregations: {error}"))),
    }
}
