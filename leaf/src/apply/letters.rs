//! Rejections since the last commit, on their way to the dead letters.
//!
//! They are handed over before the commit that goes past them, so that a committed replica implies kept
//! letters, and a log that is trimmed needs no further thought.

use prost::Message;
use trawl_cluster::dead_letters::{DeadLetter, LetterKey};
use trawl_proto::v1::{Operation, OperationError, Outcome, outcome::Result as Came};
use trawl_proto::{Generation, Incarnation, Seq, ShardKey};

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
    /// Notes an operation if it was rejected for its content.
    pub fn note(
        &mut self,
        shard: &ShardKey,
        incarnation: Incarnation,
        state: &State,
        operation: &Operation,
        outcome: &Outcome,
    ) {
        if outcome.result() != Came::Rejected {
            return;
        }
        let none = OperationError::default();
        let error = outcome.error.as_ref().unwrap_or(&none);
        let letter = DeadLetter {
            key: LetterKey { shard: shard.clone(), at: Generation { incarnation, seq: Seq(outcome.seq) } },
            id: operation.id.clone(),
            operation: operation.encode_to_vec().into(),
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
    use super::*;

    #[test]
    fn only_rejections_become_letters_with_all_their_causes() {
        let (shard, state) = (ShardKey::new("u", 1), State::new(3));
        let operation = Operation { id: "a".to_owned(), source: vec![b'x'; 100].into(), ..Operation::default() };
        let mut letters = Letters::default();
        let mut note = |seq, result: Came, error| {
            let outcome = Outcome { seq, result: result.into(), error, ..Outcome::default() };
            letters.note(&shard, Incarnation(2), &state, &operation, &outcome);
        };
        let error = |text: &str, caused_by| OperationError {
            r#type: format!("{text}_exception"),
            reason: format!("{text} is wrong"),
            caused_by,
        };
        note(7, Came::Created, None);
        note(8, Came::VersionConflict, Some(error("version", None)));
        note(9, Came::Rejected, Some(error("outer", Some(Box::new(error("inner", None))))));
        let [letter] = letters.list() else { panic!("{letters:?}") };
        assert_eq!(letter.key.at, Generation { incarnation: Incarnation(2), seq: Seq(9) });
        assert_eq!((letter.id.as_str(), letter.mapping_version), ("a", 3));
        assert_eq!(letter.error_type, "outer_exception");
        assert_eq!(letter.reason, "outer is wrong, caused by [inner_exception] inner is wrong");
        assert_eq!(Operation::decode(letter.operation.clone()).as_ref(), Ok(&operation));
        assert!(letters.bytes() > 100);
    }
}
