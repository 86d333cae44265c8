//! Cuts inputs into tasks and pushes them, for workers to carry out.
//!
//! Small whole files share a task, in the order in which they are found; a part of a long file is a task of its own.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::client::Client;
use super::index::{self, Preparation};
use super::queue::{KIND, Push, QueueError, TaskQueue};
use super::report::Observer;
use super::task::{FORMAT, LoadTask};
use super::{LoadError, LoadOptions};
use crate::readers::{Cut, CutOptions, Fault, Input, Piece, can_be_cut, cut};

/// Tasks that are pushed together.
const PUSH_MAX: usize = 64;
/// Files that share a task.
const FILES_MAX: usize = 1_000;
/// Size of a task's body, roughly; the queue takes 1 MiB.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// How to enqueue.
#[derive(Clone, Debug)]
pub struct EnqueueOptions {
    /// What to load, where to and how.
    pub load: LoadOptions,
    /// Size of a task, in stored bytes; default 16 MiB.
    pub task_bytes: u64,
    /// Attempts before a task is dead; default 5.
    pub attempts_max: NonZeroU32,
    /// Push tasks also when equal ones are in the queue or were done.
    pub again: bool,
}

impl EnqueueOptions {
    /// Options with every default.
    pub fn new(load: LoadOptions) -> Self {
        let attempts_max = NonZeroU32::MIN.saturating_add(4);
        Self { load, task_bytes: CutOptions::default().piece_bytes, attempts_max, again: false }
    }
}

/// What was enqueued.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enqueued {
    /// Files and objects with something in them.
    pub files: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// Tasks they were cut into.
    pub tasks: u64,
    /// Of these, tasks that were not in the queue yet.
    pub added: u64,
    /// Files that could not be read.
    pub unread: u64,
}

/// Cuts the inputs and pushes their tasks. The index is made first if it is missing.
///
/// # Errors
/// When the cluster cannot be reached or refuses the index, or the queue stays full or away for too long. What was pushed
/// until then is in the queue; pushing the rest by doing it again adds nothing twice.
pub async fn enqueue(
    queue: &dyn TaskQueue,
    client: &Client,
    options: &EnqueueOptions,
    observer: &dyn Observer,
) -> Result<Enqueued, LoadError> {
    let load = &options.load;
    if let Some(input) = load.inputs.iter().find(|input| !can_be_cut(input)) {
        let name = if matches!(input, Input::Stdin) { "standard input" } else { "an input in memory" };
        let reason = format!("{name} cannot be read again by a worker: only files, directories and URLs can");
        return Err(LoadError::BadInput(reason));
    }
    let mut preparation = Preparation::begin(client, load, observer).await?;
    let read = preparation.read_options();
    let mut cutting = cut(load.inputs.clone(), CutOptions { read, piece_bytes: options.task_bytes })
        .map_err(|error| LoadError::Internal(error.to_string()))?;
    let mut enqueuing = Enqueuing {
        queue,
        options,
        observer,
        uid: String::new(),
        again: options.again.then(|| format!("{:016x}", rand::random::<u64>())),
        gathered: Vec::new(),
        gathered_bytes: (0, 0),
        waiting: VecDeque::new(),
        enqueued: Enqueued::default(),
    };
    let before = enqueuing.total().await?;
    while let Some(cut) = cutting.cuts.recv().await {
        match cut {
            Cut::Opened(opened) => {
                preparation.ensure_index(&opened.mapping).await?;
                if enqueuing.uid.is_empty() {
                    let uid = index::uid(client, &load.index).await.map_err(LoadError::Internal)?;
                    enqueuing.uid = uid.unwrap_or_default();
                }
                observer.opened(&opened.file, opened.format, opened.compression);
                enqueuing.enqueued.files += 1;
            }
            // A compressed nothing has no content that would make the index.
            Cut::Piece(_) if enqueuing.uid.is_empty() => {}
            Cut::Piece(piece) => enqueuing.piece(*piece).await?,
            Cut::Fault(fault) => enqueuing.fault(fault),
        }
        if load.stop.is_cancelled() {
            return Err(LoadError::Interrupted { report: Box::default() });
        }
    }
    enqueuing.gather();
    enqueuing.push(0).await?;
    if !cutting.ended_well() {
        return Err(LoadError::Internal("the cutting thread panicked".to_owned()));
    }
    let added = enqueuing.total().await?.saturating_sub(before);
    Ok(Enqueued { added: added.min(enqueuing.enqueued.tasks), ..enqueuing.enqueued })
}

struct Enqueuing<'a> {
    queue: &'a dyn TaskQueue,
    options: &'a EnqueueOptions,
    observer: &'a dyn Observer,
    uid: String,
    again: Option<String>,
    /// Whole files that share the next task; their stored bytes, and those that they take in its body.
    gathered: Vec<Piece>,
    gathered_bytes: (u64, usize),
    waiting: VecDeque<Push>,
    enqueued: Enqueued,
}

impl Enqueuing<'_> {
    async fn piece(&mut self, piece: Piece) -> Result<(), LoadError> {
        self.enqueued.bytes += piece.bytes();
        let body_bytes = piece.name.len() * 2 + 300 + piece.table.as_ref().map_or(0, |table| table.columns.len() * 64);
        let full = self.gathered_bytes.0 + piece.bytes() > self.options.task_bytes
            || self.gathered_bytes.1 + body_bytes > BODY_BYTES_MAX
            || self.gathered.len() >= FILES_MAX;
        if full || piece.range.is_some() {
            self.gather();
        }
        self.gathered_bytes.0 += piece.bytes();
        self.gathered_bytes.1 += body_bytes;
        let alone = piece.range.is_some();
        self.gathered.push(piece);
        if alone {
            self.gather();
        }
        self.push(PUSH_MAX).await
    }

    /// Makes a task of the files gathered.
    fn gather(&mut self) {
        let pieces = std::mem::take(&mut self.gathered);
        self.gathered_bytes = (0, 0);
        if pieces.is_empty() {
            return;
        }
        let load = &self.options.load;
        let task = LoadTask {
            format: FORMAT,
            index: load.index.clone(),
            uid: self.uid.clone(),
            pieces,
            id_field: load.id_field.clone(),
            record_bytes_max: load.record_bytes_max,
            batch_bytes: load.batch_bytes,
            batch_documents: load.batch_documents,
            again: self.again.clone(),
        };
        self.enqueued.tasks += 1;
        // A record of strings and numbers is always JSON.
        let body = serde_json::to_value(&task).unwrap_or_default();
        let attempts_max = self.options.attempts_max.get();
        self.waiting.push_back(Push { key: Some(task.key()), body, attempts_max });
    }

    /// Pushes what waits, when there are as many tasks as `least` at least.
    async fn push(&mut self, least: usize) -> Result<(), LoadError> {
        while self.waiting.len() >= least.max(1) {
            let mut tasks: Vec<Push> = Vec::new();
            let mut bytes = 0;
            while let Some(task) = self.waiting.front()
                && tasks.len() < PUSH_MAX
                && (tasks.is_empty() || bytes < 4 * BODY_BYTES_MAX)
            {
                bytes += task.body.to_string().len();
                tasks.extend(self.waiting.pop_front());
            }
            let queue = self.queue;
            self.retried(async || queue.push(KIND, tasks.clone()).await).await?;
        }
        Ok(())
    }

    async fn total(&self) -> Result<u64, LoadError> {
        let queue = self.queue;
        Ok(self.retried(async || queue.counts(KIND).await).await?.total())
    }

    /// Asks the queue until it answers.
    async fn retried<T>(&self, ask: impl AsyncFn() -> Result<T, QueueError>) -> Result<T, LoadError> {
        let mut backoff = Backoff::new(self.options.load.retry_for);
        loop {
            let (reason, retry_after) = match ask().await {
                Ok(answer) => return Ok(answer),
                Err(QueueError::Unavailable { reason, retry_after }) => (reason, retry_after),
                Err(error) => return Err(LoadError::Queue(error)),
            };
            match backoff.pause(Instant::now(), retry_after) {
                Ok(pause) => {
                    self.observer.retrying(&reason, pause);
                    tokio::time::sleep(pause.max(Duration::from_millis(10))).await;
                }
                Err(give_up) => {
                    return Err(LoadError::GaveUp { tried: give_up.tried, last: reason, report: Box::default() });
                }
            }
        }
    }

    fn fault(&mut self, fault: Fault) {
        self.enqueued.unread += 1;
        self.observer.unread(&fault.place, &fault.reason);
    }
}
