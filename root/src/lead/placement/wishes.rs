//! Carries out the moves that operators wish for, and refuses what cannot be.

use trawl_proto::{NodeName, ShardKey};

use super::Step;
use super::plan::Plan;

/// What comes of a wish.
enum Verdict {
    Now,
    Later,
    Never(&'static str),
}

/// One step per shard and round; a wish that has to wait stands.
pub(super) fn fulfil(plan: &mut Plan<'_>) {
    for ((key, from), to) in &plan.world.moves {
        match judge(plan, key, from, to) {
            Verdict::Later => {}
            Verdict::Never(reason) => {
                plan.steps.push(Step::Refuse { shard: key.clone(), from: from.clone(), reason });
            }
            Verdict::Now => {
                match plan.shards.get(key).is_some_and(|shard| shard.leaving.contains(to)) {
                    true => plan.keep(key, to),
                    false => plan.join(key, to),
                }
                plan.leave(key, from);
                plan.step(key, Some(from.clone()), "moved on request");
            }
        }
    }
}

fn judge(plan: &Plan<'_>, key: &ShardKey, from: &NodeName, to: &NodeName) -> Verdict {
    let Some(shard) = plan.shards.get(key) else { return Verdict::Never("there is no such shard") };
    if plan.touched.contains(key) {
        return Verdict::Later;
    }
    if !shard.staying().any(|leaf| leaf == from) {
        return Verdict::Never("the leaf to move from does not hold the shard, or not for long");
    }
    if shard.staying().any(|leaf| leaf == to) {
        return Verdict::Never("the leaf to move to holds the shard already");
    }
    if !plan.is_open(to) {
        return Verdict::Never("the leaf to move to is not there, is drained, or speaks another protocol");
    }
    let others = || shard.staying().filter(|leaf| *leaf != from);
    if plan.in_zone_of(to, others()) > plan.in_zone_of(from, others()) {
        return Verdict::Never("the zone of the leaf to move to has a replica of the shard already");
    }
    let is_free = shard.leaving.contains(to) || (plan.has_room(to) && !shard.lingering.contains(to));
    match is_free {
        true => Verdict::Now,
        false => Verdict::Later,
    }
}
