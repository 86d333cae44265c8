//! From documents to batches on their way: how many at once, which must wait for which, and how far each job is.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Interval;

use super::LoadError;
use super::batch::{Batch, Builder};
use super::client::Client;
use super::job::{Job, Order};
use super::report::{Observer, Progress, Rejection, Report};
use super::send::{Failure, Outcome, Sender};
use super::task::{Position, Tally};
use crate::readers::{Fault, Record};

/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);
/// Pauses that wait to be told.
const PAUSES_MAX: usize = 64;

/// Sends the documents of jobs, one job after the other; batches of several jobs may be on their way at once.
pub(super) struct Pipeline<'o> {
    observer: &'o dyn Observer,
    sender: Sender,
    concurrency: usize,
    on_the_way: JoinSet<Outcome>,
    /// How many batches on their way hold a document of this id; bounded by what is on its way.
    ids_on_the_way: HashMap<u64, u32>,
    pauses: mpsc::Receiver<(String, Duration)>,
    jobs: HashMap<u64, Running>,
    jobs_begun: u64,
    /// The job that documents are being added to.
    filling: Option<(u64, Builder)>,
    /// Rejections of one job that are told one by one.
    told_max: u64,
    finished: VecDeque<Finished>,
    report: Report,
    started: Instant,
    bytes_read: Vec<Arc<AtomicU64>>,
    bytes_total: Option<u64>,
    ticks: Interval,
}

struct Running {
    job: Arc<Job>,
    order: Order,
    /// Nothing more is going to be added.
    closed: bool,
    failure: Option<Failure>,
    rejected: u64,
}

/// A job of which nothing is on its way any more.
pub(super) struct Finished {
    /// Its number.
    pub(super) number: u64,
    /// Why it is not complete.
    pub(super) failure: Option<Failure>,
    /// How many of its documents were rejected.
    pub(super) rejected: u64,
}

impl<'o> Pipeline<'o> {
    pub(super) fn new(
        client: Client,
        concurrency: usize,
        retry_for: Duration,
        observer: &'o dyn Observer,
        started: Instant,
    ) -> Self {
        let (sender, pauses) = mpsc::channel(PAUSES_MAX);
        Self {
            observer,
            sender: Sender { client, retry_for, pauses: sender },
            concurrency,
            on_the_way: JoinSet::new(),
            ids_on_the_way: HashMap::new(),
            pauses,
            jobs: HashMap::new(),
            jobs_begun: 0,
            filling: None,
            told_max: u64::MAX,
            finished: VecDeque::new(),
            report: Report::default(),
            started,
            bytes_read: Vec::new(),
            bytes_total: None,
            ticks: tokio::time::interval(PROGRESS_EVERY),
        }
    }

    pub(super) fn observer(&self) -> &'o dyn Observer {
        self.observer
    }

    /// Of each job only so many rejections are told one by one; all are counted.
    pub(super) fn tell_at_most(&mut self, rejections: u64) {
        self.told_max = rejections;
    }

    /// Counts what an earlier pipeline of the same process did.
    pub(super) fn carry(&mut self, done: Tally, retries: u64) {
        self.report.loaded += done.loaded;
        self.report.replaced += done.replaced;
        self.report.bytes_loaded += done.bytes;
        self.report.retries += retries;
        for (kind, count) in done.rejected {
            *self.report.rejected.entry(kind).or_default() += count;
        }
    }

    /// Progress is told by these bytes from now on.
    pub(super) fn measure(&mut self, bytes_read: Arc<AtomicU64>, bytes_total: Option<u64>) {
        self.bytes_read.push(bytes_read);
        self.bytes_total = bytes_total;
    }

    /// Begins a job: what is added from now on belongs to it. Returns its number.
    pub(super) fn begin(&mut self, job: Arc<Job>) -> u64 {
        self.jobs_begun += 1;
        let number = self.jobs_begun;
        let builder = Builder::new(job.batch_bytes, job.batch_documents, job.progress().at);
        self.filling = Some((number, builder));
        self.jobs.insert(number, Running { job, order: Order::default(), closed: false, failure: None, rejected: 0 });
        number
    }

    /// Adds a document; waits while as many batches are on their way as may be.
    pub(super) async fn add(&mut self, record: Record) -> Result<(), LoadError> {
        if self.filling.as_ref().is_some_and(|(_, builder)| builder.is_full_for(&record)) {
            self.flush().await?;
        }
        if let Some((_, builder)) = &mut self.filling {
            builder.add(record);
        }
        Ok(())
    }

    /// Counts and tells something that is no document.
    pub(super) fn fault(&mut self, fault: Fault) {
        if fault.kind.is_unread() {
            self.report.unread += 1;
            return self.observer.unread(&fault.place, &fault.reason);
        }
        let kind = fault.kind.name().to_owned();
        let rejection = Rejection { place: fault.place, kind, reason: fault.reason };
        let mut job = None;
        if let Some((number, builder)) = &mut self.filling {
            builder.reject(&rejection, Position { piece: fault.input, mark: fault.next });
            job = Some(*number);
        }
        self.reject(job, &rejection);
    }

    /// Counts a rejection and, unless there were many of its job, tells it.
    fn reject(&mut self, job: Option<u64>, rejection: &Rejection) {
        let running = job.and_then(|job| self.jobs.get_mut(&job));
        let of_job = running.map_or(1, |running| {
            running.rejected += 1;
            running.rejected
        });
        if of_job <= self.told_max {
            self.observer.rejected(rejection);
        }
        *self.report.rejected.entry(rejection.kind.clone()).or_default() += 1;
    }

    /// Sends what is left of the job at hand. Nothing can be added until another begins.
    pub(super) async fn close(&mut self) -> Result<(), LoadError> {
        self.flush().await?;
        if let Some((number, _)) = self.filling.take() {
            if let Some(running) = self.jobs.get_mut(&number) {
                running.closed = true;
            }
            self.settle(number);
        }
        Ok(())
    }

    /// Gives up the job at hand, if it is this one: what was not sent is not sent. What is on its way is awaited.
    pub(super) fn abandon(&mut self, number: u64) {
        if self.filling.as_ref().is_some_and(|(filling, _)| *filling == number) {
            self.filling = None;
        }
        if let Some(running) = self.jobs.get_mut(&number) {
            running.closed = true;
        }
        self.settle(number);
    }

    /// Whether a batch of the job has failed, so that more of it is in vain.
    pub(super) fn has_failed(&self, number: u64) -> bool {
        self.jobs.get(&number).is_none_or(|running| running.failure.is_some())
    }

    /// Waits until a batch is done or progress was told.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is lost when the future is dropped.
    pub(super) async fn turn(&mut self) -> Result<(), LoadError> {
        tokio::select! {
            Some(outcome) = self.on_the_way.join_next() => self.done(outcome),
            Some((reason, pause)) = self.pauses.recv() => {
                self.observer.retrying(&reason, pause);
                Ok(())
            }
            _ = self.ticks.tick() => {
                self.tell_progress();
                Ok(())
            }
        }
    }

    /// The next job of which nothing is on its way any more.
    pub(super) fn finished(&mut self) -> Option<Finished> {
        self.finished.pop_front()
    }

    /// Whether anything is on its way.
    pub(super) fn is_idle(&self) -> bool {
        self.on_the_way.is_empty()
    }

    /// What was done so far, with the time it took.
    pub(super) fn report(&self) -> Report {
        Report { elapsed: self.started.elapsed(), ..self.report.clone() }
    }

    pub(super) fn tell_progress(&self) {
        self.observer.progress(&Progress {
            loaded: self.report.loaded,
            rejected: self.report.rejected_total(),
            bytes_read: self.bytes_read.iter().map(|bytes| bytes.load(Ordering::Relaxed)).sum(),
            bytes_total: self.bytes_total,
            bytes_loaded: self.report.bytes_loaded,
            elapsed: self.started.elapsed(),
        });
    }

    async fn flush(&mut self) -> Result<(), LoadError> {
        let Some((number, builder)) = &mut self.filling else { return Ok(()) };
        let number = *number;
        let Some(batch) = builder.take() else { return Ok(()) };
        while self.on_the_way.len() >= self.concurrency || self.must_wait(&batch) {
            self.turn().await?;
        }
        let Some(running) = self.jobs.get_mut(&number) else { return Ok(()) };
        if running.failure.is_some() {
            return Ok(());
        }
        running.order.begin(batch.number, batch.end);
        if batch.items.is_empty() {
            let (order, rejected) = (&mut running.order, batch.rejected);
            running.job.note(|progress| order.done(batch.number, rejected, progress));
            return Ok(());
        }
        for item in batch.items.iter().filter(|item| item.id_hash != 0) {
            *self.ids_on_the_way.entry(item.id_hash).or_default() += 1;
        }
        running.order.sent();
        self.on_the_way.spawn(self.sender.clone().send(number, running.job.clone(), batch));
        Ok(())
    }

    /// Whether a document of the batch has the id of one that is on its way: the two could change places.
    fn must_wait(&self, batch: &Batch) -> bool {
        !self.ids_on_the_way.is_empty()
            && batch.items.iter().any(|item| item.id_hash != 0 && self.ids_on_the_way.contains_key(&item.id_hash))
    }

    fn done(&mut self, outcome: Result<Outcome, JoinError>) -> Result<(), LoadError> {
        let outcome = outcome.map_err(|error| LoadError::Internal(error.to_string()))?;
        for hash in outcome.id_hashes {
            if let Some(count) = self.ids_on_the_way.get_mut(&hash) {
                *count -= 1;
                if *count == 0 {
                    self.ids_on_the_way.remove(&hash);
                }
            }
        }
        self.report.loaded += outcome.tally.loaded;
        self.report.replaced += outcome.tally.replaced;
        self.report.bytes_loaded += outcome.tally.bytes;
        self.report.retries += outcome.retries;
        for rejection in &outcome.rejected {
            self.reject(Some(outcome.job), rejection);
        }
        let Some(running) = self.jobs.get_mut(&outcome.job) else { return Ok(()) };
        match outcome.failure {
            Some(failure) => running.failure = running.failure.take().or(Some(failure)),
            None => {
                let order = &mut running.order;
                running.job.note(|progress| order.done(outcome.batch, outcome.tally, progress));
            }
        }
        running.order.arrived();
        self.settle(outcome.job);
        Ok(())
    }

    /// Moves a job to the finished ones when nothing of it is left.
    fn settle(&mut self, number: u64) {
        let ended =
            |running: &Running| (running.closed || running.failure.is_some()) && running.order.none_on_the_way();
        if self.jobs.get(&number).is_some_and(ended)
            && let Some(Running { failure, rejected, .. }) = self.jobs.remove(&number)
        {
            self.finished.push_back(Finished { number, failure, rejected });
        }
    }
}
