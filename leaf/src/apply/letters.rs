//! Rejections since the last commit, on their way to the dead letters.
//!
//! They are handed over before the commit that goes past them, so that a committed replica implies kept
//! letters, and a log that is trimmed needs no further thought.

use prost::Message;
use trawl_cluster::dead_letters::{DeadLetter, LetterKey};
use trawl_proto::v1::{FoundDocument, Operation, OperationError, Outcome};
use trawl_proto::{Generation, Incarnation, Seq, ShardKey};

use super::decide::Known;
use super::state::State;

/// What every letter costs beside its operation, in bytes.
const LETTER_BYTES: usize = 256;

/// Rejections in the order of the log.
#[derive(Debug, Default)]
pub struct Letters {
    letters: Vec<DeadLetter>,
    bytes: usize,
}

impl Letters {
    /// Notes an operation that was rejected for its content, and what the document is that it was for.
    pub fn note(
        &mut self,
        shard: &ShardKey,
        incarnation: Incarnation,
        state: &State,
        operation: &Operation,
        known: Known,
        outcome: &Outcome,
    ) {
        let (seq_no, primary_term) = match known {
            Known::Live(stamp) => (stamp.seq, stamp.primary_term),
            Known::Absent | Known::Deleted(_) => (0, 0),
        };
        // One that is replayed brings what it was the first time.
        let found = operation.found.unwrap_or(FoundDocument { seq_no, primary_term, rejected_seq: outcome.seq });
        let kept = Operation { found: Some(found), ..operation.clone() };
        let none = OperationError::default();
        let error = outcome.error.as_ref().unwrap_or(&none);
        let letter = DeadLetter {
            key: LetterKey { shard: shard.clone(), at: Generation { incarnation, seq: Seq(outcome.seq) } },
            id: operation.id.clone(),
            operation: kept.encode_to_vec().into(),
            mapping_version: state.mapping_version,
            error_type: error.r#type.clone(),
            reason: reason(error),
            time_ms: state.time_ms,
        };
        self.bytes += LETTER_BYTES + letter.operation.len() + letter.reason.len();
        self.letters.push(letter);
    }

    /// All of them.
    pub fn list(&self) -> &[DeadLetter] {
        &self.letters
    }

    /// What they take in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// They are committed past.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// The reason and those below it.
fn reason(error: &OperationError) -> String {
    let mut text = error.reason.clone();
    let mut cause = error.caused_by.as_deref();
    while let Some(inner) = cause {
        text.push_str(&format!(", caused by [{}] {}", inner.r#type, inner.reason));
        cause = inner.caused_by.as_deref();
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::apply::decide::Stamp;

    #[test]
    fn a_letter_has_all_causes_and_says_what_the_document_was() {
        let (shard, state) = (ShardKey::new("u", 1), State::new(3));
        let operation = Operation { id: "a".to_owned(), source: vec![b'x'; 100].into(), ..Operation::default() };
        let mut letters = Letters::default();
        let mut note = |seq, known, error| {
            let outcome = Outcome { seq, error, ..Outcome::default() };
            letters.note(&shard, Incarnation(2), &state, &operation, known, &outcome);
        };
        let error = |text: &str, caused_by| OperationError {
            r#type: format!("{text}_exception"),
            reason: format!("{text} is wrong"),
            caused_by,
        };
        let stamp = Stamp { seq: 7, primary_term: 1, version: 4 };
        note(8, Known::Live(stamp), Some(error("version", None)));
        note(9, Known::Deleted(stamp), Some(error("outer", Some(Box::new(error("inner", None))))));
        let [over, letter] = letters.list() else { panic!("{letters:?}") };
        let found = FoundDocument { seq_no: 7, primary_term: 1, rejected_seq: 8 };
        assert_eq!(Operation::decode(over.operation.clone()).unwrap().found, Some(found));
        assert_eq!(letter.key.at, Generation { incarnation: Incarnation(2), seq: Seq(9) });
        assert_eq!((letter.id.as_str(), letter.mapping_version), ("a", 3));
        assert_eq!(letter.error_type, "outer_exception");
        assert_eq!(letter.reason, "outer is wrong, caused by [inner_exception] inner is wrong");
        let kept =
            Operation { found: Some(FoundDocument { rejected_seq: 9, ..FoundDocument::default() }), ..operation };
        assert_eq!(Operation::decode(letter.operation.clone()), Ok(kept));
        assert!(letters.bytes() > 100);
    }
}
