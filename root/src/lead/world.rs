//! The state of the world as the placement wants it: the view, what the leaves say of their replicas, and
//! this leader's own clock.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use trawl_cluster::catalog::keys;
use trawl_cluster::view::View;
use trawl_proto::{NodeName, ShardKey, v1};

use super::placement::{Leaf, Limits, Shard, World};
use crate::config::LeadConfig;
use crate::root::Root;

/// Since when leaves are missing, by the clock of the leader that saw it. A new leader begins to count
/// anew: it has not seen what was before.
#[derive(Debug, Default)]
pub(super) struct Missing {
    since: HashMap<NodeName, Instant>,
}

impl Missing {
    /// Notes who is missing now: who does not live or take part, or is not registered although it holds something.
    fn look(&mut self, view: &View, now: Instant) {
        let is_live = |name: &NodeName| view.leaf(name).is_some_and(|node| node.alive && view.takes_part(&node.record));
        let holders = view.assignments.values().flat_map(|record| &record.leaves);
        let names = view.leaves().map(|node| &node.record.name).chain(holders);
        let missing: Vec<NodeName> = names.filter(|name| !is_live(name)).cloned().collect();
        self.since.retain(|name, _| !is_live(name));
        for name in missing {
            self.since.entry(name).or_insert(now);
        }
    }
}

/// What the leaves said last of their replicas.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    /// Bytes of the largest replica of each shard.
    bytes: HashMap<ShardKey, u64>,
    /// Replicas that have stopped.
    stuck: HashMap<ShardKey, Vec<NodeName>>,
}

/// Asks the leaves for sizes now and then; never returns.
pub(super) async fn watch_sizes(root: &Root, sizes: &Mutex<Sizes>, changed: &Notify) {
    loop {
        let view = root.viewer.view();
        let heard = ask(root, &view).await;
        {
            let mut sizes = sizes.lock();
            // What nobody says anything of at the moment is as large as before.
            sizes.bytes.retain(|shard, _| view.uids.contains_key(&shard.index_uid));
            sizes.bytes.extend(heard.bytes);
            sizes.stuck = heard.stuck;
        }
        changed.notify_one();
        tokio::time::sleep(root.config.lead.sizes_interval).await;
    }
}

async fn ask(root: &Root, view: &View) -> Sizes {
    let clients = view.leaves().filter(|node| node.alive).filter_map(|node| root.leaves.client(&node.record));
    let calls = clients.map(|client| async move {
        (client.name().clone(), client.status(v1::StatusRequest::default(), root.config.leaves.status_timeout).await)
    });
    let mut sizes = Sizes::default();
    for (leaf, answer) in futures::future::join_all(calls).await {
        for replica in answer.into_iter().flat_map(|answer| answer.replicas) {
            let Some(shard) = replica.shard.as_ref().map(ShardKey::from) else { continue };
            match replica.state() {
                v1::replica_status::State::Failed => sizes.stuck.entry(shard).or_default().push(leaf.clone()),
                v1::replica_status::State::Serving => {
                    let bytes = sizes.bytes.entry(shard).or_default();
                    *bytes = replica.bytes_on_disk.max(*bytes);
                }
                _ => {}
            }
        }
    }
    sizes
}

/// Puts the world together.
pub(super) fn world(view: &View, missing: &mut Missing, sizes: &Sizes, config: &LeadConfig) -> World {
    let now = Instant::now();
    missing.look(view, now);
    let limits = Limits { copies_per_leaf: config.copies_per_leaf_max, copies: config.copies_max };
    let mut world = World { limits, moves: view.moves.clone(), ..World::default() };
    for node in view.leaves() {
        let record = &node.record;
        let leaf = Leaf {
            zone: record.zone.clone(),
            capacity_bytes: record.capacity_bytes,
            takes_part: view.takes_part(record),
            ..Leaf::default()
        };
        world.leaves.insert(record.name.clone(), leaf);
    }
    for (name, since) in &missing.since {
        world.leaves.entry(name.clone()).or_default().missing_for = Some(now - *since);
    }
    for name in &view.drains {
        if let Some(leaf) = world.leaves.get_mut(name) {
            leaf.is_draining = true;
        }
    }
    for record in view.indices.values() {
        for key in record.shard_keys() {
            let replace_after = record.replace_after_ms.map_or(config.replace_after, Duration::from_millis);
            let wanted = 1 + record.replicas as usize;
            world.shards.insert(key.clone(), shard(view, sizes, &key, wanted, replace_after));
        }
    }
    world
}

fn shard(view: &View, sizes: &Sizes, key: &ShardKey, wanted: usize, replace_after: Duration) -> Shard {
    let assignment = view.assignments.get(key);
    let leaves = assignment.map(|record| record.leaves.clone()).unwrap_or_default();
    let says_it_serves = |leaf: &NodeName| view.revision_of(&keys::serving(key, leaf)).is_some();
    let others = view.leaves().map(|node| &node.record.name).filter(|leaf| !leaves.contains(leaf));
    let lingering = others.filter(|leaf| says_it_serves(leaf)).cloned().collect();
    let of_these = |names: Option<&Vec<NodeName>>| {
        names.into_iter().flatten().filter(|leaf| leaves.contains(leaf)).cloned().collect()
    };
    Shard {
        wanted,
        replace_after,
        leaving: of_these(assignment.map(|record| &record.leaving)),
        serving: of_these(view.serving.get(key)),
        stuck: of_these(sizes.stuck.get(key)),
        lingering,
        bytes: sizes.bytes.get(key).copied(),
        leaves,
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use trawl_cluster::catalog::{AssignmentRecord, NodeRecord, Role};
    use trawl_cluster::view::Node;

    use super::*;

    pub(in crate::lead) fn node(name: &str, alive: bool) -> ((Role, NodeName), Node) {
        let record = NodeRecord {
            format: 1,
            name: name.into(),
            role: Role::Leaf,
            process: "p".into(),
            counter: 0,
            grpc: String::new(),
            http: None,
            zone: None,
            version: String::new(),
            started_ms: 0,
            protocol: trawl_cluster::protocol::PROTOCOL,
            protocol_min: None,
            capacity_bytes: None,
        };
        ((Role::Leaf, name.into()), Node { record, alive })
    }

    #[tokio::test(start_paused = true)]
    async fn a_leaf_is_missing_since_this_leader_first_saw_it() {
        let mut view = View::default();
        view.nodes.extend([node("a", true), node("b", false)]);
        let record = AssignmentRecord { format: 1, leaves: vec!["gone".into()], leaving: Vec::new() };
        view.assignments.insert(ShardKey::new("u", 0), Arc::new(record));
        let (mut missing, sizes, config) = (Missing::default(), Sizes::default(), LeadConfig::default());
        let mut missing_for = |view: &View, name: &str| {
            world(view, &mut missing, &sizes, &config).leaves.get(&NodeName::from(name)).unwrap().missing_for
        };
        let second = Duration::from_secs(1);
        assert_eq!(missing_for(&view, "a"), None);
        tokio::time::sleep(second).await;
        // One that has left the membership is missing as well, as long as it holds something.
        assert_eq!((missing_for(&view, "b"), missing_for(&view, "gone")), (Some(second), Some(second)));
        view.nodes.extend([node("a", false), node("b", true)]);
        assert_eq!((missing_for(&view, "a"), missing_for(&view, "b")), (Some(Duration::ZERO), None));
        view.nodes.extend([node("b", false)]);
        tokio::time::sleep(second).await;
        assert_eq!((missing_for(&view, "a"), missing_for(&view, "b")), (Some(second), Some(Duration::ZERO)));
    }
}
