//! What is in the cluster against what has to be there, on every replica.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{harness::Cluster, producer::Expected};

/// Every loaded document is on every replica once, as it was in the file.
pub async fn loaded(cluster: &Cluster, leaves: usize, documents: &[(String, Value)]) {
    let expected: BTreeMap<&str, &Value> = documents.iter().map(|(id, source)| (id.as_str(), source)).collect();
    assert_eq!(expected.len(), documents.len());
    let mut versions: Option<BTreeMap<String, u64>> = None;
    for leaf in 0..leaves {
        let found = everything(cluster, "loaded", leaf).await;
        let ids: BTreeMap<&str, &Value> = found.iter().map(|hit| (id(hit), &hit["_source"])).collect();
        assert_eq!(ids.len(), found.len(), "documents found twice, preferring leaf-{leaf}");
        let missing: Vec<_> = expected.keys().filter(|id| !ids.contains_key(*id)).take(5).collect();
        assert!(missing.is_empty(), "missing on leaf-{leaf}: {missing:?}");
        for (id, source) in &ids {
            assert_eq!(expected.get(id), Some(source), "{id} on leaf-{leaf}");
        }
        same(&mut versions, &found, leaf);
    }
    println!(
        "loaded: {} documents, each found once and as loaded, preferring each of {leaves} leaves",
        documents.len()
    );
}

/// Every changed document is on every replica as the acknowledged changes left it, changed as often.
pub async fn written(cluster: &Cluster, leaves: usize, expected: &BTreeMap<String, Expected>) {
    let live = expected.iter().filter(|(_, expected)| expected.source.is_some()).count();
    let mut versions: Option<BTreeMap<String, u64>> = None;
    for leaf in 0..leaves {
        let found = everything(cluster, "written", leaf).await;
        for hit in &found {
            let expected = expected.get(id(hit)).unwrap_or_else(|| panic!("nobody wrote {hit}"));
            assert_eq!(expected.source.as_ref(), Some(&hit["_source"]), "{hit} on leaf-{leaf}");
            if let Some(version) = expected.version {
                assert_eq!(hit["_version"], version, "{hit} on leaf-{leaf}");
            }
        }
        assert_eq!(found.len(), live, "documents on leaf-{leaf}");
        same(&mut versions, &found, leaf);
    }
    println!("written: {live} documents live of {}, each as its last acknowledged change left it", expected.len());
}

fn id(hit: &Value) -> &str {
    hit["_id"].as_str().unwrap()
}

fn same(versions: &mut Option<BTreeMap<String, u64>>, found: &[Value], leaf: usize) {
    let these: BTreeMap<String, u64> =
        found.iter().map(|hit| (id(hit).to_owned(), hit["_version"].as_u64().unwrap())).collect();
    match versions {
        Some(first) => assert_eq!(*first, these, "versions on leaf-{leaf} and leaf-0"),
        None => *versions = Some(these),
    }
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
