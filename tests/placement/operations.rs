//! What an operator does to a living cluster, with the commands that an operator has.

use std::{
    process::Command,
    sync::{Arc, atomic::Ordering},
};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{Client, Cluster, PATIENCE, TRAWL, green, roots::Roots, wait_until};
use crate::load::{BEFORE, Load, SHARDS, documents, replicas, settled};

/// Runs `trawl cluster …`; its output.
async fn operate(client: &Client, args: &[&str]) -> String {
    let mut command = Command::new(TRAWL);
    command.arg("cluster").args(args).args(["--endpoint", client.endpoint.as_str()]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    println!("$ trawl cluster {}\n{text}", args.join(" "));
    text
}

async fn held(client: &Client, leaf: &str) -> usize {
    replicas(client).await.iter().filter(|(holder, ..)| holder == leaf).count()
}

/// What cannot be is refused by name, and of several moves none is made then.
async fn refusals(client: &Client, gone_from: &str, holder: &str) {
    let reroute = async |commands: serde_json::Value| {
        let answer = client.post("/_cluster/reroute", json!({"commands": commands})).await;
        (answer.status, answer.body["error"]["reason"].as_str().unwrap_or_default().to_owned())
    };
    let to = |from: &str, to: &str| json!({"move": {"index": "spread", "shard": 0, "from_node": from, "to_node": to}});
    let (status, reason) = reroute(json!([to(holder, gone_from), to(gone_from, holder)])).await;
    assert!(status == 400 && reason.contains(&format!("{gone_from} does not hold it")), "{reason}");
    let (status, reason) = reroute(json!([to(holder, "leaf-9")])).await;
    assert!(status == 400 && reason.contains("there is no leaf [leaf-9]"), "{reason}");
    let (status, reason) = reroute(json!([{"allocate": {}}])).await;
    assert!(status == 400 && reason.contains("unknown command [allocate]"), "{reason}");
    let drain = client.try_send("PUT", "/_trawl/drain/leaf-9", None, &[]).await.unwrap();
    assert!(drain.status == 400 && drain.text.contains("there is no leaf [leaf-9]"), "{}", drain.text);
}

/// Every process is ended and started again, one after the other; the next one when all is green for every root.
async fn restart_all(cluster: &Cluster) {
    for process in cluster.processes() {
        cluster.signal(&process.name, Signal::SIGTERM);
        wait_until("the process is another one", async || {
            cluster.processes().iter().any(|now| now.name == process.name && now.pid != process.pid)
        })
        .await;
        for root in cluster.root_clients() {
            green(&root).await;
        }
    }
}

/// Two leaves and a shard: shard 0 can go from the first to the second, and the other shard the other way.
async fn exchange(client: &Client) -> (String, String, u64) {
    let replicas = replicas(client).await;
    let holds = |leaf: &str, shard: u64| replicas.iter().any(|(holder, number, ..)| holder == leaf && *number == shard);
    let leaves = ["leaf-0", "leaf-1", "leaf-2", "leaf-3"];
    let from = leaves.into_iter().find(|leaf| holds(leaf, 0)).unwrap();
    let to = leaves.into_iter().find(|leaf| !holds(leaf, 0)).unwrap();
    let back = (1..SHARDS as u64).find(|shard| holds(to, *shard) && !holds(from, *shard)).unwrap();
    (from.to_owned(), to.to_owned(), back)
}

/// Two leaves exchange replicas on request, and stay as even as they were.
async fn exchanged(client: &Client) {
    let (from, to, back) = exchange(client).await;
    let step = |shard: u64, from: &str, to: &str| json!({"move": {"index": "spread", "shard": shard, "from_node": from, "to_node": to}});
    let commands = json!({"commands": [step(0, &from, &to), step(back, &to, &from)]});
    let moved = client.post("/_cluster/reroute", commands).await;
    assert_eq!(moved.status, 200, "{}", moved.text);
    wait_until("the replicas have moved", async || {
        let now = replicas(client).await;
        let is_there =
            |leaf: &str, number: u64| now.iter().any(|(holder, shard, ..)| holder == leaf && *shard == number);
        let all_serve = now.len() == 2 * SHARDS && now.iter().all(|(_, _, state, _)| state == "serving");
        all_serve && is_there(&to, 0) && !is_there(&from, 0) && is_there(&from, back) && !is_there(&to, back)
    })
    .await;
    refusals(client, &from, &to).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_move_replica_count_and_rolling_restart_cost_no_request() {
    let cluster = Cluster::start(2, 4).await;
    let client = cluster.root_clients().remove(1);
    client.create_index("spread", SHARDS as u32, 1, json!({"properties": {"title": {"type": "text"}}})).await;
    client.bulk_index("spread", &documents(0..BEFORE), true).await;
    let load = Arc::new(Load::default());
    let mut streams = tokio::task::JoinSet::new();
    // With the addresses of both roots, this one first.
    let roots = Roots { all: Roots::of(&cluster).all.into_iter().rev().collect(), patience: PATIENCE };
    streams.spawn({
        let (load, roots) = (load.clone(), roots.clone());
        async move { load.search(roots).await }
    });
    streams.spawn({
        let (load, roots) = (load.clone(), roots.clone());
        async move { load.write(roots).await }
    });

    let drained = operate(&client, &["drain", "leaf-2"]).await;
    assert!(drained.contains("leaf-2 holds nothing any more"), "{drained}");
    assert_eq!(held(&client, "leaf-2").await, 0);
    assert!(operate(&client, &["status"]).await.contains("draining"));
    operate(&client, &["undrain", "leaf-2"]).await;
    wait_until("the leaf has its share again", async || {
        settled(&client).await.is_some_and(|held| held.len() == 4 && held.values().all(|replicas| *replicas == 2))
    })
    .await;

    let (from, to, _) = exchange(&client).await;
    // Leaves are uneven then, and one replica or another comes back at once.
    operate(&client, &["move", "spread", "0", &from, &to]).await;
    wait_until("the leaves are even again", async || {
        settled(&client).await.is_some_and(|held| held.values().all(|replicas| *replicas == 2))
            && client.get("/_cat/recovery?active_only=true&format=json").await.body == json!([])
    })
    .await;
    exchanged(&client).await;
    let master = client.get("/_cat/master?format=json&h=node,epoch").await;
    assert!(master.body[0]["node"].as_str().unwrap().starts_with("root-"), "{}", master.text);
    let recovery = client.get("/_cat/recovery/spread?format=json").await;
    assert!(recovery.body.as_array().unwrap().iter().any(|row| row["stage"] == "done"), "{}", recovery.text);
    assert_eq!(client.get("/_cat/recovery?active_only=true&format=json").await.body, json!([]));

    for copies in [2_usize, 1] {
        let set = client.put("/spread/_settings", json!({"index": {"number_of_replicas": copies}})).await;
        assert_eq!((set.status, &set.body["acknowledged"]), (200, &json!(true)), "{}", set.text);
        wait_until("there are as many replicas as asked for", async || {
            let replicas = replicas(&client).await;
            replicas.len() == SHARDS * (1 + copies) && replicas.iter().all(|(_, _, state, _)| state == "serving")
        })
        .await;
    }
    operate(&client, &["shards"]).await;

    restart_all(&cluster).await;
    load.stop.store(true, Ordering::Relaxed);
    streams.join_all().await;
    let (searches, writes) = (load.searches.load(Ordering::Relaxed), load.writes.load(Ordering::Relaxed));
    println!("{searches} searches, {writes} writes");
    assert!(searches > 100 && writes > 50);
    assert_eq!(*load.faults.lock().unwrap(), Vec::<String>::new());
    client.get("/spread/_refresh").await;
    let count = client.get("/spread/_count").await;
    assert_eq!(count.body["count"], load.documents.load(Ordering::Relaxed), "{}", count.text);
}
