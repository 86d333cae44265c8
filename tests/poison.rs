//! Documents that panic or hang whoever parses them: left out everywhere, kept as dead letters, and
//! everything else goes on.
#![allow(missing_docs, clippy::unwrap_used)]

mod harness;

use std::time::{Duration, Instant};

use harness::{Client, Cluster, wait_until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const FLAGS: [&str; 2] =
    ["--leaf-arg=--inject-poison=strychnine=panic,arsenic=hang,laudanum=panic-once", "--leaf-arg=--draft-time=1s"];

fn mappings() -> Value {
    json!({"properties": {"title": {"type": "text"}}})
}

/// A bulk of 100 documents, some of them poison.
fn bulk(poison: &[(usize, &str)]) -> Vec<u8> {
    let title = |number| poison.iter().find(|(at, _)| *at == number).map_or("harmless", |(_, title)| title);
    let line =
        |number| format!("{}\n{}\n", json!({"index": {"_id": format!("d{number}")}}), json!({"title": title(number)}));
    (0..100).map(line).collect::<String>().into_bytes()
}

/// How many documents each replica holds, asked one by one.
async fn on_replicas(cluster: &Cluster, index: &str) -> Vec<u64> {
    let state = cluster.client.get("/_trawl/cluster").await.body;
    let shards = state["shards"].as_array().unwrap().iter().filter(|shard| shard["index"] == index);
    let mut counts = Vec::new();
    for shard in shards {
        let leaf = shard["leaf"].as_str().unwrap();
        let path = format!("/{index}/_search?preference=_only_nodes:{leaf}&size=0&track_total_hits=true");
        let answer = cluster.client.get(&path).await;
        counts.push(answer.body["hits"]["total"]["value"].as_u64().unwrap_or_default());
    }
    counts
}

async fn letters(client: &Client) -> Vec<Value> {
    client.get("/_trawl/dead_letters").await.body["letters"].as_array().cloned().unwrap_or_default()
}

async fn searchable(client: &Client, index: &str) -> bool {
    let answer = client.get(&format!("/{index}/_search?size=0")).await;
    answer.status == 200 && answer.body["_shards"]["failed"] == 0
}

/// Everything but the poison is on both replicas, which serve; each poison is one letter, with this type.
async fn survived(cluster: &Cluster, index: &str, documents: u64, poison: &[&str]) {
    let client = &cluster.client;
    let refreshed = async || client.get(&format!("/{index}/_refresh")).await.body["_shards"]["failed"] == 0;
    wait_until("a refresh is confirmed", refreshed).await;
    cluster.green().await;
    assert_eq!(on_replicas(cluster, index).await, [documents; 2]);
    wait_until("the letters are there", async || letters(client).await.len() >= poison.len()).await;
    let list = letters(client).await;
    let mut found: Vec<_> = list.iter().map(|letter| letter["_id"].as_str().unwrap()).collect();
    found.sort_unstable();
    assert_eq!(found, poison, "{list:?}");
    for letter in &list {
        assert_eq!(letter["error"]["type"], "poison_exception", "{letter}");
    }
}

/// The outcome of each letter's operation can be asked for.
async fn outcomes_are_told(client: &Client) {
    for letter in letters(client).await {
        let at = ["index", "shard", "seq"].map(|key| letter[key].to_string().replace('"', "")).join("/");
        let outcome = client.get(&format!("/_trawl/operations/{at}")).await;
        assert!(outcome.text.contains("poison_exception"), "{at}: {}", outcome.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panicking_and_a_hanging_document_cost_nothing_but_themselves() {
    let cluster = Cluster::start_with(2, 3, &FLAGS).await;
    let client = cluster.client.clone();
    client.create_index("drinks", 1, 1, mappings()).await;
    client.create_index("other", 3, 1, mappings()).await;
    cluster.known_everywhere("other").await;

    let poison = [(20, "strychnine"), (50, "laudanum"), (70, "arsenic")];
    let write = {
        let client = client.clone();
        tokio::spawn(
            async move { client.try_send("POST", "/drinks/_bulk?timeout=60s", Some(bulk(&poison)), &[]).await },
        )
    };
    // Meanwhile the shard is searched, and others are written.
    let started = Instant::now();
    let mut writes = 0;
    while !write.is_finished() {
        assert!(searchable(&client, "drinks").await);
        let began = Instant::now();
        client.bulk_index("other", &[(format!("d{writes}"), json!({"title": "tea"}))], true).await;
        assert!(began.elapsed() < Duration::from_secs(5), "another shard waited for {:?}", began.elapsed());
        writes += 1;
        assert!(started.elapsed() < harness::PATIENCE);
    }
    let written = write.await.unwrap().unwrap();
    for (place, item) in written.body["items"].as_array().unwrap().iter().enumerate() {
        let expected: &[u64] = if [20, 70].contains(&place) { &[400, 202] } else { &[201, 202] };
        assert!(expected.contains(&item["index"]["status"].as_u64().unwrap()), "{place}: {item}");
    }
    survived(&cluster, "drinks", 98, &["d20", "d70"]).await;
    outcomes_are_told(&client).await;
    println!("{writes} writes of others while {:?} of poison", started.elapsed());

    // What was left out stays out when replicas open again; and writing goes on.
    cluster.signal("leaf-0", Signal::SIGKILL);
    cluster.signal("leaf-1", Signal::SIGKILL);
    cluster.signal("leaf-2", Signal::SIGKILL);
    wait_until("the shard is searched again", async || searchable(&client, "drinks").await).await;
    client.bulk_index("drinks", &[("water".to_owned(), json!({"title": "harmless"}))], false).await;
    survived(&cluster, "drinks", 99, &["d20", "d70"]).await;

    // A replay is poison again: one letter, under another id.
    let before = letters(&client).await;
    let id = &before.iter().find(|letter| letter["_id"] == "d20").unwrap()["id"];
    let replayed = client.post("/_trawl/dead_letters/_replay", json!({"ids": [id]})).await;
    assert_eq!(replayed.body["still_rejected"], 1, "{}", replayed.text);
    survived(&cluster, "drinks", 99, &["d20", "d70"]).await;
    assert!(letters(&client).await.iter().all(|letter| letter["id"] != *id));
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_is_skipped_also_when_the_leader_dies_over_it() {
    let cluster = Cluster::start_with(2, 3, &FLAGS).await;
    let client = cluster.client.clone();
    client.create_index("drinks", 1, 1, mappings()).await;
    cluster.known_everywhere("drinks").await;
    for (round, poison) in ["strychnine", "arsenic"].into_iter().enumerate() {
        let leader = client.get("/_trawl/cluster").await.body["leader"]["name"].as_str().unwrap().to_owned();
        let other = if leader == "root-0" { 1 } else { 0 };
        let survivor = cluster.root_clients().remove(other);
        let write = tokio::spawn(async move {
            let body = Some(bulk(&[(10 + round, poison)]));
            survivor.try_send("POST", "/drinks/_bulk", body, &[]).await.unwrap()
        });
        tokio::time::sleep(Duration::from_millis(500 * round as u64)).await;
        cluster.signal(&leader, Signal::SIGKILL);
        let written = write.await.unwrap();
        assert_eq!(written.status, 200, "{}", written.text);
        wait_until("there is a leader", async || {
            cluster
                .client
                .try_send("GET", "/_trawl/cluster", None, &[])
                .await
                .is_ok_and(|answer| !answer.body["leader"].is_null())
        })
        .await;
        let expected: &[&str] = if round == 0 { &["d10"] } else { &["d10", "d11"] };
        // The second round writes d10 again, harmless, over the one that was left out.
        survived(&cluster, "drinks", if round == 0 { 99 } else { 99 + 1 }, expected).await;
    }
    outcomes_are_told(&client).await;
}
