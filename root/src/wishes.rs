//! What operators wish for: leaves to be drained, replicas to be moved. Any root writes a wish; the leader
//! carries it out ([`crate::lead`]).

use std::time::Duration;

use trawl_cluster::catalog::{DrainRecord, MoveRecord, keys};
use trawl_cluster::store::Write;
use trawl_cluster::view::View;
use trawl_proto::{NodeName, ShardKey};

use crate::error::Error;
use crate::lifecycle::{commit, now_ms};
use crate::root::Root;

/// How long this root's view may take to show a wish.
const VIEW_TIMEOUT: Duration = Duration::from_secs(5);

/// How far the draining of a leaf is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Drain {
    /// Whether the leaf is to be empty.
    pub(crate) draining: bool,
    /// What it still holds: names of indices and numbers of shards, sorted.
    pub(crate) holds: Vec<(String, u32)>,
}

/// Has everything moved off a leaf, or takes that back. Repeating it changes nothing.
///
/// # Errors
/// [`Error::Invalid`] when there is no such leaf to drain.
pub(crate) async fn set_drain(root: &Root, leaf: &NodeName, draining: bool) -> Result<(), Error> {
    let view = root.viewer.view();
    if draining == view.drains.contains(leaf) {
        return Ok(());
    }
    let key = keys::drain(leaf);
    let write = match draining {
        true => {
            is_known(&view, leaf)?;
            Write::Put(key, encode(&DrainRecord { format: 1, since_ms: now_ms() })?)
        }
        false => Write::Delete(key),
    };
    let revision = commit(root, &[], &[write]).await?;
    root.viewer.at_least(revision, VIEW_TIMEOUT).await;
    Ok(())
}

/// How far it is.
///
/// # Errors
/// [`Error::Invalid`] when there is no such leaf.
pub(crate) fn drain(root: &Root, leaf: &NodeName) -> Result<Drain, Error> {
    let view = root.viewer.view();
    let draining = view.drains.contains(leaf);
    let holding = view.assignments.iter().filter(|(_, assignment)| assignment.leaves.contains(leaf));
    let named = holding.filter_map(|(shard, _)| Some((view.uids.get(&shard.index_uid)?.name.clone(), shard.number)));
    let mut holds: Vec<_> = named.collect();
    holds.sort();
    if !draining && holds.is_empty() {
        is_known(&view, leaf)?;
    }
    Ok(Drain { draining, holds })
}

/// A replica that is to go from one leaf to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    /// Name of the index.
    pub(crate) index: String,
    /// Number of the shard.
    pub(crate) shard: u32,
    /// Who has the replica.
    pub(crate) from: NodeName,
    /// Who is to have it.
    pub(crate) to: NodeName,
}

/// Has replicas go elsewhere: all of these or, when one of them cannot, none.
///
/// # Errors
/// [`Error::NoSuchIndex`]; [`Error::Invalid`] that says why it cannot be. What shows later that it cannot be,
/// the leader refuses in its log.
pub(crate) async fn move_replicas(root: &Root, moves: &[Move]) -> Result<(), Error> {
    let view = root.viewer.view();
    let writes = moves.iter().map(|wish| wished(&view, wish)).collect::<Result<Vec<_>, _>>()?;
    if writes.is_empty() {
        return Ok(());
    }
    let revision = commit(root, &[], &writes).await?;
    root.viewer.at_least(revision, VIEW_TIMEOUT).await;
    Ok(())
}

fn wished(view: &View, Move { index, shard, from, to }: &Move) -> Result<Write, Error> {
    let record = view.indices.get(index).ok_or_else(|| Error::NoSuchIndex(index.clone()))?;
    let key = ShardKey { index_uid: record.uid.clone(), number: *shard };
    let refused = |why: String| {
        Error::illegal_argument(format!("[move] of shard {shard} of [{index}] from {from} to {to}: {why}"))
    };
    let Some(assignment) = view.assignments.get(&key) else {
        return Err(refused(format!("the index has {} shards", record.shards)));
    };
    let holders: Vec<&str> = assignment.staying().map(NodeName::as_str).collect();
    if !holders.contains(&from.as_str()) {
        return Err(refused(format!("{from} does not hold it; it is on {}", holders.join(", "))));
    }
    if holders.contains(&to.as_str()) {
        return Err(refused(format!("{to} holds it already")));
    }
    is_known(view, to)?;
    if view.drains.contains(to) {
        return Err(refused(format!("{to} is being drained")));
    }
    let record = MoveRecord { format: 1, to: to.clone(), since_ms: now_ms() };
    Ok(Write::Put(keys::move_from(&key, from), encode(&record)?))
}

fn is_known(view: &View, leaf: &NodeName) -> Result<(), Error> {
    match view.leaf(leaf) {
        Some(_) => Ok(()),
        None => {
            let names: Vec<&str> = view.leaves().map(|node| node.record.name.as_str()).collect();
            Err(Error::illegal_argument(format!("there is no leaf [{leaf}]; there are {}", names.join(", "))))
        }
    }
}

fn encode(record: &impl serde::Serialize) -> Result<bytes::Bytes, Error> {
    let bytes = serde_json::to_vec(record).map_err(|error| Error::Internal(error.to_string()))?;
    Ok(bytes.into())
}
