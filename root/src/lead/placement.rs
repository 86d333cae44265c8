//! Which leaves hold which shards: a pure function of the view.
//!
//! Each shard gets `1 + replicas` distinct live leaves, as many as there are. A leaf is chosen by, in
//! this order: a zone that the shard is not in yet, fewest replicas of the same index, fewest replicas
//! altogether, chance (a hash, so that pairs of leaves differ from shard to shard and what a lost leaf
//! did falls to many). Replicas that are missing because there were too few leaves are added when leaves
//! join. Replacing the replicas of leaves that are gone for good, and evening out, have their place in
//! [`decide`] as further steps.

use std::collections::{BTreeMap, BTreeSet};

use trawl_cluster::catalog::{IndexRecord, keys};
use trawl_cluster::store::Revision;
use trawl_cluster::view::View;
use trawl_data::routing::SLOTS;
use trawl_proto::{IndexUid, NodeName, ShardKey};
use xxhash_rust::xxh3::xxh3_64;

/// Something to do, in one fenced commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Give shards of one index to leaves.
    Place(Place),
    /// Remove everything of a deleted index.
    Remove {
        /// The index.
        index_uid: IndexUid,
        /// Its shards, as far as known: those that may have a log.
        shards: Vec<ShardKey>,
    },
}

/// Assignments of one index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Name of the index.
    pub index: String,
    /// Revision of the index's record that this was decided on.
    pub revision: Revision,
    /// The shards that change.
    pub shards: Vec<PlaceShard>,
}

/// One assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlaceShard {
    /// The shard.
    pub shard: ShardKey,
    /// All its leaves from now on.
    pub leaves: Vec<NodeName>,
    /// Revision of the assignment that is extended; `None` for a first one.
    pub revision: Option<Revision>,
}

/// Everything there is to do, nothing when all is well.
pub(super) fn decide(view: &View) -> Vec<Step> {
    let mut loads = Loads::of(view);
    let places = view.indices.values().filter_map(|record| place(view, record, &mut loads)).map(Step::Place);
    places.chain(removals(view)).collect()
}

fn place(view: &View, record: &IndexRecord, loads: &mut Loads) -> Option<Place> {
    let revision = view.revision_of(&keys::index(&record.name))?;
    let shards: Vec<_> = record.shard_keys().filter_map(|shard| place_shard(view, record, shard, loads)).collect();
    (!shards.is_empty()).then(|| Place { index: record.name.clone(), revision, shards })
}

fn place_shard(view: &View, record: &IndexRecord, shard: ShardKey, loads: &mut Loads) -> Option<PlaceShard> {
    let assigned = view.assignments.get(&shard);
    let before = assigned.map_or(&[][..], |assignment| &assignment.leaves);
    let wanted = 1 + record.replicas as usize;
    let mut leaves = before.to_vec();
    while leaves.len() < wanted {
        let Some(leaf) = loads.choose(&shard, &leaves) else { break };
        loads.add(&record.uid, &leaf);
        leaves.push(leaf);
    }
    if leaves.len() == before.len() {
        return None;
    }
    let revision = assigned.and_then(|_| view.revision_of(&keys::assignment(&shard)));
    Some(PlaceShard { shard, leaves, revision })
}

/// Indices of which something is left although their record is gone.
fn removals(view: &View) -> impl Iterator<Item = Step> + '_ {
    let assigned = view.assignments.keys().map(|shard| &shard.index_uid);
    let mapped = view.mappings.keys().map(|(uid, _)| uid);
    let gone: BTreeSet<_> = assigned.chain(mapped).filter(|uid| !view.uids.contains_key(uid)).collect();
    gone.into_iter().map(|index_uid| {
        let mut shards: Vec<_> =
            view.assignments.keys().filter(|shard| shard.index_uid == *index_uid).cloned().collect();
        if shards.is_empty() {
            // Its assignments are gone already, or it was deleted between the creation of its logs and
            // its assignment: any of its shards may have a log.
            shards = (0..SLOTS).map(|number| ShardKey { index_uid: index_uid.clone(), number }).collect();
        }
        shards.sort();
        Step::Remove { index_uid: index_uid.clone(), shards }
    })
}

/// How much every leaf holds, decisions of this round included.
struct Loads {
    /// Live leaves with their zones.
    live: BTreeMap<NodeName, Option<String>>,
    zones: BTreeMap<NodeName, Option<String>>,
    replicas: BTreeMap<NodeName, usize>,
    of_index: BTreeMap<(IndexUid, NodeName), usize>,
}

impl Loads {
    fn of(view: &View) -> Self {
        let zone = |node: &trawl_cluster::view::Node| (node.record.name.clone(), node.record.zone.clone());
        let mut loads = Self {
            live: view.leaves().filter(|node| node.alive).map(zone).collect(),
            zones: view.leaves().map(zone).collect(),
            replicas: BTreeMap::new(),
            of_index: BTreeMap::new(),
        };
        for (shard, assignment) in &view.assignments {
            assignment.leaves.iter().for_each(|leaf| loads.add(&shard.index_uid, leaf));
        }
        loads
    }

    fn add(&mut self, uid: &IndexUid, leaf: &NodeName) {
        *self.replicas.entry(leaf.clone()).or_default() += 1;
        *self.of_index.entry((uid.clone(), leaf.clone())).or_default() += 1;
    }

    /// The best live leaf that is not among those that hold the shard.
    fn choose(&self, shard: &ShardKey, holders: &[NodeName]) -> Option<NodeName> {
        let zone_of = |leaf: &NodeName| self.zones.get(leaf).and_then(Option::as_ref);
        let zones: BTreeSet<_> = holders.iter().filter_map(zone_of).collect();
        let candidates = self.live.iter().filter(|(leaf, _)| !holders.contains(leaf));
        let best = candidates.min_by_key(|(leaf, zone)| {
            let same_zone = zone.as_ref().is_some_and(|zone| zones.contains(zone));
            let of_index = self.of_index.get(&(shard.index_uid.clone(), (*leaf).clone())).copied().unwrap_or(0);
            let chance = xxh3_64(format!("{shard}/{leaf}").as_bytes());
            (same_zone, of_index, self.replicas.get(*leaf).copied().unwrap_or(0), chance)
        });
        best.map(|(leaf, _)| leaf.clone())
    }
}

#[cfg(test)]
mod tests;
