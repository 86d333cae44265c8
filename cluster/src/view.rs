//! One immutable picture of everything in the store, kept current by one task.
//!
//! A node is alive while its counter changes: judged by this observer's own monotonic clock, never
//! by a time that another machine wrote down. Counters that merely grow do not make a new picture.

mod state;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use trawl_proto::{Epoch, Generation, IndexUid, NodeName, ShardKey};

use self::state::ViewState;
use crate::catalog::{AssignmentRecord, IndexRecord, NodeRecord, Role, keys};
use crate::store::Revision;
use crate::vital::vital;
use crate::{Speaks, Store, protocol};

/// How long to wait before an unreachable engine is asked again whether a node lives.
const CONFIRM_PAUSE: Duration = Duration::from_millis(250);

/// Everything in the store as of one revision. Ordered throughout, so that whoever goes through it takes the same
/// steps every time.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Index definitions by name.
    pub indices: BTreeMap<String, Arc<IndexRecord>>,
    /// The same by uid.
    pub uids: BTreeMap<IndexUid, Arc<IndexRecord>>,
    /// All mapping versions of all indices, as JSON.
    pub mappings: BTreeMap<(IndexUid, u64), Bytes>,
    /// All registered processes.
    pub nodes: BTreeMap<(Role, NodeName), Node>,
    /// Which leaves hold a shard.
    pub assignments: BTreeMap<ShardKey, Arc<AssignmentRecord>>,
    /// Which leaves answer for a shard, sorted: those that vouch for it, are assigned, still run the process
    /// that vouched, and take part. Whether they are alive is not considered. A shard without any has
    /// no entry.
    pub serving: BTreeMap<ShardKey, Vec<NodeName>>,
    /// Operations that no replica applies, by place, and why. A shard without any has no entry.
    pub skips: BTreeMap<ShardKey, Arc<BTreeMap<Generation, Arc<str>>>>,
    /// Leaves that are to hold nothing, whether they are registered or not.
    pub drains: BTreeSet<NodeName>,
    /// Replicas that are to go: the shard, the leaf it is on, and the leaf to go to.
    pub moves: BTreeMap<(ShardKey, NodeName), NodeName>,
    /// Who leads; `None` when nobody does or the holder's counter stands still.
    pub leader: Option<Leader>,
    /// Records that cannot be understood, by key, and why. What was understood of such a key before stays as it was,
    /// and [`Self::revision_of`] knows it no more: nobody overwrites it who goes by this picture.
    pub unreadable: BTreeMap<String, String>,
    /// The store's revision when this picture was made. It may lag behind [`Viewer::at_least`] by
    /// commits that only let counters grow.
    pub revision: Revision,
    revisions: HashMap<Arc<str>, Revision>,
    protocol: Option<u32>,
}

impl View {
    /// The cluster's protocol.
    pub fn protocol(&self) -> u32 {
        self.protocol.unwrap_or(protocol::FIRST)
    }

    /// Whether a node takes part: others neither ask it nor give it anything to hold.
    pub fn takes_part(&self, record: &NodeRecord) -> bool {
        Speaks::of(record).includes(self.protocol())
    }

    /// The revision that last wrote the key, for guards; `None` when the key is not there. Not kept
    /// for the lease and nodes, whose counters change all the time.
    pub fn revision_of(&self, key: &str) -> Option<Revision> {
        self.revisions.get(key).copied()
    }

    /// The leaf of this name.
    pub fn leaf(&self, name: &NodeName) -> Option<&Node> {
        self.nodes.get(&(Role::Leaf, name.clone()))
    }

    /// All leaves, by name.
    pub fn leaves(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| node.record.role == Role::Leaf)
    }

    /// All roots, by name.
    pub fn roots(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| node.record.role == Role::Root)
    }
}

/// A registered process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it wrote about itself. The counter is that of the time of the picture's last change.
    pub record: NodeRecord,
    /// Whether its counter changed within the lease time, by this observer's monotonic clock. Stays
    /// as it is while the engine cannot be read.
    pub alive: bool,
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The root's name.
    pub name: NodeName,
    /// Its epoch.
    pub epoch: Epoch,
    /// Since when: milliseconds since the epoch, by the leader's clock.
    pub since_ms: u64,
}

/// Keeps a [`View`] current. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Viewer {
    views: watch::Receiver<Arc<View>>,
    /// The revision up to which the store has been seen; `None` before the first snapshot.
    seen: watch::Receiver<Option<Revision>>,
}

impl Viewer {
    /// Starts to follow the store, until `shutdown`. Spawns one task on the current runtime.
    pub fn start(store: Arc<dyn Store>, lease_time: Duration, shutdown: CancellationToken) -> Self {
        let (views_sender, views) = watch::channel(Arc::new(View::default()));
        let (seen_sender, seen) = watch::channel(None);
        let follower = Follower { store, state: ViewState::new(lease_time), views: views_sender, seen: seen_sender };
        vital("view", async move {
            shutdown.run_until_cancelled(follower.run()).await;
        });
        Self { views, seen }
    }

    /// The present picture; empty before the first snapshot.
    pub fn view(&self) -> Arc<View> {
        self.views.borrow().clone()
    }

    /// Every new picture; those in between may be skipped.
    pub fn subscribe(&self) -> watch::Receiver<Arc<View>> {
        self.views.clone()
    }

    /// Returns when the first snapshot is in (never, if the engine stays out of reach).
    pub async fn ready(&self) {
        let _ = self.seen.clone().wait_for(Option::is_some).await;
    }

    /// Waits until the picture holds everything up to the revision; false when that took longer than
    /// the timeout or the viewer has been shut down.
    pub async fn at_least(&self, revision: Revision, timeout: Duration) -> bool {
        let mut seen = self.seen.clone();
        let arrived = seen.wait_for(|seen| seen.is_some_and(|seen| seen >= revision));
        matches!(tokio::time::timeout(timeout, arrived).await, Ok(Ok(_)))
    }
}

/// The task behind a [`Viewer`].
struct Follower {
    store: Arc<dyn Store>,
    state: ViewState,
    views: watch::Sender<Arc<View>>,
    seen: watch::Sender<Option<Revision>>,
}

impl Follower {
    /// Applies changes as they come and, when a counter has stood still for the lease time, looks
    /// once more by a direct read before anyone is called dead: an engine that cannot be read, or a
    /// process that was paused, proves nothing about others.
    async fn run(mut self) {
        let mut changes = self.store.watch("");
        loop {
            let expiry = self.state.next_expiry();
            tokio::select! {
                biased;
                change = changes.next() => {
                    let Some(change) = change else { return };
                    self.state.apply(change, Instant::now());
                    while let Some(Some(change)) = changes.next().now_or_never() {
                        self.state.apply(change, Instant::now());
                    }
                }
                () = sleep_until(expiry) => self.confirm().await,
            }
            self.publish();
        }
    }

    /// Reads the counters directly and only then judges who is gone.
    async fn confirm(&mut self) {
        let fresh = async {
            let (nodes, _) = self.store.list(keys::NODES).await?;
            let lease = self.store.get(keys::LEASE).await?;
            Ok::<_, crate::Error>(nodes.into_iter().chain(lease))
        };
        match fresh.await {
            Ok(entries) => {
                let now = Instant::now();
                self.state.observe(entries, now);
                self.state.expire(now);
            }
            Err(error) => {
                tracing::debug!(%error, "cannot confirm who is alive");
                tokio::time::sleep(CONFIRM_PAUSE).await;
            }
        }
    }

    fn publish(&mut self) {
        if let Some(view) = self.state.take_changed() {
            self.views.send_replace(view);
        }
        self.seen.send_replace(self.state.seen());
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
