//! Updates: each becomes the write of a whole document, or an outcome at once.
//!
//! What an update makes of a document depends on the document, so it is decided here, in the order of
//! the log, from the document as the log up to then made it. Nothing can come in between: there is no
//! conflict to retry.

use bytes::Bytes;
use trawl_data::document::DocumentError;
use trawl_data::document::update::{UpdateRequest, merge};
use trawl_proto::v1::operation::Kind;
use trawl_proto::v1::{Operation, OperationError, Outcome, outcome::Result as Came};

use super::decide::{Known, Stamp, conflict, conflicting, outcome, rejected};
use super::draft::error;

/// The document that an update finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// Its source.
    pub source: Bytes,
    /// Its `_routing`, where one was given.
    pub routing: Option<String>,
}

/// What an update comes to.
#[derive(Clone, Debug, PartialEq)]
pub enum Resolved {
    /// This, and nothing is written.
    Outcome(Outcome),
    /// The write of this document, without conditions.
    Write(Operation),
}

/// Resolves an update; `present` is the document when it is live.
pub fn resolve(known: Known, present: Option<&Present>, operation: &Operation, seq: u64) -> Resolved {
    match attempt(known, present, operation, seq) {
        Ok(resolved) => resolved,
        Err(error) => Resolved::Outcome(rejected(seq, error)),
    }
}

fn attempt(
    known: Known,
    present: Option<&Present>,
    operation: &Operation,
    seq: u64,
) -> Result<Resolved, OperationError> {
    let request = UpdateRequest::parse(&operation.source).map_err(malformed)?;
    let (Known::Live(stamp), Some(present)) = (known, present) else {
        // As in Elasticsearch, a condition on a document that is not there is not looked at.
        return Ok(match request.initial() {
            Some(initial) => write(operation, initial.as_bytes().to_vec(), None),
            None => Resolved::Outcome(missing(operation, seq)),
        });
    };
    if let Some(reason) = conflict(known, operation) {
        return Ok(Resolved::Outcome(conflicting(operation, seq, stamp.version, &reason)));
    }
    let Some(doc) = request.doc else {
        return Err(error("action_request_validation_exception", "Validation Failed: 1: script or doc is missing;"));
    };
    let merged = merge(&present.source, doc).map_err(malformed)?;
    if request.detect_noop && !merged.changed {
        return Ok(Resolved::Outcome(noop(stamp, seq)));
    }
    Ok(write(operation, merged.source, present.routing.clone()))
}

/// The document's routing is that of the update, or else the one it has.
fn write(operation: &Operation, source: Vec<u8>, routing: Option<String>) -> Resolved {
    Resolved::Write(Operation {
        kind: Kind::Index.into(),
        id: operation.id.clone(),
        routing: operation.routing.clone().or(routing),
        source: source.into(),
        ..Operation::default()
    })
}

fn noop(stamp: Stamp, seq: u64) -> Outcome {
    Outcome {
        document_seq: stamp.seq,
        document_term: stamp.primary_term,
        ..outcome(Came::Noop, seq, stamp.version, None)
    }
}

fn missing(operation: &Operation, seq: u64) -> Outcome {
    let reason = format!("[{}]: document missing", operation.id);
    outcome(Came::Missing, seq, 0, Some(error("document_missing_exception", reason)))
}

fn malformed(error: DocumentError) -> OperationError {
    super::draft::error(error.error_type, error.reason)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const STAMP: Stamp = Stamp { seq: 4, primary_term: 1, version: 2 };

    fn update(body: &str) -> Operation {
        let source = body.as_bytes().to_vec().into();
        Operation { kind: Kind::Update.into(), id: "a".to_owned(), source, ..Operation::default() }
    }

    fn on(document: &'static str, operation: &Operation) -> Resolved {
        let present = Present { source: document.into(), routing: Some("r".to_owned()) };
        resolve(Known::Live(STAMP), Some(&present), operation, 9)
    }

    fn outcome_of(resolved: Resolved) -> Outcome {
        let Resolved::Outcome(outcome) = resolved else { panic!("{resolved:?}") };
        outcome
    }

    fn source_of(resolved: Resolved) -> String {
        let Resolved::Write(operation) = resolved else { panic!("{resolved:?}") };
        assert_eq!((operation.kind(), operation.if_seq_no), (Kind::Index, None));
        String::from_utf8(operation.source.to_vec()).unwrap()
    }

    #[test]
    fn what_is_there_is_merged_and_what_is_not_begins_with_the_upsert() {
        let both = update(r#"{"doc":{"b":2},"upsert":{"c":3}}"#);
        assert_eq!(source_of(on(r#"{"a":1}"#, &both)), r#"{"a":1,"b":2}"#);
        assert_eq!(source_of(resolve(Known::Absent, None, &both, 9)), r#"{"c":3}"#);
        let deleted = Known::Deleted(STAMP);
        let upsert = update(r#"{"doc":{"b":2},"doc_as_upsert":true}"#);
        assert_eq!(source_of(resolve(deleted, None, &upsert, 9)), r#"{"b":2}"#);
        let gone = outcome_of(resolve(deleted, None, &update(r#"{"doc":{}}"#), 9));
        assert_eq!((gone.result(), gone.version), (Came::Missing, 0));
        assert_eq!(gone.error.unwrap().reason, "[a]: document missing");
    }

    #[test]
    fn a_document_keeps_its_routing_unless_told_otherwise() {
        let routing = |operation: &Operation| match on("{}", operation) {
            Resolved::Write(operation) => operation.routing,
            other => panic!("{other:?}"),
        };
        let plain = update(r#"{"doc":{"b":2}}"#);
        assert_eq!(routing(&plain).as_deref(), Some("r"));
        assert_eq!(routing(&Operation { routing: Some("s".to_owned()), ..plain }).as_deref(), Some("s"));
    }

    #[test]
    fn noops_conflicts_and_nonsense_write_nothing() {
        let noop = outcome_of(on(r#"{"a":1}"#, &update(r#"{"doc":{"a":1}}"#)));
        assert_eq!((noop.result(), noop.version, noop.seq), (Came::Noop, 2, 9));
        assert_eq!((noop.document_seq, noop.document_term), (4, 1));
        assert_eq!(source_of(on(r#"{"a":1}"#, &update(r#"{"doc":{"a":1},"detect_noop":false}"#))), r#"{"a":1}"#);
        let condition =
            |seq| Operation { if_seq_no: Some(seq), if_primary_term: Some(1), ..update(r#"{"doc":{"b":1}}"#) };
        let conflict = outcome_of(on("{}", &condition(3)));
        assert_eq!((conflict.result(), conflict.version), (Came::VersionConflict, 2));
        assert_eq!(source_of(on("{}", &condition(4))), r#"{"b":1}"#);
        assert_eq!(outcome_of(resolve(Known::Absent, None, &condition(3), 9)).result(), Came::Missing);
        for body in ["", "{", "[]", r#"{"foo":1}"#, r#"{"upsert":{}}"#] {
            assert_eq!(outcome_of(on("{}", &update(body))).result(), Came::Rejected, "{body}");
        }
    }
}
