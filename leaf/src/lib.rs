//! A leaf: replicas of shards, the apply state machine and shard search.
//!
//! In reading order. What a replica is made of: [`schema`], [`index`], [`searcher`]. How it is
//! written: [`apply`] (pure decisions, then their effect on the index), [`replica`] (tails the log,
//! commits). How it is read: [`search`], run on [`pool`], with [`pins`] between the query and the
//! fetch phase. How it takes part in the cluster: [`node`], [`grpc`].

pub mod columns;
pub mod config;
pub mod schema;
pub mod searcher;

pub use config::Config;
pub use searcher::ShardSearcher;
