//! Everything for `_cat` and `/_trawl/cluster`: the view, and what each leaf says of its replicas.

use std::collections::HashMap;

use trawl_cluster::catalog::{IndexRecord, Role};
use trawl_cluster::view::{Node, View};
use trawl_proto::{NodeName, ShardKey, v1};

use crate::ingest::lag::lag;
use crate::leaf_client::ConnectionState;
use crate::logs::{self, Heads};
use crate::request::{ClusterStatus, LeaderStatus, NodeStatus, ReplicaInfo, ReplicaState};
use crate::root::Root;

type Reports = HashMap<(ShardKey, NodeName), v1::ReplicaStatus>;

/// Asks all live leaves at once and puts the answers beside what is configured.
pub(crate) async fn cluster(root: &Root) -> ClusterStatus {
    let view = root.viewer.view();
    let (reports, heads) = tokio::join!(reports(root, &view), logs::heads(root, &view));
    let leader = view.leader.as_ref().map(|leader| LeaderStatus {
        name: leader.name.clone(),
        epoch: leader.epoch.0,
        since_ms: leader.since_ms,
    });
    let connected =
        |node: &Node| root.leaves.client(&node.record).is_some_and(|client| client.state() != ConnectionState::Broken);
    let status = |node: &Node, connected| NodeStatus {
        record: node.record.clone(),
        alive: node.alive,
        connected,
        draining: node.record.role == Role::Leaf && view.drains.contains(&node.record.name),
    };
    ClusterStatus {
        leader,
        protocol: view.protocol(),
        unreadable: view.unreadable.values().cloned().collect(),
        roots: view.roots().map(|node| status(node, true)).collect(),
        leaves: view.leaves().map(|node| status(node, connected(node))).collect(),
        indices: view.indices.values().cloned().collect(),
        replicas: view.indices.values().flat_map(|record| replicas(&view, record, &reports, &heads)).collect(),
        logs: logs::infos(&view, &heads),
    }
}

async fn reports(root: &Root, view: &View) -> Reports {
    let clients = view.leaves().filter(|node| node.alive).filter_map(|node| root.leaves.client(&node.record));
    let calls = clients.map(|client| async move {
        let everything = v1::StatusRequest { index_uids: Vec::new(), fields: false, poisoned: false };
        let answer = client.status(everything, root.config.leaves.status_timeout).await;
        (client.name().clone(), answer)
    });
    let mut reports = Reports::new();
    for (leaf, answer) in futures::future::join_all(calls).await {
        for replica in answer.into_iter().flat_map(|answer| answer.replicas) {
            if let Some(shard) = &replica.shard {
                reports.insert((shard.into(), leaf.clone()), replica);
            }
        }
    }
    reports
}

/// The replicas of one index: those assigned, by leaf, then those that nobody holds.
fn replicas(view: &View, record: &IndexRecord, reports: &Reports, heads: &Heads) -> Vec<ReplicaInfo> {
    let mut replicas = Vec::new();
    for shard in record.shard_keys() {
        let mut leaves = view.assignments.get(&shard).map(|assigned| assigned.leaves.clone()).unwrap_or_default();
        leaves.sort();
        let missing = (1 + record.replicas as usize).saturating_sub(leaves.len());
        let info = |leaf: Option<NodeName>, state, status: Option<v1::ReplicaStatus>| {
            let head = heads.get(&shard);
            let seq = head.map_or(0, |head| head.last.0);
            let behind = |status: &v1::ReplicaStatus| seq.max(status.head).saturating_sub(status.applied);
            ReplicaInfo {
                index: record.name.clone(),
                uid: record.uid.0.clone(),
                shard: shard.number,
                leaf,
                state,
                lag_operations: status.as_ref().map(behind),
                lag: status.as_ref().map(|status| lag(status, head.map(|head| head.time_ms))),
                status,
            }
        };
        for leaf in leaves {
            let status = reports.get(&(shard.clone(), leaf.clone())).cloned();
            let state = state(view, &shard, &leaf, status.as_ref());
            replicas.push(info(Some(leaf), state, status));
        }
        replicas.extend((0..missing).map(|_| info(None, ReplicaState::Unassigned, None)));
    }
    replicas
}

fn state(view: &View, shard: &ShardKey, leaf: &NodeName, status: Option<&v1::ReplicaStatus>) -> ReplicaState {
    let serving = view.serving.get(shard).is_some_and(|serving| serving.contains(leaf));
    let alive = view.leaf(leaf).is_some_and(|node| node.alive);
    match status.map(v1::ReplicaStatus::state) {
        Some(v1::replica_status::State::Failed) => ReplicaState::Failed,
        Some(_) if serving => ReplicaState::Serving,
        Some(_) => ReplicaState::Recovering,
        // It has not heard of its assignment yet, or its answer was lost.
        None if alive && !serving => ReplicaState::Recovering,
        None => ReplicaState::Unreachable,
    }
}
