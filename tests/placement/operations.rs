//! What an operator does to a living cluster, with the commands that an operator has.

use std::{
    process::Command,
    sync::{Arc, atomic::Ordering},
};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{Client, Cluster, TRAWL, wait_until};
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

/// The client's root stays; everything else is ended and started again, one after the other.
async fn restart_all_but(cluster: &Cluster, client: &Client, root: &str) {
    for process in cluster.processes().into_iter().filter(|process| process.name != root) {
        cluster.signal(&process.name, Signal::SIGTERM);
        wait_until("the process is another one and all is green", async || {
            let restarted = cluster.processes().iter().any(|now| now.name == process.name && now.pid != process.pid);
            restarted && client.get("/_cluster/health").await.body["status"] == "green"
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_move_replica_count_and_rolling_restart_cost_no_request() {
    let cluster = Cluster::start(2, 4).await;
    let client = cluster.root_clients().remove(1);
    client.create_index("spread", SHARDS as u32, 1, json!({"properties": {"title": {"type": "text"}}})).await;
    client.bulk_index("spread", &documents(0..BEFORE), true).await;
    let load = Arc::new(Load::default());
    let mut streams = tokio::task::JoinSet::new();
    streams.spawn({
        let (load, client) = (load.clone(), client.clone());
        async move { load.search(client).await }
    });
    streams.spawn({
        let (load, client) = (load.clone(), client.clone());
        async move { load.write(client).await }
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

    // To a leaf that does not hold the shard, from one that does.
    let before = replicas(&client).await;
    let holders: Vec<&str> =
        before.iter().filter(|(_, shard, ..)| *shard == 0).map(|(leaf, ..)| leaf.as_str()).collect();
    let to = ["leaf-0", "leaf-1", "leaf-2", "leaf-3"].into_iter().find(|leaf| !holders.contains(leaf)).unwrap();
    operate(&client, &["move", "spread", "0", holders[0], to]).await;
    wait_until("the replica has moved", async || {
        let now = replicas(&client).await;
        now.iter().any(|(leaf, shard, state, _)| leaf == to && *shard == 0 && state == "serving")
            && !now.iter().any(|(leaf, shard, ..)| leaf == holders[0] && *shard == 0)
    })
    .await;

    refusals(&client, holders[0], to).await;
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

    restart_all_but(&cluster, &client, "root-1").await;
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
