//! The leader is killed and paused again and again, through the real binary: another one leads soon, at a
//! higher epoch, and acts; the old one stands by when it goes on; no search fails or is partial meanwhile.
//!
//! `TRAWL_TEST_ELECTIONS` says how often (default 4).
#![allow(missing_docs, clippy::unwrap_used)]

mod harness;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use harness::{Client, Cluster, wait_until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const ROOTS: usize = 3;
const DOCUMENTS: usize = 500;
/// How long one root may take before another is asked, as a client of several addresses would.
const PATIENCE: Duration = Duration::from_millis(500);

/// An answer of the first root that gives one in time.
async fn ask(roots: &[Client], method: &str, path: &str, body: Option<Value>) -> Option<Value> {
    for root in roots {
        let body = body.as_ref().map(|body| body.to_string().into_bytes());
        let answer = tokio::time::timeout(PATIENCE, root.try_send(method, path, body, &[])).await;
        if let Ok(Ok(answer)) = answer
            && answer.status == 200
        {
            return Some(answer.body);
        }
    }
    None
}

/// Who leads, at which epoch, as the roots other than `except` see it.
async fn leader(roots: &[(String, Client)], except: &str) -> Option<(String, u64)> {
    let others: Vec<Client> =
        roots.iter().filter(|(name, _)| name != except).map(|(_, client)| client.clone()).collect();
    let body = ask(&others, "GET", "/_trawl/cluster", None).await?;
    Some((body["leader"]["name"].as_str()?.to_owned(), body["leader"]["epoch"].as_u64()?))
}

/// Searches until it is told to stop.
struct Stream {
    stop: AtomicBool,
    complete: AtomicUsize,
    faults: std::sync::Mutex<Vec<String>>,
}

impl Stream {
    async fn run(&self, roots: Vec<Client>) {
        let body = json!({"query": {"match": {"title": "boat"}}, "track_total_hits": true});
        while !self.stop.load(Ordering::Relaxed) {
            match ask(&roots, "POST", "/boats/_search", Some(body.clone())).await {
                Some(found) if found["_shards"]["failed"] == 0 && found["hits"]["total"]["value"] == DOCUMENTS => {
                    self.complete.fetch_add(1, Ordering::Relaxed);
                }
                found => self.faults.lock().unwrap().push(format!("{found:?}")),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_or_paused_leader_is_followed_by_another_that_acts() {
    let rounds = std::env::var("TRAWL_TEST_ELECTIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let cluster = Cluster::start(ROOTS, 2).await;
    let clients = cluster.root_clients();
    let roots: Vec<(String, Client)> =
        (0..ROOTS).map(|number| format!("root-{number}")).zip(clients.iter().cloned()).collect();
    clients[0].create_index("boats", 2, 1, json!({"properties": {"title": {"type": "text"}}})).await;
    let documents: Vec<(String, Value)> =
        (0..DOCUMENTS).map(|number| (format!("b{number}"), json!({"title": format!("boat {number}")}))).collect();
    clients[0].bulk_index("boats", &documents, true).await;
    cluster.known_everywhere("boats").await;
    let stream =
        Arc::new(Stream { stop: AtomicBool::new(false), complete: AtomicUsize::new(0), faults: Default::default() });
    let searching = tokio::spawn({
        let (stream, clients) = (stream.clone(), clients.clone());
        async move { stream.run(clients).await }
    });

    let mut took = Vec::new();
    for round in 0..rounds {
        let (old, epoch) = leader(&roots, "").await.unwrap();
        let signal = if round % 2 == 0 { Signal::SIGKILL } else { Signal::SIGSTOP };
        let began = Instant::now();
        cluster.signal(&old, signal);
        wait_until("another root leads, at a higher epoch", async || {
            leader(&roots, &old).await.is_some_and(|(_, now)| now > epoch)
        })
        .await;
        let leads = began.elapsed();
        // Only a leader that acts can have an index served.
        let (_, other) = roots.iter().find(|(name, _)| *name != old).unwrap();
        let made = other.put(&format!("/round-{round}"), json!({"settings": {"number_of_replicas": 0}})).await;
        assert_eq!(made.body["shards_acknowledged"], true, "{}", made.text);
        let acts = began.elapsed();
        println!("{signal} of {old} at epoch {epoch}: another leads after {leads:.2?}, has acted after {acts:.2?}");
        took.push(acts);
        if signal == Signal::SIGSTOP {
            cluster.signal(&old, Signal::SIGCONT);
            let (_, client) = roots.iter().find(|(name, _)| *name == old).unwrap();
            wait_until("the old leader stands by", async || {
                let metrics = client.try_send("GET", "/metrics", None, &[]).await.unwrap();
                metrics.text.contains("trawl_root_leading 0")
            })
            .await;
        }
        cluster.green().await;
    }
    stream.stop.store(true, Ordering::Relaxed);
    searching.await.unwrap();
    took.sort();
    println!(
        "{rounds} leaders lost: another has acted after {:.2?} (median), {:.2?} (worst); {} searches complete",
        took[took.len() / 2],
        took[took.len() - 1],
        stream.complete.load(Ordering::Relaxed)
    );
    assert!(stream.complete.load(Ordering::Relaxed) > 50);
    assert_eq!(*stream.faults.lock().unwrap(), Vec::<String>::new());
}
