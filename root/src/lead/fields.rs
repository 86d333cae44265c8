//! Closes the mapping of an index that has as many fields as it may have.
//!
//! A shard refuses what would be too many for itself; only together do shards have more. The leader
//! counts what they report and writes a mapping version with the list ([`trawl_data::mapping`]). Between
//! two looks fields may come that pass the limit; never more than each shard takes by itself.

use std::collections::{BTreeMap, HashMap};

use trawl_cluster::Error;
use trawl_cluster::catalog::{IndexRecord, decode, keys};
use trawl_cluster::store::Guard;
use trawl_cluster::view::View;
use trawl_data::mapping::{FIELDS_MAX, Mapping};
use trawl_proto::{Seq, ShardKey, v1};

use super::Leader;
use crate::fields::holders;
use crate::lifecycle;

/// Shards whose heads are read in one call.
const HEADS_MAX: usize = 1_000;

/// Remembers what was looked at: fields come with operations only.
#[derive(Default)]
pub(super) struct FieldWatch {
    looked_at: HashMap<ShardKey, Seq>,
}

impl FieldWatch {
    /// Looks at every index that was written to since the last look.
    pub(super) async fn round(&mut self, leader: &Leader<'_>) -> Result<(), Error> {
        let root = leader.root;
        let view = root.viewer.view();
        self.looked_at.retain(|shard, _| view.uids.contains_key(&shard.index_uid));
        for record in view.uids.values() {
            let Ok(mapping) = root.mappings.of(&view, record) else { continue };
            if mapping.closed().is_none() && self.has_moved(leader, record).await? {
                self.look(leader, &view, record, &mapping).await?;
            }
        }
        Ok(())
    }

    async fn has_moved(&mut self, leader: &Leader<'_>, record: &IndexRecord) -> Result<bool, Error> {
        let shards: Vec<_> = record.shard_keys().collect();
        let mut moved = false;
        for shards in shards.chunks(HEADS_MAX) {
            let heads = leader.root.engine.log.heads(shards).await?;
            for (shard, head) in shards.iter().zip(heads) {
                let last = head.map_or(Seq(0), |head| head.last);
                moved |= last > Seq(0) && self.looked_at.insert(shard.clone(), last) != Some(last);
            }
        }
        Ok(moved)
    }

    /// First how many fields there may be at most, which costs little to ask, then their names.
    async fn look(
        &mut self,
        leader: &Leader<'_>,
        view: &View,
        record: &IndexRecord,
        mapping: &Mapping,
    ) -> Result<(), Error> {
        let root = leader.root;
        let timeout = root.config.leaves.status_timeout;
        let calls = holders(view, record).into_iter().filter_map(|leaf| {
            let client = root.leaves.by_name(view, &leaf)?;
            let request = v1::StatusRequest { index_uids: vec![record.uid.0.clone()], ..Default::default() };
            Some(async move { client.status(request, timeout).await.ok() })
        });
        let mut versions: BTreeMap<u32, u64> = BTreeMap::new();
        for replica in futures::future::join_all(calls).await.into_iter().flatten().flat_map(|answer| answer.replicas) {
            let shard = replica.shard.as_ref().map_or(0, |shard| shard.number);
            let version = versions.entry(shard).or_default();
            *version = replica.fields_version.max(*version);
        }
        // A field counts at least two in the version: itself and a type.
        let most = mapping.size() as u64 + versions.values().sum::<u64>() / 2;
        if most < FIELDS_MAX as u64 {
            return Ok(());
        }
        root.fields.refresh(&root.leaves, view, record, timeout).await;
        let dynamic = root.fields.paths(&record.uid);
        let unmapped = dynamic.iter().filter(|path| mapping.field(path).is_none()).count();
        if mapping.size() + unmapped < FIELDS_MAX {
            return Ok(());
        }
        close(leader, record, mapping, dynamic).await
    }
}

async fn close(
    leader: &Leader<'_>,
    record: &IndexRecord,
    mapping: &Mapping,
    dynamic: Vec<String>,
) -> Result<(), Error> {
    let root = leader.root;
    let corrupt = |error: crate::Error| Error::Corrupt(error.to_string());
    let key = keys::index(&record.name);
    let Some(stored) = root.engine.store.get(&key).await? else { return Ok(()) };
    let now: IndexRecord = decode(&key, &stored.value)?;
    if now.uid != record.uid || now.mapping_version != record.mapping_version {
        // The next round sees it.
        return Ok(());
    }
    let count = dynamic.len();
    let next = IndexRecord { mapping_version: now.mapping_version + 1, ..now };
    let closed = mapping.close(dynamic);
    let writes = vec![
        lifecycle::put_mapping_version(&next.uid, next.mapping_version, &closed).map_err(corrupt)?,
        lifecycle::put_record(&next).map_err(corrupt)?,
    ];
    leader.commit("close-fields", vec![Guard::At(key, stored.revision)], writes).await?;
    tracing::warn!(index = next.name, dynamic = count, limit = FIELDS_MAX, "the index is closed to new fields");
    Ok(())
}
