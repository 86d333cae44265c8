//! A model of a leaf: real membership, real view, real gRPC, and replicas that are lists of rows.
//!
//! As the real one it acts only on what the store says, follows logs, commits now and then, forgets what it has not
//! committed when it crashes, copies from others what it cannot get from the log, and tells the store what it serves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use trawl_cluster::catalog::{NodeRecord, Role, ServingRecord, keys};
use trawl_cluster::store::Write;
use trawl_cluster::{Engine, LEASE_TIME, Membership, View, Viewer};
use trawl_proto::{NodeName, ShardKey};

use crate::client::Post;
use crate::disk::{Disk, Saved};
use crate::grpc;
use crate::process::{COPY_PORT, Net, PORT};
use crate::replica::Replica;

/// How often the loop looks although nothing told it to.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What goes between leaves that copy: the shard that is wanted, and a replica of it.
#[derive(Default)]
pub struct Copies {
    pub wanted: Post<ShardKey>,
    pub given: Post<Option<Saved>>,
}

/// What all tasks of a leaf share.
pub struct Leaf {
    pub name: NodeName,
    pub process: String,
    pub zone: Option<String>,
    pub net: Net,
    pub engine: Engine,
    pub disk: Arc<Mutex<Disk>>,
    pub copies: Arc<Copies>,
    /// The replicas that are open.
    pub replicas: Mutex<BTreeMap<ShardKey, Arc<Replica>>>,
    /// A replica's phase changed.
    pub changed: Notify,
}

/// Runs until the process is killed.
pub async fn run(leaf: Leaf) {
    let leaf = Arc::new(leaf);
    let stop = CancellationToken::new();
    let viewer = Viewer::start(leaf.engine.store.clone(), LEASE_TIME, stop.clone());
    tokio::spawn(grpc::serve(leaf.clone(), leaf.net.listen(PORT)));
    tokio::spawn(give_copies(leaf.clone()));
    let _membership = loop {
        match Membership::register(leaf.engine.store.clone(), record(&leaf), LEASE_TIME, stop.clone()).await {
            Ok(membership) => break membership,
            Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    };
    let mut keeper = Keeper { leaf, viewer, running: BTreeMap::new(), published: BTreeSet::new() };
    keeper.run().await;
}

fn record(leaf: &Leaf) -> NodeRecord {
    NodeRecord {
        format: 1,
        name: leaf.name.clone(),
        role: Role::Leaf,
        process: leaf.process.clone(),
        counter: 0,
        grpc: format!("{}:{PORT}", leaf.name),
        http: None,
        zone: leaf.zone.clone(),
        version: "simulated".to_owned(),
        protocol: trawl_cluster::protocol::PROTOCOL,
        protocol_min: None,
        capacity_bytes: None,
        started_ms: 0,
    }
}

/// Gives others what replicas that are open have committed.
async fn give_copies(leaf: Arc<Leaf>) {
    let mut incoming = leaf.net.listen(COPY_PORT);
    while let Some(mut wire) = incoming.recv().await {
        let leaf = leaf.clone();
        tokio::spawn(async move {
            let Ok(shard) = leaf.copies.wanted.receive(&mut wire).await else { return };
            let is_open = leaf.replicas.lock().unwrap().get(&shard).is_some_and(|replica| replica.can_be_copied());
            let saved = leaf.disk.lock().unwrap().replicas.get(&shard).filter(|_| is_open).cloned();
            // As long as a copy of some size takes.
            let rows = saved.as_ref().map_or(0, |saved| saved.rows.len() as u64);
            tokio::time::sleep(Duration::from_millis(50 + rows * 4)).await;
            let _ = leaf.copies.given.send(&mut wire, saved).await;
        });
    }
}

/// Makes what is here equal to what the store says, as the real leaf's does.
struct Keeper {
    leaf: Arc<Leaf>,
    viewer: Viewer,
    running: BTreeMap<ShardKey, (Arc<Replica>, CancellationToken)>,
    published: BTreeSet<ShardKey>,
}

impl Keeper {
    async fn run(&mut self) {
        self.viewer.ready().await;
        let mut views = self.viewer.subscribe();
        loop {
            let view = views.borrow_and_update().clone();
            self.open_and_close(&view);
            self.publish(&view).await;
            tokio::select! {
                biased;
                _ = views.changed() => {}
                () = self.leaf.changed.notified() => {}
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
        }
    }

    fn open_and_close(&mut self, view: &View) {
        let is_ours = |shard: &ShardKey| {
            let assigned = view.assignments.get(shard).is_some_and(|record| record.leaves.contains(&self.leaf.name));
            assigned && view.uids.contains_key(&shard.index_uid)
        };
        let gone: Vec<ShardKey> = self.running.keys().filter(|shard| !is_ours(shard)).cloned().collect();
        for shard in gone {
            if let Some((_, stop)) = self.running.remove(&shard) {
                tracing::info!(%shard, "replica is not assigned to this leaf any more");
                stop.cancel();
            }
            self.leaf.replicas.lock().unwrap().remove(&shard);
        }
        self.leaf.disk.lock().unwrap().replicas.retain(|shard, _| is_ours(shard));
        for shard in view.assignments.keys().filter(|shard| is_ours(shard)) {
            if !self.running.contains_key(shard) {
                tracing::info!(%shard, "opening replica");
                let replica = Arc::new(Replica::new(shard.clone()));
                let stop = CancellationToken::new();
                let run = replica.clone().run(self.leaf.clone(), self.viewer.clone());
                tokio::spawn(stop.clone().run_until_cancelled_owned(run));
                self.leaf.replicas.lock().unwrap().insert(shard.clone(), replica.clone());
                self.running.insert(shard.clone(), (replica, stop));
            }
        }
    }

    /// Writes and removes serving records until the store says what is true.
    async fn publish(&mut self, view: &View) {
        let mut writes = Vec::new();
        let mut published = self.published.clone();
        for (shard, (replica, _)) in &self.running {
            let key = keys::serving(shard, &self.leaf.name);
            let stored = view.revision_of(&key).is_some();
            if replica.is_serving() {
                if !stored || !published.contains(shard) {
                    let record = ServingRecord { format: 1, process: self.leaf.process.clone() };
                    writes.push(Write::Put(key, serde_json::to_vec(&record).unwrap().into()));
                    published.insert(shard.clone());
                }
            } else if stored || published.contains(shard) {
                writes.push(Write::Delete(key));
                published.remove(shard);
            }
        }
        // Left by an earlier process, or written while the shard was given to another leaf.
        for shard in view.uids.values().flat_map(|record| record.shard_keys()) {
            let key = keys::serving(&shard, &self.leaf.name);
            let is_here = self.running.contains_key(&shard) || published.contains(&shard);
            if !is_here && view.revision_of(&key).is_some() {
                writes.push(Write::Delete(key));
            }
        }
        for shard in &self.published {
            if !self.running.contains_key(shard) {
                writes.push(Write::Delete(keys::serving(shard, &self.leaf.name)));
                published.remove(shard);
            }
        }
        if writes.is_empty() {
            return;
        }
        if let Ok(revision) = self.leaf.engine.store.commit(&[], &writes).await {
            self.published = published;
            self.viewer.at_least(revision, Duration::from_secs(1)).await;
        }
    }
}
