//! Opening a replica: its last commit, whether the log continues it, and how it is made anew when
//! the log does not or the files are damaged.
//!
//! ```text
//! index on disk ── opens ──> does the log fit? ── continues ──────────────> follow the log
//!      │                        │        └─ lost history ─> wait for the leader, look again
//!      │ damaged, marked,       │ behind
//!      │ or none of a           v
//!      └─ trimmed log ───────> copy from a leaf that serves the shard ──> open again
//!                               (or begin with nothing, if the log reaches back to its start)
//! ```

use std::sync::atomic::Ordering;
use std::time::Duration;

use trawl_cluster::Error as EngineError;
use trawl_cluster::fit::{Fit, Standing, fit};
use trawl_cluster::shard_log::{Head, Record};
use trawl_proto::caller::Caller;
use trawl_proto::{Generation, NodeName, Seq};

use super::Phase;
use super::outcome_files::{Limits, OutcomeFiles};
use super::tail::{Opened, Tail, blocking};
use crate::apply::Core;
use crate::copy::client::{self, Source};
use crate::error::Error;

/// A pause before asking an unreachable engine again.
const ENGINE_PAUSE: Duration = Duration::from_millis(200);
/// A pause before leaves that give as many copies as they may are asked again.
const BUSY_PAUSE: Duration = Duration::from_millis(500);

impl Tail {
    /// Opens the index and publishes a first searcher; returns when the log continues it.
    ///
    /// # Errors
    /// Those of [`Error::is_damage`] when the replica has to be made anew.
    pub(super) async fn open(&self) -> Result<Opened<'_>, Error> {
        if self.replica.progress.borrow().phase != Phase::Serving {
            self.replica.recovery.begin();
        }
        let dir = self.dir.clone();
        let is_new = blocking(move || match dir.anew()? {
            Some(reason) => Err(Error::Anew(reason)),
            None => Ok(dir.peek()?.is_none()),
        });
        if is_new.await? {
            let trimmed = self.head(None).await?.trimmed;
            if trimmed > Seq(0) {
                return Err(Error::Anew(format!("there is nothing on disk and the log begins behind {trimmed}")));
            }
        }
        self.check_before_serving().await?;
        let (shard, dir, pending) = (self.replica.shard().clone(), self.dir.clone(), self.replica.pending.clone());
        let (version, bytes, mappings) = (self.mapping_version, self.shared.config.writer_bytes, (self.mappings)());
        let source_bytes_max = self.shared.config.pending_source_bytes_max;
        let config = &self.shared.config;
        let kept = Limits { time: config.outcomes_time, bytes_max: config.outcomes_bytes_max };
        let replica_dir = self.dir.path().to_owned();
        let (limits, skips) = (self.draft_limits(), self.replica.skips.clone());
        let (core, searcher, outcomes) = blocking(move || {
            // A commit that a full disk or a crash cut short left files that only the next one would remove,
            // and there may be no room for that. A damaged index is found to be one below.
            let _ = dir.sweep();
            let mut core = Core::open(shard, dir, version, bytes, pending, mappings)?.with(limits, skips);
            core.keep_sources_within(source_bytes_max);
            let searcher = core.searcher()?;
            let outcomes = OutcomeFiles::open(&replica_dir, kept, core.state())?;
            Ok((core, searcher, outcomes))
        })
        .await?;
        if let Some(at) = core.diverged() {
            return Err(Error::Anew(format!("operation {at} was applied here and is skipped since")));
        }
        self.replica.remember(outcomes);
        self.replica.trust.watched.lock().clear();
        self.show(searcher);
        self.replica.publish(&core);
        self.replica.empty.store(false, Ordering::Relaxed);
        // From here on what is committed holds the log.
        self.replica.copying.hold(None);
        let (core, target) = self.settle(core).await?;
        // What was copied before it turned out that this goes on is of no use.
        let dir = self.dir.clone();
        blocking(move || dir.drop_copy()).await?;
        self.replica.set_whole();
        self.replica.suspect.store(false, Ordering::Relaxed);
        // A replica whose index was made again goes on serving what it served before.
        if self.replica.progress.borrow().phase != Phase::Serving {
            self.replica.set_phase(Phase::Recovering, "catching up with the log");
            self.replica.recovery.catches_up(core.applied().seq, target);
        }
        Ok(Opened::new(self, core, target))
    }

    /// Waits until the log continues the replica; returns its end as it was then. While it does not,
    /// the leader hears of it.
    async fn settle(&self, mut core: Core) -> Result<(Core, Seq), Error> {
        loop {
            let head = self.head(Some(&core)).await?;
            let Some(next) = self.next_row(&head, core.applied().seq).await? else {
                tokio::time::sleep(ENGINE_PAUSE).await;
                continue;
            };
            match fit(&head, Standing { at: core.applied(), chain: core.chain() }, next.as_ref()) {
                Fit::Continues => return Ok((core, head.last)),
                Fit::Begins(incarnation) => {
                    let slot = self.shared.writer_slots.acquire().await;
                    let (begun, searcher) = blocking(move || {
                        let searcher = core.begin(incarnation)?;
                        core.close_writer()?;
                        Ok((core, searcher))
                    })
                    .await?;
                    drop(slot);
                    core = begun;
                    self.show(searcher);
                    self.replica.publish(&core);
                    return Ok((core, head.last));
                }
                Fit::Behind(reason) => return Err(Error::Anew(reason)),
                Fit::Broken(reason) => self.replica.set_broken(&core, &reason),
            }
            tokio::time::sleep(self.shared.config.heads_interval).await;
        }
    }

    /// The row behind a position, where the log's head says that there is one; `None` when the engine
    /// or the log went away meanwhile.
    async fn next_row(&self, head: &Head, seq: Seq) -> Result<Option<Option<Record>>, Error> {
        if seq < head.trimmed || seq >= head.last {
            return Ok(Some(None));
        }
        match self.shared.engine.log.read(self.replica.shard(), seq, 1).await {
            Ok(rows) => Ok(rows.into_iter().next().map(Some)),
            Err(EngineError::Unavailable(_) | EngineError::NoSuchLog(_) | EngineError::Trimmed { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The log's head, as soon as there is a log and an engine that says so. A log that is not there
    /// although the replica has applied rows of it has lost them.
    async fn head(&self, core: Option<&Core>) -> Result<Head, Error> {
        let shards = [self.replica.shard().clone()];
        let wait = |reason: String| {
            if self.replica.progress.borrow().phase != Phase::Serving {
                self.replica.set_phase(Phase::Recovering, reason);
            }
        };
        loop {
            match self.shared.engine.log.heads(&shards).await {
                Ok(heads) => match (heads.into_iter().next().flatten(), core) {
                    (Some(head), _) => return Ok(head),
                    (None, Some(core)) if core.applied().seq > Seq(0) => {
                        self.replica.set_broken(core, "the shard has no log any more");
                    }
                    (None, _) => wait("the shard has no log yet".to_owned()),
                },
                Err(EngineError::Unavailable(error)) => wait(format!("the cluster engine is unavailable: {error}")),
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(ENGINE_PAUSE).await;
        }
    }

    /// Makes the replica anew: from another leaf's, else from a log that reaches back to its start.
    /// Until then it holds nothing that anybody could count on.
    pub(super) async fn recover(&self, reason: String) -> Result<(), Error> {
        let shard = self.replica.shard();
        let view = self.viewer.view();
        if view.assignments.get(shard).is_some_and(|record| !record.leaves.contains(&self.shared.config.name)) {
            return Err(Error::Anew(format!("{reason}; and it is not assigned to this leaf any more")));
        }
        tracing::warn!(%shard, reason, "replica is made anew");
        self.replica.set_whole();
        self.replica.empty.store(true, Ordering::Relaxed);
        self.replica.set_phase(Phase::Recovering, format!("is made anew: {reason}"));
        self.replica.searcher.store(None);
        self.replica.outcomes.lock().clear();
        self.replica.progress.send_modify(|progress| {
            (progress.applied, progress.committed) = (Generation::default(), Generation::default());
            progress.chain = 0;
        });
        if !self.sources().is_empty() {
            self.replica.set_phase(Phase::Recovering, format!("waits for its turn to be copied: {reason}"));
            let _slot = self.shared.copy_slots.acquire().await;
            return self.copy(&reason).await;
        }
        if self.head(None).await?.trimmed == Seq(0) {
            tracing::warn!(%shard, "no other leaf serves the shard: the replica begins anew from the start of its log");
            let dir = self.dir.clone();
            return blocking(move || dir.reset()).await;
        }
        Err(Error::Anew(format!("{reason}; no other leaf serves this shard, so there is nothing to make it from")))
    }

    /// Copies the replica from one of the leaves that serve it; waits while all that could give a copy are busy.
    async fn copy(&self, reason: &str) -> Result<(), Error> {
        let (shard, config) = (self.replica.shard(), &self.shared.config);
        loop {
            let mut failed = Error::Anew(format!("{reason}; no other leaf serves this shard any more"));
            for source in &self.sources() {
                self.replica.set_phase(Phase::Recovering, format!("is copied from leaf {}: {reason}", source.leaf));
                self.replica.recovery.copies(&source.leaf);
                let own = (&config.name, Caller(config.speaks.protocol));
                let copied = client::recover(&config.copy, own, source, shard, &self.dir, &self.replica.copying).await;
                self.replica.recovery.copied(&self.replica.copying);
                self.replica.copying.end();
                match copied {
                    Ok(queries) => {
                        self.replica.recent.adopt(queries);
                        return Ok(());
                    }
                    Err(error) => {
                        self.replica.copying.hold(None);
                        tracing::warn!(%shard, source = %source.leaf, reason = error.reason(), "cannot copy the replica");
                        failed = error;
                    }
                }
            }
            if !matches!(failed, Error::Busy(_)) {
                return Err(failed);
            }
            self.replica.set_phase(Phase::Recovering, format!("waits to be copied, {failed}: {reason}"));
            tokio::time::sleep(BUSY_PAUSE).await;
        }
    }

    /// Waits before the next attempt: at most so long, less when a leaf comes to serve that did not.
    pub(super) async fn pause(&self, pause: Duration) {
        let before = self.sources();
        let mut views = self.viewer.subscribe();
        let news = async {
            while self.sources().iter().all(|source| before.contains(source)) {
                if views.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = news => {}
        }
    }

    /// The leaves that serve the shard, live ones only, in an order that differs from leaf to leaf.
    pub(super) fn sources(&self) -> Vec<Source> {
        let view = self.viewer.view();
        let own = &self.shared.config.name;
        let serving = view.serving.get(self.replica.shard()).map_or(&[][..], Vec::as_slice);
        let others = serving.iter().filter(|leaf| *leaf != own).filter_map(|leaf| view.leaf(leaf));
        let mut sources: Vec<_> = others
            .filter(|node| node.alive)
            .map(|node| Source { leaf: node.record.name.clone(), grpc: node.record.grpc.clone() })
            .collect();
        let order =
            |leaf: &NodeName| xxhash_rust::xxh3::xxh3_64(format!("{own}/{leaf}/{}", self.replica.shard()).as_bytes());
        sources.sort_by_key(|source| order(&source.leaf));
        sources
    }
}
