//! Clocks that jump by hours, forward and back, while the cluster works: what roots and leaves believe the time to be
//! changes no outcome, costs no lease, forgets no key of a write, and searches stay right.
#![allow(missing_docs, clippy::unwrap_used)]

mod harness;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use harness::{Answer, Client, Cluster, wait_until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const HOUR: i64 = 3_600_000;
/// Keys that are too old are looked for every ten seconds.
const FORGETTING: Duration = Duration::from_secs(11);
const NODES: [&str; 4] = ["root-0", "root-1", "leaf-0", "leaf-1"];

/// Sets a node's clock off by so many milliseconds; it counts from the next time the node looks.
fn set(clocks: &Path, node: &str, off: i64) {
    let fresh = clocks.join(format!("{node}.new"));
    std::fs::write(&fresh, off.to_string()).unwrap();
    std::fs::rename(fresh, clocks.join(node)).unwrap();
}

/// A write with a key.
async fn write(root: &Client, key: &str, body: &str) -> Answer {
    let headers = [("idempotency-key", key)];
    root.try_send("POST", "/log/_bulk", Some(body.as_bytes().to_vec()), &headers).await.unwrap()
}

/// What came of each operation of a bulk.
fn items(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{}", answer.text);
    let shown = |item: &Value| {
        let item = item.as_object().unwrap().values().next().unwrap();
        json!([item["_id"], item["result"], item["status"], item["_version"], item["_seq_no"]])
    };
    answer.body["items"].as_array().unwrap().iter().map(shown).collect()
}

fn bulk(lines: &[Value]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

async fn leader(client: &Client) -> Value {
    client.get("/_trawl/cluster").await.body["leader"].clone()
}

/// Looks at leader, health and searches until it is told to stop.
async fn watch(client: Client, epoch: Value, documents: u64, stop: Arc<AtomicBool>) -> usize {
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        let now = leader(&client).await;
        assert_eq!((&now["name"], &now["epoch"]), (&epoch["name"], &epoch["epoch"]), "the lease was lost");
        assert_eq!(client.get("/_cluster/health").await.body["status"], "green");
        let body = json!({"query": {"match": {"title": "boat"}}, "size": 1, "track_total_hits": true});
        let found = client.search("log", body).await;
        assert_eq!((&found["_shards"]["failed"], &found["timed_out"]), (&json!(0), &json!(false)));
        assert_eq!(found["hits"]["total"]["value"], documents);
        rounds += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    rounds
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_jump_by_hours_change_nothing() {
    let clocks = tempfile::tempdir().unwrap();
    let directory = clocks.path().display().to_string();
    let cluster = Cluster::start_set(2, 2, &[("TRAWL_INJECT_CLOCK", directory.as_str())]).await;
    let client = &cluster.client;
    let mappings = json!({"properties": {"title": {"type": "text"}, "when": {"type": "date"}}});
    client.create_index("log", 1, 1, mappings).await;
    cluster.known_everywhere("log").await;
    let documents: Vec<_> = (0..50).map(|n| (format!("d{n}"), json!({"title": format!("boat {n}")}))).collect();
    client.bulk_index("log", &documents, true).await;

    // A delete that is remembered for a minute of the log's time, and writes with keys.
    let keyed = |round: usize| {
        bulk(&[
            json!({"index": {"_id": format!("k{round}")}}),
            json!({"title": "ship"}),
            json!({"index": {"_id": "counted"}}),
            json!({"title": "ship", "round": round}),
        ])
    };
    write(&cluster.root_clients()[0], "gone", &bulk(&[json!({"index": {"_id": "gone"}}), json!({})])).await;
    write(&cluster.root_clients()[1], "deleted", &bulk(&[json!({"delete": {"_id": "gone"}})])).await;
    let mut before = vec![items(&write(&cluster.root_clients()[0], "key-0", &keyed(0)).await)];

    let first = leader(client).await;
    assert!(first["name"].is_string(), "{first}");
    let stop = Arc::new(AtomicBool::new(false));
    let watching = tokio::spawn(watch(client.clone(), first.clone(), 50, stop.clone()));
    // Roots and leaves apart and together, forward and back, also before where they began.
    let jumps: [[i64; 4]; 5] = [[5, 0, 0, 0], [5, -7, 3, -3], [-9, 9, -9, 9], [30, 30, 30, 30], [-30, -2, 4, 0]]
        .map(|jump| jump.map(|h| h * HOUR));
    // Long enough that whoever forgets keys by the time has looked for old ones.
    let began = Instant::now();
    for round in 0.. {
        if round >= jumps.len() && began.elapsed() > FORGETTING {
            break;
        }
        let jump = &jumps[round % jumps.len()];
        for (node, off) in NODES.iter().zip(jump) {
            set(clocks.path(), node, *off);
        }
        for (place, root) in cluster.root_clients().iter().enumerate() {
            // `now` is what a root's clock says: it did jump.
            let recent = json!({"size": 1000, "query": {"range": {"when": {"gte": "now-1h", "lte": "now+1h"}}}});
            let when = true_ms() + jump[place];
            let id = format!("when-{round}-{place}");
            root.put(&format!("/log/_doc/{id}?refresh=true"), json!({"when": when})).await;
            let found = root.search("log", recent).await;
            assert!(harness::ids(&found).contains(&id), "{round}, root-{place}: {found}");
        }
        // All keys so far, through both roots: the same outcomes, and nothing is written.
        for root in cluster.root_clients() {
            for (round, before) in before.iter().enumerate() {
                let again = write(&root, &format!("key-{round}"), &keyed(round)).await;
                assert_eq!(items(&again), *before, "{round}");
            }
        }
        let next = before.len();
        let root = &cluster.root_clients()[next % 2];
        let new = items(&write(root, &format!("key-{next}"), &keyed(next)).await);
        assert_eq!(new[1][3], next + 1, "written once each: {new:?}");
        before.push(new);
        if round == 0 {
            // Less than a minute has passed, so the version of what was deleted goes on.
            let back = client.put("/log/_doc/gone", json!({})).await;
            assert_eq!(back.body["_version"], 3, "{}", back.text);
        }
    }
    stop.store(true, Ordering::Relaxed);
    println!("{} looks at leader, health and searches", watching.await.unwrap());

    // Processes that are started under clocks that are wrong know the keys as well, and are led.
    for (node, off) in NODES.iter().zip([11, -11, 11, -11]) {
        set(clocks.path(), node, off * HOUR);
        let pid = cluster.process(node).pid;
        cluster.signal(node, Signal::SIGKILL);
        wait_until("the process is running again", async || cluster.process(node).pid != pid).await;
    }
    let roots = cluster.root_clients();
    for root in &roots {
        wait_until("the root is ready", async || {
            root.try_send("GET", "/readyz", None, &[]).await.is_ok_and(|answer| answer.status == 200)
        })
        .await;
    }
    cluster.green().await;
    let began = Instant::now();
    for n in 0.. {
        for root in &roots {
            write(root, &format!("other-{n}"), &bulk(&[json!({"index": {"_id": "other"}}), json!({})])).await;
        }
        if began.elapsed() > FORGETTING {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for root in &roots {
        for (round, before) in before.iter().enumerate() {
            let again = write(root, &format!("key-{round}"), &keyed(round)).await;
            assert_eq!(items(&again), *before, "{round}, after a restart");
        }
    }
    let led = async || leader(client).await["epoch"].as_u64() >= first["epoch"].as_u64();
    wait_until("there is a leader", led).await;
    client.send("POST", "/log/_refresh", None).await;
    for leaf in ["leaf-0", "leaf-1"] {
        let path = format!("/log/_search?preference=_only_nodes:{leaf}");
        let body = json!({"query": {"match": {"title": "boat ship"}}, "size": 0, "track_total_hits": true});
        let found = client.post(&path, body).await;
        assert_eq!(found.body["hits"]["total"]["value"], 50 + before.len() + 1, "{leaf}: {}", found.text);
    }
}

/// Milliseconds since the epoch, by the clock that nobody has set.
fn true_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}
