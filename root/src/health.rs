//! Red, yellow, green: pure functions of the view and of which connections work.
//!
//! Red: a shard has no serving replica. Yellow: a configured replica is not serving. Else green. A leaf
//! whose connection is broken serves nothing, at once, without waiting for its record to stand still.

use std::time::Duration;

use tokio::time::Instant;
use trawl_cluster::catalog::IndexRecord;
use trawl_cluster::view::View;
use trawl_proto::NodeName;

use crate::request::{Health, HealthStatus, IndexHealth};
use crate::root::Root;
use crate::scatter::load_of;

/// How often health is looked at again while somebody waits for it: connections change without a new
/// view.
const POLL: Duration = Duration::from_millis(50);

/// Health now.
pub(crate) fn now(root: &Root, names: &[String]) -> Health {
    let view = root.viewer.view();
    let load = load_of(&root.leaves, &view);
    of(&view, &|leaf| !load(leaf).gone, names)
}

/// Health when it is at least this good, or when the time is over.
pub(crate) async fn wait(root: &Root, names: &[String], wanted: HealthStatus, timeout: Duration) -> Health {
    let deadline = Instant::now() + timeout;
    loop {
        let mut health = now(root, names);
        if health.status <= wanted {
            return health;
        }
        if Instant::now() >= deadline {
            health.timed_out = true;
            return health;
        }
        tokio::time::sleep(POLL.min(deadline.saturating_duration_since(Instant::now()))).await;
    }
}

/// Health of the named indices (all when there is no name). `here` says whether a leaf can be reached.
fn of(view: &View, here: &dyn Fn(&NodeName) -> bool, names: &[String]) -> Health {
    let named = |record: &&std::sync::Arc<IndexRecord>| names.is_empty() || names.contains(&record.name);
    let indices: Vec<_> = view.indices.values().filter(named).map(|record| of_index(view, here, record)).collect();
    let sum = |count: fn(&IndexHealth) -> u32| indices.iter().map(count).sum();
    let leaves = view.leaves().filter(|node| node.alive && here(&node.record.name)).count() as u32;
    let roots = view.roots().filter(|node| node.alive).count() as u32;
    Health {
        status: indices.iter().map(|index| index.status).max().unwrap_or(HealthStatus::Green),
        timed_out: false,
        nodes: roots + leaves,
        leaves,
        shards_served: sum(|index| index.shards_served),
        replicas_serving: sum(|index| index.replicas_serving),
        replicas_recovering: sum(|index| index.replicas_recovering),
        replicas_unassigned: sum(|index| index.replicas_unassigned),
        reasons: if indices.iter().all(|index| index.status == HealthStatus::Green) {
            Vec::new()
        } else {
            indices.iter().filter_map(|index| too_few_leaves(&index.name, index.replicas, leaves)).collect()
        },
        indices,
    }
}

/// Why an index can never be green as things are.
pub(crate) fn too_few_leaves(name: &str, replicas: u32, leaves: u32) -> Option<String> {
    let copies = 1 + replicas;
    (copies > leaves).then(|| {
        format!(
            "index [{name}] has [number_of_replicas] {replicas}, so {copies} copies of each shard, but there are {leaves} leaves \
             and each holds one copy of a shard"
        )
    })
}

fn of_index(view: &View, here: &dyn Fn(&NodeName) -> bool, record: &IndexRecord) -> IndexHealth {
    let mut health = IndexHealth {
        name: record.name.clone(),
        status: HealthStatus::Green,
        shards: record.shards,
        replicas: record.replicas,
        shards_served: 0,
        replicas_serving: 0,
        replicas_recovering: 0,
        replicas_unassigned: 0,
    };
    for shard in record.shard_keys() {
        let reachable = |leaves: &[NodeName]| leaves.iter().filter(|leaf| here(leaf)).count() as u32;
        let serving = view.serving.get(&shard).map_or(0, |leaves| reachable(leaves));
        let assigned = view.assignments.get(&shard).map_or(0, |assignment| reachable(&assignment.leaves));
        health.shards_served += u32::from(serving > 0);
        health.replicas_serving += serving;
        health.replicas_recovering += assigned.saturating_sub(serving);
        health.replicas_unassigned += (1 + record.replicas).saturating_sub(assigned.max(serving));
        let status = match serving {
            0 => HealthStatus::Red,
            serving if serving <= record.replicas => HealthStatus::Yellow,
            _ => HealthStatus::Green,
        };
        health.status = health.status.max(status);
    }
    health
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use trawl_cluster::catalog::AssignmentRecord;
    use trawl_proto::ShardKey;

    use super::*;

    fn view() -> View {
        let record = IndexRecord::new("books", "u".into(), 2, 1);
        let mut view = View::default();
        for shard in record.shard_keys() {
            let leaves = vec![NodeName::from("leaf-0"), NodeName::from("leaf-1")];
            view.serving.insert(shard.clone(), leaves.clone());
            view.assignments.insert(shard, Arc::new(AssignmentRecord { format: 1, leaves, leaving: Vec::new() }));
        }
        view.indices.insert("books".to_owned(), Arc::new(record));
        view
    }

    #[test]
    fn a_broken_connection_counts_at_once() {
        let mut view = view();
        assert_eq!(of(&view, &|_| true, &[]).status, HealthStatus::Green);
        let health = of(&view, &|leaf| leaf.as_str() == "leaf-0", &[]);
        assert_eq!((health.status, health.replicas_serving, health.replicas_unassigned), (HealthStatus::Yellow, 2, 2));
        assert_eq!(health.reasons.len(), 1, "two copies, and no leaf is known to be alive");
        assert_eq!(of(&view, &|_| false, &[]).status, HealthStatus::Red);
        view.serving.remove(&ShardKey::new("u", 1));
        let health = of(&view, &|_| true, &[]);
        assert_eq!((health.status, health.shards_served, health.replicas_recovering), (HealthStatus::Red, 1, 2));
        assert_eq!(of(&view, &|_| true, &["other".to_owned()]).status, HealthStatus::Green);
    }
}
