//! The state of the world as the placement wants it: the view, what the leaves say of their replicas, and
//! this leader's own clock.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use trawl_cluster::catalog::keys;
use trawl_cluster::shard_log::Head;
use trawl_cluster::view::View;
use trawl_proto::{NodeName, Seq, ShardKey, v1};

use super::placement::{Leaf, Limits, Shard, World};
use crate::config::LeadConfig;
use crate::root::Root;

/// A leaf that lives, but has not answered this leader so many times in a row, is missing as well: others may not
/// reach it either, and what it holds cannot be copied or trimmed for.
const SILENT_ROUNDS: u32 = 2;

/// Since when leaves are missing, by the clock of the leader that saw it. A new leader begins to count
/// anew: it has not seen what was before.
#[derive(Debug, Default)]
pub(super) struct Missing {
    since: HashMap<NodeName, Instant>,
}

impl Missing {
    /// Notes who is missing now: who does not live, answer or take part, or is not registered although it holds
    /// something.
    fn look(&mut self, view: &View, silent: &BTreeSet<NodeName>, now: Instant) {
        let takes_part =
            |name: &NodeName| view.leaf(name).is_some_and(|node| node.alive && view.takes_part(&node.record));
        let is_live = |name: &NodeName| takes_part(name) && !silent.contains(name);
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
    /// Replicas that have stopped, and for how long they have not served because of that.
    stuck: HashMap<ShardKey, BTreeMap<NodeName, Duration>>,
    /// Of their shards, those whose log reaches back to its start.
    whole_logs: HashSet<ShardKey>,
    /// Live leaves that have not answered for so long that they count as missing.
    silent: BTreeSet<NodeName>,
}

/// How often each live leaf has not answered in a row.
#[derive(Debug, Default)]
struct Silence(HashMap<NodeName, u32>);

impl Silence {
    /// Notes who has answered of those asked; who is silent. Nobody is while nobody answers: then the trouble is ours.
    fn note(&mut self, answered: &[(NodeName, bool)]) -> BTreeSet<NodeName> {
        self.0.retain(|name, _| answered.iter().any(|(other, _)| other == name));
        for (name, has_answered) in answered {
            let rounds = self.0.entry(name.clone()).or_default();
            *rounds = if *has_answered { 0 } else { rounds.saturating_add(1) };
        }
        if !answered.iter().any(|(_, has_answered)| *has_answered) {
            return BTreeSet::new();
        }
        self.0.iter().filter(|(_, rounds)| **rounds >= SILENT_ROUNDS).map(|(name, _)| name.clone()).collect()
    }
}

/// Asks the leaves for sizes now and then; never returns.
pub(super) async fn watch_sizes(root: &Root, sizes: &Mutex<Sizes>, changed: &Notify) {
    let mut silence = Silence::default();
    loop {
        let view = root.viewer.view();
        let (heard, answered) = ask(root, &view).await;
        let silent = silence.note(&answered);
        {
            let mut sizes = sizes.lock();
            // What nobody says anything of at the moment is as large as before.
            sizes.bytes.retain(|shard, _| view.uids.contains_key(&shard.index_uid));
            sizes.bytes.extend(heard.bytes);
            (sizes.stuck, sizes.whole_logs) = (heard.stuck, heard.whole_logs);
            for leaf in silent.difference(&sizes.silent) {
                tracing::warn!(%leaf, "the leaf lives and does not answer this leader: it counts as missing");
            }
            sizes.silent = silent;
        }
        changed.notify_one();
        tokio::time::sleep(root.config.lead.sizes_interval).await;
    }
}

/// What the live leaves say, and which of them have said anything.
async fn ask(root: &Root, view: &View) -> (Sizes, Vec<(NodeName, bool)>) {
    let clients = view.leaves().filter(|node| node.alive).filter_map(|node| root.leaves.client(&node.record));
    let calls = clients.map(|client| async move {
        (client.name().clone(), client.status(v1::StatusRequest::default(), root.config.leaves.status_timeout).await)
    });
    let (mut sizes, mut answered) = (Sizes::default(), Vec::new());
    for (leaf, answer) in futures::future::join_all(calls).await {
        answered.push((leaf.clone(), answer.is_ok()));
        for replica in answer.into_iter().flat_map(|answer| answer.replicas) {
            let Some(shard) = replica.shard.as_ref().map(ShardKey::from) else { continue };
            match replica.state() {
                v1::replica_status::State::Failed => {
                    let failing = Duration::from_millis(replica.failing_ms);
                    sizes.stuck.entry(shard).or_default().insert(leaf.clone(), failing);
                }
                v1::replica_status::State::Serving => {
                    let bytes = sizes.bytes.entry(shard).or_default();
                    *bytes = replica.bytes_on_disk.max(*bytes);
                }
                _ => {}
            }
        }
    }
    sizes.whole_logs = whole_logs(root, sizes.stuck.keys().cloned().collect()).await;
    (sizes, answered)
}

/// Those of the shards that can be made from their logs.
async fn whole_logs(root: &Root, shards: Vec<ShardKey>) -> HashSet<ShardKey> {
    if shards.is_empty() {
        return HashSet::new();
    }
    let heads = root.engine.log.heads(&shards).await.unwrap_or_default();
    let is_whole = |head: &Option<Head>| head.as_ref().is_some_and(|head| head.trimmed == Seq(0));
    shards.into_iter().zip(heads).filter(|(_, head)| is_whole(head)).map(|(shard, _)| shard).collect()
}

/// Puts the world together.
pub(super) fn world(view: &View, missing: &mut Missing, sizes: &Sizes, config: &LeadConfig) -> World {
    let now = Instant::now();
    missing.look(view, &sizes.silent, now);
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
        stuck: sizes
            .stuck
            .get(key)
            .into_iter()
            .flatten()
            .filter(|(leaf, _)| leaves.contains(leaf))
            .map(|(leaf, time)| (leaf.clone(), *time))
            .collect(),
        log_is_whole: sizes.whole_logs.contains(key),
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

    #[test]
    fn who_does_not_answer_twice_is_silent_unless_nobody_answers() {
        let mut silence = Silence::default();
        let mut note = |answers: [bool; 2]| {
            let answered = [("a".into(), answers[0]), ("b".into(), answers[1])];
            silence.note(&answered).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(note([true, false]), "");
        assert_eq!(note([true, false]), "b");
        assert_eq!(note([false, false]), "", "the trouble is ours");
        assert_eq!(note([true, false]), "b");
        assert_eq!(note([true, true]), "");
        assert_eq!(note([true, false]), "");
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
