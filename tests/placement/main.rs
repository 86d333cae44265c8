//! Replicas that place, heal and move themselves, through the real binary, under steady searches and
//! writes: none of them fails, none is partial, every document is on every replica.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../harness/mod.rs"]
mod harness;
mod load;
mod operations;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use harness::{Cluster, member::Member, roots::Roots, wait_until};
use load::{BEFORE, Load, SHARDS, documents, replicas, settled};
use nix::{sys::signal::Signal, unistd::Pid};
use serde_json::json;

/// Directories of replicas below a leaf's data directory.
fn on_disk(data_dir: &Path) -> usize {
    let list = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    list(&data_dir.join("shards")).map(|index| list(&index).count()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_leaf_is_replaced_and_a_new_one_gets_its_share_without_a_failed_request() {
    let cluster = Cluster::start_set(2, 4, &[("TRAWL_REPLACE_AFTER", "1s")]).await;
    let client = cluster.root_clients().remove(0);
    client.create_index("spread", SHARDS as u32, 1, json!({"properties": {"title": {"type": "text"}}})).await;
    client.bulk_index("spread", &documents(0..BEFORE), true).await;
    let load = Arc::new(Load::default());
    let mut streams = tokio::task::JoinSet::new();
    for (name, root) in Roots::of(&cluster).all {
        let (load, roots) = (load.clone(), Roots::only(&name, &root));
        if streams.is_empty() {
            let (load, roots) = (load.clone(), roots.clone());
            streams.spawn(async move { load.write(roots).await });
        }
        streams.spawn(async move { load.search(roots).await });
    }
    // A stopped supervisor restarts nothing: the leaf is lost for good.
    let up = Pid::from_raw(cluster.up_pid());
    nix::sys::signal::kill(up, Signal::SIGSTOP).unwrap();
    let began = Instant::now();
    cluster.signal("leaf-1", Signal::SIGKILL);
    wait_until("every shard has two replicas again, without the lost leaf", async || {
        settled(&client).await.is_some_and(|held| !held.contains_key("leaf-1"))
    })
    .await;
    println!("full replica count {:.1?} after the loss", began.elapsed());

    let began = Instant::now();
    // The supervisor knows nothing of it.
    let grpc = ["--grpc", "127.0.0.1:0"];
    let _extra = Member::leaf(cluster.log(), "leaf-4", &cluster.url(), cluster.data_dir(), &grpc);
    wait_until("the new leaf has its share", async || {
        settled(&client).await.is_some_and(|held| held.len() == 4 && held.values().all(|replicas| *replicas == 2))
    })
    .await;
    println!("evened out {:.1?} after the start of a new leaf", began.elapsed());
    let leaves = ["leaf-0", "leaf-2", "leaf-3"].map(|name| cluster.process(name).data_dir.unwrap());
    wait_until("what was moved is removed from disk", async || leaves.iter().all(|leaf| on_disk(leaf) == 2)).await;

    load.stop.store(true, Ordering::Relaxed);
    streams.join_all().await;
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    println!("{} searches, {} writes", count(&load.searches), count(&load.writes));
    assert!(count(&load.searches) > 100 && count(&load.writes) > 50);
    assert_eq!(*load.faults.lock().unwrap(), Vec::<String>::new());

    let refreshed = client.get("/spread/_refresh").await;
    assert_eq!(refreshed.body["_shards"]["failed"], 0, "{}", refreshed.text);
    let mut of_shard: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for (_, shard, _, documents) in replicas(&client).await {
        of_shard.entry(shard).or_default().push(documents);
    }
    assert!(of_shard.values().all(|documents| documents.len() == 2 && documents[0] == documents[1]), "{of_shard:?}");
    let all: u64 = of_shard.values().map(|documents| documents[0]).sum();
    assert_eq!(all as usize, count(&load.documents));
}
