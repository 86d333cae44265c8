//! A client of several roots, and a stream of searches through it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{Answer, Client, Cluster, wait_until};

/// Without the engine metrics take a moment.
const METRICS_PATIENCE: Duration = Duration::from_secs(3);

/// Asks the next root when one does not answer or says that it cannot, as the official clients do.
#[derive(Clone)]
pub struct Roots {
    pub all: Vec<(String, Client)>,
    /// How long one root may take before another is asked.
    pub patience: Duration,
}

impl Roots {
    pub fn of(cluster: &Cluster) -> Self {
        let all = (0..).map(|number| format!("root-{number}")).zip(cluster.root_clients()).collect();
        Self { all, patience: Duration::from_millis(500) }
    }

    /// One alone, which may take as long as a search may.
    pub fn only(name: &str, root: &Client) -> Self {
        Self { all: vec![(name.to_owned(), root.clone())], patience: Duration::from_secs(12) }
    }

    pub fn except(&self, name: &str) -> Self {
        Self { all: self.all.iter().filter(|(other, _)| other != name).cloned().collect(), ..*self }
    }

    pub fn client(&self, name: &str) -> &Client {
        &self.all.iter().find(|(other, _)| other == name).unwrap().1
    }

    /// The first answer of status 200; `None` when no root has one in time.
    pub async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Option<Answer> {
        for (_, root) in &self.all {
            let body = body.map(|body| body.to_string().into_bytes());
            let answer = tokio::time::timeout(self.patience, root.try_send(method, path, body, &[])).await;
            if let Ok(Ok(answer)) = answer
                && answer.status == 200
            {
                return Some(answer);
            }
        }
        None
    }

    /// The answer of the first root that can be connected to. What goes wrong after that is an error: the request
    /// may have been carried out.
    pub async fn send(&self, method: &str, path: &str, body: &[u8]) -> Result<Answer, reqwest::Error> {
        let mut last = None;
        for (_, root) in &self.all {
            match root.try_send(method, path, Some(body.to_vec()), &[]).await {
                Err(error) if error.is_connect() => last = Some(error),
                answer => return answer,
            }
        }
        Err(last.expect("there is a root"))
    }

    /// Who leads, at which epoch.
    pub async fn leader(&self) -> Option<(String, u64)> {
        let answer = self.ask("GET", "/_trawl/cluster", None).await?;
        Some((answer.body["leader"]["name"].as_str()?.to_owned(), answer.body["leader"]["epoch"].as_u64()?))
    }

    /// Waits until one leads at a higher epoch.
    pub async fn later_leader(&self, epoch: u64) -> (String, u64) {
        let found = Mutex::new(None);
        wait_until("another root leads, at a higher epoch", async || {
            let leader = self.leader().await.filter(|(_, now)| *now > epoch);
            *found.lock().unwrap() = leader;
            found.lock().unwrap().is_some()
        })
        .await;
        found.into_inner().unwrap().unwrap()
    }
}

/// The value of a metric without labels.
pub async fn metric(root: &Client, name: &str) -> Option<f64> {
    let metrics =
        tokio::time::timeout(METRICS_PATIENCE, root.try_send("GET", "/metrics", None, &[])).await.ok()?.ok()?;
    metrics.text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// Searches that go on until they are stopped: each has to find as many documents, on all shards.
pub struct Searches {
    counts: Arc<Counts>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    stop: AtomicBool,
    complete: AtomicUsize,
    faults: Mutex<Vec<String>>,
    worst: Mutex<Duration>,
}

/// What became of them.
#[derive(Debug)]
pub struct Searched {
    pub complete: usize,
    /// Those that failed or were partial.
    pub faults: Vec<String>,
    pub worst: Duration,
}

impl Searches {
    /// `index` has to hold `documents` that match `boat` in `title`, or more when that may be.
    pub fn start(roots: Roots, index: &str, documents: u64, or_more: bool) -> Self {
        let counts = Arc::new(Counts::default());
        let task = tokio::spawn(counts.clone().run(roots, format!("/{index}/_search"), documents, or_more));
        Self { counts, task }
    }

    /// How many were complete so far.
    pub fn complete(&self) -> usize {
        self.counts.complete.load(Ordering::Relaxed)
    }

    pub async fn stop(self) -> Searched {
        self.counts.stop.store(true, Ordering::Relaxed);
        let counts = self.counts.clone();
        self.task.await.unwrap();
        let faults = std::mem::take(&mut *counts.faults.lock().unwrap());
        let worst = *counts.worst.lock().unwrap();
        Searched { complete: counts.complete.load(Ordering::Relaxed), faults, worst }
    }
}

impl Counts {
    async fn run(self: Arc<Self>, roots: Roots, path: String, documents: u64, or_more: bool) {
        let body = json!({"query": {"match": {"title": "boat"}}, "track_total_hits": true});
        while !self.stop.load(Ordering::Relaxed) {
            let began = Instant::now();
            let answer = roots.ask("POST", &path, Some(&body)).await;
            let is_complete = answer.as_ref().is_some_and(|answer| {
                let found = answer.body["hits"]["total"]["value"].as_u64().unwrap_or(0);
                let enough = found == documents || or_more && found > documents;
                enough && answer.body["_shards"]["failed"] == 0 && answer.body["timed_out"] == false
            });
            if is_complete {
                self.complete.fetch_add(1, Ordering::Relaxed);
                let mut worst = self.worst.lock().unwrap();
                *worst = began.elapsed().max(*worst);
            } else {
                let fault = format!("{:?}: {:?}", began.elapsed(), answer.map(|answer| answer.text));
                eprintln!("search: {fault}");
                self.faults.lock().unwrap().push(fault);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
