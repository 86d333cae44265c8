//! The task behind a replica: open, tail the log, apply, commit, and again.
//!
//! ```text
//! open the last commit ─> apply rows up to the head seen at opening ─> commit ─> serving
//!        ^                                                                         │
//!        └── pause <── FAILED (the reason is kept) <── any error ──────────────────┘
//! ```
//!
//! Opening ([`open`](super::open)) also decides whether the log goes on where the replica stands.
//!
//! The core moves to a blocking thread for everything that touches the index and back again, so there
//! is never more than one user of it and no async worker is blocked.

mod commit;

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use trawl_cluster::shard_log::Record;
use trawl_cluster::{Engine, Error as EngineError, Viewer};
use trawl_proto::{Generation, Seq};

use super::grow::Growing;
use super::room::more_room;
use super::slots::{WriterSlot, WriterSlots};
use super::{Phase, Replica};
use crate::ShardSearcher;
use crate::apply::isolation::Limits;
use crate::apply::{Core, Mappings, Stop, panic_message};
use crate::config::Config;
use crate::copy::rate::Rate;
use crate::error::Error;
use crate::index::ReplicaDir;
use crate::metrics::Metrics;
use crate::watch::FileWatch;

/// How long a writer may be kept from others who wait for one.
const SLOT_TIME: Duration = Duration::from_secs(1);
/// Longest pause before the log is tried again with a copy.
const COPY_PAUSE_MAX: Duration = Duration::from_secs(5);

/// What all replicas of a leaf share.
pub struct Shared {
    /// Settings.
    pub config: Config,
    /// Logs and store.
    pub engine: Engine,
    /// Bounds the replicas that apply at a time.
    pub apply_slots: Arc<Semaphore>,
    /// One replica at a time makes its index again in the background.
    pub growing: Arc<Semaphore>,
    /// Bounds the index writers.
    pub writer_slots: WriterSlots,
    /// Bounds the replicas that are copied from other leaves.
    pub copy_slots: Semaphore,
    /// Bounds the replicas whose files are checked before they serve.
    pub check_slots: Semaphore,
    /// Held by the replica whose files are checked while it serves.
    pub background_check_slot: Semaphore,
    /// Of checks before serving, while others serve.
    pub opening_rate: Rate,
    /// Of checks while serving.
    pub check_rate: Rate,
    /// Hears of writes to files that never change.
    pub files: Arc<FileWatch>,
    /// Counters.
    pub metrics: Metrics,
}

/// Makes a source of mappings for one opening of the replica.
pub type MappingSource = Box<dyn Fn() -> Mappings + Send + Sync>;

/// The tail of one replica.
pub struct Tail {
    /// What it publishes to.
    pub replica: Arc<Replica>,
    /// What it shares with others.
    pub shared: Arc<Shared>,
    /// Where it keeps its index.
    pub dir: ReplicaDir,
    /// Mapping version for an index made now.
    pub mapping_version: u64,
    /// Where mappings come from.
    pub mappings: MappingSource,
    /// Knows which leaves serve the shard.
    pub viewer: Viewer,
}

impl Tail {
    /// Runs until the shutdown; commits then.
    pub async fn run(self, shutdown: CancellationToken) {
        let shard = self.replica.shard().clone();
        let mut pause = self.shared.config.retry_min;
        let mut copies = 0;
        loop {
            let began = Instant::now();
            let Some(result) = shutdown.run_until_cancelled(self.open()).await else { return };
            let error = match result {
                Ok(opened) => match self.run_opened(opened, &shutdown).await {
                    Ok(()) => return,
                    // Marked: opening makes it anew.
                    Err(Stop::Error(Error::Anew(reason))) => {
                        tracing::warn!(%shard, reason, "replica has to be made anew");
                        continue;
                    }
                    // Opening looks closer at what is wrong.
                    Err(Stop::Error(Error::History(reason))) => {
                        tracing::warn!(%shard, reason, "the log does not go on as this replica expects");
                        continue;
                    }
                    Err(Stop::Error(error)) => error,
                    Err(Stop::Spares(_) | Stop::Schema(_) | Stop::Commit | Stop::Again) => continue,
                },
                Err(error) if error.is_damage() => {
                    let reason = match &error {
                        Error::Anew(reason) => reason.clone(),
                        other => other.reason(),
                    };
                    match shutdown.run_until_cancelled(self.recover(reason)).await {
                        None => return,
                        Some(Ok(())) if copies == 0 => {
                            copies += 1;
                            continue;
                        }
                        // Copied, and again no good: not at full speed. But the log may only have been trimmed past
                        // the copy meanwhile, as happens while more comes in than replicas can apply, so soon.
                        Some(Ok(())) => {
                            pause = pause.min(COPY_PAUSE_MAX);
                            error
                        }
                        Some(Err(error)) => error,
                    }
                }
                Err(error) => error,
            };
            if began.elapsed() > self.shared.config.retry_max {
                (pause, copies) = (self.shared.config.retry_min, 0);
            }
            let is_full = error.is_disk_full();
            let reason = match is_full {
                true => full(self.dir.path(), &error),
                false => error.reason(),
            };
            tracing::error!(%shard, reason, retry_in = ?pause, "replica stopped");
            self.replica.set_phase(Phase::Failed, reason);
            self.shared.metrics.failures.inc();
            let paused = async {
                match is_full {
                    true => self.pause_for_room(pause).await,
                    false => self.pause(pause).await,
                }
            };
            if shutdown.run_until_cancelled(paused).await.is_none() {
                return;
            }
            pause = (pause * 2).min(self.shared.config.retry_max);
        }
    }

    /// As [`Tail::pause`]; less when the disk has room again.
    async fn pause_for_room(&self, pause: Duration) {
        // What the failed commit left behind is neither of use nor room that came back.
        let dir = self.dir.clone();
        if let Err(error) = blocking(move || dir.sweep()).await {
            tracing::debug!(shard = %self.replica.shard(), reason = error.reason(), "cannot sweep the directory");
        }
        tokio::select! {
            () = self.pause(pause) => {}
            () = more_room(self.dir.path()) => {}
        }
    }

    pub(super) fn draft_limits(&self) -> Limits {
        let Config { draft_time_max, draft_threads_abandoned_max, faults, .. } = &self.shared.config;
        Limits {
            time_max: *draft_time_max,
            abandoned_max: *draft_threads_abandoned_max,
            abandoned: self.shared.metrics.draft_threads_abandoned.clone(),
            faults: faults.clone(),
        }
    }

    /// Follows the log, and checks the files meanwhile.
    async fn run_opened(&self, opened: Opened<'_>, shutdown: &CancellationToken) -> Result<(), Stop> {
        let run = opened.run(shutdown);
        tokio::pin!(run);
        tokio::select! {
            result = &mut run => return result,
            () = self.check_now_and_then() => {}
        }
        run.await
    }
}

/// A replica that is open.
pub(super) struct Opened<'a> {
    pub(super) tail: &'a Tail,
    /// Away only while a blocking thread has it.
    pub(super) core: Option<Core>,
    pub(super) growing: Option<Growing>,
    /// Growing failed: not again before this.
    pub(super) grow_after: Option<Instant>,
    slot: Option<WriterSlot>,
    /// Whether it was warmed up.
    warm: bool,
    /// Serving begins when this is searchable.
    target: Seq,
    pending_since: Option<Instant>,
    idle_since: Instant,
    committed_at: Option<Instant>,
}

impl<'a> Opened<'a> {
    /// Serving begins when everything through `target` is searchable.
    pub(super) fn new(tail: &'a Tail, core: Core, target: Seq) -> Self {
        let idle_since = Instant::now();
        Self {
            tail,
            core: Some(core),
            growing: None,
            grow_after: None,
            slot: None,
            warm: false,
            target,
            pending_since: None,
            idle_since,
            committed_at: None,
        }
    }

    /// Follows the log until the shutdown, and closes the index whatever happened.
    async fn run(mut self, shutdown: &CancellationToken) -> Result<(), Stop> {
        let mut result = self.follow(shutdown).await;
        // What the log has lost must not be lost here as well.
        while matches!(result, Err(Stop::Error(Error::History(_))))
            && self.applied() > self.committed()
            && !shutdown.is_cancelled()
        {
            if let Err(error) = self.commit().await {
                result = Err(error.into());
            }
        }
        self.stop_growing().await;
        let core = self.core.take();
        // Dropping a writer joins its threads, which must not block an async worker.
        let dropped = blocking(move || {
            drop(core);
            Ok(())
        });
        dropped.await?;
        result
    }

    async fn follow(&mut self, shutdown: &CancellationToken) -> Result<(), Stop> {
        let mut rows = Vec::new();
        loop {
            self.check_history()?;
            self.check_trust()?;
            self.check_skips()?;
            rows = match rows.is_empty() {
                true if self.tail.replica.is_held(self.applied().seq) => Vec::new(),
                true => self.read(self.applied().seq).await?,
                false => self.apply_and_read(rows, shutdown).await?,
            };
            self.tail.replica.hold(&mut rows);
            if self.commit_due().is_some_and(|due| due <= Instant::now()) {
                self.commit().await?;
            }
            self.serve_when_ready().await?;
            self.grow().await?;
            if shutdown.is_cancelled() {
                break;
            }
            if rows.is_empty() {
                if self.close_due().is_some_and(|due| due <= Instant::now()) {
                    self.close().await?;
                }
                // Whoever holds a slot looks now and then whether others wait for it.
                let look = self.slot.is_some().then(|| Instant::now() + SLOT_TIME);
                let until = [self.commit_due(), self.close_due(), look].into_iter().flatten().min();
                tokio::select! {
                    () = shutdown.cancelled() => break,
                    () = self.tail.replica.wake.notified() => {}
                    () = sleep_until(until) => {}
                }
            }
        }
        if self.applied() > self.committed() {
            self.commit().await?;
        }
        Ok(())
    }

    pub(super) fn applied(&self) -> Generation {
        self.core.as_ref().map(Core::applied).unwrap_or_default()
    }

    pub(super) fn committed(&self) -> Generation {
        self.core.as_ref().map(Core::committed).unwrap_or_default()
    }

    fn check_history(&self) -> Result<(), Error> {
        if let Some(reason) = self.tail.replica.anew.lock().take() {
            return Err(Error::Anew(reason));
        }
        match self.tail.replica.suspect.swap(false, Ordering::Relaxed) {
            true => Err(Error::History("its head is not where it was".to_owned())),
            false => Ok(()),
        }
    }

    /// Files were written to by somebody else: opening checks them before anything is done with them.
    fn check_trust(&self) -> Result<(), Stop> {
        match self.tail.replica.trust.is_changed() {
            true => Err(self.go_back()),
            false => Ok(()),
        }
    }

    /// An operation may be skipped after it was applied here. If it is not committed, going back is enough;
    /// otherwise opening finds out that the replica has to be made anew.
    fn check_skips(&self) -> Result<(), Stop> {
        match self.core.as_ref().and_then(Core::diverged) {
            Some(_) => Err(self.go_back()),
            None => Ok(()),
        }
    }

    /// Back to the last commit. What was not committed comes again from the log; until then it counts as
    /// not applied.
    fn go_back(&self) -> Stop {
        self.tail.replica.progress.send_modify(|progress| progress.applied = progress.committed);
        Stop::Again
    }

    /// Rows behind `after`; none when the engine is out of reach (the next wake asks again).
    pub(super) async fn read(&self, after: Seq) -> Result<Vec<Record>, Error> {
        let shared = &self.tail.shared;
        match shared.engine.log.read(self.tail.replica.shard(), after, shared.config.read_bytes).await {
            Ok(rows) => Ok(rows),
            Err(EngineError::Unavailable(error)) => {
                tracing::debug!(shard = %self.tail.replica.shard(), %error, "cannot read the log");
                Ok(Vec::new())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Applies rows while the next ones are being read.
    async fn apply_and_read(&mut self, rows: Vec<Record>, shutdown: &CancellationToken) -> Result<Vec<Record>, Stop> {
        let shared = self.tail.shared.clone();
        if self.slot.is_none() {
            match shutdown.run_until_cancelled(shared.writer_slots.acquire()).await {
                Some(slot) => self.slot = Some(slot),
                None => return Ok(Vec::new()),
            }
        }
        let Some(mut core) = self.core.take() else { return Ok(Vec::new()) };
        let after = rows.last().map(|row| row.last).unwrap_or_default();
        let (replica, metrics, files) = (self.tail.replica.clone(), shared.metrics.clone(), shared.files.clone());
        let delay = shared.config.inject_apply_delay;
        let apply = async {
            let slot = shared.apply_slots.clone().acquire_owned().await;
            // A document that takes long must not keep other shards from being written.
            core.when_stalled(Box::new(move || drop(slot)));
            blocking(move || {
                let mut rows = VecDeque::from(rows);
                let result = apply(&mut core, &mut rows, &replica, &files, &metrics, delay);
                core.when_stalled(Box::new(|| {}));
                Ok((core, rows, result))
            })
            .await
        };
        let (applied, next) = tokio::join!(apply, self.read(after));
        let (core, rest, result) = applied?;
        self.core = Some(core);
        match result {
            Ok(()) => {}
            Err(Stop::Commit) => {
                self.commit().await?;
                // What was read ahead is read again, so that no more rows than that are ever held.
                return Ok(rest.into());
            }
            Err(Stop::Error(Error::Poison { at, reason })) => {
                tracing::error!(shard = %self.tail.replica.shard(), %at, reason, "an operation cannot be applied");
                self.tail.replica.meet_poison(at, reason);
                shared.metrics.poisons.inc();
                return Err(self.go_back());
            }
            Err(Stop::Error(error)) => return Err(Stop::Error(error)),
            Err(stop) => return Err(self.remake(stop).await?),
        }
        self.pending_since.get_or_insert_with(Instant::now);
        self.idle_since = Instant::now();
        Ok(next?)
    }

    /// Makes the index anew as the row at hand needs it; the replica is opened again afterwards. Its
    /// last searcher goes on serving meanwhile.
    async fn remake(&mut self, stop: Stop) -> Result<Stop, Error> {
        let Some(core) = self.core.take() else { return Ok(stop) };
        self.go_back();
        let core = match stop {
            Stop::Spares(_) => match self.grown_instead(core).await? {
                Some(core) => core,
                None => return Ok(stop),
            },
            _ => core,
        };
        let stop = blocking(move || {
            match stop {
                Stop::Spares(spares) => core.rebuild(spares)?,
                Stop::Schema(version) => core.recreate(version)?,
                Stop::Error(error) => return Err(error),
                Stop::Commit | Stop::Again => {}
            }
            Ok(stop)
        })
        .await?;
        tracing::info!(shard = %self.tail.replica.shard(), ?stop, "made the index again");
        Ok(stop)
    }
}

impl Tail {
    /// Puts a searcher in use, and watches the files that it reads.
    pub(super) fn show(&self, searcher: Arc<ShardSearcher>) {
        self.watch_files_of(&searcher);
        self.replica.searcher.store(Some(searcher));
    }

    /// Begins to watch files of segments that were not there before.
    fn watch_files_of(&self, searcher: &ShardSearcher) {
        let segments = searcher.searcher.segment_readers().iter();
        let segments: BTreeSet<_> =
            segments.map(|segment| (segment.segment_id().uuid_string(), segment.delete_opstamp())).collect();
        let mut watched = self.replica.trust.watched.lock();
        if *watched == segments {
            return;
        }
        let Ok(Some(path)) = self.dir.peek() else { return };
        for file in std::fs::read_dir(path).into_iter().flatten().flatten() {
            let name = file.file_name();
            let name = name.to_string_lossy();
            let segment = name.split('.').next().unwrap_or_default();
            if segments.iter().any(|(id, _)| id == segment) {
                self.shared.files.add(&self.replica, &file.path());
            }
        }
        *watched = segments;
    }
}

impl Replica {
    pub(super) fn publish(&self, core: &Core) {
        self.fields.store(Some(core.fields().clone()));
        self.progress.send_modify(|progress| {
            progress.applied = core.applied();
            progress.committed = core.committed();
            progress.chain = core.chain();
            progress.time_ms = core.state().time_ms;
        });
    }
}

/// Applies rows on a blocking thread, publishing each row's outcomes as soon as they are known. Rows
/// that were applied are taken out.
fn apply(
    core: &mut Core,
    rows: &mut VecDeque<Record>,
    replica: &Replica,
    files: &FileWatch,
    metrics: &Metrics,
    delay: Option<Duration>,
) -> Result<(), Stop> {
    while let Some(row) = rows.front() {
        if let Some(delay) = delay {
            let operations = row.last.0.saturating_sub(row.first.0) + 1;
            std::thread::sleep(delay.saturating_mul(u32::try_from(operations).unwrap_or(u32::MAX)));
        }
        let incarnation = core.applied().incarnation;
        let outcomes = core.apply(row, rows.get(1))?;
        files.look();
        if replica.trust.is_changed() {
            // What was found in changed files may be wrong.
            return Err(Stop::Again);
        }
        metrics.count(&outcomes);
        if let Some(files) = replica.outcome_files.lock().as_mut() {
            files.append(row, &outcomes)?;
        }
        let mut ring = replica.outcomes.lock();
        if incarnation != row.incarnation {
            ring.clear();
        }
        ring.push(outcomes);
        drop(ring);
        replica.publish(core);
        rows.pop_front();
    }
    Ok(())
}

/// Runs on a blocking thread; a panic there becomes an error.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => {
            Err(Error::Damaged(format!("a defect: {}", panic_message(error.into_panic().as_ref()))))
        }
        Err(_) => Err(Error::Unreadable("the process is shutting down".to_owned())),
    }
}

/// Why a replica stopped when there is no room on its disk, and the way out.
fn full(path: &Path, error: &Error) -> String {
    format!(
        "disk full: {}: {}; make room on this file system, the replica then goes on by itself",
        path.display(),
        error.reason()
    )
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
