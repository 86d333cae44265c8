//! Refresh: returns when every serving replica shows the writes.
//!
//! A replica that is assigned but not serving yet is told too: it will not begin to serve before it
//! shows them. A serving replica that does not show them in time leaves the serving set, unless no other
//! one of its shard shows them either: then an answer that lacks what was not confirmed is better than none.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use trawl_cluster::catalog::{AssignmentRecord, Role, decode, keys};
use trawl_cluster::store::{Guard, Write};
use trawl_cluster::view::View;
use trawl_proto::v1::failure::Kind;
use trawl_proto::{Generation, NodeName, ShardKey, failure, v1};

use crate::catalog;
use crate::error::Error;
use crate::leaf_client::unknown_leaf;
use crate::request::{ShardFailure, ShardsSummary};
use crate::root::Root;

/// Makes everything that is in the logs of some indices now visible.
pub(crate) async fn indices(root: &Root, names: &[String]) -> Result<ShardsSummary, Error> {
    let view = root.viewer.view();
    let mut shards = Vec::new();
    for name in names {
        shards.extend(catalog::record(&view, name)?.shard_keys());
    }
    let heads = tokio::time::timeout(root.config.write.append_wait_max, root.engine.log.heads(&shards)).await;
    let heads = heads.map_err(|_| Error::Unavailable("the cluster engine did not answer in time".to_owned()))??;
    let heads = shards.iter().zip(heads).map(|(shard, head)| v1::Position {
        shard: Some(shard.into()),
        generation: Some(
            head.map(|head| Generation { incarnation: head.incarnation, seq: head.last }).unwrap_or_default().into(),
        ),
    });
    Ok(positions(root, &heads.collect::<Vec<_>>(), root.config.write.refresh_wait_max).await)
}

/// Makes positions visible; a serving replica that cannot in time is in the summary.
pub(crate) async fn positions(root: &Root, positions: &[v1::Position], wait: Duration) -> ShardsSummary {
    let view = root.viewer.view();
    let mut by_leaf: BTreeMap<NodeName, Vec<v1::Position>> = BTreeMap::new();
    let mut summary = ShardsSummary::default();
    for position in positions {
        let Some(shard) = position.shard.as_ref().map(ShardKey::from) else { continue };
        let Some(record) = view.uids.get(&shard.index_uid) else { continue };
        summary.total += 1 + record.replicas;
        let serving = serving(&view, &shard);
        let mut told = serving.to_vec();
        told.extend(assigned(root, &view, &shard).await.into_iter().filter(|leaf| !serving.contains(leaf)));
        for leaf in told {
            by_leaf.entry(leaf).or_default().push(position.clone());
        }
        if serving.is_empty() {
            let failure = failure(Kind::Unavailable, "no replica of this shard is serving");
            summary.failures.push(shard_failure(&view, &shard, None, failure));
        }
    }
    let calls = by_leaf.into_iter().map(|(leaf, positions)| {
        let client = root.leaves.by_name(&view, &leaf);
        async move {
            let answer = match client {
                Some(client) => client.refresh(v1::RefreshRequest { positions: positions.clone() }, wait).await,
                None => Err(unknown_leaf(&leaf)),
            };
            (leaf, positions, answer)
        }
    });
    let mut late = Vec::new();
    let mut shown = BTreeSet::new();
    for (leaf, positions, answer) in futures::future::join_all(calls).await {
        for position in positions {
            let Some(shard) = position.shard else { continue };
            let key = ShardKey::from(&shard);
            match result(&answer, &shard) {
                None => {
                    summary.successful += 1;
                    if serving(&view, &key).contains(&leaf) {
                        shown.insert(key);
                    }
                }
                Some(failure) if serving(&view, &key).contains(&leaf) => {
                    summary.failures.push(shard_failure(&view, &key, Some(leaf.clone()), failure));
                    late.push((key, leaf.clone()));
                }
                Some(_) => {}
            }
        }
    }
    late.retain(|(shard, _)| shown.contains(shard));
    expel(root, &view, &late).await;
    summary.failed = summary.failures.len() as u32;
    summary
}

fn serving<'v>(view: &'v View, shard: &ShardKey) -> &'v [NodeName] {
    view.serving.get(shard).map_or(&[][..], Vec::as_slice)
}

/// The live leaves that hold the shard, asked of the store itself: this root may not have heard yet of
/// a replica that is about to serve. Without the engine, what is known has to do.
async fn assigned(root: &Root, view: &View, shard: &ShardKey) -> Vec<NodeName> {
    let known = || view.assignments.get(shard).map(|record| record.leaves.clone()).unwrap_or_default();
    let leaves = match root.engine.store.get(&keys::assignment(shard)).await {
        Ok(Some(entry)) => {
            decode::<AssignmentRecord>(&entry.key, &entry.value).map_or_else(|_| known(), |record| record.leaves)
        }
        Ok(None) => Vec::new(),
        Err(_) => known(),
    };
    let alive = |leaf: &NodeName| view.nodes.get(&(Role::Leaf, leaf.clone())).is_some_and(|node| node.alive);
    leaves.into_iter().filter(alive).collect()
}

/// Takes replicas out of the serving set, unless they have been written anew since.
async fn expel(root: &Root, view: &View, late: &[(ShardKey, NodeName)]) {
    for (shard, leaf) in late {
        let key = keys::serving(shard, leaf);
        let Some(revision) = view.revision_of(&key) else { continue };
        tracing::warn!(%shard, %leaf, "replica missed a refresh and leaves the serving set");
        let committed = root.engine.store.commit(&[Guard::At(key.clone(), revision)], &[Write::Delete(key)]).await;
        if let Err(error) = committed {
            trawl_cluster::outage::warn(
                &error,
                format_args!("cannot take leaf {leaf} out of the serving set of {shard}"),
            );
        }
    }
}

fn shard_failure(view: &View, shard: &ShardKey, node: Option<NodeName>, failure: v1::Failure) -> ShardFailure {
    let index = view.uids.get(&shard.index_uid).map(|record| record.name.clone()).unwrap_or_default();
    ShardFailure { index, shard: shard.number, node, failure }
}

fn result(answer: &Result<v1::RefreshResponse, v1::Failure>, shard: &v1::Shard) -> Option<v1::Failure> {
    match answer {
        Err(failure) => Some(failure.clone()),
        Ok(answer) => match answer.shards.iter().find(|there| there.shard.as_ref() == Some(shard)) {
            Some(there) => there.failure.clone(),
            None => Some(failure(Kind::Internal, "the leaf left the shard out of its answer")),
        },
    }
}
