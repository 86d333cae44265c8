//! Sends one phase of a request to the leaves in parallel and brings back exactly one answer per
//! shard, or why there is none.
//!
//! Calls carry all shards of a leaf; answers stay separate per shard. A shard that failed goes at
//! once to its next replica, as long as there is time: replicas of the plan first, then any that the
//! view has learned of since, then leaves that hold the shard and may have begun to serve it, and at
//! last, when only the connection failed, the same leaf once more. A call that is late is hedged: its
//! shards are asked for a second time, at other replicas, while there is a budget for it. The first
//! answer for a shard is accepted, and calls that nothing is wanted from any more are cancelled.

mod progress;
mod reply;
mod wave;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{AbortHandle, AbortRegistration, Abortable, BoxFuture};
use futures::stream::FuturesUnordered;
use tokio::time::Instant;
use trawl_cluster::view::Viewer;
use trawl_proto::v1::failure::Kind;
use trawl_proto::{NodeName, failure, v1};

use self::progress::Progress;
pub use self::reply::{PerShard, by_position};
use self::wave::{Call, Open, Wanted, Wave};
use crate::hedging::{Hedging, Phase};
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
    /// When a call is late, and whether it may be made twice.
    pub hedging: &'a Hedging,
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
    move |name| match view.leaf(name).map(|node| (node.alive, leaves.by_name(view, name))) {
        Some((alive, Some(client))) => {
            Load { gone: !alive || client.state() == ConnectionState::Broken, candidate: client.candidate() }
        }
        _ => Load { gone: true, ..Load::default() },
    }
}

impl Scatter<'_> {
    /// Asks for every target.
    ///
    /// 1. The first replica of each shard; shards of one leaf share a call.
    /// 2. Each answer is accepted, or its shard goes to the next replica.
    /// 3. A call that is late is made a second time elsewhere, once.
    /// 4. At the deadline everything open is missing.
    ///
    /// Cancel safe: calls that have not ended are cancelled with it.
    pub async fn run<'b, A: Send>(&self, phase: Phase, targets: &[Target], ask: &Ask<'b, A>) -> Scattered<A> {
        let mut wave = Wave::new(targets, phase);
        let mut calls = FuturesUnordered::new();
        let mut wanted = self.next_replicas(&mut wave, (0..targets.len()).collect());
        let give_up = tokio::time::sleep_until(self.deadline);
        tokio::pin!(give_up);
        while !wave.is_settled() {
            for wanted in wanted.drain(..) {
                let (call, abort) = self.open(&mut wave, wanted);
                calls.push(Abortable::new(self.call(call, ask), abort));
            }
            let late_at = wave.open.iter().filter_map(|open| open.late_at).min();
            let late = async move { tokio::time::sleep_until(late_at.unwrap_or_else(Instant::now)).await };
            wanted = tokio::select! {
                biased;
                ended = calls.next() => match ended {
                    Some(Ok((number, reply))) => {
                        let failed = self.ended(&mut wave, number, reply);
                        self.next_replicas(&mut wave, failed)
                    }
                    // It was cancelled.
                    Some(Err(_)) => Vec::new(),
                    None => break,
                },
                () = late, if late_at.is_some() => self.hedge(&mut wave),
                () = &mut give_up => break,
            };
        }
        wave.open.iter().for_each(|open| self.given_up(&wave, open));
        Scattered { shards: wave.end() }
    }

    /// Notes a call that is about to be made.
    fn open<A>(&self, wave: &mut Wave<'_, A>, Wanted { leaf, asked, is_hedge }: Wanted) -> (Call, AbortRegistration) {
        let client = self.leaves.by_name(&self.viewer.view(), &leaf);
        let late_after = if is_hedge { None } else { self.hedging.called(&wave.targets_of(&asked), wave.phase) };
        let started = Instant::now();
        let (abort, registration) = AbortHandle::new_pair();
        let call = Call { number: wave.next_number(), leaf, client, asked };
        wave.open.push(Open {
            call: call.clone(),
            started,
            late_at: late_after.map(|after| started + after),
            is_hedge,
            abort,
        });
        (call, registration)
    }

    async fn call<'b, A>(&self, call: Call, ask: &Ask<'b, A>) -> (usize, Reply<A>) {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let timeout = left - margin(left, self.margin);
        let reply = match call.client {
            Some(client) => ask(client, call.asked, timeout).await,
            None => Err(unknown_leaf(&call.leaf)),
        };
        (call.number, reply)
    }

    /// Takes over an answer, and cancels calls that nothing is wanted from any more. Targets that are to be asked for
    /// elsewhere.
    fn ended<A>(&self, wave: &mut Wave<'_, A>, number: usize, reply: Reply<A>) -> Vec<usize> {
        let Some(open) = wave.take(number) else { return Vec::new() };
        self.observe(wave, &open, &reply);
        let Open { call, is_hedge, .. } = open;
        let (mut again, mut won) = (Vec::new(), false);
        for (at, result) in complete(&call.asked, reply) {
            wave.progress[at].open -= 1;
            match result {
                _ if wave.shards[at].is_some() => {}
                Ok(value) => {
                    won = true;
                    wave.shards[at] = Some(Ok(Answer { leaf: call.leaf.clone(), value }));
                }
                Err(failure) => {
                    let is_final = !self.may_do_better(&failure);
                    wave.progress[at].failed(&call.leaf, failure);
                    if is_final {
                        wave.shards[at] = Some(Err(wave.progress[at].failure(&wave.targets[at])));
                    } else if wave.progress[at].open == 0 {
                        self.metrics.leaf_retries.inc();
                        again.push(at);
                    }
                }
            }
        }
        if won && is_hedge {
            self.metrics.hedges_won.inc();
        }
        for open in wave.take_unwanted() {
            open.abort.abort();
            self.metrics.calls_cancelled.inc();
            self.given_up(wave, &open);
        }
        again
    }

    /// Learns from how long a call took.
    fn observe<A>(&self, wave: &Wave<'_, A>, Open { call, started, .. }: &Open, reply: &Reply<A>) {
        let took = started.elapsed();
        match reply {
            Ok(_) => {
                self.hedging.answered(&wave.targets_of(&call.asked), wave.phase, took);
                if let Some(client) = &call.client {
                    client.answered(wave.phase, took);
                }
            }
            Err(failure) if failure.kind() == Kind::Rejected => {
                if let Some(client) = &call.client {
                    client.refused();
                }
            }
            Err(_) => {}
        }
    }

    /// Learns from a call that is not waited for any more.
    fn given_up<A>(&self, wave: &Wave<'_, A>, Open { call, started, .. }: &Open) {
        let took = started.elapsed();
        self.hedging.given_up(&wave.targets_of(&call.asked), wave.phase, took);
        if let Some(client) = &call.client {
            client.given_up(wave.phase, took);
        }
    }

    /// Calls to make besides those that are late now, as far as there are other replicas and a budget.
    fn hedge<A>(&self, wave: &mut Wave<'_, A>) -> Vec<Wanted> {
        let late = wave.take_late(Instant::now());
        let view = self.viewer.view();
        let free = |leaf: &NodeName| {
            self.leaves
                .by_name(&view, leaf)
                .is_some_and(|client| client.state() != ConnectionState::Broken && !client.is_saturated())
        };
        let mut by_leaf: BTreeMap<NodeName, Vec<usize>> = BTreeMap::new();
        for at in late {
            let progress = &wave.progress[at];
            if wave.shards[at].is_some() || progress.open > 1 || progress.attempts >= self.attempts_max {
                continue;
            }
            if let Some(leaf) = progress.queue.iter().rev().find(|leaf| free(leaf)) {
                by_leaf.entry(leaf.clone()).or_default().push(at);
            }
        }
        let mut wanted = Vec::new();
        for (leaf, asked) in by_leaf {
            if !self.hedging.may() {
                self.metrics.hedges_refused.inc();
                break;
            }
            self.metrics.hedges.inc();
            for at in &asked {
                wave.progress[*at].queue.retain(|queued| *queued != leaf);
                wave.progress[*at].asking(&leaf);
            }
            wanted.push(Wanted { leaf, asked, is_hedge: true });
        }
        wanted
    }

    /// Whether another replica may do better than one that failed.
    fn may_do_better(&self, failure: &v1::Failure) -> bool {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match failure.kind() {
            Kind::Invalid => false,
            Kind::Deadline => left > self.margin * 4,
            _ => !left.is_zero(),
        }
    }

    /// Calls for these targets to the next replica of each; a target without one has failed.
    fn next_replicas<A>(&self, wave: &mut Wave<'_, A>, targets: Vec<usize>) -> Vec<Wanted> {
        let mut by_leaf: BTreeMap<NodeName, Vec<usize>> = BTreeMap::new();
        for at in targets {
            let (target, progress) = (&wave.targets[at], &mut wave.progress[at]);
            match self.next_replica(target, progress) {
                Some(leaf) => by_leaf.entry(leaf).or_default().push(at),
                None => wave.shards[at] = Some(Err(progress.failure(target))),
            }
        }
        by_leaf.into_iter().map(|(leaf, asked)| Wanted { leaf, asked, is_hedge: false }).collect()
    }

    fn next_replica(&self, target: &Target, progress: &mut Progress) -> Option<NodeName> {
        if progress.attempts >= self.attempts_max {
            return None;
        }
        if progress.queue.is_empty() {
            progress.queue = self.more_replicas(target, progress);
        }
        let leaf = progress.queue.pop()?;
        progress.asking(&leaf);
        Some(leaf)
    }

    /// Replicas to try after those of the plan, last one first.
    fn more_replicas(&self, target: &Target, progress: &Progress) -> Vec<NodeName> {
        let view = self.viewer.view();
        let load = load_of(self.leaves, &view);
        let planner = Planner::new(&view, self.preference, &load, 0);
        let mut replicas = planner.replicas(&target.shard);
        if replicas.iter().all(|leaf| progress.asked(leaf) > 0) {
            let assigned = planner.assigned(&target.shard).into_iter();
            replicas.extend(assigned.filter(|leaf| progress.asked(leaf) == 0));
        }
        if replicas.iter().any(|leaf| progress.asked(leaf) == 0) {
            replicas.retain(|leaf| progress.asked(leaf) == 0);
        } else {
            replicas.retain(|leaf| progress.was_unavailable() && progress.asked(leaf) == 1);
        }
        replicas.reverse();
        replicas
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
