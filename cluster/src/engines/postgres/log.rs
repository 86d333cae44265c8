//! The shard logs: the calls of the trait, and what the leader does with logs.
//!
//! Appends are written by [`writer`](super::writer), rows read by [`read`](super::read), incarnations begun
//! by [`restart`](super::restart).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use sqlx::Row;
use tokio::sync::Notify;
use trawl_proto::{Epoch, Incarnation, Seq, ShardKey};

use super::database::{Database, Transaction};
use super::letters::forget_shard;
use super::store::signed;
use super::writer::{Writer, lock_heads, read_heads};
use super::{EngineOptions, Tasks};
use crate::Error;
use crate::engines::appends::Appends;
use crate::engines::failure::unavailable;
use crate::engines::plan::ROW_BYTES;
use crate::engines::reading::{Ends, Rows as _, follow};
use crate::engines::restart::{is_as_seen, public_head};
use crate::shard_log::{Append, Appended, Base, Head, Mark, Record, ShardLog};

/// Rows that one transaction of a trim or removal deletes at most, so that appends are not held up.
const DELETE_ROWS_MAX: i64 = 500;
/// Bytes that this process has deleted after which it vacuums, so that the room is used again at once;
/// the server's own vacuum looks once a minute, in which a busy cluster writes gigabytes.
const VACUUM_BYTES: u64 = 32 << 20;
/// How long a vacuum may take before it is left to the server.
const VACUUM_PATIENCE: Duration = Duration::from_secs(60);

/// The logs of one engine.
pub(super) struct PostgresLog {
    shared: Arc<Shared>,
    appends: Appends,
}

/// What reads, tails and the leader's calls work with.
pub(super) struct Shared {
    pub(super) database: Arc<Database>,
    ends: Ends,
    /// Bytes deleted since the last vacuum.
    deleted: AtomicU64,
    _tasks: Arc<Tasks>,
}

impl PostgresLog {
    /// `writers` are the connections for appends, `grown` is told of each commit.
    pub(super) fn new(
        database: Arc<Database>,
        writers: Arc<Database>,
        options: &EngineOptions,
        (ends, grown): (Ends, Arc<Notify>),
        tasks: Arc<Tasks>,
    ) -> Self {
        let appends = Appends::start(options, Writer::new(writers, options.clone(), grown));
        Self { shared: Arc::new(Shared { database, ends, deleted: AtomicU64::new(0), _tasks: tasks }), appends }
    }
}

#[async_trait]
impl ShardLog for PostgresLog {
    async fn fence(&self, epoch: Epoch) -> Result<(), Error> {
        self.shared.begin_fenced(epoch).await?.commit().await
    }

    async fn create(&self, epoch: Epoch, shards: &[ShardKey]) -> Result<(), Error> {
        let mut transaction = self.shared.begin_fenced(epoch).await?;
        for shard in shards {
            // Looked for first: a refused row would use up a number.
            let query = sqlx::query(
                "INSERT INTO logs (index_uid, shard, incarnation, last, chain, trimmed, mapping_version, apply_version,
                   time_ms, bytes)
                 SELECT $1, $2, 1, 0, 0, 0, 1, 1, 0, 0
                 WHERE NOT EXISTS (SELECT FROM logs WHERE index_uid = $1 AND shard = $2)",
            );
            let query = query.bind(shard.index_uid.as_str()).bind(shard.number.cast_signed());
            transaction.execute("create a log in", query).await?;
        }
        transaction.commit().await
    }

    async fn remove(&self, epoch: Epoch, shards: &[ShardKey]) -> Result<(), Error> {
        let mut transaction = self.shared.begin_fenced(epoch).await?;
        for shard in shards {
            let query = sqlx::query(
                "WITH gone AS (DELETE FROM logs WHERE index_uid = $1 AND shard = $2 RETURNING log)
                 INSERT INTO removed (log) SELECT log FROM gone",
            );
            let query = query.bind(shard.index_uid.as_str()).bind(shard.number.cast_signed());
            if transaction.execute("remove a log from", query).await?.rows_affected() > 0 {
                forget_shard(&mut transaction, shard).await?;
            }
        }
        transaction.commit().await?;
        // The logs are gone; their rows follow, and what is left over when this fails goes with the
        // next removal.
        while self.shared.purge_some().await? {}
        self.shared.vacuum().await;
        Ok(())
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
        self.shared.vacuum().await;
        Ok(())
    }

    async fn heads(&self, shards: &[ShardKey]) -> Result<Vec<Option<Head>>, Error> {
        let heads = read_heads(&self.shared.database, shards.iter()).await?;
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

    async fn new_history(&self) -> Result<Option<String>, Error> {
        self.shared.database.new_history().await
    }

    async fn accept_history(&self, epoch: Epoch, history: &str) -> Result<(), Error> {
        let connector = &self.shared.database.connector;
        let mut transaction = self.shared.begin_fenced(epoch).await?;
        let now = transaction.history();
        if connector.history_name(now).as_deref() != Some(history) {
            transaction.rollback().await;
            return Err(unavailable("cannot accept a history of PostgreSQL", "another one has begun since"));
        }
        transaction.execute("write to", sqlx::query("UPDATE fence SET history = $1").bind(history)).await?;
        transaction.commit().await?;
        connector.note_accepted(now, Some(history));
        Ok(())
    }
}

impl Shared {
    /// Begins a transaction in which the epoch is the highest so far, and recorded as such.
    pub(super) async fn begin_fenced(&self, epoch: Epoch) -> Result<Transaction<'_>, Error> {
        let mut transaction = self.database.begin().await?;
        let row = transaction.fetch_optional("write to", sqlx::query("SELECT epoch FROM fence FOR UPDATE")).await?;
        let row = row.ok_or_else(|| Error::Corrupt("the fence has no row".to_owned()))?;
        let highest = Epoch(row.get::<i64, _>(0).cast_unsigned());
        if highest > epoch {
            transaction.rollback().await;
            return Err(Error::Fenced { epoch, highest });
        }
        if highest < epoch {
            let raise = sqlx::query("UPDATE fence SET epoch = $1").bind(signed(epoch.0));
            transaction.execute("write to", raise).await?;
        }
        Ok(transaction)
    }

    /// Deletes some of the rows at or before `through`; true when there may be more.
    async fn trim_some(&self, epoch: Epoch, shard: &ShardKey, seen: Mark, through: Seq) -> Result<bool, Error> {
        let mut transaction = self.begin_fenced(epoch).await?;
        let heads = lock_heads(&mut transaction, std::iter::once(shard)).await?;
        let Some(head) = heads.get(shard) else {
            transaction.rollback().await;
            return Err(Error::NoSuchLog(shard.clone()));
        };
        if head.trimmed >= through {
            transaction.rollback().await;
            return Ok(false);
        }
        let row =
            sqlx::query("SELECT last, chain FROM records WHERE log = $1 AND first <= $2 ORDER BY first DESC LIMIT 1");
        let row = row.bind(head.log).bind(signed(seen.seq.0));
        let row = transaction.fetch_optional("trim", row).await?;
        if let Err(error) = is_as_seen(head, shard, seen, row.map(|row| (row.get(0), row.get(1)))) {
            transaction.rollback().await;
            return Err(error);
        }
        let through = signed(through.0);
        let delete = sqlx::query(
            "DELETE FROM records WHERE log = $1 AND first IN (SELECT first FROM records
               WHERE log = $1 AND first <= $2 AND last <= $2 ORDER BY first LIMIT $3)
             RETURNING last, stored_bytes",
        );
        let delete = delete.bind(head.log).bind(through).bind(DELETE_ROWS_MAX);
        let rows = transaction.fetch_all("trim", delete).await?;
        let trimmed = rows.iter().map(|row| row.get::<i64, _>(0)).max();
        let bytes: i64 = rows.iter().map(|row| row.get::<i64, _>(1) + ROW_BYTES.cast_signed()).sum();
        let Some(trimmed) = trimmed else {
            transaction.commit().await?;
            return Ok(false);
        };
        let note = "UPDATE logs SET trimmed = $2, bytes = greatest(bytes - $3, 0) WHERE log = $1";
        transaction.execute("trim", sqlx::query(note).bind(head.log).bind(trimmed).bind(bytes)).await?;
        transaction.commit().await?;
        self.deleted.fetch_add(bytes.cast_unsigned(), Ordering::Relaxed);
        Ok(rows.len() as i64 == DELETE_ROWS_MAX)
    }

    /// Deletes some rows of removed logs; true when there may be more.
    async fn purge_some(&self) -> Result<bool, Error> {
        let mut transaction = self.database.begin().await?;
        let removed = sqlx::query("SELECT log FROM removed ORDER BY log LIMIT 1 FOR UPDATE SKIP LOCKED");
        let Some(row) = transaction.fetch_optional("purge", removed).await? else {
            transaction.rollback().await;
            return Ok(false);
        };
        let log: i64 = row.get(0);
        let records = sqlx::query(
            "DELETE FROM records WHERE log = $1 AND first IN (SELECT first FROM records WHERE log = $1 LIMIT $2)
             RETURNING stored_bytes",
        );
        let rows = transaction.fetch_all("purge", records.bind(log).bind(DELETE_ROWS_MAX)).await?;
        let ids = sqlx::query(
            "DELETE FROM message_ids WHERE log = $1 AND message_id IN
               (SELECT message_id FROM message_ids WHERE log = $1 LIMIT $2)",
        );
        let ids = transaction.execute("purge", ids.bind(log).bind(DELETE_ROWS_MAX)).await?.rows_affected();
        if rows.is_empty() && ids == 0 {
            transaction.execute("purge", sqlx::query("DELETE FROM removed WHERE log = $1").bind(log)).await?;
        }
        transaction.commit().await?;
        let bytes: i64 = rows.iter().map(|row| row.get::<i64, _>(0)).sum();
        self.deleted.fetch_add(bytes.cast_unsigned(), Ordering::Relaxed);
        Ok(true)
    }

    /// Makes room of deleted rows usable again when there is much. What goes wrong here is made up for by
    /// the server's own vacuum.
    async fn vacuum(&self) {
        if self.deleted.load(Ordering::Relaxed) < VACUUM_BYTES {
            return;
        }
        self.deleted.store(0, Ordering::Relaxed);
        for statement in ["VACUUM (SKIP_LOCKED) records", "VACUUM (SKIP_LOCKED) message_ids"] {
            if let Err(error) = self.database.maintain(statement, VACUUM_PATIENCE).await {
                tracing::debug!(error = &error as &dyn std::error::Error, "vacuum failed");
            }
        }
    }
}
