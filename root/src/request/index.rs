//! Making indices, changing them, and naming them.

use std::time::Duration;

use trawl_cluster::catalog::IndexRecord;
use trawl_data::mapping::Mapping;

/// How names that match nothing are taken by [`crate::Root::resolve`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResolveOptions {
    /// Leave out plain names that do not exist, instead of failing.
    pub ignore_unavailable: bool,
    /// Whether no index at all is a valid answer (for wildcards and `_all`).
    pub allow_no_indices: bool,
}

impl Default for ResolveOptions {
    fn default() -> Self {
        Self { ignore_unavailable: false, allow_no_indices: true }
    }
}

/// How to make an index.
#[derive(Clone, Debug)]
pub struct CreateIndex {
    /// 1 to 1,024.
    pub shards: u32,
    /// Extra replicas of each shard.
    pub replicas: u32,
    /// `None`: only on demand.
    pub refresh_interval: Option<Duration>,
    /// Bytes that each shard's log may keep; `None`: as the cluster has it.
    pub log_bytes_max: Option<u64>,
    /// By how much all replicas of a shard may be behind before writes are refused; `None`: no limit.
    pub log_age_max: Option<Duration>,
    /// How long a leaf may be away before its replicas are replaced; `None`: as the cluster has it.
    pub replace_after: Option<Duration>,
    /// The mapping.
    pub mapping: Mapping,
}

/// Settings of an index to be changed while it is used; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChangeIndex {
    /// See [`CreateIndex::refresh_interval`].
    pub refresh_interval: Option<Option<Duration>>,
    /// See [`CreateIndex::log_bytes_max`].
    pub log_bytes_max: Option<Option<u64>>,
    /// See [`CreateIndex::log_age_max`].
    pub log_age_max: Option<Option<Duration>>,
    /// See [`CreateIndex::replicas`].
    pub replicas: Option<u32>,
    /// See [`CreateIndex::replace_after`].
    pub replace_after: Option<Option<Duration>>,
}

impl ChangeIndex {
    /// The record of the index afterwards.
    pub(crate) fn apply(&self, record: &IndexRecord) -> IndexRecord {
        let ms = |time: Option<Duration>| time.map(|time| time.as_millis() as u64);
        IndexRecord {
            refresh_interval_ms: self.refresh_interval.map_or(record.refresh_interval_ms, ms),
            log_bytes_max: self.log_bytes_max.unwrap_or(record.log_bytes_max),
            log_age_max_ms: self.log_age_max.map_or(record.log_age_max_ms, ms),
            replicas: self.replicas.unwrap_or(record.replicas),
            replace_after_ms: self.replace_after.map_or(record.replace_after_ms, ms),
            ..record.clone()
        }
    }
}

/// What came of [`crate::Root::create_index`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// The index's uid.
    pub uid: String,
    /// Whether every shard had a serving replica before the time was over.
    pub shards_acknowledged: bool,
    /// What is taken but cannot be carried out as things are, for a person.
    pub warnings: Vec<String>,
}
