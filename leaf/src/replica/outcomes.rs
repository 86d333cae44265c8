//! The outcomes of a replica's most recent operations, for the root that appended them.

use std::collections::VecDeque;

use trawl_proto::v1::{OperationError, Outcome};

/// Bytes of error texts and documents that are remembered at most.
const MORE_BYTES_MAX: usize = 8 << 20;

/// A bounded run of outcomes without gaps.
#[derive(Debug)]
pub struct Outcomes {
    /// Seq of the first one kept.
    first: u64,
    kept: VecDeque<Kept>,
    kept_max: usize,
    more_bytes: usize,
}

/// An outcome without its seq, small.
#[derive(Debug)]
struct Kept {
    result: i32,
    version: u64,
    /// The whole outcome when there is more to it.
    more: Option<Box<Outcome>>,
}

impl Kept {
    fn new(outcome: Outcome) -> Self {
        let (result, version) = (outcome.result, outcome.version);
        let has_more = outcome.error.is_some() || outcome.document_seq != 0 || !outcome.document.is_empty();
        Self { result, version, more: has_more.then(|| Box::new(outcome)) }
    }

    fn outcome(&self, seq: u64) -> Outcome {
        match &self.more {
            Some(outcome) => outcome.as_ref().clone(),
            None => Outcome { result: self.result, seq, version: self.version, ..Outcome::default() },
        }
    }

    /// Bytes beyond those of the small outcome.
    fn bytes(&self) -> usize {
        self.more
            .as_ref()
            .map_or(0, |outcome| size_of::<Outcome>() + outcome.error.as_ref().map_or(0, size) + outcome.document.len())
    }
}

impl Outcomes {
    /// Keeps at most `kept_max`.
    pub fn new(kept_max: usize) -> Self {
        Self { first: 1, kept: VecDeque::new(), kept_max: kept_max.max(1), more_bytes: 0 }
    }

    /// Adds outcomes in seq order. Those that are known already (a row applied again after a crash
    /// gives the same) are left out; a gap forgets what was before it.
    pub fn push(&mut self, outcomes: Vec<Outcome>) {
        for outcome in outcomes {
            let next = self.first + self.kept.len() as u64;
            if outcome.seq < next && outcome.seq >= self.first {
                continue;
            }
            if outcome.seq != next {
                self.clear();
                self.first = outcome.seq;
            }
            let kept = Kept::new(outcome);
            self.more_bytes += kept.bytes();
            self.kept.push_back(kept);
            while self.kept.len() > self.kept_max || (self.more_bytes > MORE_BYTES_MAX && self.kept.len() > 1) {
                if let Some(oldest) = self.kept.pop_front() {
                    self.more_bytes -= oldest.bytes();
                    self.first += 1;
                }
            }
        }
    }

    /// Forgets everything: another history begins.
    pub fn clear(&mut self) {
        self.kept.clear();
        self.more_bytes = 0;
    }

    /// What is remembered of `first..=last`, in seq order.
    pub fn range(&self, first: u64, last: u64) -> Vec<Outcome> {
        let from = first.max(self.first);
        let skip = usize::try_from(from - self.first).unwrap_or(usize::MAX);
        self.kept.iter().skip(skip).zip(from..=last).map(|(kept, seq)| kept.outcome(seq)).collect()
    }
}

fn size(error: &OperationError) -> usize {
    size_of::<OperationError>() + error.r#type.len() + error.reason.len() + error.caused_by.as_deref().map_or(0, size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(seqs: std::ops::RangeInclusive<u64>) -> Vec<Outcome> {
        seqs.map(|seq| Outcome { seq, version: seq, ..Outcome::default() }).collect()
    }

    fn seqs(outcomes: &[Outcome]) -> Vec<u64> {
        outcomes.iter().map(|outcome| outcome.seq).collect()
    }

    #[test]
    fn documents_are_kept_within_bounds() {
        let mut ring = Outcomes::new(1_000);
        let document = vec![b' '; 1 << 20];
        let seqs = (1..=20).map(|seq| Outcome { seq, document: document.clone().into(), ..Outcome::default() });
        ring.push(seqs.collect());
        let left = ring.range(1, 20);
        assert_eq!((left.len(), left[0].seq, left[0].document.len()), (7, 14, 1 << 20));
        assert!(ring.more_bytes <= MORE_BYTES_MAX);
    }

    #[test]
    fn remembers_the_last_ones_without_gaps_or_repeats() {
        let mut ring = Outcomes::new(4);
        ring.push(outcomes(1..=3));
        ring.push(outcomes(2..=5));
        assert_eq!(seqs(&ring.range(0, 9)), [2, 3, 4, 5]);
        assert_eq!(seqs(&ring.range(3, 4)), [3, 4]);
        assert_eq!(seqs(&ring.range(6, 9)), [0u64; 0]);
        ring.push(outcomes(8..=9));
        assert_eq!(seqs(&ring.range(1, 9)), [8, 9]);
    }
}
