//! One child process: started, watched, restarted with backoff, ended.

use std::{net::SocketAddr, path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use anyhow::Context;
use nix::{sys::signal::Signal, unistd::Pid};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cluster_file::{ClusterFile, Entry, Role};
use crate::{shutdown::SUPERVISED, telemetry::LogArgs};

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// A child that lived this long is started again at once when it dies.
const ALIVE: Duration = Duration::from_secs(5);
/// How long a child may take to end by itself.
const GRACE: Duration = Duration::from_secs(9);

/// What a child is to be.
pub struct Child {
    /// Its role.
    pub role: Role,
    /// Its name, stable over restarts.
    pub name: String,
    /// URL of the cluster engine.
    pub cluster: String,
    /// Roots only.
    pub http: Option<SocketAddr>,
    /// Leaves and sidecars.
    pub data_dir: Option<PathBuf>,
    /// Leaves and their sidecars.
    pub log_dir: Option<PathBuf>,
    /// Sidecars only: where they ship to, and whose logs.
    pub sink: Option<(String, String)>,
}

/// How to start it.
pub struct Command {
    /// This program's own file.
    pub program: PathBuf,
    /// Handed on.
    pub log: LogArgs,
    /// Further arguments of leaves.
    pub leaf_args: Vec<String>,
}

/// Keeps the child running until `stop`, then ends it.
pub async fn supervise(place: usize, child: Child, command: Command, file: Arc<ClusterFile>, stop: CancellationToken) {
    let mut backoff = BACKOFF_MIN;
    while !stop.is_cancelled() {
        let started = Instant::now();
        match start(place, &child, &command, &file) {
            Ok(mut process) => {
                // Waiting would close the pipe, and the child takes that for the end of its supervisor.
                let _pipe = process.stdin.take();
                tokio::select! {
                    status = process.wait() => {
                        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                        tracing::warn!(child = child.name, status, "child ended, starting it again");
                    }
                    () = stop.cancelled() => return end(&child, process).await,
                }
            }
            Err(error) => tracing::error!(child = child.name, error = format!("{error:#}"), "cannot start child"),
        }
        if started.elapsed() >= ALIVE {
            backoff = BACKOFF_MIN;
        }
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            () = stop.cancelled() => {}
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

fn start(place: usize, child: &Child, command: &Command, file: &ClusterFile) -> anyhow::Result<tokio::process::Child> {
    let mut process = tokio::process::Command::new(&command.program);
    process
        .args(["--log", &command.log.log, "--log-format", command.log.log_format.for_child()])
        .arg(child.role.subcommand())
        .args(["--name", &child.name])
        // Not an argument: everybody may read those, and it may hold a password.
        .env("TRAWL_CLUSTER", &child.cluster)
        .env(SUPERVISED, "1")
        .stdin(Stdio::piped())
        .kill_on_drop(true);
    // With glibc's defaults (eight arenas a core, a threshold that grows) a leaf keeps about twice the
    // memory after a load. A fixed threshold for mappings of their own has to be above 1 MiB: index writers and
    // batches take such pieces all the time, and mapping each anew costs a tenth of the time of a load.
    for (variable, value) in
        [("MALLOC_ARENA_MAX", "2"), ("MALLOC_TRIM_THRESHOLD_", "1048576"), ("MALLOC_MMAP_THRESHOLD_", "1114112")]
    {
        if std::env::var_os(variable).is_none() {
            process.env(variable, value);
        }
    }
    let mut grpc = None;
    if child.role != Role::Sidecar {
        let address = free_port()?;
        process.args(["--grpc", &address.to_string()]);
        grpc = Some(address);
    }
    let mut metrics = None;
    if let Some(http) = child.http {
        process.args(["--http", &http.to_string()]);
    }
    if let Some(data_dir) = &child.data_dir {
        let address = free_port()?;
        let flag = if child.role == Role::Sidecar { "--state" } else { "--data-dir" };
        process.arg(flag).arg(data_dir).args(["--metrics", &address.to_string()]);
        metrics = Some(address);
    }
    if let Some(log_dir) = &child.log_dir {
        // Whoever is first finds it there.
        std::fs::create_dir_all(log_dir)?;
        process.arg("--log-dir").arg(log_dir);
    }
    if child.role == Role::Leaf {
        process.args(&command.leaf_args);
    }
    if let Some((sink, leaf)) = &child.sink {
        process.args(["--sink", sink, "--resource", "service.name=trawl-leaf"]);
        process.arg("--resource").arg(format!("trawl.leaf={leaf}"));
    }
    let process = process.spawn().context("cannot run this program again")?;
    let pid = process.id().context("child has no pid")?;
    file.set(
        place,
        Entry {
            role: child.role,
            name: child.name.clone(),
            pid,
            http: child.http,
            grpc,
            metrics: metrics.or(child.http),
            data_dir: child.data_dir.clone(),
            log_dir: child.log_dir.clone(),
        },
    )?;
    Ok(process)
}

/// Asks the child to end; kills it when it does not.
async fn end(child: &Child, mut process: tokio::process::Child) {
    if let Some(pid) = process.id().and_then(|pid| i32::try_from(pid).ok()) {
        // Fails only when the process is already gone, which is what is wanted.
        let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    if tokio::time::timeout(GRACE, process.wait()).await.is_err() {
        tracing::error!(child = child.name, "child did not end within {GRACE:?}, killing it");
        let _ = process.kill().await;
    }
}

/// A port that is free now. Another program may take it before the child does; the child then ends
/// and is started again with another.
fn free_port() -> anyhow::Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
