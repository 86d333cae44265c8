//! What is skipped, and when that is forgotten.

use std::sync::Arc;

use trawl_cluster::catalog::{AssignmentRecord, NodeRecord, Role};
use trawl_cluster::view::Node;
use trawl_proto::{Incarnation, Seq};

use super::*;

fn at(incarnation: u64, seq: u64) -> Generation {
    Generation { incarnation: Incarnation(incarnation), seq: Seq(seq) }
}

fn shard() -> ShardKey {
    ShardKey::new("u", 0)
}

fn leaf(name: &str, alive: bool) -> Node {
    let record = NodeRecord {
        format: 1,
        name: name.into(),
        role: Role::Leaf,
        process: "p".to_owned(),
        counter: 0,
        grpc: "127.0.0.1:1".to_owned(),
        http: None,
        zone: None,
        version: String::new(),
        started_ms: 0,
        protocol: 1,
        protocol_min: None,
        capacity_bytes: None,
    };
    Node { record, alive }
}

/// Two live holders `a` and `b`, and a leaf `c` that holds nothing.
fn view() -> View {
    let mut view = View::default();
    for name in ["a", "b", "c"] {
        view.nodes.insert((Role::Leaf, name.into()), leaf(name, true));
    }
    let leaves = vec!["a".into(), "b".into()];
    view.assignments.insert(shard(), Arc::new(AssignmentRecord { format: 1, leaves, leaving: Vec::new() }));
    view
}

fn heads(incarnation: u64, trimmed: u64, last: u64) -> HashMap<ShardKey, Head> {
    let (incarnation, trimmed, last) = (Incarnation(incarnation), Seq(trimmed), Seq(last));
    let head = Head { incarnation, last, chain: 0, trimmed, mapping_version: 1, bytes: 0, time_ms: 0 };
    HashMap::from([(shard(), head)])
}

/// (leaf, applied, poison)
fn reports(of: &[(&str, u64, Option<u64>)]) -> Reports {
    let report = |(leaf, applied, poison): &(&str, u64, Option<u64>)| {
        let poison = poison.map(|seq| (at(1, seq), "it panics".to_owned()));
        (NodeName::from(*leaf), Report { applied: at(1, *applied), poison })
    };
    BTreeMap::from([(shard(), of.iter().map(report).collect())])
}

fn decided(view: &View, heads: &HashMap<ShardKey, Head>, of: &[(&str, u64, Option<u64>)]) -> Vec<Generation> {
    decide(view, heads, &reports(of)).into_iter().map(|skip| skip.at).collect()
}

#[test]
fn an_operation_is_skipped_once_every_live_holder_has_answered_and_none_has_applied_it() {
    let (mut view, log) = (view(), heads(1, 0, 20));
    assert_eq!(decided(&view, &log, &[("a", 6, Some(7)), ("b", 6, Some(7))]), [at(1, 7)]);
    assert_eq!(decided(&view, &log, &[("a", 6, Some(7)), ("b", 2, None)]), [at(1, 7)], "one lags");
    assert_eq!(decided(&view, &log, &[("a", 6, Some(7)), ("b", 7, None)]), [], "one could apply it");
    assert_eq!(decided(&view, &log, &[("a", 6, Some(7))]), [], "one did not answer");
    view.nodes.insert((Role::Leaf, "b".into()), leaf("b", false));
    assert_eq!(decided(&view, &log, &[("a", 6, Some(7))]), [at(1, 7)], "one is dead");
    assert_eq!(decided(&view, &log, &[("a", 6, None), ("c", 6, Some(7))]), [], "not a holder");
}

#[test]
fn only_what_is_in_the_log_is_skipped_and_only_once() {
    let mut view = view();
    let both = [("a", 6, Some(7)), ("b", 6, Some(7))];
    assert_eq!(decided(&view, &heads(2, 0, 20), &both), [], "of another incarnation");
    assert_eq!(decided(&view, &heads(1, 7, 20), &both), [], "trimmed");
    assert_eq!(decided(&view, &heads(1, 0, 6), &both), [], "not in the log any more");
    view.skips.insert(shard(), Arc::new(BTreeMap::from([(at(1, 7), "known".into())])));
    assert_eq!(decided(&view, &heads(1, 0, 20), &both), []);
    assert_eq!(decided(&view, &heads(1, 0, 20), &[("a", 8, Some(9)), ("b", 6, Some(7))]), [at(1, 9)]);
    let many = (0..SKIPS_MAX as u64).map(|seq| (at(1, 100 + seq), "known".into())).collect();
    view.skips.insert(shard(), Arc::new(many));
    assert_eq!(decided(&view, &heads(1, 0, 20), &both), [], "there are enough");
}

#[test]
fn skips_are_forgotten_with_their_rows() {
    let mut view = view();
    let skips = BTreeMap::from([(at(1, 7), "x".into()), (at(1, 9), "x".into()), (at(2, 12), "x".into())]);
    view.skips.insert(shard(), Arc::new(skips));
    let gone = |heads| obsolete(&view, &heads).into_iter().map(|(_, at)| at).collect::<Vec<_>>();
    assert_eq!(gone(heads(1, 0, 20)), []);
    assert_eq!(gone(heads(1, 8, 20)), [at(1, 7)]);
    assert_eq!(gone(heads(2, 8, 20)), [at(1, 7), at(1, 9)]);
    assert_eq!(gone(HashMap::new()), [at(1, 7), at(1, 9), at(2, 12)], "the index is gone");
}
