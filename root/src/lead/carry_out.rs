//! Carries the placement's steps out: one fenced commit for each index.

use std::collections::{BTreeMap, BTreeSet};

use trawl_cluster::catalog::{AssignmentRecord, IndexRecord, keys};
use trawl_cluster::store::{Guard, Revision, Write};
use trawl_cluster::{Error, View};
use trawl_data::routing::SLOTS;
use trawl_proto::{IndexUid, NodeName, ShardKey, v1};

use super::Leader;
use super::placement::{Assign, Step};

/// Assignments that change in one commit.
const ASSIGNS_MAX: usize = 100;

impl Leader<'_> {
    /// All of them, on the view that they were decided on; the revision of the last commit.
    pub(super) async fn carry_out(&self, view: &View, steps: Vec<Step>) -> Result<Option<Revision>, Error> {
        let mut revision = None;
        let serving = self.confirmed(view, &steps).await;
        let mut by_index: BTreeMap<IndexUid, Vec<Assign>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Assign(assign) if !may_drop(view, &assign, &serving) => {
                    tracing::info!(shard = %assign.shard, "nobody is let go before one that stays says that it serves");
                }
                Step::Assign(assign) => by_index.entry(assign.shard.index_uid.clone()).or_default().push(assign),
                Step::Refuse { shard, from, reason } => {
                    tracing::warn!(%shard, %from, reason, "a move that was asked for cannot be");
                    revision = self.forget_move(view, &shard, &from).await?.or(revision);
                }
            }
        }
        for (uid, assigns) in by_index {
            let Some(record) = view.uids.get(&uid) else { continue };
            for assigns in assigns.chunks(ASSIGNS_MAX) {
                revision = Some(self.assign(view, record, assigns).await?);
            }
        }
        Ok(revision)
    }

    /// Makes the logs, then the assignments: a leaf never sees a shard without a log.
    async fn assign(&self, view: &View, record: &IndexRecord, assigns: &[Assign]) -> Result<Revision, Error> {
        let is_new = |assign: &&Assign| view.revision_of(&keys::assignment(&assign.shard)).is_none();
        let new: Vec<_> = assigns.iter().filter(is_new).map(|assign| assign.shard.clone()).collect();
        if !new.is_empty() {
            self.create_logs(new).await?;
        }
        let mut guards: Vec<_> = guard(view, keys::index(&record.name)).into_iter().collect();
        let mut writes = Vec::new();
        for assign in assigns {
            let key = keys::assignment(&assign.shard);
            guards.extend(guard(view, key.clone()));
            let value = AssignmentRecord {
                format: 1,
                leaves: assign.leaves.clone(),
                leaving: assign.leaving.iter().cloned().collect(),
            };
            let value = serde_json::to_vec(&value).map_err(|error| Error::Corrupt(error.to_string()))?;
            writes.push(Write::Put(key, value.into()));
            // Who does not hold the shard any more does not serve it: not before it has copied it again.
            let gone = dropped(view, assign).map(|leaf| keys::serving(&assign.shard, leaf));
            writes.extend(gone.filter(|key| view.revision_of(key).is_some()).map(Write::Delete));
            if let Some(from) = &assign.fulfils {
                let wish = keys::move_from(&assign.shard, from);
                guards.extend(guard(view, wish.clone()));
                writes.push(Write::Delete(wish));
            }
        }
        let revision = self.commit("assign", guards, writes).await?;
        for Assign { shard, leaves, leaving, reason, .. } in assigns {
            tracing::info!(index = record.name, shard = shard.number, ?leaves, ?leaving, reason, "assigned");
        }
        Ok(revision)
    }

    /// Replicas that say themselves that they serve, of those that stay where others are let go. For as long as the lease
    /// time the view may show a leaf as serving that has lost its disk meanwhile.
    async fn confirmed(&self, view: &View, steps: &[Step]) -> BTreeSet<(ShardKey, NodeName)> {
        let mut asked: BTreeMap<&NodeName, BTreeSet<&IndexUid>> = BTreeMap::new();
        for step in steps {
            if let Step::Assign(assign) = step
                && dropped(view, assign).next().is_some()
            {
                staying(assign).for_each(|leaf| {
                    asked.entry(leaf).or_default().insert(&assign.shard.index_uid);
                });
            }
        }
        let calls = asked.into_iter().filter_map(|(leaf, uids)| {
            let client = self.root.leaves.by_name(view, leaf)?;
            let index_uids = uids.into_iter().map(|uid| uid.0.clone()).collect();
            let request = v1::StatusRequest { index_uids, ..Default::default() };
            Some(async move { (leaf, client.status(request, self.root.config.leaves.status_timeout).await) })
        });
        let mut serving = BTreeSet::new();
        for (leaf, answer) in futures::future::join_all(calls).await {
            for replica in answer.into_iter().flat_map(|answer| answer.replicas) {
                if replica.state() == v1::replica_status::State::Serving {
                    serving.extend(replica.shard.as_ref().map(|shard| (shard.into(), leaf.clone())));
                }
            }
        }
        serving
    }

    async fn forget_move(&self, view: &View, shard: &ShardKey, from: &NodeName) -> Result<Option<Revision>, Error> {
        let key = keys::move_from(shard, from);
        if view.revision_of(&key).is_none() {
            return Ok(None);
        }
        let guards = guard(view, key.clone()).into_iter().collect();
        self.commit("forget-move", guards, vec![Write::Delete(key)]).await.map(Some)
    }
}

/// That the key is as the view shows it.
pub(super) fn guard(view: &View, key: String) -> Option<Guard> {
    Some(match view.revision_of(&key) {
        Some(revision) => Guard::At(key, revision),
        None => Guard::Absent(key),
    })
}

fn dropped<'v>(view: &'v View, assign: &'v Assign) -> impl Iterator<Item = &'v NodeName> {
    let before = view.assignments.get(&assign.shard).map_or(&[][..], |record| &record.leaves);
    before.iter().filter(|leaf| !assign.leaves.contains(leaf))
}

fn staying(assign: &Assign) -> impl Iterator<Item = &NodeName> {
    assign.leaves.iter().filter(|leaf| !assign.leaving.contains(*leaf))
}

/// Whether nobody is let go, or one of those that stay serves for certain; else it is tried again in the next round.
fn may_drop(view: &View, assign: &Assign, serving: &BTreeSet<(ShardKey, NodeName)>) -> bool {
    dropped(view, assign).next().is_none()
        || staying(assign).any(|leaf| serving.contains(&(assign.shard.clone(), leaf.clone())))
}

/// Indices of which something is left although their record is gone, with their shards as far as known:
/// those that may have a log.
pub(super) fn removals(view: &View) -> Vec<(IndexUid, Vec<ShardKey>)> {
    let assigned = view.assignments.keys().map(|shard| &shard.index_uid);
    let mapped = view.mappings.keys().map(|(uid, _)| uid);
    let gone: BTreeSet<_> = assigned.chain(mapped).filter(|uid| !view.uids.contains_key(uid)).collect();
    let removal = |index_uid: &IndexUid| {
        let mut shards: Vec<_> =
            view.assignments.keys().filter(|shard| shard.index_uid == *index_uid).cloned().collect();
        if shards.is_empty() {
            // Its assignments are gone already, or it was deleted between the creation of its logs and
            // its assignment: any of its shards may have a log.
            shards = (0..SLOTS).map(|number| ShardKey { index_uid: index_uid.clone(), number }).collect();
        }
        shards.sort();
        (index_uid.clone(), shards)
    };
    gone.into_iter().map(removal).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_is_left_of_a_deleted_index_is_removed() {
        let mut view = View::default();
        assert_eq!(removals(&view), []);
        view.mappings.insert(("gone".into(), 1), bytes::Bytes::new());
        let assignment = AssignmentRecord { format: 1, leaves: vec!["leaf-0".into()], leaving: Vec::new() };
        view.assignments.insert(ShardKey::new("gone", 0), Arc::new(assignment));
        assert_eq!(removals(&view), [("gone".into(), vec![ShardKey::new("gone", 0)])]);
        view.assignments.clear();
        assert!(matches!(&removals(&view)[..], [(_, shards)] if shards.len() == SLOTS as usize));
        let record = IndexRecord::new("back", "gone".into(), 1, 0);
        view.uids.insert("gone".into(), Arc::new(record));
        assert_eq!(removals(&view), []);
    }
}
