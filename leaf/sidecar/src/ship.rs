//! The lane to one sink: payloads wait in memory, then on disk, in order, and are sent until the sink has taken them.
//!
//! ```text
//! offer ──> memory ──> (full and the sink does not take anything, or too long) ──> disk
//! send  <── memory first, it is older than what is on disk  <────────────────────┘
//! ```
//!
//! A file's position moves for this sink when its payloads were taken, or are on disk.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::batch::Payload;
use crate::buffer::Buffer;
use crate::config::{Config, SinkConfig};
use crate::follow::Waker;
use crate::metrics::{Metrics, Of};
use crate::sinks::Sink;

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How long payloads stay in memory alone while the sink does not take anything.
const SPILL_AFTER: Duration = Duration::from_secs(1);
/// How long reading waits for a sink that is slow but takes things.
const PATIENCE: Duration = Duration::from_secs(5);

/// The lane to one sink, shared by the reader, who offers, and the task that sends.
pub struct Lane {
    /// The sink's name.
    pub name: String,
    queue_bytes_max: usize,
    state: Mutex<State>,
    /// Something to send.
    filled: Notify,
    /// Room in memory.
    room: Condvar,
    counts: Counts,
}

struct State {
    memory: VecDeque<Arc<Payload>>,
    memory_bytes: usize,
    disk: Buffer,
    /// Through where each generation of a file is taken or on disk.
    safe: HashMap<u128, u64>,
    next_seq: u64,
    taken_seq: u64,
    failing_since: Option<Instant>,
    /// Nothing more will be offered.
    closed: bool,
}

struct Counts {
    shipped: Counter,
    duplicates: Counter,
    simplified: Counter,
    rejected: Counter,
    dropped: Counter,
    retries: Counter,
    buffer_errors: Counter,
    queue_bytes: Gauge,
    buffer_bytes: Gauge,
    failing: Gauge,
}

impl Counts {
    fn new(metrics: &Metrics, sink: &str) -> Self {
        let of = Of { sink: sink.to_owned() };
        Self {
            shipped: metrics.shipped.get_or_create_owned(&of),
            duplicates: metrics.duplicates.get_or_create_owned(&of),
            simplified: metrics.simplified.get_or_create_owned(&of),
            rejected: metrics.rejected.get_or_create_owned(&of),
            dropped: metrics.dropped.get_or_create_owned(&of),
            retries: metrics.retries.get_or_create_owned(&of),
            buffer_errors: metrics.buffer_errors.get_or_create_owned(&of),
            queue_bytes: metrics.queue_bytes.get_or_create_owned(&of),
            buffer_bytes: metrics.buffer_bytes.get_or_create_owned(&of),
            failing: metrics.failing.get_or_create_owned(&of),
        }
    }
}

impl Lane {
    /// Opens the lane with its buffer on disk.
    ///
    /// # Errors
    /// The buffer cannot be opened.
    pub fn open(
        config: &Config,
        sink: &SinkConfig,
        taken_seq: u64,
        safe: HashMap<u128, u64>,
        metrics: &Metrics,
    ) -> std::io::Result<Self> {
        let directory = config.state_dir.join("buffers").join(directory_of(&sink.name));
        let disk = Buffer::open(Path::new(&directory), sink.buffer_bytes_max, taken_seq)?;
        let counts = Counts::new(metrics, &sink.name);
        counts.buffer_bytes.set(disk.bytes().cast_signed());
        let next_seq = disk.last_seq() + 1;
        let state = State {
            memory: VecDeque::new(),
            memory_bytes: 0,
            disk,
            safe,
            next_seq,
            taken_seq,
            failing_since: None,
            closed: false,
        };
        Ok(Self {
            name: sink.name.clone(),
            queue_bytes_max: config.queue_bytes,
            state: Mutex::new(state),
            filled: Notify::new(),
            room: Condvar::new(),
            counts,
        })
    }

    /// Takes a payload: into memory, or onto disk when the sink is away. Waits for a sink that is slow; `pressed` (what it
    /// came from is about to be gone) waits for nothing. Gives up only when `stop` is cancelled: what it held is read
    /// again at the next start.
    pub fn offer(&self, mut payload: Payload, pressed: bool, stop: &CancellationToken) {
        let mut state = self.lock();
        payload.seq = state.next_seq;
        state.next_seq += 1;
        if payload.about.records == 0 && state.memory.is_empty() {
            // Nothing to send and nothing before it: everything up to here is safe.
            state.is_safe(&payload);
            return;
        }
        let payload = Arc::new(payload);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let fits = state.memory_bytes < self.queue_bytes_max && state.disk.is_empty();
            // A sink that takes things is waited for: for a while rather than using the disk, and in any case rather than
            // dropping what is on it.
            let patient = if state.disk.is_empty() { Instant::now() < deadline } else { state.disk.is_half_full() };
            let waits = patient && !pressed && state.failing_since.is_none() && !stop.is_cancelled();
            if fits || (stop.is_cancelled() && state.disk.is_empty()) {
                state.memory_bytes += payload.body.len();
                state.memory.push_back(payload);
                self.gauge(&state);
                break;
            }
            if waits {
                state = self.wait(state, Duration::from_millis(250));
                continue;
            }
            match self.spill(&mut state, Some(&payload)) {
                Ok(()) => break,
                Err(error) => {
                    // The files themselves are the buffer then: nothing is read until there is room.
                    tracing::warn!(sink = self.name, %error, "cannot write the buffer on disk, waiting");
                    if stop.is_cancelled() {
                        return;
                    }
                    state = self.wait(state, Duration::from_secs(1));
                }
            }
        }
        self.filled.notify_one();
    }

    /// Sends until told to stop. Then goes on until everything in memory is taken or the time is over, and puts what is
    /// left on disk.
    pub async fn run(self: Arc<Self>, mut sink: Sink, waker: Waker, stop: CancellationToken, stop_time: Duration) {
        let mut backoff = BACKOFF_MIN;
        let ends = async {
            stop.cancelled().await;
            tokio::time::sleep(stop_time).await;
        };
        tokio::pin!(ends);
        loop {
            let Some(payload) = self.front().await else {
                if self.lock().closed {
                    break;
                }
                tokio::select! {
                    () = self.filled.notified() => continue,
                    () = &mut ends => break,
                }
            };
            tokio::select! {
                () = self.deliver(&mut sink, payload, &mut backoff, &waker) => {}
                () = &mut ends => break,
            }
        }
        let mut state = self.lock();
        if let Err(error) = self.spill(&mut state, None) {
            tracing::warn!(sink = self.name, %error, "cannot write the buffer on disk at the end");
        }
    }

    /// Says that nothing more is offered.
    pub fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_one();
    }

    /// How far everything is safe, and the number of the last payload taken, for the checkpoint.
    pub fn safe(&self) -> (HashMap<u128, u64>, u64) {
        let state = self.lock();
        (state.safe.clone(), state.taken_seq)
    }

    /// A generation that was over goes on, from these positions.
    pub fn recall(&self, generation: u128, offset: u64) {
        self.lock().safe.insert(generation, offset);
    }

    /// A generation is over and taken by all: its position is not needed any more.
    pub fn forget(&self, generation: u128) {
        self.lock().safe.remove(&generation);
    }

    /// The oldest payload; stays where it is.
    async fn front(self: &Arc<Self>) -> Option<Arc<Payload>> {
        {
            let state = self.lock();
            if let Some(front) = state.memory.front() {
                return Some(front.clone());
            }
            if state.disk.is_empty() {
                return None;
            }
        }
        let own = self.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut state = own.lock();
            let read = state.disk.front();
            own.gauge(&state);
            read
        });
        match read.await {
            Ok(Ok((front, damaged))) => {
                self.counts.dropped.inc_by(damaged);
                front.map(Arc::new)
            }
            Ok(Err(error)) => {
                self.counts.buffer_errors.inc();
                tracing::warn!(sink = self.name, %error, "cannot read the buffer on disk");
                tokio::time::sleep(Duration::from_secs(1)).await;
                None
            }
            Err(_) => None,
        }
    }

    /// Sends one payload until it is taken.
    async fn deliver(self: &Arc<Self>, sink: &mut Sink, payload: Arc<Payload>, backoff: &mut Duration, waker: &Waker) {
        let mut current = (*payload).clone();
        while current.about.records > 0 {
            let again = match sink.send(&current).await {
                Ok(sent) => {
                    self.counts.count(sent, current.about.records);
                    break;
                }
                Err(again) => again,
            };
            self.counts.retries.inc();
            if let Some((about, body)) = again.rest {
                self.counts.count(again.sent, current.about.records.saturating_sub(about.records));
                current.about = about;
                current.body = body;
                *backoff = BACKOFF_MIN;
            }
            let pause = again.retry_after.unwrap_or_else(|| backoff.mul_f64(rand::random_range(0.5..1.0)));
            self.note_failure(&again.reason);
            self.spill_when_late().await;
            tokio::time::sleep(pause.min(Duration::from_secs(30))).await;
            *backoff = (*backoff * 2).min(BACKOFF_MAX);
            if self.has_dropped(payload.seq) {
                // It is counted as dropped: nobody is to have it after all.
                return;
            }
        }
        *backoff = BACKOFF_MIN;
        self.taken(&payload).await;
        waker.wake();
    }

    fn has_dropped(&self, seq: u64) -> bool {
        let state = self.lock();
        state.memory.front().is_none_or(|front| front.seq > seq) && state.disk.has_dropped(seq)
    }

    fn note_failure(&self, reason: &str) {
        let mut state = self.lock();
        if state.failing_since.is_none() {
            state.failing_since = Some(Instant::now());
            self.counts.failing.set(1);
            tracing::warn!(sink = self.name, reason, "the sink does not take records");
        }
        self.room.notify_all();
    }

    async fn spill_when_late(self: &Arc<Self>) {
        let late = |state: &State| {
            state.failing_since.is_some_and(|since| since.elapsed() >= SPILL_AFTER) && !state.memory.is_empty()
        };
        if !late(&self.lock()) {
            return;
        }
        let own = self.clone();
        let spilled = tokio::task::spawn_blocking(move || own.spill(&mut own.lock(), None)).await;
        if let Ok(Err(error)) = spilled {
            tracing::warn!(sink = self.name, %error, "cannot write the buffer on disk");
        }
    }

    async fn taken(self: &Arc<Self>, payload: &Arc<Payload>) {
        if self.taken_from_memory(payload) {
            return;
        }
        // Whether it came from disk or went there meanwhile: it is the front of the buffer, unless the limit dropped it.
        let (own, seq) = (self.clone(), payload.seq);
        let popped = tokio::task::spawn_blocking(move || {
            let mut state = own.lock();
            let popped = state.disk.pop(seq);
            own.gauge(&state);
            own.room.notify_all();
            popped
        });
        if let Ok(Err(error)) = popped.await {
            self.counts.buffer_errors.inc();
            tracing::warn!(sink = self.name, %error, "cannot shorten the buffer on disk");
        }
    }

    /// Notes that a payload was taken. Returns whether it was still in memory.
    fn taken_from_memory(&self, payload: &Payload) -> bool {
        let mut state = self.lock();
        if state.failing_since.take().is_some() {
            self.counts.failing.set(0);
            tracing::info!(sink = self.name, "the sink takes records again");
        }
        state.taken_seq = state.taken_seq.max(payload.seq);
        if state.memory.front().is_none_or(|front| front.seq != payload.seq) {
            return false;
        }
        state.memory.pop_front();
        state.memory_bytes -= payload.body.len();
        state.is_safe(payload);
        self.gauge(&state);
        self.room.notify_all();
        true
    }

    /// Puts everything that waits in memory on disk, and this payload behind it.
    fn spill(&self, state: &mut State, more: Option<&Arc<Payload>>) -> std::io::Result<()> {
        let payloads: Vec<_> = state.memory.iter().chain(more).cloned().collect();
        let sent: Vec<_> = payloads.iter().filter(|payload| payload.about.records > 0).cloned().collect();
        let pushed = state.disk.push(&sent);
        let dropped = pushed.inspect_err(|_| {
            self.counts.buffer_errors.inc();
        })?;
        self.counts.dropped.inc_by(dropped);
        state.memory.clear();
        state.memory_bytes = 0;
        payloads.iter().for_each(|payload| state.is_safe(payload));
        self.gauge(state);
        Ok(())
    }

    fn gauge(&self, state: &State) {
        self.counts.queue_bytes.set(i64::try_from(state.memory_bytes).unwrap_or(i64::MAX));
        self.counts.buffer_bytes.set(state.disk.bytes().cast_signed());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        self.room.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0
    }
}

impl State {
    fn is_safe(&mut self, payload: &Payload) {
        for (generation, offset) in payload.progress.iter() {
            let safe = self.safe.entry(*generation).or_default();
            *safe = (*safe).max(*offset);
        }
    }
}

impl Counts {
    fn count(&self, sent: crate::sinks::Sent, records: u64) {
        self.shipped.inc_by(records.saturating_sub(sent.rejected));
        self.duplicates.inc_by(sent.duplicates);
        self.simplified.inc_by(sent.simplified);
        self.rejected.inc_by(sent.rejected);
    }
}

/// A name for the sink's directory that any file system takes.
fn directory_of(sink: &str) -> String {
    let kind: String = sink.chars().take_while(char::is_ascii_alphanumeric).collect();
    format!("{kind}-{:016x}", xxhash_rust::xxh3::xxh3_64(sink.as_bytes()))
}
