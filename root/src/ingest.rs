//! A write's whole way through the root.
//!
//! The root reads names, ids and routing; it never parses a document. An operation is acknowledged
//! when it is durable in its shard's log; what it came to is asked of the replicas, which all compute
//! the same.

mod append;
mod batches;
pub(crate) mod lag;
mod outcomes;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::time::Instant;
use trawl_cluster::catalog::IndexRecord;
use trawl_cluster::shard_log::Appended;
use trawl_proto::{Generation, Seq, v1};

use self::batches::Batch;
use crate::error::Error;
use crate::limits::Limit;
use crate::request::*;
use crate::root::Root;
use crate::{lifecycle, refresh};

/// Indices that one request makes at a time.
const CREATIONS_AT_ONCE: usize = 16;
/// Longest `Idempotency-Key` in bytes.
const KEY_BYTES_MAX: usize = 256;

/// Writes.
///
/// 1. Room: the bytes at work are bounded; beyond it the write is refused at once.
/// 2. Indices: those that do not exist are made.
/// 3. Batches: operations by shard, with their ids; a bad one is an error of its own.
/// 4. Append: all batches in one call; from here on they are durable.
/// 5. Outcomes: from the first replica of each shard that knows them, within bounds.
/// 6. Refresh, if asked for.
pub(crate) async fn write(root: &Root, items: Vec<WriteItem>, options: WriteOptions) -> Result<WriteResult, Error> {
    let start = Instant::now();
    if options.idempotency_key.as_ref().is_some_and(|key| key.is_empty() || key.len() > KEY_BYTES_MAX) {
        return Err(Error::illegal_argument(format!("Idempotency-Key must have 1 to {KEY_BYTES_MAX} bytes")));
    }
    let _room = Room::take(root, &items)?;
    let records = indices(root, &items, options.timeout).await;
    let bytes_max = root.config.write.batch_bytes_max;
    let (batches, mut slots) = batches::make(items, &records, options.idempotency_key.as_deref(), bytes_max);
    let appended = append::append(root, &batches, options.claim).await;
    let outcome_wait = root.config.write.outcome_wait_max.min(options.timeout);
    let waiting = batches.iter().zip(&appended).map(|(batch, appended)| async {
        match appended {
            Ok(appended) if options.wait_for_outcome => outcomes::ask(root, batch, appended, outcome_wait).await,
            _ => BTreeMap::new(),
        }
    });
    let outcomes = futures::future::join_all(waiting).await;
    for ((batch, appended), outcomes) in batches.iter().zip(&appended).zip(outcomes) {
        let is_short = appended.is_ok() && outcomes.len() < batch.places.len();
        if is_short && outcomes::is_deleted(root, batch).await {
            let gone = Err(Error::NoSuchIndex(batch.record.name.clone()));
            settle(root, &mut slots, batch, &gone, outcomes);
        } else {
            settle(root, &mut slots, batch, appended, outcomes);
        }
    }
    let positions = positions(&batches, &appended);
    let refreshed = options.refresh != Refresh::False && !positions.is_empty();
    if refreshed {
        refresh::positions(root, &positions, root.config.write.refresh_wait_max).await;
    }
    root.metrics.write_seconds.observe(start.elapsed().as_secs_f64());
    let items = slots.into_iter().map(|slot| ItemOutcome {
        index: slot.index,
        id: slot.id,
        result: slot.result.unwrap_or_else(|| Err(Error::Internal("the operation was lost on its way".to_owned()))),
    });
    Ok(WriteResult { items: items.collect(), positions, refreshed })
}

/// The records of all indices named; those that are missing are made.
async fn indices(root: &Root, items: &[WriteItem], wait: Duration) -> HashMap<String, Result<Arc<IndexRecord>, Error>> {
    let names: BTreeSet<&str> = items.iter().map(|item| item.index.as_str()).collect();
    let view = root.viewer.view();
    let (known, missing): (Vec<&str>, Vec<&str>) = names.into_iter().partition(|name| view.indices.contains_key(*name));
    let (made, refused) = missing.split_at(missing.len().min(root.config.write.new_indices_max));
    let made: Vec<String> = made.iter().map(|name| (*name).to_owned()).collect();
    let made = made.into_iter().map(|name| async move {
        let record = lifecycle::create_default(root, &name, wait).await;
        (name, record)
    });
    let mut records: HashMap<_, _> = futures::stream::iter(made).buffer_unordered(CREATIONS_AT_ONCE).collect().await;
    records.extend(known.into_iter().filter_map(|name| Some((name.to_owned(), Ok(view.indices.get(name)?.clone())))));
    for name in refused {
        root.metrics.refusals.count(Limit::NewIndices);
        let reason = format!(
            "index [{name}] is not there, and one request makes at most {}: send the rest again",
            root.config.write.new_indices_max
        );
        let error = Error::TooManyRequests { reason, retry_after: Duration::from_secs(1) };
        records.insert((*name).to_owned(), Err(error));
    }
    records
}

/// Writes a batch's results into its items' slots.
fn settle(
    root: &Root,
    slots: &mut [batches::Slot],
    batch: &Batch,
    appended: &Result<Appended, Error>,
    mut outcomes: BTreeMap<u64, v1::Outcome>,
) {
    let shards = copies(root, batch);
    for (offset, place) in batch.places.iter().enumerate() {
        slots[*place].result = Some(match appended {
            Err(error) => {
                root.metrics.operations_failed.inc();
                Err(error.clone())
            }
            Ok(appended) => {
                root.metrics.operations.inc();
                let seq = appended.first.0 + offset as u64;
                let outcome = match outcomes.remove(&seq) {
                    Some(outcome) => WriteOutcome::Done(outcome),
                    None => {
                        root.metrics.operations_accepted.inc();
                        WriteOutcome::Accepted { seq: Seq(seq) }
                    }
                };
                let mut shards = shards.clone();
                if matches!(outcome, WriteOutcome::Accepted { .. }) {
                    shards.successful = 0;
                }
                Ok(ItemWritten { outcome, shard: batch.shard.number, primary_term: appended.incarnation.0, shards })
            }
        });
    }
}

/// The copies of a shard: configured, and serving. At least one, for the log has the operation.
fn copies(root: &Root, batch: &Batch) -> ShardsSummary {
    let total = 1 + batch.record.replicas;
    let serving = root.viewer.view().serving.get(&batch.shard).map_or(0, Vec::len) as u32;
    ShardsSummary { total, successful: serving.clamp(1, total), ..ShardsSummary::default() }
}

/// The last position of every shard written to.
fn positions(batches: &[Batch], appended: &[Result<Appended, Error>]) -> Vec<v1::Position> {
    let mut last: BTreeMap<_, Generation> = BTreeMap::new();
    for (batch, appended) in batches.iter().zip(appended) {
        if let Ok(appended) = appended {
            let generation = Generation { incarnation: appended.incarnation, seq: appended.last };
            let newest = last.entry(&batch.shard).or_default();
            *newest = generation.max(*newest);
        }
    }
    let position = |(shard, generation): (_, Generation)| v1::Position {
        shard: Some(v1::Shard::from(shard)),
        generation: Some(generation.into()),
    };
    last.into_iter().map(position).collect()
}

/// A share of the bytes that may be at work.
struct Room<'a> {
    root: &'a Root,
    bytes: usize,
}

impl<'a> Room<'a> {
    fn take(root: &'a Root, items: &[WriteItem]) -> Result<Self, Error> {
        use std::sync::atomic::Ordering;
        const ITEM_BYTES: usize = 128;
        let bytes = items.iter().map(|item| ITEM_BYTES + item.operation.id.len() + item.operation.source.len()).sum();
        let max = root.config.write.in_flight_bytes_max;
        let before = root.write_bytes.fetch_add(bytes, Ordering::AcqRel);
        // One write alone is always let in: its size is bounded where it comes from.
        if before > 0 && before + bytes > max {
            root.write_bytes.fetch_sub(bytes, Ordering::AcqRel);
            root.metrics.refusals.count(Limit::WriteBytesInFlight);
            let reason =
                format!("{before} bytes of operations are being written, with {bytes} more it were over {max}");
            return Err(Error::TooManyRequests { reason, retry_after: Duration::from_secs(1) });
        }
        root.metrics.write_bytes_in_flight.inc_by(bytes as i64);
        Ok(Self { root, bytes })
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.root.write_bytes.fetch_sub(self.bytes, std::sync::atomic::Ordering::AcqRel);
        self.root.metrics.write_bytes_in_flight.dec_by(self.bytes as i64);
    }
}
