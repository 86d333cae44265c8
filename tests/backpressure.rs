//! A producer much faster than the replicas can apply: it is refused, fast and with `Retry-After`, memory
//! stays flat, and what was acknowledged is applied in the end, all of it and nothing else.
//!
//! `TRAWL_TEST_OVERLOAD_SECONDS` (8) is how long it goes on. From 120 on a plateau is asked for as well: less than a
//! tenth more in the last third than in the one before. Memory is what a process has for itself; pages of index
//! files that are mapped grow with the index and can be given back at any time, so they are shown apart.
#![allow(missing_docs, clippy::unwrap_used)]

mod harness;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use harness::{Client, Cluster, wait_until};
use serde_json::{Value, json};

/// Operations per second that a replica applies at most.
const APPLIED_PER_SECOND: u64 = 400;
/// Operations per second that are offered: as many producers as it takes, each one waiting for its answers.
const OFFERED_PER_SECOND: u64 = 10 * APPLIED_PER_SECOND;
const PRODUCERS: u64 = 8;
const BATCH: u64 = 50;
/// Longest that a refusal may take, on a machine that does other things as well.
const REFUSAL_TIME_MAX: Duration = Duration::from_secs(2);
/// How much more memory than at the beginning a process may have.
const GROWTH_KIB_MAX: u64 = 200 << 10;
/// Seconds from which on a plateau has to show.
const PLATEAU_SECONDS: u64 = 120;

#[derive(Default)]
struct Tally {
    offered: AtomicU64,
    refused_operations: AtomicU64,
    refused_requests: AtomicU64,
    without_retry_after: AtomicU64,
    slowest_refusal: Mutex<Duration>,
    acknowledged: Mutex<BTreeSet<String>>,
    other: Mutex<Vec<String>>,
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overload_is_refused_and_what_was_acknowledged_is_applied() {
    let seconds = std::env::var("TRAWL_TEST_OVERLOAD_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    let delay = format!("{}us", 1_000_000 / APPLIED_PER_SECOND);
    let env = [
        ("TRAWL_INJECT_APPLY_DELAY", delay.as_str()),
        ("TRAWL_OUTCOME_TIME", "300ms"),
        ("TRAWL_WRITE_BYTES_IN_FLIGHT", "2MiB"),
    ];
    let cluster = Cluster::start_set(2, 2, &env).await;
    let settings = json!({"settings": {"number_of_shards": 1, "number_of_replicas": 1, "trawl.log_size": "1mb"}});
    assert_eq!(cluster.client.put("/flood", settings).await.status, 200);
    cluster.known_everywhere("flood").await;
    cluster.green().await;

    let before = resident(&cluster);
    let tally = Arc::new(Tally::default());
    let end = Instant::now() + Duration::from_secs(seconds);
    let roots = cluster.root_clients();
    let producers = (0..PRODUCERS).map(|number| {
        let root = roots[number as usize % roots.len()].clone();
        tokio::spawn(produce(number, root, tally.clone(), end))
    });
    let producers: Vec<_> = producers.collect();
    let mut samples: BTreeMap<String, Vec<Resident>> = BTreeMap::new();
    let mut greatest_lag = 0;
    while Instant::now() < end {
        for (name, resident) in resident(&cluster) {
            samples.entry(name).or_default().push(resident);
        }
        greatest_lag = greatest_lag.max(lag(&cluster.client).await);
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    for producer in producers {
        producer.await.unwrap();
    }
    let after = resident(&cluster);

    let acknowledged = tally.acknowledged.lock().unwrap().clone();
    report(seconds, &tally, acknowledged.len(), greatest_lag, &before, &samples, &after);

    let applied = async || lag(&cluster.client).await == 0;
    wait_until("everything acknowledged is applied", applied).await;
    assert_eq!(cluster.client.send("POST", "/flood/_refresh", None).await.status, 200);
    for leaf in ["leaf-0", "leaf-1"] {
        let path = format!("/flood/_search?size=0&track_total_hits=true&preference=_only_nodes:{leaf}");
        let found = cluster.client.get(&path).await.body["hits"]["total"]["value"].as_u64().unwrap();
        assert_eq!(found as usize, acknowledged.len(), "{leaf} holds what was acknowledged and nothing else");
    }
    let ids: Vec<&String> = acknowledged.iter().collect();
    for some in ids.chunks(1_000) {
        let body = json!({"query": {"ids": {"values": some}}, "size": 0, "track_total_hits": true});
        let found = cluster.client.search("flood", body).await["hits"]["total"]["value"].as_u64().unwrap();
        assert_eq!(found as usize, some.len());
    }

    assert_eq!(*tally.other.lock().unwrap(), Vec::<String>::new(), "only refusals");
    assert!(tally.refused_operations.load(Ordering::Relaxed) > 0, "the log was never full");
    assert_eq!(tally.without_retry_after.load(Ordering::Relaxed), 0);
    assert!(*tally.slowest_refusal.lock().unwrap() < REFUSAL_TIME_MAX, "{:?}", tally.slowest_refusal.lock().unwrap());
    for (name, samples) in &samples {
        let growth = most(samples).saturating_sub(before[name].own);
        assert!(growth < GROWTH_KIB_MAX, "{name} grew by {growth} KiB");
        let [_, second, third] = thirds(samples).map(most);
        let is_flat = third <= second + second / 10;
        assert!(seconds < PLATEAU_SECONDS || is_flat, "{name} still grows: {second} KiB, then {third} KiB");
    }
    let metrics = cluster.client.get("/metrics").await.text;
    assert!(metrics.contains("trawl_root_limit_refusals_total{limit=\"log_size\"}"), "{metrics}");
    assert!(metrics.contains("trawl_root_log_bytes{index=\"flood\",shard=\"0\"}"), "{metrics}");
    let table = cluster.client.get("/_cat/shards/flood?h=lag.ops,lag.time").await.text;
    assert_eq!(table.split_whitespace().collect::<Vec<_>>(), ["0", "0.0s", "0", "0.0s"], "{table}");
}

/// Offers its share, refused or not.
async fn produce(number: u64, root: Client, tally: Arc<Tally>, end: Instant) {
    let pause = Duration::from_micros(1_000_000 * BATCH * PRODUCERS / OFFERED_PER_SECOND);
    let sent = Arc::new(AtomicUsize::new(0));
    let mut open = tokio::task::JoinSet::new();
    let mut round = 0;
    while Instant::now() < end {
        let due = tokio::time::Instant::now() + pause;
        // So many at a time, as a client with a pool of connections.
        if sent.load(Ordering::Relaxed) < 4 {
            sent.fetch_add(1, Ordering::Relaxed);
            let (root, tally, sent) = (root.clone(), tally.clone(), sent.clone());
            open.spawn(async move {
                offer(&root, &tally, number, round).await;
                sent.fetch_sub(1, Ordering::Relaxed);
            });
            round += 1;
        }
        tokio::time::sleep_until(due).await;
    }
    while open.join_next().await.is_some() {}
}

async fn offer(root: &Client, tally: &Tally, number: u64, round: u64) {
    let mut body = String::new();
    for place in 0..BATCH {
        let id = format!("{number}-{round}-{place}");
        // Text that does not compress to nothing.
        let text: String = (0..60).map(|word| format!("{:x} ", hash(&format!("{id}/{word}")))).collect();
        body += &format!("{}\n{}\n", json!({"index": {"_id": id}}), json!({"text": text}));
    }
    tally.offered.fetch_add(BATCH, Ordering::Relaxed);
    let started = Instant::now();
    let answer = root.try_send("POST", "/flood/_bulk", Some(body.into_bytes()), &[]).await.unwrap();
    let took = started.elapsed();
    let refused = |operations| {
        tally.refused_operations.fetch_add(operations, Ordering::Relaxed);
        if !answer.headers.contains_key("retry-after") {
            tally.without_retry_after.fetch_add(1, Ordering::Relaxed);
        }
        let mut slowest = tally.slowest_refusal.lock().unwrap();
        *slowest = took.max(*slowest);
    };
    match answer.status {
        429 => {
            tally.refused_requests.fetch_add(1, Ordering::Relaxed);
            refused(BATCH);
        }
        200 => {
            let items = answer.body["items"].as_array().unwrap();
            let of = |status: fn(u64) -> bool| {
                items.iter().map(|item| &item["index"]).filter(move |item| status(item["status"].as_u64().unwrap()))
            };
            let full = of(|status| status == 429).count() as u64;
            if full > 0 {
                refused(full);
            }
            let taken = of(|status| status < 300).map(|item| item["_id"].as_str().unwrap().to_owned());
            tally.acknowledged.lock().unwrap().extend(taken);
            let other = of(|status| status >= 300 && status != 429).map(Value::to_string).take(1);
            tally.other.lock().unwrap().extend(other);
        }
        _ => tally.other.lock().unwrap().push(answer.text),
    }
}

fn hash(text: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// Operations that any replica is behind.
async fn lag(client: &Client) -> u64 {
    let status = client.get("/_trawl/cluster").await.body;
    let shards = status["shards"].as_array().cloned().unwrap_or_default();
    shards.iter().map(|shard| shard["lag_operations"].as_u64().unwrap_or(u64::MAX)).max().unwrap_or(u64::MAX)
}

/// Memory of a process, in KiB.
#[derive(Clone, Copy, Debug)]
struct Resident {
    /// Nobody else's, and in no file.
    own: u64,
    /// Mapped files.
    files: u64,
    /// Both at their greatest so far.
    greatest: u64,
}

fn resident(cluster: &Cluster) -> BTreeMap<String, Resident> {
    let of = |pid: i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        let field = |name| field(name).unwrap_or(0);
        Resident { own: field("RssAnon:"), files: field("RssFile:"), greatest: field("VmHWM:") }
    };
    cluster.processes().into_iter().map(|process| (process.name, of(process.pid))).collect()
}

fn thirds(samples: &[Resident]) -> [&[Resident]; 3] {
    let third = samples.len() / 3;
    [&samples[..third], &samples[third..2 * third], &samples[2 * third..]]
}

fn most(samples: &[Resident]) -> u64 {
    samples.iter().map(|resident| resident.own).max().unwrap_or(0)
}

fn report(
    seconds: u64,
    tally: &Tally,
    acknowledged: usize,
    greatest_lag: u64,
    before: &BTreeMap<String, Resident>,
    samples: &BTreeMap<String, Vec<Resident>>,
    after: &BTreeMap<String, Resident>,
) {
    let offered = tally.offered.load(Ordering::Relaxed);
    eprintln!(
        "overload of {seconds} s: {offered} operations offered ({}/s against {APPLIED_PER_SECOND}/s applied), \
         {acknowledged} acknowledged, {} refused ({} whole requests), slowest refusal {:?}, greatest lag {greatest_lag}",
        offered / seconds,
        tally.refused_operations.load(Ordering::Relaxed),
        tally.refused_requests.load(Ordering::Relaxed),
        tally.slowest_refusal.lock().unwrap(),
    );
    let mib = |kib: u64| format!("{:.1}", kib as f64 / 1024.0);
    for (name, samples) in samples {
        let [first, second, third] = thirds(samples).map(|samples| mib(most(samples)));
        eprintln!(
            "{name}: {} MiB before, at most {first}, {second} and {third} in the thirds of the time; {} MiB of files are \
             mapped; greatest of both {}",
            mib(before[name].own),
            mib(after[name].files),
            mib(after[name].greatest)
        );
    }
}
