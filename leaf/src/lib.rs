//! A leaf: replicas of shards, the apply state machine and shard search.
//!
//! In reading order. What a replica is made of: [`schema`], [`index`], [`searcher`]. How it is
//! written: [`apply`] (pure decisions, then their effect on the index), [`replica`] (tails the log,
//! commits), [`copy`] (a replica made from another leaf's). How damage is found: [`checksum`], [`watch`]. How it is read: [`search`], run on
//! [`pool`], with [`pins`] between the query and the fetch phase. How it takes part in the cluster:
//! [`node`], [`grpc`]. What it writes about searches: [`query_log`].

pub mod aggregation;
pub mod apply;
pub mod checksum;
pub mod columns;
pub mod config;
pub mod copy;
pub mod error;
pub mod fetch;
pub mod grpc;
pub mod highlight;
pub mod index;
pub mod metrics;
pub mod node;
pub mod pins;
pub mod pool;
pub mod query_log;
pub mod replica;
pub mod schema;
pub mod search;
pub mod searcher;
pub mod statistics;
pub mod watch;

pub use config::Config;
pub use error::Error;
pub use node::LeafNode;
pub use searcher::ShardSearcher;
