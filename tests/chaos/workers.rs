//! The load through the work queue: files, tasks and workers.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::harness::{Cluster, TRAWL};

/// Files that the documents are spread over, half of them compressed.
const FILES: usize = 8;
/// How long one root may take to tell about the queue.
const ASKED_FOR: Duration = Duration::from_secs(1);

/// Writes the documents into files.
pub fn write_files(directory: &Path, documents: &[(String, Value)]) -> Vec<PathBuf> {
    let folder = directory.join("input");
    fs::create_dir_all(&folder).unwrap();
    let chunks = documents.chunks(documents.len().div_ceil(FILES)).enumerate();
    chunks
        .map(|(number, chunk)| {
            let text: String = chunk.iter().map(|(_, document)| format!("{document}\n")).collect();
            let packed = number % 2 == 0;
            let path = folder.join(format!("part-{number}.ndjson{}", if packed { ".gz" } else { "" }));
            if packed {
                let file = fs::File::create(&path).unwrap();
                let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
                encoder.write_all(text.as_bytes()).unwrap();
                encoder.finish().unwrap();
            } else {
                fs::write(&path, text).unwrap();
            }
            path
        })
        .collect()
}

/// Pushes the files as tasks.
pub async fn enqueue(cluster: &Cluster, index: &str, files: &[PathBuf]) {
    let mut command = Command::new(TRAWL);
    command.args([
        "load",
        "--enqueue",
        "--endpoint",
        &cluster.client.endpoint,
        "--index",
        index,
        "--id",
        "id",
        "--task-bytes",
        "128KiB",
        "--attempts",
        "1000",
    ]);
    let output = tokio::task::spawn_blocking({
        command.args(files).stdin(Stdio::null());
        move || command.output().unwrap()
    });
    let output = output.await.unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    println!("{}", text.lines().last().unwrap_or_default());
}

/// The counts of load tasks, from any root that answers; null when none does.
pub async fn queue(cluster: &Cluster) -> Value {
    for client in cluster.root_clients() {
        // A paused root must not hold up the kills.
        let asked =
            tokio::time::timeout(ASKED_FOR, client.try_send("GET", "/_trawl/queue?shards=false", None, &[])).await;
        if let Ok(Ok(answer)) = asked
            && answer.status == 200
        {
            return answer.body["kinds"]["load"].clone();
        }
    }
    Value::Null
}

/// Starts a worker.
pub fn spawn(url: &str, number: usize) -> Child {
    Command::new(TRAWL)
        .args(["--log", "warn", "worker", "--cluster", url, "--concurrency", "2", "--claim-time", "3s"])
        .args(["--name", &format!("worker-{number}")])
        // Ends with this process even when that is aborted.
        .env("TRAWL_SUPERVISED", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}
