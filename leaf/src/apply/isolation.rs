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
/// The same for an operation that the thread has not begun: it may only wait for its turn on a busy machine,
/// or for the thread's last row.
const LOOKS_BEFORE_MAX: u32 = 10 * LOOKS_MAX;
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

/// Work in the works: some steps, each of which may come to grief.
pub struct Ticket<T> {
    step: Step<T>,
    steps: usize,
    progress: Arc<Progress>,
    /// Behind a lock only so that whoever owns a ticket may be shared.
    reply: Mutex<Receiver<Vec<Attempt<T>>>>,
}

/// How many steps have begun, and how many have come to an end.
#[derive(Default)]
struct Progress {
    begun: AtomicUsize,
    done: AtomicUsize,
}

/// One step of the work, by its number.
type Step<T> = Arc<dyn Fn(usize, &mut Tools<'_>) -> T + Send + Sync>;

/// What came of a step, or the message of its panic.
type Attempt<T> = Result<T, String>;

/// What a drafting thread has at hand.
pub struct Tools<'a> {
    /// Analysers that have been used before.
    pub analyzers: &'a mut Analyzers,
    faults: &'a [Fault],
}

impl Tools<'_> {
    /// Panics or hangs when a test wants this document to.
    pub fn strike(&self, source: &[u8]) {
        self.faults.iter().for_each(|fault| fault.strike(source));
    }
}

/// Hands work to a drafting thread. The thread is started when it is first needed.
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

    /// Its bounds.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Ends the thread; it is started again when needed.
    pub fn rest(&mut self) {
        self.thread = None;
    }

    /// What to do, once, when an operation is taking long.
    pub fn when_stalled(&mut self, stalled: Stalled) {
        self.stalled = Some(stalled);
    }

    /// Begins to draft a row, but for the operations at the places that are skipped.
    pub fn begin(
        &mut self,
        layout: &Arc<Layout>,
        batch: &Arc<Batch>,
        skipped: Vec<usize>,
    ) -> Result<Ticket<Drafted>, Error> {
        let (layout, steps, batch) = (layout.clone(), batch.operations.len(), batch.clone());
        let step: Step<Drafted> = Arc::new(move |place, tools| match batch.operations.get(place) {
            Some(operation) if !skipped.contains(&place) => draft(&layout, operation, tools),
            _ => None,
        });
        self.submit(step, 0..steps, steps)
    }

    /// Waits for a row. What `skip` says of a place counts also when it has become true only since the
    /// row was begun.
    pub fn finish(&mut self, ticket: Ticket<Drafted>, skip: impl Fn(usize) -> bool) -> Result<Vec<Drafted>, Failure> {
        self.complete(ticket, |place| skip(place).then_some(None))
    }

    /// Does one thing in isolation and waits for it.
    pub fn alone<T: Send + 'static>(
        &mut self,
        work: impl Fn(&mut Tools<'_>) -> T + Send + Sync + 'static,
    ) -> Result<T, Failure> {
        let ticket = self.submit(Arc::new(move |_, tools| work(tools)), 0..1, 1).map_err(Failure::Error)?;
        let done = self.complete(ticket, |_| None)?.pop();
        done.ok_or_else(|| Failure::Error(Error::Unreadable("drafting came to nothing".to_owned())))
    }

    fn complete<T: Send + 'static>(
        &mut self,
        ticket: Ticket<T>,
        skip: impl Fn(usize) -> Option<T>,
    ) -> Result<Vec<T>, Failure> {
        let mut drafts = Vec::with_capacity(ticket.steps);
        // How often the step after those in `drafts` has panicked.
        let mut panics = 0;
        match self.wait(&ticket) {
            Some(attempts) => {
                drafts.extend(attempts.into_iter().map_while(Result::ok));
                if drafts.len() == ticket.steps {
                    return Ok(drafts);
                }
                panics += 1;
            }
            None => self.abandon(),
        }
        self.thread = None;
        tracing::warn!(at = drafts.len(), "a row cannot be drafted as a whole, its operations are drafted one by one");
        while drafts.len() < ticket.steps {
            let at = drafts.len();
            if let Some(skipped) = skip(at) {
                drafts.push(skipped);
                panics = 0;
                continue;
            }
            let alone = self.submit(ticket.step.clone(), at..at + 1, 1).map_err(Failure::Error)?;
            match self.wait(&alone).and_then(|mut attempts| attempts.pop()) {
                Some(Ok(drafted)) => {
                    drafts.push(drafted);
                    panics = 0;
                }
                Some(Err(reason)) => {
                    panics += 1;
                    self.thread = None;
                    if panics > 1 {
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

    fn submit<T: Send + 'static>(
        &mut self,
        step: Step<T>,
        places: std::ops::Range<usize>,
        steps: usize,
    ) -> Result<Ticket<T>, Error> {
        let thread = match &mut self.thread {
            Some(thread) => thread,
            thread => thread.insert(Thread::start(&self.limits)?),
        };
        let (sender, reply) = sync_channel(1);
        let progress = Arc::<Progress>::default();
        let (own, counts) = (step.clone(), progress.clone());
        let job: Job = Box::new(move |tools, left| {
            if let Some(attempts) = attempt(own.as_ref(), places, &counts, tools, left) {
                // Nobody waits for a thread that was left behind.
                let _ = sender.send(attempts);
            }
        });
        // A thread that is stuck takes nothing; the reply's sender goes with the job, and waiting for the
        // ticket finds that out.
        let _ = thread.jobs.try_send(job);
        Ok(Ticket { step, steps, progress, reply: Mutex::new(reply) })
    }

    /// The reply; `None` when the operation at work does not end.
    fn wait<T>(&mut self, ticket: &Ticket<T>) -> Option<Vec<Attempt<T>>> {
        let look = (self.limits.time_max / LOOKS_MAX).max(Duration::from_millis(1));
        let (mut seen, mut looks) = ((0, 0), 0);
        let reply = ticket.reply.lock();
        loop {
            match reply.recv_timeout(look) {
                Ok(attempts) => return Some(attempts),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let begun = ticket.progress.begun.load(Ordering::Relaxed);
            let now = (begun, ticket.progress.done.load(Ordering::Relaxed));
            looks = if now == seen { looks + 1 } else { 0 };
            seen = now;
            if looks > 0
                && let Some(stalled) = self.stalled.take()
            {
                stalled();
            }
            let is_at_work = now.0 > now.1;
            if looks >= if is_at_work { LOOKS_MAX } else { LOOKS_BEFORE_MAX } {
                return None;
            }
        }
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

/// Work as the thread takes it, with whether the thread has been left behind meanwhile.
type Job = Box<dyn FnOnce(&mut Tools<'_>, &AtomicBool) + Send>;

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
                job(&mut Tools { analyzers: &mut analyzers, faults: &faults }, &own.left);
            }
            own.end();
        };
        let spawned = std::thread::Builder::new().name("draft".to_owned()).spawn(body);
        spawned.map_err(Error::io("start", "a drafting thread"))?;
        Ok(Self { jobs, life })
    }
}

/// Takes step after step until one panics; `None` when nobody wants to know any more.
fn attempt<T>(
    step: &(dyn Fn(usize, &mut Tools<'_>) -> T + Send + Sync),
    places: std::ops::Range<usize>,
    progress: &Progress,
    tools: &mut Tools<'_>,
    left: &AtomicBool,
) -> Option<Vec<Attempt<T>>> {
    let mut attempts = Vec::with_capacity(places.len());
    for place in places {
        if left.load(Ordering::Relaxed) {
            return None;
        }
        progress.begun.fetch_add(1, Ordering::Relaxed);
        let attempt = catch_unwind(AssertUnwindSafe(|| step(place, tools)));
        let attempt = attempt.map_err(|panic| panic_message(panic.as_ref()));
        let panicked = attempt.is_err();
        attempts.push(attempt);
        progress.done.fetch_add(1, Ordering::Relaxed);
        if panicked {
            *tools.analyzers = Analyzers::default();
            break;
        }
    }
    Some(attempts)
}

/// Drafts one operation.
fn draft(layout: &Layout, operation: &Operation, tools: &mut Tools<'_>) -> Drafted {
    tools.strike(&operation.source);
    match operation.kind() {
        Kind::Index | Kind::Create => Some(Draft::parse(layout, &operation.id, &operation.source, tools.analyzers)),
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
