//! A cluster of this binary's own, as a user starts it: `trawl up` in a temporary directory.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::processes::cpu_of;

/// How long a start may take.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// A running cluster; it ends when dropped.
pub struct Cluster {
    up: Child,
    directory: TempDir,
    endpoint: String,
    http: reqwest::Client,
}

impl Cluster {
    /// Starts one and waits until it is ready. `extra` are further arguments of `trawl up`.
    pub async fn start(roots: usize, leaves: usize, extra: &[String]) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut up = Command::new(std::env::current_exe()?)
            .args(["--log", "warn", "up", "--http", "127.0.0.1:0", "--data-dir"])
            .arg(directory.path())
            .args(["--roots", &roots.to_string(), "--leaves", &leaves.to_string()])
            .args(extra)
            // What they ship is not what is measured.
            .arg("--no-sidecars")
            .env("TRAWL_SUPERVISED", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start trawl up")?;
        let mut lines = BufReader::new(up.stdout.take().context("no output")?).lines();
        let ready = async {
            while let Some(line) = lines.next_line().await? {
                if let Some(rest) = line.strip_prefix("ready: ") {
                    return Ok(rest.split(' ').next().unwrap_or_default().to_owned());
                }
            }
            bail!("trawl up ended before it was ready")
        };
        let endpoint = tokio::time::timeout(START_PATIENCE, ready).await.context("trawl up is not ready")??;
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { up, directory, endpoint, http: reqwest::Client::new() })
    }

    /// The first root's address.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Its HTTP client.
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// Creates an index and waits until all its replicas serve.
    ///
    /// # Errors
    /// When it is refused, or not green within the patience.
    pub async fn create(&self, index: &str, body: &Value) -> anyhow::Result<()> {
        let url = format!("{}/{index}", self.endpoint);
        let answer =
            self.http.put(url).header("content-type", "application/json").body(body.to_string()).send().await?;
        ensure!(answer.status().is_success(), "cannot create {index}: {}", answer.text().await?);
        let health = format!("{}/_cluster/health", self.endpoint);
        let deadline = tokio::time::Instant::now() + START_PATIENCE;
        loop {
            let text = self.http.get(&health).send().await?.text().await?;
            let answer: Value = serde_json::from_str(&text)?;
            if answer["status"] == "green" {
                return Ok(());
            }
            ensure!(tokio::time::Instant::now() < deadline, "the cluster does not get green: {text}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Live documents of an index.
    ///
    /// # Errors
    /// When the count cannot be had.
    pub async fn count(&self, index: &str) -> anyhow::Result<u64> {
        let text = self.http.get(format!("{}/{index}/_count", self.endpoint)).send().await?.text().await?;
        let answer: Value = serde_json::from_str(&text)?;
        answer["count"].as_u64().with_context(|| format!("no count in {text}"))
    }

    /// Processor time used so far by all processes, in seconds.
    ///
    /// # Errors
    /// When `cluster.json` cannot be read.
    pub fn cpu(&self) -> anyhow::Result<f64> {
        Ok(self.pids()?.into_iter().map(cpu_of).sum())
    }

    fn pids(&self) -> anyhow::Result<Vec<i32>> {
        let file: Value = serde_json::from_slice(&std::fs::read(self.directory.path().join("cluster.json"))?)?;
        let children = file["children"].as_array().into_iter().flatten();
        let children = children.filter_map(|child| i32::try_from(child["pid"].as_i64()?).ok());
        Ok(children.chain(self.up.id().and_then(|pid| i32::try_from(pid).ok())).collect())
    }

    /// Ends it, politely.
    pub async fn stop(mut self) {
        drop(self.up.stdin.take());
        let _ = tokio::time::timeout(Duration::from_secs(15), self.up.wait()).await;
    }
}

/// Runs `trawl load` to its end.
///
/// # Errors
/// When it fails or rejects anything.
pub async fn load(endpoint: &str, index: &str, id: &str, file: &Path) -> anyhow::Result<()> {
    let output = Command::new(std::env::current_exe()?)
        .args(["load", "--endpoint", endpoint, "--index", index, "--id", id, "--refresh"])
        .arg(file)
        .stdin(Stdio::null())
        .output()
        .await?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "trawl load failed: {out}{err}");
    Ok(())
}
