//! The picture follows the store.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use trawl_proto::{Epoch, Generation, Incarnation, NodeName, Seq, ShardKey};

use super::{View, Viewer};
use crate::Store;
use crate::catalog::{
    AssignmentRecord, DrainRecord, IndexRecord, LeaseRecord, MoveRecord, NodeRecord, ProtocolRecord, Role,
    ServingRecord, SkipRecord, keys,
};
use crate::membership::Membership;
use crate::memory::SharedStore;
use crate::store::{Revision, Write};

const LEASE: Duration = Duration::from_secs(3);

fn put(key: String, record: &impl Serialize) -> Write {
    Write::Put(key, serde_json::to_vec(record).unwrap().into())
}

fn node(role: Role, name: &str, process: &str, counter: u64) -> NodeRecord {
    NodeRecord {
        format: 1,
        name: name.into(),
        role,
        process: process.into(),
        counter,
        grpc: "127.0.0.1:1".into(),
        http: None,
        zone: None,
        version: "0".into(),
        started_ms: 0,
        protocol: 1,
        protocol_min: None,
        capacity_bytes: None,
    }
}

fn put_node(record: &NodeRecord) -> Write {
    put(keys::node(record.role, &record.name), record)
}

fn index(name: &str, uid: &str) -> IndexRecord {
    IndexRecord::new(name, uid.into(), 2, 1)
}

struct Setup {
    store: Arc<SharedStore>,
    viewer: Viewer,
}

impl Setup {
    async fn new() -> Self {
        let store = Arc::new(SharedStore::default());
        let viewer = Viewer::start(store.clone(), LEASE, CancellationToken::new());
        viewer.ready().await;
        Self { store, viewer }
    }

    async fn commit(&self, writes: &[Write]) -> Arc<View> {
        let revision = self.store.commit(&[], writes).await.unwrap();
        assert!(self.viewer.at_least(revision, LEASE).await);
        self.viewer.view()
    }

    async fn wait_until(&self, holds: impl FnMut(&Arc<View>) -> bool) {
        self.viewer.subscribe().wait_for(holds).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn serving_are_those_who_vouch_are_assigned_and_still_run() {
    let setup = Setup::new().await;
    let shard = ShardKey::new("u", 1);
    let assigned = AssignmentRecord { format: 1, leaves: vec!["b".into(), "a".into()], leaving: Vec::new() };
    let vouch = |leaf: &str, process: &str| {
        put(keys::serving(&shard, &leaf.into()), &ServingRecord { format: 1, process: process.into() })
    };
    let serving = |view: &Arc<View>| view.serving.get(&shard).cloned().unwrap_or_default();
    let names = |names: &[&str]| names.iter().map(|name| NodeName::from(*name)).collect::<Vec<_>>();

    let view = setup.commit(&[vouch("b", "p1"), vouch("a", "p1"), vouch("c", "p1")]).await;
    assert!(view.serving.is_empty());
    let view = setup.commit(&[put(keys::assignment(&shard), &assigned)]).await;
    assert!(view.serving.is_empty());
    let leaves = ["a", "b", "c"].map(|name| put_node(&node(Role::Leaf, name, "p1", 0)));
    assert_eq!(serving(&setup.commit(&leaves).await), names(&["a", "b"]));
    // A root of the same name is somebody else.
    assert_eq!(serving(&setup.commit(&[put_node(&node(Role::Root, "a", "p9", 0))]).await), names(&["a", "b"]));
    assert_eq!(serving(&setup.commit(&[put_node(&node(Role::Leaf, "a", "p2", 0))]).await), names(&["b"]));
    assert_eq!(serving(&setup.commit(&[vouch("a", "p2")]).await), names(&["a", "b"]));
    let gone = Write::Delete(keys::node(Role::Leaf, &"b".into()));
    assert_eq!(serving(&setup.commit(&[gone]).await), names(&["a"]));
    let gone = Write::Delete(keys::serving(&shard, &"a".into()));
    assert_eq!(serving(&setup.commit(&[gone]).await), names(&[]));
}

#[tokio::test(start_paused = true)]
async fn a_leaf_that_does_not_speak_the_protocol_serves_no_more_and_cannot_join() {
    let setup = Setup::new().await;
    let shard = ShardKey::new("u", 0);
    let assigned = AssignmentRecord { format: 1, leaves: vec!["old".into(), "new".into()], leaving: Vec::new() };
    let vouch =
        |leaf: &str| put(keys::serving(&shard, &leaf.into()), &ServingRecord { format: 1, process: "p".into() });
    let newer = NodeRecord { protocol: 2, protocol_min: Some(1), ..node(Role::Leaf, "new", "p", 0) };
    let older = node(Role::Leaf, "old", "p", 0);
    let writes = [put(keys::assignment(&shard), &assigned), vouch("old"), vouch("new")];
    let view = setup.commit(&[&writes[..], &[put_node(&newer), put_node(&older)]].concat()).await;
    assert_eq!((view.protocol(), view.serving[&shard].len()), (1, 2));
    let view = setup.commit(&[put(keys::PROTOCOL.into(), &ProtocolRecord { format: 1, protocol: 2 })]).await;
    assert_eq!((view.protocol(), &view.serving[&shard]), (2, &vec!["new".into()]));

    let join = |record: NodeRecord| Membership::register(setup.store.clone(), record, LEASE, CancellationToken::new());
    let refused = join(node(Role::Leaf, "third", "p", 0)).await.unwrap_err().to_string();
    assert!(refused.contains("protocols 0 to 1") && refused.contains("works by protocol 2"), "{refused}");
    join(NodeRecord { name: "third".into(), ..newer }).await.unwrap();
    let refusal = crate::protocol::outgrown(setup.viewer.subscribe(), crate::Speaks::up_to(1)).await;
    assert!(refusal.to_string().contains("there is no way back"));
}

#[tokio::test(start_paused = true)]
async fn indices_are_found_by_name_and_uid_with_their_mappings_and_revisions() {
    let setup = Setup::new().await;
    let first = setup.commit(&[put(keys::index("i"), &index("i", "u1"))]).await;
    assert_eq!(first.uids[&"u1".into()].name, "i");
    let mapping = Write::Put(keys::mapping(&"u1".into(), 3), Bytes::from_static(b"{}"));
    let view = setup.commit(&[mapping]).await;
    assert_eq!(view.mappings[&("u1".into(), 3)], "{}");
    assert_eq!(view.revision_of("index/i"), Some(first.revision));
    assert_eq!(view.revision_of("mapping/u1/3"), Some(view.revision));
    // Made again under its name, the old uid is gone.
    let view = setup.commit(&[put(keys::index("i"), &index("i", "u2"))]).await;
    assert_eq!((view.indices["i"].uid.as_str(), view.uids.len()), ("u2", 1));
    // What cannot be understood is not taken for gone, and nobody overwrites it.
    let broken = [Write::Put("index/i".into(), "?".into()), Write::Put("serving/u/x".into(), "?".into())];
    let view = setup.commit(&broken).await;
    assert_eq!((view.indices["i"].uid.as_str(), view.uids.len()), ("u2", 1));
    assert_eq!(view.unreadable.keys().collect::<Vec<_>>(), ["index/i"]);
    assert_eq!(view.revision_of("index/i"), None);
    let newer = br#"{"format":2,"name":"j"}"#;
    let view = setup.commit(&[Write::Delete("index/i".into()), Write::Put("index/j".into(), newer[..].into())]).await;
    assert!(view.indices.is_empty() && view.uids.is_empty());
    assert!(view.unreadable["index/j"].contains("written by a newer version of Trawl"), "{:?}", view.unreadable);
    let view = setup.commit(&[put(keys::index("j"), &index("j", "u3"))]).await;
    assert!(view.unreadable.is_empty() && view.revision_of("index/j") == Some(view.revision));
    // An earlier picture does not change.
    assert!(first.mappings.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_counter_that_stands_still_for_the_lease_time_is_a_death() {
    let setup = Setup::new().await;
    let start = tokio::time::Instant::now();
    setup.commit(&[put_node(&node(Role::Leaf, "a", "p", 0)), put_node(&node(Role::Leaf, "b", "p", 0))]).await;
    let mut views = setup.viewer.subscribe();
    views.mark_unchanged();
    for counter in 1..4 {
        tokio::time::sleep(LEASE / 3).await;
        if counter == 3 {
            assert!(setup.viewer.view().nodes.values().all(|node| node.alive));
        }
        setup.commit(&[put_node(&node(Role::Leaf, "a", "p", counter))]).await;
    }
    // Nothing is written any more.
    setup.wait_until(|view| !view.leaf(&"b".into()).unwrap().alive).await;
    assert_eq!(start.elapsed(), LEASE);
    assert!(setup.viewer.view().leaf(&"a".into()).unwrap().alive);
    setup.wait_until(|view| !view.leaf(&"a".into()).unwrap().alive).await;
    assert_eq!(start.elapsed(), LEASE * 2);
    let view = setup.commit(&[put_node(&node(Role::Leaf, "a", "p", 9))]).await;
    assert!(view.leaf(&"a".into()).unwrap().alive);
}

#[tokio::test(start_paused = true)]
async fn growing_counters_make_no_new_picture() {
    let setup = Setup::new().await;
    setup.commit(&[put_node(&node(Role::Leaf, "a", "p", 0))]).await;
    let mut views = setup.viewer.subscribe();
    views.mark_unchanged();
    let mut last = Revision(0);
    for counter in 1..20 {
        tokio::time::sleep(LEASE / 3).await;
        last = setup.store.commit(&[], &[put_node(&node(Role::Leaf, "a", "p", counter))]).await.unwrap();
        assert!(setup.viewer.at_least(last, LEASE).await);
    }
    assert!(!views.has_changed().unwrap());
    assert!(!setup.viewer.at_least(Revision(last.0 + 1), LEASE / 2).await);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_declared_dead_while_the_engine_cannot_be_read() {
    let setup = Setup::new().await;
    let shutdown = CancellationToken::new();
    let record = node(Role::Leaf, "a", "p", 0);
    let membership = Membership::register(setup.store.clone(), record, LEASE, shutdown.clone()).await.unwrap();
    setup.wait_until(|view| view.leaf(&"a".into()).is_some()).await;
    setup.store.0.cut_off(true);
    tokio::time::sleep(LEASE * 10).await;
    assert!(setup.viewer.view().leaf(&"a".into()).unwrap().alive);
    setup.store.0.cut_off(false);
    for _ in 0..20 {
        tokio::time::sleep(LEASE / 3).await;
        assert!(setup.viewer.view().leaf(&"a".into()).unwrap().alive);
    }
    shutdown.cancel();
    membership.stopped().await;
    setup.wait_until(|view| view.nodes.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn the_newest_process_of_a_name_wins() {
    let setup = Setup::new().await;
    let register = |process| {
        let record = node(Role::Leaf, "a", process, 0);
        Membership::register(setup.store.clone(), record, LEASE, CancellationToken::new())
    };
    let old = register("old").await.unwrap();
    tokio::time::sleep(LEASE * 2).await;
    let _new = register("new").await.unwrap();
    old.replaced().await;
    tokio::time::sleep(LEASE * 2).await;
    let view = setup.viewer.view();
    assert_eq!(view.leaf(&"a".into()).unwrap().record.process, "new");
    assert!(view.leaf(&"a".into()).unwrap().alive);
    // Removed by someone, it registers again.
    setup.commit(&[Write::Delete(keys::node(Role::Leaf, &"a".into()))]).await;
    setup.wait_until(|view| view.leaf(&"a".into()).is_some_and(|node| node.record.process == "new")).await;
}

#[tokio::test(start_paused = true)]
async fn the_leader_is_shown_while_its_counter_grows() {
    let setup = Setup::new().await;
    let lease = |holder: Option<&str>, counter| {
        let holder = holder.map(NodeName::from);
        let record = LeaseRecord { format: 1, holder, process: "p".into(), epoch: Epoch(4), counter, since_ms: 7 };
        put(keys::LEASE.to_owned(), &record)
    };
    let leader =
        |view: &Arc<View>| view.leader.as_ref().map(|leader| (leader.name.to_string(), leader.epoch, leader.since_ms));
    let root_0 = Some(("root-0".to_owned(), Epoch(4), 7));
    assert_eq!(leader(&setup.commit(&[lease(Some("root-0"), 0)]).await), root_0);
    setup.wait_until(|view| view.leader.is_none()).await;
    assert_eq!(leader(&setup.commit(&[lease(Some("root-0"), 1)]).await), root_0);
    assert_eq!(leader(&setup.commit(&[lease(None, 2)]).await), None);
    tokio::time::sleep(LEASE * 2).await;
    assert_eq!(leader(&setup.commit(&[lease(Some("root-0"), 3)]).await), root_0);
}

#[tokio::test(start_paused = true)]
async fn skipped_operations_come_and_go_by_shard() {
    let setup = Setup::new().await;
    let (shard, other) = (ShardKey::new("u1", 0), ShardKey::new("u1", 1));
    let at = |seq| Generation { incarnation: Incarnation(2), seq: Seq(seq) };
    let skip = |shard, seq| keys::skip(shard, at(seq));
    let record = SkipRecord { format: 1, reason: "it hangs".to_owned() };
    let view = setup
        .commit(&[put(skip(&shard, 7), &record), put(skip(&shard, 9), &record), put(skip(&other, 1), &record)])
        .await;
    assert_eq!(view.skips[&shard].keys().copied().collect::<Vec<_>>(), [at(7), at(9)]);
    assert_eq!(view.skips[&shard][&at(7)].as_ref(), "it hangs");
    let view = setup.commit(&[Write::Delete(skip(&shard, 7)), Write::Delete(skip(&other, 1))]).await;
    assert_eq!(view.skips[&shard].keys().copied().collect::<Vec<_>>(), [at(9)]);
    assert!(!view.skips.contains_key(&other));
}

#[tokio::test(start_paused = true)]
async fn wishes_stand_until_they_are_taken_back() {
    let setup = Setup::new().await;
    let (shard, other) = (ShardKey::new("u1", 3), ShardKey::new("u1", 4));
    let to = |leaf: &str| MoveRecord { format: 1, to: leaf.into(), since_ms: 1 };
    let view = setup
        .commit(&[
            put(keys::drain(&"a".into()), &DrainRecord { format: 1, since_ms: 1 }),
            put(keys::move_from(&shard, &"b".into()), &to("c")),
            put(keys::move_from(&other, &"b".into()), &to("d")),
        ])
        .await;
    assert_eq!(view.drains, ["a".into()].into());
    assert_eq!(view.moves, [((shard.clone(), "b".into()), "c".into()), ((other, "b".into()), "d".into())].into());
    assert_eq!(view.revision_of("move/u1/3/b"), Some(view.revision));
    let broken = Write::Put("move/u1/x/b".into(), "?".into());
    let view = setup.commit(&[Write::Delete(keys::drain(&"a".into())), broken]).await;
    assert!(view.drains.is_empty() && view.moves.len() == 2);
    let view = setup.commit(&[Write::Delete(keys::move_from(&shard, &"b".into()))]).await;
    assert_eq!(view.moves.len(), 1);
}
