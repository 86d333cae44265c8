//! A worker: claims load tasks, reads their pieces, sends their documents, and says what became of each task.
//!
//! ```text
//! claim ─> read ─> batches on their way ─> ack
//!   │        │ cannot be read, index gone, cluster away for long: nack with the reason, again after a pause
//!   │        └ told to end: nack without a reason, so that the next worker goes on at once
//!   └ the claim ran out (this process was paused): nothing more is written, the task is somebody else's
//! ```
//!
//! While the last batches of a task are on their way the next task is read. Several lanes do this side by side.

mod at_work;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::at_work::{AtWork, Ended, Ending, pause_after};
use super::backoff::{Backoff, GiveUp};
use super::client::Client;
use super::hold::Hold;
use super::job::Job;
use super::pipeline::{Finished, Pipeline};
use super::queue::{Claimed, Counts, QueueError, TaskQueue};
use super::report::Observer;
use super::task::{FORMAT, LoadTask, Progress, REJECTED_FIRST_MAX, Tally};
use super::{LoadError, index};
use crate::readers::{Event, Input, Piece, ReadOptions, Reading, read};

/// Between two looks for a task when there was none.
const LOOK_FIRST: Duration = Duration::from_millis(50);
const LOOK_MAX: Duration = Duration::from_secs(1);
/// How long batches on their way may take to arrive when the worker was told to end.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it is believed that an index is still the one it was.
const INDEX_KNOWN_FOR: Duration = Duration::from_secs(5);

/// How a worker works.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// Its name, shown with the tasks it claims.
    pub name: String,
    /// The kind of tasks to claim; default [`KIND`](super::queue::KIND).
    pub kind: String,
    /// Tasks at once; default 1.
    pub concurrency: NonZeroUsize,
    /// Batches of one lane on their way at once; default 4.
    pub batches: NonZeroUsize,
    /// How long a claim lasts without being extended; default 60 s.
    pub claim_time: Duration,
    /// End when no task is ready or claimed.
    pub until_empty: bool,
    /// How long a batch is tried again when the cluster is busy or away, and how long the queue is asked in vain by a
    /// worker that ends when it is empty; default 5 minutes.
    pub retry_for: Duration,
}

impl WorkerOptions {
    /// Options with every default.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            kind: super::queue::KIND.to_owned(),
            concurrency: NonZeroUsize::MIN,
            batches: NonZeroUsize::MIN.saturating_add(3),
            claim_time: Duration::from_secs(60),
            until_empty: false,
            retry_for: Duration::from_secs(300),
        }
    }
}

/// What a worker did.
#[derive(Clone, Debug, Default)]
pub struct WorkReport {
    /// Tasks finished.
    pub done: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Claims that ran out.
    pub lost: u64,
    /// Tasks given back at the end.
    pub given_back: u64,
    /// Documents of finished tasks.
    pub tally: Tally,
    /// Why it ended before the queue was known to be empty.
    pub gave_up: Option<String>,
}

/// Works until `stop`, or until the queue is empty if that was asked for.
///
/// # Errors
/// When a thread cannot be started. All else is retried or is a matter of one task.
pub async fn work(
    queue: Arc<dyn TaskQueue>,
    client: Client,
    options: WorkerOptions,
    observer: Arc<dyn Observer>,
    stop: CancellationToken,
) -> Result<WorkReport, LoadError> {
    let mut lanes = JoinSet::new();
    for _ in 0..options.concurrency.get() {
        let (queue, client, options) = (queue.clone(), client.clone(), options.clone());
        let (observer, stop) = (observer.clone(), stop.clone());
        lanes.spawn(async move {
            let mut pipeline =
                Pipeline::new(client.clone(), options.batches.get(), options.retry_for, &*observer, Instant::now());
            pipeline.tell_at_most(REJECTED_FIRST_MAX as u64);
            let lane = Lane {
                queue,
                client,
                options: &options,
                stop,
                pipeline,
                at_work: HashMap::new(),
                endings: JoinSet::new(),
                indices: HashMap::new(),
                report: WorkReport::default(),
            };
            lane.run().await
        });
    }
    let mut report = WorkReport::default();
    while let Some(lane) = lanes.join_next().await {
        let lane = lane.map_err(|error| LoadError::Internal(error.to_string()))??;
        report.done += lane.done;
        report.failed += lane.failed;
        report.lost += lane.lost;
        report.given_back += lane.given_back;
        report.tally.add(&lane.tally);
        report.gave_up = report.gave_up.or(lane.gave_up);
    }
    Ok(report)
}

/// What a look into the queue came to.
enum Look {
    Task(Box<Claimed>),
    /// Nothing for now.
    Later,
    /// Nothing is ready or claimed.
    Empty,
}

struct Lane<'o> {
    queue: Arc<dyn TaskQueue>,
    client: Client,
    options: &'o WorkerOptions,
    stop: CancellationToken,
    pipeline: Pipeline<'o>,
    /// Tasks claimed, by the number of their job.
    at_work: HashMap<u64, AtWork>,
    /// Acknowledgements on their way.
    endings: JoinSet<Ending>,
    /// Uids of indices, and when they were learnt.
    indices: HashMap<String, (String, Instant)>,
    report: WorkReport,
}

impl Lane<'_> {
    /// Claims and reads one task after the other:
    /// 1. claim, or end when there is nothing left to do,
    /// 2. read it and add its documents to batches,
    /// 3. go on with the next; whatever was finished meanwhile is acknowledged on the side.
    async fn run(mut self) -> Result<WorkReport, LoadError> {
        while let Some(claimed) = self.next().await? {
            self.begin(claimed).await?;
        }
        let arrived = tokio::time::timeout(LEAVE_TIMEOUT, self.drain()).await;
        let in_time = arrived.is_ok();
        arrived.unwrap_or(Ok(()))?;
        if !in_time {
            // Batches that have not arrived are not part of the progress; whoever goes on sends them again.
            let numbers: Vec<u64> = self.at_work.keys().copied().collect();
            for number in numbers {
                self.stop_at(number, Ended::Stopped);
                self.end(Finished { number, failure: None, rejected: 0 });
            }
        }
        while let Some(ending) = self.endings.join_next().await {
            self.count(ending.ok());
        }
        Ok(self.report)
    }

    /// The next task; `None` when the worker shall end.
    async fn next(&mut self) -> Result<Option<Claimed>, LoadError> {
        let mut pause = LOOK_FIRST;
        let mut backoff = Backoff::new(self.options.retry_for);
        loop {
            if self.stop.is_cancelled() {
                return Ok(None);
            }
            match self.look().await? {
                Ok(Look::Task(claimed)) => return Ok(Some(*claimed)),
                Ok(Look::Empty) => return Ok(None),
                Ok(Look::Later) => backoff.progressed(),
                Err(error) => {
                    tracing::warn!(%error, "cannot claim a task");
                    let given_up = backoff.pause(Instant::now(), None).err();
                    // One that works on until it is told to end has nobody who waits for it.
                    if let Some(GiveUp { tried }) = given_up.filter(|_| self.options.until_empty) {
                        let reason = format!("gave up asking for tasks after {} s: {error}", tried.as_secs());
                        self.report.gave_up = Some(reason);
                        return Ok(None);
                    }
                }
            }
            let stop = self.stop.clone();
            let slept = stop.run_until_cancelled(tokio::time::sleep(pause));
            self.meanwhile(slept).await?;
            pause = (pause * 2).min(LOOK_MAX);
        }
    }

    /// Looks for a task once.
    async fn look(&mut self) -> Result<Result<Look, QueueError>, LoadError> {
        let queue = self.queue.clone();
        let (kind, lease, name) = (&self.options.kind, self.options.claim_time, &self.options.name);
        // A claim that is on its way is awaited: one that nobody hears of would have to run out first.
        let claimed = self.meanwhile(queue.claim(kind, lease, name)).await?;
        Ok(match claimed {
            Ok(Some(claimed)) => Ok(Look::Task(Box::new(claimed))),
            Ok(None) if self.options.until_empty && self.at_work.is_empty() => {
                let none_left = |counts| matches!(counts, Counts { ready: 0, claimed: 0, .. });
                let counts = self.meanwhile(queue.counts(kind)).await?;
                counts.map(|counts| if none_left(counts) { Look::Empty } else { Look::Later })
            }
            Ok(None) => Ok(Look::Later),
            Err(error) => Err(error),
        })
    }

    /// Awaits something while batches arrive and finished tasks are acknowledged.
    async fn meanwhile<T>(&mut self, future: impl Future<Output = T>) -> Result<T, LoadError> {
        tokio::pin!(future);
        loop {
            tokio::select! {
                done = &mut future => return Ok(done),
                turn = self.pipeline.turn() => turn?,
                Some(ending) = self.endings.join_next() => self.count(ending.ok()),
            }
            self.settle();
        }
    }

    /// Awaits all batches on their way.
    async fn drain(&mut self) -> Result<(), LoadError> {
        while !self.pipeline.is_idle() {
            self.pipeline.turn().await?;
            self.settle();
        }
        self.settle();
        Ok(())
    }

    /// Reads one task to its end and adds its documents.
    async fn begin(&mut self, claimed: Claimed) -> Result<(), LoadError> {
        let task = match serde_json::from_value::<LoadTask>(claimed.body.clone()) {
            Ok(task) if task.format == FORMAT => task,
            Ok(task) => {
                let reason = format!(
                    "a task of form {}, this worker (Trawl {}) knows {FORMAT}: replay it with workers of the version \
                     that pushed it",
                    task.format,
                    env!("CARGO_PKG_VERSION")
                );
                return self.refuse(&claimed, &reason).await;
            }
            Err(error) => return self.refuse(&claimed, &format!("not a load task: {error}")).await,
        };
        if let Err(reason) = self.check_index(&task).await? {
            return self.refuse(&claimed, &reason).await;
        }
        let progress: Progress = serde_json::from_value(claimed.progress.clone()).unwrap_or_default();
        let inputs = inputs(&task, &progress);
        let job = Arc::new(Job {
            key: task.key(),
            index: task.index,
            claim: Some(claimed.receipt.clone()),
            batch_bytes: task.batch_bytes,
            batch_documents: task.batch_documents,
            progress: Arc::new(progress.into()),
        });
        let noted = job.clone();
        let hold = Hold::start(
            self.queue.clone(),
            &claimed.receipt,
            self.options.claim_time,
            Arc::new(move || noted.progress()),
        );
        let read_options =
            ReadOptions { id_field: task.id_field, record_bytes_max: task.record_bytes_max, ..ReadOptions::default() };
        let reading = read(inputs, read_options).map_err(|error| LoadError::Internal(error.to_string()))?;
        let number = self.pipeline.begin(job.clone());
        tracing::info!(task = claimed.receipt, index = job.index, attempt = claimed.attempt, "task begun");
        let (unread, reason) = (Vec::new(), String::new());
        self.at_work.insert(number, AtWork { claimed, job, hold, ended: Ended::No, unread, reason });
        self.feed(number, reading).await?;
        self.settle();
        Ok(())
    }

    /// Adds what is read to batches until its end, or until going on is in vain.
    async fn feed(&mut self, number: u64, mut reading: Reading) -> Result<(), LoadError> {
        let Some(AtWork { hold, .. }) = self.at_work.get(&number) else { return Ok(()) };
        let (lost, cancelled, stop) = (hold.lost.clone(), hold.cancelled.clone(), self.stop.clone());
        let early = loop {
            tokio::select! {
                chunk = reading.events.recv() => match chunk {
                    Some(events) => {
                        for event in events {
                            self.step(number, event).await?;
                        }
                    }
                    None => break None,
                },
                turn = self.pipeline.turn() => turn?,
                Some(ending) = self.endings.join_next() => self.count(ending.ok()),
                () = lost.cancelled() => break Some(Ended::Lost),
                () = cancelled.cancelled() => break Some(Ended::Cancelled),
                () = stop.cancelled() => break Some(Ended::Stopped),
            }
            self.settle();
            if self.pipeline.has_failed(number) {
                self.pipeline.abandon(number);
                return Ok(());
            }
        };
        if let Some(ended) = early {
            self.stop_at(number, ended);
            return Ok(());
        }
        if !reading.ended_well() {
            self.stop_at(number, Ended::Panicked);
            return Ok(());
        }
        self.pipeline.close().await
    }

    async fn step(&mut self, number: u64, event: Event) -> Result<(), LoadError> {
        match event {
            Event::Opened(opened) => {
                self.pipeline.observer().opened(&opened.file, opened.format, opened.compression);
            }
            Event::Record(record) => self.pipeline.add(record).await?,
            Event::Fault(fault) if fault.kind.is_unread() => {
                // Not the content's fault: another attempt may find the file, or another worker.
                if let Some(at_work) = self.at_work.get_mut(&number) {
                    if at_work.unread.is_empty() {
                        at_work.reason = format!("{}: {}", fault.place, fault.reason);
                    }
                    at_work.unread.push(fault.input);
                }
            }
            Event::Fault(fault) => self.pipeline.fault(fault),
        }
        Ok(())
    }

    fn stop_at(&mut self, number: u64, ended: Ended) {
        if let Some(at_work) = self.at_work.get_mut(&number) {
            at_work.ended = ended;
        }
        self.pipeline.abandon(number);
    }

    /// Ends the tasks of which nothing is on its way any more.
    fn settle(&mut self) {
        while let Some(finished) = self.pipeline.finished() {
            self.end(finished);
        }
    }

    /// Acknowledges a task, or gives it back, on the side.
    fn end(&mut self, finished: Finished) {
        let Some(at_work) = self.at_work.remove(&finished.number) else { return };
        let (queue, retry_for) = (self.queue.clone(), self.options.retry_for);
        self.endings.spawn(at_work.end(queue, retry_for, finished));
    }

    fn count(&mut self, ending: Option<Ending>) {
        match ending {
            Some(Ending::Done(tally)) => {
                self.report.done += 1;
                self.report.tally.add(&tally);
            }
            Some(Ending::Failed) => self.report.failed += 1,
            Some(Ending::GivenBack) => self.report.given_back += 1,
            Some(Ending::Lost) | None => self.report.lost += 1,
        }
    }

    /// A task that this worker cannot even begin.
    async fn refuse(&mut self, claimed: &Claimed, reason: &str) -> Result<(), LoadError> {
        tracing::warn!(task = claimed.receipt, reason, "task failed");
        self.report.failed += 1;
        if let Err(error) = self.queue.nack(&claimed.receipt, pause_after(claimed.attempt), Some(reason)).await {
            tracing::warn!(task = claimed.receipt, %error, "cannot give a task back");
        }
        Ok(())
    }

    /// Whether the index is still the one that the task was made for.
    async fn check_index(&mut self, task: &LoadTask) -> Result<Result<(), String>, LoadError> {
        let known = self.indices.get(&task.index).filter(|(_, since)| since.elapsed() < INDEX_KNOWN_FOR);
        let uid = match known {
            Some((uid, _)) => uid.clone(),
            None => {
                let client = self.client.clone();
                let mut backoff = Backoff::new(self.options.retry_for);
                let uid = loop {
                    let asked = self.meanwhile(index::uid(&client, &task.index)).await?;
                    match (asked, backoff.pause(Instant::now(), None)) {
                        (Ok(Some(uid)), _) => break uid,
                        (Ok(None), _) => return Ok(Err(format!("there is no index [{}]", task.index))),
                        (Err(reason), Err(_)) => return Ok(Err(reason)),
                        (Err(_), Ok(pause)) => {
                            let stop = self.stop.clone();
                            let slept = stop.run_until_cancelled(tokio::time::sleep(pause));
                            if self.meanwhile(slept).await?.is_none() {
                                return Ok(Err("the worker was told to end".to_owned()));
                            }
                        }
                    }
                };
                self.indices.insert(task.index.clone(), (uid.clone(), Instant::now()));
                uid
            }
        };
        let same = uid == task.uid;
        Ok(same.then_some(()).ok_or_else(|| {
            format!("index [{}] was made anew since: the task was for the one with uid {}", task.index, task.uid)
        }))
    }
}

/// What is still to be read: from where it was left, then what could not be read before.
fn inputs(task: &LoadTask, progress: &Progress) -> Vec<Input> {
    let piece = |(number, piece): (u32, &Piece)| Piece { number, ..piece.clone() };
    let numbered = || (0_u32..).zip(&task.pieces).map(piece);
    let at = progress.at;
    let ahead = numbered().filter(|piece| piece.number >= at.piece).map(|piece| match piece.number == at.piece {
        true => Piece { resume: at.mark, ..piece },
        false => piece,
    });
    let again = numbered().filter(|piece| piece.number < at.piece && progress.unread.contains(&piece.number));
    ahead.chain(again).map(|piece| Input::Piece(Box::new(piece))).collect()
}
