//! How records of the store are read: their format first, so that what a newer version wrote is refused with a
//! reason that says what to do, and never taken for damage or for nothing.
//!
//! A record keeps its format for as long as an older version that ignores what was added still does right. A field
//! that must not be ignored is a new format, and is written only once the cluster protocol is one whose versions all
//! know it (see [`crate::protocol`]).

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{
    AssignmentRecord, DrainRecord, EpochRecord, IndexRecord, LeaseRecord, MoveRecord, NodeRecord, ProtocolRecord,
    ServingRecord, SkipRecord,
};
use crate::Error;

/// A record that says its format.
pub trait Record: DeserializeOwned {
    /// The newest format that this program reads.
    const FORMAT: u32 = 1;
}

impl Record for AssignmentRecord {}
impl Record for DrainRecord {}
impl Record for EpochRecord {}
impl Record for IndexRecord {}
impl Record for LeaseRecord {}
impl Record for MoveRecord {}
impl Record for NodeRecord {}
impl Record for ProtocolRecord {}
impl Record for ServingRecord {}
impl Record for SkipRecord {}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// Reads a record; `key` is for the message.
///
/// # Errors
/// [`Error::Corrupt`] for one that a newer version wrote in a format that is not known here, and for one that is none.
pub fn decode<T: Record>(key: &str, value: &[u8]) -> Result<T, Error> {
    let corrupt = |error: serde_json::Error| Error::Corrupt(format!("{key}: {error}"));
    let Format { format } = serde_json::from_slice(value).map_err(corrupt)?;
    if format > T::FORMAT {
        return Err(newer(key, format, T::FORMAT));
    }
    serde_json::from_slice(value).map_err(corrupt)
}

/// What was stored in a format that a later version brought.
pub fn newer(what: &str, format: u32, known: u32) -> Error {
    Error::Corrupt(format!(
        "{what} has format {format}, written by a newer version of Trawl; this is {}, which knows format {known}: run \
         the version here that wrote it",
        env!("CARGO_PKG_VERSION")
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_newer_format_is_refused_before_anything_else_is_looked_at() {
        let error = decode::<IndexRecord>("index/i", br#"{"format": 2, "shards": "many"}"#).unwrap_err().to_string();
        assert!(error.contains("index/i has format 2") && error.contains("knows format 1"), "{error}");
        assert!(decode::<IndexRecord>("index/i", b"{}").unwrap_err().to_string().contains("missing field `format`"));
    }
}
