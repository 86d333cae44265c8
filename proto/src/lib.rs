//! The wire schema of Trawl, its typed ids and positions, and the mapping of failures to gRPC status.
//!
//! Wire types (`v1`) stop at the edges of `leaf` and `root` where they carry no invariant; ids and
//! positions are newtypes so that a shard number is never taken for a seq.

pub mod caller;
pub mod clock;
mod ids;
mod status;

pub use ids::{Epoch, Generation, Incarnation, IndexUid, NodeName, Seq, ShardKey};
pub use status::{failure, failure_from_status, status_from_failure};

/// Messages and services, generated from `schema/*.proto`.
pub mod v1 {
    #![allow(missing_docs, clippy::all, clippy::unwrap_used)]
    tonic::include_proto!("trawl.v1");
}
