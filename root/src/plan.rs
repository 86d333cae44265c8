//! Which replicas to ask, in which order: a pure function of one view, the wish of the request and
//! what is known of the leaves.
//!
//! Working connections first, then who is expected to answer first ([`crate::policy::choice`]), of two chosen by
//! the request's turn where there are more; equals take turns.

use std::collections::HashMap;
use std::sync::Arc;

use trawl_cluster::catalog::IndexRecord;
use trawl_cluster::view::View;
use trawl_proto::{NodeName, ShardKey};
use xxhash_rust::xxh3::Xxh3;

use crate::error::Error;
use crate::policy::choice::{self, Candidate};

/// One shard and who can answer for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The shard's index.
    pub index: Arc<IndexRecord>,
    /// The shard.
    pub shard: ShardKey,
    /// Serving replicas, the one to ask first in front. Empty when there is none.
    pub replicas: Vec<NodeName>,
}

/// Which replicas a request wishes for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Preference {
    /// No wish.
    #[default]
    Any,
    /// The same text, the same replicas (as far as they are there).
    Stable(String),
    /// These leaves and no others.
    Only(Vec<NodeName>),
    /// These leaves first.
    Prefer(Vec<NodeName>),
}

impl Preference {
    /// Reads the `preference` parameter.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a word that starts with `_` and is not known.
    pub fn parse(text: Option<&str>) -> Result<Self, Error> {
        let names = |list: &str| list.split(',').map(|name| NodeName(name.trim().to_owned())).collect();
        match text {
            None | Some("" | "_local") => Ok(Self::Any),
            Some(text) => match (text.strip_prefix("_only_nodes:"), text.strip_prefix("_prefer_nodes:")) {
                (Some(list), _) => Ok(Self::Only(names(list))),
                (_, Some(list)) => Ok(Self::Prefer(names(list))),
                _ if text.starts_with('_') => Err(Error::illegal_argument(format!("no Preference for [{text}]"))),
                _ => Ok(Self::Stable(text.to_owned())),
            },
        }
    }
}

/// What is known of a leaf at the time of planning.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Whether it seems to be gone: asked only when nobody else is left.
    pub gone: bool,
    /// How long it takes to answer, and what waits there.
    pub candidate: Candidate,
}

/// Makes targets of all shards of some indices.
pub struct Planner<'a> {
    view: &'a View,
    preference: &'a Preference,
    load: &'a (dyn Fn(&NodeName) -> Load + Sync),
    /// Differs from request to request, so that equal replicas take turns.
    turn: u64,
    planned: HashMap<NodeName, usize>,
}

impl<'a> Planner<'a> {
    /// A planner for one request.
    pub fn new(
        view: &'a View,
        preference: &'a Preference,
        load: &'a (dyn Fn(&NodeName) -> Load + Sync),
        turn: u64,
    ) -> Self {
        Self { view, preference, load, turn, planned: HashMap::new() }
    }

    /// All shards of the indices, in order, with their replicas in the order to ask.
    pub fn targets(&mut self, indices: &[Arc<IndexRecord>]) -> Vec<Target> {
        let shards = indices.iter().flat_map(|index| index.shard_keys().map(move |shard| (index, shard)));
        shards.map(|(index, shard)| self.target(index, shard)).collect()
    }

    /// One shard with its replicas in the order to ask.
    pub fn target(&mut self, index: &Arc<IndexRecord>, shard: ShardKey) -> Target {
        let replicas = self.replicas(&shard);
        if let Some(first) = replicas.first() {
            *self.planned.entry(first.clone()).or_default() += 1;
        }
        Target { index: index.clone(), shard, replicas }
    }

    /// The serving replicas of a shard in the order to ask.
    pub fn replicas(&self, shard: &ShardKey) -> Vec<NodeName> {
        self.ranked(shard, self.view.serving.get(shard).map_or(&[][..], Vec::as_slice))
    }

    /// All leaves that the shard is assigned to, in the order to ask. One that this view does not show
    /// as serving may have begun to, and refuses if it has not.
    pub fn assigned(&self, shard: &ShardKey) -> Vec<NodeName> {
        self.ranked(shard, self.view.assignments.get(shard).map_or(&[][..], |record| &record.leaves))
    }

    fn ranked(&self, shard: &ShardKey, leaves: &[NodeName]) -> Vec<NodeName> {
        let loads: Vec<Load> = leaves.iter().map(|leaf| self.load_of(leaf)).collect();
        let costs = choice::costs(&loads.iter().map(|load| load.candidate).collect::<Vec<_>>());
        let turn = self.turn.wrapping_add(shard.number.into());
        let (one, other) = choice::two_of(leaves.len(), turn);
        // Lower is asked earlier; `None` is not asked at all.
        let rank = |at: usize, leaf: &NodeName| {
            let (gone, cost, passed_over) = (loads[at].gone, costs[at], usize::from(at != one && at != other));
            let turn = (at as u64).wrapping_add(turn) % leaves.len() as u64;
            let place = |wished: &[NodeName]| wished.iter().position(|name| name == leaf);
            Some(match self.preference {
                Preference::Any => (gone, passed_over, cost, turn),
                Preference::Stable(text) => (gone, 0, 0, stable(text, shard, leaf)),
                Preference::Only(wished) => (gone, place(wished)?, 0, turn),
                Preference::Prefer(wished) => match place(wished) {
                    Some(place) => (gone, place, 0, turn),
                    None => (gone, wished.len() + passed_over, cost, turn),
                },
            })
        };
        let ranked = leaves.iter().enumerate().filter_map(|(at, leaf)| Some((rank(at, leaf)?, leaf)));
        let mut ranked: Vec<_> = ranked.collect();
        ranked.sort();
        ranked.into_iter().map(|(_, leaf)| leaf.clone()).collect()
    }

    /// What is known of a leaf; the shards that this request already gave it wait there too.
    fn load_of(&self, leaf: &NodeName) -> Load {
        let mut load = (self.load)(leaf);
        load.candidate.waiting += self.planned.get(leaf).copied().unwrap_or(0);
        load
    }
}

fn stable(text: &str, shard: &ShardKey, leaf: &NodeName) -> u64 {
    let mut hasher = Xxh3::new();
    for part in [text, shard.index_uid.as_str(), leaf.as_str()] {
        hasher.update(part.as_bytes());
        hasher.update(&[0]);
    }
    hasher.update(&shard.number.to_le_bytes());
    hasher.digest()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn index(shards: u32) -> Arc<IndexRecord> {
        Arc::new(IndexRecord { refresh_interval_ms: Some(1000), ..IndexRecord::new("books", "u".into(), shards, 1) })
    }

    /// Shard n is served by leaves n and n + 1 of four.
    fn view(shards: u32) -> View {
        let mut view = View::default();
        for number in 0..shards {
            let leaves = [number % 4, (number + 1) % 4];
            let mut leaves: Vec<_> = leaves.iter().map(|n| NodeName(format!("leaf-{n}"))).collect();
            leaves.sort();
            view.serving.insert(ShardKey::new("u", number), leaves);
        }
        view
    }

    fn idle(_: &NodeName) -> Load {
        Load::default()
    }

    #[test]
    fn every_shard_is_planned_once_and_spread_over_the_leaves() {
        let view = view(4);
        for turn in 0..8 {
            let targets = Planner::new(&view, &Preference::Any, &idle, turn).targets(&[index(4)]);
            assert_eq!(targets.iter().map(|target| target.shard.number).collect::<Vec<_>>(), [0, 1, 2, 3]);
            let mut asked: HashMap<_, usize> = HashMap::new();
            for target in &targets {
                assert_eq!(target.replicas.len(), 2);
                *asked.entry(target.replicas[0].clone()).or_default() += 1;
            }
            assert!(asked.values().all(|shards| *shards <= 2), "{asked:?}");
        }
    }

    #[test]
    fn replicas_take_turns() {
        let view = view(1);
        let first =
            |turn| Planner::new(&view, &Preference::Any, &idle, turn).targets(&[index(1)])[0].replicas[0].clone();
        assert_ne!(first(0), first(1));
        assert_eq!(first(0), first(2));
    }

    #[test]
    fn a_leaf_that_seems_gone_is_asked_last() {
        let view = view(4);
        let load = |leaf: &NodeName| Load { gone: leaf.as_str() == "leaf-1", ..Load::default() };
        for preference in [Preference::Any, Preference::Stable("session".to_owned())] {
            for turn in 0..4 {
                for target in Planner::new(&view, &preference, &load, turn).targets(&[index(4)]) {
                    assert_ne!(target.replicas[0].as_str(), "leaf-1");
                }
            }
        }
    }

    #[test]
    fn the_least_busy_is_asked_first() {
        let view = view(1);
        let busy = Candidate { waiting: 7, ..Candidate::default() };
        let candidate = |leaf: &NodeName| if leaf.as_str() == "leaf-0" { busy } else { Candidate::default() };
        let load = |leaf: &NodeName| Load { gone: false, candidate: candidate(leaf) };
        let targets = Planner::new(&view, &Preference::Any, &load, 0).targets(&[index(1)]);
        assert_eq!(targets[0].replicas[0].as_str(), "leaf-1");
    }

    #[test]
    fn preferences_are_kept() {
        let view = view(4);
        let plan = |preference: &str, turn| {
            let preference = Preference::parse(Some(preference)).unwrap();
            Planner::new(&view, &preference, &idle, turn).targets(&[index(4)])
        };
        for target in plan("_only_nodes:leaf-2,leaf-0", 3) {
            assert_eq!(target.replicas.len(), 1);
            assert!(["leaf-0", "leaf-2"].contains(&target.replicas[0].as_str()));
        }
        assert!(plan("_only_nodes:elsewhere", 0).iter().all(|target| target.replicas.is_empty()));
        for target in plan("_prefer_nodes:leaf-2", 1) {
            assert_eq!(target.replicas.len(), 2);
            assert!(!target.replicas[1..].iter().any(|leaf| leaf.as_str() == "leaf-2"));
        }
        assert_eq!(plan("session 17", 0), plan("session 17", 5));
        assert!(Preference::parse(Some("_odd")).is_err());
    }
}
