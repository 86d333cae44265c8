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

mod opened;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use trawl_cluster::{Engine, Viewer};

pub(super) use self::opened::Opened;
use super::room::more_room;
use super::slots::WriterSlots;
use super::{Phase, Replica};
use crate::ShardSearcher;
use crate::apply::isolation::Limits;
use crate::apply::{Mappings, Stop, panic_message};
use crate::config::Config;
use crate::copy::rate::Rate;
use crate::error::Error;
use crate::index::ReplicaDir;
use crate::metrics::Metrics;
use crate::watch::FileWatch;

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
