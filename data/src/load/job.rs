//! One load at work: where it goes, under which key and claim, and how far it is.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::task::{Position, Progress, Tally};

/// A load at work.
#[derive(Debug)]
pub(super) struct Job {
    /// The index to load into.
    pub(super) index: String,
    /// What its batches' keys begin with.
    pub(super) key: String,
    /// The receipt of the claim it is done for.
    pub(super) claim: Option<String>,
    pub(super) batch_bytes: usize,
    pub(super) batch_documents: usize,
    /// How far it is, for whoever extends the claim.
    pub(super) progress: Arc<Mutex<Progress>>,
}

impl Job {
    /// A copy of the progress.
    pub(super) fn progress(&self) -> Progress {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn note(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// The batches of a job that are not all done, in their order: the first that is not done holds back those behind it.
#[derive(Debug, Default)]
pub(super) struct Order {
    batches: VecDeque<Slot>,
    /// How many of them are on their way.
    on_the_way: usize,
}

#[derive(Debug)]
struct Slot {
    number: u64,
    end: Position,
    tally: Option<Tally>,
}

impl Order {
    /// A batch is on its way now.
    pub(super) fn sent(&mut self) {
        self.on_the_way += 1;
    }

    /// A batch is no longer on its way, whatever became of it.
    pub(super) fn arrived(&mut self) {
        self.on_the_way -= 1;
    }

    /// Whether no batch is on its way.
    pub(super) fn none_on_the_way(&self) -> bool {
        self.on_the_way == 0
    }

    /// A batch was cut that reaches to `end`.
    pub(super) fn begin(&mut self, number: u64, end: Position) {
        self.batches.push_back(Slot { number, end, tally: None });
    }

    /// A batch is done. What is now done without a gap goes into the progress.
    pub(super) fn done(&mut self, number: u64, tally: Tally, progress: &mut Progress) {
        if let Some(slot) = self.batches.iter_mut().find(|slot| slot.number == number) {
            slot.tally = Some(tally);
        }
        while let Some(Slot { end, tally: Some(tally), .. }) = self.batches.front() {
            progress.at = progress.at.max(*end);
            progress.tally.add(tally);
            self.batches.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readers::Mark;

    #[test]
    fn progress_waits_for_the_first_batch() {
        let at = |offset| Position { piece: 0, mark: Mark { offset, line: 1 } };
        let tally = |loaded| Tally { loaded, ..Tally::default() };
        let (mut order, mut progress) = (Order::default(), Progress::default());
        for number in 1..=3 {
            order.begin(number, at(number * 10));
        }
        order.done(2, tally(2), &mut progress);
        assert_eq!((progress.at, progress.tally.loaded), (Position::START, 0));
        order.done(1, tally(1), &mut progress);
        assert_eq!((progress.at, progress.tally.loaded), (at(20), 3));
        order.done(3, tally(4), &mut progress);
        assert_eq!((progress.at, progress.tally.loaded), (at(30), 7));
    }
}
