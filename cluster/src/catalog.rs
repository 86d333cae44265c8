//! The catalog: what is written in the store, under which keys, as JSON.
//!
//! ```text
//! lease/leader                     LeaseRecord        who leads, at which epoch; the counter grows while it does
//! lease/epoch                      EpochRecord        changes only with the holder: what guards name
//! node/root/NAME, node/leaf/NAME   NodeRecord         membership; the counter grows while alive
//! index/NAME                       IndexRecord        definition of an index
//! mapping/UID/VERSION              opaque JSON        all mapping versions of an index
//! assignment/UID/SHARD             AssignmentRecord   which leaves hold the shard; written by the leader
//! serving/UID/SHARD/LEAF           ServingRecord      written by the leaf when it has caught up
//! skip/UID/SHARD/INCARNATION/SEQ   SkipRecord         an operation that no replica applies; written by the leader
//! ```

use serde::{Deserialize, Serialize};
use trawl_proto::{Epoch, Generation, IndexUid, NodeName, ShardKey};

/// An index's definition. Versioned by `format`; fields are only ever added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexRecord {
    /// Format of this record; 1.
    pub format: u32,
    /// The name it was created under.
    pub name: String,
    /// Never given again.
    pub uid: IndexUid,
    /// Number of shards, fixed at creation.
    pub shards: u32,
    /// Number of extra replicas: each shard has `1 + replicas` equal copies.
    pub replicas: u32,
    /// Commit and refresh at most this long after a write; `None` only on demand.
    pub refresh_interval_ms: Option<u64>,
    /// The present mapping version, from 1.
    pub mapping_version: u64,
    /// Milliseconds since the epoch.
    pub created_ms: u64,
    /// Bytes that the log of each shard may keep; `None`: the engine's default.
    #[serde(default)]
    pub log_bytes_max: Option<u64>,
    /// By how much the replicas of a shard may all be behind its log before writes are refused, in
    /// milliseconds; `None` for no limit.
    #[serde(default)]
    pub log_age_max_ms: Option<u64>,
}

impl IndexRecord {
    /// The keys of all its shards, in order.
    pub fn shard_keys(&self) -> impl Iterator<Item = ShardKey> + '_ {
        (0..self.shards).map(|number| ShardKey { index_uid: self.uid.clone(), number })
    }
}

/// What kind of node a record is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Serves queries.
    Root,
    /// Holds shards.
    Leaf,
}

/// One process that takes part in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Format of this record; 1.
    pub format: u32,
    /// Its name.
    pub name: NodeName,
    /// Its role.
    pub role: Role,
    /// Random; new with every start of the process.
    pub process: String,
    /// Grows every third of the lease time while the process lives.
    pub counter: u64,
    /// `host:port` of its gRPC server.
    pub grpc: String,
    /// `host:port` of its HTTP server; roots only.
    pub http: Option<String>,
    /// Failure zone; leaves only.
    pub zone: Option<String>,
    /// Software version.
    pub version: String,
    /// Milliseconds since the epoch, by the node's clock; for display only.
    pub started_ms: u64,
}

/// The right to lead. Written by the holder, or by who takes over from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// Format of this record; 1.
    pub format: u32,
    /// Who leads; `None` after a holder has given the lease back.
    pub holder: Option<NodeName>,
    /// The holder's process, as in its [`NodeRecord`].
    pub process: String,
    /// Grows with each change of holder, never back.
    pub epoch: Epoch,
    /// Grows every third of the lease time while the holder leads.
    pub counter: u64,
    /// Since when this holder leads: milliseconds since the epoch, by its clock; for display only.
    pub since_ms: u64,
}

/// The part of the lease that changes with its holder only: guards name its revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Format of this record; 1.
    pub format: u32,
    /// The lease's epoch.
    pub epoch: Epoch,
    /// Who leads; `None` after a holder has given the lease back.
    pub holder: Option<NodeName>,
    /// The holder's process.
    pub process: String,
}

/// Which leaves hold a shard. Written by the leader only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignmentRecord {
    /// Format of this record; 1.
    pub format: u32,
    /// The leaves, by name; never twice the same.
    pub leaves: Vec<NodeName>,
}

/// A replica that answers queries. Written by the leaf that holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServingRecord {
    /// Format of this record; 1.
    pub format: u32,
    /// The leaf process that vouches for it: a record of an earlier process of the same leaf does
    /// not count.
    pub process: String,
}

/// An operation that panics or hangs the apply path: every replica leaves it out and reports it as
/// rejected. Written by the leader only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkipRecord {
    /// Format of this record; 1.
    pub format: u32,
    /// What it did, for a person.
    pub reason: String,
}

/// The keys of the store.
pub mod keys {
    use super::*;

    /// Prefix of all index definitions.
    pub const INDICES: &str = "index/";
    /// Prefix of all mappings.
    pub const MAPPINGS: &str = "mapping/";
    /// Prefix of all nodes.
    pub const NODES: &str = "node/";
    /// Prefix of all assignments.
    pub const ASSIGNMENTS: &str = "assignment/";
    /// Prefix of all serving records.
    pub const SERVING: &str = "serving/";
    /// Prefix of all skipped operations.
    pub const SKIPS: &str = "skip/";
    /// Prefix of the lease's two records.
    pub const LEASES: &str = "lease/";
    /// The lease of the leader.
    pub const LEASE: &str = "lease/leader";
    /// Holder and epoch of the lease.
    pub const LEASE_EPOCH: &str = "lease/epoch";

    /// Key of an index definition.
    pub fn index(name: &str) -> String {
        format!("{INDICES}{name}")
    }

    /// Key of one mapping version.
    pub fn mapping(uid: &IndexUid, version: u64) -> String {
        format!("{MAPPINGS}{uid}/{version}")
    }

    /// Key of a node.
    pub fn node(role: Role, name: &NodeName) -> String {
        match role {
            Role::Root => format!("{NODES}root/{name}"),
            Role::Leaf => format!("{NODES}leaf/{name}"),
        }
    }

    /// Key of a shard's assignment.
    pub fn assignment(shard: &ShardKey) -> String {
        format!("{ASSIGNMENTS}{shard}")
    }

    /// Key of a replica's serving record.
    pub fn serving(shard: &ShardKey, leaf: &NodeName) -> String {
        format!("{SERVING}{shard}/{leaf}")
    }

    /// Key of a skipped operation.
    pub fn skip(shard: &ShardKey, at: Generation) -> String {
        format!("{SKIPS}{shard}/{}/{}", at.incarnation, at.seq)
    }
}
