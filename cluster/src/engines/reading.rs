//! Reading and tailing the logs, whatever the engine.
//!
//! Every row that is read is checked: it has the chain that it was stored with, and follows the row
//! before without a gap.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt};
use tokio::sync::watch;
use trawl_proto::{Generation, Incarnation, Seq, ShardKey};

use super::codec;
use super::failure::unavailable;
use crate::Error;
use crate::shard_log::{self, Record};

/// Bodies from this size on are compressed, decompressed and hashed off the async workers.
const OFFLOAD_BYTES: usize = 128 << 10;
/// Body bytes that a tail reads at a time.
const TAIL_BYTES: usize = 1 << 20;
/// Pauses of a tail while the engine cannot be read: doubling, from and to.
const RETRY_PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Where every log there is ends, for tails to wait on.
pub(super) type Ends = watch::Sender<Arc<HashMap<ShardKey, Generation>>>;

/// How an engine reads rows.
pub(super) trait Rows: Send + Sync + 'static {
    /// Reads where the log ends, and rows of the same moment, checked; see [`crate::ShardLog::read`].
    fn read(
        &self,
        shard: &ShardKey,
        after: Seq,
        bytes_max: usize,
    ) -> impl Future<Output = Result<(Generation, Vec<StoredRow>), Error>> + Send;
}

/// A row as read, with what it links to.
pub(super) struct StoredRow {
    pub(super) record: Record,
    previous_chain: u64,
}

/// A row as stored.
pub(super) struct RawRow {
    pub(super) incarnation: Incarnation,
    pub(super) first: Seq,
    pub(super) last: Seq,
    pub(super) mapping_version: u64,
    pub(super) apply_version: u32,
    pub(super) time_ms: u64,
    pub(super) previous_chain: u64,
    pub(super) chain: u64,
    pub(super) body_bytes: u64,
    pub(super) codec: i64,
    pub(super) stored: Vec<u8>,
}

/// Follows a log. `rows` also keeps the other end of `ends` alive.
pub(super) fn follow<R: Rows>(
    rows: Arc<R>,
    ends: watch::Receiver<Arc<HashMap<ShardKey, Generation>>>,
    shard: ShardKey,
    after: Seq,
) -> BoxStream<'static, Result<Record, Error>> {
    let tail = Tail { ends, rows, shard, after, incarnation: None, link: None, ready: VecDeque::new(), ended: false };
    futures::stream::unfold(tail, |mut tail| async move {
        let item = tail.next().await?;
        Some((item, tail))
    })
    .boxed()
}

/// The state of a tail.
struct Tail<R> {
    ends: watch::Receiver<Arc<HashMap<ShardKey, Generation>>>,
    rows: Arc<R>,
    shard: ShardKey,
    after: Seq,
    /// The log's as of the last read.
    incarnation: Option<Incarnation>,
    /// The incarnation and the chain of the last row given out.
    link: Option<(Incarnation, u64)>,
    ready: VecDeque<StoredRow>,
    ended: bool,
}

impl<R: Rows> Tail<R> {
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
        if let Some((incarnation, chain)) = self.link
            && chain != row.previous_chain
        {
            self.ended = true;
            let (shard, found) = (self.shard.clone(), row.record.incarnation);
            if found != incarnation {
                return Some(Err(Error::OtherIncarnation { shard, found }));
            }
            let reason =
                format!("log of shard {shard}: row {} does not continue what was read before", row.record.first);
            return Some(Err(Error::Corrupt(reason)));
        }
        self.link = Some((row.record.incarnation, row.record.chain));
        self.after = row.record.last;
        Some(Ok(row.record))
    }

    /// Waits until there are rows. News are marked as seen before reading, so none are missed.
    async fn fill(&mut self) -> Result<(), Error> {
        let mut pause = RETRY_PAUSES.0;
        loop {
            self.ends.borrow_and_update();
            match self.rows.read(&self.shard, self.after, TAIL_BYTES).await {
                Ok((end, rows)) => {
                    pause = RETRY_PAUSES.0;
                    let before = self.incarnation.replace(end.incarnation);
                    if !rows.is_empty() {
                        self.ready = rows.into();
                        return Ok(());
                    }
                    if before.is_some_and(|before| before != end.incarnation) && self.after > end.seq {
                        return Err(Error::OtherIncarnation { shard: self.shard.clone(), found: end.incarnation });
                    }
                    self.wait(end.incarnation).await;
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

    /// Waits for news that this log has grown past us, has begun another incarnation, or is gone.
    async fn wait(&mut self, incarnation: Incarnation) {
        let (shard, after) = (&self.shard, self.after);
        loop {
            // The sender lives in `rows`, so this cannot fail.
            let _ = self.ends.changed().await;
            let ends = self.ends.borrow_and_update();
            if ends.get(shard).is_none_or(|end| end.seq > after || end.incarnation != incarnation) {
                return;
            }
        }
    }
}

/// What a read from behind `after` came to, of a log that is trimmed through one seq and ends at another; of
/// none where there is no such log.
pub(super) async fn found(
    shard: &ShardKey,
    after: Seq,
    log: Option<(Seq, Generation)>,
    rows: Vec<RawRow>,
) -> Result<(Generation, Vec<StoredRow>), Error> {
    let (trimmed, end) = log.ok_or_else(|| Error::NoSuchLog(shard.clone()))?;
    match after < trimmed {
        true => Err(Error::Trimmed { shard: shard.clone(), trimmed }),
        false => Ok((end, decode_rows(shard.clone(), after, rows).await?)),
    }
}

/// Decodes rows and checks each one's chain, and that they follow each other without a gap.
async fn decode_rows(shard: ShardKey, after: Seq, rows: Vec<RawRow>) -> Result<Vec<StoredRow>, Error> {
    let bytes = rows.iter().map(|row| row.body_bytes).sum::<u64>();
    let work = move || {
        let mut decoded: Vec<StoredRow> = Vec::with_capacity(rows.len());
        for row in rows {
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

fn decode_row(shard: &ShardKey, row: RawRow) -> Result<StoredRow, Error> {
    let RawRow { incarnation, first, last, mapping_version, apply_version, time_ms, previous_chain, chain, .. } = row;
    let body = codec::decode(row.codec, row.stored, row.body_bytes as usize)?;
    if shard_log::chain(previous_chain, first, &body) != chain {
        return Err(Error::Corrupt(format!(
            "log of shard {shard}: row {first} does not have the chain it was stored with"
        )));
    }
    let record = Record { incarnation, first, last, mapping_version, apply_version, time_ms, chain, body };
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
