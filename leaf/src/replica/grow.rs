//! Making a replica's index again in the background when few spare text fields are left.
//!
//! Applying, committing and serving go on meanwhile; only the last rows are applied to the grown index
//! while the tail stands still, before it takes the old one's place. One replica of a leaf does it at a
//! time, with a writer of its own. See [`crate::apply::grow`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use trawl_cluster::Error as EngineError;
use trawl_proto::Seq;

use super::tail::{Opened, Shared, blocking};
use super::{Phase, Replica};
use crate::apply::Core;
use crate::apply::grow::Grown;
use crate::error::Error;

/// Growing begins when so many spare text fields are left.
const SPARES_LOW: u32 = 8;
/// The tail stands still for so many operations at most, unless they come faster than they are caught
/// up with.
const GAP_MAX: u64 = 512;
/// How often the end of the log is run after.
const PASSES_MAX: u32 = 8;
/// A pause before it is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(30);
/// A pause before the engine is asked again.
const ENGINE_PAUSE: Duration = Duration::from_millis(500);

/// An index that is being made.
pub(super) struct Growing {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<Grown, Error>>,
    /// How often it has run after the end of the log.
    passes: u32,
    permit: OwnedSemaphorePermit,
}

impl Opened<'_> {
    /// Begins when it is time, and puts the grown index in place when it is ready.
    pub(super) async fn grow(&mut self) -> Result<(), Error> {
        match self.growing.take() {
            None => self.begin_growing().await,
            Some(growing) if !growing.task.is_finished() => {
                self.growing = Some(growing);
                Ok(())
            }
            Some(Growing { stop, task, passes, permit }) => match task.await {
                Ok(Ok(grown)) => self.go_on(grown, stop, passes, permit).await,
                Ok(Err(error)) => {
                    self.done_growing();
                    tracing::warn!(shard = %self.tail.replica.shard(), reason = error.reason(), "cannot grow now");
                    self.grow_after = Some(Instant::now() + RETRY_PAUSE);
                    // What it left behind goes.
                    let dir = self.tail.dir.clone();
                    blocking(move || dir.current().map(drop)).await
                }
                Err(error) => Err(Error::Damaged(format!("a defect while growing: {error}"))),
            },
        }
    }

    /// Either the rest is little and the grown index takes its place, or it is caught up with first.
    async fn go_on(
        &mut self,
        grown: Grown,
        stop: Arc<AtomicBool>,
        passes: u32,
        permit: OwnedSemaphorePermit,
    ) -> Result<(), Error> {
        // What is not committed here is not applied there either: it may be taken back.
        if self.applied() > self.committed() {
            self.commit().await?;
        }
        if self.applied() > self.committed() {
            // The commit has to wait for the engine, and this with it.
            let task = tokio::spawn(async { Ok(grown) });
            self.growing = Some(Growing { stop, task, passes, permit });
            return Ok(());
        }
        let gap = self.committed().seq.0.saturating_sub(grown.applied().0);
        if gap <= GAP_MAX || passes >= PASSES_MAX {
            return self.put_in_place(grown).await;
        }
        let (shared, replica, stopped) = (self.tail.shared.clone(), self.tail.replica.clone(), stop.clone());
        let goal = self.committed().seq;
        let task = tokio::spawn(async move {
            let grown = run_after(grown, goal, &shared, &replica, &stopped).await;
            replica.wake.notify_one();
            grown
        });
        self.growing = Some(Growing { stop, task, passes: passes + 1, permit });
        Ok(())
    }

    async fn begin_growing(&mut self) -> Result<(), Error> {
        let is_low = self.core.as_ref().is_some_and(|core| core.spares_left() <= SPARES_LOW);
        let is_soon = self.grow_after.is_some_and(|at| Instant::now() < at);
        if !is_low || is_soon || self.tail.replica.progress.borrow().phase != Phase::Serving {
            return Ok(());
        }
        let Ok(permit) = self.tail.shared.growing.clone().try_acquire_owned() else { return Ok(()) };
        if self.applied() > self.committed() {
            // So that the fields that made it due are in the commit.
            self.commit().await?;
        }
        let Some(core) = self.core.take() else { return Ok(()) };
        let (core, growth) = blocking(move || {
            let growth = core.growth();
            Ok((core, growth))
        })
        .await?;
        self.core = Some(core);
        let growth = growth?;
        let replica = self.tail.replica.clone();
        replica.needs_from.store(growth.seq().0, Ordering::Relaxed);
        tracing::info!(shard = %replica.shard(), from = %growth.seq(), "few spare text fields are left: making the index again");
        let stop = Arc::new(AtomicBool::new(false));
        let (mappings, stopped) = ((self.tail.mappings)(), stop.clone());
        let task = tokio::spawn(async move {
            let grown = blocking(move || growth.build(mappings, &stopped)).await;
            replica.wake.notify_one();
            grown
        });
        self.growing = Some(Growing { stop, task, passes: 0, permit });
        Ok(())
    }

    /// The last rows, while nothing else is applied, and then it is the index in use.
    async fn put_in_place(&mut self, grown: Grown) -> Result<(), Error> {
        let grown = self.catch_up(grown, self.applied().seq).await?;
        let Some(old) = self.core.take() else { return Ok(()) };
        let (core, searcher) = blocking(move || grown.replace(old)).await?;
        let replica = &self.tail.replica;
        self.tail.show(searcher);
        replica.pending.clear();
        replica.publish(&core);
        tracing::info!(shard = %replica.shard(), at = %core.applied(), spares = core.spares_left(), "the index was made again");
        self.core = Some(core);
        self.done_growing();
        Ok(())
    }

    /// When the replica stopped at a row for want of spare text fields: the index that is growing takes
    /// its place, if one is. Gives the core back if none is, or it failed.
    pub(super) async fn grown_instead(&mut self, core: Core) -> Result<Option<Core>, Error> {
        let Some(growing) = self.growing.take() else { return Ok(Some(core)) };
        let committed = core.committed().seq;
        let grown = growing.task.await;
        self.done_growing();
        match grown {
            Ok(Ok(grown)) => {
                let grown = self.catch_up(grown, committed).await?;
                blocking(move || {
                    drop(core);
                    grown.replace_stopped()
                })
                .await?;
                Ok(None)
            }
            _ => Ok(Some(core)),
        }
    }

    /// Ends what is growing and waits until it has ended.
    pub(super) async fn stop_growing(&mut self) {
        let Some(growing) = self.growing.take() else { return };
        growing.stop.store(true, Ordering::Relaxed);
        if let Ok(Ok(grown)) = growing.task.await {
            let _ = blocking(move || {
                grown.discard();
                Ok(())
            })
            .await;
        }
        self.done_growing();
    }

    fn done_growing(&self) {
        self.tail.replica.needs_from.store(u64::MAX, Ordering::Relaxed);
    }

    /// Applies what is missing through `goal`, waiting for the engine if need be.
    async fn catch_up(&self, mut grown: Grown, goal: Seq) -> Result<Grown, Error> {
        while grown.applied() < goal {
            let rows = self.read(grown.applied()).await?;
            if rows.is_empty() {
                tokio::time::sleep(ENGINE_PAUSE).await;
                continue;
            }
            grown = apply(grown, rows, goal, &self.tail.shared).await?;
        }
        Ok(grown)
    }
}

/// Applies what the log has through `goal`, or until told to stop.
async fn run_after(
    mut grown: Grown,
    goal: Seq,
    shared: &Shared,
    replica: &Replica,
    stop: &AtomicBool,
) -> Result<Grown, Error> {
    while grown.applied() < goal && !stop.load(Ordering::Relaxed) {
        match shared.engine.log.read(replica.shard(), grown.applied(), shared.config.read_bytes).await {
            Ok(rows) if !rows.is_empty() => grown = apply(grown, rows, goal, shared).await?,
            Ok(_) | Err(EngineError::Unavailable(_)) => tokio::time::sleep(ENGINE_PAUSE).await,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(grown)
}

async fn apply(
    mut grown: Grown,
    rows: Vec<trawl_cluster::shard_log::Record>,
    goal: Seq,
    shared: &Shared,
) -> Result<Grown, Error> {
    let (pending_max, bytes_max) = (shared.config.pending_max, shared.config.pending_bytes_max);
    blocking(move || {
        grown.apply(&rows, goal, pending_max, bytes_max)?;
        Ok(grown)
    })
    .await
}
