//! One replica, as the rest of the leaf sees it: its searcher, its progress, its recent outcomes.
//!
//! A [`Replica`] is a shared handle. Behind it one task ([`tail`]) follows the shard's log; everything
//! here only reads what that task published, or wakes it.

mod grow;
pub mod history;
pub mod lag;
pub mod open;
pub mod outcome_files;
pub mod outcomes;
mod poison;
pub mod recovery;
mod room;
pub mod slots;
pub mod tail;
pub mod trust;
pub mod verify;
pub mod warm;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use trawl_cluster::shard_log::Head;
use trawl_proto::v1::failure::Kind;
use trawl_proto::v1::{self, Failure};
use trawl_proto::{Generation, Incarnation, Seq, ShardKey, failure};

use crate::apply::Skips;
use crate::apply::pending::Pending;
use crate::error::Error;
use crate::schema::FieldMap;
use crate::{ShardSearcher, copy};
use history::Broken;
use lag::{Lag, SeenHead};
use outcome_files::OutcomeFiles;
use outcomes::Outcomes;
use poison::Poison;
use trust::Trust;

/// What a replica is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Opening, or behind the log's head as it was at opening.
    Recovering,
    /// Answers queries.
    Serving,
    /// Stopped at a seq; tried again after a pause.
    Failed,
}

/// How far a replica is.
#[derive(Clone, Debug)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// Why it is not serving, for a person; empty while it serves.
    pub reason: Arc<str>,
    /// The last operation whose outcome is known.
    pub applied: Generation,
    /// The last operation that is durable here and searchable.
    pub committed: Generation,
    /// The log's chain at the last row applied.
    pub chain: u64,
    /// The log's time at the last row applied, in milliseconds since the epoch; 0 for none.
    pub time_ms: u64,
}

/// One shard's copy on this leaf.
pub struct Replica {
    shard: ShardKey,
    /// For logs; set when it is known.
    index_name: OnceLock<Arc<str>>,
    searcher: ArcSwapOption<ShardSearcher>,
    fields: ArcSwapOption<FieldMap>,
    pending: Arc<Pending>,
    outcomes: Mutex<Outcomes>,
    /// Older ones; locked on blocking threads only.
    outcome_files: Mutex<Option<OutcomeFiles>>,
    progress: watch::Sender<Progress>,
    /// Wakes the tail: the log may have grown, or somebody wants a commit.
    wake: Notify,
    commit_wanted: AtomicU64,
    /// Refreshes that came before this replica served: it serves only when it shows them. Read and
    /// raised only under the lock of `progress`, so that none is missed by the step to serving.
    serve_from: AtomicU64,
    /// Set for good when the replica goes away; under the lock of `progress` as well.
    left: AtomicBool,
    /// In milliseconds; `u64::MAX` for never.
    refresh_interval: AtomicU64,
    /// Set when the log's head does not fit what the replica holds: the tail looks closer.
    suspect: AtomicBool,
    /// Set while the log has lost history that the replica holds.
    broken: Mutex<Option<Broken>>,
    /// Set while the replica is made anew: it holds nothing.
    empty: AtomicBool,
    /// How far its files can be relied on.
    trust: Trust,
    /// Why the tail has to stop and the replica be made anew.
    anew: Mutex<Option<String>>,
    /// How far the replica's copy from another leaf is.
    copying: Arc<copy::client::Progress>,
    bytes_on_disk: AtomicU64,
    /// Rows behind this are still needed; `u64::MAX` for none but what is not committed.
    needs_from: AtomicU64,
    /// The log's head as it was seen last.
    head: SeenHead,
    /// Operations to leave out.
    skips: Arc<Skips>,
    /// The operation that it waits before.
    poison: Mutex<Option<Poison>>,
    /// How it came to serve, or is coming to.
    recovery: recovery::Recovery,
    /// Queries that it answered lately.
    pub(crate) recent: warm::Recent,
    /// Since when it has not served because it failed.
    failing_since: Mutex<Option<Instant>>,
    /// Told of every change of the phase.
    changed: Arc<Notify>,
}

impl Replica {
    /// A replica that is not open yet. `changed` is told whenever its phase changes.
    pub fn new(shard: ShardKey, outcomes_max: usize, changed: Arc<Notify>) -> Self {
        let progress = Progress {
            phase: Phase::Recovering,
            reason: "opening".into(),
            applied: Generation::default(),
            committed: Generation::default(),
            chain: 0,
            time_ms: 0,
        };
        Self {
            shard,
            index_name: OnceLock::new(),
            searcher: ArcSwapOption::empty(),
            fields: ArcSwapOption::empty(),
            pending: Arc::default(),
            outcomes: Mutex::new(Outcomes::new(outcomes_max)),
            outcome_files: Mutex::default(),
            progress: watch::Sender::new(progress),
            wake: Notify::new(),
            commit_wanted: AtomicU64::new(0),
            serve_from: AtomicU64::new(0),
            left: AtomicBool::new(false),
            refresh_interval: AtomicU64::new(u64::MAX),
            suspect: AtomicBool::new(false),
            broken: Mutex::default(),
            empty: AtomicBool::new(false),
            trust: Trust::default(),
            anew: Mutex::default(),
            copying: Arc::default(),
            bytes_on_disk: AtomicU64::new(0),
            skips: Arc::default(),
            poison: Mutex::default(),
            needs_from: AtomicU64::new(u64::MAX),
            head: SeenHead::default(),
            recovery: recovery::Recovery::default(),
            recent: warm::Recent::default(),
            failing_since: Mutex::default(),
            changed,
        }
    }

    /// Tells the name that the index was created under.
    pub fn set_index_name(&self, name: &str) {
        if self.index_name.get().is_none() {
            // Names never change: whoever was first told the same.
            let _ = self.index_name.set(name.into());
        }
    }

    /// The name that the index was created under; empty while it is not known. For logs.
    pub fn index_name(&self) -> Arc<str> {
        self.index_name.get().cloned().unwrap_or_default()
    }

    /// The shard.
    pub fn shard(&self) -> &ShardKey {
        &self.shard
    }

    /// The present searcher.
    ///
    /// # Errors
    /// `UNAVAILABLE` while the replica is not serving.
    pub fn searcher(&self) -> Result<Arc<ShardSearcher>, Failure> {
        let progress = self.progress.borrow();
        match (progress.phase, self.searcher.load_full()) {
            (Phase::Serving, Some(searcher)) => Ok(searcher),
            _ => Err(self.unavailable(&progress)),
        }
    }

    /// A searcher that contains the operation, committing for it if need be.
    ///
    /// # Errors
    /// `UNAVAILABLE` while the replica is not serving, `DEADLINE` when it did not get there in time.
    pub async fn searcher_at_least(&self, seq: Seq, deadline: Instant) -> Result<Arc<ShardSearcher>, Failure> {
        let incarnation = self.searcher()?.generation.incarnation;
        self.searchable(Generation { incarnation, seq }, deadline).await
    }

    /// A searcher that contains the position. A later incarnation contains every earlier position
    /// that survived.
    pub async fn searchable(&self, position: Generation, deadline: Instant) -> Result<Arc<ShardSearcher>, Failure> {
        let searcher = self.searcher()?;
        if searcher.generation >= position {
            return Ok(searcher);
        }
        self.want_commit(position.seq);
        let reached = |progress: &Progress| progress.committed >= position;
        self.wait(deadline, reached, |progress| progress.phase != Phase::Serving).await?;
        self.searcher()
    }

    /// As [`Self::searchable`]; a replica that is not serving yet will not begin to before it shows
    /// the position.
    pub async fn refresh(&self, position: Generation, deadline: Instant) -> Result<(), Failure> {
        self.progress.send_if_modified(|progress| {
            if progress.phase != Phase::Serving {
                self.serve_from.fetch_max(position.seq.0, Ordering::Relaxed);
            }
            false
        });
        self.searchable(position, deadline).await.map(drop)
    }

    /// Waits until the outcome of the operation is known, also while the replica is catching up.
    pub async fn applied(&self, seq: Seq, deadline: Instant) -> Result<(), Failure> {
        if self.progress.borrow().applied.seq < seq {
            self.wake.notify_one();
        }
        let reached = |progress: &Progress| progress.applied.seq >= seq;
        self.wait(deadline, reached, |progress| progress.phase == Phase::Failed).await
    }

    /// The outcomes that are remembered of a range of operations: the recent ones from memory, those
    /// before from files. Outcomes of rows of a later incarnation are of other operations and left out.
    pub async fn outcomes(self: &Arc<Self>, incarnation: Incarnation, first: Seq, last: Seq) -> Vec<v1::Outcome> {
        let applied = self.progress.borrow().applied;
        let recent = match applied.incarnation > incarnation {
            true => Vec::new(),
            false => self.outcomes.lock().range(first.0, last.0),
        };
        let before = recent.first().map_or(last.min(applied.seq), |outcome| Seq(outcome.seq.saturating_sub(1)));
        if before < first {
            return recent;
        }
        let replica = self.clone();
        let read = tail::blocking(move || {
            let places = match replica.outcome_files.lock().as_mut() {
                Some(files) => files.find(first.0, before.0)?,
                None => Vec::new(),
            };
            let mut found = Vec::new();
            for place in places {
                let outcomes = place.read(first.0, before.0)?;
                found.extend(outcomes.into_iter().filter(|(of, _)| *of <= incarnation).map(|(_, outcome)| outcome));
            }
            Ok(found)
        });
        let mut outcomes = read.await.unwrap_or_else(|error| {
            tracing::warn!(shard = %self.shard, reason = error.reason(), "cannot read outcomes");
            Vec::new()
        });
        outcomes.extend(recent);
        outcomes
    }

    /// Begins to remember outcomes behind what the files have.
    fn remember(&self, files: OutcomeFiles) {
        // Also what was known in memory: another history may begin, and the same comes again.
        self.outcomes.lock().clear();
        *self.outcome_files.lock() = Some(files);
    }

    /// Makes the outcomes in files durable; on blocking threads only.
    fn sync_outcomes(&self) -> Result<(), Error> {
        let files = match self.outcome_files.lock().as_mut() {
            Some(files) => files.unsynced()?,
            None => Vec::new(),
        };
        files.iter().try_for_each(|file| file.sync_data()).map_err(Error::io("sync", "outcomes"))
    }

    /// Whether the id was touched since the last commit. Ask this first and take the searcher
    /// afterwards: the searcher is published before the id is forgotten here.
    pub fn is_pending(&self, id: &str) -> bool {
        self.pending.get(id).is_some()
    }

    /// How far the replica is.
    pub fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// Tells of every change of the progress.
    pub fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Sets how soon after a write the replica commits; `None` for only on demand.
    pub fn set_refresh_interval(&self, interval_ms: Option<u64>) {
        let interval = interval_ms.unwrap_or(u64::MAX);
        if self.refresh_interval.swap(interval, Ordering::Relaxed) != interval {
            self.wake.notify_one();
        }
    }

    /// How far the replica is behind its log, as far as the log has been looked at.
    pub fn lag(&self) -> Lag {
        self.head.lag(&self.progress.borrow())
    }

    /// Compares a log's head with where the replica was *before* the head was read.
    pub fn observe_head(&self, head: &Head, before: &Progress) {
        self.head.see(head.last, head.time_ms);
        let here = before.applied;
        let is_at_end = head.last == here.seq && head.chain == before.chain && head.incarnation == here.incarnation;
        let goes_on = head.last > here.seq && head.incarnation >= here.incarnation;
        let is_open = here.incarnation > Incarnation(0);
        if is_open && !is_at_end && !goes_on {
            self.suspect.store(true, Ordering::Relaxed);
            self.wake.notify_one();
        } else if head.last > here.seq {
            self.wake.notify_one();
        }
    }

    /// What users and roots are told about the replica.
    pub fn status(&self, with_fields: bool) -> v1::ReplicaStatus {
        use v1::replica_status::State;
        let progress = self.progress();
        let searcher = self.searcher.load();
        let (documents, deleted) = searcher.as_ref().map_or((0, 0), |searcher| {
            let segments = searcher.searcher.segment_readers();
            let deleted = segments.iter().map(|segment| u64::from(segment.num_deleted_docs())).sum();
            (searcher.searcher.num_docs(), deleted)
        });
        let fields = self.fields.load();
        let fields = fields.as_ref();
        let poison = self.poison();
        let (head, head_time_ms) = self.head.at_least(&progress);
        let state = match progress.phase {
            Phase::Recovering => State::Recovering,
            Phase::Serving => State::Serving,
            Phase::Failed => State::Failed,
        };
        v1::ReplicaStatus {
            shard: Some((&self.shard).into()),
            state: state.into(),
            reason: self.broken_reason().unwrap_or_else(|| progress.reason.to_string()),
            incarnation: progress.applied.incarnation.0,
            applied: progress.applied.seq.0,
            // The log is trimmed at this.
            committed: progress.committed.seq.0.min(self.needs_from.load(Ordering::Relaxed)),
            documents,
            deleted_documents: deleted,
            bytes_on_disk: self.bytes_on_disk.load(Ordering::Relaxed),
            fields_version: fields.map_or(0, |fields| fields.fields_version()),
            dynamic_fields: fields.filter(|_| with_fields).map(|fields| fields.dynamic().to_vec()).unwrap_or_default(),
            head: head.0,
            head_time_ms,
            applied_time_ms: progress.time_ms,
            chain: progress.chain,
            broken: self.is_broken(),
            copy_bytes: self.copying.bytes.load(Ordering::Relaxed),
            copied_bytes: self.copying.copied.load(Ordering::Relaxed),
            copy_generation: self.copying.generation().map(Into::into),
            failing_ms: self.failing_since.lock().map_or(0, |since| since.elapsed().as_millis().max(1) as u64),
            recovery: Some(self.recovery()),
            poison: poison.as_ref().map(|(at, _)| (*at).into()),
            poison_reason: poison.map(|(_, reason)| reason).unwrap_or_default(),
        }
    }

    /// Stops the replica; opening has to find that it is damaged.
    pub fn must_be_made_anew(&self, reason: String) {
        self.set_phase(Phase::Recovering, reason.as_str());
        *self.anew.lock() = Some(reason);
        self.wake.notify_one();
    }

    fn want_commit(&self, seq: Seq) {
        self.commit_wanted.fetch_max(seq.0, Ordering::Relaxed);
        self.wake.notify_one();
    }

    fn refresh_interval(&self) -> Option<Duration> {
        match self.refresh_interval.load(Ordering::Relaxed) {
            u64::MAX => None,
            ms => Some(Duration::from_millis(ms)),
        }
    }

    async fn wait(
        &self,
        deadline: Instant,
        reached: impl Fn(&Progress) -> bool,
        hopeless: impl Fn(&Progress) -> bool,
    ) -> Result<(), Failure> {
        let mut progress = self.progress.subscribe();
        let settled = progress.wait_for(|progress| reached(progress) || hopeless(progress));
        match tokio::time::timeout_at(deadline.into(), settled).await {
            Ok(Ok(progress)) if reached(&progress) => Ok(()),
            Ok(Ok(progress)) => Err(self.unavailable(&progress)),
            Ok(Err(_)) => Err(failure(Kind::Unavailable, format!("shard {} is closing", self.shard))),
            Err(_) => {
                let at = self.progress.borrow().applied;
                Err(failure(Kind::Deadline, format!("shard {} is only at {at}", self.shard)))
            }
        }
    }

    fn unavailable(&self, progress: &Progress) -> Failure {
        let what = match progress.phase {
            Phase::Recovering => "is recovering",
            Phase::Serving => "is opening",
            Phase::Failed => "has failed",
        };
        failure(Kind::Unavailable, format!("shard {} {what}: {}", self.shard, progress.reason))
    }

    /// What has to be searchable before the replica serves, besides what was in the log at opening.
    fn serve_from(&self) -> Seq {
        Seq(self.serve_from.load(Ordering::Relaxed))
    }

    /// Tells everybody who waits that the replica goes away.
    pub fn leave(&self) {
        self.progress.send_modify(|progress| {
            self.left.store(true, Ordering::Relaxed);
            (progress.phase, progress.reason) =
                (Phase::Failed, "the replica is not assigned to this leaf any more".into());
        });
    }

    fn has_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    /// Stops serving until everything through `seq` is searchable.
    pub fn stop_serving_until(&self, seq: Seq, reason: &str) {
        self.progress.send_modify(|progress| {
            self.serve_from.fetch_max(seq.0, Ordering::Relaxed);
            if progress.phase == Phase::Serving {
                (progress.phase, progress.reason) = (Phase::Recovering, reason.into());
            }
        });
        self.changed.notify_one();
        self.wake.notify_one();
    }

    /// Steps to serving unless a refresh came in that is not searchable yet; returns whether it did.
    fn begin_serving(&self) -> bool {
        let began = self.progress.send_if_modified(|progress| {
            let ready = progress.committed.seq >= self.serve_from() && !self.has_left() && !self.trust.is_changed();
            if ready {
                (progress.phase, progress.reason) = (Phase::Serving, "".into());
            }
            ready
        });
        if began {
            *self.failing_since.lock() = None;
        }
        self.changed.notify_one();
        began
    }

    fn set_phase(&self, phase: Phase, reason: impl Into<Arc<str>>) {
        let reason = reason.into();
        if phase == Phase::Failed {
            self.failing_since.lock().get_or_insert_with(Instant::now);
        }
        self.progress.send_if_modified(|progress| {
            let changed = !self.has_left() && (progress.phase != phase || progress.reason != reason);
            if changed {
                (progress.phase, progress.reason) = (phase, reason);
            }
            changed
        });
        self.changed.notify_one();
    }
}
