//! A stream of writes to one root that goes on until it is stopped, and whatever was acknowledged of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;

use super::Client;

/// Pause between two writes.
const PAUSE: Duration = Duration::from_millis(20);

/// One document written.
#[derive(Clone, Debug)]
pub struct Write {
    pub id: String,
    pub began: Instant,
    pub took: Duration,
    /// 0 where there was no answer.
    pub status: u16,
}

impl Write {
    pub fn is_acknowledged(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Writes one document after the other, each under an id of its own.
pub struct Writes {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<Vec<Write>>,
}

impl Writes {
    pub fn start(root: Client, index: &str, name: &str) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let counter = acknowledged.clone();
        let (stopped, index, name) = (stop.clone(), index.to_owned(), name.to_owned());
        let task = tokio::spawn(async move {
            let mut writes = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let (id, began) = (format!("{name}-{}", writes.len()), Instant::now());
                let body = json!({"title": format!("boat {id}")}).to_string().into_bytes();
                let path = format!("/{index}/_doc/{id}?timeout=1s");
                let status = root.try_send("PUT", &path, Some(body), &[]).await.map_or(0, |answer| answer.status);
                let write = Write { id, began, took: began.elapsed(), status };
                counter.fetch_add(usize::from(write.is_acknowledged()), Ordering::Relaxed);
                writes.push(write);
                tokio::time::sleep(PAUSE).await;
            }
            writes
        });
        Self { stop, acknowledged, task }
    }

    /// How many were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    pub async fn stop(self) -> Vec<Write> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

/// How many of the acknowledged writes are there.
pub async fn found(root: &Client, index: &str, writes: &[Write]) -> usize {
    let ids: Vec<&str> = writes.iter().filter(|write| write.is_acknowledged()).map(|write| write.id.as_str()).collect();
    let mut found = 0;
    for ids in ids.chunks(500) {
        let answer = root.post(&format!("/{index}/_mget"), json!({"ids": ids})).await;
        let documents = answer.body["docs"].as_array().cloned().unwrap_or_default();
        found += documents.iter().filter(|document| document["found"] == true).count();
    }
    found
}

/// Median and worst.
pub fn spread(times: impl IntoIterator<Item = Duration>) -> String {
    let mut times: Vec<Duration> = times.into_iter().collect();
    times.sort();
    match times.last() {
        Some(worst) => format!("{:.1?} (median), {worst:.1?} (worst) of {}", times[times.len() / 2], times.len()),
        None => "none".to_owned(),
    }
}
