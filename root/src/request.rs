//! The typed requests and answers between `http` and the rest of the root.
//!
//! `http` turns bodies into these and these into bodies; nothing below knows JSON or HTTP.

mod index;
mod search;
mod status;
mod write;

pub use self::index::{ChangeIndex, CreateIndex, Created, ResolveOptions};
pub use self::search::{
    FoundHit, IndexView, Lower, Lowered, SearchRequest, SearchResponse, ShardFailure, ShardsSummary, Total, TrackTotal,
};
pub use self::status::{
    ClusterStatus, Health, HealthStatus, IndexHealth, LeaderStatus, LogInfo, NodeStatus, ReplicaInfo, ReplicaState,
};
pub use self::write::{ItemOutcome, ItemWritten, Refresh, WriteItem, WriteOptions, WriteOutcome, WriteResult};
pub use crate::aggregation::{AggregationResult, Bucket, BucketKey, ExtendedStats};
