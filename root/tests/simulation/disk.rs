//! What a leaf keeps over its crashes.

use std::collections::BTreeMap;

use trawl_cluster::shard_log::Record;
use trawl_proto::{Generation, ShardKey};

/// A leaf's disk.
#[derive(Debug, Default)]
pub struct Disk {
    pub replicas: BTreeMap<ShardKey, Saved>,
}

/// A replica as of its last commit: every row that it applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    pub at: Generation,
    pub chain: u64,
    pub mapping_version: u64,
    pub time_ms: u64,
    pub rows: Vec<Record>,
}
