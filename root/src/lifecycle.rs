//! Making, changing and deleting indices: guarded commits to the catalog. The leader does the rest.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use tokio::time::Instant;
use trawl_cluster::Error as EngineError;
use trawl_cluster::catalog::{IndexRecord, decode, keys};
use trawl_cluster::store::{Guard, Revision, Write};
use trawl_cluster::view::View;
use trawl_data::mapping::Mapping;
use trawl_data::routing::SLOTS;
use trawl_proto::IndexUid;

use crate::catalog;
use crate::error::Error;
use crate::health;
use crate::limits::Limit;
use crate::request::{ChangeIndex, CreateIndex, Created};
use crate::root::Root;

/// How often a commit that was lost to another is tried again.
const ATTEMPTS_MAX: usize = 10;

/// Most extra replicas.
pub(crate) const REPLICAS_MAX: u32 = 100;

/// How long this root's view may take to show what was committed.
const VIEW_TIMEOUT: Duration = Duration::from_secs(5);

/// Refresh interval of an index that says nothing of it.
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// Makes an index and waits until it is served.
///
/// 1. Check name and numbers.
/// 2. Commit record and first mapping, unless the name is taken.
/// 3. Wait until the leader has assigned and leaves serve every shard.
pub(crate) async fn create(root: &Root, name: &str, index: CreateIndex, wait: Duration) -> Result<Created, Error> {
    catalog::check_name(name)?;
    check_numbers(&index)?;
    if let Some(there) = root.viewer.view().indices.get(name) {
        return Err(exists(there));
    }
    check_room(root, index.shards, 1 + index.replicas)?;
    let record = IndexRecord {
        refresh_interval_ms: index.refresh_interval.map(|interval| interval.as_millis() as u64),
        created_ms: now_ms(),
        log_bytes_max: index.log_bytes_max,
        log_age_max_ms: index.log_age_max.map(|age| age.as_millis() as u64),
        replace_after_ms: index.replace_after.map(|time| time.as_millis() as u64),
        ..IndexRecord::new(name, new_uid(), index.shards, index.replicas)
    };
    let writes = [put_mapping_version(&record.uid, 1, &index.mapping)?, put_record(&record)?];
    let committed = commit(root, &[Guard::Absent(keys::index(name))], &writes).await;
    match committed {
        Ok(revision) => {
            root.viewer.at_least(revision, VIEW_TIMEOUT).await;
            let shards_acknowledged = wait_served(root, &record, wait).await;
            let leaves = root.viewer.view().leaves().filter(|node| node.alive).count() as u32;
            let warnings: Vec<String> = health::too_few_leaves(name, record.replicas, leaves).into_iter().collect();
            for warning in &warnings {
                tracing::warn!(index = name, "{warning}");
            }
            Ok(Created { uid: record.uid.0, shards_acknowledged, warnings })
        }
        Err(Error::Conflict(_)) => Err(exists(&stored_record(root, name).await?.0)),
        Err(error) => Err(error),
    }
}

/// Whether so many shards with so many copies may be added.
fn check_room(root: &Root, shards: u32, copies: u32) -> Result<(), Error> {
    let view = root.viewer.view();
    let added = u64::from(shards) * u64::from(copies);
    let there = view.uids.values().map(|record| u64::from(record.shards) * u64::from(1 + record.replicas));
    let (there, leaves) = (there.sum::<u64>(), view.leaves().count().max(1) as u64);
    let max = leaves * root.config.write.shards_per_leaf_max;
    if there + added <= max {
        return Ok(());
    }
    root.metrics.refusals.count(Limit::ShardsPerLeaf);
    let reason = format!(
        "this action would add [{added}] shards, but this cluster currently has [{there}]/[{max}] maximum normal shards \
         open; delete indices, add leaves, or raise --shards-per-leaf of the roots"
    );
    Err(Error::invalid("validation_exception", reason))
}

/// Makes an index for a write to a name that does not exist, or finds the one somebody else made.
pub(crate) async fn create_default(root: &Root, name: &str, wait: Duration) -> Result<Arc<IndexRecord>, Error> {
    let mapping = Mapping::parse(&serde_json::json!({}))?;
    let index = CreateIndex {
        shards: 1,
        replicas: 1,
        refresh_interval: Some(REFRESH_INTERVAL),
        log_bytes_max: None,
        log_age_max: None,
        replace_after: None,
        mapping,
    };
    let wait = wait.min(root.config.write.create_wait_max);
    match create(root, name, index, wait).await {
        Ok(_) | Err(Error::IndexExists { .. }) => {}
        Err(error) => return Err(error),
    }
    let deadline = Instant::now() + VIEW_TIMEOUT;
    let mut views = root.viewer.subscribe();
    let seen = views.wait_for(|view| view.indices.contains_key(name));
    match tokio::time::timeout_at(deadline, seen).await {
        Ok(Ok(view)) => catalog::record(&view, name),
        _ => Err(Error::Unavailable(format!("index [{name}] was made but cannot be seen yet"))),
    }
}

/// Deletes indices, all or none.
pub(crate) async fn delete(root: &Root, names: &[String]) -> Result<(), Error> {
    rewrite(root, names, |record| Ok(Some(Write::Delete(keys::index(&record.name))))).await
}

/// Changes settings of indices, of all or of none. Roots and leaves go by their view of the record.
pub(crate) async fn change(root: &Root, names: &[String], change: ChangeIndex) -> Result<(), Error> {
    let changed = |record: &IndexRecord| {
        let changed = change.apply(record);
        (changed != *record).then(|| put_record(&changed)).transpose()
    };
    rewrite(root, names, changed).await
}

/// Commits what `write` makes of each index's record, if anything, guarded by the records it was made from.
async fn rewrite<W>(root: &Root, names: &[String], write: W) -> Result<(), Error>
where
    W: Fn(&IndexRecord) -> Result<Option<Write>, Error>,
{
    for _ in 0..ATTEMPTS_MAX {
        let mut guards = Vec::new();
        let mut writes = Vec::new();
        for name in names {
            let (record, revision) = stored_record(root, name).await?;
            guards.push(Guard::At(keys::index(name), revision));
            writes.extend(write(&record)?);
        }
        if writes.is_empty() {
            return Ok(());
        }
        match commit(root, &guards, &writes).await {
            Ok(revision) => {
                root.viewer.at_least(revision, VIEW_TIMEOUT).await;
                return Ok(());
            }
            Err(Error::Conflict(_)) => continue,
            Err(error) => return Err(error),
        }
    }
    Err(Error::Conflict("the index is being changed by others all the time".to_owned()))
}

/// Adds fields to an index's mapping: a new version, guarded by the record that it was made from.
pub(crate) async fn put_mapping(root: &Root, name: &str, update: &serde_json::Value) -> Result<(), Error> {
    for _ in 0..ATTEMPTS_MAX {
        let (record, revision) = stored_record(root, name).await?;
        let stored = get(root, &keys::mapping(&record.uid, record.mapping_version)).await?;
        let missing = || Error::Internal(format!("the mapping of index [{name}] is not there"));
        let mapping = catalog::parse(&stored.ok_or_else(missing)?.0, name)?;
        check_against_dynamic(root, &record, &mapping, update).await?;
        let merged = mapping.merge(update)?;
        if merged == mapping {
            return Ok(());
        }
        let version = record.mapping_version + 1;
        let record = IndexRecord { mapping_version: version, ..(*record).clone() };
        let writes = [put_mapping_version(&record.uid, version, &merged)?, put_record(&record)?];
        match commit(root, &[Guard::At(keys::index(name), revision)], &writes).await {
            Ok(revision) => {
                root.viewer.at_least(revision, VIEW_TIMEOUT).await;
                return Ok(());
            }
            Err(Error::Conflict(_)) => continue,
            Err(error) => return Err(error),
        }
    }
    Err(Error::Conflict(format!("the mapping of index [{name}] is being changed by others all the time")))
}

/// A field that documents brought is there as well: contradicting it is refused like any other.
async fn check_against_dynamic(
    root: &Root,
    record: &IndexRecord,
    mapping: &Mapping,
    update: &serde_json::Value,
) -> Result<(), Error> {
    let view = root.viewer.view();
    root.fields.refresh(&root.leaves, &view, record, root.config.leaves.status_timeout).await;
    let catalog = Arc::new(mapping.clone());
    let shown = root.fields.mapping(record, &catalog);
    if !Arc::ptr_eq(&shown, &catalog) {
        shown.merge(update)?;
    }
    Ok(())
}

/// Waits until every shard has a serving replica; false when it took longer, or the index is gone.
pub(crate) async fn wait_served(root: &Root, record: &IndexRecord, wait: Duration) -> bool {
    let served = |view: &Arc<View>| {
        !view.uids.contains_key(&record.uid) || record.shard_keys().all(|shard| view.serving.contains_key(&shard))
    };
    let mut views = root.viewer.subscribe();
    let arrived = tokio::time::timeout(wait, views.wait_for(served)).await;
    matches!(arrived, Ok(Ok(view)) if view.uids.contains_key(&record.uid))
}

fn check_numbers(index: &CreateIndex) -> Result<(), Error> {
    if index.shards == 0 || index.shards > SLOTS {
        return Err(Error::illegal_argument(format!(
            "Failed to parse value [{}] for setting [index.number_of_shards] must be >= 1 and <= {SLOTS}",
            index.shards
        )));
    }
    if index.replicas > REPLICAS_MAX {
        return Err(Error::illegal_argument(format!(
            "Failed to parse value [{}] for setting [index.number_of_replicas] must be <= {REPLICAS_MAX}",
            index.replicas
        )));
    }
    Ok(())
}

fn exists(record: &IndexRecord) -> Error {
    Error::IndexExists { name: record.name.clone(), uid: record.uid.0.clone() }
}

fn new_uid() -> IndexUid {
    // A leading letter, because uids are names of directories too.
    IndexUid(format!("i{}", URL_SAFE_NO_PAD.encode(uuid::Uuid::new_v4().into_bytes())))
}

/// Milliseconds since the epoch, for display only.
pub(crate) fn now_ms() -> u64 {
    trawl_proto::clock::unix_ms()
}

pub(crate) fn put_record(record: &IndexRecord) -> Result<Write, Error> {
    let value = serde_json::to_vec(record).map_err(|error| Error::Internal(error.to_string()))?;
    Ok(Write::Put(keys::index(&record.name), value.into()))
}

pub(crate) fn put_mapping_version(uid: &IndexUid, version: u64, mapping: &Mapping) -> Result<Write, Error> {
    let value = serde_json::to_vec(&mapping.to_stored()).map_err(|error| Error::Internal(error.to_string()))?;
    Ok(Write::Put(keys::mapping(uid, version), value.into()))
}

/// The record as the store has it now, with its revision.
pub(crate) async fn stored_record(root: &Root, name: &str) -> Result<(Arc<IndexRecord>, Revision), Error> {
    let Some((value, revision)) = get(root, &keys::index(name)).await? else {
        return Err(Error::NoSuchIndex(name.to_owned()));
    };
    let record = decode::<IndexRecord>(&keys::index(name), &value)?;
    Ok((Arc::new(record), revision))
}

async fn get(root: &Root, key: &str) -> Result<Option<(Bytes, Revision)>, Error> {
    let entry = in_time(root, root.engine.store.get(key)).await?;
    Ok(entry.map(|entry| (entry.value, entry.revision)))
}

pub(crate) async fn commit(root: &Root, guards: &[Guard], writes: &[Write]) -> Result<Revision, Error> {
    in_time(root, root.engine.store.commit(guards, writes)).await
}

/// A call of the store, unless the store is known to be out of reach.
async fn in_time<T>(root: &Root, call: impl Future<Output = Result<T, EngineError>>) -> Result<T, Error> {
    let wait = root.config.write.append_wait_max;
    let wait = root.store_gate.enter(wait)?;
    let result = match tokio::time::timeout(wait, call).await {
        Ok(result) => result.map_err(Error::from),
        Err(_) => Err(Error::Unavailable("the cluster engine did not answer in time".to_owned())),
    };
    root.store_gate.note(&result);
    result
}
