//! Sends one phase of a request to the leaves in parallel and brings back exactly one answer per
//! shard, or why there is none.
//!
//! Calls carry all shards of a leaf; answers stay separate per shard. A shard that failed goes at
//! once to its next replica, as long as there is time: replicas of the plan first, then any that the
//! view has learned of since, then leaves that hold the shard and may have begun to serve it, and at
//! last, when only the connection failed, the same leaf once more.
//! The first answer for a shard is accepted and later ones are dropped, so a second copy of a late
//! call (a hedge) can be added to [`Scatter::run`]'s loop as one more event.

mod reply;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;
use trawl_cluster::view::Viewer;
use trawl_proto::v1::failure::Kind;
use trawl_proto::{NodeName, failure, v1};

pub use self::reply::{PerShard, by_position};
use crate::leaf_client::{ConnectionState, LeafClient, LeafClients, unknown_leaf};
use crate::metrics::Metrics;
use crate::plan::{Load, Planner, Preference, Target};
use crate::request::{ShardFailure, ShardsSummary};

/// What a leaf said about the shards (by position in the targets) it was asked for; `Err` when the
/// call as a whole failed.
pub type Reply<A> = Result<Vec<(usize, Result<A, v1::Failure>)>, v1::Failure>;

/// One phase's call: asks a leaf for the targets at these positions, within this time.
pub type Ask<'b, A> = dyn Fn(Arc<LeafClient>, Vec<usize>, Duration) -> BoxFuture<'b, Reply<A>> + Send + Sync + 'b;

/// How to reach replicas; the same for every phase of one request.
pub struct Scatter<'a> {
    /// Clients of leaves.
    pub leaves: &'a LeafClients,
    /// To learn of new replicas.
    pub viewer: &'a Viewer,
    /// Which replicas may be asked.
    pub preference: &'a Preference,
    /// When to give up.
    pub deadline: Instant,
    /// Kept back at each hop; see [`margin`].
    pub margin: Duration,
    /// Calls per shard at most.
    pub attempts_max: u32,
    /// Counters.
    pub metrics: &'a Metrics,
}

/// One accepted answer.
#[derive(Clone, Debug)]
pub struct Answer<A> {
    /// Who gave it.
    pub leaf: NodeName,
    /// What it said.
    pub value: A,
}

/// All shards' answers or failures, by position in the targets.
pub struct Scattered<A> {
    /// One per target.
    pub shards: Vec<Result<Answer<A>, ShardFailure>>,
}

impl<A> Scattered<A> {
    /// Counts what answered and what did not.
    pub fn summary(&self) -> ShardsSummary {
        let failures: Vec<_> = self.shards.iter().filter_map(|shard| shard.as_ref().err().cloned()).collect();
        let total = self.shards.len() as u32;
        let failed = failures.len() as u32;
        ShardsSummary { total, successful: total - failed, skipped: 0, failed, failures }
    }

    /// The accepted answers with their targets' positions.
    pub fn answers(&self) -> impl Iterator<Item = (usize, &Answer<A>)> {
        self.shards.iter().enumerate().filter_map(|(at, shard)| Some((at, shard.as_ref().ok()?)))
    }

    /// Whether a shard is missing because time ran out.
    pub fn timed_out(&self) -> bool {
        self.shards.iter().any(|shard| shard.as_ref().is_err_and(|missing| missing.failure.kind() == Kind::Deadline))
    }
}

/// What is kept back of the time left, so that an answer made at the last moment still arrives: the
/// setting, but never more than a tenth.
pub fn margin(left: Duration, setting: Duration) -> Duration {
    setting.min(left / 10)
}

/// Load of leaves for planning on a view.
pub fn load_of<'a>(leaves: &'a LeafClients, view: &'a trawl_cluster::view::View) -> impl Fn(&NodeName) -> Load + 'a {
    move |name| match view.leaf(name).map(|node| (node.alive, leaves.client(&node.record))) {
        Some((alive, Some(client))) => {
            Load { gone: !alive || client.state() == ConnectionState::Broken, in_flight: client.in_flight() }
        }
        _ => Load { gone: true, in_flight: 0 },
    }
}

/// One shard on its way to an answer.
struct Progress {
    /// Who is to be asked next, last one first.
    queue: Vec<NodeName>,
    /// Who has been asked, and how often.
    asked: BTreeMap<NodeName, u32>,
    attempts: u32,
    last: Option<(NodeName, v1::Failure)>,
}

impl Scatter<'_> {
    /// Asks for every target.
    ///
    /// 1. The first replica of each shard; shards of one leaf share a call.
    /// 2. Each answer is accepted, or its shard goes to the next replica.
    /// 3. At the deadline everything open is missing.
    pub async fn run<'b, A: Send>(&self, targets: &[Target], ask: &Ask<'b, A>) -> Scattered<A> {
        let mut shards: Vec<Option<Result<Answer<A>, ShardFailure>>> = targets.iter().map(|_| None).collect();
        let mut progress: Vec<_> = targets.iter().map(Progress::new).collect();
        let mut calls = FuturesUnordered::new();
        let mut next: Vec<usize> = (0..targets.len()).collect();
        let give_up = tokio::time::sleep_until(self.deadline);
        tokio::pin!(give_up);
        loop {
            let mut by_leaf: BTreeMap<NodeName, Vec<usize>> = BTreeMap::new();
            for at in next.drain(..) {
                match self.next_replica(&targets[at], &mut progress[at]) {
                    Some(leaf) => by_leaf.entry(leaf).or_default().push(at),
                    None => shards[at] = Some(Err(progress[at].failure(&targets[at]))),
                }
            }
            for (leaf, asked) in by_leaf {
                calls.push(self.call(leaf, asked, ask));
            }
            let (leaf, asked, reply) = tokio::select! {
                biased;
                answer = calls.next() => match answer {
                    Some(answer) => answer,
                    None => break,
                },
                () = &mut give_up => break,
            };
            for (at, result) in complete(&asked, reply) {
                match result {
                    Ok(value) if shards[at].is_none() => shards[at] = Some(Ok(Answer { leaf: leaf.clone(), value })),
                    Err(failure) if shards[at].is_none() => {
                        if self.failed(&mut progress[at], &leaf, failure) {
                            next.push(at);
                        } else {
                            shards[at] = Some(Err(progress[at].failure(&targets[at])));
                        }
                    }
                    _ => {}
                }
            }
        }
        let missing = |at: usize| Err(progress[at].late(&targets[at]));
        let shards = shards.into_iter().enumerate().map(|(at, shard)| shard.unwrap_or_else(|| missing(at))).collect();
        Scattered { shards }
    }

    async fn call<'b, A>(
        &self,
        leaf: NodeName,
        asked: Vec<usize>,
        ask: &Ask<'b, A>,
    ) -> (NodeName, Vec<usize>, Reply<A>) {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let timeout = left - margin(left, self.margin);
        let reply = match self.leaves.by_name(&self.viewer.view(), &leaf) {
            Some(client) => ask(client, asked.clone(), timeout).await,
            None => Err(unknown_leaf(&leaf)),
        };
        (leaf, asked, reply)
    }

    /// Notes a failure; whether another replica may do better.
    fn failed(&self, progress: &mut Progress, leaf: &NodeName, failure: v1::Failure) -> bool {
        let kind = failure.kind();
        let left = self.deadline.saturating_duration_since(Instant::now());
        progress.last = Some((leaf.clone(), failure));
        let again = match kind {
            Kind::Invalid => false,
            Kind::Deadline => left > self.margin * 4,
            _ => !left.is_zero(),
        };
        if again {
            self.metrics.leaf_retries.inc();
        }
        again
    }

    fn next_replica(&self, target: &Target, progress: &mut Progress) -> Option<NodeName> {
        if progress.attempts >= self.attempts_max {
            return None;
        }
        if progress.queue.is_empty() {
            progress.queue = self.more_replicas(target, progress);
        }
        let leaf = progress.queue.pop()?;
        progress.attempts += 1;
        *progress.asked.entry(leaf.clone()).or_default() += 1;
        Some(leaf)
    }

    /// Replicas to try after those of the plan, last one first.
    fn more_replicas(&self, target: &Target, progress: &Progress) -> Vec<NodeName> {
        let view = self.viewer.view();
        let load = load_of(self.leaves, &view);
        let planner = Planner::new(&view, self.preference, &load, 0);
        let mut replicas = planner.replicas(&target.shard);
        let unavailable = progress.last.as_ref().is_some_and(|(_, failure)| failure.kind() == Kind::Unavailable);
        let asked = |leaf: &NodeName| progress.asked.get(leaf).copied().unwrap_or(0);
        if replicas.iter().all(|leaf| asked(leaf) > 0) {
            let assigned = planner.assigned(&target.shard).into_iter();
            replicas.extend(assigned.filter(|leaf| asked(leaf) == 0));
        }
        if replicas.iter().any(|leaf| asked(leaf) == 0) {
            replicas.retain(|leaf| asked(leaf) == 0);
        } else {
            replicas.retain(|leaf| unavailable && asked(leaf) == 1);
        }
        replicas.reverse();
        replicas
    }
}

impl Progress {
    fn new(target: &Target) -> Self {
        let queue = target.replicas.iter().rev().cloned().collect();
        Self { queue, asked: BTreeMap::new(), attempts: 0, last: None }
    }

    fn failure(&self, target: &Target) -> ShardFailure {
        let (node, failure) = match &self.last {
            Some((leaf, failure)) => (Some(leaf.clone()), failure.clone()),
            None => (None, failure(Kind::Unavailable, "no replica of this shard is serving")),
        };
        ShardFailure { index: target.index.name.clone(), shard: target.shard.number, node, failure }
    }

    fn late(&self, target: &Target) -> ShardFailure {
        let asked = self.asked.keys().map(NodeName::as_str).collect::<Vec<_>>().join(", ");
        ShardFailure {
            index: target.index.name.clone(),
            shard: target.shard.number,
            node: self.asked.keys().next_back().cloned(),
            failure: failure(Kind::Deadline, format!("no answer in time from {asked}")),
        }
    }
}

/// One result for every shard that was asked for, whatever the leaf left out.
fn complete<A>(asked: &[usize], reply: Reply<A>) -> Vec<(usize, Result<A, v1::Failure>)> {
    match reply {
        Err(failure) => asked.iter().map(|at| (*at, Err(failure.clone()))).collect(),
        Ok(mut results) => {
            results.retain(|(at, _)| asked.contains(at));
            for at in asked {
                if !results.iter().any(|(there, _)| there == at) {
                    results.push((*at, Err(failure(Kind::Internal, "the leaf left the shard out of its answer"))));
                }
            }
            results
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_asked_shard_gets_one_result() {
        let reply: Reply<u8> = Ok(vec![(2, Ok(2)), (9, Ok(9))]);
        let results = complete(&[1, 2], reply);
        assert_eq!(results.len(), 2);
        assert_eq!(results[0].1, Ok(2));
        assert!(results[1].1.is_err());
        let reply: Reply<u8> = Err(failure(Kind::Rejected, "full"));
        assert_eq!(complete(&[1, 2], reply).len(), 2);
    }

    #[test]
    fn the_margin_is_a_tenth_at_most() {
        let setting = Duration::from_millis(15);
        assert_eq!(margin(Duration::from_secs(10), setting), setting);
        assert_eq!(margin(Duration::from_millis(50), setting), Duration::from_millis(5));
    }
}
