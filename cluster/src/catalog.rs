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
//! drain/LEAF                       DrainRecord        a wish: this leaf is to hold nothing; written by any root
//! move/UID/SHARD/FROM              MoveRecord         a wish: this replica is to go elsewhere; written by any root,
//!                                                     removed by the leader once it acts on it
//! cluster/protocol                 ProtocolRecord     the protocol that everybody speaks; written by the leader
//! ```
//!
//! Records are read with [`decode`]. Fields are only ever added, and only used when the cluster protocol allows
//! ([`crate::protocol`]).

mod format;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use trawl_proto::{Epoch, Generation, IndexUid, NodeName, ShardKey};

pub use format::{Record, decode, newer};

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
    /// How long a leaf may be missing before its replicas of this index are replaced, in milliseconds;
    /// `None`: as long as the leader was told.
    #[serde(default)]
    pub replace_after_ms: Option<u64>,
    /// Fields that this version does not know: any root changes an index's record, and keeps what others wrote.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl IndexRecord {
    /// One with its first mapping version and the cluster's limits, refreshed on demand only.
    pub fn new(name: &str, uid: IndexUid, shards: u32, replicas: u32) -> Self {
        Self {
            format: 1,
            name: name.to_owned(),
            uid,
            shards,
            replicas,
            refresh_interval_ms: None,
            mapping_version: 1,
            created_ms: 0,
            log_bytes_max: None,
            log_age_max_ms: None,
            replace_after_ms: None,
            other: BTreeMap::new(),
        }
    }

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
    /// Failure zone: what is likely to fail at once.
    pub zone: Option<String>,
    /// Software version.
    pub version: String,
    /// The newest version of messages and records that it speaks; 1 where none is written.
    #[serde(default = "first_protocol")]
    pub protocol: u32,
    /// The oldest; where none is written, the one before the newest. Since protocol 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol_min: Option<u32>,
    /// Bytes that its replicas may take on disk; leaves only, `None` where that is not known.
    #[serde(default)]
    pub capacity_bytes: Option<u64>,
    /// Milliseconds since the epoch, by the node's clock; for display only.
    pub started_ms: u64,
}

/// The protocol of records that do not name theirs.
fn first_protocol() -> u32 {
    1
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
    /// Those of `leaves` that go as soon as enough of the others serve.
    #[serde(default)]
    pub leaving: Vec<NodeName>,
}

impl AssignmentRecord {
    /// The leaves that are to stay.
    pub fn staying(&self) -> impl Iterator<Item = &NodeName> {
        self.leaves.iter().filter(|leaf| !self.leaving.contains(leaf))
    }
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

/// An operator's wish that a leaf hold nothing. Written by any root, without a fence; stands until it
/// is taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainRecord {
    /// Format of this record; 1.
    pub format: u32,
    /// Since when: milliseconds since the epoch, by the root's clock; for display only.
    pub since_ms: u64,
}

/// An operator's wish that one replica go to another leaf. Written by any root, without a fence; the
/// leader removes it in the commit by which it acts on it, or when it cannot be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveRecord {
    /// Format of this record; 1.
    pub format: u32,
    /// The leaf to go to.
    pub to: NodeName,
    /// Since when: milliseconds since the epoch, by the root's clock; for display only.
    pub since_ms: u64,
}

/// The protocol that all nodes speak. It only grows; who does not speak it does not take part. Written by the leader
/// only; before it is written for the first time it is the first protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtocolRecord {
    /// Format of this record; 1.
    pub format: u32,
    /// The protocol.
    pub protocol: u32,
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
    /// Prefix of all drained leaves.
    pub const DRAINS: &str = "drain/";
    /// Prefix of all wished moves.
    pub const MOVES: &str = "move/";
    /// Prefix of the lease's two records.
    pub const LEASES: &str = "lease/";
    /// The lease of the leader.
    pub const LEASE: &str = "lease/leader";
    /// Holder and epoch of the lease.
    pub const LEASE_EPOCH: &str = "lease/epoch";
    /// The protocol that all nodes speak.
    pub const PROTOCOL: &str = "cluster/protocol";

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

    /// Key of a leaf's drain.
    pub fn drain(leaf: &NodeName) -> String {
        format!("{DRAINS}{leaf}")
    }

    /// Key of the move of a shard's replica away from a leaf; `move` is a word of the language.
    pub fn move_from(shard: &ShardKey, from: &NodeName) -> String {
        format!("{MOVES}{shard}/{from}")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn records_from_before_a_field_can_be_read() {
        let assignment: AssignmentRecord = serde_json::from_str(r#"{"format":1,"leaves":["a","b"]}"#).unwrap();
        assert_eq!(assignment.leaving, Vec::new());
        assert_eq!(assignment.staying().count(), 2);

        let node = r#"{"format":1,"name":"a","role":"leaf","process":"p","counter":7,"grpc":"h:1","http":null,
                       "zone":null,"version":"0.1.0","started_ms":0}"#;
        let node: NodeRecord = serde_json::from_str(node).unwrap();
        assert_eq!((node.protocol, node.protocol_min, node.capacity_bytes), (1, None, None));

        let index = r#"{"format":1,"name":"i","uid":"u","shards":1,"replicas":1,"refresh_interval_ms":null,
                        "mapping_version":1,"created_ms":0}"#;
        let index: IndexRecord = serde_json::from_str(index).unwrap();
        assert_eq!((index.replace_after_ms, index.log_age_max_ms), (None, None));
    }

    #[test]
    fn an_index_record_keeps_what_it_does_not_know() {
        let newer = r#"{"format":1,"name":"i","uid":"u","shards":1,"replicas":1,"refresh_interval_ms":null,
                        "mapping_version":1,"created_ms":18446744073709551615,"colour":"blue","sizes":[1,{"a":null}]}"#;
        let record: IndexRecord = serde_json::from_str(newer).unwrap();
        let changed = serde_json::to_value(IndexRecord { replicas: 2, ..record }).unwrap();
        assert_eq!((&changed["colour"], &changed["sizes"][1]), (&"blue".into(), &serde_json::json!({"a": null})));
        assert_eq!((&changed["replicas"], &changed["created_ms"]), (&2.into(), &u64::MAX.into()));
        let plain = serde_json::to_value(IndexRecord::new("i", "u".into(), 1, 1)).unwrap();
        assert_eq!(plain.get("other"), None);
    }

    #[test]
    fn an_earlier_version_can_read_what_is_written_now() {
        #[derive(Deserialize)]
        struct Earlier {
            format: u32,
            leaves: Vec<NodeName>,
        }
        let record = AssignmentRecord { format: 1, leaves: vec!["a".into()], leaving: vec!["a".into()] };
        let earlier: Earlier = serde_json::from_slice(&serde_json::to_vec(&record).unwrap()).unwrap();
        assert_eq!((earlier.format, earlier.leaves), (1, record.leaves));
    }
}
