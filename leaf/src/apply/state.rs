//! All that outcomes depend on besides the documents: a pure function of the log, kept with every
//! commit.

use std::collections::BTreeSet;

use trawl_proto::{Generation, Incarnation, Seq, v1};

use super::keys::Keys;
use super::rows::{Point, Rows};
use super::tombstones::Tombstones;
use crate::index::PAYLOAD_VERSION;
use crate::schema::SCHEMA_FORMAT;

/// Where a replica stands in its log.
#[derive(Clone, Debug)]
pub struct State {
    /// The incarnation and the last operation applied.
    pub at: Generation,
    /// The log's chain at that operation (meaningful between rows only).
    pub chain: u64,
    /// The log's time there.
    pub time_ms: u64,
    /// The mapping version of the last row.
    pub mapping_version: u64,
    /// Fields without a physical field of their own.
    pub keys: Keys,
    /// Deletes that are remembered.
    pub tombstones: Tombstones,
    /// The last rows applied.
    pub rows: Rows,
    /// Operations that were left out because the leader has them skipped.
    pub skipped: BTreeSet<Generation>,
}

impl State {
    /// Before the first operation.
    pub fn new(mapping_version: u64) -> Self {
        Self {
            at: Generation { incarnation: Incarnation(1), seq: Seq(0) },
            chain: 0,
            time_ms: 0,
            mapping_version,
            keys: Keys::default(),
            tombstones: Tombstones::default(),
            rows: Rows::starting(Seq(0), 0),
            skipped: BTreeSet::new(),
        }
    }

    /// As kept in a commit of an index with this schema.
    pub fn to_payload(&self, schema_mapping_version: u64, spares: u32) -> v1::CommitPayload {
        v1::CommitPayload {
            version: PAYLOAD_VERSION,
            schema_format: SCHEMA_FORMAT,
            incarnation: self.at.incarnation.0,
            seq: self.at.seq.0,
            chain: self.chain,
            time_ms: self.time_ms,
            mapping_version: self.mapping_version,
            dynamic_fields: self.keys.list().to_vec(),
            tombstones: self.tombstones.to_proto(),
            schema_mapping_version,
            spares,
            rows: Some(self.rows.to_proto()),
            skipped: self.skipped.iter().map(|at| (*at).into()).collect(),
        }
    }

    /// From a commit.
    pub fn from_payload(payload: v1::CommitPayload) -> Self {
        Self {
            at: Generation { incarnation: Incarnation(payload.incarnation), seq: Seq(payload.seq) },
            chain: payload.chain,
            time_ms: payload.time_ms,
            mapping_version: payload.mapping_version,
            rows: Rows::from_proto(payload.rows, Point { seq: Seq(payload.seq), chain: payload.chain }),
            keys: Keys::from_proto(payload.dynamic_fields),
            tombstones: Tombstones::from_proto(payload.tombstones),
            skipped: payload.skipped.into_iter().map(Generation::from).collect(),
        }
    }
}
