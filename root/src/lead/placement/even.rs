//! Spreads replicas over zones and evens out what leaves hold, with as few moves as do it.
//!
//! A replica moves only where that brings two leaves clearly nearer to each other: their difference is
//! more than a tenth of what leaves hold on average, and the replica makes up at most three quarters of it.
//! So a large replica never goes back and forth, nor do small differences of size move anything.

use trawl_proto::{NodeName, ShardKey};

use super::Shard;
use super::plan::Plan;

/// Differences below this share of the average are even enough.
const TOLERANCE: f64 = 0.1;
/// A replica that makes up more than this share of the difference does not move.
const SHARE_MAX: f64 = 0.75;

/// Only when nothing else was decided, nothing is copied, sizes are known, and no leaf that holds something
/// is missing within its grace period: it may come back.
pub(super) fn even_out(plan: &mut Plan<'_>) {
    let is_missing = |shard: &Shard, leaf: &NodeName| !plan.is_live(leaf) && !plan.is_lost(shard, leaf);
    let is_settled = |shard: &Shard| {
        let is_served = shard.leaves.iter().any(|leaf| plan.serves(shard, leaf));
        (shard.bytes.is_some() || !is_served) && !shard.leaves.iter().any(|leaf| is_missing(shard, leaf))
    };
    if !plan.steps.is_empty() || !plan.is_quiet() || !plan.shards.values().all(is_settled) {
        return;
    }
    while let Some((key, from, to)) = to_other_zone(plan) {
        go(plan, &key, &from, &to, "spread over zones");
    }
    if !plan.steps.is_empty() {
        return;
    }
    while let Some((key, from, to)) = to_emptier_leaf(plan) {
        go(plan, &key, &from, &to, "evened out");
    }
}

fn go(plan: &mut Plan<'_>, key: &ShardKey, from: &NodeName, to: &NodeName, reason: &'static str) {
    plan.join(key, to);
    plan.leave(key, from);
    plan.step(key, None, reason);
}

/// Whether one of the shard's replicas may move: it has all that it is to have.
fn may_move(plan: &Plan<'_>, key: &ShardKey, shard: &Shard) -> bool {
    let is_whole = shard.leaving.is_empty() && shard.leaves.iter().all(|leaf| plan.serves(shard, leaf));
    is_whole && !plan.touched.contains(key)
}

/// Whether a replica of the shard may go to the leaf.
fn may_join(plan: &Plan<'_>, shard: &Shard, to: &NodeName) -> bool {
    let is_free = !shard.leaves.contains(to) && !shard.lingering.contains(to) && !plan.is_troubled(to);
    is_free && plan.is_open(to) && plan.has_room(to)
}

/// A replica that shares its zone with two more of its shard than there are in another zone.
fn to_other_zone(plan: &Plan<'_>) -> Option<(ShardKey, NodeName, NodeName)> {
    plan.shards.iter().filter(|(key, shard)| may_move(plan, key, shard)).find_map(|(key, shard)| {
        let crowd = |leaf: &NodeName| plan.in_zone_of(leaf, shard.staying());
        let from =
            shard.staying().max_by(|a, b| crowd(a).cmp(&crowd(b)).then(plan.fill(a).total_cmp(&plan.fill(b))))?;
        let candidates = plan.world.leaves.keys().filter(|to| may_join(plan, shard, to));
        let to = candidates.min_by(|a, b| crowd(a).cmp(&crowd(b)).then(plan.fill(a).total_cmp(&plan.fill(b))))?;
        (crowd(from) >= crowd(to) + 2).then(|| (key.clone(), from.clone(), to.clone()))
    })
}

/// The move that brings most.
fn to_emptier_leaf(plan: &Plan<'_>) -> Option<(ShardKey, NodeName, NodeName)> {
    let open: Vec<(&NodeName, f64)> =
        plan.world.leaves.keys().filter(|leaf| plan.is_open(leaf)).map(|leaf| (leaf, plan.fill(leaf))).collect();
    let capacity: f64 = open.iter().map(|(leaf, _)| plan.capacity(leaf)).sum();
    let held: f64 = open.iter().map(|(leaf, _)| plan.load(leaf) as f64).sum();
    let tolerance = TOLERANCE * held / capacity;
    let targets: Vec<_> = open.iter().filter(|(leaf, _)| plan.has_room(leaf)).collect();
    let least = targets.iter().map(|(_, fill)| *fill).min_by(f64::total_cmp)?;
    let mut best: Option<(f64, ShardKey, &NodeName, &NodeName)> = None;
    for (key, shard) in plan.shards.iter().filter(|(key, shard)| may_move(plan, key, shard)) {
        let weight = plan.weight(key) as f64;
        for from in shard.staying().filter(|leaf| plan.is_open(leaf) && plan.fill(leaf) - least > tolerance) {
            let others = || shard.staying().filter(|leaf| *leaf != from);
            let crowd = plan.in_zone_of(from, others());
            for (to, fill) in targets.iter().filter(|(to, _)| may_join(plan, shard, to)) {
                let difference = plan.fill(from) - fill;
                let change = weight * (1.0 / plan.capacity(from) + 1.0 / plan.capacity(to)) / 2.0;
                if difference <= tolerance || change > SHARE_MAX * difference || plan.in_zone_of(to, others()) > crowd {
                    continue;
                }
                // By how much the sum of squares falls; an index that would be spread better goes first.
                let spread = plan.of_index(key, from) > plan.of_index(key, to);
                let gain = change * (difference - change) * if spread { 2.0 } else { 1.0 };
                if best.as_ref().is_none_or(|(most, ..)| gain > *most) {
                    best = Some((gain, key.clone(), from, to));
                }
            }
        }
    }
    best.map(|(_, key, from, to)| (key, from.clone(), to.clone()))
}
