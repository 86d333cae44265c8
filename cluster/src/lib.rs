//! What all nodes of a cluster agree on, kept in an existing engine.
//!
//! Nothing outside this crate knows which engine runs. In reading order: the three small traits
//! ([`Store`], [`ShardLog`]), what is written in the store ([`catalog`]), and the errors.

pub mod catalog;
mod error;
pub mod shard_log;
pub mod store;

pub use error::Error;
pub use shard_log::ShardLog;
pub use store::Store;
