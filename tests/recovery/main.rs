//! Replicas whose files are damaged, through the real binary, under steady searches whose right answers are known:
//! nothing wrong and nothing failed is ever answered, and the replica is rebuilt.
#![allow(missing_docs, clippy::unwrap_used)]

mod copies;
mod damage;
#[path = "../harness/mod.rs"]
mod harness;
mod load;

use std::{
    collections::BTreeSet,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use damage::{damage, files, index_dir};
use harness::{Cluster, wait_until};
use load::{DOCUMENTS, Load, TRIMMED, load_samples, load_until_trimmed, replicas};
use nix::sys::signal::Signal;
use serde_json::json;

/// Parts of an index: stored documents, columns, dictionaries, postings, positions, norms.
const PARTS: [&str; 6] = ["store", "fast", "term", "idx", "pos", "fieldnorm"];
const SHARDS: u64 = 2;

/// Three leaves, two replicas of each shard, and a leaf that holds something.
async fn start() -> (Cluster, Arc<Load>, String) {
    let cluster = Cluster::start_set(2, 3, &[("TRAWL_REPLACE_AFTER", "1h")]).await;
    load_samples(&cluster.client, SHARDS as u32, 1).await;
    merged(&cluster).await;
    let load = Load::of(&cluster.client).await;
    let leaf = replicas(&cluster.client).await[0].leaf.clone();
    (cluster, load, leaf)
}

/// Waits until nothing is merged any more, and has what was merged be put in use.
async fn merged(cluster: &Cluster) {
    let leaves = || cluster.processes().into_iter().filter_map(|process| process.data_dir);
    let files = || leaves().flat_map(|leaf| (0..SHARDS).flat_map(move |shard| files(&leaf, shard))).collect::<Vec<_>>();
    let seen = std::sync::Mutex::new((Instant::now(), files()));
    wait_until("nothing is merged any more", async || {
        let (now, mut seen) = (files(), seen.lock().unwrap());
        if seen.1 != now {
            *seen = (Instant::now(), now);
        }
        seen.0.elapsed() > Duration::from_secs(1)
    })
    .await;
    let again = cluster.client.get("/catches/_search?size=10").await.body["hits"]["hits"].clone();
    let again =
        again.as_array().unwrap().iter().map(|hit| (hit["_id"].as_str().unwrap().to_owned(), hit["_source"].clone()));
    cluster.client.bulk_index("catches", &again.collect::<Vec<_>>(), true).await;
}

/// Waits until the damaged file is gone and everything is as it should be.
async fn rebuilt(cluster: &Cluster, damaged: &Path) {
    wait_until("the replica is made anew", async || !damaged.exists()).await;
    wait_until("all replicas serve, and those of a shard hold the same", async || {
        let replicas = replicas(&cluster.client).await;
        let documents: BTreeSet<(u64, u64)> =
            replicas.iter().map(|replica| (replica.shard, replica.documents)).collect();
        let shards: BTreeSet<u64> = replicas.iter().map(|replica| replica.shard).collect();
        replicas.iter().all(|replica| replica.state == "serving")
            && documents.len() == shards.len()
            && documents.iter().map(|(_, documents)| documents).sum::<u64>() == DOCUMENTS
    })
    .await;
    cluster.green().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_flipped_while_a_leaf_is_down_are_found_before_it_serves_and_the_replica_is_rebuilt() {
    let (cluster, load, leaf) = start().await;
    let searching = load.start(&cluster);
    let shard = replicas(&cluster.client).await.into_iter().find(|replica| replica.leaf == leaf).unwrap().shard;
    for part in PARTS {
        let process = cluster.process(&leaf);
        let data_dir = process.data_dir.clone().unwrap();
        // It stands still while its files change, so it finds them changed when it starts again.
        cluster.signal(&leaf, Signal::SIGSTOP);
        let before = index_dir(&data_dir, shard).unwrap();
        let damaged = damage(&before, part);
        cluster.signal(&leaf, Signal::SIGKILL);
        wait_until("the leaf is running again", async || cluster.process(&leaf).pid != process.pid).await;
        rebuilt(&cluster, &damaged).await;
        println!("{part}: rebuilt, {} searches so far", load.searches());
    }
    load.stop(searching).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_flipped_under_a_running_leaf_are_noticed_before_anything_wrong_is_answered() {
    let (cluster, load, leaf) = start().await;
    let searching = load.start(&cluster);
    let pid = cluster.process(&leaf).pid;
    let shard = replicas(&cluster.client).await.into_iter().find(|replica| replica.leaf == leaf).unwrap().shard;
    for part in PARTS {
        let before = index_dir(&cluster.process(&leaf).data_dir.unwrap(), shard).unwrap();
        let damaged = damage(&before, part);
        rebuilt(&cluster, &damaged).await;
        println!("{part}: rebuilt, {} searches so far", load.searches());
    }
    load.stop(searching).await;
    assert_eq!(cluster.process(&leaf).pid, pid, "the leaf has not died of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_replica_comes_back_from_a_log_that_reaches_back() {
    let cluster = Cluster::start_set(1, 2, &[("TRAWL_REPLACE_AFTER", "1h")]).await;
    let client = &cluster.client;
    load_samples(client, 1, 0).await;
    let replica = replicas(client).await.remove(0);
    let data_dir = cluster.process(&replica.leaf).data_dir.unwrap();
    rebuilt(&cluster, &damage(&index_dir(&data_dir, 0).unwrap(), "store")).await;
    let found = client.search("catches", json!({"track_total_hits": true})).await;
    assert_eq!(found["hits"]["total"]["value"], DOCUMENTS, "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_replica_of_a_trimmed_log_says_why_it_cannot_serve_and_waits_for_another() {
    let cluster = Cluster::start_set(1, 2, &[("TRAWL_REPLACE_AFTER", "1h")]).await;
    let client = &cluster.client;
    load_until_trimmed(client).await;
    cluster.signal("leaf-1", Signal::SIGSTOP);
    let damaged = damage(&index_dir(&cluster.process("leaf-0").data_dir.unwrap(), 0).unwrap(), "fast");
    let name = damaged.file_name().unwrap().to_str().unwrap().to_owned();
    let says_why = async || {
        let cluster = client.get("/_trawl/cluster").await.body;
        let mut shards = cluster["shards"].as_array().unwrap().iter();
        let replica = shards.find(|shard| shard["leaf"] == "leaf-0").unwrap();
        let reason = replica["reason"].as_str().unwrap_or_default();
        let is_red = client.get("/_cluster/health").await.body["status"] == "red";
        is_red && replica["state"] == "failed" && reason.contains(&name) && reason.contains("no other leaf serves")
    };
    wait_until("the shard is red and says why", says_why).await;
    let answer = client.post("/catches/_search", json!({"query": {"match_all": {}}})).await;
    assert!(answer.status == 503 || answer.body["_shards"]["failed"] == 1, "{}", answer.text);
    assert!(damaged.exists(), "what is left of it is kept");

    cluster.signal("leaf-1", Signal::SIGCONT);
    cluster.green().await;
    assert!(!damaged.exists());
    let found = client.search("catches", json!({"track_total_hits": true})).await;
    assert_eq!(found["hits"]["total"]["value"], TRIMMED, "{found}");
}
