//! What decides where a request goes and when it goes twice: pure functions of what was observed.
//!
//! No clocks, no sockets: times come in as values, so that the same code can be run in virtual time.
//!
//! ```text
//! choice    which replica is expected to answer first
//! quantile  how long answers usually take
//! hedge     when a call is late enough to be made a second time, and how often that may be
//! ```

pub mod choice;
pub mod hedge;
pub mod quantile;
