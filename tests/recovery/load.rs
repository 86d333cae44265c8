//! The samples, searches over them whose right answers are known, and where replicas are meanwhile.

use std::{
    io::Read,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::{Client, Cluster, wait_until};

/// How many samples there are.
pub const DOCUMENTS: u64 = 4_000;

/// Indexes the samples as `catches`.
pub async fn load_samples(client: &Client, shards: u32, replicas: u32) {
    let samples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("data/samples");
    let mapping: Value = serde_json::from_str(&std::fs::read_to_string(samples.join("mapping.json")).unwrap()).unwrap();
    let mappings = mapping.get("mappings").cloned().unwrap_or(mapping);
    client.create_index("catches", shards, replicas, mappings).await;
    let mut text = String::new();
    let file = std::fs::File::open(samples.join("catches.ndjson.gz")).unwrap();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    let documents: Vec<(String, Value)> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|document| (document["id"].as_str().unwrap().to_owned(), document))
        .collect();
    for documents in documents.chunks(500) {
        client.bulk_index("catches", documents, true).await;
    }
    let found = client.search("catches", json!({"track_total_hits": true})).await;
    assert_eq!(found["hits"]["total"]["value"], DOCUMENTS, "{found}");
}

/// Documents of an index whose log has been trimmed.
pub const TRIMMED: u64 = 12_000;

/// One shard with two replicas, and so many documents that its log does not reach back any more.
pub async fn load_until_trimmed(client: &Client) {
    let mappings = json!({"properties": {"n": {"type": "long"}, "text": {"type": "text"}}});
    client.create_index("catches", 1, 1, mappings).await;
    let mut random = StdRng::seed_from_u64(4);
    let mut text = || (0..30).map(|_| format!("{:x}", random.random::<u32>())).collect::<Vec<_>>().join(" ");
    let documents: Vec<_> = (0..TRIMMED).map(|n| (format!("d{n}"), json!({"n": n, "text": text()}))).collect();
    for documents in documents.chunks(1_000) {
        client.bulk_index("catches", documents, true).await;
    }
    let trimmed = async || {
        let logs = client.get("/_trawl/cluster").await.body["logs"].clone();
        logs[0]["operations"].as_u64().is_some_and(|operations| operations < TRIMMED)
    };
    wait_until("the log is trimmed", trimmed).await;
}

/// Searches that read every part of an index.
fn bodies() -> Vec<Value> {
    let words = ["cuttlefish", "mast", "song", "harbour", "net", "storm", "silver", "lantern", "old", "captain"];
    let mut bodies = Vec::new();
    for (number, word) in words.iter().enumerate() {
        let other = words[(number + 3) % words.len()];
        for query in [
            json!({"match": {"body": format!("{word} {other}")}}),
            json!({"match_phrase": {"body": format!("a {word}")}}),
            json!({"bool": {"must": [{"match": {"body": word}}], "must_not": [{"match": {"body": other}}]}}),
            json!({"prefix": {"body": &word[..2]}}),
        ] {
            bodies.push(json!({"query": query, "size": 20, "track_total_hits": true}));
        }
    }
    let everything = json!({"match_all": {}});
    for from in [0, 900, 3_000] {
        bodies.push(json!({"query": everything, "size": 100, "from": from, "sort": [{"price": "asc"}]}));
        bodies.push(json!({"query": everything, "size": 100, "from": from, "sort": [{"recorded": "desc"}]}));
    }
    bodies.push(json!({"size": 0, "track_total_hits": true, "aggs": {
        "categories": {"terms": {"field": "category", "size": 50}},
        "prices": {"stats": {"field": "price"}},
    }}));
    bodies
}

/// What has to stay the same in an answer.
fn essence(answer: &Value) -> Value {
    json!({"hits": answer["hits"], "aggregations": answer["aggregations"]})
}

/// Searches that go on until they are told to stop.
pub struct Load {
    expected: Vec<(Value, Value)>,
    stop: AtomicBool,
    searches: AtomicUsize,
}

impl Load {
    /// Asks each search once, for the right answer.
    pub async fn of(client: &Client) -> Arc<Self> {
        let mut expected = Vec::new();
        for body in bodies() {
            let answer = client.search("catches", body.clone()).await;
            assert_eq!(answer["_shards"]["failed"], 0, "{answer}");
            expected.push((body, essence(&answer)));
        }
        let found = |answer: &Value| answer["hits"]["total"]["value"].as_u64().unwrap_or(0) > 0;
        assert!(expected.iter().filter(|(_, answer)| found(answer)).count() > 30, "the searches find too little");
        Arc::new(Self { expected, stop: AtomicBool::new(false), searches: AtomicUsize::new(0) })
    }

    /// Asks all of them again and again, at every root.
    pub fn start(self: &Arc<Self>, cluster: &Cluster) -> JoinSet<()> {
        let mut searching = JoinSet::new();
        for (number, client) in cluster.root_clients().into_iter().cycle().take(4).enumerate() {
            let load = self.clone();
            searching.spawn(async move {
                for (body, expected) in load.expected.iter().cycle().skip(number * 11) {
                    if load.stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let answer = client.post("/catches/_search", body.clone()).await;
                    assert_eq!((answer.status, &answer.body["_shards"]["failed"]), (200, &json!(0)), "{}", answer.text);
                    assert_eq!(answer.body["timed_out"], false, "{}", answer.text);
                    assert_eq!(&essence(&answer.body), expected, "{body}");
                    load.searches.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        searching
    }

    /// How many have been answered, all of them rightly.
    pub fn searches(&self) -> usize {
        self.searches.load(Ordering::Relaxed)
    }

    /// Ends them; fails when one was answered wrongly, or not at all.
    pub async fn stop(&self, searching: JoinSet<()>) {
        self.stop.store(true, Ordering::Relaxed);
        searching.join_all().await;
        println!("{} searches, all answered in full and rightly", self.searches());
        assert!(self.searches() > 200);
    }
}

/// One replica as the cluster shows it.
#[derive(Debug)]
pub struct Replica {
    pub leaf: String,
    pub shard: u64,
    pub state: String,
    pub documents: u64,
}

/// The replicas of `catches` that are on a leaf.
pub async fn replicas(client: &Client) -> Vec<Replica> {
    let answer = client.get("/_trawl/cluster").await;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let shards = answer.body["shards"].as_array().cloned().unwrap_or_default();
    let of_index = shards.iter().filter(|shard| shard["index"] == "catches" && shard["leaf"].is_string());
    of_index
        .map(|shard| Replica {
            leaf: text(&shard["leaf"]),
            shard: shard["shard"].as_u64().unwrap(),
            state: text(&shard["state"]),
            documents: shard["documents"].as_u64().unwrap_or(0),
        })
        .collect()
}
