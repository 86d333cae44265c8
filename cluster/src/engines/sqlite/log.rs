//! The shard logs in `logs.db`: everything but the writing of appends, which is in [`writer`](super::writer).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use trawl_proto::{Epoch, Incarnation, Seq, ShardKey};

use super::codec;
use super::database::{Database, Transaction};
use super::failure::unavailable;
use super::plan::{Prepared, ROW_BYTES};
use super::poll::Ends;
use super::writer::{Job, Writer, read_heads};
use super::{EngineOptions, Tasks};
use crate::Error;
use crate::shard_log::{Append, Appended, Head, Record, ShardLog, chain};

/// Length of a message id at most.
const MESSAGE_ID_BYTES_MAX: usize = 1_024;
/// Bodies from this size on are compressed, decompressed and hashed off the async workers.
const OFFLOAD_BYTES: usize = 128 << 10;
/// Body bytes that a tail reads at a time.
const TAIL_BYTES: usize = 1 << 20;
/// Rows that one transaction of a trim or removal deletes at most, so that appends are not held up.
const DELETE_ROWS_MAX: u32 = 500;
/// Free pages (of 4 KiB) that are kept for the rows to come; more are given back to the file system,
/// some at a time.
const FREE_PAGES_MAX: i64 = 16_384;
/// So many times a trim or removal gives 1,024 pages back; appends get their turn in between.
const GIVE_BACK_STEPS: u32 = 16;
/// Pauses of a tail while the engine cannot be read: doubling, from and to.
const RETRY_PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// The logs of one engine.
pub(super) struct SqliteLog {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Job>,
    /// Room for bodies in the queue, in KiB.
    room: Arc<Semaphore>,
}

struct Shared {
    database: Arc<Database>,
    options: EngineOptions,
    ends: Ends,
    _tasks: Arc<Tasks>,
}

impl SqliteLog {
    pub(super) fn new(database: Arc<Database>, options: EngineOptions, ends: Ends, tasks: Arc<Tasks>) -> Self {
        let (queue, jobs) = mpsc::channel(options.append_queue_max);
        // Ends by itself when the queue closes, after the last group: not among the aborted tasks.
        tokio::spawn(Writer::new(database.clone(), options.clone()).run(jobs));
        let room = Arc::new(Semaphore::new(kib(options.append_queue_bytes_max) as usize));
        Self { shared: Arc::new(Shared { database, options, ends, _tasks: tasks }), queue, room }
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
        let kib = kib(batches.iter().map(|batch| batch.body.len()).sum::<usize>());
        let full = || unavailable("cannot append", "too many appends are waiting in this process");
        let room = self.room.clone().try_acquire_many_owned(kib).map_err(|_| full())?;
        let (prepared, refused) = prepare(batches, self.shared.options.batch_bytes_max).await?;
        if prepared.is_empty() {
            return Ok(merge(refused, Vec::new()));
        }
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(Job { batches: prepared, reply, _room: room }).map_err(|_| full())?;
        let results = answer.await.map_err(|error| unavailable("append was cut off", error))??;
        Ok(merge(refused, results))
    }

    async fn read(&self, shard: &ShardKey, after: Seq, bytes_max: usize) -> Result<Vec<Record>, Error> {
        let rows = self.shared.read(shard, after, bytes_max).await?;
        Ok(rows.into_iter().map(|row| row.record).collect())
    }

    fn tail(&self, shard: &ShardKey, after: Seq) -> BoxStream<'static, Result<Record, Error>> {
        let tail = Tail {
            ends: self.shared.ends.subscribe(),
            shared: self.shared.clone(),
            shard: shard.clone(),
            after,
            link: None,
            ready: VecDeque::new(),
            ended: false,
        };
        futures::stream::unfold(tail, |mut tail| async move {
            let item = tail.next().await?;
            Some((item, tail))
        })
        .boxed()
    }

    async fn trim(&self, epoch: Epoch, shard: &ShardKey, through: Seq) -> Result<(), Error> {
        while self.shared.trim_some(epoch, shard, through).await? {}
        self.shared.give_back().await
    }

    async fn heads(&self, shards: &[ShardKey]) -> Result<Vec<Option<Head>>, Error> {
        let failed = || self.shared.database.error("read");
        let mut connection = self.shared.database.readers().acquire().await.map_err(failed())?;
        let heads = read_heads(&mut connection, shards.iter()).await.map_err(failed())?;
        let head = |shard| {
            heads.get(shard).map(|head| Head {
                incarnation: head.incarnation,
                last: head.last,
                chain: head.chain,
                trimmed: head.trimmed,
                mapping_version: head.mapping_version,
                bytes: head.bytes,
            })
        };
        Ok(shards.iter().map(head).collect())
    }
}

impl Shared {
    /// Begins a transaction in which the epoch is the highest so far, and recorded as such.
    async fn begin_fenced(&self, epoch: Epoch) -> Result<Transaction<'_>, Error> {
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
    async fn trim_some(&self, epoch: Epoch, shard: &ShardKey, through: Seq) -> Result<bool, Error> {
        let failed = || self.database.error("trim");
        let mut transaction = self.begin_fenced(epoch).await?;
        let connection = &mut transaction.connection;
        let heads = read_heads(connection, std::iter::once(shard)).await.map_err(failed())?;
        let Some(head) = heads.get(shard) else {
            transaction.rollback().await;
            return Err(Error::NoSuchLog(shard.clone()));
        };
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

    /// Reads rows in one statement, hence of one moment, and checks that they link.
    async fn read(&self, shard: &ShardKey, after: Seq, bytes_max: usize) -> Result<Vec<StoredRow>, Error> {
        // `near` does not load bodies: the row that holds the seq behind `after`, and those that follow;
        // `sized` adds up how much they would be.
        let rows = sqlx::query(
            "WITH head AS (SELECT log, trimmed FROM logs WHERE index_uid = ?1 AND shard = ?2),
             near AS (
               SELECT r.first, r.body_bytes FROM head CROSS JOIN records r
               WHERE r.log = head.log AND r.first >=
                 coalesce((SELECT max(p.first) FROM records p WHERE p.log = head.log AND p.first <= ?3 + 1), 0)
               ORDER BY r.first LIMIT 512),
             sized AS (SELECT first, sum(body_bytes) OVER (ORDER BY first) AS total FROM near),
             bounds AS (
               SELECT min(first) AS low, coalesce(max(first) FILTER (WHERE total <= ?4), min(first)) AS high FROM sized)
             SELECT head.trimmed, r.incarnation, r.first, r.last, r.mapping_version, r.apply_version, r.time_ms,
               r.previous_chain, r.chain, r.body_bytes, r.codec, r.body
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
        let Some(first) = rows.first() else {
            return Err(Error::NoSuchLog(shard.clone()));
        };
        let trimmed = Seq(first.get::<i64, _>(0).cast_unsigned());
        if after < trimmed {
            return Err(Error::Trimmed { shard: shard.clone(), trimmed });
        }
        if first.get::<Option<i64>, _>(2).is_none() {
            return Ok(Vec::new());
        }
        decode_rows(shard.clone(), after, rows).await
    }
}

/// A row as read, with what it links to.
struct StoredRow {
    record: Record,
    previous_chain: u64,
}

/// The state of a tail.
struct Tail {
    ends: watch::Receiver<Arc<HashMap<ShardKey, Seq>>>,
    shared: Arc<Shared>,
    shard: ShardKey,
    after: Seq,
    /// The chain of the last row given out.
    link: Option<u64>,
    ready: VecDeque<StoredRow>,
    ended: bool,
}

impl Tail {
    /// Waits for the next row; `None` after an error item.
    async fn next(&mut self) -> Option<Result<Record, Error>> {
        if self.ended {
            return None;
        }
        if self.ready.is_empty()
            && let Err(error) = self.fill().await
        {
            self.ended = true;
            return Some(Err(error));
        }
        let row = self.ready.pop_front()?;
        if self.link.is_some_and(|link| link != row.previous_chain) {
            self.ended = true;
            let reason =
                format!("log of shard {}: row {} does not continue what was read before", self.shard, row.record.first);
            return Some(Err(Error::Corrupt(reason)));
        }
        self.link = Some(row.record.chain);
        self.after = row.record.last;
        Some(Ok(row.record))
    }

    /// Waits until there are rows. News are marked as seen before reading, so none are missed.
    async fn fill(&mut self) -> Result<(), Error> {
        let mut pause = RETRY_PAUSES.0;
        loop {
            self.ends.borrow_and_update();
            match self.shared.read(&self.shard, self.after, TAIL_BYTES).await {
                Ok(rows) if rows.is_empty() => {
                    pause = RETRY_PAUSES.0;
                    self.wait().await;
                }
                Ok(rows) => {
                    self.ready = rows.into();
                    return Ok(());
                }
                Err(Error::Unavailable(error)) => {
                    tracing::debug!(shard = %self.shard, error = &*error as &dyn std::error::Error, "tail waits for the engine");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_PAUSES.1);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for news that this log has grown past us, or is gone.
    async fn wait(&mut self) {
        let (shard, after) = (&self.shard, self.after);
        loop {
            // The sender lives in `shared`, so this cannot fail.
            let _ = self.ends.changed().await;
            if self.ends.borrow_and_update().get(shard).is_none_or(|last| *last > after) {
                return;
            }
        }
    }
}

/// Compresses batches; those that can never be taken stand with their error at their place among the
/// others' `None`.
async fn prepare(batches: Vec<Append>, batch_bytes_max: usize) -> Result<(Vec<Prepared>, Vec<Option<Error>>), Error> {
    let bytes = batches.iter().map(|batch| batch.body.len()).sum();
    let work = move || {
        let refused: Vec<Option<Error>> = batches.iter().map(|batch| refuse(batch, batch_bytes_max)).collect();
        let taken = batches.into_iter().zip(&refused).filter(|(_, refused)| refused.is_none());
        let prepared = taken.map(|(batch, _)| Prepared {
            encoded: codec::encode(&batch.body),
            shard: batch.shard,
            mapping_version: batch.mapping_version,
            operations: batch.operations,
            body: batch.body,
            message_id: batch.message_id,
        });
        (prepared.collect(), refused)
    };
    offload(bytes, work).await
}

fn refuse(batch: &Append, batch_bytes_max: usize) -> Option<Error> {
    let too_large = |what, bytes: usize, bytes_max: usize| {
        Some(Error::TooLarge { what, bytes: bytes as u64, bytes_max: bytes_max as u64 })
    };
    if batch.body.len() > batch_bytes_max {
        return too_large("batch", batch.body.len(), batch_bytes_max);
    }
    if let Some(id) = &batch.message_id
        && id.len() > MESSAGE_ID_BYTES_MAX
    {
        return too_large("message id", id.len(), MESSAGE_ID_BYTES_MAX);
    }
    (batch.operations == 0).then(|| Error::Corrupt("a batch without operations".to_owned()))
}

/// Puts the results of those taken at the places of those not refused.
fn merge(refused: Vec<Option<Error>>, results: Vec<Result<Appended, Error>>) -> Vec<Result<Appended, Error>> {
    let mut results = results.into_iter();
    let missing = || Err(unavailable("cannot append", "the answer is missing"));
    refused
        .into_iter()
        .map(|refused| match refused {
            Some(error) => Err(error),
            None => results.next().unwrap_or_else(missing),
        })
        .collect()
}

/// Decodes rows and checks each one's chain, and that they follow each other without a gap.
async fn decode_rows(shard: ShardKey, after: Seq, rows: Vec<SqliteRow>) -> Result<Vec<StoredRow>, Error> {
    let bytes = rows.iter().map(|row| row.get::<i64, _>(9)).sum::<i64>();
    let work = move || {
        let mut decoded: Vec<StoredRow> = Vec::with_capacity(rows.len());
        for row in &rows {
            let row = decode_row(&shard, row)?;
            let follows = match decoded.last() {
                Some(before) => {
                    before.record.last.next() == row.record.first && before.record.chain == row.previous_chain
                }
                None => row.record.first <= after.next(),
            };
            if !follows {
                return Err(Error::Corrupt(format!(
                    "log of shard {shard}: nothing leads up to row {}",
                    row.record.first
                )));
            }
            decoded.push(row);
        }
        Ok(decoded)
    };
    offload(bytes as usize, work).await?
}

fn decode_row(shard: &ShardKey, row: &SqliteRow) -> Result<StoredRow, Error> {
    let number = |column: usize| row.get::<i64, _>(column).cast_unsigned();
    let (first, previous_chain) = (Seq(number(2)), number(7));
    let body = codec::decode(row.get(10), row.get(11), number(9) as usize)?;
    let record = Record {
        incarnation: Incarnation(number(1)),
        first,
        last: Seq(number(3)),
        mapping_version: number(4),
        apply_version: row.get(5),
        time_ms: number(6),
        chain: number(8),
        body,
    };
    if chain(previous_chain, first, &record.body) != record.chain {
        return Err(Error::Corrupt(format!(
            "log of shard {shard}: row {first} does not have the chain it was stored with"
        )));
    }
    Ok(StoredRow { record, previous_chain })
}

async fn remove_log(connection: &mut SqliteConnection, shard: &ShardKey) -> Result<(), sqlx::Error> {
    let delete = "DELETE FROM logs WHERE index_uid = ?1 AND shard = ?2 RETURNING log";
    let query = sqlx::query(delete).bind(shard.index_uid.as_str()).bind(shard.number);
    if let Some(row) = query.fetch_optional(&mut *connection).await? {
        let note = "INSERT INTO removed (log) VALUES (?1)";
        sqlx::query(note).bind(row.get::<i64, _>(0)).execute(connection).await?;
    }
    Ok(())
}

/// Runs work on the blocking pool when it is about many bytes.
async fn offload<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    if bytes < OFFLOAD_BYTES {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|error| unavailable("work was cut off", error))
}

/// About the bytes that deleting rows writes: each touches a page of its own at worst.
fn pages(rows: usize) -> u64 {
    rows as u64 * 4_096
}

/// Bytes in KiB, rounded up.
fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1_024)).unwrap_or(u32::MAX)
}
