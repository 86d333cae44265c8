//! Makes what is on this leaf equal to what the store says.
//!
//! One loop compares the two and acts on the difference: replicas are opened and closed, serving records written
//! and removed, directories of what is gone deleted. A leaf acts only on what it reads from the store, never on a
//! leader's word.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use trawl_cluster::catalog::{ServingRecord, keys};
use trawl_cluster::store::{Revision, Write};
use trawl_cluster::{Engine, View, Viewer, outage};
use trawl_data::mapping::Mapping;
use trawl_proto::{IndexUid, NodeName, ShardKey};

use super::SHUTDOWN_TIMEOUT;
use super::directory::DataDir;
use crate::apply::Mappings;
use crate::error::Error;
use crate::grpc::Service;
use crate::replica::tail::{Shared, Tail, blocking};
use crate::replica::{Phase, Replica};

/// How often the loop looks although nothing told it to: for writes to the store that failed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long the view may take to show what this leaf wrote.
const VIEW_TIMEOUT: Duration = Duration::from_secs(1);
/// Mapping versions that a replica keeps parsed.
const MAPPINGS_MAX: usize = 16;

/// One replica that runs here.
struct Running {
    replica: Arc<Replica>,
    /// Since when it is not assigned to this leaf any more: it does not serve, but still answers.
    retired_at: Option<Instant>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// The loop, and what it knows.
pub(super) struct Keeper {
    service: Arc<Service>,
    shared: Arc<Shared>,
    viewer: Viewer,
    data_dir: DataDir,
    process: String,
    /// A replica's phase changed, or a replica has closed.
    changed: Arc<Notify>,
    running: HashMap<ShardKey, Running>,
    closing: HashMap<ShardKey, JoinHandle<()>>,
    /// Shards for which this process has written a serving record.
    published: HashSet<ShardKey>,
    /// Whether directories have been compared with the store since the last change.
    cleaned: bool,
    /// The store's revision at which stale serving records were looked for.
    compared: Option<Revision>,
    /// The store's revision that was noted last.
    seen: Option<Revision>,
}

impl Keeper {
    /// One that has nothing open yet, for this process of the leaf.
    pub(super) fn new(
        service: Arc<Service>,
        shared: Arc<Shared>,
        viewer: Viewer,
        data_dir: DataDir,
        process: String,
    ) -> Self {
        Self {
            service,
            shared,
            viewer,
            data_dir,
            process,
            changed: Arc::new(Notify::new()),
            running: HashMap::new(),
            closing: HashMap::new(),
            published: HashSet::new(),
            cleaned: false,
            compared: None,
            seen: None,
        }
    }

    /// Never returns; [`Keeper::close`] closes what it has opened.
    pub(super) async fn run(&mut self) {
        self.viewer.ready().await;
        let mut views = self.viewer.subscribe();
        loop {
            let view = views.borrow_and_update().clone();
            self.saw(&view).await;
            self.open_and_close(&view);
            // What cannot be read may say that a replica is wanted.
            let is_known = self.seen == Some(view.revision) && view.unreadable.is_empty();
            if !self.cleaned && self.closing.is_empty() && is_known {
                self.clean(&view).await;
            }
            self.catch_up_when_expelled(&view).await;
            self.publish(&view).await;
            tokio::select! {
                _ = views.changed() => {}
                () = self.changed.notified() => {}
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
        }
    }

    /// Notes how new the store is, before anything is done about what it says.
    async fn saw(&mut self, view: &Arc<View>) {
        if self.seen == Some(view.revision) {
            return;
        }
        let (data_dir, seen) = (self.data_dir.clone(), view.clone());
        match blocking(move || data_dir.saw(&seen)).await {
            Ok(()) => self.seen = Some(view.revision),
            Err(error) => tracing::warn!(error = error.reason(), "cannot note the store's revision"),
        }
    }

    fn open_and_close(&mut self, view: &View) {
        let closed = self.closing.len();
        self.closing.retain(|_, task| !task.is_finished());
        if self.closing.len() != closed {
            self.cleaned = false;
        }
        let assigned: HashSet<ShardKey> = assigned(view, &self.service.name).collect();
        for shard in self.retire(view, &assigned) {
            if let Some(running) = self.running.remove(&shard) {
                tracing::info!(%shard, "replica is closed");
                self.service.replicas.0.write().remove(&shard);
                running.stop.cancel();
                running.replica.leave();
                self.closing.insert(shard, running.task);
            }
        }
        for shard in assigned {
            let Some(record) = view.uids.get(&shard.index_uid) else { continue };
            if let Some(running) = self.running.get(&shard) {
                running.replica.set_refresh_interval(record.refresh_interval_ms);
                running.replica.set_skips(view.skips.get(&shard));
            } else if !self.closing.contains_key(&shard) {
                let running = self.open(view, &shard, record.mapping_version);
                running.replica.set_index_name(&record.name);
                running.replica.set_refresh_interval(record.refresh_interval_ms);
                self.service.replicas.0.write().insert(shard.clone(), running.replica.clone());
                self.running.insert(shard, running);
            }
        }
    }

    /// Notes which replicas are not assigned to this leaf any more; returns those whose time is over, and
    /// those of indices that are gone. One that is assigned again meanwhile just goes on.
    fn retire(&mut self, view: &View, assigned: &HashSet<ShardKey>) -> Vec<ShardKey> {
        let mut over = Vec::new();
        for (shard, running) in &mut self.running {
            if assigned.contains(shard) {
                running.retired_at = None;
                continue;
            }
            let retired_at = *running.retired_at.get_or_insert_with(|| {
                tracing::info!(%shard, "replica is not assigned to this leaf any more");
                Instant::now()
            });
            // Who assigned it elsewhere has removed its serving record; that is no expulsion.
            self.published.remove(shard);
            let is_gone = view.unreadable.is_empty() && !view.uids.contains_key(&shard.index_uid);
            if is_gone || retired_at.elapsed() >= self.shared.config.retire_time {
                over.push(shard.clone());
            }
        }
        over
    }

    fn open(&self, view: &View, shard: &ShardKey, mapping_version: u64) -> Running {
        tracing::info!(%shard, "opening replica");
        let outcomes_max = self.shared.config.outcomes_max;
        let replica = Arc::new(Replica::new(shard.clone(), outcomes_max, self.changed.clone()));
        replica.set_skips(view.skips.get(shard));
        let (viewer, engine, uid) = (self.viewer.clone(), self.shared.engine.clone(), shard.index_uid.clone());
        let tail = Tail {
            replica: replica.clone(),
            shared: self.shared.clone(),
            dir: self.data_dir.replica(shard),
            mapping_version,
            viewer: self.viewer.clone(),
            mappings: Box::new(move || mappings(viewer.clone(), engine.clone(), uid.clone())),
        };
        let stop = CancellationToken::new();
        let (own_stop, changed) = (stop.clone(), self.changed.clone());
        let task = tokio::spawn(async move {
            tail.run(own_stop).await;
            changed.notify_one();
        });
        Running { replica, retired_at: None, stop, task }
    }

    /// A root takes a replica out of the serving set when it misses a refresh (its process hung, say).
    /// It comes back when it shows everything that is in the log now.
    async fn catch_up_when_expelled(&mut self, view: &View) {
        let is_expelled = |shard: &&ShardKey| view.revision_of(&keys::serving(shard, &self.service.name)).is_none();
        let expelled: Vec<ShardKey> = self.published.iter().filter(is_expelled).cloned().collect();
        if expelled.is_empty() {
            return;
        }
        match self.shared.engine.log.heads(&expelled).await {
            Ok(heads) => {
                for (shard, head) in expelled.into_iter().zip(heads) {
                    if let (Some(running), Some(head)) = (self.running.get(&shard), head) {
                        tracing::warn!(%shard, "replica was taken out of the serving set and catches up");
                        running.replica.stop_serving_until(head.last, "taken out of the serving set");
                    }
                    self.published.remove(&shard);
                }
            }
            Err(error) => outage::warn(&error, "cannot read the heads of replicas that were taken out"),
        }
    }

    /// Writes and removes serving records until the store says what is true.
    async fn publish(&mut self, view: &View) {
        let stale = self.stale(view);
        let name = &self.service.name;
        let mut writes = Vec::new();
        let mut published = self.published.clone();
        for (shard, running) in &self.running {
            let key = keys::serving(shard, name);
            let stored = view.revision_of(&key).is_some();
            if running.retired_at.is_none() && running.replica.progress().phase == Phase::Serving {
                if !stored || !published.contains(shard) {
                    let record = ServingRecord { format: 1, process: self.process.clone() };
                    let Ok(value) = serde_json::to_vec(&record) else { continue };
                    writes.push(Write::Put(key, value.into()));
                    published.insert(shard.clone());
                }
            } else if stored || published.contains(shard) {
                writes.push(Write::Delete(key));
                published.remove(shard);
            }
        }
        for shard in stale {
            writes.push(Write::Delete(keys::serving(&shard, name)));
        }
        for shard in &self.published {
            if !self.running.contains_key(shard) {
                writes.push(Write::Delete(keys::serving(shard, name)));
                published.remove(shard);
            }
        }
        if writes.is_empty() {
            return;
        }
        match self.shared.engine.store.commit(&[], &writes).await {
            Ok(revision) => {
                self.published = published;
                self.viewer.at_least(revision, VIEW_TIMEOUT).await;
            }
            Err(error) => {
                self.compared = None;
                outage::warn(&error, "cannot write serving records");
            }
        }
    }

    /// Shards of which the store says that this leaf serves them although nothing of them is here: from an
    /// earlier process, or written while the shard was given to another leaf. The leader does not assign
    /// them to this leaf before that is gone.
    fn stale(&mut self, view: &View) -> Vec<ShardKey> {
        if self.compared == Some(view.revision) {
            return Vec::new();
        }
        self.compared = Some(view.revision);
        let is_here = |shard: &ShardKey| self.running.contains_key(shard) || self.published.contains(shard);
        let is_stored = |shard: &ShardKey| view.revision_of(&keys::serving(shard, &self.service.name)).is_some();
        view.assignments.keys().filter(|shard| !is_here(shard) && is_stored(shard)).cloned().collect()
    }

    /// Removes directories of replicas that the store has not assigned to this leaf.
    async fn clean(&mut self, view: &Arc<View>) {
        let (data_dir, view) = (self.data_dir.clone(), view.clone());
        let keep: HashSet<ShardKey> = self.running.keys().cloned().collect();
        match blocking(move || data_dir.clean(&view, &keep)).await {
            Ok(()) => self.cleaned = true,
            Err(error) => tracing::warn!(error = error.reason(), "cannot remove directories of replicas that are gone"),
        }
    }

    /// Leaves the serving set, then commits and closes every replica.
    pub(super) async fn close(&mut self) {
        let writes: Vec<Write> =
            self.published.drain().map(|shard| Write::Delete(keys::serving(&shard, &self.service.name))).collect();
        if !writes.is_empty() {
            let removed = self.shared.engine.store.commit(&[], &writes);
            if !matches!(tokio::time::timeout(VIEW_TIMEOUT, removed).await, Ok(Ok(_))) {
                tracing::warn!("could not remove the serving records");
            }
        }
        for running in self.running.values() {
            running.stop.cancel();
        }
        let tasks = self.running.drain().map(|(shard, running)| (shard, running.task)).chain(self.closing.drain());
        for (shard, task) in tasks {
            if tokio::time::timeout(SHUTDOWN_TIMEOUT, task).await.is_err() {
                tracing::warn!(%shard, "replica did not close in time; it will replay its log");
            }
        }
        self.service.replicas.0.write().clear();
    }
}

/// The shards that the store assigns to a leaf, of indices that exist.
fn assigned<'a>(view: &'a View, name: &'a NodeName) -> impl Iterator<Item = ShardKey> + 'a {
    view.assignments
        .iter()
        .filter(move |(shard, record)| record.leaves.contains(name) && view.uids.contains_key(&shard.index_uid))
        .map(|(shard, _)| shard.clone())
}

/// Mapping versions of one index: from the view, or from the store when the view is behind. Called on
/// blocking threads only.
fn mappings(viewer: Viewer, engine: Engine, uid: IndexUid) -> Mappings {
    let runtime = tokio::runtime::Handle::current();
    let mut parsed: HashMap<u64, Mapping> = HashMap::new();
    Box::new(move |version| {
        if let Some(mapping) = parsed.get(&version) {
            return Ok(mapping.clone());
        }
        if version == 0 {
            return Ok(Mapping::default());
        }
        let key = keys::mapping(&uid, version);
        let known = viewer.view().mappings.get(&(uid.clone(), version)).cloned();
        let bytes = match known {
            Some(bytes) => bytes,
            None => match runtime.block_on(engine.store.get(&key))? {
                Some(entry) => entry.value,
                None => return Err(Error::Unreadable(format!("{key} is not in the store"))),
            },
        };
        let json = serde_json::from_slice(&bytes).map_err(|error| Error::Unreadable(format!("{key}: {error}")))?;
        let mapping = Mapping::from_stored(&json).map_err(|error| Error::Unreadable(format!("{key}: {error}")))?;
        if parsed.len() >= MAPPINGS_MAX {
            parsed.clear();
        }
        parsed.insert(version, mapping.clone());
        Ok(mapping)
    })
}
