//! Gives each shard the replicas it is to have, and lets go of those that are not needed any more.

use trawl_proto::{NodeName, ShardKey};

use super::Shard;
use super::plan::Plan;

/// All shards, those first that are nearest to being lost.
pub(super) fn settle(plan: &mut Plan<'_>) {
    let mut order: Vec<(usize, ShardKey)> = plan
        .shards
        .iter()
        .map(|(key, shard)| (shard.leaves.iter().filter(|leaf| plan.serves(shard, leaf)).count(), key.clone()))
        .collect();
    order.sort();
    for (_, key) in order {
        let reason = complete(plan, &key);
        mark(plan, &key);
        let retired = retire(plan, &key);
        plan.step(&key, None, reason.or(retired).unwrap_or("not needed any more"));
    }
}

/// Whether a replica on this leaf counts as one of those wanted.
fn is_sound(plan: &Plan<'_>, shard: &Shard, leaf: &NodeName) -> bool {
    !plan.is_lost(shard, leaf) && !plan.has_failed(shard, leaf) && !plan.is_draining(leaf)
}

/// Adds what is missing: first those that were to go and need not, then others.
fn complete(plan: &mut Plan<'_>, key: &ShardKey) -> Option<&'static str> {
    let mut reason = None;
    loop {
        let shard = plan.shards.get(key)?;
        let sound = shard.staying().filter(|leaf| is_sound(plan, shard, leaf)).count();
        if sound >= shard.wanted {
            return reason;
        }
        let back = shard.leaving.iter().filter(|leaf| plan.is_open(leaf) && !plan.has_failed(shard, leaf));
        if let Some(leaf) = back.max_by_key(|leaf| plan.serves(shard, leaf)).cloned() {
            plan.keep(key, &leaf);
            reason = Some("stays");
            continue;
        }
        let is_short = shard.staying().count() < shard.wanted;
        let is_lost = shard.staying().any(|leaf| plan.is_lost(shard, leaf));
        let has_failed = shard.staying().any(|leaf| plan.has_failed(shard, leaf));
        let Some(leaf) = plan.choose(key, shard) else { return reason };
        plan.join(key, &leaf);
        reason = Some(match (is_short, is_lost, has_failed) {
            (true, ..) => "placed",
            (_, true, _) => "in place of a lost leaf",
            (_, _, true) => "in place of a replica that has failed",
            _ => "in place of a drained leaf",
        });
    }
}

/// Marks those that are more than wanted: who is lost, drained or missing goes first, then who does not
/// serve, then whose zone has another, then who holds most.
fn mark(plan: &mut Plan<'_>, key: &ShardKey) {
    loop {
        let Some(shard) = plan.shards.get(key) else { return };
        if shard.staying().count() <= shard.wanted {
            return;
        }
        let rank = |leaf: &&NodeName| {
            (
                plan.is_lost(shard, leaf) || plan.has_failed(shard, leaf),
                plan.is_draining(leaf),
                !plan.is_live(leaf),
                !plan.serves(shard, leaf),
                plan.in_zone_of(leaf, shard.staying()),
            )
        };
        let last = shard.staying().max_by(|a, b| {
            // Of equals the one that came last.
            rank(a).cmp(&rank(b)).then(plan.fill(a).total_cmp(&plan.fill(b)))
        });
        let Some(leaf) = last.cloned() else { return };
        plan.leave(key, &leaf);
    }
}

/// Lets go of who leaves, as soon as as many serve that stay as are wanted.
fn retire(plan: &mut Plan<'_>, key: &ShardKey) -> Option<&'static str> {
    let shard = plan.shards.get(key)?;
    if shard.leaving.is_empty() || plan.serving_staying(shard) < shard.wanted {
        return None;
    }
    let shard = plan.shards.get_mut(key)?;
    let leaving = std::mem::take(&mut shard.leaving);
    shard.leaves.retain(|leaf| !leaving.contains(leaf));
    shard.serving.retain(|leaf| !leaving.contains(leaf));
    shard.stuck.retain(|leaf, _| !leaving.contains(leaf));
    Some("enough others serve")
}
