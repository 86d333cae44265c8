//! What a group of appends does to the logs: decided here without any I/O.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use trawl_proto::{Incarnation, Seq, ShardKey};

use super::codec::Encoded;
use crate::Error;
use crate::shard_log::{Appended, chain};
use crate::work_queue::Receipt;

/// What a row costs beside its body, when a log's size is counted.
pub(super) const ROW_BYTES: u64 = 100;

/// The head row of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogHead {
    pub(super) log: i64,
    pub(super) incarnation: Incarnation,
    pub(super) last: Seq,
    pub(super) chain: u64,
    pub(super) trimmed: Seq,
    pub(super) mapping_version: u64,
    pub(super) apply_version: u32,
    pub(super) time_ms: u64,
    pub(super) bytes: u64,
}

/// A batch, ready to be written.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub(super) shard: ShardKey,
    pub(super) mapping_version: u64,
    pub(super) operations: u32,
    pub(super) body: Bytes,
    pub(super) encoded: Encoded,
    pub(super) message_id: Option<String>,
    /// Instead of the engine's limit.
    pub(super) log_bytes_max: Option<u64>,
    pub(super) claim: Option<Receipt>,
}

/// Where a message id's batch went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) incarnation: Incarnation,
    pub(super) first: Seq,
    pub(super) last: Seq,
}

/// A row to insert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NewRow {
    pub(super) log: i64,
    pub(super) first: Seq,
    pub(super) last: Seq,
    pub(super) incarnation: Incarnation,
    pub(super) mapping_version: u64,
    pub(super) apply_version: u32,
    pub(super) time_ms: u64,
    pub(super) previous_chain: u64,
    pub(super) chain: u64,
    pub(super) body_bytes: u64,
    pub(super) encoded: Encoded,
    pub(super) message_id: Option<String>,
}

/// Decides about batches one after the other, given the claims that are held. Changes the heads and adds
/// to the known message ids; returns the results in the batches' order and the rows to insert.
pub(super) fn plan(
    heads: &mut HashMap<ShardKey, LogHead>,
    known: &mut HashMap<(i64, String), Known>,
    held: &HashSet<Receipt>,
    batches: Vec<Prepared>,
    now_ms: u64,
    log_bytes_max: u64,
) -> (Vec<Result<Appended, Error>>, Vec<NewRow>) {
    let mut results = Vec::with_capacity(batches.len());
    let mut rows = Vec::with_capacity(batches.len());
    for batch in batches {
        let Some(head) = heads.get_mut(&batch.shard) else {
            results.push(Err(Error::NoSuchLog(batch.shard)));
            continue;
        };
        let id = batch.message_id.clone().map(|message_id| (head.log, message_id));
        if let Some(Known { incarnation, first, last }) = id.as_ref().and_then(|id| known.get(id)).copied() {
            results.push(Ok(Appended { incarnation, first, last, duplicate: true }));
            continue;
        }
        if let Some(claim) = batch.claim
            && !held.contains(&claim)
        {
            results.push(Err(Error::ClaimLost(claim)));
            continue;
        }
        let bytes = batch.encoded.bytes.len() as u64 + ROW_BYTES;
        let bytes_max = batch.log_bytes_max.unwrap_or(log_bytes_max);
        if head.bytes + bytes > bytes_max {
            results.push(Err(Error::LogFull { shard: batch.shard, bytes: head.bytes, bytes_max }));
            continue;
        }
        let row = append(head, batch, bytes, now_ms);
        let Known { incarnation, first, last } =
            Known { incarnation: row.incarnation, first: row.first, last: row.last };
        if let Some(id) = id {
            known.insert(id, Known { incarnation, first, last });
        }
        results.push(Ok(Appended { incarnation, first, last, duplicate: false }));
        rows.push(row);
    }
    (results, rows)
}

/// Moves the head over a batch and makes its row.
fn append(head: &mut LogHead, batch: Prepared, bytes: u64, now_ms: u64) -> NewRow {
    let first = head.last.next();
    let previous_chain = head.chain;
    head.last = Seq(head.last.0 + u64::from(batch.operations));
    head.chain = chain(previous_chain, first, &batch.body);
    head.mapping_version = head.mapping_version.max(batch.mapping_version);
    head.time_ms = head.time_ms.max(now_ms);
    head.bytes += bytes;
    NewRow {
        log: head.log,
        first,
        last: head.last,
        incarnation: head.incarnation,
        mapping_version: head.mapping_version,
        apply_version: head.apply_version,
        time_ms: head.time_ms,
        previous_chain,
        chain: head.chain,
        body_bytes: batch.body.len() as u64,
        encoded: batch.encoded,
        message_id: batch.message_id,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::super::codec::encode;
    use super::*;
    use crate::work_queue::TaskId;

    fn batch(
        shard: u32,
        mapping_version: u64,
        operations: u32,
        body: Vec<u8>,
        id: Option<u8>,
        claim: Option<u64>,
    ) -> Prepared {
        let body = Bytes::from(body);
        let encoded = encode(&body);
        let message_id = id.map(|id| id.to_string());
        let claim = claim.map(|claim| Receipt { task: TaskId(1), claim });
        Prepared {
            shard: ShardKey::new("i", shard),
            mapping_version,
            operations,
            body,
            encoded,
            message_id,
            log_bytes_max: None,
            claim,
        }
    }

    fn head(log: i64) -> LogHead {
        LogHead {
            log,
            incarnation: Incarnation(1),
            last: Seq(0),
            chain: 0,
            trimmed: Seq(0),
            mapping_version: 1,
            apply_version: 1,
            time_ms: 0,
            bytes: 0,
        }
    }

    type Raw = (u32, u64, u32, Vec<u8>, Option<u8>, Option<u64>, u64);

    fn raw() -> impl Strategy<Value = Raw> {
        let body = proptest::collection::vec(any::<u8>(), 0..300);
        (0u32..3, 1u64..5, 1u32..4, body, proptest::option::of(0u8..10), proptest::option::of(1u64..3), 0u64..1_000)
    }

    proptest! {
        /// However batches are grouped, the logs hold the same rows.
        #[test]
        fn rows_are_gapless_linked_bounded_and_do_not_depend_on_the_grouping(
            batches in proptest::collection::vec(raw(), 0..40),
            cuts in proptest::collection::vec(any::<bool>(), 40),
        ) {
            let bytes_max = 2_000;
            let held = HashSet::from([Receipt { task: TaskId(1), claim: 2 }]);
            // Shard 2 has no log.
            let mut heads: HashMap<_, _> = (0..2).map(|n| (ShardKey::new("i", n), head(i64::from(n)))).collect();
            let (mut known, mut rows, mut results, mut group) = (HashMap::new(), vec![], vec![], vec![]);
            let mut alone = (heads.clone(), HashMap::new(), vec![], vec![]);
            let mut now = 0;
            for (n, (shard, mapping, operations, body, id, claim, later)) in batches.into_iter().enumerate() {
                let new = batch(shard, mapping, operations, body, id, claim);
                let (result, row) = plan(&mut alone.0, &mut alone.1, &held, vec![new.clone()], now, bytes_max);
                alone.2.extend(result.into_iter().map(|result| format!("{result:?}")));
                alone.3.extend(row);
                group.push(new);
                if cuts[n] {
                    let done = plan(&mut heads, &mut known, &held, std::mem::take(&mut group), now, bytes_max);
                    results.extend(done.0.into_iter().map(|result| format!("{result:?}")));
                    rows.extend(done.1);
                    now += later;
                }
            }
            let done = plan(&mut heads, &mut known, &held, group, now, bytes_max);
            results.extend(done.0.into_iter().map(|result| format!("{result:?}")));
            rows.extend(done.1);
            prop_assert_eq!(&results, &alone.2);
            prop_assert_eq!(&rows, &alone.3);

            for log in 0..2 {
                let head = &heads[&ShardKey::new("i", log)];
                let (mut last, mut link, mut mapping, mut time, mut bytes) = (0, 0, 1, 0, 0);
                for row in rows.iter().filter(|row| row.log == i64::from(log)) {
                    prop_assert_eq!((row.first.0, row.previous_chain), (last + 1, link));
                    prop_assert!(row.last >= row.first && row.mapping_version >= mapping && row.time_ms >= time);
                    (last, link, mapping, time) = (row.last.0, row.chain, row.mapping_version, row.time_ms);
                    bytes += row.encoded.bytes.len() as u64 + ROW_BYTES;
                }
                prop_assert_eq!((head.last.0, head.chain, head.bytes), (last, link, bytes));
                prop_assert!(bytes <= bytes_max);
            }
        }
    }

    #[test]
    fn a_message_id_answers_with_its_first_seq_though_the_log_is_full_and_the_claim_lost() {
        let mut heads = HashMap::from([(ShardKey::new("i", 0), head(0))]);
        let mut known = HashMap::new();
        let first = batch(0, 1, 3, vec![], Some(1), None);
        let again = Prepared { claim: Some(Receipt { task: TaskId(1), claim: 1 }), ..first.clone() };
        let (results, rows) = plan(&mut heads, &mut known, &HashSet::new(), vec![first, again], 5, ROW_BYTES);
        assert_eq!(rows.len(), 1);
        let appended = |duplicate| Appended { incarnation: Incarnation(1), first: Seq(1), last: Seq(3), duplicate };
        assert_eq!(*results[0].as_ref().unwrap(), appended(false));
        assert_eq!(*results[1].as_ref().unwrap(), appended(true));
    }
}
