//! A replica that is open: it reads its log, applies, commits, serves, until something stops it.

mod commit;

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use trawl_cluster::Error as EngineError;
use trawl_cluster::shard_log::Record;
use trawl_proto::{Generation, Seq};

use super::{Tail, blocking};
use crate::apply::{Core, Stop};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::replica::Replica;
use crate::replica::grow::Growing;
use crate::replica::slots::WriterSlot;
use crate::watch::FileWatch;

/// How long a writer may be kept from others who wait for one.
const SLOT_TIME: Duration = Duration::from_secs(1);

/// A replica that is open.
pub(in crate::replica) struct Opened<'a> {
    pub(in crate::replica) tail: &'a Tail,
    /// Away only while a blocking thread has it.
    pub(in crate::replica) core: Option<Core>,
    pub(in crate::replica) growing: Option<Growing>,
    /// Growing failed: not again before this.
    pub(in crate::replica) grow_after: Option<Instant>,
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
    pub(in crate::replica) fn new(tail: &'a Tail, core: Core, target: Seq) -> Self {
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
    pub(super) async fn run(mut self, shutdown: &CancellationToken) -> Result<(), Stop> {
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

    pub(in crate::replica) fn applied(&self) -> Generation {
        self.core.as_ref().map(Core::applied).unwrap_or_default()
    }

    pub(in crate::replica) fn committed(&self) -> Generation {
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
    pub(in crate::replica) async fn read(&self, after: Seq) -> Result<Vec<Record>, Error> {
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

impl Replica {
    pub(in crate::replica) fn publish(&self, core: &Core) {
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

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
