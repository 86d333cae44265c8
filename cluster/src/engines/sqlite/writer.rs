//! Writes a group of appends in one transaction.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Row};
use tokio::time::Instant;
use trawl_proto::{Incarnation, Seq, ShardKey};

use super::EngineOptions;
use super::clock::Clock;
use super::database::Database;
use super::queue::held;
use crate::Error;
use crate::engines::appends::GroupCommit;
use crate::engines::plan::{Known, LogHead, NewRow, Prepared, plan};
use crate::shard_log::Appended;

/// Rows per statement; SQLite allows 32,766 parameters.
const STATEMENT_ROWS_MAX: usize = 128;
/// How often message ids past their time are deleted, at the latest.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(10);
/// After so many new message ids they are deleted earlier, and at most twice as many at a time.
const EXPIRY_COUNT: u64 = 10_000;

/// Writes groups.
pub(super) struct Writer {
    database: Arc<Database>,
    clock: Clock,
    log_bytes_max: u64,
    expiry: Expiry,
}

impl Writer {
    pub(super) fn new(database: Arc<Database>, clock: Clock, options: &EngineOptions) -> Self {
        let expiry = Expiry {
            retention_ms: u64::try_from(options.message_id_retention.as_millis()).unwrap_or(u64::MAX),
            count_max: options.message_ids_max,
            expired_at: Instant::now(),
            named: 0,
        };
        Self { database, clock, log_bytes_max: options.log_bytes_max, expiry }
    }
}

/// Forgets message ids that are too old or too many, every now and then.
struct Expiry {
    retention_ms: u64,
    count_max: u64,
    expired_at: Instant,
    /// Message ids written since.
    named: u64,
}

impl Expiry {
    /// The oldest first, of all logs.
    async fn expire(
        &mut self,
        connection: &mut SqliteConnection,
        rows: &[NewRow],
        now_ms: u64,
    ) -> Result<(), sqlx::Error> {
        self.named += rows.iter().filter(|row| row.message_id.is_some()).count() as u64;
        if self.named <= EXPIRY_COUNT.min(self.count_max / 10) && self.expired_at.elapsed() <= EXPIRY_INTERVAL {
            return Ok(());
        }
        sqlx::query(
            "DELETE FROM message_ids WHERE (log, message_id) IN (
               SELECT log, message_id FROM message_ids WHERE time_ms < ?1
                 OR time_ms <= (SELECT time_ms FROM message_ids ORDER BY time_ms DESC LIMIT 1 OFFSET ?2)
               ORDER BY time_ms LIMIT ?3)",
        )
        .bind(now_ms.saturating_sub(self.retention_ms).cast_signed())
        .bind(self.count_max.cast_signed())
        .bind((2 * EXPIRY_COUNT).cast_signed())
        .execute(connection)
        .await?;
        (self.expired_at, self.named) = (Instant::now(), 0);
        Ok(())
    }
}

impl GroupCommit for Writer {
    /// One transaction: heads and message ids are read, the plan made, its rows written.
    async fn commit(&mut self, batches: Vec<Prepared>) -> Result<Vec<Result<Appended, Error>>, Error> {
        let failed = || self.database.error("append to");
        let mut transaction = self.database.begin().await?;
        let connection = &mut transaction.connection;
        let mut heads = read_heads(connection, batches.iter().map(|batch| &batch.shard)).await.map_err(failed())?;
        let mut known = read_known(connection, &heads, &batches).await.map_err(failed())?;
        let held = held(connection, batches.iter().filter_map(|batch| batch.claim)).await.map_err(failed())?;
        let now = self.clock.now_ms();
        let (results, rows) = plan(&mut heads, &mut known, &held, batches, now, self.log_bytes_max);
        if rows.is_empty() {
            transaction.rollback().await;
            return Ok(results);
        }
        insert_rows(connection, &rows).await.map_err(failed())?;
        insert_known(connection, &rows).await.map_err(failed())?;
        let touched = heads.into_values().filter(|head| rows.iter().any(|row| row.log == head.log)).collect::<Vec<_>>();
        update_heads(connection, &touched).await.map_err(failed())?;
        self.expiry.expire(connection, &rows, now).await.map_err(failed())?;
        let bytes = rows.iter().map(|row| row.encoded.bytes.len() as u64).sum();
        transaction.commit(bytes).await?;
        Ok(results)
    }
}

/// Reads the head rows of shards; those without a log are left out.
pub(super) async fn read_heads(
    connection: &mut SqliteConnection,
    shards: impl Iterator<Item = &ShardKey>,
) -> Result<HashMap<ShardKey, LogHead>, sqlx::Error> {
    let mut shards: Vec<&ShardKey> = shards.collect();
    shards.sort_unstable();
    shards.dedup();
    let mut heads = HashMap::with_capacity(shards.len());
    for chunk in shards.chunks(STATEMENT_ROWS_MAX) {
        let statement = format!(
            "SELECT index_uid, shard, log, incarnation, last, chain, trimmed, mapping_version, apply_version, time_ms, bytes
             FROM logs WHERE (index_uid, shard) IN (VALUES {})",
            tuples(chunk.len(), 2)
        );
        let mut query = sqlx::query(AssertSqlSafe(statement));
        for shard in chunk {
            query = query.bind(shard.index_uid.as_str()).bind(shard.number);
        }
        for row in query.fetch_all(&mut *connection).await? {
            heads.insert(ShardKey::new(row.get::<String, _>(0), row.get::<u32, _>(1)), head(&row, 2));
        }
    }
    Ok(heads)
}

fn head(row: &SqliteRow, column: usize) -> LogHead {
    let number = |offset: usize| row.get::<i64, _>(column + offset).cast_unsigned();
    LogHead {
        log: row.get(column),
        incarnation: Incarnation(number(1)),
        last: Seq(number(2)),
        chain: number(3),
        trimmed: Seq(number(4)),
        mapping_version: number(5),
        apply_version: row.get(column + 6),
        time_ms: number(7),
        bytes: number(8),
    }
}

async fn read_known(
    connection: &mut SqliteConnection,
    heads: &HashMap<ShardKey, LogHead>,
    batches: &[Prepared],
) -> Result<HashMap<(i64, String), Known>, sqlx::Error> {
    let id = |batch: &Prepared| Some((heads.get(&batch.shard)?.log, batch.message_id.clone()?));
    let ids: Vec<(i64, String)> = batches.iter().filter_map(id).collect();
    let mut known = HashMap::new();
    for chunk in ids.chunks(STATEMENT_ROWS_MAX) {
        let statement = format!(
            "SELECT log, message_id, incarnation, first, last FROM message_ids
             WHERE (log, message_id) IN (VALUES {})",
            tuples(chunk.len(), 2)
        );
        let mut query = sqlx::query(AssertSqlSafe(statement));
        for (log, message_id) in chunk {
            query = query.bind(log).bind(message_id);
        }
        for row in query.fetch_all(&mut *connection).await? {
            let number = |column: usize| row.get::<i64, _>(column).cast_unsigned();
            let place = Known { incarnation: Incarnation(number(2)), first: Seq(number(3)), last: Seq(number(4)) };
            known.insert((row.get(0), row.get(1)), place);
        }
    }
    Ok(known)
}

async fn insert_rows(connection: &mut SqliteConnection, rows: &[NewRow]) -> Result<(), sqlx::Error> {
    for chunk in rows.chunks(STATEMENT_ROWS_MAX) {
        let statement = format!(
            "INSERT INTO records (log, first, last, incarnation, mapping_version, apply_version, time_ms,
               previous_chain, chain, stored_bytes, body_bytes, codec, body) VALUES {}",
            tuples(chunk.len(), 13)
        );
        let mut query = sqlx::query(AssertSqlSafe(statement));
        for row in chunk {
            query = query
                .bind(row.log)
                .bind(row.first.0.cast_signed())
                .bind(row.last.0.cast_signed())
                .bind(row.incarnation.0.cast_signed())
                .bind(row.mapping_version.cast_signed())
                .bind(row.apply_version)
                .bind(row.time_ms.cast_signed())
                .bind(row.previous_chain.cast_signed())
                .bind(row.chain.cast_signed())
                .bind(row.encoded.bytes.len() as i64)
                .bind(row.body_bytes.cast_signed())
                .bind(row.encoded.codec)
                .bind(&row.encoded.bytes[..]);
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

async fn insert_known(connection: &mut SqliteConnection, rows: &[NewRow]) -> Result<(), sqlx::Error> {
    let named: Vec<(&NewRow, &String)> = rows.iter().filter_map(|row| Some((row, row.message_id.as_ref()?))).collect();
    for chunk in named.chunks(STATEMENT_ROWS_MAX) {
        let statement = format!(
            "INSERT INTO message_ids (log, message_id, incarnation, first, last, time_ms) VALUES {}",
            tuples(chunk.len(), 6)
        );
        let mut query = sqlx::query(AssertSqlSafe(statement));
        for (row, message_id) in chunk {
            query = query
                .bind(row.log)
                .bind(message_id.as_str())
                .bind(row.incarnation.0.cast_signed())
                .bind(row.first.0.cast_signed())
                .bind(row.last.0.cast_signed())
                .bind(row.time_ms.cast_signed());
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

async fn update_heads(connection: &mut SqliteConnection, heads: &[LogHead]) -> Result<(), sqlx::Error> {
    for chunk in heads.chunks(STATEMENT_ROWS_MAX) {
        let statement = format!(
            "WITH new (log, last, chain, mapping_version, time_ms, bytes) AS (VALUES {})
             UPDATE logs SET last = new.last, chain = new.chain, mapping_version = new.mapping_version,
               time_ms = new.time_ms, bytes = new.bytes
             FROM new WHERE logs.log = new.log",
            tuples(chunk.len(), 6)
        );
        let mut query = sqlx::query(AssertSqlSafe(statement));
        for head in chunk {
            query = query
                .bind(head.log)
                .bind(head.last.0.cast_signed())
                .bind(head.chain.cast_signed())
                .bind(head.mapping_version.cast_signed())
                .bind(head.time_ms.cast_signed())
                .bind(head.bytes.cast_signed());
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

/// `(?,?),(?,?)`: as many tuples, each as wide.
pub(super) fn tuples(count: usize, width: usize) -> String {
    let tuple = format!("({})", vec!["?"; width].join(","));
    vec![tuple; count].join(",")
}
