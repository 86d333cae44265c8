//! Which leaves hold which shards: a pure function of the state of the world to the next few steps.
//!
//! ```text
//!            joins             serves, and so do enough others
//! (nowhere) ───────> staying ──────────────────────────────────> staying
//!                       │ lost, drained, moved, surplus, uneven:
//!                       v another joins in its place
//!                    leaving ───────────────────────────────────> (nowhere)
//!                               as many as wanted serve that stay
//! ```
//!
//! Each shard gets as many staying replicas as are wanted, on distinct live leaves, as far as there are.
//! A replica that has stopped on a live leaf, and not come back by itself within the grace period, is replaced as if
//! the leaf were lost, where there is something to make another from: one that serves, or a whole log.
//! A replica goes only when as many others serve as are wanted. What has to be done comes in this order:
//! shards without any leaf; shards that lack replicas, those with the fewest serving first, because a leaf
//! is missing for longer than its grace period or is drained; moves that operators wish for; and, only
//! when nothing else is under way, spreading over zones and evening out. At most so many replicas are
//! copied at a time, to one leaf and altogether.
//!
//! Why this ends: healing adds to a shard only what it lacks. Each zone step lowers the sum of the squares
//! of a shard's replicas per zone; each evening step does not raise that, and lowers the sum over leaves of
//! held bytes squared by capacity.

mod even;
mod plan;
mod settle;
#[cfg(test)]
mod tests;
mod wishes;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use trawl_proto::{NodeName, ShardKey};

use self::plan::Plan;

/// All that the placement depends on.
#[derive(Clone, Debug, Default)]
pub(super) struct World {
    /// Every leaf that is registered or holds something.
    pub leaves: BTreeMap<NodeName, Leaf>,
    /// Every shard of every index.
    pub shards: BTreeMap<ShardKey, Shard>,
    /// Operators' wishes: the shard, the leaf its replica is on, the leaf to go to.
    pub moves: BTreeMap<(ShardKey, NodeName), NodeName>,
    /// Bounds.
    pub limits: Limits,
}

/// Bounds of what is under way at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Replicas that one leaf may copy.
    pub copies_per_leaf: usize,
    /// Replicas that all leaves together may copy.
    pub copies: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { copies_per_leaf: 2, copies: 8 }
    }
}

/// One leaf.
#[derive(Clone, Debug, Default)]
pub(super) struct Leaf {
    /// Failure zone.
    pub zone: Option<String>,
    /// Bytes that it can hold.
    pub capacity_bytes: Option<u64>,
    /// Whether it is to hold nothing.
    pub is_draining: bool,
    /// For how long it is missing; `None` while it lives.
    pub missing_for: Option<Duration>,
    /// Whether it speaks the cluster's protocol.
    pub takes_part: bool,
}

/// One shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shard {
    /// How many replicas it is to have.
    pub wanted: usize,
    /// How long a leaf may be missing before its replica is replaced.
    pub replace_after: Duration,
    /// The leaves that it is assigned to, each once.
    pub leaves: Vec<NodeName>,
    /// Those of them that go.
    pub leaving: BTreeSet<NodeName>,
    /// Those of them that answer queries, or would if they lived.
    pub serving: BTreeSet<NodeName>,
    /// Those of them that have stopped, and for how long they have not served because of that: they are not copying.
    pub stuck: BTreeMap<NodeName, Duration>,
    /// Whether a replica can be made from the log, if one is stuck.
    pub log_is_whole: bool,
    /// Leaves that say they serve it although they do not hold it: they have not heard yet.
    pub lingering: BTreeSet<NodeName>,
    /// Bytes of one replica on disk; `None` where that is not known yet.
    pub bytes: Option<u64>,
}

impl Shard {
    fn staying(&self) -> impl Iterator<Item = &NodeName> {
        self.leaves.iter().filter(|leaf| !self.leaving.contains(*leaf))
    }
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Give a shard other leaves.
    Assign(Assign),
    /// Forget a wish that cannot be.
    Refuse {
        /// The shard.
        shard: ShardKey,
        /// The leaf its replica was to go from.
        from: NodeName,
        /// Why not.
        reason: &'static str,
    },
}

/// A shard's assignment from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Assign {
    /// The shard.
    pub shard: ShardKey,
    /// All its leaves.
    pub leaves: Vec<NodeName>,
    /// Those of them that go.
    pub leaving: BTreeSet<NodeName>,
    /// The wish that this fulfils: to move the replica of this leaf.
    pub fulfils: Option<NodeName>,
    /// For people.
    pub reason: &'static str,
}

/// The next few steps, at most one for a shard; nothing when all is well or under way.
pub(super) fn decide(world: &World) -> Vec<Step> {
    let mut plan = Plan::of(world);
    settle::settle(&mut plan);
    wishes::fulfil(&mut plan);
    even::even_out(&mut plan);
    plan.steps
}

/// When the next grace period ends: after how long there may be something to do although nothing
/// changes; `None` when no leaf that holds something is missing within it.
pub(super) fn next_lapse(world: &World) -> Option<Duration> {
    let lapses = world.shards.values().flat_map(|shard| {
        let left = |leaf: &NodeName| {
            let missing_for = world.leaves.get(leaf)?.missing_for?;
            (missing_for < shard.replace_after).then(|| shard.replace_after - missing_for)
        };
        shard.leaves.iter().filter_map(left)
    });
    lapses.min()
}
