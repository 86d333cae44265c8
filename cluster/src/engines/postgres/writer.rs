//! Writes a group of appends in one transaction.
//!
//! The head rows are locked first, in the order of their numbers: whoever appends to the same log waits,
//! so commit order is seq order, and nobody waits in a circle.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgRow;
use tokio::time::Instant;
use trawl_proto::{Incarnation, Seq, ShardKey};

use super::EngineOptions;
use super::database::{Database, Transaction};
use super::queue::held;
use super::store::signed;
use crate::Error;
use crate::engines::appends::GroupCommit;
use crate::engines::failure::unavailable;
use crate::engines::plan::{Known, LogHead, NewRow, Prepared, plan};
use crate::shard_log::Appended;

/// How often message ids past their time are deleted, at the latest.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(10);
/// After so many new message ids they are deleted earlier, and at most twice as many at a time.
const EXPIRY_COUNT: u64 = 10_000;
/// How long appends wait for the leader to accept a history of the server that is new, and how often
/// they look.
const HISTORY_WAIT: Duration = Duration::from_secs(3);
const HISTORY_POLL: Duration = Duration::from_millis(100);
/// What a head row has, in the order in which [`head`] reads it.
const HEAD: &str =
    "index_uid, shard, log, incarnation, last, chain, trimmed, mapping_version, apply_version, time_ms, bytes";

/// Writes groups.
pub(super) struct Writer {
    database: Arc<Database>,
    options: EngineOptions,
    /// Told after each commit.
    grown: Arc<tokio::sync::Notify>,
    expired_at: Instant,
    /// Message ids written since.
    named: u64,
}

impl Writer {
    pub(super) fn new(database: Arc<Database>, options: EngineOptions, grown: Arc<tokio::sync::Notify>) -> Self {
        Self { database, options, grown, expired_at: Instant::now(), named: 0 }
    }
}

impl Writer {
    /// Begins a transaction, in a history in which no log goes on that has lost what replicas hold.
    async fn begin(&self) -> Result<Transaction<'_>, Error> {
        let deadline = Instant::now() + HISTORY_WAIT;
        loop {
            let mut transaction = self.database.begin().await?;
            if transaction.is_accepted().await? {
                return Ok(transaction);
            }
            transaction.rollback().await;
            if Instant::now() >= deadline {
                let reason = "another server has taken over, and its logs are still being compared with the replicas";
                return Err(unavailable(
                    format!("cannot append to PostgreSQL at {}", self.database.connector.name()),
                    reason,
                ));
            }
            tokio::time::sleep(HISTORY_POLL).await;
        }
    }

    /// Forgets message ids that are too old or too many, the oldest first, of all logs. In a transaction of
    /// its own, so that no log waits for it; another process that does the same takes others, or none.
    async fn expire(&self) -> Result<(), Error> {
        let retention_ms = u64::try_from(self.options.message_id_retention.as_millis()).unwrap_or(u64::MAX);
        let delete = sqlx::query(
            "DELETE FROM message_ids WHERE (log, message_id) IN (
               SELECT log, message_id FROM message_ids
               WHERE time_ms < (extract(epoch FROM clock_timestamp()) * 1000)::bigint - $1
                 OR time_ms <= (SELECT time_ms FROM message_ids ORDER BY time_ms DESC LIMIT 1 OFFSET $2)
               ORDER BY time_ms LIMIT $3 FOR UPDATE SKIP LOCKED)",
        );
        let delete =
            delete.bind(signed(retention_ms)).bind(signed(self.options.message_ids_max)).bind(signed(2 * EXPIRY_COUNT));
        let mut transaction = self.database.begin().await?;
        transaction.execute("forget message ids in", delete).await?;
        transaction.commit().await
    }
}

impl GroupCommit for Writer {
    /// One transaction: heads are locked, message ids read, the plan made, its rows written.
    async fn commit(&mut self, batches: Vec<Prepared>) -> Result<Vec<Result<Appended, Error>>, Error> {
        if self.named > EXPIRY_COUNT.min(self.options.message_ids_max / 10)
            || self.expired_at.elapsed() > EXPIRY_INTERVAL
        {
            (self.expired_at, self.named) = (Instant::now(), 0);
            if let Err(error) = self.expire().await {
                tracing::debug!(error = &error as &dyn std::error::Error, "message ids were not forgotten");
            }
        }
        let mut transaction = self.begin().await?;
        let (mut heads, now) = lock(&mut transaction, batches.iter().map(|batch| &batch.shard)).await?;
        let mut known = read_known(&mut transaction, &heads, &batches).await?;
        let held = held(&mut transaction, batches.iter().filter_map(|batch| batch.claim)).await?;
        let (results, rows) = plan(&mut heads, &mut known, &held, batches, now, self.options.log_bytes_max);
        // A batch that was known is acknowledged again. It may have been written by a commit that nobody
        // was told to have reached the standby, so even then something is committed that has to.
        if !results.iter().any(Result::is_ok) {
            transaction.rollback().await;
            return Ok(results);
        }
        insert_rows(&mut transaction, &rows).await?;
        insert_known(&mut transaction, &rows).await?;
        update_heads(&mut transaction, heads.values()).await?;
        transaction.commit().await?;
        self.named += rows.iter().filter(|row| row.message_id.is_some()).count() as u64;
        self.grown.notify_one();
        Ok(results)
    }
}

/// Locks the head rows of shards; those without a log are left out.
pub(super) async fn lock_heads(
    transaction: &mut Transaction<'_>,
    shards: impl Iterator<Item = &ShardKey>,
) -> Result<HashMap<ShardKey, LogHead>, Error> {
    Ok(lock(transaction, shards).await?.0)
}

/// The same, and the time by the server's clock: those of the processes do not count.
async fn lock(
    transaction: &mut Transaction<'_>,
    shards: impl Iterator<Item = &ShardKey>,
) -> Result<(HashMap<ShardKey, LogHead>, u64), Error> {
    let (uids, numbers) = keys(shards);
    let statement = format!(
        "SELECT {HEAD}, (extract(epoch FROM clock_timestamp()) * 1000)::bigint FROM logs WHERE (index_uid, shard) IN (SELECT * FROM unnest($1::text[], $2::int[]))
         ORDER BY log FOR NO KEY UPDATE"
    );
    let query = sqlx::query(sqlx::AssertSqlSafe(statement)).bind(uids).bind(numbers);
    let rows = transaction.fetch_all("lock logs of", query).await?;
    let now = rows.iter().map(|row| row.get::<i64, _>(11).cast_unsigned()).max().unwrap_or_default();
    Ok((rows.iter().map(head).collect(), now))
}

/// Reads the head rows of shards; those without a log are left out.
pub(super) async fn read_heads(
    database: &Database,
    shards: impl Iterator<Item = &ShardKey>,
) -> Result<HashMap<ShardKey, LogHead>, Error> {
    let (uids, numbers) = keys(shards);
    let statement =
        format!("SELECT {HEAD} FROM logs WHERE (index_uid, shard) IN (SELECT * FROM unnest($1::text[], $2::int[]))");
    let read = || sqlx::query(sqlx::AssertSqlSafe(statement.clone())).bind(&uids).bind(&numbers);
    let (rows, _) = database.fetch_all("read", read).await?;
    Ok(rows.iter().map(head).collect())
}

fn keys<'a>(shards: impl Iterator<Item = &'a ShardKey>) -> (Vec<String>, Vec<i32>) {
    let mut shards: Vec<&ShardKey> = shards.collect();
    shards.sort_unstable();
    shards.dedup();
    shards.into_iter().map(|shard| (shard.index_uid.as_str().to_owned(), shard.number.cast_signed())).unzip()
}

fn head(row: &PgRow) -> (ShardKey, LogHead) {
    let number = |column: usize| row.get::<i64, _>(column).cast_unsigned();
    let head = LogHead {
        log: row.get(2),
        incarnation: Incarnation(number(3)),
        last: Seq(number(4)),
        chain: number(5),
        trimmed: Seq(number(6)),
        mapping_version: number(7),
        apply_version: row.get::<i32, _>(8).cast_unsigned(),
        time_ms: number(9),
        bytes: number(10),
    };
    (shard_key(row), head)
}

/// The shard whose index and number are a row's first columns.
pub(super) fn shard_key(row: &PgRow) -> ShardKey {
    ShardKey::new(row.get::<String, _>(0), row.get::<i32, _>(1).cast_unsigned())
}

async fn read_known(
    transaction: &mut Transaction<'_>,
    heads: &HashMap<ShardKey, LogHead>,
    batches: &[Prepared],
) -> Result<HashMap<(i64, String), Known>, Error> {
    let id = |batch: &Prepared| Some((heads.get(&batch.shard)?.log, batch.message_id.clone()?.into_bytes()));
    let (logs, ids): (Vec<i64>, Vec<Vec<u8>>) = batches.iter().filter_map(id).unzip();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let statement = "SELECT log, message_id, incarnation, first, last FROM message_ids
         WHERE (log, message_id) IN (SELECT * FROM unnest($1::bigint[], $2::bytea[]))";
    let rows = transaction.fetch_all("read", sqlx::query(statement).bind(logs).bind(ids)).await?;
    let known = |row: &PgRow| {
        let number = |column: usize| row.get::<i64, _>(column).cast_unsigned();
        let place = Known { incarnation: Incarnation(number(2)), first: Seq(number(3)), last: Seq(number(4)) };
        ((row.get(0), String::from_utf8_lossy(row.get(1)).into_owned()), place)
    };
    Ok(rows.iter().map(known).collect())
}

async fn insert_rows(transaction: &mut Transaction<'_>, rows: &[NewRow]) -> Result<(), Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let column = |value: fn(&NewRow) -> i64| rows.iter().map(value).collect::<Vec<i64>>();
    let query = sqlx::query(
        "INSERT INTO records (log, first, last, incarnation, mapping_version, apply_version, time_ms,
           previous_chain, chain, stored_bytes, body_bytes, codec, body)
         SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
           $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bytea[])",
    )
    .bind(column(|row| row.log))
    .bind(column(|row| signed(row.first.0)))
    .bind(column(|row| signed(row.last.0)))
    .bind(column(|row| signed(row.incarnation.0)))
    .bind(column(|row| signed(row.mapping_version)))
    .bind(column(|row| i64::from(row.apply_version)))
    .bind(column(|row| signed(row.time_ms)))
    .bind(column(|row| signed(row.previous_chain)))
    .bind(column(|row| signed(row.chain)))
    .bind(column(|row| row.encoded.bytes.len() as i64))
    .bind(column(|row| signed(row.body_bytes)))
    .bind(column(|row| row.encoded.codec))
    .bind(rows.iter().map(|row| &row.encoded.bytes[..]).collect::<Vec<&[u8]>>());
    transaction.execute("append to", query).await.map(|_| ())
}

async fn insert_known(transaction: &mut Transaction<'_>, rows: &[NewRow]) -> Result<(), Error> {
    let named: Vec<(&NewRow, &str)> = rows.iter().filter_map(|row| Some((row, row.message_id.as_deref()?))).collect();
    if named.is_empty() {
        return Ok(());
    }
    let column = |value: fn(&NewRow) -> i64| named.iter().map(|(row, _)| value(row)).collect::<Vec<i64>>();
    let query = sqlx::query(
        "INSERT INTO message_ids (log, message_id, incarnation, first, last, time_ms)
         SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])",
    )
    .bind(column(|row| row.log))
    .bind(named.iter().map(|(_, id)| id.as_bytes()).collect::<Vec<&[u8]>>())
    .bind(column(|row| signed(row.incarnation.0)))
    .bind(column(|row| signed(row.first.0)))
    .bind(column(|row| signed(row.last.0)))
    .bind(column(|row| signed(row.time_ms)));
    transaction.execute("append to", query).await.map(|_| ())
}

async fn update_heads(
    transaction: &mut Transaction<'_>,
    heads: impl Iterator<Item = &LogHead> + Clone,
) -> Result<(), Error> {
    let column = |value: fn(&LogHead) -> i64| heads.clone().map(value).collect::<Vec<i64>>();
    let query = sqlx::query(
        "UPDATE logs SET last = new.last, chain = new.chain, mapping_version = new.mapping_version,
           time_ms = new.time_ms, bytes = new.bytes
         FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
           AS new (log, last, chain, mapping_version, time_ms, bytes)
         WHERE logs.log = new.log",
    )
    .bind(column(|head| head.log))
    .bind(column(|head| signed(head.last.0)))
    .bind(column(|head| signed(head.chain)))
    .bind(column(|head| signed(head.mapping_version)))
    .bind(column(|head| signed(head.time_ms)))
    .bind(column(|head| signed(head.bytes)));
    transaction.execute("append to", query).await.map(|_| ())
}
