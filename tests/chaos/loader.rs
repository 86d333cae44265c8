//! The load with `trawl load`: one command, started again with the same arguments until it is through.

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::{crew::Crew, harness::TRAWL};

/// Batches that the load is cut into, about: many, so that it is met in its middle.
const BATCHES: u64 = 150;
const BATCH_BYTES_MIN: u64 = 16 << 10;

pub fn start(endpoint: &str, index: &str, files: &[PathBuf]) -> Crew {
    let bytes: u64 = files.iter().map(|path| bytes(path)).sum();
    let batch_bytes = (bytes / BATCHES).max(BATCH_BYTES_MIN).to_string();
    let mut arguments: Vec<String> = ["--log", "warn", "load", "--endpoint", endpoint, "--index", index, "--id", "id"]
        .into_iter()
        .chain(["--claim-time", "2s", "--retry-for", "60s", "--concurrency", "2", "--batch-bytes", &batch_bytes])
        .map(str::to_owned)
        .collect();
    arguments.extend(files.iter().map(|path| path.to_str().unwrap().to_owned()));
    Crew::start("loader", move || spawn(&arguments), done)
}

fn bytes(path: &Path) -> u64 {
    // What is compressed is about four times as long.
    let packed = path.extension().is_some_and(|extension| extension == "gz");
    std::fs::metadata(path).unwrap().len() * if packed { 4 } else { 1 }
}

fn spawn(arguments: &[String]) -> Child {
    Command::new(TRAWL)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Whether everything is loaded. What was refused would be a fault of the cluster.
fn done(mut child: Child) -> bool {
    let mut report = String::new();
    child.stdout.take().unwrap().read_to_string(&mut report).unwrap();
    let status = child.wait().unwrap();
    if !report.is_empty() {
        println!("trawl load: {}", report.trim_end());
        assert!(report.contains("; rejected 0") && !report.contains("could not be read"), "{report}");
    }
    status.success()
}
