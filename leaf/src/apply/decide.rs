//! What an operation comes to: a pure function of what is known of its document.
//!
//! Results, versions and the wording of conflicts are Elasticsearch's.

use trawl_proto::v1::operation::{Kind, VersionType};
use trawl_proto::v1::{Operation, OperationError, Outcome, outcome::Result as Came};

/// Where a document's last operation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The operation's seq.
    pub seq: u64,
    /// The incarnation that it counts in.
    pub primary_term: u64,
    /// The document's version.
    pub version: u64,
}

/// What is known of a document before an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// It never existed, or its delete is forgotten.
    Absent,
    /// It exists.
    Live(Stamp),
    /// It was deleted a short while ago: versions go on counting.
    Deleted(Stamp),
}

/// What an operation does to the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    Nothing,
    /// The document is written with this version.
    Put {
        /// The new version.
        version: u64,
        /// Whether an older one has to go.
        replaces: bool,
    },
    /// The document goes, and its delete is remembered with this version.
    Delete {
        /// The new version.
        version: u64,
        /// Whether there is a document to remove.
        exists: bool,
    },
}

/// Decides an operation whose document (if it has one) is valid.
pub fn decide(known: Known, operation: &Operation, seq: u64) -> (Outcome, Effect) {
    let before = match known {
        Known::Absent => 0,
        Known::Live(stamp) | Known::Deleted(stamp) => stamp.version,
    };
    if let Some(reason) = conflict(known, operation) {
        return (conflicting(operation, seq, before, &reason), Effect::Nothing);
    }
    let version = match operation.version_type() {
        VersionType::Internal => before.saturating_add(1),
        VersionType::External | VersionType::ExternalGte => operation.version.unwrap_or_default(),
    };
    let exists = matches!(known, Known::Live(_));
    if operation.kind() == Kind::Delete {
        let result = if exists { Came::Deleted } else { Came::NotFound };
        (outcome(result, seq, version, None), Effect::Delete { version, exists })
    } else {
        let result = if exists { Came::Updated } else { Came::Created };
        (outcome(result, seq, version, None), Effect::Put { version, replaces: exists })
    }
}

/// The outcome of an operation that pure validation refused.
pub fn rejected(seq: u64, error: OperationError) -> Outcome {
    outcome(Came::Rejected, seq, 0, Some(error))
}

/// The outcome of an operation that must not be carried out, and why.
pub fn conflicting(operation: &Operation, seq: u64, version: u64, reason: &str) -> Outcome {
    let error = OperationError {
        r#type: "version_conflict_engine_exception".to_owned(),
        reason: format!("[{}]: version conflict, {reason}", operation.id),
        caused_by: None,
    };
    outcome(Came::VersionConflict, seq, version, Some(error))
}

/// Why the conditions on the document's position or version do not hold.
pub fn conflict(known: Known, operation: &Operation) -> Option<String> {
    if let (Some(seq), Some(term)) = (operation.if_seq_no, operation.if_primary_term) {
        let required = format!("required seqNo [{seq}], primary term [{term}].");
        match known {
            Known::Live(stamp) if stamp.seq == seq && stamp.primary_term == term => {}
            Known::Live(stamp) => {
                return Some(format!(
                    "{required} current document has seqNo [{}] and primary term [{}]",
                    stamp.seq, stamp.primary_term
                ));
            }
            Known::Absent | Known::Deleted(_) => return Some(format!("{required} but no document was found")),
        }
    }
    let given = operation.version.unwrap_or_default();
    match (operation.version_type(), known) {
        (VersionType::Internal, _) | (_, Known::Absent) => {}
        (VersionType::External, Known::Live(Stamp { version, .. }) | Known::Deleted(Stamp { version, .. })) => {
            if version >= given {
                return Some(format!("current version [{version}] is higher or equal to the one provided [{given}]"));
            }
        }
        (VersionType::ExternalGte, Known::Live(Stamp { version, .. }) | Known::Deleted(Stamp { version, .. })) => {
            if version > given {
                return Some(format!("current version [{version}] is higher than the one provided [{given}]"));
            }
        }
    }
    match known {
        Known::Live(stamp) if operation.kind() == Kind::Create => {
            Some(format!("document already exists (current version [{}])", stamp.version))
        }
        _ => None,
    }
}

/// An outcome without more to it.
pub fn outcome(result: Came, seq: u64, version: u64, error: Option<OperationError>) -> Outcome {
    Outcome { result: result.into(), seq, version, error, ..Outcome::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(kind: Kind, condition: Option<(u64, u64)>) -> Operation {
        Operation {
            kind: kind.into(),
            id: "a".to_owned(),
            if_seq_no: condition.map(|(seq, _)| seq),
            if_primary_term: condition.map(|(_, term)| term),
            ..Operation::default()
        }
    }

    fn live(seq: u64, version: u64) -> Known {
        Known::Live(Stamp { seq, primary_term: 1, version })
    }

    fn reason(known: Known, operation: &Operation) -> String {
        decide(known, operation, 9).0.error.map(|error| error.reason).unwrap_or_default()
    }

    #[test]
    fn versions_count_on_over_a_remembered_delete() {
        let (first, _) = decide(Known::Absent, &operation(Kind::Index, None), 1);
        assert_eq!((first.result(), first.version), (Came::Created, 1));
        let (gone, effect) = decide(live(1, 1), &operation(Kind::Delete, None), 2);
        assert_eq!((gone.result(), gone.version), (Came::Deleted, 2));
        assert_eq!(effect, Effect::Delete { version: 2, exists: true });
        let deleted = Known::Deleted(Stamp { seq: 2, primary_term: 1, version: 2 });
        let (again, effect) = decide(deleted, &operation(Kind::Create, None), 3);
        assert_eq!((again.result(), again.version), (Came::Created, 3));
        assert_eq!(effect, Effect::Put { version: 3, replaces: false });
        let (missing, _) = decide(deleted, &operation(Kind::Delete, None), 3);
        assert_eq!((missing.result(), missing.version), (Came::NotFound, 3));
    }

    #[test]
    fn versions_from_outside_may_only_grow() {
        let given = |kind: Kind, version_type: VersionType, version: u64| Operation {
            version: Some(version),
            version_type: version_type.into(),
            ..operation(kind, None)
        };
        let came = |known: Known, operation: &Operation| {
            let (outcome, effect) = decide(known, operation, 9);
            (outcome.result(), outcome.version, effect != Effect::Nothing)
        };
        let deleted = Known::Deleted(Stamp { seq: 2, primary_term: 1, version: 5 });
        for known in [live(2, 5), deleted] {
            let exists = known == live(2, 5);
            let put = if exists { Came::Updated } else { Came::Created };
            let removed = if exists { Came::Deleted } else { Came::NotFound };
            for (kind, fine) in [(Kind::Index, put), (Kind::Delete, removed)] {
                assert_eq!(came(known, &given(kind, VersionType::External, 6)), (fine, 6, true));
                assert_eq!(came(known, &given(kind, VersionType::External, 5)), (Came::VersionConflict, 5, false));
                assert_eq!(came(known, &given(kind, VersionType::ExternalGte, 5)), (fine, 5, true));
                assert_eq!(came(known, &given(kind, VersionType::ExternalGte, 4)), (Came::VersionConflict, 5, false));
            }
        }
        assert_eq!(came(Known::Absent, &given(Kind::Index, VersionType::External, 0)), (Came::Created, 0, true));
        assert_eq!(came(Known::Absent, &given(Kind::Delete, VersionType::External, 7)), (Came::NotFound, 7, true));
        assert_eq!(
            reason(live(1, 5), &given(Kind::Index, VersionType::External, 5)),
            "[a]: version conflict, current version [5] is higher or equal to the one provided [5]"
        );
        assert_eq!(
            reason(live(1, 5), &given(Kind::Index, VersionType::ExternalGte, 4)),
            "[a]: version conflict, current version [5] is higher than the one provided [4]"
        );
        assert_eq!(came(live(1, u64::MAX), &operation(Kind::Index, None)), (Came::Updated, u64::MAX, true));
    }

    #[test]
    fn conflicts_are_worded_as_elasticsearch_words_them() {
        assert_eq!(
            reason(live(1, 1), &operation(Kind::Create, None)),
            "[a]: version conflict, document already exists (current version [1])"
        );
        assert_eq!(
            reason(live(2, 2), &operation(Kind::Index, Some((1, 1)))),
            "[a]: version conflict, required seqNo [1], primary term [1]. current document has seqNo [2] and primary term [1]"
        );
        assert_eq!(
            reason(Known::Absent, &operation(Kind::Delete, Some((1, 1)))),
            "[a]: version conflict, required seqNo [1], primary term [1]. but no document was found"
        );
        let (fine, _) = decide(live(2, 2), &operation(Kind::Index, Some((2, 1))), 9);
        assert_eq!((fine.result(), fine.version), (Came::Updated, 3));
    }
}
