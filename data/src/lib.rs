//! What a document is: mapping, analysis, routing, input formats, the loader.
//!
//! Everything here is a pure function of its input (but for the loader): leaves and roots agree on
//! a document, a term or a shard because they ask the same code.

pub mod aggregation;
pub mod analysis;
pub mod date;
pub mod document;
pub mod load;
pub mod mapping;
pub mod readers;
pub mod routing;
pub mod samples;
