//! Every process of a cluster is upgraded, one after the other, under steady searches (with and without aggregations)
//! and writes: none fails, none is partial, everything written is found. Some go back meanwhile, and too much older or
//! newer ones are refused.
//!
//! The version before speaks protocol 1 and lacks what 2 brought: this program with `--speak-protocol 1`. The program of
//! an earlier build takes its place with `TRAWL_TEST_PREVIOUS=PATH`.
#![allow(missing_docs, clippy::unwrap_used)]

mod fleet;
#[path = "../harness/mod.rs"]
mod harness;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use fleet::{Fleet, Version};
use harness::{Answer, Client, wait_until};
use nix::{sys::signal::Signal, unistd::Pid};
use serde_json::{Value, json};

/// Documents before the upgrade begins.
const BEFORE: usize = 2_000;
const KINDS: usize = 7;

fn bulk(range: std::ops::Range<usize>) -> String {
    range.fold(String::new(), |body, number| {
        let source =
            json!({"title": format!("boat {number}"), "kind": format!("k{}", number % KINDS), "number": number});
        body + &format!("{}\n{source}\n", json!({"index": {"_id": format!("d{number}")}}))
    })
}

/// What goes on meanwhile.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    searches: AtomicUsize,
    aggregations: AtomicUsize,
    writes: AtomicUsize,
    documents: AtomicUsize,
    /// Requests that got no answer from a root that was ending, and one from the next.
    elsewhere: AtomicUsize,
    faults: Mutex<Vec<String>>,
}

impl Load {
    /// Asks one root after the other until one answers, as a client with several addresses does.
    async fn ask(&self, roots: &[Client], path: &str, body: &str) -> Answer {
        for root in roots.iter().cycle().take(roots.len() * 100) {
            match root.try_send("POST", path, Some(body.as_bytes().to_vec()), &[]).await {
                Ok(answer) => return answer,
                Err(_) => self.elsewhere.fetch_add(1, Ordering::Relaxed),
            };
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no root answers");
    }

    fn fault(&self, what: &str, text: &str) {
        eprintln!("{what}: {text}");
        self.faults.lock().unwrap().push(format!("{what}: {text}"));
    }

    async fn search(&self, mut roots: Vec<Client>, with_aggregations: bool) {
        let mut body = json!({"query": {"match": {"title": "boat"}}, "size": 3, "track_total_hits": true});
        if with_aggregations {
            body["aggs"] = json!({
                "kinds": {"terms": {"field": "kind", "size": 100}, "aggs": {"n": {"avg": {"field": "number"}}}},
                "numbers": {"stats": {"field": "number"}},
                "hundreds": {"histogram": {"field": "number", "interval": 100}},
                "distinct": {"cardinality": {"field": "kind"}},
            });
        }
        while !self.stop.load(Ordering::Relaxed) {
            roots.rotate_left(1);
            let answer = self.ask(&roots, "/boats/_search", &body.to_string()).await;
            let found = answer.body["hits"]["total"]["value"].as_u64().unwrap_or(0);
            let is_whole = answer.body["_shards"]["failed"] == 0 && answer.body["timed_out"] == false;
            let sum = |name: &str| {
                let buckets = answer.body["aggregations"][name]["buckets"].as_array();
                buckets.into_iter().flatten().filter_map(|bucket| bucket["doc_count"].as_u64()).sum::<u64>()
            };
            let is_summed = !with_aggregations
                || (sum("kinds") == found
                    && sum("hundreds") == found
                    && answer.body["aggregations"]["numbers"]["count"] == found
                    && answer.body["aggregations"]["distinct"]["value"] == KINDS);
            if answer.status != 200 || !is_whole || found < BEFORE as u64 || !is_summed {
                self.fault("search", &answer.text);
            }
            let count = if with_aggregations { &self.aggregations } else { &self.searches };
            count.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn write(&self, mut roots: Vec<Client>) {
        let mut next = BEFORE;
        while !self.stop.load(Ordering::Relaxed) {
            roots.rotate_left(1);
            let answer = self.ask(&roots, "/boats/_bulk", &bulk(next..next + 10)).await;
            if answer.status != 200 || answer.body["errors"] != false {
                self.fault("write", &answer.text);
            }
            next += 10;
            self.writes.fetch_add(1, Ordering::Relaxed);
            self.documents.store(next, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The protocols that the cluster and its nodes say they speak.
fn protocols(status: &Value) -> (u64, Vec<u64>) {
    let nodes = ["roots", "leaves"].map(|key| status[key].as_array().cloned().unwrap_or_default()).concat();
    let live = nodes.iter().filter(|node| node["alive"] == true);
    (status["protocol"].as_u64().unwrap_or(1), live.map(|node| node["protocol"].as_u64().unwrap_or(1)).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_upgraded_process_by_process_and_costs_no_request() {
    let mut fleet = Fleet::start(2, 2);
    let clients = fleet.clients();
    wait_until("the roots answer", async || {
        fleet.status().await["leaves"].as_array().is_some_and(|all| all.len() == 2)
    })
    .await;
    let mapping = json!({"properties": {
        "title": {"type": "text"}, "kind": {"type": "keyword"}, "number": {"type": "long"}
    }});
    clients[0].create_index("boats", 3, 1, mapping).await;
    clients[0].bulk("boats", bulk(0..BEFORE), true).await;
    wait_until("both roots are there", async || clients[1].try_send("HEAD", "/boats", None, &[]).await.is_ok()).await;
    assert_eq!(protocols(&fleet.status().await).0, 1);

    // Two versions off, in both directions.
    let stranger = fleet.node("leaf", "leaf-9");
    let words = fleet.refused(&stranger, Version::Speaking(0)).await;
    assert!(words.contains("speaks the protocols 0 to 0, but the cluster works by protocol 1"), "{words}");
    assert_eq!(words.matches("this program").count(), 1, "{words}");
    let words = fleet.refused(&fleet.node("root", "root-9"), Version::Speaking(3)).await;
    assert!(words.contains("speaks the protocols 2 to 3, but the cluster still works by protocol 1"), "{words}");
    assert!(words.contains("First upgrade every node to a version that speaks 1 and 2"), "{words}");

    let load = Arc::new(Load::default());
    let mut streams = tokio::task::JoinSet::new();
    for with_aggregations in [false, true, true] {
        let (load, clients) = (load.clone(), clients.clone());
        streams.spawn(async move { load.search(clients, with_aggregations).await });
    }
    streams.spawn({
        let (load, clients) = (load.clone(), clients.clone());
        async move { load.write(clients).await }
    });

    // Everything forward, then a leaf and a root back: nothing is final before it is.
    for name in ["leaf-0", "root-0", "leaf-1", "root-1"] {
        fleet.roll(name, Version::Current).await;
    }
    assert_eq!(protocols(&fleet.status().await), (1, vec![2; 4]));
    for name in ["leaf-0", "root-0"] {
        fleet.roll(name, Version::Previous).await;
    }
    assert_eq!(protocols(&fleet.status().await).0, 1);

    // A root of the version before sleeps through the end of the upgrade.
    let sleeper = fleet.spawn_heard(&fleet.node("root", "root-2"), Version::Speaking(1));
    wait_until("the third root is there", async || protocols(&fleet.status().await).1.len() == 5).await;
    let pid = Pid::from_raw(sleeper.id() as i32);
    nix::sys::signal::kill(pid, Signal::SIGSTOP).unwrap();
    fleet.upgrade_after = "100ms";
    for name in ["leaf-0", "root-0", "root-1"] {
        fleet.roll(name, Version::Current).await;
    }
    wait_until("the protocol is raised", async || protocols(&fleet.status().await).0 == 2).await;
    nix::sys::signal::kill(pid, Signal::SIGCONT).unwrap();
    let words = Fleet::last_words(sleeper).await;
    assert!(words.contains("but the cluster works by protocol 2: it has been upgraded"), "{words}");

    // From now on the version before is refused, and the present one is not.
    fleet.stop("leaf-1").await;
    let leaf = fleet.nodes.iter().find(|node| node.name == "leaf-1").unwrap().clone();
    let words = fleet.refused(&leaf, Version::Speaking(1)).await;
    assert!(words.contains("speaks the protocols 0 to 1, but the cluster works by protocol 2"), "{words}");
    fleet.run("leaf-1", Version::Current);
    wait_until("everything is green", async || fleet.is_green().await).await;

    load.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = streams.join_next().await {
        ended.unwrap();
    }
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    println!(
        "{} searches, {} with aggregations, {} writes ({} documents), {} requests had to go to another root",
        count(&load.searches),
        count(&load.aggregations),
        count(&load.writes),
        count(&load.documents),
        count(&load.elsewhere)
    );
    assert_eq!(*load.faults.lock().unwrap(), Vec::<String>::new());
    // Each leaf holds everything.
    let refreshed = clients[0].send("POST", "/boats/_refresh", None).await;
    assert!(refreshed.status == 200 && refreshed.body["_shards"]["failed"] == 0, "{}", refreshed.text);
    for leaf in ["leaf-0", "leaf-1"] {
        let path = format!("/boats/_search?size=0&track_total_hits=true&preference=_only_nodes:{leaf}");
        let found = clients[1].get(&path).await;
        assert_eq!(found.body["hits"]["total"]["value"], count(&load.documents), "{leaf}: {}", found.text);
    }
}
