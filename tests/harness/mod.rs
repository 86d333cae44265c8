//! Starts real clusters from the real binary, on free loopback ports and temporary directories,
//! and talks to them over HTTP. Children end with the test, also when it panics.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

pub mod member;
pub mod official_client;
pub mod proxy;
pub mod roots;
pub mod writes;

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use nix::{sys::signal::Signal, unistd::Pid};
use serde_json::{Value, json};

/// The binary under test.
pub const TRAWL: &str = env!("CARGO_BIN_EXE_trawl");

/// How long a state may take to come before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// As a further argument of `trawl up`: leaves have sidecars.
pub const WITH_SIDECARS: &str = "--with-sidecars";

/// A cluster started with `trawl up`.
pub struct Cluster {
    up: Option<Child>,
    data_dir: PathBuf,
    _temporary: Option<tempfile::TempDir>,
    roots: usize,
    leaves: usize,
    extra: Vec<String>,
    env: Vec<(String, String)>,
    log: Log,
    pub client: Client,
}

/// What processes have logged; it also goes to this process's own standard error.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub fn follow(&self, stderr: ChildStderr) {
        let lines = self.0.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                eprintln!("{line}");
                lines.lock().unwrap().push(line);
            }
        });
    }

    /// How many lines have all these words in them.
    pub fn count(&self, words: &[&str]) -> usize {
        let lines = self.0.lock().unwrap();
        lines.iter().filter(|line| words.iter().all(|word| line.contains(word))).count()
    }
}

/// One child process as `cluster.json` has it.
#[derive(Clone, Debug)]
pub struct Process {
    pub role: String,
    pub name: String,
    pub pid: i32,
    pub http: Option<String>,
    pub metrics: Option<String>,
    pub data_dir: Option<PathBuf>,
}

impl Cluster {
    /// Starts a cluster in a temporary directory and waits until it is ready.
    pub async fn start(roots: usize, leaves: usize) -> Self {
        Self::start_with(roots, leaves, &[]).await
    }

    /// The same with further arguments of `trawl up`.
    pub async fn start_with(roots: usize, leaves: usize, extra: &[&str]) -> Self {
        Self::start_as(roots, leaves, extra, &[]).await
    }

    /// The same with settings of the roles as environment variables.
    pub async fn start_set(roots: usize, leaves: usize, env: &[(&str, &str)]) -> Self {
        Self::start_as(roots, leaves, &[], env).await
    }

    /// The same, once something has been done to its data directory.
    pub async fn start_in(roots: usize, leaves: usize, env: &[(&str, &str)], prepare: impl FnOnce(&Path)) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        prepare(temporary.path());
        Self::start_at(temporary, roots, leaves, &[], env).await
    }

    /// The same with both.
    pub async fn start_as(roots: usize, leaves: usize, extra: &[&str], env: &[(&str, &str)]) -> Self {
        Self::start_at(tempfile::tempdir().unwrap(), roots, leaves, extra, env).await
    }

    async fn start_at(
        temporary: tempfile::TempDir,
        roots: usize,
        leaves: usize,
        extra: &[&str],
        env: &[(&str, &str)],
    ) -> Self {
        let mut cluster = Self {
            up: None,
            data_dir: temporary.path().to_owned(),
            _temporary: Some(temporary),
            roots,
            leaves,
            extra: extra.iter().map(|argument| (*argument).to_owned()).collect(),
            env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            log: Log::default(),
            client: Client::new(String::new()),
        };
        cluster.up().await;
        cluster
    }

    /// Starts `trawl up` (again) in the cluster's directory and waits until it is ready.
    pub async fn up(&mut self) {
        // Another address each time, unless the test needs it to stay.
        let given = self.extra.iter().any(|argument| argument == "--http");
        let http: &[&str] = if given { &[] } else { &["--http", "127.0.0.1:0"] };
        let mut child = Command::new(TRAWL)
            .args(["--log", &log_level(), "--log-format", "text", "up"])
            .args(http)
            .arg("--data-dir")
            .arg(&self.data_dir)
            .args(["--roots", &self.roots.to_string(), "--leaves", &self.leaves.to_string()])
            .args(self.extra.iter().filter(|argument| *argument != WITH_SIDECARS))
            // Their index would be in the way of most tests.
            .args((!self.extra.iter().any(|argument| argument == WITH_SIDECARS)).then_some("--no-sidecars"))
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            // Ends with this process even when that is aborted.
            .env("TRAWL_SUPERVISED", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        self.log.follow(child.stderr.take().unwrap());
        self.up = Some(child);
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(rest) = line.strip_prefix("ready: ") {
                    let _ = sender.send(rest.split(' ').next().unwrap().to_owned());
                }
            }
        });
        let endpoint = tokio::task::spawn_blocking(move || receiver.recv_timeout(PATIENCE)).await.unwrap();
        self.client = Client::new(endpoint.expect("trawl up says that it is ready"));
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The URL of the cluster engine.
    pub fn url(&self) -> String {
        let text = std::fs::read_to_string(self.data_dir.join("cluster.json")).unwrap();
        let file: Value = serde_json::from_str(&text).unwrap();
        let given = self.extra.iter().skip_while(|argument| *argument != "--cluster").nth(1);
        // The file does not tell passwords.
        given.cloned().unwrap_or_else(|| file["cluster"].as_str().unwrap().to_owned())
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The children as `cluster.json` has them now.
    pub fn processes(&self) -> Vec<Process> {
        let text = std::fs::read_to_string(self.data_dir.join("cluster.json")).unwrap();
        let file: Value = serde_json::from_str(&text).unwrap();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        file["children"]
            .as_array()
            .unwrap()
            .iter()
            .map(|child| Process {
                role: text(&child["role"]).unwrap(),
                name: text(&child["name"]).unwrap(),
                pid: i32::try_from(child["pid"].as_i64().unwrap()).unwrap(),
                http: text(&child["http"]),
                metrics: text(&child["metrics"]),
                data_dir: text(&child["data_dir"]).map(PathBuf::from),
            })
            .collect()
    }

    pub fn process(&self, name: &str) -> Process {
        self.processes().into_iter().find(|process| process.name == name).unwrap()
    }

    /// A client for every root, in order of their names.
    pub fn root_clients(&self) -> Vec<Client> {
        let roots = self.processes().into_iter().filter(|process| process.role == "root");
        roots.map(|root| Client::new(format!("http://{}", root.http.unwrap()))).collect()
    }

    pub fn signal(&self, name: &str, signal: Signal) {
        let _ = nix::sys::signal::kill(Pid::from_raw(self.process(name).pid), signal);
    }

    pub fn up_pid(&self) -> i32 {
        i32::try_from(self.up.as_ref().unwrap().id()).unwrap()
    }

    /// Kills the supervisor and every child with SIGKILL, all at once, and waits until they are gone.
    pub async fn kill_everything(&mut self) {
        let mut pids: Vec<i32> = self.processes().iter().map(|process| process.pid).collect();
        pids.insert(0, self.up_pid());
        for pid in &pids {
            let _ = nix::sys::signal::kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        if let Some(mut up) = self.up.take() {
            let _ = up.wait();
        }
        wait_until("every process is gone", || async { pids.iter().all(|pid| !is_running(*pid)) }).await;
    }

    /// Ends the cluster as Ctrl-C would and returns how long that took.
    pub async fn terminate(&mut self) -> Duration {
        let started = Instant::now();
        let _ = nix::sys::signal::kill(Pid::from_raw(self.up_pid()), Signal::SIGTERM);
        let mut up = self.up.take().unwrap();
        tokio::task::spawn_blocking(move || up.wait()).await.unwrap().unwrap();
        started.elapsed()
    }

    /// Waits until every root has heard of an index that was made through one of them.
    pub async fn known_everywhere(&self, index: &str) {
        for root in self.root_clients() {
            let path = format!("/{index}");
            wait_until("the root knows the index", async || root.send("HEAD", &path, None).await.status == 200).await;
        }
    }

    /// Waits until the cluster's health is green.
    pub async fn green(&self) {
        green(&self.client).await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut up) = self.up.take() {
            // Its children end when their pipe from it closes.
            let _ = up.kill();
            let _ = up.wait();
        }
    }
}

/// Waits until a root says that the cluster's health is green. It may just be coming back.
pub async fn green(root: &Client) {
    let health = async || root.try_send("GET", "/_cluster/health", None, &[]).await;
    wait_until("health is green", async || health().await.is_ok_and(|answer| answer.body["status"] == "green")).await;
}

/// What processes log: `TRAWL_TEST_LOG`, or warnings only.
pub fn log_level() -> String {
    std::env::var("TRAWL_TEST_LOG").unwrap_or_else(|_| "warn".to_owned())
}

/// Whether a process runs (a zombie does not).
pub fn is_running(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
}

/// Polls a condition until it holds.
pub async fn wait_until<F: AsyncFn() -> bool>(what: &str, condition: F) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// An HTTP client of one root.
#[derive(Clone)]
pub struct Client {
    pub endpoint: String,
    http: reqwest::Client,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
    /// `Null` when the body is not JSON.
    pub body: Value,
}

impl Client {
    pub fn new(endpoint: String) -> Self {
        // The client wants a TLS provider even for plain HTTP; a second installation changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().timeout(Duration::from_secs(60)).build().unwrap();
        Self { endpoint, http }
    }

    /// Sends a request; an answer of any status is returned, no answer is an error.
    pub async fn try_send(
        &self,
        method: &str,
        path: &str,
        body: Option<Vec<u8>>,
        headers: &[(&str, &str)],
    ) -> Result<Answer, reqwest::Error> {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.http.request(method, format!("{}{path}", self.endpoint));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await?;
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Ok(Answer { status, headers, text, body })
    }

    pub async fn send(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let body = body.map(|body| body.to_string().into_bytes());
        self.try_send(method, path, body, &[]).await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, None).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send("PUT", path, Some(body)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, None).await
    }

    /// Creates an index and waits until all its replicas serve.
    pub async fn create_index(&self, name: &str, shards: u32, replicas: u32, mappings: Value) {
        let settings = json!({"number_of_shards": shards, "number_of_replicas": replicas});
        let answer = self.put(&format!("/{name}"), json!({"settings": settings, "mappings": mappings})).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let path = format!("/_cluster/health/{name}?wait_for_status=green&timeout=60s");
        let health = self.get(&path).await;
        assert_eq!(health.body["status"], "green", "{}", health.text);
    }

    /// Indexes documents given as (id, source); every one has to be taken.
    pub async fn bulk_index(&self, index: &str, documents: &[(String, Value)], refresh: bool) -> Answer {
        let mut body = String::new();
        for (id, source) in documents {
            body += &format!("{}\n{source}\n", json!({"index": {"_id": id}}));
        }
        self.bulk(index, body, refresh).await
    }

    /// Sends a bulk body; every item has to succeed.
    pub async fn bulk(&self, index: &str, body: String, refresh: bool) -> Answer {
        let path = format!("/{index}/_bulk?refresh={refresh}");
        let answer = self.try_send("POST", &path, Some(body.into_bytes()), &[]).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.body["errors"], false, "{}", &answer.text[..answer.text.len().min(2000)]);
        answer
    }

    pub async fn search(&self, index: &str, body: Value) -> Value {
        let answer = self.post(&format!("/{index}/_search"), body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.body
    }
}

/// Ids of a search's hits, in order.
pub fn ids(search: &Value) -> Vec<String> {
    search["hits"]["hits"].as_array().unwrap().iter().map(|hit| hit["_id"].as_str().unwrap().to_owned()).collect()
}
