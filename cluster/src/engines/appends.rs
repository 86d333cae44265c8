//! Group commit: one task takes all appends that are waiting and makes them durable together.
//!
//! While one group is being synced the next one gathers, so that the sync is paid once per group,
//! however many producers there are.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::EngineOptions;
use super::codec;
use super::failure::{Shared, unavailable};
use super::plan::Prepared;
use super::reading::offload;
use crate::Error;
use crate::shard_log::{Append, Appended};
use crate::vital::vital;

/// Length of a message id at most.
const MESSAGE_ID_BYTES_MAX: usize = 1_024;
/// Batches of one transaction, unless a single call brings more.
const GROUP_BATCHES_MAX: usize = 256;
/// Stored bytes of one transaction, unless a single call brings more.
const GROUP_BYTES_MAX: usize = 32 << 20;

/// How often those just answered get a turn before the next group is taken.
const GATHERING_TURNS: usize = 3;

/// How an engine writes a group.
pub(super) trait GroupCommit: Send + 'static {
    /// Writes the batches in one transaction; results in their order, durable when it returns.
    fn commit(
        &mut self,
        batches: Vec<Prepared>,
    ) -> impl Future<Output = Result<Vec<Result<Appended, Error>>, Error>> + Send;
}

/// The bounded queue in front of the task that writes groups.
pub(super) struct Appends {
    queue: mpsc::Sender<Job>,
    /// Room for bodies in the queue, in KiB.
    room: Arc<Semaphore>,
    batch_bytes_max: usize,
}

impl Appends {
    /// Starts the task. It ends by itself when this is dropped, after the last group.
    pub(super) fn start(options: &EngineOptions, writer: impl GroupCommit) -> Self {
        let (queue, jobs) = mpsc::channel(options.append_queue_max);
        vital("appends", run(writer, jobs));
        let room = Arc::new(Semaphore::new(kib(options.append_queue_bytes_max) as usize));
        Self { queue, room, batch_bytes_max: options.batch_bytes_max }
    }

    /// Waits until the batches are durable; see [`crate::ShardLog::append`].
    pub(super) async fn append(&self, batches: Vec<Append>) -> Result<Vec<Result<Appended, Error>>, Error> {
        let kib = kib(batches.iter().map(|batch| batch.body.len()).sum::<usize>());
        let room = self.room.clone().try_acquire_many_owned(kib).map_err(|_| Error::Busy)?;
        let (prepared, refused) = prepare(batches, self.batch_bytes_max).await?;
        if prepared.is_empty() {
            return Ok(merge(refused, Vec::new()));
        }
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(Job { batches: prepared, reply, _room: room }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::Busy,
            mpsc::error::TrySendError::Closed(_) => unavailable("cannot append", "the engine has been closed"),
        })?;
        let results = answer.await.map_err(|error| unavailable("append was cut off", error))??;
        Ok(merge(refused, results))
    }
}

/// The batches of one call.
struct Job {
    batches: Vec<Prepared>,
    reply: oneshot::Sender<Result<Vec<Result<Appended, Error>>, Error>>,
    /// Room in the queue, given back when the job is done.
    _room: OwnedSemaphorePermit,
}

impl Job {
    fn bytes(&self) -> usize {
        self.batches.iter().map(|batch| batch.encoded.bytes.len()).sum()
    }
}

/// Runs until the queue is closed and empty.
async fn run(mut writer: impl GroupCommit, mut queue: mpsc::Receiver<Job>) {
    let mut left_over = None;
    loop {
        let first = match left_over.take() {
            Some(job) => job,
            None => match queue.recv().await {
                Some(job) => job,
                None => return,
            },
        };
        let mut group = vec![first];
        let (mut batches, mut bytes) = (group[0].batches.len(), group[0].bytes());
        while let Ok(job) = queue.try_recv() {
            batches += job.batches.len();
            bytes += job.bytes();
            if batches > GROUP_BATCHES_MAX || bytes > GROUP_BYTES_MAX {
                left_over = Some(job);
                break;
            }
            group.push(job);
        }
        let answered = group.len();
        write_group(&mut writer, group).await;
        // Whoever was answered often has the next append at hand. Taken at once, the next group would be only
        // the other half of the producers, and so on for ever: two syncs where one would do.
        for _ in 0..GATHERING_TURNS {
            if answered > 1 && queue.len() < answered {
                tokio::task::yield_now().await;
            }
        }
    }
}

async fn write_group(writer: &mut impl GroupCommit, mut group: Vec<Job>) {
    let counts: Vec<usize> = group.iter().map(|job| job.batches.len()).collect();
    let batches = group.iter_mut().flat_map(|job| std::mem::take(&mut job.batches)).collect();
    match writer.commit(batches).await {
        Ok(results) => {
            // A caller that has given up is not there to be told.
            let mut results = results.into_iter();
            for (job, count) in group.into_iter().zip(counts) {
                let _ = job.reply.send(Ok(results.by_ref().take(count).collect()));
            }
        }
        Err(error) => {
            let error = Shared::new(error);
            for job in group {
                let _ = job.reply.send(Err(error.again()));
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
            log_bytes_max: batch.log_bytes_max,
            claim: batch.claim,
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

/// Bytes in KiB, rounded up.
fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1_024)).unwrap_or(u32::MAX)
}
