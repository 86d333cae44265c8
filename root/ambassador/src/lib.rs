//! The ambassador: one local address that stands for all roots of a cluster.
//!
//! ```text
//! application ─> server ─> proxy ─> race ─> roots ─> a root
//!                  │         │        │       │
//!                  │         │        │       ├─ discover   which roots there are: cluster store, list, DNS
//!                  │         │        │       ├─ check      asks each how it is
//!                  │         │        │       └─ breaker    whether it is asked at all (pure)
//!                  │         │        └─ repeat      what is sent again, and when (pure)
//!                  │         ├─ kind        read, keyed write, or neither (pure)
//!                  │         ├─ headers     what is carried over (pure)
//!                  │         └─ body        held within bounds, else streamed
//!                  └─ status, metrics
//! ```
//!
//! It knows HTTP and the cluster store, nothing of queries or documents.
#![forbid(unsafe_code)]

mod body;
mod breaker;
mod check;
mod config;
mod discover;
mod error;
mod headers;
mod kind;
mod metrics;
mod proxy;
mod race;
mod repeat;
mod roots;
mod server;
mod status;
#[cfg(test)]
mod tests;
mod wire;

pub use config::{Config, Source};
pub use error::StartError;
pub use server::{Ambassador, start};
