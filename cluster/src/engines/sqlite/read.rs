//! Reading rows of `logs.db`.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use trawl_proto::{Generation, Incarnation, Seq, ShardKey};

use super::log::Shared;
use crate::Error;
use crate::engines::reading::{RawRow, Rows, StoredRow, found};

impl Rows for Shared {
    /// Reads in one statement, hence of one moment.
    async fn read(
        &self,
        shard: &ShardKey,
        after: Seq,
        bytes_max: usize,
    ) -> Result<(Generation, Vec<StoredRow>), Error> {
        // `near` does not load bodies: the row that holds the seq behind `after`, and those that follow;
        // `sized` adds up how much they would be.
        let rows = sqlx::query(
            "WITH head AS (SELECT log, trimmed, incarnation, last FROM logs WHERE index_uid = ?1 AND shard = ?2),
             near AS (
               SELECT r.first, r.body_bytes FROM head CROSS JOIN records r
               WHERE r.log = head.log AND r.first >=
                 coalesce((SELECT max(p.first) FROM records p WHERE p.log = head.log AND p.first <= ?3 + 1), 0)
               ORDER BY r.first LIMIT 512),
             sized AS (SELECT first, sum(body_bytes) OVER (ORDER BY first) AS total FROM near),
             bounds AS (
               SELECT min(first) AS low, coalesce(max(first) FILTER (WHERE total <= ?4), min(first)) AS high FROM sized)
             SELECT head.trimmed, r.incarnation, r.first, r.last, r.mapping_version, r.apply_version, r.time_ms,
               r.previous_chain, r.chain, r.body_bytes, r.codec, r.body, head.incarnation, head.last
             FROM head CROSS JOIN bounds LEFT JOIN records r
               ON r.log = head.log AND r.first >= bounds.low AND r.first <= bounds.high AND r.last > ?3
             ORDER BY r.first",
        )
        .bind(shard.index_uid.as_str())
        .bind(shard.number)
        .bind(after.0.cast_signed())
        .bind(i64::try_from(bytes_max).unwrap_or(i64::MAX))
        .fetch_all(self.database.readers())
        .await
        .map_err(self.database.error("read"))?;
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
pub(super) fn raw(row: &SqliteRow) -> RawRow {
    let number = |column: usize| row.get::<i64, _>(column).cast_unsigned();
    RawRow {
        incarnation: Incarnation(number(1)),
        first: Seq(number(2)),
        last: Seq(number(3)),
        mapping_version: number(4),
        apply_version: row.get(5),
        time_ms: number(6),
        previous_chain: number(7),
        chain: number(8),
        body_bytes: number(9),
        codec: row.get(10),
        stored: row.get(11),
    }
}
