//! What is in the cluster against what has to be there, on every replica.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
};

use serde_json::{Value, json};

use crate::{harness::Cluster, producer::Expected};

/// Problems that are told; the others are counted.
const TOLD: usize = 5;

/// What was found; equal on every leaf if all is well.
#[derive(Default)]
pub struct Findings {
    acknowledged: usize,
    /// Documents that are there on every leaf.
    found: usize,
    /// Hits beyond the first one of a document, on the leaf that has most.
    duplicated: usize,
    /// Documents whose content or number of changes is not as acknowledged, or not the same everywhere.
    different: usize,
    problems: Vec<String>,
}

impl Findings {
    pub fn add(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.found += other.found;
        self.duplicated += other.duplicated;
        self.different += other.different;
        self.problems.extend(other.problems);
    }

    /// Fails with the first problems, if there are any.
    pub fn check(&self) {
        let counts = (self.found, self.duplicated, self.different);
        let told = &self.problems[..self.problems.len().min(TOLD)];
        assert!(self.problems.is_empty() && counts == (self.acknowledged, 0, 0), "{self}: {}", told.join("\n"));
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acknowledged, found, duplicated, different, .. } = self;
        write!(f, "documents: acknowledged {acknowledged}, found {found}, ")?;
        write!(f, "duplicated {duplicated}, different {different}")
    }
}

/// Compares every loaded document, which was written once.
pub async fn loaded(cluster: &Cluster, leaves: usize, index: &str, documents: &[(String, Value)]) -> Findings {
    let expected = documents
        .iter()
        .map(|(id, source)| (id.clone(), Expected { source: Some(source.clone()), version: Some(1) }))
        .collect();
    compare(cluster, leaves, index, &expected).await
}

/// Compares every document of an index, as each leaf has it, with what the acknowledged changes made of it.
pub async fn compare(cluster: &Cluster, leaves: usize, index: &str, expected: &BTreeMap<String, Expected>) -> Findings {
    let live = expected.iter().filter(|(_, expected)| expected.source.is_some());
    let mut missing: BTreeSet<&str> = BTreeSet::new();
    let mut different: BTreeSet<String> = BTreeSet::new();
    let mut findings = Findings { acknowledged: live.clone().count(), ..Findings::default() };
    let mut versions: BTreeMap<String, u64> = BTreeMap::new();
    for leaf in 0..leaves {
        let hits = everything(cluster, index, leaf).await;
        let mut ids: HashSet<&str> = HashSet::new();
        for hit in &hits {
            let (id, version) = (hit["_id"].as_str().unwrap(), hit["_version"].as_u64().unwrap());
            ids.insert(id);
            let first = *versions.entry(id.to_owned()).or_insert(version);
            let expected = expected.get(id).cloned().unwrap_or_default();
            let as_expected = expected.source.as_ref() == Some(&hit["_source"])
                && expected.version.is_none_or(|expected| expected == version);
            if !as_expected || first != version {
                findings.problems.push(format!("on leaf-{leaf}: {hit}, not {expected:?}; first version {first}"));
                different.insert(id.to_owned());
            }
        }
        findings.duplicated = findings.duplicated.max(hits.len() - ids.len());
        missing.extend(live.clone().map(|(id, _)| id.as_str()).filter(|id| !ids.contains(id)));
    }
    findings.problems.extend(missing.iter().map(|id| format!("missing in {index}: {id}")));
    (findings.found, findings.different) = (findings.acknowledged - missing.len(), different.len());
    findings
}

/// All documents, from one leaf's replicas where it has any.
async fn everything(cluster: &Cluster, index: &str, leaf: usize) -> Vec<Value> {
    let refreshed = cluster.client.get(&format!("/{index}/_refresh")).await;
    assert_eq!(refreshed.body["_shards"]["failed"], 0, "{}", refreshed.text);
    let path = format!("/{index}/_search?preference=_prefer_nodes:leaf-{leaf}");
    let (mut found, mut after) = (Vec::new(), Value::Null);
    loop {
        let mut body = json!({"size": 2_000, "sort": [{"chaos_n": "asc"}], "version": true});
        if !after.is_null() {
            body["search_after"] = after;
        }
        let answer = cluster.client.post(&path, body).await;
        assert_eq!((answer.status, &answer.body["_shards"]["failed"]), (200, &json!(0)), "{}", answer.text);
        let hits = answer.body["hits"]["hits"].as_array().unwrap().clone();
        let Some(last) = hits.last() else { return found };
        after = last["sort"].clone();
        found.extend(hits);
    }
}
