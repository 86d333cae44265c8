//! The shard logs in `logs.db`: the calls of the trait, and what the leader does with logs.
//!
//! Appends are written by [`writer`](super::writer), rows read by [`read`](super::read), incarnations begun
//! by [`restart`](super::restart).

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use sqlx::Row;
use sqlx::sqlite::SqliteConnection;
use trawl_proto::{Epoch, Incarnation, Seq, ShardKey};

use super::clock::Clock;
use super::database::{Database, Transaction};
use super::letters::forget_shard;
use super::writer::{Writer, read_heads};
use super::{EngineOptions, Tasks};
use crate::Error;
use crate::engines::appends::Appends;
use crate::engines::plan::ROW_BYTES;
use crate::engines::reading::{Ends, Rows as _, follow};
use crate::engines::restart::{is_as_seen, public_head};
use crate::shard_log::{Append, Appended, Base, Head, Mark, Record, ShardLog};

/// Rows that one transaction of a trim or removal deletes at most, so that appends are not held up.
const DELETE_ROWS_MAX: u32 = 500;
/// Free pages (of 4 KiB) that are kept for the rows to come; more are given back to the file system,
/// some at a time.
const FREE_PAGES_MAX: i64 = 16_384;
/// So many times a trim or removal gives 1,024 pages back; appends get their turn in between.
const GIVE_BACK_STEPS: u32 = 16;

/// The logs of one engine.
pub(super) struct SqliteLog {
    shared: Arc<Shared>,
    appends: Appends,
}

/// What reads, tails and the leader's calls work with.
pub(super) struct Shared {
    pub(super) database: Arc<Database>,
    pub(super) ends: Ends,
    _tasks: Arc<Tasks>,
}

impl SqliteLog {
    pub(super) fn new(
        database: Arc<Database>,
        clock: Clock,
        options: &EngineOptions,
        ends: Ends,
        tasks: Arc<Tasks>,
    ) -> Self {
        let appends = Appends::start(options, Writer::new(database.clone(), clock, options));
        Self { shared: Arc::new(Shared { database, ends, _tasks: tasks }), appends }
    }
}

#[async_trait]
impl ShardLog for SqliteLog {
    async fn fence(&self, epoch: Epoch) -> Result<(), Error> {
        let transaction = self.shared.begin_fenced(epoch).await?;
        transaction.commit(0).await
    }

    async fn create(&self, epoch: Epoch, shards: &[ShardKey]) -> Result<(), Error> {
        let mut transaction = self.shared.begin_fenced(epoch).await?;
        for shard in shards {
            sqlx::query(
                "INSERT INTO logs (index_uid, shard, incarnation, last, chain, trimmed, mapping_version, apply_version,
                   time_ms, bytes) VALUES (?1, ?2, 1, 0, 0, 0, 1, 1, 0, 0) ON CONFLICT DO NOTHING",
            )
            .bind(shard.index_uid.as_str())
            .bind(shard.number)
            .execute(&mut transaction.connection)
            .await
            .map_err(self.shared.database.error("create a log in"))?;
        }
        transaction.commit(0).await?;
        Ok(())
    }

    async fn remove(&self, epoch: Epoch, shards: &[ShardKey]) -> Result<(), Error> {
        let mut transaction = self.shared.begin_fenced(epoch).await?;
        for shard in shards {
            remove_log(&mut transaction.connection, shard)
                .await
                .map_err(self.shared.database.error("remove a log from"))?;
        }
        transaction.commit(0).await?;
        // The logs are gone; their rows follow, and what is left over when this fails goes with the
        // next removal.
        while self.shared.purge_some().await? {}
        self.shared.give_back().await
    }

    async fn append(&self, batches: Vec<Append>) -> Result<Vec<Result<Appended, Error>>, Error> {
        self.appends.append(batches).await
    }

    async fn read(&self, shard: &ShardKey, after: Seq, bytes_max: usize) -> Result<Vec<Record>, Error> {
        let (_, rows) = self.shared.read(shard, after, bytes_max).await?;
        Ok(rows.into_iter().map(|row| row.record).collect())
    }

    fn tail(&self, shard: &ShardKey, after: Seq) -> BoxStream<'static, Result<Record, Error>> {
        follow(self.shared.clone(), self.shared.ends.subscribe(), shard.clone(), after)
    }

    async fn trim(&self, epoch: Epoch, shard: &ShardKey, seen: Mark, through: Seq) -> Result<(), Error> {
        while self.shared.trim_some(epoch, shard, seen, through).await? {}
        self.shared.give_back().await
    }

    async fn heads(&self, shards: &[ShardKey]) -> Result<Vec<Option<Head>>, Error> {
        let failed = || self.shared.database.error("read");
        let mut connection = self.shared.database.readers().acquire().await.map_err(failed())?;
        let heads = read_heads(&mut connection, shards.iter()).await.map_err(failed())?;
        Ok(shards.iter().map(|shard| heads.get(shard).map(public_head)).collect())
    }

    async fn restart(
        &self,
        epoch: Epoch,
        shard: &ShardKey,
        from: Incarnation,
        fork: Seq,
        base: Base,
    ) -> Result<Head, Error> {
        self.shared.restart(epoch, shard, from, fork, base).await
    }
}

impl Shared {
    /// Begins a transaction in which the epoch is the highest so far, and recorded as such.
    pub(super) async fn begin_fenced(&self, epoch: Epoch) -> Result<Transaction<'_>, Error> {
        let mut transaction = self.database.begin().await?;
        let raise = "UPDATE meta SET epoch = max(epoch, ?1) RETURNING epoch";
        let row = sqlx::query(raise).bind(epoch.0.cast_signed()).fetch_one(&mut transaction.connection).await;
        let highest = Epoch(row.map_err(self.database.error("write to"))?.get::<i64, _>(0).cast_unsigned());
        if highest > epoch {
            transaction.rollback().await;
            return Err(Error::Fenced { epoch, highest });
        }
        Ok(transaction)
    }

    /// Deletes some of the rows at or before `through`; true when there may be more.
    async fn trim_some(&self, epoch: Epoch, shard: &ShardKey, seen: Mark, through: Seq) -> Result<bool, Error> {
        let failed = || self.database.error("trim");
        let mut transaction = self.begin_fenced(epoch).await?;
        let connection = &mut transaction.connection;
        let heads = read_heads(connection, std::iter::once(shard)).await.map_err(failed())?;
        let Some(head) = heads.get(shard) else {
            transaction.rollback().await;
            return Err(Error::NoSuchLog(shard.clone()));
        };
        if head.trimmed >= through {
            transaction.rollback().await;
            return Ok(false);
        }
        let row =
            sqlx::query("SELECT last, chain FROM records WHERE log = ?1 AND first <= ?2 ORDER BY first DESC LIMIT 1")
                .bind(head.log)
                .bind(seen.seq.0.cast_signed())
                .fetch_optional(&mut *connection)
                .await
                .map_err(failed())?;
        if let Err(error) = is_as_seen(head, shard, seen, row.map(|row| (row.get(0), row.get(1)))) {
            transaction.rollback().await;
            return Err(error);
        }
        let rows = sqlx::query(
            "DELETE FROM records WHERE id IN
               (SELECT id FROM records WHERE log = ?1 AND first <= ?2 AND last <= ?2 ORDER BY first LIMIT ?3)
             RETURNING last, stored_bytes",
        )
        .bind(head.log)
        .bind(through.0.cast_signed())
        .bind(DELETE_ROWS_MAX)
        .fetch_all(&mut *connection)
        .await
        .map_err(failed())?;
        let trimmed = rows.iter().map(|row| row.get::<i64, _>(0)).max();
        let bytes: i64 = rows.iter().map(|row| row.get::<i64, _>(1) + ROW_BYTES.cast_signed()).sum();
        if let Some(trimmed) = trimmed {
            sqlx::query("UPDATE logs SET trimmed = ?2, bytes = max(bytes - ?3, 0) WHERE log = ?1")
                .bind(head.log)
                .bind(trimmed)
                .bind(bytes)
                .execute(&mut *connection)
                .await
                .map_err(failed())?;
        }
        transaction.commit(pages(rows.len())).await?;
        Ok(rows.len() == DELETE_ROWS_MAX as usize)
    }

    /// Deletes some rows of removed logs; true when there may be more.
    async fn purge_some(&self) -> Result<bool, Error> {
        let failed = || self.database.error("purge");
        let mut transaction = self.database.begin().await?;
        let connection = &mut transaction.connection;
        let removed = sqlx::query("SELECT log FROM removed LIMIT 1").fetch_optional(&mut *connection).await;
        let Some(log) = removed.map_err(failed())?.map(|row| row.get::<i64, _>(0)) else {
            transaction.rollback().await;
            return Ok(false);
        };
        let mut deleted = 0;
        for statement in [
            "DELETE FROM records WHERE id IN (SELECT id FROM records WHERE log = ?1 LIMIT ?2)",
            "DELETE FROM message_ids WHERE log = ?1 AND message_id IN
               (SELECT message_id FROM message_ids WHERE log = ?1 LIMIT ?2)",
        ] {
            let done = sqlx::query(statement).bind(log).bind(DELETE_ROWS_MAX).execute(&mut *connection).await;
            deleted += done.map_err(failed())?.rows_affected();
        }
        if deleted == 0 {
            sqlx::query("DELETE FROM removed WHERE log = ?1").bind(log).execute(connection).await.map_err(failed())?;
        }
        transaction.commit(pages(deleted as usize)).await?;
        Ok(true)
    }

    /// Gives some free pages back to the file system when there are many.
    async fn give_back(&self) -> Result<(), Error> {
        for _ in 0..GIVE_BACK_STEPS {
            let row = sqlx::query("PRAGMA freelist_count").fetch_one(self.database.readers()).await;
            if row.map_err(self.database.error("read"))?.get::<i64, _>(0) <= FREE_PAGES_MAX {
                break;
            }
            self.database.maintain("PRAGMA incremental_vacuum(1024)").await?;
        }
        Ok(())
    }
}

async fn remove_log(connection: &mut SqliteConnection, shard: &ShardKey) -> Result<(), sqlx::Error> {
    let delete = "DELETE FROM logs WHERE index_uid = ?1 AND shard = ?2 RETURNING log";
    let query = sqlx::query(delete).bind(shard.index_uid.as_str()).bind(shard.number);
    if let Some(row) = query.fetch_optional(&mut *connection).await? {
        let note = "INSERT INTO removed (log) VALUES (?1)";
        sqlx::query(note).bind(row.get::<i64, _>(0)).execute(&mut *connection).await?;
        forget_shard(connection, shard).await?;
    }
    Ok(())
}

/// About the bytes that deleting rows writes: each touches a page of its own at worst.
fn pages(rows: usize) -> u64 {
    rows as u64 * 4_096
}
