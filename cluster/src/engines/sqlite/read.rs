//! Reading and tailing the logs.
//!
//! Every row that is read is checked: it has the chain that it was stored with, and follows the row
//! before without a gap.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use tokio::sync::watch;
use trawl_proto::{Incarnation, Seq, ShardKey};

use super::codec;
use super::failure::unavailable;
use super::log::Shared;
use crate::Error;
use crate::shard_log::{Record, chain};

/// Bodies from this size on are compressed, decompressed and hashed off the async workers.
const OFFLOAD_BYTES: usize = 128 << 10;
/// Body bytes that a tail reads at a time.
const TAIL_BYTES: usize = 1 << 20;
/// Pauses of a tail while the engine cannot be read: doubling, from and to.
const RETRY_PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

impl Shared {
    /// Follows a log.
    pub(super) fn tail(self: &Arc<Self>, shard: ShardKey, after: Seq) -> BoxStream<'static, Result<Record, Error>> {
        let tail = Tail {
            ends: self.ends.subscribe(),
            shared: self.clone(),
            shard,
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

    /// Reads rows in one statement, hence of one moment, and checks that they link.
    pub(super) async fn read(&self, shard: &ShardKey, after: Seq, bytes_max: usize) -> Result<Vec<StoredRow>, Error> {
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
pub(super) struct StoredRow {
    pub(super) record: Record,
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

/// Runs work on the blocking pool when it is about many bytes.
pub(super) async fn offload<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    if bytes < OFFLOAD_BYTES {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|error| unavailable("work was cut off", error))
}
