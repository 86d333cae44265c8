//! Dynamic fields of indices, as the leaves report them, joined with the catalog's mapping.
//!
//! Asked for when a query first needs them, and again when an answer shows that a replica has learned
//! of more. What two shards know differently is united by type.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use tokio::time::Instant;
use trawl_cluster::catalog::IndexRecord;
use trawl_cluster::view::View;
use trawl_data::mapping::Mapping;
use trawl_proto::{IndexUid, NodeName, v1};

use crate::leaf_client::LeafClients;

/// Indices whose dynamic fields are kept.
const INDICES_MAX: usize = 10_000;

/// What is known of one index.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// United over all shards, by path; spare numbers mean nothing here.
    fields: Vec<v1::DynamicField>,
    /// The version of each shard's fields that is contained.
    versions: HashMap<u32, u64>,
    /// The catalog's mapping (by version) with `fields`.
    mapping: Option<(u64, Arc<Mapping>)>,
}

/// The dynamic fields of all indices.
pub struct Fields {
    known: Cache<IndexUid, Arc<Mutex<Known>>>,
    /// One question per index at a time; the others wait for its answer.
    asking: Cache<IndexUid, Arc<tokio::sync::Mutex<Option<Instant>>>>,
}

impl Default for Fields {
    fn default() -> Self {
        Self { known: Cache::new(INDICES_MAX), asking: Cache::new(INDICES_MAX) }
    }
}

impl Fields {
    /// The catalog's mapping with the dynamic fields known now; the mapping itself when there are none.
    pub fn mapping(&self, record: &IndexRecord, catalog: &Arc<Mapping>) -> Arc<Mapping> {
        let Some(known) = self.known.get(&record.uid) else { return catalog.clone() };
        let mut known = known.lock();
        if known.fields.is_empty() {
            return catalog.clone();
        }
        match &known.mapping {
            Some((version, mapping)) if *version == record.mapping_version => mapping.clone(),
            _ => {
                let mapping = Arc::new(catalog.with_dynamic(&known.fields));
                known.mapping = Some((record.mapping_version, mapping.clone()));
                mapping
            }
        }
    }

    /// The dynamic fields known now, by path.
    pub fn paths(&self, uid: &IndexUid) -> Vec<String> {
        let Some(known) = self.known.get(uid) else { return Vec::new() };
        let known = known.lock();
        known.fields.iter().map(|field| field.path.clone()).collect()
    }

    /// Whether the index's leaves have never been asked.
    pub fn unknown(&self, uid: &IndexUid) -> bool {
        self.known.get(uid).is_none()
    }

    /// Whether a shard's answer shows fields that are not known here.
    pub fn behind(&self, uid: &IndexUid, shard: u32, version: u64) -> bool {
        let known = self.known.get(uid);
        version > 0 && known.is_none_or(|known| known.lock().versions.get(&shard).copied().unwrap_or(0) < version)
    }

    /// Asks every leaf that holds a replica of the index. Leaves that do not answer in time are left
    /// out: what they know is learned from another replica, or later.
    pub async fn refresh(&self, leaves: &LeafClients, view: &View, record: &IndexRecord, timeout: Duration) {
        let called = Instant::now();
        let Ok(lock) = self.asking.get_or_insert_with::<_, ()>(&record.uid, || Ok(Arc::default())) else { return };
        let mut asked = lock.lock().await;
        if asked.is_some_and(|started| started >= called) {
            // Somebody else asked while this call waited for its turn.
            return;
        }
        *asked = Some(Instant::now());
        let request = v1::StatusRequest { index_uids: vec![record.uid.0.clone()], fields: true, poisoned: false };
        let holders = holders(view, record);
        let calls = holders.iter().filter_map(|name| leaves.by_name(view, name)).map(|client| {
            let request = request.clone();
            async move { client.status(request, timeout).await.ok() }
        });
        let answers = futures::future::join_all(calls).await;
        let replicas: Vec<_> = answers.into_iter().flatten().flat_map(|answer| answer.replicas).collect();
        if !replicas.is_empty() {
            self.learn(&record.uid, &replicas);
        }
    }

    /// Unites what replicas report with what is known.
    pub fn learn(&self, uid: &IndexUid, replicas: &[v1::ReplicaStatus]) {
        let Ok(known) = self.known.get_or_insert_with::<_, ()>(uid, || Ok(Arc::default())) else { return };
        let mut known = known.lock();
        let mut types: BTreeMap<&str, u32> = BTreeMap::new();
        let before = std::mem::take(&mut known.fields);
        let reported = replicas.iter().flat_map(|replica| &replica.dynamic_fields);
        for field in before.iter().chain(reported) {
            *types.entry(&field.path).or_default() |= field.types;
        }
        let united =
            types.into_iter().map(|(path, types)| v1::DynamicField { path: path.to_owned(), types, spare: None });
        let united: Vec<_> = united.collect();
        if united != before {
            known.mapping = None;
        }
        known.fields = united;
        for replica in replicas {
            let Some(shard) = &replica.shard else { continue };
            let version = known.versions.entry(shard.number).or_default();
            *version = replica.fields_version.max(*version);
        }
    }
}

/// Every leaf that is assigned a shard of the index and lives, once.
pub fn holders(view: &View, record: &IndexRecord) -> Vec<NodeName> {
    let assigned = record.shard_keys().filter_map(|shard| view.assignments.get(&shard));
    let mut names: Vec<_> = assigned.flat_map(|assignment| assignment.leaves.iter().cloned()).collect();
    names.sort();
    names.dedup();
    names.retain(|name| view.leaf(name).is_some_and(|node| node.alive));
    names
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn status(shard: u32, version: u64, fields: &[(&str, u32)]) -> v1::ReplicaStatus {
        let field =
            |(path, types): &(&str, u32)| v1::DynamicField { path: (*path).to_owned(), types: *types, spare: None };
        v1::ReplicaStatus {
            shard: Some(v1::Shard { index_uid: "u".to_owned(), number: shard }),
            fields_version: version,
            dynamic_fields: fields.iter().map(field).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn shards_are_united_by_type() {
        let fields = Fields::default();
        let uid = IndexUid::from("u");
        assert!(fields.unknown(&uid));
        assert!(fields.behind(&uid, 0, 1));
        assert!(!fields.behind(&uid, 0, 0), "no fields, nothing to know");
        fields.learn(&uid, &[status(0, 1, &[("a", 0b10)]), status(1, 2, &[("a", 0b100), ("b", 0b10)])]);
        assert!(!fields.unknown(&uid));
        assert!(!fields.behind(&uid, 0, 1));
        assert!(fields.behind(&uid, 0, 2));
        let known = fields.known.get(&uid).unwrap();
        let types: Vec<_> = known.lock().fields.iter().map(|field| (field.path.clone(), field.types)).collect();
        assert_eq!(types, [("a".to_owned(), 0b110), ("b".to_owned(), 0b10)]);
    }
}
