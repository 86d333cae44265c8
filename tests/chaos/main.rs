//! Everything dies, again and again, while documents are loaded: afterwards every acknowledged operation is
//! there exactly once, all replicas hold the same, and no task is lost.
//!
//! `TRAWL_TEST_SEED` picks the kills, `TRAWL_TEST_CHAOS_DOCUMENTS` the number of documents loaded, once through the
//! work queue and once with `trawl load` (default 4,000 each), `TRAWL_TEST_CORPUS` a file (gzip, NDJSON, with `id`) to take them from.
#![allow(missing_docs, clippy::unwrap_used)]

mod crew;
#[path = "../harness/mod.rs"]
mod harness;
mod killer;
mod loader;
mod producer;
mod verify;
mod workers;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crew::Crew;
use harness::Cluster;
use producer::Producer;
use rand::{SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use trawl_cluster::conformance::server::Server;

/// Roots and leaves; every shard has two replicas.
const ROOTS: usize = 2;
const LEAVES: usize = 3;
const WORKERS: usize = 3;
const PRODUCERS: usize = 4;
/// How often the loader is struck at most, and once more for every 5,000 documents.
const LOADER_STRIKES_MIN: usize = 4;
/// Kills go on for at least this long, however fast the load is.
const KILLING_MIN: Duration = Duration::from_secs(12);

fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The documents to load: those of the corpus, over and over with new ids, numbered in `chaos_n`.
fn documents(count: usize) -> Vec<(String, Value)> {
    let packed = match std::env::var_os("TRAWL_TEST_CORPUS") {
        Some(path) => std::fs::read(path).unwrap(),
        None => trawl_data::samples::samples().1.to_vec(),
    };
    let reader = std::io::BufReader::new(flate2::read::MultiGzDecoder::new(packed.as_slice()));
    let lines: Vec<String> = std::io::BufRead::lines(reader).map(Result::unwrap).collect();
    (0..count)
        .map(|number| {
            let mut document: Value = serde_json::from_str(&lines[number % lines.len()]).unwrap();
            let id = format!("{}~{}", document["id"].as_str().unwrap(), number / lines.len());
            document["id"] = json!(id);
            document["chaos_n"] = json!(number);
            (id, document)
        })
        .collect()
}

fn mappings() -> Value {
    json!({"properties": {
        "id": {"type": "keyword"}, "chaos_n": {"type": "long"}, "title": {"type": "text"}, "body": {"type": "text"}
    }})
}

#[tokio::test(flavor = "multi_thread")]
async fn random_kills_lose_nothing_and_double_nothing_on_sqlite() {
    let cluster = Cluster::start(ROOTS, LEAVES).await;
    let url = format!("sqlite:{}", cluster.data_dir().join("cluster").display());
    chaos("sqlite", cluster, &url, Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_kills_and_a_fail_over_lose_nothing_and_double_nothing_on_postgresql() {
    let Some(primary) = Server::start(&[]) else { return };
    let standby = primary.standby("second");
    primary.wait_for_standby("second");
    let url = primary.url_with(&standby);
    // Both live until the end of the test.
    let servers = Arc::new(Mutex::new((primary, standby)));
    let cluster = Cluster::start_with(ROOTS, LEAVES, &["--cluster", &url]).await;
    let fail_over = {
        let servers = servers.clone();
        move || {
            let mut servers = servers.lock().unwrap();
            servers.0.kill();
            servers.1.promote();
            println!("the primary is killed, the standby promoted");
        }
    };
    chaos("postgresql", cluster, &url, vec![Event { share: 0.4, what: Box::new(fail_over) }]).await;
}

/// Something that happens once, when this share of the documents is loaded.
pub struct Event {
    pub share: f64,
    pub what: Box<dyn FnOnce() + Send>,
}

/// Loads through workers, with `trawl load` and through bulks of its own while processes are killed; then compares.
async fn chaos(name: &str, cluster: Cluster, url: &str, mut events: Vec<Event>) {
    let seed = setting("TRAWL_TEST_SEED", 7u64);
    let count = setting("TRAWL_TEST_CHAOS_DOCUMENTS", 4_000usize);
    println!("seed {seed} (TRAWL_TEST_SEED), {count} documents (TRAWL_TEST_CHAOS_DOCUMENTS)");
    let documents = documents(count);
    cluster.client.create_index("loaded", 3, 1, mappings()).await;
    cluster.client.create_index("resumed", 3, 1, mappings()).await;
    cluster.client.create_index("written", 3, 1, producer::mappings()).await;
    cluster.known_everywhere("written").await;

    let files = workers::write_files(cluster.data_dir(), &documents);
    workers::enqueue(&cluster, "loaded", &files).await;
    let stop = Arc::new(AtomicBool::new(false));
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|number| tokio::spawn(Producer::new(number, seed, cluster.root_clients()).run(stop.clone())))
        .collect();
    let mut crews = vec![loader::start(&cluster.client.endpoint, "resumed", &files)];
    crews.extend((0..WORKERS).map(|number| {
        let url = url.to_owned();
        Crew::start("worker", move || workers::spawn(&url, number), |_| false)
    }));
    let mut killer = killer::Killer::new(StdRng::seed_from_u64(seed), LOADER_STRIKES_MIN + count / 5_000);
    let began = Instant::now();
    loop {
        killer.strike(&cluster, &crews).await;
        let queue = workers::queue(&cluster).await;
        let (done, open) = (queue["done"].as_u64(), queue["ready"].as_u64().zip(queue["claimed"].as_u64()));
        if let (Some(done), Some((ready, claimed))) = (done, open) {
            let share = done as f64 / (done + ready + claimed).max(1) as f64;
            while events.first().is_some_and(|event| event.share <= share) {
                tokio::task::block_in_place(events.remove(0).what);
            }
            if ready + claimed == 0 && crews[0].has_ended() && began.elapsed() >= KILLING_MIN {
                break;
            }
        }
        assert!(began.elapsed() < Duration::from_secs(1_800), "the load does not end: {queue}");
    }
    killer.rest(&cluster).await;
    stop.store(true, Ordering::Relaxed);
    let mut expected: BTreeMap<String, producer::Expected> = BTreeMap::new();
    let (mut batches, mut retries) = (0, 0);
    for producer in producers {
        let written = producer.await.unwrap();
        (batches, retries) = (batches + written.batches, retries + written.retries);
        expected.extend(written.expected);
    }
    for crew in crews {
        crew.stop().await;
    }

    cluster.green().await;
    let queue = workers::queue(&cluster).await;
    assert_eq!((&queue["ready"], &queue["claimed"], &queue["dead"]), (&json!(0), &json!(0), &json!(0)), "{queue}");
    let mut findings = verify::loaded(&cluster, LEAVES, "loaded", &documents).await;
    findings.add(verify::loaded(&cluster, LEAVES, "resumed", &documents).await);
    findings.add(verify::compare(&cluster, LEAVES, "written", &expected).await);
    println!("chaos on {name}: seed {seed}; {killer}; {findings}; bulks: {batches}, sent again {retries}");
    findings.check();
}
