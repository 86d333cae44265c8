//! Loading through the work queue: workers that die, pause and give up, and loads that are interrupted.
#![allow(missing_docs, clippy::unwrap_used)]

mod harness;

use std::{
    collections::BTreeSet,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use harness::{Client, Cluster, TRAWL, wait_until};
use nix::{sys::signal::Signal, unistd::Pid};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

/// A `trawl` process of a test; killed when dropped.
struct Running(Option<Child>);

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(TRAWL);
        command.args(["--log", "warn"]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(Some(command.spawn().unwrap()))
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.0.as_ref().unwrap().id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    fn has_ended(&mut self) -> bool {
        self.0.as_mut().unwrap().try_wait().unwrap().is_some()
    }

    /// Waits for its end: exit code (none when it was killed) and what it said.
    async fn end(mut self) -> (Option<i32>, String) {
        let child = self.0.take().unwrap();
        let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
        (output.status.code(), said(&output))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn said(output: &Output) -> String {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{text}");
    text
}

async fn trawl(arguments: &[&str]) -> (Option<i32>, String) {
    println!("trawl {}", arguments.join(" "));
    Running::start(arguments).end().await
}

fn engine(cluster: &Cluster) -> String {
    format!("sqlite:{}", cluster.data_dir().join("cluster").display())
}

struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn lines(range: std::ops::Range<usize>, note: &str) -> String {
    let line = |number| json!({"id": format!("n{number}"), "number": number, "text": format!("boat {number} {note}")});
    range.map(|number| format!("{}\n", line(number))).collect()
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

async fn count(client: &Client, index: &str) -> u64 {
    client.get(&format!("/{index}/_refresh")).await;
    client.get(&format!("/{index}/_count")).await.body["count"].as_u64().unwrap_or(0)
}

/// The `number` of every document, in order.
async fn numbers(client: &Client, index: &str) -> Vec<u64> {
    client.get(&format!("/{index}/_refresh")).await;
    let (mut found, mut after) = (Vec::new(), Value::Null);
    loop {
        let mut body = json!({"size": 5000, "_source": ["number"], "sort": [{"number": "asc"}, "_doc"]});
        if !after.is_null() {
            body["search_after"] = after;
        }
        let hits = client.search(index, body).await["hits"]["hits"].as_array().unwrap().clone();
        let Some(last) = hits.last() else { return found };
        after = last["sort"].clone();
        found.extend(hits.iter().map(|hit| hit["_source"]["number"].as_u64().unwrap()));
    }
}

/// The documents that a load at work has noted as loaded.
async fn noted(client: &Client, index: &str) -> u64 {
    let claimed = client.get("/_trawl/queue/tasks?state=claimed").await.body["tasks"].clone();
    let task = claimed.as_array().into_iter().flatten().find(|task| task["body"]["index"] == index);
    task.and_then(|task| task["progress"]["tally"]["loaded"].as_u64()).unwrap_or(0)
}

async fn tasks(client: &Client) -> Value {
    client.get("/_trawl/queue?shards=false").await.body["kinds"]["load"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_killed_again_and_again_load_every_document_once() {
    let seed: u64 = std::env::var("TRAWL_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(5);
    let documents: usize = std::env::var("TRAWL_TEST_DOCUMENTS").ok().and_then(|n| n.parse().ok()).unwrap_or(12_000);
    println!("seed {seed} (TRAWL_TEST_SEED), {documents} documents (TRAWL_TEST_DOCUMENTS)");
    let mut random = StdRng::seed_from_u64(seed);
    let cluster = Cluster::start(2, 2).await;
    let files = Files::new();
    let third = documents / 3;
    let plain = files.file("plain.ndjson", lines(0..third, "").as_bytes());
    let packed = files.file("packed.ndjson.gz", &gzip(&lines(third..2 * third, "")));
    let rows: String = (2 * third..3 * third).map(|number| format!("{number},\"boat\n{number}\"\n")).collect();
    let table = files.file("table.csv", format!("number,text\n{rows}").as_bytes());

    let engine = engine(&cluster);
    let enqueue = ["load", "--enqueue", "--cluster", &engine, "--index", "boats", "--task-bytes", "16KiB"];
    let enqueue = [&enqueue[..], &["--batch-bytes", "4KiB", "--attempts", "1000"]].concat();
    let enqueue = [&enqueue[..], &[path(&plain), path(&packed), path(&table)]].concat();
    let (code, text) = trawl(&enqueue).await;
    assert_eq!(code, Some(0));
    assert!(text.contains("from 3 files"), "{text}");
    let pushed = tasks(&cluster.client).await["ready"].as_u64().unwrap();
    assert!(pushed > 10, "{pushed} tasks");
    // The same again adds nothing.
    let (code, text) = trawl(&enqueue).await;
    assert_eq!(code, Some(0));
    assert!(text.contains("enqueued 0 tasks"), "{text}");
    assert_eq!(tasks(&cluster.client).await["ready"], pushed);

    let start = || Running::start(&["worker", "--cluster", &engine, "--until-empty", "--claim-time", "2s"]);
    let mut workers = vec![start(), start(), start()];
    let mut kills = 0;
    while kills < 8 {
        tokio::time::sleep(Duration::from_millis(random.random_range(50..600))).await;
        let which = random.random_range(0..workers.len());
        if workers.iter_mut().all(Running::has_ended) {
            break;
        }
        workers[which].signal(Signal::SIGKILL);
        workers[which] = start();
        kills += 1;
    }
    for worker in workers {
        let (code, text) = worker.end().await;
        assert_eq!(code, Some(0), "{text}");
    }
    let counts = tasks(&cluster.client).await;
    assert_eq!((&counts["ready"], &counts["claimed"], &counts["dead"]), (&json!(0), &json!(0), &json!(0)));
    assert_eq!(counts["done"], pushed);
    let found = numbers(&cluster.client, "boats").await;
    assert_eq!(found, (0..3 * third as u64).collect::<Vec<_>>(), "every document once");
    println!("{pushed} tasks, {kills} workers killed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_paused_beyond_its_claim_overwrites_nothing() {
    let cluster = Cluster::start(1, 2).await;
    let files = Files::new();
    let documents = 12_000;
    let file = files.file("old.ndjson", lines(0..documents, "old").as_bytes());
    let engine = engine(&cluster);
    let enqueue =
        ["load", "--enqueue", "--cluster", &engine, "--index", "boats", "--id", "id", "--batch-bytes", "2KiB"];
    assert_eq!(trawl(&[&enqueue[..], &[path(&file)]].concat()).await.0, Some(0));
    let worker = ["worker", "--cluster", &engine, "--until-empty", "--claim-time", "1s"];
    let paused = Running::start(&worker);
    wait_until("the worker is in the middle", async || count(&cluster.client, "boats").await > 0).await;
    paused.signal(Signal::SIGSTOP);
    assert!(count(&cluster.client, "boats").await < documents as u64, "it was not paused in the middle");

    // Another worker does the task over; then every document gets newer content.
    let (code, text) = trawl(&worker).await;
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(count(&cluster.client, "boats").await, documents as u64);
    let newer = files.file("new.ndjson", lines(0..documents, "new").as_bytes());
    let load = ["load", "--endpoint", &cluster.client.endpoint, "--index", "boats", "--id", "id", path(&newer)];
    assert_eq!(trawl(&load).await.0, Some(0));

    paused.signal(Signal::SIGCONT);
    let (code, text) = paused.end().await;
    assert_eq!(code, Some(0), "{text}");
    cluster.client.get("/boats/_refresh").await;
    let old = cluster.client.search("boats", json!({"query": {"match": {"text": "old"}}, "size": 3})).await;
    assert_eq!(old["hits"]["total"]["value"], 0, "{old}");
    assert_eq!(count(&cluster.client, "boats").await, documents as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_load_goes_on_where_it_was() {
    let cluster = Cluster::start(1, 2).await;
    let files = Files::new();
    let documents = 30_000;
    let first = files.file("first.ndjson", lines(0..1_000, "").as_bytes());
    let second = files.file("second.ndjson.gz", &gzip(&lines(1_000..documents, "")));
    let load = ["load", "--endpoint", &cluster.client.endpoint, "--index", "boats", "--batch-bytes", "4KiB"];
    let load = [&load[..], &[path(&first), path(&second)]].concat();
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let before = count(&cluster.client, "boats").await;
        let running = Running::start(&load);
        let client = &cluster.client;
        wait_until("the load is in the middle", async || count(client, "boats").await > before + 1_000).await;
        running.signal(signal);
        let (code, text) = running.end().await;
        assert_eq!(code, (signal == Signal::SIGINT).then_some(130), "{text}");
    }
    let before = count(&cluster.client, "boats").await;
    assert!(before < documents as u64, "it was over before it was killed");
    let (code, text) = trawl(&load).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("going on with an interrupted load"), "{text}");
    let found = numbers(&cluster.client, "boats").await;
    assert_eq!(found, (0..documents as u64).collect::<Vec<_>>(), "every document once");

    // A finished load does everything again; a file that has changed is loaded as it is.
    files.file("first.ndjson", lines(0..900, "").as_bytes());
    let (code, text) = trawl(&load).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains(&format!("loaded {} documents", documents - 100)), "{text}");
    assert_eq!(count(&cluster.client, "boats").await, documents as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_goes_on_when_the_cluster_was_away_for_longer_than_its_claim() {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut cluster = Cluster::start_with(1, 1, &["--http", &address]).await;
    let files = Files::new();
    let documents = 30_000;
    let file = files.file("boats.ndjson", lines(0..documents, "").as_bytes());
    let load = ["load", "--endpoint", &cluster.client.endpoint, "--index", "boats", "--batch-bytes", "4KiB"];
    let running = Running::start(&[&load[..], &["--claim-time", "1s", path(&file)]].concat());
    wait_until("the load has noted how far it is", async || noted(&cluster.client, "boats").await > 0).await;
    cluster.terminate().await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    cluster.up().await;
    let (code, text) = running.end().await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("taking it up again") && text.contains("going on with an interrupted load"), "{text}");
    assert!(text.contains(&format!("loaded {documents} documents")), "{text}");
    let found = numbers(&cluster.client, "boats").await;
    assert_eq!(found, (0..documents as u64).collect::<Vec<_>>(), "every document once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_another_process_has_taken_over_says_so() {
    let cluster = Cluster::start(1, 1).await;
    let (client, endpoint) = (&cluster.client, cluster.client.endpoint.as_str());
    let files = Files::new();
    let documents = 20_000;
    let file = files.file("boats.ndjson", lines(0..documents, "").as_bytes());
    let start = |index: &str, claim_time: &str| {
        let load = ["load", "--endpoint", endpoint, "--index", index, "--batch-bytes", "4KiB", path(&file)];
        Running::start(&[&load[..], &["--claim-time", claim_time]].concat())
    };
    let paused = async |index: &str| {
        let running = start(index, "1s");
        wait_until("the load has noted how far it is", async || noted(client, index).await > 0).await;
        running.signal(Signal::SIGSTOP);
        running
    };

    let first = paused("finished").await;
    let (code, text) = start("finished", "1s").end().await;
    assert!(code == Some(0) && text.contains("going on with an interrupted load"), "{text}");
    first.signal(Signal::SIGCONT);
    let (code, text) = first.end().await;
    assert!(code == Some(1) && text.contains("another process has taken over this load and finished it"), "{text}");
    assert_eq!(count(client, "finished").await, documents as u64);

    let first = paused("held").await;
    let second = start("held", "1m");
    let name = format!("trawl load, process {}", second.0.as_ref().unwrap().id());
    wait_until("the other has claimed it", async || {
        let claimed = client.get("/_trawl/queue/tasks?state=claimed").await;
        claimed.body["tasks"].as_array().is_some_and(|tasks| tasks.iter().any(|task| task["worker"] == name.as_str()))
    })
    .await;
    second.signal(Signal::SIGSTOP);
    first.signal(Signal::SIGCONT);
    let (code, text) = first.end().await;
    assert!(code == Some(1) && text.contains(&format!("and is at work on it: {name}")), "{text}");
    second.signal(Signal::SIGCONT);
    let (code, text) = second.end().await;
    assert_eq!(code, Some(0), "{text}");
    let found = numbers(client, "held").await;
    assert_eq!(found, (0..documents as u64).collect::<Vec<_>>(), "every document once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_file_is_missing_dies_is_shown_and_replayed() {
    let cluster = Cluster::start(1, 1).await;
    let files = Files::new();
    let file = files.file("boats.ndjson", lines(0..100, "").as_bytes());
    let endpoint = cluster.client.endpoint.clone();
    let enqueue = ["load", "--enqueue", "--endpoint", &endpoint, "--index", "boats", "--attempts", "2", path(&file)];
    assert_eq!(trawl(&enqueue).await.0, Some(0));
    let away = file.with_extension("away");
    std::fs::rename(&file, &away).unwrap();
    let engine = engine(&cluster);
    let worker = ["worker", "--cluster", &engine, "--until-empty"];
    let (code, text) = trawl(&worker).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("1 dead task"), "{text}");

    let (code, text) = trawl(&["queue", "dead", "list", "--endpoint", &endpoint]).await;
    assert_eq!(code, Some(0));
    assert!(text.contains("No such file") && text.contains("boats.ndjson"), "{text}");
    let listed = cluster.client.get("/_trawl/queue/tasks?state=dead").await.body["tasks"].clone();
    let id = listed[0]["id"].as_str().unwrap().to_owned();
    let (code, text) = trawl(&["queue", "dead", "show", "--endpoint", &endpoint, &id]).await;
    assert_eq!(code, Some(0));
    assert!(text.contains("\"attempts\": 2"), "{text}");

    std::fs::rename(&away, &file).unwrap();
    assert_eq!(trawl(&["queue", "dead", "replay", "--endpoint", &endpoint, &id]).await.0, Some(0));
    assert_eq!(trawl(&worker).await.0, Some(0));
    assert_eq!(count(&cluster.client, "boats").await, 100);
    let (code, text) = trawl(&["queue", "status", "--endpoint", &endpoint]).await;
    assert_eq!(code, Some(0));
    assert!(text.contains("load") && text.contains("boats/0"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_waits_for_a_cluster_that_is_away_and_gives_up_in_time() {
    let retry = ["--until-empty", "--retry-for", "2s"];
    let nowhere = tempfile::tempdir().unwrap();
    let missing = format!("sqlite:{}", nowhere.path().join("cluster").display());
    let away: [(&[&str], &str); 3] = [
        (&["--endpoint", "http://127.0.0.1:1"], "gave up asking for tasks after 2 s"),
        (&["--cluster", "postgres://trawl@127.0.0.1:1/trawl"], "cannot open the cluster engine"),
        (&["--cluster", &missing], "there is no cluster engine in"),
    ];
    for (place, message) in away {
        let started = Instant::now();
        let (code, text) = trawl(&[&["worker"], &retry[..], place].concat()).await;
        assert!(code == Some(1) && text.contains(message), "{text}");
        assert!((Duration::from_secs(2)..Duration::from_secs(12)).contains(&started.elapsed()), "{text}");
    }
    assert!(!nowhere.path().join("cluster").exists(), "nothing is made where nothing is");

    // Started before the cluster.
    let mut early = None;
    let cluster = Cluster::start_in(1, 1, &[], |data_dir| {
        let engine = format!("sqlite:{}", data_dir.join("cluster").display());
        early = Some(Running::start(&["worker", "--cluster", &engine, "--retry-for", "1m"]));
    })
    .await;
    let files = Files::new();
    let file = files.file("boats.ndjson", lines(0..100, "").as_bytes());
    let endpoint = cluster.client.endpoint.clone();
    assert_eq!(
        trawl(&["load", "--enqueue", "--endpoint", &endpoint, "--index", "boats", path(&file)]).await.0,
        Some(0)
    );
    wait_until("the worker does the task", async || count(&cluster.client, "boats").await == 100).await;
    let early = early.unwrap();
    early.signal(Signal::SIGTERM);
    assert_eq!(early.end().await.0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_rejects_is_told_and_kept_with_the_task() {
    let cluster = Cluster::start(1, 1).await;
    let client = &cluster.client;
    let mappings = json!({"properties": {"number": {"type": "integer"}}});
    client.create_index("boats", 1, 0, mappings).await;
    let files = Files::new();
    let bad = "not json\n{\"number\": 1}\n[1]\n{\"id\": \"a\", \"number\": \"many\"}\n";
    let few = files.file("few.ndjson", format!("{}{bad}{}", lines(0..3, ""), lines(3..10, "")).as_bytes());
    let many = files.file("many.ndjson", "nonsense\n".repeat(30).as_bytes());
    let endpoint = client.endpoint.clone();
    let enqueue = ["load", "--enqueue", "--endpoint", &endpoint, "--index", "boats", "--id", "id"];
    for file in [&few, &many] {
        assert_eq!(trawl(&[&enqueue[..], &["--format", "ndjson", path(file)]].concat()).await.0, Some(0));
    }
    let (code, text) = trawl(&["worker", "--endpoint", &endpoint, "--until-empty"]).await;
    assert_eq!(code, Some(1), "rejected is not loaded: {text}");
    for told in ["few.ndjson:4", "few.ndjson:5", "few.ndjson:6", "few.ndjson:7", "many.ndjson:20", "and 10 more"] {
        assert!(text.contains(told), "{told}: {text}");
    }
    assert!(!text.contains("many.ndjson:21") && text.contains("34 documents rejected"), "{text}");
    assert_eq!(count(client, "boats").await, 10);

    let (_, text) = trawl(&["queue", "tasks", "--endpoint", &endpoint, "--state", "done", "--json"]).await;
    let kept: Value = serde_json::from_str(&text).unwrap();
    let first = |task: usize| kept["tasks"][task]["progress"]["rejected_first"].as_array().unwrap().clone();
    let mut places: Vec<String> = first(0).iter().map(|rejected| rejected["place"].to_string()).collect();
    places.sort();
    assert!(places.len() == 4 && places[0].ends_with("few.ndjson:4\""), "{places:?}");
    assert!(first(0).iter().any(|rejected| rejected["kind"] == "invalid_json" && rejected["reason"] != ""), "{text}");
    assert_eq!(first(1).len(), 20, "{text}");
    let (_, text) = trawl(&["queue", "tasks", "--endpoint", &endpoint]).await;
    assert!(text.contains("10 loaded, 4 rejected") && text.contains("0 loaded, 30 rejected"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_texts_shares_tasks_and_a_worker_told_to_end_gives_them_back() {
    let cluster = Cluster::start(1, 1).await;
    let files = Files::new();
    let texts = files.folder.path().join("texts");
    std::fs::create_dir(&texts).unwrap();
    for number in 0..500 {
        std::fs::write(texts.join(format!("{number}.txt")), format!("Text of boat {number}\n")).unwrap();
    }
    let endpoint = cluster.client.endpoint.clone();
    let enqueue =
        ["load", "--enqueue", "--endpoint", &endpoint, "--index", "texts", "--batch-bytes", "300", path(&texts)];
    let (code, text) = trawl(&enqueue).await;
    assert_eq!(code, Some(0));
    assert!(text.contains("enqueued 1 task from 500 files"), "{text}");
    let worker = ["worker", "--endpoint", &endpoint, "--until-empty"];
    let running = Running::start(&worker);
    wait_until("the worker is in the middle", async || count(&cluster.client, "texts").await > 0).await;
    running.signal(Signal::SIGTERM);
    let (code, text) = running.end().await;
    assert_eq!(code, Some(0), "{text}");
    let task = cluster.client.get("/_trawl/queue/tasks?kind=load").await.body["tasks"][0].clone();
    assert_eq!((&task["state"], &task["attempts"]), (&json!("ready"), &json!(0)), "{task}");
    assert!(task["progress"]["tally"]["loaded"].as_u64().unwrap() > 0, "{task}");

    let (code, text) = trawl(&worker).await;
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(count(&cluster.client, "texts").await, 500);
    let task = cluster.client.get("/_trawl/queue/tasks?kind=load").await.body["tasks"][0].clone();
    assert_eq!((&task["state"], &task["progress"]["loaded"]), (&json!("done"), &json!(500)), "{task}");
    let body = json!({"query": {"match": {"body": "boat"}}, "size": 500, "_source": false});
    let hits = cluster.client.search("texts", body).await;
    assert_eq!(harness::ids(&hits).into_iter().collect::<BTreeSet<_>>().len(), 500);
}
