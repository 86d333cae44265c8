//! The loader: reads inputs and sends them to an index in bulk, in bounded memory, each document exactly once.
//!
//! ```text
//! readers --chunks--> load --batches--> send (several at once) --> POST /{index}/_bulk
//! ```
//!
//! Exactly once rests on three things: every document has an id of its own before it is sent, every batch carries an
//! `Idempotency-Key`, so that sending it again is safe, and two operations on one id are never on their way at once, so that
//! the later one wins as in the input.

mod backoff;
mod batch;
mod bulk;
mod client;
mod console;
mod index;
mod pipeline;
mod report;
mod send;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::readers::{Event, FaultKind, Format, Input, Opened, ReadOptions, read};

pub use client::{Client, ClientError, Reply};
pub use console::Console;
pub use report::{Observer, Progress, Quiet, Rejection, Report};

use index::Preparation;
use pipeline::Pipeline;

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
    /// A thread or task of the loader itself failed.
    #[error("the loader failed: {0}")]
    Internal(String),
}

impl LoadError {
    /// What was loaded before the error.
    pub fn report(&self) -> Option<&Report> {
        match self {
            Self::GaveUp { report, .. } | Self::Refused { report, .. } => Some(report),
            _ => None,
        }
    }
}

/// Loads all inputs into the index.
///
/// 1. Connects, and asks whether the index exists and what types its fields have.
/// 2. Reads; at the first document creates the index if it is missing, with a mapping that fits.
/// 3. Gathers documents into batches and sends several of them at once, retrying what is refused for now.
/// 4. Waits for the last batch, refreshes if asked to, and reports.
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
    let mut preparation = Preparation::begin(&client, &options, observer).await?;

    let read_options = ReadOptions {
        format: options.format,
        id_field: options.id_field.clone(),
        record_bytes_max: options.record_bytes_max,
        field_types: preparation.field_types(),
    };
    let mut reading =
        read(options.inputs.clone(), read_options).map_err(|error| LoadError::Internal(error.to_string()))?;
    let mut pipeline = Pipeline::new(client.clone(), &options, observer, &reading, started);

    loop {
        tokio::select! {
            chunk = reading.events.recv() => match chunk {
                Some(events) => {
                    for event in events {
                        step(event, &mut preparation, &mut pipeline).await?;
                    }
                }
                None => break,
            },
            turn = pipeline.turn() => turn?,
        }
    }
    pipeline.finish().await?;
    if !reading.ended_well() {
        return Err(LoadError::Internal("the reading thread panicked; what it read before is loaded".to_owned()));
    }
    let mut report = pipeline.into_report();
    if options.refresh && preparation.exists() {
        report = preparation.refresh(report).await?;
    }
    report.elapsed = started.elapsed();
    Ok(report)
}

async fn step(event: Event, preparation: &mut Preparation<'_>, pipeline: &mut Pipeline<'_>) -> Result<(), LoadError> {
    match event {
        Event::Opened(opened) => {
            let Opened { file, format, compression, mapping } = *opened;
            preparation.ensure_index(&mapping).await?;
            pipeline.observer().opened(&file, format, compression);
        }
        Event::Record(record) => pipeline.add(record).await?,
        Event::Fault(fault) => {
            let rejection =
                Rejection { place: fault.place, kind: FaultKind::name(fault.kind).to_owned(), reason: fault.reason };
            pipeline.reject(rejection);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
