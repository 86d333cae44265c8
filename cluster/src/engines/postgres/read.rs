//! Reading rows of logs.

use sqlx::Row;
use sqlx::postgres::PgRow;
use trawl_proto::{Generation, Incarnation, Seq, ShardKey};

use super::log::Shared;
use super::store::signed;
use crate::Error;
use crate::engines::reading::{RawRow, Rows, StoredRow, found};

/// One statement, hence one moment. `near` does not load bodies: the row that holds the seq behind $3,
/// and those that follow; `sized` adds up how much they would be.
const READ: &str =
    "WITH head AS (SELECT log, trimmed, incarnation, last FROM logs WHERE index_uid = $1 AND shard = $2),
     near AS MATERIALIZED (
       SELECT r.first, r.body_bytes FROM records r
       WHERE r.log = (SELECT log FROM head) AND r.first >= coalesce(
         (SELECT max(p.first) FROM records p WHERE p.log = (SELECT log FROM head) AND p.first <= $3 + 1), 0)
       ORDER BY r.first LIMIT 512),
     sized AS (SELECT first, sum(body_bytes) OVER (ORDER BY first) AS total FROM near),
     bounds AS MATERIALIZED (
       SELECT min(first) AS low, coalesce(max(first) FILTER (WHERE total <= $4), min(first)) AS high FROM sized)
     SELECT head.trimmed, r.incarnation, r.first, r.last, r.mapping_version, r.apply_version, r.time_ms,
       r.previous_chain, r.chain, r.body_bytes, r.codec, r.body, head.incarnation, head.last
     FROM head LEFT JOIN records r ON r.log = head.log AND r.first >= (SELECT low FROM bounds)
       AND r.first <= (SELECT high FROM bounds) AND r.last > $3
     ORDER BY r.first";

impl Rows for Shared {
    async fn read(
        &self,
        shard: &ShardKey,
        after: Seq,
        bytes_max: usize,
    ) -> Result<(Generation, Vec<StoredRow>), Error> {
        // The greatest seqs there are would not leave room for one more.
        let behind = signed(after.0.min(i64::MAX as u64 - 1));
        let bytes_max = i64::try_from(bytes_max).unwrap_or(i64::MAX);
        let read = || {
            sqlx::query(READ)
                .bind(shard.index_uid.as_str())
                .bind(shard.number.cast_signed())
                .bind(behind)
                .bind(bytes_max)
        };
        let (rows, _) = self.database.fetch_all("read", read).await?;
        let log = rows.first().map(|row| {
            let number = |column: usize| row.get::<i64, _>(column).cast_unsigned();
            (Seq(number(0)), Generation { incarnation: Incarnation(number(12)), seq: Seq(number(13)) })
        });
        // A log without such rows is one row of its own.
        let rows = rows.iter().filter(|row| row.get::<Option<i64>, _>(2).is_some()).map(raw).collect();
        found(shard, after, log, rows).await
    }
}

/// The row whose columns stand behind one of another kind.
pub(super) fn raw(row: &PgRow) -> RawRow {
    let number = |column: usize| row.get::<i64, _>(column).cast_unsigned();
    RawRow {
        incarnation: Incarnation(number(1)),
        first: Seq(number(2)),
        last: Seq(number(3)),
        mapping_version: number(4),
        apply_version: row.get::<i32, _>(5).cast_unsigned(),
        time_ms: number(6),
        previous_chain: number(7),
        chain: number(8),
        body_bytes: number(9),
        codec: row.get(10),
        stored: row.get(11),
    }
}
