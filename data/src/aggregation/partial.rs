//! A shard's partial results on the wire, in a numbered format.
//!
//! | format | bytes |
//! | --- | --- |
//! | 1 | the whole of [`Partial`] in postcard |
//! | 2 | `v1::PartialAggregations`: the fields by number and name, so that they may get more; the results in postcard |
//!
//! In both the results are in postcard as tantivy 0.27 has them, and tantivy promises nothing about that. So a
//! tantivy that writes other bytes is a format 3, and a build that has it goes on writing and reading format 2 until
//! nobody needs it (the stored bytes that `root/src/gather` has to read in its tests show when that is). Which format
//! is used is settled with each call: the root names those it reads, the leaf takes the newest of them that it writes.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use serde::{Deserialize, Serialize};
use tantivy::aggregation::intermediate_agg_result::IntermediateAggregationResults;
use trawl_proto::v1::{self, partial_field::Kind};

use super::ValueKind;

/// The formats that this build writes and reads, newest first.
const FORMATS: [u32; 2] = [2, 1];
/// The only one that protocol 1 knows, which says nothing of formats.
pub const FIRST_FORMAT: u32 = 1;

/// The formats that a node writes and reads, newest first.
pub fn formats(protocol: u32) -> &'static [u32] {
    if protocol >= 2 { &FORMATS } else { &[FIRST_FORMAT] }
}

/// The newest of a leaf's formats that a root reads; one that names none reads the first.
pub fn format_for(written: &[u32], read: &[u32]) -> Option<u32> {
    let read = if read.is_empty() { &[FIRST_FORMAT] } else { read };
    written.iter().copied().filter(|format| read.contains(format)).max()
}

/// What one shard sends: its partial results, and what the fields are that they were made of, so that
/// whoever merges need not know the mapping.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Partial {
    /// By logical field; a field that the shard does not know is not here.
    pub kinds: BTreeMap<String, ValueKind>,
    /// Tantivy's intermediate results.
    pub results: IntermediateAggregationResults,
}

/// Why partial results cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum PartialError {
    /// A newer build wrote them, although nobody asked it to.
    #[error("partial aggregations have format {0}, this program reads {FORMATS:?}")]
    Format(u32),
    /// They are damaged.
    #[error("partial aggregations cannot be read")]
    Message(#[from] prost::DecodeError),
    /// The same, of tantivy's part.
    #[error("partial aggregations cannot be read or written")]
    Results(#[from] postcard::Error),
    /// A field is of a kind that this program does not know.
    #[error("field [{0}] of partial aggregations is of an unknown kind")]
    Kind(String),
}

impl Partial {
    /// As bytes in a format.
    ///
    /// # Errors
    /// [`PartialError::Format`] for one that is not of [`formats`].
    pub fn encode(&self, format: u32) -> Result<Vec<u8>, PartialError> {
        match format {
            1 => Ok(postcard::to_stdvec(self)?),
            2 => {
                let field = |(name, kind): (&String, &ValueKind)| v1::PartialField {
                    name: name.clone(),
                    kind: to_wire(*kind).into(),
                };
                let results = postcard::to_stdvec(&self.results)?.into();
                Ok(v1::PartialAggregations { fields: self.kinds.iter().map(field).collect(), results }.encode_to_vec())
            }
            other => Err(PartialError::Format(other)),
        }
    }

    /// From bytes; format 0 is one that was not named.
    ///
    /// # Errors
    /// When they are damaged, or of a format that is not known here.
    pub fn decode(format: u32, bytes: Bytes) -> Result<Self, PartialError> {
        match format {
            0 | 1 => Ok(postcard::from_bytes(&bytes)?),
            2 => {
                let v1::PartialAggregations { fields, results } = Message::decode(bytes)?;
                let kind = |field: v1::PartialField| match from_wire(field.kind()) {
                    Some(kind) => Ok((field.name, kind)),
                    None => Err(PartialError::Kind(field.name)),
                };
                let kinds = fields.into_iter().map(kind).collect::<Result<_, _>>()?;
                Ok(Self { kinds, results: postcard::from_bytes(&results)? })
            }
            other => Err(PartialError::Format(other)),
        }
    }
}

fn to_wire(kind: ValueKind) -> Kind {
    match kind {
        ValueKind::Text => Kind::Text,
        ValueKind::Keyword => Kind::Keyword,
        ValueKind::Long => Kind::Long,
        ValueKind::Double => Kind::Double,
        ValueKind::Boolean => Kind::Boolean,
        ValueKind::Date => Kind::Date,
        ValueKind::Ip => Kind::Ip,
    }
}

fn from_wire(kind: Kind) -> Option<ValueKind> {
    Some(match kind {
        Kind::Unspecified => return None,
        Kind::Text => ValueKind::Text,
        Kind::Keyword => ValueKind::Keyword,
        Kind::Long => ValueKind::Long,
        Kind::Double => ValueKind::Double,
        Kind::Boolean => ValueKind::Boolean,
        Kind::Date => ValueKind::Date,
        Kind::Ip => ValueKind::Ip,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn root_and_leaf_take_the_newest_format_that_both_know() {
        assert_eq!(format_for(formats(2), formats(2)), Some(2));
        assert_eq!(format_for(formats(2), &[]), Some(1));
        assert_eq!(format_for(formats(1), formats(2)), Some(1));
        assert_eq!(format_for(formats(2), &[4, 3, 2]), Some(2));
        assert_eq!(format_for(formats(2), &[4, 3]), None);
    }

    #[test]
    fn every_format_brings_back_what_went_in() {
        use ValueKind::{Boolean, Date, Double, Ip, Keyword, Long, Text};
        let kinds: BTreeMap<_, _> =
            [Text, Keyword, Long, Double, Boolean, Date, Ip].map(|kind| (format!("{kind:?}"), kind)).into();
        for format in FORMATS {
            let partial = Partial { kinds: kinds.clone(), ..Partial::default() };
            let bytes = partial.encode(format).unwrap();
            assert_eq!(Partial::decode(format, bytes.into()).unwrap().kinds, kinds);
        }
        assert!(matches!(Partial::default().encode(3), Err(PartialError::Format(3))));
        assert!(matches!(Partial::decode(3, Bytes::new()), Err(PartialError::Format(3))));
        let later = v1::PartialField { name: "f".to_owned(), kind: 99 };
        let later = v1::PartialAggregations { fields: vec![later], results: Bytes::new() }.encode_to_vec();
        assert!(matches!(Partial::decode(2, later.into()), Err(PartialError::Kind(_))));
    }
}
