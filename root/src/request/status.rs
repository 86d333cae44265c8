//! The state of the cluster: health, nodes, replicas, logs.

use std::sync::Arc;
use std::time::Duration;

use trawl_cluster::catalog::{IndexRecord, NodeRecord};
use trawl_proto::{NodeName, v1};

/// Traffic-light state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HealthStatus {
    /// Every configured replica serves.
    Green,
    /// Every shard is served, but not by every configured replica.
    Yellow,
    /// A shard has no serving replica.
    Red,
}

impl HealthStatus {
    /// `green`, `yellow` or `red`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Green => "green",
            Self::Yellow => "yellow",
            Self::Red => "red",
        }
    }
}

/// Health of some indices together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The worst of all.
    pub status: HealthStatus,
    /// Whether a wait for a better status ended without it.
    pub timed_out: bool,
    /// Live roots and leaves.
    pub nodes: u32,
    /// Live leaves.
    pub leaves: u32,
    /// Shards with at least one serving replica (`active_primary_shards`).
    pub shards_served: u32,
    /// Replicas that serve.
    pub replicas_serving: u32,
    /// Replicas that are assigned to a live leaf and do not serve yet.
    pub replicas_recovering: u32,
    /// Configured replicas without a live leaf.
    pub replicas_unassigned: u32,
    /// Why it cannot be green as things are, for a person.
    pub reasons: Vec<String>,
    /// Per index, by name.
    pub indices: Vec<IndexHealth>,
}

/// Health of one index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexHealth {
    /// Its name.
    pub name: String,
    /// The worst of its shards.
    pub status: HealthStatus,
    /// Number of shards.
    pub shards: u32,
    /// Configured extra replicas.
    pub replicas: u32,
    /// Shards with at least one serving replica.
    pub shards_served: u32,
    /// Replicas that serve.
    pub replicas_serving: u32,
    /// Replicas that are assigned to a live leaf and do not serve yet.
    pub replicas_recovering: u32,
    /// Configured replicas without a live leaf.
    pub replicas_unassigned: u32,
}

/// Everything for `_cat` and `/_trawl/cluster`.
#[derive(Clone, Debug)]
pub struct ClusterStatus {
    /// Who leads.
    pub leader: Option<LeaderStatus>,
    /// The protocol that everybody uses.
    pub protocol: u32,
    /// Why records of the store cannot be read here, if there are any.
    pub unreadable: Vec<String>,
    /// All roots, by name.
    pub roots: Vec<NodeStatus>,
    /// All leaves, by name.
    pub leaves: Vec<NodeStatus>,
    /// All indices, by name.
    pub indices: Vec<Arc<IndexRecord>>,
    /// All replicas, assigned or only configured, by index name, shard, leaf.
    pub replicas: Vec<ReplicaInfo>,
    /// The logs of all shards, by index name and shard; none when the engine cannot be reached.
    pub logs: Vec<LogInfo>,
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderStatus {
    /// The root.
    pub name: NodeName,
    /// Its fencing number.
    pub epoch: u64,
    /// Milliseconds since the epoch.
    pub since_ms: u64,
}

/// A node as seen from this root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// As it registered itself.
    pub record: NodeRecord,
    /// Whether its counter moves.
    pub alive: bool,
    /// Whether this root's connection to it works; roots: always true.
    pub connected: bool,
    /// Whether it is to hold nothing; leaves only.
    pub draining: bool,
}

/// State of one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaState {
    /// Answers queries.
    Serving,
    /// Opening or catching up.
    Recovering,
    /// Stopped; `status.reason` says why.
    Failed,
    /// Assigned to a leaf that is not there.
    Unreachable,
    /// Configured, but there is no leaf to hold it.
    Unassigned,
}

/// One replica.
#[derive(Clone, Debug)]
pub struct ReplicaInfo {
    /// Name of the index.
    pub index: String,
    /// Uid of the index.
    pub uid: String,
    /// Number of the shard.
    pub shard: u32,
    /// `None` when unassigned.
    pub leaf: Option<NodeName>,
    /// Its state.
    pub state: ReplicaState,
    /// As its leaf reports it; `None` when the leaf did not answer.
    pub status: Option<v1::ReplicaStatus>,
    /// Operations in the shard's log that it has not applied; `None` when the leaf did not answer.
    pub lag_operations: Option<u64>,
    /// Log time between the last operation applied and the last one in the log.
    pub lag: Option<Duration>,
}

/// One shard's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogInfo {
    /// Name of the index.
    pub index: String,
    /// Number of the shard.
    pub shard: u32,
    /// Operations that are kept.
    pub operations: u64,
    /// Their size.
    pub bytes: u64,
    /// At this size appends are refused; `None`: the engine's default.
    pub bytes_max: Option<u64>,
}
