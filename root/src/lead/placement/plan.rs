//! A round of decisions: the world, what was decided so far, and what every leaf then holds.

use std::collections::{BTreeMap, BTreeSet};

use trawl_proto::{IndexUid, NodeName, ShardKey};
use xxhash_rust::xxh3::xxh3_64;

use super::{Assign, Leaf, Shard, Step, World};

/// What a replica counts for besides its bytes, so that small ones are spread by number.
pub(super) const REPLICA_BYTES: u64 = 16 << 20;

/// See [`Plan::choose`].
type Rank = ((bool, bool), usize, usize, f64, u64);

/// One round.
pub(super) struct Plan<'a> {
    pub world: &'a World,
    /// The shards as they are after the steps so far.
    pub shards: BTreeMap<ShardKey, Shard>,
    pub steps: Vec<Step>,
    /// Shards with a step in this round.
    pub touched: BTreeSet<ShardKey>,
    /// Bytes of staying replicas.
    load: BTreeMap<NodeName, u64>,
    of_index: BTreeMap<(IndexUid, NodeName), usize>,
    /// Replicas that each leaf copies.
    copies: BTreeMap<NodeName, usize>,
    /// Leaves on which replicas have stopped.
    troubled: BTreeSet<NodeName>,
    /// Whether the capacity of every live leaf is known: loads are then shares of it.
    by_capacity: bool,
}

impl<'a> Plan<'a> {
    pub fn of(world: &'a World) -> Self {
        let mut live = world.leaves.values().filter(|leaf| leaf.missing_for.is_none());
        let mut plan = Self {
            world,
            shards: world.shards.clone(),
            steps: Vec::new(),
            touched: BTreeSet::new(),
            load: BTreeMap::new(),
            of_index: BTreeMap::new(),
            copies: BTreeMap::new(),
            troubled: world.shards.values().flat_map(|shard| shard.stuck.keys().cloned()).collect(),
            by_capacity: live.all(|leaf| leaf.capacity_bytes.is_some_and(|bytes| bytes > 0)),
        };
        for (key, shard) in &world.shards {
            shard.staying().for_each(|leaf| plan.add(key, leaf));
            for leaf in &shard.leaves {
                if plan.is_copying(shard, leaf) {
                    *plan.copies.entry(leaf.clone()).or_default() += 1;
                }
            }
        }
        plan
    }

    pub fn leaf(&self, name: &NodeName) -> Option<&'a Leaf> {
        self.world.leaves.get(name)
    }

    pub fn is_live(&self, name: &NodeName) -> bool {
        self.leaf(name).is_some_and(|leaf| leaf.missing_for.is_none())
    }

    /// Missing for longer than the shard's grace period.
    pub fn is_lost(&self, shard: &Shard, name: &NodeName) -> bool {
        self.leaf(name).is_none_or(|leaf| leaf.missing_for.is_some_and(|missing| missing >= shard.replace_after))
    }

    /// Stopped on a live leaf for longer than the shard's grace period, while another could be made.
    pub fn has_failed(&self, shard: &Shard, name: &NodeName) -> bool {
        let is_long = shard.stuck.get(name).is_some_and(|stuck| *stuck >= shard.replace_after);
        let has_source = || shard.log_is_whole || shard.leaves.iter().any(|leaf| self.serves(shard, leaf));
        is_long && self.is_live(name) && !self.serves(shard, name) && has_source()
    }

    /// Whether replicas have stopped on the leaf: another would probably do so as well.
    pub fn is_troubled(&self, name: &NodeName) -> bool {
        self.troubled.contains(name)
    }

    pub fn is_draining(&self, name: &NodeName) -> bool {
        self.leaf(name).is_some_and(|leaf| leaf.is_draining)
    }

    /// Whether it may be given replicas.
    pub fn is_open(&self, name: &NodeName) -> bool {
        self.is_live(name) && !self.is_draining(name) && self.leaf(name).is_some_and(|leaf| leaf.takes_part)
    }

    /// Whether it answers queries now.
    pub fn serves(&self, shard: &Shard, name: &NodeName) -> bool {
        shard.serving.contains(name) && self.is_live(name)
    }

    /// How many that stay answer queries now.
    pub fn serving_staying(&self, shard: &Shard) -> usize {
        shard.staying().filter(|leaf| self.serves(shard, leaf)).count()
    }

    /// Whether it is making itself from another that serves.
    fn is_copying(&self, shard: &Shard, name: &NodeName) -> bool {
        let is_waiting = self.is_live(name) && !shard.serving.contains(name) && !shard.stuck.contains_key(name);
        is_waiting && shard.leaves.iter().any(|leaf| self.serves(shard, leaf))
    }

    /// Whether nothing is being copied.
    pub fn is_quiet(&self) -> bool {
        self.copies.is_empty()
    }

    /// Whether one more replica may be copied to the leaf.
    pub fn has_room(&self, to: &NodeName) -> bool {
        let limits = &self.world.limits;
        self.copies.values().sum::<usize>() < limits.copies
            && self.copies.get(to).copied().unwrap_or(0) < limits.copies_per_leaf
    }

    /// Bytes that a replica of the shard counts for.
    pub fn weight(&self, key: &ShardKey) -> u64 {
        self.shards.get(key).and_then(|shard| shard.bytes).unwrap_or(0) + REPLICA_BYTES
    }

    pub fn add(&mut self, key: &ShardKey, leaf: &NodeName) {
        *self.load.entry(leaf.clone()).or_default() += self.weight(key);
        *self.of_index.entry((key.index_uid.clone(), leaf.clone())).or_default() += 1;
    }

    pub fn take(&mut self, key: &ShardKey, leaf: &NodeName) {
        let weight = self.weight(key);
        if let Some(load) = self.load.get_mut(leaf) {
            *load = load.saturating_sub(weight);
        }
        if let Some(replicas) = self.of_index.get_mut(&(key.index_uid.clone(), leaf.clone())) {
            *replicas = replicas.saturating_sub(1);
        }
    }

    pub fn of_index(&self, key: &ShardKey, leaf: &NodeName) -> usize {
        self.of_index.get(&(key.index_uid.clone(), leaf.clone())).copied().unwrap_or(0)
    }

    pub fn load(&self, leaf: &NodeName) -> u64 {
        self.load.get(leaf).copied().unwrap_or(0)
    }

    /// What loads are measured by: the capacity, or the same for all.
    pub fn capacity(&self, leaf: &NodeName) -> f64 {
        let known = self.leaf(leaf).and_then(|leaf| leaf.capacity_bytes).filter(|_| self.by_capacity);
        known.map_or(1.0, |bytes| bytes as f64)
    }

    /// How full it is, comparable between leaves.
    pub fn fill(&self, leaf: &NodeName) -> f64 {
        self.load(leaf) as f64 / self.capacity(leaf)
    }

    /// A leaf without a zone is one of its own.
    pub fn zone<'n>(&self, leaf: &'n NodeName) -> (Option<&'a str>, Option<&'n NodeName>) {
        match self.leaf(leaf).and_then(|leaf| leaf.zone.as_deref()) {
            Some(zone) => (Some(zone), None),
            None => (None, Some(leaf)),
        }
    }

    /// How many of these leaves are in the zone of that one.
    pub fn in_zone_of<'n>(&self, leaf: &'n NodeName, others: impl Iterator<Item = &'n NodeName>) -> usize {
        let zone = self.zone(leaf);
        others.filter(|other| self.zone(other) == zone).count()
    }

    /// The best leaf for a further replica; `None` where there is none, or none that may copy one more.
    ///
    /// By, in this order: nothing stopped there, room on its disk, the zone with the fewest replicas of the shard, fewest replicas
    /// of the same index, least held, chance (a hash, so that pairs of leaves differ from shard to shard and
    /// what a lost leaf did falls to many).
    pub fn choose(&self, key: &ShardKey, shard: &Shard) -> Option<NodeName> {
        // Nothing has to be copied for a shard that nobody has.
        let is_first = self.world.shards.get(key).is_none_or(|before| before.leaves.is_empty());
        let candidates = self.world.leaves.keys().filter(|leaf| {
            self.is_open(leaf)
                && !shard.leaves.contains(leaf)
                && !shard.lingering.contains(*leaf)
                && (is_first || self.has_room(leaf))
        });
        let rank = |leaf: &NodeName| {
            let capacity = self.leaf(leaf).and_then(|leaf| leaf.capacity_bytes);
            let is_full = capacity.is_some_and(|bytes| self.load(leaf) + self.weight(key) > bytes);
            let in_zone = self.in_zone_of(leaf, shard.staying());
            let is_doubtful = (self.is_troubled(leaf), is_full);
            (
                is_doubtful,
                in_zone,
                self.of_index(key, leaf),
                self.fill(leaf),
                xxh3_64(format!("{key}/{leaf}").as_bytes()),
            )
        };
        let ranked = candidates.map(|leaf| (rank(leaf), leaf));
        let less =
            |a: &Rank, b: &Rank| (a.0, a.1, a.2).cmp(&(b.0, b.1, b.2)).then(a.3.total_cmp(&b.3)).then(a.4.cmp(&b.4));
        ranked.min_by(|(a, _), (b, _)| less(a, b)).map(|(_, leaf)| leaf.clone())
    }

    /// Has another leaf hold the shard.
    pub fn join(&mut self, key: &ShardKey, leaf: &NodeName) {
        if let Some(shard) = self.shards.get_mut(key) {
            shard.leaves.push(leaf.clone());
        }
        if self.shards.get(key).is_some_and(|shard| self.is_copying(shard, leaf)) {
            *self.copies.entry(leaf.clone()).or_default() += 1;
        }
        self.add(key, leaf);
    }

    /// Has a leaf go once it can.
    pub fn leave(&mut self, key: &ShardKey, leaf: &NodeName) {
        if self.shards.get_mut(key).is_some_and(|shard| shard.leaving.insert(leaf.clone())) {
            self.take(key, leaf);
        }
    }

    /// Has a leaf stay that was to go.
    pub fn keep(&mut self, key: &ShardKey, leaf: &NodeName) {
        if self.shards.get_mut(key).is_some_and(|shard| shard.leaving.remove(leaf)) {
            self.add(key, leaf);
        }
    }

    /// Notes what has become of the shard as a step, if anything has.
    pub fn step(&mut self, key: &ShardKey, fulfils: Option<NodeName>, reason: &'static str) {
        let Some(shard) = self.shards.get(key) else { return };
        if self.world.shards.get(key) == Some(shard) {
            return;
        }
        self.steps.push(Step::Assign(Assign {
            shard: key.clone(),
            leaves: shard.leaves.clone(),
            leaving: shard.leaving.clone(),
            fulfils,
            reason,
        }));
        self.touched.insert(key.clone());
    }
}
