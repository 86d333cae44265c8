//! Sidecars of the real binary under faults: rotation, `kill -9` of the sidecar and of what it ships to, a sink that is away, a
//! buffer on disk that is full, leaves that die. `TRAWL_TEST_LINES` makes the first test larger.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../harness/mod.rs"]
mod harness;
mod process;
mod writer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use harness::{Client, Cluster, WITH_SIDECARS, wait_until};
use process::Sidecar;

/// Waits longer than the harness does when there is more to ship.
async fn within<F: AsyncFn() -> bool>(time: Duration, what: &str, condition: F) {
    let deadline = Instant::now() + time;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {time:?}: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn count(client: &Client, index: &str) -> u64 {
    let path = format!("/{index}/_count");
    match client.try_send("GET", &path, None, &[]).await {
        Ok(answer) => answer.body["count"].as_u64().unwrap_or(0),
        Err(_) => 0,
    }
}

/// The numbers of all lines in the index, in order.
async fn numbers(client: &Client) -> Vec<u64> {
    let mut numbers = Vec::new();
    loop {
        let mut body = json!({"size": 5_000, "_source": false, "sort": [{"fields.n": "asc"}, {"_id": "asc"}]});
        if let Some(after) = numbers.last() {
            let (number, id): &(u64, String) = after;
            body["search_after"] = json!([number, id]);
        }
        let found = client.search("logs-trawl-*", body).await;
        let hits = found["hits"]["hits"].as_array().unwrap().clone();
        if hits.is_empty() {
            return numbers.into_iter().map(|(number, _)| number).collect();
        }
        numbers.extend(
            hits.iter().map(|hit| (hit["sort"][0].as_u64().unwrap(), hit["sort"][1].as_str().unwrap().to_owned())),
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_arrives_exactly_once_through_rotation_and_kills() {
    let lines: u64 = std::env::var("TRAWL_TEST_LINES").map_or(15_000, |lines| lines.parse().unwrap());
    let cluster = Cluster::start(2, 2).await;
    let directory = tempfile::tempdir().unwrap();
    let logs = directory.path().join("logs");
    std::fs::create_dir(&logs).unwrap();
    let hosts: Vec<String> = cluster.processes().into_iter().filter_map(|process| process.http).collect();
    let out = directory.path().join("out.ndjson");
    let sinks = [format!("trawl://{}/", hosts.join(",")), format!("file:{}", out.display())];

    let written = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (logs, written) = (logs.clone(), written.clone());
        move || {
            // About twelve seconds whatever the number, rotated six times in them, at least every few seconds.
            let pace = (lines / 10).max(1_000);
            writer::write(&logs, lines, pace, pace * 2);
            written.store(true, Ordering::Relaxed);
        }
    });
    let mut kills = (0, 0);
    let mut sidecar = Sidecar::start(directory.path(), &sinks);
    while !written.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(rand::random_range(200..1_500))).await;
        sidecar.kill();
        kills.0 += 1;
        if rand::random_bool(0.4) {
            let root = if rand::random_bool(0.5) { "root-0" } else { "root-1" };
            cluster.signal(root, Signal::SIGKILL);
            kills.1 += 1;
        }
        sidecar = Sidecar::start(directory.path(), &sinks);
    }
    writer.join().unwrap();
    let long = Duration::from_secs(60 + lines / 1_000);
    within(long, "every line is in the index", async || count(&cluster.client, "logs-trawl-*").await >= lines).await;
    sidecar.settled().await;
    let metrics = sidecar.metrics().await;
    sidecar.end();

    let refreshed = cluster.client.send("POST", "/logs-trawl-*/_refresh", None).await;
    assert_eq!(refreshed.status, 200, "{}", refreshed.text);
    let found = numbers(&cluster.client).await;
    let wanted: Vec<u64> = (0..lines).collect();
    let mut in_file: BTreeMap<u64, u64> = BTreeMap::new();
    for line in std::fs::read_to_string(&out).unwrap().lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        *in_file.entry(record["fields"]["n"].as_u64().unwrap()).or_default() += 1;
    }
    let file_records: u64 = in_file.values().sum();
    println!(
        "lines {lines}, kills of the sidecar {} and of roots {}; index: {} records, lost {}, doubled {}; file: {file_records} \
         records, lost {}, doubled {}; refused by the index as being there (last run) {}",
        kills.0,
        kills.1,
        found.len(),
        wanted.iter().filter(|number| found.binary_search(number).is_err()).count(),
        found.windows(2).filter(|pair| pair[0] == pair[1]).count(),
        lines - in_file.len() as u64,
        file_records - in_file.len() as u64,
        process::metric(&metrics, "trawl_sidecar_duplicate_records_total"),
    );
    assert!(found == wanted, "the index does not have every line once");
    assert_eq!(in_file.len() as u64, lines, "the file does not have every line");
    assert_eq!(process::metric(&metrics, "trawl_sidecar_lost_bytes_total"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_is_away_stops_no_other_and_its_buffer_keeps_its_limit() {
    let directory = tempfile::tempdir().unwrap();
    let logs = directory.path().join("logs");
    std::fs::create_dir(&logs).unwrap();
    let out = directory.path().join("out.ndjson");
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let away = held.local_addr().unwrap();
    drop(held);
    let sinks = [format!("file:{}", out.display()), format!("trawl://{away}/?buffer=200KiB")];
    let sidecar = Sidecar::start(directory.path(), &sinks);
    let mut lines = 0;
    let dropped = AtomicU64::new(0);
    // The other sink goes on, also when the buffer of this one is full.
    while dropped.load(Ordering::Relaxed) == 0 {
        assert!(lines < 2_000_000);
        writer::append(&logs, lines..lines + 20_000);
        lines += 20_000;
        let in_file = || std::fs::read_to_string(&out).unwrap_or_default().lines().count() as u64;
        within(Duration::from_secs(30), "the file has every line", async || in_file() == lines).await;
        let name = format!("trawl_sidecar_dropped_records_total{{sink=\"trawl://{away}/\"}}");
        dropped.store(process::metric(&sidecar.metrics().await, &name), Ordering::Relaxed);
    }
    let buffered =
        |metrics: &str| process::metric(metrics, &format!("trawl_sidecar_buffer_bytes{{sink=\"trawl://{away}/\"}}"));
    assert!(buffered(&sidecar.metrics().await) <= 220 << 10);
    assert!(sidecar.is_ready().await, "a sink that is away is no reason not to be ready");

    // It comes back: what is not dropped arrives.
    let got = Arc::new(AtomicU64::new(0));
    let server = tokio::spawn(process::bulk_server(away, got.clone()));
    let metrics = async || sidecar.metrics().await;
    let name = format!("trawl_sidecar_dropped_records_total{{sink=\"trawl://{away}/\"}}");
    within(Duration::from_secs(60), "what is left arrives", async || {
        let (dropped, got) = (process::metric(&metrics().await, &name), got.load(Ordering::Relaxed));
        println!("{lines} lines, {dropped} dropped at the limit, {got} arrived later");
        got + dropped == lines
    })
    .await;
    assert!(got.load(Ordering::Relaxed) > 0);
    server.abort();
    sidecar.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn query_logs_of_leaves_are_in_the_index_also_of_one_that_was_killed() {
    let cluster = Cluster::start_with(1, 2, &[WITH_SIDECARS, "--leaf-arg=--query-log-sample=1"]).await;
    let sidecars = cluster.processes().into_iter().filter(|process| process.role == "sidecar").count();
    assert_eq!(sidecars, 2);
    cluster.client.create_index("boats", 2, 0, json!({})).await;
    cluster.client.bulk_index("boats", &[("1".to_owned(), json!({"name": "storm petrel"}))], true).await;
    let search = async |index: &str, id: &str| {
        let body = json!({"query": {"match": {"name": "storm"}}}).to_string().into_bytes();
        let trace = format!("00-{}-{}-01", "ab".repeat(16), "cd".repeat(8));
        let headers = [("x-opaque-id", id), ("traceparent", trace.as_str())];
        let path = format!("/{index}/_search");
        cluster.client.try_send("POST", &path, Some(body), &headers).await.unwrap().body
    };
    let logged = async |id: &str| {
        let query = json!({"query": {"term": {"fields.query_id": id}}, "size": 10});
        let answer = cluster.client.post("/logs-trawl-*/_search", query).await;
        answer.body["hits"]["hits"].as_array().cloned().unwrap_or_default()
    };
    let whole = async |id: &str| search("boats", id).await["_shards"]["failed"] == 0;
    assert!(whole("first").await);
    wait_until("the first search is logged by both shards", async || logged("first").await.len() == 2).await;
    let record = logged("first").await[0]["_source"].clone();
    assert_eq!(record["fields"]["index"], "boats");
    assert_eq!(record["fields"]["query"], "name:storm");
    assert_eq!(record["fields"]["outcome"], "ok");
    assert_eq!(record["trace_id"], "ab".repeat(16));
    assert_eq!(record["resource"]["service.name"], "trawl-leaf");

    cluster.signal("leaf-0", Signal::SIGKILL);
    cluster.signal("sidecar-0", Signal::SIGKILL);
    wait_until("all shards answer again", async || whole("second").await).await;
    assert!(whole("third").await);
    wait_until("the third search is logged by both shards", async || logged("third").await.len() == 2).await;
    // The cluster does not feed itself.
    search("logs-trawl-*", "own").await;
    assert!(whole("last").await);
    wait_until("the last search is logged", async || logged("last").await.len() == 2).await;
    assert!(logged("own").await.is_empty());
}
