//! What all nodes of a cluster agree on, kept in an existing engine.
//!
//! Nothing outside this crate knows which engine runs. In reading order: the small traits
//! ([`Store`], [`ShardLog`], [`WorkQueue`], [`DeadLetters`]), the engines behind them ([`connect`]), what is written in the store
//! ([`catalog`]), in which version ([`protocol`]), one picture of it ([`view`]), who is there ([`membership`]), who leads ([`lease`]),
//! and the errors.

pub mod catalog;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod dead_letters;
pub mod engines;
mod error;
pub mod fit;
pub mod lease;
pub mod membership;
#[cfg(test)]
mod memory;
pub mod outage;
pub mod protocol;
pub mod shard_log;
pub mod store;
pub mod view;
mod vital;
pub mod work_queue;

pub use dead_letters::DeadLetters;
pub use engines::{Engine, EngineOptions, connect, redacted};
pub use error::Error;
pub use lease::{Fence, LEASE_TIME, Lease};
pub use membership::Membership;
pub use protocol::Speaks;
pub use shard_log::ShardLog;
pub use store::Store;
pub use view::{Leader, Node, View, Viewer};
pub use work_queue::WorkQueue;
