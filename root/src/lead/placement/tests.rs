//! Tests of the placement.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;
use trawl_cluster::catalog::{AssignmentRecord, NodeRecord, Role};
use trawl_cluster::view::Node;

use super::*;

fn record(name: &str, shards: u32, replicas: u32) -> Arc<IndexRecord> {
    Arc::new(IndexRecord {
        format: 1,
        name: name.to_owned(),
        uid: IndexUid(format!("uid-{name}")),
        shards,
        replicas,
        refresh_interval_ms: None,
        mapping_version: 1,
        created_ms: 0,
        log_bytes_max: None,
        log_age_max_ms: None,
        replace_after_ms: None,
    })
}

fn leaf(name: &str, zone: Option<&str>, alive: bool) -> Node {
    let record = NodeRecord {
        format: 1,
        name: name.into(),
        role: Role::Leaf,
        process: "p".to_owned(),
        counter: 0,
        grpc: "127.0.0.1:1".to_owned(),
        http: None,
        zone: zone.map(str::to_owned),
        version: String::new(),
        started_ms: 0,
        protocol: 1,
        capacity_bytes: None,
    };
    Node { record, alive }
}

fn loads(leaves: &[Node], assignments: &[(ShardKey, Vec<NodeName>)]) -> Loads {
    let mut view = View::default();
    for node in leaves {
        view.nodes.insert((Role::Leaf, node.record.name.clone()), node.clone());
    }
    for (shard, leaves) in assignments {
        view.assignments.insert(
            shard.clone(),
            Arc::new(AssignmentRecord { format: 1, leaves: leaves.clone(), leaving: Vec::new() }),
        );
    }
    Loads::of(&view)
}

/// Places all shards of a record on leaves, on an empty view.
fn placed(record: &IndexRecord, loads: &mut Loads) -> Vec<Vec<NodeName>> {
    let view = View::default();
    let places = record.shard_keys().map(|shard| place_shard(&view, record, shard, loads));
    places.map(|place| place.map(|place| place.leaves).unwrap_or_default()).collect()
}

proptest! {
    #[test]
    fn replicas_are_distinct_live_and_even(shards in 1u32..20, replicas in 0u32..4, leaves in 1usize..8, dead in 0usize..3) {
        let nodes: Vec<_> = (0..leaves + dead).map(|n| leaf(&format!("leaf-{n}"), None, n < leaves)).collect();
        let placed = placed(&record("a", shards, replicas), &mut loads(&nodes, &[]));
        let mut held: HashMap<NodeName, usize> = HashMap::new();
        for leaves_of_shard in &placed {
            let distinct: BTreeSet<_> = leaves_of_shard.iter().collect();
            prop_assert_eq!(distinct.len(), leaves_of_shard.len());
            prop_assert_eq!(leaves_of_shard.len(), leaves.min(1 + replicas as usize));
            for leaf in leaves_of_shard {
                *held.entry(leaf.clone()).or_default() += 1;
            }
        }
        let alive = |name: &NodeName| nodes.iter().any(|node| node.alive && node.record.name == *name);
        prop_assert!(held.keys().all(alive));
        let most = held.values().max().copied().unwrap_or(0);
        let least = (0..leaves).map(|n| held.get(&NodeName(format!("leaf-{n}"))).copied().unwrap_or(0)).min().unwrap_or(0);
        prop_assert!(most - least <= 1, "{held:?}");
    }

    #[test]
    fn zones_are_spread(shards in 1u32..10) {
        let nodes: Vec<_> = (0..6).map(|n| leaf(&format!("leaf-{n}"), Some(if n < 4 { "a" } else { "b" }), true)).collect();
        for leaves in placed(&record("a", shards, 1), &mut loads(&nodes, &[])) {
            let in_b = leaves.iter().filter(|leaf| ["leaf-4", "leaf-5"].contains(&leaf.as_str())).count();
            prop_assert_eq!(in_b, 1);
        }
    }
}

#[test]
fn missing_replicas_are_added_when_leaves_join() {
    let record = record("a", 1, 1);
    let shard = ShardKey { index_uid: record.uid.clone(), number: 0 };
    let mut view = View::default();
    let assignment = AssignmentRecord { format: 1, leaves: vec!["leaf-0".into()], leaving: Vec::new() };
    view.assignments.insert(shard.clone(), Arc::new(assignment));
    let nodes = [leaf("leaf-0", None, true), leaf("leaf-1", None, true)];
    let place = place_shard(&view, &record, shard.clone(), &mut loads(&nodes, &[]));
    assert_eq!(place.map(|place| place.leaves), Some(vec!["leaf-0".into(), "leaf-1".into()]));
    assert_eq!(place_shard(&view, &record, shard, &mut loads(&nodes[..1], &[])), None);
}

#[test]
fn a_new_index_goes_where_there_is_least() {
    let nodes = [leaf("leaf-0", None, true), leaf("leaf-1", None, true)];
    let held = [(ShardKey::new("old", 0), vec![NodeName::from("leaf-0")])];
    assert_eq!(placed(&record("a", 1, 0), &mut loads(&nodes, &held)), [vec![NodeName::from("leaf-1")]]);
}

#[test]
fn nothing_is_placed_without_leaves() {
    assert_eq!(placed(&record("a", 2, 1), &mut loads(&[], &[])), [Vec::<NodeName>::new(), Vec::new()]);
}

#[test]
fn what_is_left_of_a_deleted_index_is_removed() {
    let mut view = View::default();
    assert_eq!(decide(&view), []);
    view.mappings.insert(("gone".into(), 1), bytes::Bytes::new());
    let assignment = AssignmentRecord { format: 1, leaves: vec!["leaf-0".into()], leaving: Vec::new() };
    view.assignments.insert(ShardKey::new("gone", 0), Arc::new(assignment));
    let expected = Step::Remove { index_uid: "gone".into(), shards: vec![ShardKey::new("gone", 0)] };
    assert_eq!(decide(&view), [expected]);
    view.assignments.clear();
    assert!(matches!(&decide(&view)[..], [Step::Remove { shards, .. }] if shards.len() == SLOTS as usize));
    let record = IndexRecord { uid: "gone".into(), ..(*record("back", 1, 0)).clone() };
    view.uids.insert("gone".into(), Arc::new(record));
    assert_eq!(decide(&view), []);
}
