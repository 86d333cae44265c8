//! Refresh: returns when every serving replica shows the writes.

use std::collections::BTreeMap;
use std::time::Duration;

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

/// Makes positions visible; a replica that cannot in time is in the summary.
pub(crate) async fn positions(root: &Root, positions: &[v1::Position], wait: Duration) -> ShardsSummary {
    let view = root.viewer.view();
    let mut by_leaf: BTreeMap<NodeName, Vec<v1::Position>> = BTreeMap::new();
    let mut summary = ShardsSummary::default();
    for position in positions {
        let Some(shard) = position.shard.as_ref().map(ShardKey::from) else { continue };
        let Some(record) = view.uids.get(&shard.index_uid) else { continue };
        summary.total += 1 + record.replicas;
        let serving = view.serving.get(&shard).map_or(&[][..], Vec::as_slice);
        for leaf in serving {
            by_leaf.entry(leaf.clone()).or_default().push(position.clone());
        }
        if serving.is_empty() {
            let failure = failure(Kind::Unavailable, "no replica of this shard is serving");
            summary.failures.push(ShardFailure {
                index: record.name.clone(),
                shard: shard.number,
                node: None,
                failure,
            });
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
    for (leaf, positions, answer) in futures::future::join_all(calls).await {
        for position in positions {
            let Some(shard) = position.shard else { continue };
            match result(&answer, &shard) {
                None => summary.successful += 1,
                Some(failure) => {
                    let record = view.uids.get(&ShardKey::from(&shard).index_uid);
                    let index = record.map(|record| record.name.clone()).unwrap_or_default();
                    summary.failures.push(ShardFailure {
                        index,
                        shard: shard.number,
                        node: Some(leaf.clone()),
                        failure,
                    });
                }
            }
        }
    }
    summary.failed = summary.failures.len() as u32;
    summary
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
