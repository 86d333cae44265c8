//! A client that changes documents by bulks with an `Idempotency-Key`, each sent until it is answered, and
//! knows what every answer and every document has to be.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::harness::Client;

/// Ids of one producer.
const IDS: usize = 60;
const BATCH: usize = 20;

/// What a document has to be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expected {
    /// Its source; `None` when it is deleted or was never there.
    pub source: Option<Value>,
    /// How often it was changed since it was first created; not known once it was deleted, for versions
    /// of deleted documents are forgotten after a while.
    pub version: Option<u64>,
}

pub struct Written {
    pub expected: BTreeMap<String, Expected>,
    pub batches: usize,
    pub retries: usize,
}

pub struct Producer {
    number: usize,
    random: StdRng,
    clients: Vec<Client>,
    expected: BTreeMap<String, Expected>,
    step: u64,
    retries: usize,
}

pub fn mappings() -> Value {
    json!({"properties": {"text": {"type": "text"}, "step": {"type": "long"}, "chaos_n": {"type": "long"}}})
}

impl Producer {
    pub fn new(number: usize, seed: u64, clients: Vec<Client>) -> Self {
        let random = StdRng::seed_from_u64(seed ^ ((number as u64 + 1) << 32));
        Self { number, random, clients, expected: BTreeMap::new(), step: 0, retries: 0 }
    }

    /// Writes until it is told to stop.
    pub async fn run(mut self, stop: Arc<AtomicBool>) -> Written {
        let mut batches = 0;
        while !stop.load(Ordering::Relaxed) {
            let (body, results) = self.batch();
            let key = format!("chaos-{}-{batches}", self.number);
            let answer = self.send(&body, &key).await;
            check(&answer, &results);
            batches += 1;
            tokio::time::sleep(Duration::from_millis(self.random.random_range(5..40))).await;
        }
        Written { expected: self.expected, batches, retries: self.retries }
    }

    /// Random changes of own documents, and what each has to come to.
    fn batch(&mut self) -> (String, Vec<&'static str>) {
        let (mut body, mut results) = (String::new(), Vec::new());
        for _ in 0..BATCH {
            self.step += 1;
            let at = self.random.random_range(0..IDS);
            let id = format!("p{}-{at}", self.number);
            let entry = self.expected.entry(id.clone()).or_insert(Expected { source: None, version: Some(0) });
            match self.random.random_range(0..10) {
                0 => {
                    body += &format!("{}\n", json!({"delete": {"_id": id}}));
                    results.push(if entry.source.is_some() { "deleted" } else { "not_found" });
                    // Deleting what is not there counts as a change too, and is forgotten after a while.
                    (entry.source, entry.version) = (None, None);
                }
                1..4 => {
                    let place = self.number * IDS + at;
                    let change = json!({"doc": {"step": self.step, "chaos_n": place}, "doc_as_upsert": true});
                    body += &format!("{}\n{change}\n", json!({"update": {"_id": id}}));
                    results.push(if entry.source.is_some() { "updated" } else { "created" });
                    let source = entry.source.get_or_insert_with(|| json!({}));
                    source["step"] = json!(self.step);
                    source["chaos_n"] = json!(place);
                    entry.version = entry.version.map(|version| version + 1);
                }
                _ => {
                    let text = format!("change {} of {id}", self.step);
                    let source = json!({"text": text, "step": self.step, "chaos_n": self.number * IDS + at});
                    body += &format!("{}\n{source}\n", json!({"index": {"_id": id}}));
                    results.push(if entry.source.is_some() { "updated" } else { "created" });
                    entry.source = Some(source);
                    entry.version = entry.version.map(|version| version + 1);
                }
            }
        }
        (body, results)
    }

    /// Sends the bulk, to any root, until it is answered as a whole.
    async fn send(&mut self, body: &str, key: &str) -> Value {
        let began = Instant::now();
        loop {
            let client = &self.clients[self.random.random_range(0..self.clients.len())];
            let headers = [("Idempotency-Key", key)];
            let sent = client.try_send("POST", "/written/_bulk", Some(body.as_bytes().to_vec()), &headers).await;
            let reason = match sent {
                Ok(answer) if answer.status == 200 => {
                    let items = answer.body["items"].as_array().cloned().unwrap_or_default();
                    let refused = |item: &Value| item_of(item)["status"].as_u64().is_none_or(|s| s == 429 || s >= 500);
                    if items.len() == BATCH && !items.iter().any(refused) {
                        return answer.body;
                    }
                    answer.text
                }
                Ok(answer) => answer.text,
                Err(error) => error.to_string(),
            };
            assert!(began.elapsed() < Duration::from_secs(120), "{key} is never taken: {reason}");
            self.retries += 1;
            tokio::time::sleep(Duration::from_millis(self.random.random_range(20..200))).await;
        }
    }
}

fn item_of(item: &Value) -> &Value {
    item.as_object().and_then(|item| item.values().next()).unwrap_or(&Value::Null)
}

/// Every outcome that is known has to be the one that the changes before it give.
fn check(answer: &Value, results: &[&str]) {
    for (item, expected) in answer["items"].as_array().unwrap().iter().zip(results) {
        let item = item_of(item);
        if item["status"] != 202 {
            assert_eq!(item["result"], *expected, "{item}");
        }
    }
}
