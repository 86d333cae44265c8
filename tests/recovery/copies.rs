//! Copies that are interrupted, shown while they go on, and replicas that cannot be made where they are.

use std::{collections::BTreeMap, os::unix::fs::MetadataExt, path::Path, process::Command, time::Duration};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{
    damage::{damage, index_dir},
    harness::{Client, Cluster, TRAWL, wait_until},
    load::{DOCUMENTS, Load, TRIMMED, load_samples, load_until_trimmed, replicas},
    merged,
};

/// The recovery of the replica on a leaf, as `/_trawl/cluster` has it.
async fn recovery(client: &Client, leaf: &str) -> Value {
    let Ok(answer) = client.try_send("GET", "/_trawl/cluster", None, &[]).await else { return Value::Null };
    let shards = answer.body["shards"].as_array().cloned().unwrap_or_default();
    shards.into_iter().find(|shard| shard["leaf"] == leaf).map_or(Value::Null, |mut shard| shard["recovery"].take())
}

/// Whole files in a directory, by name, with their inodes.
fn whole_files(dir: &Path) -> BTreeMap<String, u64> {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let named =
        files.filter_map(|file| Some((file.file_name().to_string_lossy().into_owned(), file.metadata().ok()?.ino())));
    named.filter(|(name, _)| !name.contains(".part-") && name != "meta.json").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_shown_and_goes_on_where_it_was_after_both_leaves_were_killed() {
    let cluster = Cluster::start_set(1, 3, &[("TRAWL_REPLACE_AFTER", "1h"), ("TRAWL_RECOVERY_RATE", "1500kB")]).await;
    let client = &cluster.client;
    load_until_trimmed(client).await;
    let held = replicas(client).await;
    // One is made from the other, so that they have the same files and a copy may go on from either.
    let damaged = damage(&index_dir(&cluster.process(&held[1].leaf).data_dir.unwrap(), 0).unwrap(), "idx");
    let serves = async |leaf: &str| {
        let replicas = replicas(client).await;
        replicas
            .iter()
            .any(|replica| replica.leaf == leaf && replica.state == "serving" && replica.documents == TRIMMED)
    };
    wait_until("it is rebuilt", async || !damaged.exists() && serves(&held[1].leaf).await).await;
    let target = ["leaf-0", "leaf-1", "leaf-2"].into_iter().find(|leaf| held.iter().all(|held| held.leaf != *leaf));
    let (target, from) = (target.unwrap(), &held[0].leaf);
    let endpoint = ["--endpoint", &client.endpoint];
    let moved = Command::new(TRAWL).args(["cluster", "move", "catches", "0", from, target]).args(endpoint).status();
    assert!(moved.unwrap().success());

    let number = |value: &Value, key: &str| value[key].as_u64().unwrap_or(0);
    let is_midway = async || {
        let recovery = recovery(client, target).await;
        recovery["stage"] == "index"
            && number(&recovery, "files_done") >= 3
            && number(&recovery, "files_done") < number(&recovery, "files")
            && (1..5).contains(&(number(&recovery, "bytes") / number(&recovery, "bytes_done").max(1)))
    };
    wait_until("the copy is midway", is_midway).await;
    let source = recovery(client, target).await["source"].as_str().unwrap().to_owned();
    let rows = client.get("/_cat/recovery/catches?format=json&active_only=true&bytes=b").await;
    println!("{}", client.get("/_cat/recovery?v").await.text);
    let row = &rows.body[0];
    assert_eq!((&row["stage"], &row["type"], &row["source_node"]), (&json!("index"), &json!("peer"), &json!(source)));
    let cell = |name: &str| row[name].as_str().unwrap().trim_end_matches('%').parse::<f64>().unwrap();
    let expected = cell("bytes_recovered") * 100.0 / cell("bytes");
    assert!((cell("bytes_percent") - expected).abs() < 0.2 && expected > 0.0 && expected < 100.0, "{}", rows.text);
    assert!(cell("files_recovered") < cell("files"), "{}", rows.text);
    let shown = Command::new(TRAWL).args(["cluster", "shards"]).args(endpoint).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    println!("{shown}");
    assert!(shown.contains(&format!("copying from {source}: ")), "{shown}");

    let process = cluster.process(target);
    let replica_dir = index_dir(&cluster.process(&source).data_dir.unwrap(), 0).unwrap();
    let uid = replica_dir.ancestors().nth(2).unwrap().file_name().unwrap().to_owned();
    let replica_dir = process.data_dir.unwrap().join("shards").join(uid).join("0");
    for leaf in [&source, target] {
        cluster.signal(leaf, Signal::SIGKILL);
    }
    let before = whole_files(&replica_dir.join("copy"));
    assert!(before.len() >= 3, "{before:?}");
    wait_until("the target is running again", async || cluster.process(target).pid != process.pid).await;
    wait_until("the target serves", async || serves(target).await).await;
    let current = std::fs::read_to_string(replica_dir.join("CURRENT")).unwrap();
    let after = whole_files(&replica_dir.join(current.trim()));
    let again: Vec<_> = before.iter().filter(|(name, inode)| after.get(*name) != Some(inode)).collect();
    assert!(again.is_empty(), "copied again: {again:?}");
    let done = recovery(client, target).await;
    println!("{done}");
    assert_eq!(done["stage"], "done");
    assert!(number(&done, "bytes_reused") > 0 && number(&done, "bytes_done") == number(&done, "bytes"), "{done}");
    assert!(number(&done, "took_ms") > 0, "{done}");
    assert!(!replica_dir.join("copy").exists());
    let path = format!("/catches/_search?preference=_only_nodes:{target}");
    let found = client.post(&path, json!({"track_total_hits": true})).await;
    assert_eq!(found.body["hits"]["total"]["value"], TRIMMED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_cannot_be_made_anew_where_it_is_is_made_elsewhere() {
    let cluster = Cluster::start_set(2, 3, &[("TRAWL_REPLACE_AFTER", "2s")]).await;
    let client = &cluster.client;
    load_samples(client, 1, 1).await;
    merged(&cluster).await;
    let load = Load::of(client).await;
    let searching = load.start(&cluster);
    let held = replicas(client).await;
    let broken = held[0].leaf.clone();
    let other = ["leaf-0", "leaf-1", "leaf-2"].into_iter().find(|leaf| held.iter().all(|held| held.leaf != *leaf));
    let index = index_dir(&cluster.process(&broken).data_dir.unwrap(), 0).unwrap();
    // Where the copy would go there is something else.
    std::fs::write(index.with_file_name("copy"), "in the way").unwrap();
    let damaged = damage(&index, "idx");
    wait_until("another leaf has the replica", async || {
        let now = replicas(client).await;
        now.len() == 2
            && now.iter().all(|replica| replica.state == "serving" && replica.documents == DOCUMENTS)
            && now.iter().any(|replica| replica.leaf == other.unwrap())
    })
    .await;
    cluster.green().await;
    load.stop(searching).await;
    // It answers for a while yet, should a root not have heard.
    let is_gone = async || !damaged.exists();
    tokio::time::timeout(Duration::from_secs(30), wait_until("the broken replica is removed", is_gone)).await.unwrap();
}
