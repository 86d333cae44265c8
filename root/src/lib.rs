//! A root: HTTP, planning, scatter, gather, ingest, and the control plane when it leads.
//!
//! In reading order: what goes in and out ([`request`], [`error`]), the operations ([`Root`]), the way
//! of a query (`search`, `plan`, [`policy`], `statistics`, `scatter`, `hedging`, `leaf_client`, [`gather`], `fetch`), of a
//! write (`ingest`, `refresh`), of an index (`catalog`, `lifecycle`, `fields`), what is seen from
//! outside (`health`, `status`, `metrics`), the leader (`lead`), its part in the cluster ([`member`]), and the process
//! ([`node`]).

pub mod error;
pub mod request;

mod root;

mod fetch;
pub mod gather;
mod get;
mod hedging;
mod leaf_client;
mod plan;
pub mod policy;
mod scatter;
mod search;
mod statistics;

pub mod dead_letters;
mod ingest;
pub mod operation;
mod queue;
mod refresh;

pub(crate) mod by_query;

mod catalog;
mod fields;
mod lifecycle;
mod newcomers;
mod wishes;

mod engine_gate;
mod lead;

mod health;
pub mod limits;
mod logs;
mod metrics;
mod status;

pub mod aggregation;
pub mod config;

pub mod http;
pub mod member;
pub mod node;

pub use config::Config;
pub use error::Error;
pub use node::RootNode;
pub use root::Root;

#[cfg(test)]
mod tests;
