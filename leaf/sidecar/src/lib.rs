//! The log shipper beside every leaf: follows the files of one directory, turns lines into records, and ships them.
//!
//! It shares nothing with the process that it serves but that directory, and knows no other crate of Trawl. In reading
//! order:
//!
//! ```text
//! follow      finds files, tells them apart by generation, reads lines       (one thread)
//!   parse     a line becomes a record, whatever format it has
//!   batch     records become one payload per sink
//! ship        one lane per sink: queue, retries, buffer on disk             (one task per sink)
//!   sinks     stdout:, file:, trawl://, otlp+http://, otlp+grpc://
//! ```
//!
//! **Nothing vanishes.** How far each sink has each file is in the checkpoint, which is written after the sink (or the
//! buffer on disk) has the records. After a crash reading goes on from there, so some records are sent again. A record's id
//! is a hash of (node, generation of the file, offset), and everything that decides where a record begins or goes is either
//! content or durable before the record ships, so that a sink that knows ids can tell.
#![forbid(unsafe_code)]

mod batch;
mod buffer;
mod clock;
mod config;
mod encode;
mod filter;
mod follow;
mod metrics;
mod parse;
mod record;
mod run;
mod ship;
mod sinks;

pub use config::{Config, ConfigError, FormatRule, SinkConfig};
pub use parse::Custom;
pub use run::{Error, Health, run};
