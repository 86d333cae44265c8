//! Drafting in isolation: documents are parsed and analysed on a thread beside the one that applies.
//!
//! What a document holds decides what drafting does, so a document may make it panic or never end. The
//! applying thread therefore only hands rows over and waits, with a limit for each operation. When a row
//! comes to grief, its operations are drafted one by one on a fresh thread: the one that panics again, or
//! does not end again, is poison, and the replica stops before it.
//!
//! ```text
//! apply thread   | row 1: wait | write row 1        | write row 2        | …
//! draft thread   | draft row 1 | draft row 2        | draft row 3        | …
//! ```
//!
//! One hand-over per row, not per operation. A thread that does not come back is left behind and counted;
//! it cannot be ended, so their number is bounded.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use trawl_proto::v1::operation::Kind;
use trawl_proto::v1::{Batch, Operation, OperationError};

use super::draft::Draft;
use super::fault::Fault;
use super::layout::Layout;
use super::panic_message;
use super::tokens::Analyzers;
use crate::error::Error;

/// Looks at a row's progress until one operation counts as hung. Counting looks instead of time keeps a
/// process that was paused from taking its own pause for a hang.
const LOOKS_MAX: u32 = 20;
/// Rows that wait for the thread: the one at hand, and one that was drafted ahead in vain.
const QUEUED_MAX: usize = 2;

/// How drafting is bounded; shared by all replicas of a leaf.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long one operation may take.
    pub time_max: Duration,
    /// Threads that may be left behind.
    pub abandoned_max: usize,
    /// Threads that are left behind now.
    pub abandoned: Gauge,
    /// Make operations panic or hang, for tests.
    pub faults: Arc<[Fault]>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { time_max: Duration::from_secs(10), abandoned_max: 8, abandoned: Gauge::default(), faults: Arc::new([]) }
    }
}

/// What drafting an operation gave; `None` for one that has no document of its own or is skipped.
pub type Drafted = Option<Result<Draft, OperationError>>;

/// Why a row cannot be drafted.
#[derive(Debug)]
pub enum Failure {
    /// This operation of the row (by its place) is poison, and why.
    Poison(usize, String),
    /// Drafting as such is not possible.
    Error(Error),
}

/// A row in the works.
pub struct Ticket {
    row: Arc<Row>,
    done: Arc<AtomicUsize>,
    /// Behind a lock only so that whoever owns a ticket may be shared.
    reply: Mutex<Receiver<Vec<Attempt>>>,
}

/// What is drafted: operations of one row, with one layout.
struct Row {
    layout: Arc<Layout>,
    batch: Arc<Batch>,
    /// Places of operations that are left out.
    skipped: Vec<usize>,
}

/// An operation's draft, or the message of its panic.
type Attempt = Result<Drafted, String>;

/// Hands rows to a drafting thread. The thread is started when it is first needed.
pub struct Drafter {
    limits: Limits,
    thread: Option<Thread>,
    stalled: Option<Stalled>,
}

/// Called when an operation is taking long.
pub type Stalled = Box<dyn FnOnce() + Send + Sync>;

impl Drafter {
    /// Without a thread yet.
    pub fn new(limits: Limits) -> Self {
        Self { limits, thread: None, stalled: None }
    }

    /// Ends the thread; it is started again when needed.
    pub fn rest(&mut self) {
        self.thread = None;
    }

    /// What to do, once, when an operation is taking long.
    pub fn when_stalled(&mut self, stalled: Stalled) {
        self.stalled = Some(stalled);
    }

    /// Begins to draft a row.
    pub fn begin(&mut self, layout: &Arc<Layout>, batch: &Arc<Batch>, skipped: Vec<usize>) -> Result<Ticket, Error> {
        self.submit(Arc::new(Row { layout: layout.clone(), batch: batch.clone(), skipped }), 0..batch.operations.len())
    }

    /// Waits for a row. What `skip` says of a place counts also when it has become true only since the
    /// row was begun.
    pub fn finish(&mut self, ticket: Ticket, skip: impl Fn(usize) -> bool) -> Result<Vec<Drafted>, Failure> {
        let mut drafts = Vec::with_capacity(ticket.row.batch.operations.len());
        // How often the operation at the place after `drafts` has panicked or hung.
        let mut failed = 0;
        match self.wait(&ticket) {
            Some(attempts) => {
                drafts.extend(attempts.into_iter().map_while(Result::ok));
                if drafts.len() == ticket.row.batch.operations.len() {
                    return Ok(drafts);
                }
                failed += 1;
            }
            None => self.abandon(),
        }
        self.thread = None;
        tracing::warn!(at = drafts.len(), "a row cannot be drafted as a whole, its operations are drafted one by one");
        while drafts.len() < ticket.row.batch.operations.len() {
            let at = drafts.len();
            if skip(at) {
                drafts.push(None);
                failed = 0;
                continue;
            }
            let alone = self.submit(ticket.row.clone(), at..at + 1).map_err(Failure::Error)?;
            match self.wait(&alone).map(|mut attempts| attempts.pop().unwrap_or(Ok(None))) {
                Some(Ok(drafted)) => {
                    drafts.push(drafted);
                    failed = 0;
                }
                Some(Err(reason)) => {
                    failed += 1;
                    self.thread = None;
                    if failed > 1 {
                        return Err(Failure::Poison(at, format!("drafting the document panicked: {reason}")));
                    }
                }
                None => {
                    self.abandon();
                    let limit = self.limits.time_max;
                    return Err(Failure::Poison(at, format!("drafting the document did not end within {limit:?}")));
                }
            }
        }
        Ok(drafts)
    }

    fn submit(&mut self, row: Arc<Row>, places: std::ops::Range<usize>) -> Result<Ticket, Error> {
        let thread = match &mut self.thread {
            Some(thread) => thread,
            thread => thread.insert(Thread::start(&self.limits)?),
        };
        let (sender, reply) = sync_channel(1);
        let done = Arc::new(AtomicUsize::new(0));
        let job = Job { row: row.clone(), places, done: done.clone(), reply: sender };
        // A thread that has ended or is stuck takes nothing; the reply's sender goes with the job, and
        // waiting for the ticket finds that out.
        let _ = thread.jobs.try_send(job);
        Ok(Ticket { row, done, reply: Mutex::new(reply) })
    }

    /// The reply; `None` when the operation at work does not end.
    fn wait(&mut self, ticket: &Ticket) -> Option<Vec<Attempt>> {
        let look = (self.limits.time_max / LOOKS_MAX).max(Duration::from_millis(1));
        let (mut seen, mut looks) = (0, 0);
        let reply = ticket.reply.lock();
        while looks < LOOKS_MAX {
            match reply.recv_timeout(look) {
                Ok(attempts) => return Some(attempts),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let done = ticket.done.load(Ordering::Relaxed);
            looks = if done == seen { looks + 1 } else { 0 };
            seen = done;
            if looks > 0
                && let Some(stalled) = self.stalled.take()
            {
                stalled();
            }
        }
        None
    }

    /// Leaves the thread behind.
    fn abandon(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.life.abandon();
        }
    }
}

/// A drafting thread. It ends when this is dropped and its rows are done.
struct Thread {
    jobs: SyncSender<Job>,
    life: Arc<Life>,
}

struct Job {
    row: Arc<Row>,
    places: std::ops::Range<usize>,
    /// Operations done so far.
    done: Arc<AtomicUsize>,
    reply: SyncSender<Vec<Attempt>>,
}

impl Thread {
    fn start(limits: &Limits) -> Result<Self, Error> {
        let count = limits.abandoned.get();
        if usize::try_from(count).unwrap_or(0) >= limits.abandoned_max {
            return Err(Error::Abandoned { count });
        }
        let (jobs, received) = sync_channel::<Job>(QUEUED_MAX);
        let life = Arc::new(Life {
            abandoned: limits.abandoned.clone(),
            state: Mutex::default(),
            left: AtomicBool::new(false),
        });
        let (own, faults) = (life.clone(), limits.faults.clone());
        let body = move || {
            let mut analyzers = Analyzers::default();
            while let Ok(job) = received.recv() {
                job.run(&mut analyzers, &faults, &own.left);
            }
            own.end();
        };
        let spawned = std::thread::Builder::new().name("draft".to_owned()).spawn(body);
        spawned.map_err(Error::io("start", "a drafting thread"))?;
        Ok(Self { jobs, life })
    }
}

impl Job {
    /// Stops at the first panic.
    fn run(self, analyzers: &mut Analyzers, faults: &[Fault], left: &AtomicBool) {
        let mut attempts = Vec::with_capacity(self.places.len());
        for place in self.places {
            if left.load(Ordering::Relaxed) {
                return;
            }
            let attempt = match self.row.batch.operations.get(place) {
                Some(operation) if !self.row.skipped.contains(&place) => {
                    let draft = AssertUnwindSafe(|| draft(&self.row.layout, operation, analyzers, faults));
                    catch_unwind(draft).map_err(|panic| panic_message(panic.as_ref()))
                }
                _ => Ok(None),
            };
            let panicked = attempt.is_err();
            attempts.push(attempt);
            self.done.fetch_add(1, Ordering::Relaxed);
            if panicked {
                *analyzers = Analyzers::default();
                break;
            }
        }
        // Nobody waits for a thread that was left behind.
        let _ = self.reply.send(attempts);
    }
}

/// Drafts one operation.
fn draft(layout: &Layout, operation: &Operation, analyzers: &mut Analyzers, faults: &[Fault]) -> Drafted {
    faults.iter().for_each(|fault| fault.strike(&operation.source));
    match operation.kind() {
        Kind::Index | Kind::Create => Some(Draft::parse(layout, &operation.id, &operation.source, analyzers)),
        _ => None,
    }
}

/// Counts a thread for as long as it is left behind and runs.
struct Life {
    abandoned: Gauge,
    state: Mutex<LifeState>,
    left: AtomicBool,
}

#[derive(Default)]
struct LifeState {
    ended: bool,
    abandoned: bool,
}

impl Life {
    fn abandon(&self) {
        let mut state = self.state.lock();
        self.left.store(true, Ordering::Relaxed);
        if !state.ended {
            state.abandoned = true;
            self.abandoned.inc();
        }
    }

    fn end(&self) {
        let mut state = self.state.lock();
        state.ended = true;
        if state.abandoned {
            self.abandoned.dec();
        }
    }
}

#[cfg(test)]
mod tests;
