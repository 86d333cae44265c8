//! A root: HTTP, planning, scatter, gather, ingest, and the control plane when it leads.

pub mod aggregation;
pub mod config;
pub mod error;
pub mod request;
mod root;

pub use config::Config;
pub use error::Error;
pub use root::Root;
