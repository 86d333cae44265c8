//! Disks that are full, and have room again, through the real binary: a leaf's, and the engine's.
//!
//! The disks are small file systems in memory; where mounting is not allowed this is skipped, loudly.
#![allow(missing_docs, clippy::unwrap_used)]

mod harness;

use std::{
    collections::BTreeSet,
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use harness::{Answer, Client, Cluster, wait_until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// A small file system; unmounted at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(bytes: usize) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let done = mount(&["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"], directory.path());
        if done.is_ok() {
            return Some(Self(directory));
        }
        let message = format!("SKIPPED: a tmpfs cannot be mounted here, a full disk was not tested: {done:?}");
        assert!(std::env::var_os("TRAWL_TEST_REQUIRE_ALL").is_none(), "{message}");
        eprintln!("{message}");
        None
    }

    fn resize(&self, bytes: usize) {
        mount(&["-o", &format!("remount,size={bytes}")], self.0.path()).unwrap();
    }

    /// Takes up all the room that is left.
    fn fill(&self) -> PathBuf {
        let path = self.0.path().join("filler");
        let mut file = File::options().create(true).append(true).open(&path).unwrap();
        while file.write_all(&[7; 4_096]).is_ok() {}
        while file.write_all(&[7]).is_ok() {}
        path
    }

    /// In place of a directory of a cluster.
    fn stand_in_for(&self, directory: &Path) {
        std::os::unix::fs::symlink(self.0.path(), directory).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

fn mount(arguments: &[&str], path: &Path) -> Result<(), String> {
    let done = Command::new("mount").args(arguments).arg(path).output().map_err(|error| error.to_string())?;
    if done.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&done.stderr).into_owned()) }
}

/// Text that does not compress to nothing.
fn text(number: usize) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let word = |place: usize| {
        let mut hasher = DefaultHasher::new();
        (number, place).hash(&mut hasher);
        format!("{:x} ", hasher.finish())
    };
    (0..60).map(word).collect()
}

/// One bulk of so many documents; what was acknowledged goes on the list.
async fn write(client: &Client, from: usize, count: usize, acknowledged: &mut BTreeSet<usize>) -> Answer {
    let mut body = String::new();
    for number in from..from + count {
        let document = json!({"number": number, "text": text(number)});
        body += &format!("{}\n{document}\n", json!({"index": {"_id": format!("d{number}")}}));
    }
    let answer = client.try_send("POST", "/log/_bulk", Some(body.into_bytes()), &[]).await.unwrap();
    for (place, item) in answer.body["items"].as_array().into_iter().flatten().enumerate() {
        if item["index"]["status"].as_u64().is_some_and(|status| status < 300) {
            acknowledged.insert(from + place);
        }
    }
    answer
}

/// Numbers of all documents that a leaf's replica holds, each found once and with its text.
async fn held_by(client: &Client, leaf: &str) -> BTreeSet<usize> {
    let (mut found, mut after) = (BTreeSet::new(), Value::Null);
    loop {
        let mut body = json!({"size": 1000, "sort": [{"number": "asc"}]});
        if !after.is_null() {
            body["search_after"] = after;
        }
        let answer = client.post(&format!("/log/_search?preference=_only_nodes:{leaf}"), body).await;
        assert_eq!((answer.status, &answer.body["_shards"]["failed"]), (200, &json!(0)), "{}", answer.text);
        let hits = answer.body["hits"]["hits"].as_array().unwrap().clone();
        let Some(last) = hits.last() else { return found };
        after = last["sort"].clone();
        for hit in hits {
            let number = hit["_source"]["number"].as_u64().unwrap() as usize;
            assert_eq!(hit["_source"]["text"], text(number));
            assert!(found.insert(number), "{number} is there twice");
        }
    }
}

/// Searches until it is told to stop; every answer has to be complete.
async fn search(client: Client, stop: Arc<AtomicBool>, searches: Arc<AtomicUsize>) {
    let mut most = 0;
    while !stop.load(Ordering::Relaxed) {
        let body = json!({"query": {"range": {"number": {"gte": 0}}}, "size": 3, "track_total_hits": true});
        let answer = client.post("/log/_search", body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.body["_shards"]["failed"], 0, "{}", answer.text);
        most = most.max(answer.body["hits"]["total"]["value"].as_u64().unwrap());
        searches.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(most > 0, "nothing was ever found");
}

/// Why the replica on a leaf has failed.
async fn failure(client: &Client, leaf: &str) -> Option<String> {
    let status = client.get("/_trawl/cluster").await.body;
    let replica = status["shards"].as_array()?.iter().find(|shard| shard["leaf"] == leaf)?.clone();
    (replica["state"] == "failed").then(|| replica["reason"].as_str().unwrap_or_default().to_owned())
}

/// Processor time of a process so far.
fn processor_time(pid: i32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // Linux counts a hundred to the second for everybody who asks here.
    Duration::from_millis(10 * ticks)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_on_a_full_disk_says_so_loses_nothing_and_comes_back() {
    let Some(disk) = SmallDisk::mount(12 << 20) else { return };
    let cluster = Cluster::start_in(1, 2, &[], |data| disk.stand_in_for(&data.join("leaf-1"))).await;
    let client = &cluster.client;
    client.create_index("log", 1, 1, json!({"properties": {"number": {"type": "long"}}})).await;
    let mut acknowledged = BTreeSet::new();
    let mut next = 0;
    let mut load = async |count: usize, acknowledged: &mut BTreeSet<usize>| {
        let answer = write(client, next, count, acknowledged).await;
        assert_eq!((answer.status, &answer.body["errors"]), (200, &json!(false)), "{}", answer.text);
        next += count;
    };
    load(200, &mut acknowledged).await;
    assert_eq!(client.send("POST", "/log/_refresh", None).await.status, 200);

    let (stop, searches) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let searching = tokio::spawn(search(client.clone(), stop.clone(), searches.clone()));
    let reason = loop {
        load(200, &mut acknowledged).await;
        if let Some(reason) = failure(client, "leaf-1").await {
            break reason;
        }
        assert!(acknowledged.len() < 50_000, "the disk is never full");
    };
    println!("full with {} documents: {reason}", acknowledged.len());
    assert!(reason.starts_with("disk full: ") && reason.contains("leaf-1/shards/"), "{reason}");
    assert!(reason.contains("make room on this file system"), "{reason}");
    // Whatever a failed attempt has given back.
    let filler = disk.fill();
    load(200, &mut acknowledged).await;
    let is_yellow = async || client.get("/_cluster/health").await.body["status"] == "yellow";
    wait_until("health is yellow", is_yellow).await;
    let failed = async || {
        let table = client.get("/_cat/shards/log?h=node,state,unassigned.reason").await.text;
        table.lines().any(|line| line.contains("leaf-1") && line.contains("UNASSIGNED") && line.contains("disk full"))
    };
    wait_until("the reason is in the table of shards", failed).await;

    // It waits for room without work, and the cluster goes on.
    let pid = cluster.process("leaf-1").pid;
    let (started, before) = (Instant::now(), processor_time(pid));
    tokio::time::sleep(Duration::from_secs(3)).await;
    let share = (processor_time(pid) - before).as_secs_f64() / started.elapsed().as_secs_f64();
    println!("the full leaf takes {:.0} % of a processor", share * 100.0);
    assert!(share < 0.7, "a busy loop: {share}");
    for _ in 0..5 {
        load(200, &mut acknowledged).await;
    }
    let refreshed = client.send("POST", "/log/_refresh", None).await;
    assert_eq!(refreshed.body["_shards"]["failed"], 0, "{}", refreshed.text);
    assert_eq!(held_by(client, "leaf-0").await, acknowledged);
    assert_eq!(cluster.process("leaf-1").pid, pid, "the process has not died of it");

    // Killed, it starts on the full disk as well.
    cluster.signal("leaf-1", Signal::SIGKILL);
    let back = async || {
        let is_another = cluster.process("leaf-1").pid != pid;
        is_another && failure(client, "leaf-1").await.is_some_and(|reason| reason.starts_with("disk full: "))
    };
    wait_until("the leaf is back and says the same", back).await;
    load(200, &mut acknowledged).await;

    std::fs::remove_file(filler).unwrap();
    disk.resize(128 << 20);
    let since = Instant::now();
    cluster.green().await;
    println!("green {:.1?} after there was room", since.elapsed());
    load(200, &mut acknowledged).await;
    stop.store(true, Ordering::Relaxed);
    searching.await.unwrap();
    println!("{} searches, all complete", searches.load(Ordering::Relaxed));
    let refreshed = client.send("POST", "/log/_refresh", None).await;
    assert_eq!(refreshed.body["_shards"]["failed"], 0, "{}", refreshed.text);
    for leaf in ["leaf-0", "leaf-1"] {
        assert_eq!(held_by(client, leaf).await, acknowledged, "{leaf}");
    }
    // Nothing of the attempts is left behind, and what is on the disk opens again.
    let pid = cluster.process("leaf-1").pid;
    cluster.signal("leaf-1", Signal::SIGKILL);
    wait_until("the leaf is running again", async || cluster.process("leaf-1").pid != pid).await;
    cluster.green().await;
    assert_eq!(held_by(client, "leaf-1").await, acknowledged);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_on_a_full_disk_refuses_writes_at_once_and_takes_them_again() {
    let Some(disk) = SmallDisk::mount(48 << 20) else { return };
    let cluster = Cluster::start_in(1, 2, &[], |data| disk.stand_in_for(&data.join("cluster"))).await;
    let client = &cluster.client;
    client.create_index("log", 1, 1, json!({"properties": {"number": {"type": "long"}}})).await;
    let mut acknowledged = BTreeSet::new();
    let mut next = 0;
    for round in 0..2 {
        for _ in 0..3 {
            write(client, next, 100, &mut acknowledged).await;
            next += 100;
        }
        assert_eq!(acknowledged.len(), next - round * 1_000_000, "all taken while there is room");
        assert_eq!(client.send("POST", "/log/_refresh", None).await.status, 200);

        let filler = disk.fill();
        // What the engine's files have room for goes through yet.
        let mut refused = 0;
        let since = Instant::now();
        let mut scratch = BTreeSet::new();
        while since.elapsed() < Duration::from_secs(6) {
            let started = Instant::now();
            let answer = write(client, next, 100, &mut scratch).await;
            next += 100;
            if scratch.len() == 100 {
                acknowledged.append(&mut scratch);
                continue;
            }
            assert!(scratch.is_empty(), "one batch is one row of the log: {}", answer.text);
            let took = started.elapsed();
            assert!(took < Duration::from_secs(2), "refused only after {took:?}: {}", answer.text);
            assert!(answer.text.contains("the disk is full") && answer.text.contains("logs.db"), "{}", answer.text);
            let status = answer.body["items"][0]["index"]["status"].as_u64().unwrap_or(answer.status.into());
            assert_eq!(status, 503, "{}", answer.text);
            refused += 1;
            // Longer than any lease: searches go on.
            let body = json!({"query": {"match_all": {}}, "size": 1, "track_total_hits": true});
            let found = client.search("log", body).await;
            assert_eq!(found["_shards"]["failed"], 0, "{found}");
            assert!(found["hits"]["total"]["value"].as_u64().unwrap() >= 300, "{found}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        println!("round {round}: {refused} bulks refused");
        assert!(refused > 3, "only {refused} bulks were refused");

        std::fs::remove_file(filler).unwrap();
        let room = Instant::now();
        loop {
            write(client, next, 100, &mut acknowledged).await;
            next += 100;
            if acknowledged.contains(&(next - 1)) {
                break;
            }
            assert!(room.elapsed() < Duration::from_secs(30), "writes are still refused");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        println!("round {round}: taken again {:.1?} after there was room", room.elapsed());
        cluster.green().await;
        let refreshed = client.send("POST", "/log/_refresh", None).await;
        assert_eq!(refreshed.body["_shards"]["failed"], 0, "{}", refreshed.text);
        for leaf in ["leaf-0", "leaf-1"] {
            assert_eq!(held_by(client, leaf).await, acknowledged, "what was refused is not there, on {leaf}");
        }
        // Refused ones took numbers too.
        next = acknowledged.len() + (round + 1) * 1_000_000;
    }
}
