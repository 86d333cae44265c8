//! From documents to batches on their way: how many at once, and which must wait for which.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Interval;

use super::batch::{Batch, Builder};
use super::client::Client;
use super::report::{Observer, Progress, Rejection, Report};
use super::send::{Failure, Outcome, Sender};
use super::{LoadError, LoadOptions};
use crate::readers::{Reading, Record};

/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);
/// Pauses that wait to be told.
const PAUSES_MAX: usize = 64;

pub(super) struct Pipeline<'o> {
    observer: &'o dyn Observer,
    sender: Sender,
    builder: Builder,
    concurrency: usize,
    on_the_way: JoinSet<Outcome>,
    /// How many batches on their way hold a document of this id; bounded by what is on its way.
    ids_on_the_way: HashMap<u64, u32>,
    pauses: mpsc::Receiver<(String, Duration)>,
    report: Report,
    started: Instant,
    bytes_read: Arc<AtomicU64>,
    bytes_total: Option<u64>,
    ticks: Interval,
}

impl<'o> Pipeline<'o> {
    pub(super) fn new(
        client: Client,
        options: &LoadOptions,
        observer: &'o dyn Observer,
        reading: &Reading,
        started: Instant,
    ) -> Self {
        let (sender, pauses) = mpsc::channel(PAUSES_MAX);
        Self {
            observer,
            sender: Sender {
                client,
                index: options.index.clone(),
                run: format!("load-{:032x}", rand::random::<u128>()),
                retry_for: options.retry_for,
                pauses: sender,
            },
            builder: Builder::new(options.batch_bytes, options.batch_documents),
            concurrency: options.concurrency.get(),
            on_the_way: JoinSet::new(),
            ids_on_the_way: HashMap::new(),
            pauses,
            report: Report::default(),
            started,
            bytes_read: reading.bytes_read.clone(),
            bytes_total: reading.bytes_total,
            ticks: tokio::time::interval(PROGRESS_EVERY),
        }
    }

    pub(super) fn observer(&self) -> &'o dyn Observer {
        self.observer
    }

    /// Adds a document; waits while as many batches are on their way as may be.
    pub(super) async fn add(&mut self, record: Record) -> Result<(), LoadError> {
        if self.builder.is_full_for(&record) {
            self.flush().await?;
        }
        self.builder.add(record);
        Ok(())
    }

    /// Counts and tells a rejection.
    pub(super) fn reject(&mut self, rejection: Rejection) {
        self.observer.rejected(&rejection);
        *self.report.rejected.entry(rejection.kind).or_default() += 1;
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

    /// Sends what is left and waits for everything.
    pub(super) async fn finish(&mut self) -> Result<(), LoadError> {
        self.flush().await?;
        while !self.on_the_way.is_empty() {
            self.turn().await?;
        }
        self.tell_progress();
        Ok(())
    }

    pub(super) fn into_report(self) -> Report {
        self.report
    }

    async fn flush(&mut self) -> Result<(), LoadError> {
        let Some(batch) = self.builder.take() else { return Ok(()) };
        while self.on_the_way.len() >= self.concurrency || self.must_wait(&batch) {
            self.turn().await?;
        }
        for item in batch.items.iter().filter(|item| item.id_hash != 0) {
            *self.ids_on_the_way.entry(item.id_hash).or_default() += 1;
        }
        self.on_the_way.spawn(self.sender.clone().send(batch));
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
        self.report.loaded += outcome.loaded;
        self.report.replaced += outcome.replaced;
        self.report.bytes_loaded += outcome.bytes_loaded;
        self.report.retries += outcome.retries;
        for rejection in outcome.rejected {
            self.reject(rejection);
        }
        let Some(failure) = outcome.failure else { return Ok(()) };
        self.report.elapsed = self.started.elapsed();
        let report = Box::new(self.report.clone());
        Err(match failure {
            Failure::GaveUp { tried, last } => LoadError::GaveUp { tried, last, report },
            Failure::Refused { status, reason } => {
                LoadError::Refused { what: "a batch".to_owned(), status, reason, report }
            }
        })
    }

    fn tell_progress(&self) {
        self.observer.progress(&Progress {
            loaded: self.report.loaded,
            rejected: self.report.rejected_total(),
            bytes_read: self.bytes_read.load(Ordering::Relaxed),
            bytes_total: self.bytes_total,
            bytes_loaded: self.report.bytes_loaded,
            elapsed: self.started.elapsed(),
        });
    }
}
