//! One phase of a request under way: what became of each target so far, and the calls that have not ended.

use std::sync::Arc;

use futures::future::AbortHandle;
use tokio::time::Instant;
use trawl_proto::NodeName;

use super::Answer;
use super::progress::Progress;
use crate::hedging::Phase;
use crate::leaf_client::LeafClient;
use crate::plan::Target;
use crate::request::ShardFailure;

/// A call to make.
pub(super) struct Wanted {
    pub(super) leaf: NodeName,
    /// Positions of the targets to ask for.
    pub(super) asked: Vec<usize>,
    /// Whether another call for them is under way.
    pub(super) is_hedge: bool,
}

/// A call that is made.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) number: usize,
    pub(super) leaf: NodeName,
    pub(super) client: Option<Arc<LeafClient>>,
    pub(super) asked: Vec<usize>,
}

/// A call that has not ended.
pub(super) struct Open {
    pub(super) call: Call,
    pub(super) started: Instant,
    /// When it is to be hedged.
    pub(super) late_at: Option<Instant>,
    pub(super) is_hedge: bool,
    pub(super) abort: AbortHandle,
}

/// What became of each target so far.
pub(super) struct Wave<'t, A> {
    pub(super) targets: &'t [Target],
    pub(super) phase: Phase,
    pub(super) shards: Vec<Option<Result<Answer<A>, ShardFailure>>>,
    pub(super) progress: Vec<Progress>,
    pub(super) open: Vec<Open>,
    calls_made: usize,
}

impl<'t, A> Wave<'t, A> {
    /// Nobody has been asked yet.
    pub(super) fn new(targets: &'t [Target], phase: Phase) -> Self {
        Self {
            targets,
            phase,
            shards: targets.iter().map(|_| None).collect(),
            progress: targets.iter().map(Progress::new).collect(),
            open: Vec::new(),
            calls_made: 0,
        }
    }

    /// Whether every target has its answer or failure.
    pub(super) fn is_settled(&self) -> bool {
        self.shards.iter().all(Option::is_some)
    }

    /// The targets at these positions.
    pub(super) fn targets_of(&self, asked: &[usize]) -> Vec<&'t Target> {
        asked.iter().map(|at| &self.targets[*at]).collect()
    }

    /// A number for a call that no other has.
    pub(super) fn next_number(&mut self) -> usize {
        self.calls_made += 1;
        self.calls_made
    }

    /// The call of this number, which has ended.
    pub(super) fn take(&mut self, number: usize) -> Option<Open> {
        let place = self.open.iter().position(|open| open.call.number == number)?;
        Some(self.open.swap_remove(place))
    }

    /// Calls from which nothing is wanted any more: all their targets are settled.
    pub(super) fn take_unwanted(&mut self) -> Vec<Open> {
        let shards = &self.shards;
        self.open.extract_if(.., |open| open.call.asked.iter().all(|at| shards[*at].is_some())).collect()
    }

    /// The targets of calls that have become late, each call once.
    pub(super) fn take_late(&mut self, now: Instant) -> Vec<usize> {
        let late = self.open.iter_mut().filter(|open| open.late_at.is_some_and(|at| at <= now));
        late.flat_map(|open| {
            open.late_at = None;
            open.call.asked.iter().copied()
        })
        .collect()
    }

    /// One result per target; what is open now was too late.
    pub(super) fn end(self) -> Vec<Result<Answer<A>, ShardFailure>> {
        let settled = self.shards.into_iter().zip(self.progress).zip(self.targets);
        settled.map(|((shard, progress), target)| shard.unwrap_or_else(|| Err(progress.late(target)))).collect()
    }
}
