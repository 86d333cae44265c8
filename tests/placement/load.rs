//! Steady searches and writes, and where replicas are meanwhile.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use serde_json::{Value, json};

use crate::harness::{Client, roots::Roots};

/// Shards of the index.
pub const SHARDS: usize = 4;
/// Documents before the load begins.
pub const BEFORE: usize = 3_000;

pub fn documents(range: std::ops::Range<usize>) -> Vec<(String, Value)> {
    range
        .map(|number| (format!("d{number}"), json!({"title": format!("boat number {number}"), "number": number})))
        .collect()
}

/// Searches and writes that go on until they are told to stop.
#[derive(Default)]
pub struct Load {
    pub stop: AtomicBool,
    pub searches: AtomicUsize,
    pub writes: AtomicUsize,
    pub documents: AtomicUsize,
    pub faults: std::sync::Mutex<Vec<String>>,
}

impl Load {
    fn fault(&self, fault: String) {
        eprintln!("{fault}");
        self.faults.lock().unwrap().push(fault);
    }

    /// What fails after a root was connected to is a fault.
    pub async fn search(&self, roots: Roots) {
        let body = json!({"query": {"match": {"title": "boat"}}, "size": 5, "track_total_hits": true}).to_string();
        while !self.stop.load(Ordering::Relaxed) {
            let answer = match roots.send("POST", "/spread/_search", body.as_bytes()).await {
                Ok(answer) => answer,
                Err(error) => {
                    self.fault(format!("search: {error:?}"));
                    continue;
                }
            };
            let found = answer.body["hits"]["total"]["value"].as_u64().unwrap_or(0);
            let is_whole = answer.body["_shards"]["failed"] == 0 && answer.body["timed_out"] == false;
            if answer.status != 200 || !is_whole || found < BEFORE as u64 {
                self.fault(format!("search: {}", answer.text));
            }
            self.searches.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn write(&self, roots: Roots) {
        let mut next = BEFORE;
        while !self.stop.load(Ordering::Relaxed) {
            let body = documents(next..next + 20).iter().fold(String::new(), |body, (id, source)| {
                body + &format!("{}\n{source}\n", json!({"index": {"_id": id}}))
            });
            match roots.send("POST", "/spread/_bulk", body.as_bytes()).await {
                Ok(answer) if answer.status == 200 && answer.body["errors"] == false => {}
                answer => self.fault(format!("write: {answer:?}")),
            }
            next += 20;
            self.writes.fetch_add(1, Ordering::Relaxed);
            self.documents.store(next, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
}

/// The replicas of the index as (leaf, shard, state, documents).
pub async fn replicas(client: &Client) -> Vec<(String, u64, String, u64)> {
    let Ok(answer) = client.try_send("GET", "/_trawl/cluster", None, &[]).await else { return Vec::new() };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let shards = answer.body["shards"].as_array().cloned().unwrap_or_default();
    let replica = |shard: &Value| {
        let documents = shard["documents"].as_u64().unwrap_or(0);
        (text(&shard["leaf"]), shard["shard"].as_u64().unwrap(), text(&shard["state"]), documents)
    };
    shards.iter().filter(|shard| shard["index"] == "spread").map(replica).collect()
}

/// How many replicas each leaf holds; `None` unless every shard has two, and all serve.
pub async fn settled(client: &Client) -> Option<BTreeMap<String, usize>> {
    let replicas = replicas(client).await;
    let all_serve = replicas.iter().all(|(_, _, state, _)| state == "serving");
    let mut held = BTreeMap::new();
    for (leaf, ..) in &replicas {
        *held.entry(leaf.clone()).or_default() += 1;
    }
    let of_shard = |number| replicas.iter().filter(|(_, shard, ..)| *shard == number).count();
    (all_serve && (0..SHARDS as u64).all(|number| of_shard(number) == 2)).then_some(held)
}
