//! The loader: reads inputs and sends them to an index in bulk, in bounded memory, each document exactly once.
//!
//! ```text
//! readers --chunks--> load --batches--> send (several at once) --> POST /{index}/_bulk
//! ```
//!
//! Exactly once rests on three things: every document has an id of its own before it is sent, every batch carries an
//! `Idempotency-Key`, so that sending it again is safe, and two operations on one id are never on their way at once, so that
//! the later one wins as in the input.
//!
//! A load can be interrupted and goes on (`resume`); or it is cut into tasks ([`enqueue()`]) that any number of workers
//! ([`work`]) carry out. All three send through the same pipeline.

mod backoff;
mod batch;
mod bulk;
mod client;
mod console;
mod enqueue;
mod hold;
mod index;
mod job;
mod pipeline;
pub mod queue;
mod report;
mod resume;
mod retake;
mod send;
mod task;
mod worker;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::readers::{Event, Format, Input, Opened, can_be_cut, read};

pub use client::{Client, ClientError, Reply};
pub use console::Console;
pub use enqueue::{EnqueueOptions, Enqueued, enqueue};
pub use report::{Observer, Progress, Quiet, Rejection, Report, counted};
pub use task::{LoadTask, Rejected, Tally};
pub use worker::{WorkReport, WorkerOptions, work};

use index::Preparation;
use job::Job;
use pipeline::Pipeline;
use resume::Attempt;
use send::Failure;

/// What to load, where to, and how.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Where the cluster answers HTTP.
    pub endpoint: String,
    /// The index; created if it does not exist.
    pub index: String,
    /// What to read, in this order.
    pub inputs: Vec<Input>,
    /// The format of the inputs.
    pub format: Format,
    /// The field that holds each document's id.
    pub id_field: Option<String>,
    /// The longest document, in bytes; default 10 MiB.
    pub record_bytes_max: usize,
    /// Size of a batch, in bytes; default 1 MiB. A longer document travels alone.
    pub batch_bytes: usize,
    /// Documents in a batch at most; default 5,000.
    pub batch_documents: usize,
    /// Batches on their way at once; default 4.
    pub concurrency: NonZeroUsize,
    /// Shards of a new index; default: as many as the cluster has leaves.
    pub shards: Option<u32>,
    /// Extra replicas of a new index; default: what the cluster gives.
    pub replicas: Option<u32>,
    /// The mapping of a new index (the object under `mappings`, or the whole body of its creation); added to an index
    /// that exists. Default: one that fits the format.
    pub mapping: Option<serde_json::Value>,
    /// Make the documents visible to searches before returning.
    pub refresh: bool,
    /// How long to go on trying when the cluster is busy or away; default 5 minutes.
    pub retry_for: Duration,
    /// How long one request may take before it is sent again; default 60 s.
    pub request_timeout: Duration,
    /// How long the claim on this load lasts without being extended; default 10 s. After a `kill -9` the same load waits
    /// for so long at most.
    pub claim_time: Duration,
    /// Ends loading early, with [`LoadError::Interrupted`].
    pub stop: CancellationToken,
}

impl LoadOptions {
    /// Options with every default.
    pub fn new(endpoint: impl Into<String>, index: impl Into<String>, inputs: Vec<Input>) -> Self {
        Self {
            endpoint: endpoint.into(),
            index: index.into(),
            inputs,
            format: Format::Auto,
            id_field: None,
            record_bytes_max: 10 * 1024 * 1024,
            batch_bytes: 1024 * 1024,
            batch_documents: 5_000,
            concurrency: NonZeroUsize::MIN.saturating_add(3),
            shards: None,
            replicas: None,
            mapping: None,
            refresh: false,
            retry_for: Duration::from_secs(300),
            request_timeout: Duration::from_secs(60),
            claim_time: Duration::from_secs(10),
            stop: CancellationToken::new(),
        }
    }

    /// The files named on a command line; `-` is standard input.
    pub fn inputs_from(files: &[PathBuf]) -> Vec<Input> {
        files.iter().map(|file| file.to_str().map_or_else(|| Input::Path(file.clone()), Input::from_argument)).collect()
    }
}

/// Why loading ended early. What was acknowledged until then is loaded and stays so.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Nothing answers at the endpoint.
    #[error("cannot connect to {endpoint}: is a cluster running there? `trawl up` starts one")]
    CannotConnect {
        /// The endpoint.
        endpoint: String,
        /// Why.
        source: ClientError,
    },
    /// The endpoint is no URL, or the client cannot be built.
    #[error("cannot use the endpoint: {0}")]
    BadEndpoint(String),
    /// The cluster was busy or away for as long as was to be tried.
    #[error("gave up after trying for {} s: {last}", tried.as_secs())]
    GaveUp {
        /// How long.
        tried: Duration,
        /// The last answer or failure.
        last: String,
        /// What was loaded until then.
        report: Box<Report>,
    },
    /// The cluster refused a request for a reason that trying again does not cure.
    #[error("{what} was refused with status {status}: {reason}")]
    Refused {
        /// Which request.
        what: String,
        /// The HTTP status.
        status: u16,
        /// The error in the answer.
        reason: String,
        /// What was loaded until then.
        report: Box<Report>,
    },
    /// An input that this way of loading cannot take.
    #[error("{0}")]
    BadInput(String),
    /// The work queue refuses, or is not there.
    #[error("the work queue: {0}")]
    Queue(#[source] queue::QueueError),
    /// It was told to end.
    #[error("interrupted")]
    Interrupted {
        /// What was loaded until then.
        report: Box<Report>,
    },
    /// The claim on the load ran out, and it cannot be taken up again.
    #[error("{reason}")]
    ClaimLost {
        /// Who has it now, or what became of it.
        reason: String,
        /// What was loaded until then.
        report: Box<Report>,
    },
    /// A thread or task of the loader itself failed.
    #[error("the loader failed: {0}")]
    Internal(String),
}

impl LoadError {
    /// What was loaded before the error.
    pub fn report(&self) -> Option<&Report> {
        match self {
            Self::GaveUp { report, .. }
            | Self::Refused { report, .. }
            | Self::Interrupted { report }
            | Self::ClaimLost { report, .. } => Some(report),
            _ => None,
        }
    }

    fn claim_lost(report: Box<Report>) -> Self {
        Self::ClaimLost { reason: "the claim on this load ran out".to_owned(), report }
    }

    fn of(failure: Failure, report: Box<Report>) -> Self {
        match failure {
            Failure::GaveUp { tried, last } => Self::GaveUp { tried, last, report },
            Failure::Refused { status, reason } => Self::Refused { what: "a batch".to_owned(), status, reason, report },
            Failure::ClaimLost => Self::claim_lost(report),
        }
    }
}

/// Loads all inputs into the index.
///
/// 1. Connects, and asks whether the index exists and what types its fields have.
/// 2. Files that can be read again are loaded through a task of the cluster's queue, so that an interrupted load goes on
///    where it was; what comes through a pipe, or where there is no queue, is loaded directly.
/// 3. Refreshes if asked to, and reports.
///
/// Rejected documents are not an error: they are told to the observer one by one and counted in the report.
///
/// # Errors
/// When the cluster cannot be reached, refuses the index or a batch as a whole, or stays busy for too long.
///
/// # Cancel safety
/// Dropping the future ends reading and sending; what was acknowledged is loaded. Loading the same inputs again replaces it.
pub async fn load(options: LoadOptions, observer: &dyn Observer) -> Result<Report, LoadError> {
    let started = Instant::now();
    let client = Client::new(&options.endpoint, options.request_timeout)?;
    let begun = options.stop.run_until_cancelled(Preparation::begin(&client, &options, observer)).await;
    let Some(begun) = begun else { return Err(LoadError::Interrupted { report: Box::default() }) };
    let mut preparation = begun?;
    let attempt = match options.inputs.iter().all(can_be_cut) {
        true => resume::load(&client, &options, &mut preparation, observer, started).await?,
        false => Attempt::NoQueue,
    };
    let mut report = match attempt {
        Attempt::Loaded(report) => report,
        Attempt::NoQueue => directly(&client, &options, &mut preparation, observer, started).await?,
    };
    if options.refresh && preparation.exists() {
        report = preparation.refresh(report).await?;
    }
    report.elapsed = started.elapsed();
    Ok(report)
}

/// Loads without noting how far it is:
/// 1. reads; at the first document creates the index if it is missing, with a mapping that fits,
/// 2. gathers documents into batches and sends several of them at once, retrying what is refused for now,
/// 3. waits for the last batch.
async fn directly(
    client: &Client,
    options: &LoadOptions,
    preparation: &mut Preparation<'_>,
    observer: &dyn Observer,
    started: Instant,
) -> Result<Report, LoadError> {
    let mut reading = read(options.inputs.clone(), preparation.read_options())
        .map_err(|error| LoadError::Internal(error.to_string()))?;
    let mut pipeline = Pipeline::new(client.clone(), options.concurrency.get(), options.retry_for, observer, started);
    pipeline.measure(reading.bytes_read.clone(), reading.bytes_total);
    pipeline.begin(Arc::new(Job {
        index: options.index.clone(),
        // Unique to this run: a message of an earlier run must not be taken for one of this.
        key: format!("load-{:032x}", rand::random::<u128>()),
        claim: None,
        batch_bytes: options.batch_bytes,
        batch_documents: options.batch_documents,
        progress: Arc::default(),
    }));
    loop {
        tokio::select! {
            chunk = reading.events.recv() => match chunk {
                Some(events) => {
                    for event in events {
                        step(event, preparation, &mut pipeline).await?;
                    }
                }
                None => break,
            },
            turn = pipeline.turn() => turn?,
            () = options.stop.cancelled() => {
                return Err(LoadError::Interrupted { report: Box::new(pipeline.report()) });
            }
        }
        check(&mut pipeline)?;
    }
    pipeline.close().await?;
    while !pipeline.is_idle() {
        pipeline.turn().await?;
    }
    check(&mut pipeline)?;
    pipeline.tell_progress();
    if !reading.ended_well() {
        return Err(LoadError::Internal("the reading thread panicked; what it read before is loaded".to_owned()));
    }
    Ok(pipeline.report())
}

/// Fails when a batch has failed.
fn check(pipeline: &mut Pipeline<'_>) -> Result<(), LoadError> {
    match pipeline.finished().and_then(|finished| finished.failure) {
        Some(failure) => Err(LoadError::of(failure, Box::new(pipeline.report()))),
        None => Ok(()),
    }
}

async fn step(event: Event, preparation: &mut Preparation<'_>, pipeline: &mut Pipeline<'_>) -> Result<(), LoadError> {
    match event {
        Event::Opened(opened) => {
            let Opened { file, format, compression, mapping } = *opened;
            preparation.ensure_index(&mapping).await?;
            pipeline.observer().opened(&file, format, compression);
        }
        Event::Record(record) => pipeline.add(record).await?,
        Event::Fault(fault) => pipeline.fault(fault),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
