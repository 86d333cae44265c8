//! One shard on its way to an answer: who was asked, who is to be asked next, and what came of it.

use std::collections::BTreeMap;

use trawl_proto::v1::failure::Kind;
use trawl_proto::{NodeName, failure, v1};

use crate::plan::Target;
use crate::request::ShardFailure;

/// One shard on its way to an answer.
pub(super) struct Progress {
    /// Who is to be asked next, last one first.
    pub(super) queue: Vec<NodeName>,
    /// Who has been asked, and how often.
    asked: BTreeMap<NodeName, u32>,
    /// Calls for it so far.
    pub(super) attempts: u32,
    /// Calls for it that have not ended.
    pub(super) open: u32,
    last: Option<(NodeName, v1::Failure)>,
}

impl Progress {
    pub(super) fn new(target: &Target) -> Self {
        let queue = target.replicas.iter().rev().cloned().collect();
        Self { queue, asked: BTreeMap::new(), attempts: 0, open: 0, last: None }
    }

    /// Notes that a leaf is being asked.
    pub(super) fn asking(&mut self, leaf: &NodeName) {
        self.attempts += 1;
        self.open += 1;
        *self.asked.entry(leaf.clone()).or_default() += 1;
    }

    /// How often a leaf was asked.
    pub(super) fn asked(&self, leaf: &NodeName) -> u32 {
        self.asked.get(leaf).copied().unwrap_or(0)
    }

    /// Notes what a leaf said that has no answer.
    pub(super) fn failed(&mut self, leaf: &NodeName, failure: v1::Failure) {
        self.last = Some((leaf.clone(), failure));
    }

    /// Whether the last one asked could not be reached.
    pub(super) fn was_unavailable(&self) -> bool {
        self.last.as_ref().is_some_and(|(_, failure)| failure.kind() == Kind::Unavailable)
    }

    /// Why there is no answer.
    pub(super) fn failure(&self, target: &Target) -> ShardFailure {
        let (node, failure) = match &self.last {
            Some((leaf, failure)) => (Some(leaf.clone()), failure.clone()),
            None => (None, failure(Kind::Unavailable, "no replica of this shard is serving")),
        };
        ShardFailure { index: target.index.name.clone(), shard: target.shard.number, node, failure }
    }

    /// The same when time ran out.
    pub(super) fn late(&self, target: &Target) -> ShardFailure {
        let asked = self.asked.keys().map(NodeName::as_str).collect::<Vec<_>>().join(", ");
        ShardFailure {
            index: target.index.name.clone(),
            shard: target.shard.number,
            node: self.asked.keys().next_back().cloned(),
            failure: failure(Kind::Deadline, format!("no answer in time from {asked}")),
        }
    }
}
