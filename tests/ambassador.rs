//! `trawl ambassador` in front of a real cluster whose roots are killed, paused, restarted and added.
#![allow(missing_docs, clippy::unwrap_used)]

mod harness;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use harness::{Client, Cluster, PATIENCE, TRAWL, official_client, wait_until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// A role of its own; it ends when dropped.
struct Process(Child);

impl Process {
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(TRAWL);
        command.args(["--log-format", "json"]).args(arguments);
        command.env("TRAWL_SUPERVISED", "1").stdin(Stdio::piped()).stderr(Stdio::piped());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Ambassador {
    process: Process,
    client: Client,
}

impl Ambassador {
    async fn start(cluster: &Cluster, roots: usize) -> Self {
        let mut process = Process::start(&["ambassador", "--cluster", &cluster.url(), "--listen", "127.0.0.1:0"]);
        let stderr = process.0.stderr.take().unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                eprintln!("ambassador: {line}");
                let event: Value = serde_json::from_str(&line).unwrap_or_default();
                if let Some(listen) = event["listen"].as_str() {
                    let _ = sender.send(format!("http://{listen}"));
                }
            }
        });
        let endpoint = tokio::task::spawn_blocking(move || receiver.recv_timeout(PATIENCE)).await.unwrap();
        let ambassador = Self { process, client: Client::new(endpoint.unwrap()) };
        ambassador.well(roots).await;
        ambassador
    }

    async fn roots(&self) -> Vec<Value> {
        self.client.get("/_ambassador/status").await.body["roots"].as_array().unwrap().clone()
    }

    /// Waits until there are as many roots, all of them well.
    async fn well(&self, roots: usize) {
        wait_until("all roots are found to be well", async || {
            let found = self.roots().await;
            found.len() == roots && found.iter().all(|root| root["breaker"] == "closed")
        })
        .await;
    }

    /// Waits until a root is left alone.
    async fn ejected(&self, http: &str) {
        wait_until("the root is left alone", async || {
            let found = self.roots().await;
            found.iter().all(|root| root["breaker"] != "closed" || !root["url"].as_str().unwrap().ends_with(http))
        })
        .await;
    }
}

/// Searches and writes that go on until they are stopped.
struct Traffic {
    counts: Arc<Counts>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

#[derive(Default)]
struct Counts {
    stop: AtomicBool,
    searches: AtomicUsize,
    /// Documents that were acknowledged.
    documents: AtomicUsize,
    faults: Mutex<Vec<String>>,
    /// The longest search and the longest write since the last look.
    worst: Mutex<[Duration; 2]>,
}

impl Counts {
    fn took(&self, which: usize, began: Instant) {
        let mut worst = self.worst.lock().unwrap();
        worst[which] = began.elapsed().max(worst[which]);
    }

    fn fault(&self, what: String) {
        eprintln!("FAULT: {what}");
        self.faults.lock().unwrap().push(what);
    }

    async fn search(self: Arc<Self>, client: Client) {
        let body = json!({"query": {"match": {"title": "boat"}}}).to_string().into_bytes();
        while !self.stop.load(Ordering::Relaxed) {
            let began = Instant::now();
            match client.try_send("POST", "/boats/_search", Some(body.clone()), &[]).await {
                Ok(answer)
                    if answer.status == 200
                        && answer.body["hits"]["total"]["value"] == 20
                        && answer.body["_shards"]["failed"] == 0 => {}
                other => self.fault(format!("a search after {:?}: {other:?}", began.elapsed())),
            }
            self.took(0, began);
            self.searches.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Documents without ids: one that is written twice is there twice.
    async fn write(self: Arc<Self>, client: Client, bulk: bool) {
        while !self.stop.load(Ordering::Relaxed) {
            let (path, body, documents) = match bulk {
                true => ("/written/_bulk", "{\"index\":{}}\n{\"n\":1}\n".repeat(3), 3),
                false => ("/written/_doc", "{\"n\":1}".to_owned(), 1),
            };
            let began = Instant::now();
            match client.try_send("POST", path, Some(body.into_bytes()), &[]).await {
                Ok(answer) if (200..300).contains(&answer.status) && answer.body["errors"] != true => {
                    self.documents.fetch_add(documents, Ordering::Relaxed);
                }
                other => self.fault(format!("a write after {:?}: {other:?}", began.elapsed())),
            }
            self.took(1, began);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Traffic {
    fn start(client: &Client) -> Self {
        let counts = Arc::new(Counts::default());
        let searches = (0..4).map(|_| tokio::spawn(counts.clone().search(client.clone())));
        let writes = [false, true].map(|bulk| tokio::spawn(counts.clone().write(client.clone(), bulk)));
        let tasks = searches.chain(writes).collect();
        Self { counts, tasks }
    }

    /// The longest search and write since the last call.
    fn worst(&self) -> [Duration; 2] {
        std::mem::take(&mut *self.counts.worst.lock().unwrap())
    }

    /// Prints what happened under a fault and waits for more searches, so that each fault meets some.
    async fn shown(&self, fault: &str) -> [Duration; 2] {
        let [search, write] = self.worst();
        let (searches, documents) =
            (self.counts.searches.load(Ordering::Relaxed), self.counts.documents.load(Ordering::Relaxed));
        let failed = self.counts.faults.lock().unwrap().len();
        println!(
            "| {fault:<18} | {searches:>6} searches | {documents:>6} documents | {failed} failed | \
             longest search {search:.0?}, write {write:.0?} |"
        );
        [search, write]
    }

    async fn stop(self) -> Arc<Counts> {
        self.counts.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.counts
    }
}

async fn indices(client: &Client) {
    client.create_index("boats", 2, 1, json!({"properties": {"title": {"type": "text"}}})).await;
    let boats: Vec<_> = (0..20).map(|id| (id.to_string(), json!({"title": format!("boat {id}")}))).collect();
    client.bulk_index("boats", &boats, true).await;
    client.create_index("written", 2, 1, json!({})).await;
}

/// A second, or as `TRAWL_TEST_AMBASSADOR` says: how long each fault lasts once it has been noticed.
fn pause() -> Duration {
    let seconds = std::env::var("TRAWL_TEST_AMBASSADOR").ok().and_then(|text| text.parse().ok());
    Duration::from_secs_f64(seconds.unwrap_or(1.0))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_of_a_root_is_seen_by_an_application() {
    let cluster = Cluster::start(3, 2).await;
    let ambassador = Ambassador::start(&cluster, 3).await;
    let client = &ambassador.client;
    indices(client).await;
    let traffic = Traffic::start(client);
    tokio::time::sleep(pause()).await;
    traffic.shown("none").await;

    for number in 0..3 {
        let name = format!("root-{number}");
        let before = cluster.process(&name).pid;
        cluster.signal(&name, Signal::SIGKILL);
        wait_until("the root is started again", async || cluster.process(&name).pid != before).await;
        ambassador.well(3).await;
        traffic.shown(&format!("kill -9 {name}")).await;
    }

    for number in 0..2 {
        let name = format!("root-{number}");
        cluster.signal(&name, Signal::SIGSTOP);
        ambassador.ejected(&cluster.process(&name).http.unwrap()).await;
        tokio::time::sleep(pause()).await;
        let [search, write] = traffic.shown(&format!("pause {name}")).await;
        cluster.signal(&name, Signal::SIGCONT);
        // The delays are 250 ms and 1 s; the rest is for a machine that has other things to do.
        assert!(search < Duration::from_secs(4), "{search:?}");
        assert!(write < Duration::from_secs(6), "{write:?}");
        ambassador.well(3).await;
        traffic.shown(&format!("resume {name}")).await;
    }

    let extra = Process::start(&["root", "--cluster", &cluster.url(), "--http", "127.0.0.1:0", "--name", "root-x"]);
    ambassador.well(4).await;
    wait_until("the new root is asked", async || {
        ambassador.roots().await.iter().all(|root| root["requests"].as_u64().unwrap() > 0)
    })
    .await;
    traffic.shown("add root-x").await;
    drop(extra);

    for number in 0..3 {
        let name = format!("root-{number}");
        let before = cluster.process(&name).pid;
        cluster.signal(&name, Signal::SIGTERM);
        wait_until("the root is started again", async || cluster.process(&name).pid != before).await;
        ambassador.well(3).await;
        traffic.shown(&format!("restart {name}")).await;
    }

    let counts = traffic.stop().await;
    println!("repeats: {}", client.get("/_ambassador/status").await.body["repeats"]);
    assert_eq!(*counts.faults.lock().unwrap(), Vec::<String>::new());
    assert_eq!(client.send("POST", "/written/_refresh", None).await.status, 200);
    let count = client.get("/written/_count").await;
    assert_eq!(count.body["count"], counts.documents.load(Ordering::Relaxed), "{}", count.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_client_works_through_it() {
    if !official_client::is_here() {
        return;
    }
    let cluster = Cluster::start(2, 2).await;
    let ambassador = Ambassador::start(&cluster, 2).await;
    official_client::works_with(&ambassador.client.endpoint).await;
}

/// Bytes of a process's memory now, and the most there ever were.
fn resident(pid: u32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1_024
    };
    (bytes("VmRSS"), bytes("VmHWM"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_bulk_is_streamed() {
    let cluster = Cluster::start(2, 1).await;
    let ambassador = Ambassador::start(&cluster, 2).await;
    let client = &ambassador.client;
    client.create_index("large", 1, 0, json!({"properties": {"text": {"type": "text"}}})).await;
    let pid = ambassador.process.0.id();
    let (before, _) = resident(pid);
    let text = "x".repeat(30_000);
    let documents: Vec<_> = (0..1_000).map(|id| (id.to_string(), json!({"text": text}))).collect();
    client.bulk_index("large", &documents, true).await;
    assert_eq!(client.get("/large/_count").await.body["count"], 1_000);
    let (_, most) = resident(pid);
    println!("30 MB through: {before} bytes before, {most} at most");
    assert!(most < before + (16 << 20), "{before} bytes before, {most} at most");
}
