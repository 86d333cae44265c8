//! Processes killed with SIGKILL while documents are loaded and searched, through the real binary.
#![allow(missing_docs, clippy::unwrap_used)]

mod harness;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use harness::{Client, Cluster, wait_until};
use nix::sys::signal::Signal;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

fn mappings() -> Value {
    json!({"properties": {"title": {"type": "text"}, "number": {"type": "long"}}})
}

fn documents(range: std::ops::Range<usize>) -> Vec<(String, Value)> {
    range
        .map(|number| (format!("d{number}"), json!({"title": format!("boat number {number}"), "number": number})))
        .collect()
}

/// What a stream of searches came to.
#[derive(Default)]
struct Counts {
    complete: AtomicUsize,
    partial: AtomicUsize,
    failed: AtomicUsize,
}

/// Searches in a loop on every client until told to stop; every answer has to have all documents,
/// or to say what is missing.
async fn search_stream(clients: Vec<Client>, index: &str, documents: usize, stop: Arc<AtomicBool>) -> Arc<Counts> {
    let counts = Arc::new(Counts::default());
    let mut tasks = tokio::task::JoinSet::new();
    for client in clients {
        let (counts, stop, path) = (counts.clone(), stop.clone(), format!("/{index}/_search"));
        tasks.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let body = json!({"query": {"match": {"title": "boat"}}, "size": 5, "track_total_hits": true});
                let answer = client.post(&path, body).await;
                if answer.status != 200 {
                    eprintln!("failed: {}", answer.text);
                    counts.failed.fetch_add(1, Ordering::Relaxed);
                } else if answer.body["_shards"]["failed"] != 0 || answer.body["timed_out"] == true {
                    assert!(
                        answer.body["_shards"]["failures"].as_array().is_some_and(|list| !list.is_empty()),
                        "{}",
                        answer.text
                    );
                    eprintln!("partial: {}", answer.text);
                    counts.partial.fetch_add(1, Ordering::Relaxed);
                } else {
                    assert_eq!(answer.body["hits"]["total"]["value"], documents, "complete but short: {}", answer.text);
                    counts.complete.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    tasks.join_all().await;
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leaf_costs_no_search_while_its_shards_have_other_replicas() {
    let cluster = Cluster::start(2, 4).await;
    cluster.client.create_index("safe", 4, 1, mappings()).await;
    cluster.client.bulk_index("safe", &documents(0..2_000), true).await;
    cluster.green().await;

    let stop = Arc::new(AtomicBool::new(false));
    let stream = tokio::spawn({
        let (clients, stop) = (cluster.root_clients(), stop.clone());
        async move { search_stream(clients, "safe", 2_000, stop).await }
    });
    for round in 0..3 {
        for leaf in ["leaf-0", "leaf-2"] {
            let pid = cluster.process(leaf).pid;
            cluster.signal(leaf, Signal::SIGKILL);
            wait_until("the leaf is running again", || async { cluster.process(leaf).pid != pid }).await;
            cluster.green().await;
            println!("round {round}: {leaf} killed and back");
        }
    }
    stop.store(true, Ordering::Relaxed);
    let counts = stream.await.unwrap();
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    println!(
        "searches: {} complete, {} partial, {} failed",
        count(&counts.complete),
        count(&counts.partial),
        count(&counts.failed)
    );
    assert!(count(&counts.complete) > 50);
    assert_eq!((count(&counts.partial), count(&counts.failed)), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_another_replica_answers_are_partial_and_say_so_until_the_leaf_has_caught_up() {
    let cluster = Cluster::start(1, 2).await;
    let client = &cluster.client;
    client.create_index("thin", 2, 0, mappings()).await;
    client.bulk_index("thin", &documents(0..500), true).await;
    let victim = "leaf-1";
    // A stopped supervisor does not restart the leaf, so that the gap lasts as long as is needed.
    let up = nix::unistd::Pid::from_raw(cluster.up_pid());
    nix::sys::signal::kill(up, Signal::SIGSTOP).unwrap();
    cluster.signal(victim, Signal::SIGKILL);

    let search = json!({"query": {"match_all": {}}, "track_total_hits": true, "size": 1});
    let answer = client.search("thin", search.clone()).await;
    assert_eq!(answer["_shards"]["total"], 2);
    assert_eq!(answer["_shards"]["failed"], 1, "{answer}");
    assert!(
        answer["_shards"]["failures"][0]["reason"]["reason"].as_str().is_some_and(|reason| !reason.is_empty()),
        "{answer}"
    );
    assert_eq!(client.get("/_cluster/health").await.body["status"], "red");
    // Acknowledged while the leaf is away: it has to be there when the leaf is back.
    let body = documents(500..600)
        .iter()
        .fold(String::new(), |body, (id, source)| body + &format!("{}\n{source}\n", json!({"index": {"_id": id}})));
    let bulk = client.try_send("POST", "/thin/_bulk?timeout=1s", Some(body.into_bytes()), &[]).await.unwrap();
    assert_eq!(bulk.status, 200, "{}", bulk.text);
    assert_eq!(bulk.body["errors"], false, "{}", bulk.text);
    let accepted = bulk.body["items"].as_array().unwrap().iter().filter(|item| item["index"]["status"] == 202).count();
    assert!(accepted > 0, "the lost leaf's operations are accepted, not decided: {}", bulk.text);

    nix::sys::signal::kill(up, Signal::SIGCONT).unwrap();
    cluster.green().await;
    client.get("/thin/_refresh").await;
    let answer = client.search("thin", search).await;
    assert_eq!(answer["_shards"]["failed"], 0);
    assert_eq!(answer["hits"]["total"]["value"], 600);
}

/// Sends bulks until it is told to stop; remembers what was acknowledged.
async fn load(client: Client, from: usize, stop: Arc<AtomicBool>) -> (BTreeSet<usize>, usize) {
    let (mut acknowledged, mut next) = (BTreeSet::new(), from);
    while !stop.load(Ordering::Relaxed) {
        let batch = documents(next..next + 50);
        let body = batch
            .iter()
            .fold(String::new(), |body, (id, source)| body + &format!("{}\n{source}\n", json!({"index": {"_id": id}})));
        let Ok(answer) = client.try_send("POST", "/log/_bulk", Some(body.into_bytes()), &[]).await else { break };
        if answer.status != 200 {
            break;
        }
        for (place, item) in answer.body["items"].as_array().unwrap().iter().enumerate() {
            if item["index"]["status"].as_u64().is_some_and(|status| status < 300) {
                acknowledged.insert(next + place);
            }
        }
        next += 50;
    }
    (acknowledged, next)
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_everything_in_the_middle_of_a_load_loses_and_doubles_nothing() {
    let seed: u64 = std::env::var("TRAWL_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(11);
    println!("seed {seed} (TRAWL_TEST_SEED)");
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start(2, 4).await;
    cluster.client.create_index("log", 4, 1, mappings()).await;
    let mut acknowledged = BTreeSet::new();
    let mut next = 0;
    for round in 0..3 {
        let stop = Arc::new(AtomicBool::new(false));
        let loader = tokio::spawn(load(cluster.client.clone(), next, stop.clone()));
        tokio::time::sleep(Duration::from_millis(random.random_range(300..1500))).await;
        cluster.kill_everything().await;
        stop.store(true, Ordering::Relaxed);
        let (more, end) = loader.await.unwrap();
        println!("round {round}: {} acknowledged", more.len());
        acknowledged.extend(more);
        next = end + 50;
        cluster.up().await;
    }
    // Finish the load: everything again, as a loader that starts over would.
    for batch in documents(0..next).chunks(500) {
        cluster.client.bulk_index("log", batch, false).await;
    }
    cluster.green().await;
    let refreshed = cluster.client.get("/log/_refresh").await;
    assert_eq!(refreshed.body["_shards"]["failed"], 0, "{}", refreshed.text);
    assert!(acknowledged.len() > 100, "only {} acknowledged", acknowledged.len());
    for leaf in ["leaf-0", "leaf-1", "leaf-2", "leaf-3"] {
        let found = all_numbers(&cluster.client, leaf).await;
        assert_eq!(found.len(), next, "documents found, preferring {leaf}");
        assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "every document once");
    }
    println!("{} acknowledged, {next} loaded and found once on every replica", acknowledged.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_before_everything_was_killed_is_there_without_loading_again() {
    let mut cluster = Cluster::start(1, 3).await;
    cluster.client.create_index("log", 3, 1, mappings()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let loader = tokio::spawn(load(cluster.client.clone(), 0, stop.clone()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.kill_everything().await;
    stop.store(true, Ordering::Relaxed);
    let (acknowledged, _) = loader.await.unwrap();
    cluster.up().await;
    cluster.green().await;
    cluster.client.get("/log/_refresh").await;
    for leaf in ["leaf-0", "leaf-1", "leaf-2"] {
        let found: BTreeSet<usize> = all_numbers(&cluster.client, leaf).await.into_iter().collect();
        assert!(acknowledged.is_subset(&found), "{} acknowledged, {} found on {leaf}", acknowledged.len(), found.len());
    }
    println!("{} acknowledged and found", acknowledged.len());
}

/// All `number` values of the index in order, preferring one leaf's replicas.
async fn all_numbers(client: &Client, leaf: &str) -> Vec<usize> {
    let (mut found, mut after) = (Vec::new(), Value::Null);
    loop {
        let mut body = json!({"size": 1000, "sort": [{"number": "asc"}, "_doc"]});
        if !after.is_null() {
            body["search_after"] = after;
        }
        let answer = client.post(&format!("/log/_search?preference=_prefer_nodes:{leaf}"), body).await;
        assert_eq!(answer.body["_shards"]["failed"], 0, "{}", answer.text);
        let hits = answer.body["hits"]["hits"].as_array().unwrap().clone();
        let Some(last) = hits.last() else { return found };
        after = last["sort"].clone();
        found.extend(hits.iter().map(|hit| hit["_source"]["number"].as_u64().unwrap() as usize));
    }
}
