//! How a log begins a new incarnation, whatever the engine: how its head and rows move.

use trawl_proto::{Incarnation, Seq, ShardKey};

use super::codec;
use super::plan::{LogHead, ROW_BYTES};
use super::reading::{RawRow, offload};
use crate::Error;
use crate::shard_log::{Base, Head, Mark, chain};

/// What changes of a row that goes along; its incarnation becomes the head's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) first: Seq,
    pub(super) last: Seq,
    pub(super) mapping_version: u64,
    pub(super) time_ms: u64,
    pub(super) previous_chain: u64,
    pub(super) chain: u64,
}

/// The head that was found, if it is at the incarnation that is to end.
pub(super) fn at_incarnation(head: Option<LogHead>, shard: &ShardKey, from: Incarnation) -> Result<LogHead, Error> {
    match head {
        Some(head) if head.incarnation == from => Ok(head),
        Some(head) => Err(Error::OtherIncarnation { shard: shard.clone(), found: head.incarnation }),
        None => Err(Error::NoSuchLog(shard.clone())),
    }
}

/// Whether the log is still the one that was seen. `row` is the last one that begins by then: its last seq and its chain,
/// as engines store them.
pub(super) fn is_as_seen(head: &LogHead, shard: &ShardKey, seen: Mark, row: Option<(i64, i64)>) -> Result<(), Error> {
    if head.incarnation != seen.incarnation {
        return Err(Error::OtherIncarnation { shard: shard.clone(), found: head.incarnation });
    }
    let there = row.map(|(last, chain)| (Seq(last.cast_unsigned()), chain.cast_unsigned()));
    if ![Some((head.last, head.chain)), there].contains(&Some((seen.seq, seen.chain))) {
        return Err(Error::OtherHistory { shard: shard.clone(), seq: seen.seq });
    }
    Ok(())
}

/// The head of the new incarnation, before any row. Its mapping version and time are the base's: those
/// that the log had reached count only for what is appended later.
pub(super) fn begin_at(old: &LogHead, base: Base) -> LogHead {
    LogHead {
        log: old.log,
        incarnation: old.incarnation.next(),
        last: base.seq,
        chain: base.chain,
        trimmed: base.seq,
        mapping_version: base.mapping_version,
        apply_version: old.apply_version,
        time_ms: base.time_ms,
        bytes: 0,
    }
}

/// Moves the head over a row of the old incarnation.
///
/// # Errors
/// [`Error::Corrupt`] when the row cannot be decoded.
pub(super) async fn go_along(head: &mut LogHead, row: RawRow) -> Result<Moved, Error> {
    let (first, previous_chain) = (head.last.next(), head.chain);
    head.bytes += row.stored.len() as u64 + ROW_BYTES;
    head.last = Seq(head.last.0 + row.last.0 + 1 - row.first.0);
    head.mapping_version = head.mapping_version.max(row.mapping_version);
    head.time_ms = head.time_ms.max(row.time_ms);
    let body_bytes = row.body_bytes as usize;
    let link = move || Ok::<_, Error>(chain(previous_chain, first, &codec::decode(row.codec, row.stored, body_bytes)?));
    head.chain = offload(body_bytes, link).await??;
    Ok(Moved {
        first,
        last: head.last,
        mapping_version: head.mapping_version,
        time_ms: head.time_ms,
        previous_chain,
        chain: head.chain,
    })
}

/// The head when all rows are over: the log's own mapping version and time do not go back, though its
/// rows may be gone.
pub(super) fn end_with(head: LogHead, old: &LogHead) -> LogHead {
    LogHead {
        mapping_version: head.mapping_version.max(old.mapping_version),
        time_ms: head.time_ms.max(old.time_ms),
        ..head
    }
}

/// A head as the trait gives it.
pub(super) fn public_head(head: &LogHead) -> Head {
    Head {
        incarnation: head.incarnation,
        last: head.last,
        chain: head.chain,
        trimmed: head.trimmed,
        mapping_version: head.mapping_version,
        bytes: head.bytes,
        time_ms: head.time_ms,
    }
}
