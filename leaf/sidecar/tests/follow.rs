//! Following, on real files: rotation, truncation, copies, deletion, restarts. The sink is a file.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use trawl_sidecar::{Config, Health, run};

struct Bench {
    directory: tempfile::TempDir,
    running: Option<(CancellationToken, JoinHandle<()>)>,
    registry: Registry,
    out: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("logs")).unwrap();
        let out = directory.path().join("out.ndjson");
        Self { directory, running: None, registry: Registry::default(), out }
    }

    fn log(&self, name: &str) -> PathBuf {
        self.directory.path().join("logs").join(name)
    }

    fn append(&self, name: &str, text: &str) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.log(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    async fn start(&mut self) {
        let path = |name: &str| self.directory.path().join(name);
        let mut config = Config::new(path("logs"), path("state"), "node");
        config.sinks = vec![format!("file:{}", self.out.display()).parse().unwrap()];
        config.batch_time = Duration::from_millis(20);
        config.join_time = Duration::from_millis(200);
        config.line_bytes_max = 1_000;
        let stop = CancellationToken::new();
        self.registry = Registry::default();
        let running = run(config, &mut self.registry, Health::default(), stop.clone()).unwrap();
        self.running = Some((stop, tokio::spawn(async move { running.await.unwrap() })));
    }

    async fn stop(&mut self) {
        let (stop, running) = self.running.take().unwrap();
        stop.cancel();
        running.await.unwrap();
    }

    fn records(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.out).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn messages(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for record in self.records() {
            *counts.entry(record["message"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        counts
    }

    /// Waits until exactly these messages have come, each once.
    async fn expect(&self, messages: &[String]) {
        let wanted: BTreeMap<String, usize> = messages.iter().map(|message| (message.clone(), 1)).collect();
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.messages() != wanted {
            assert!(Instant::now() < deadline, "{:#?} instead of {wanted:#?}", self.messages());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn metric(&self, name: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in {text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

fn messages(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("message number {number}")).collect()
}

fn lines(range: std::ops::Range<usize>) -> String {
    range
        .map(|number| format!("{{\"level\":\"info\",\"message\":\"message number {number}\",\"n\":{number}}}\n"))
        .collect()
}

fn gzip(path: &Path) {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&fs::read(path).unwrap()).unwrap();
    fs::write(
        path.with_extension(format!("{}.gz", path.extension().unwrap().to_str().unwrap())),
        encoder.finish().unwrap(),
    )
    .unwrap();
    fs::remove_file(path).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rotation_by_rename_and_compressed_leftovers() {
    let mut bench = Bench::new();
    bench.append("app.log", &lines(0..10));
    bench.start().await;
    bench.expect(&messages(0..10)).await;
    bench.append("app.log", &lines(10..12));
    fs::rename(bench.log("app.log"), bench.log("app.log.1")).unwrap();
    bench.append("app.log", &lines(12..20));
    bench.append("app.log.1", &lines(20..22));
    bench.expect(&messages(0..22)).await;
    // While it runs a leftover is known by its file; after a restart by its first bytes.
    gzip(&bench.log("app.log.1"));
    bench.append("app.log", &lines(22..23));
    bench.expect(&messages(0..23)).await;
    bench.stop().await;
    fs::rename(bench.log("app.log"), bench.log("app.log.1")).unwrap();
    bench.append("app.log.1", &lines(23..30));
    bench.append("app.log", &lines(30..31));
    gzip(&bench.log("app.log.1"));
    bench.start().await;
    bench.expect(&messages(0..31)).await;
    assert_eq!(bench.metric("trawl_sidecar_lost_bytes_total"), 0);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn truncation_with_and_without_a_copy() {
    let mut bench = Bench::new();
    bench.append("app.log", &lines(0..10));
    bench.start().await;
    bench.expect(&messages(0..10)).await;
    for round in 1..4 {
        bench.append("app.log", &lines(round * 10..round * 10 + 5));
        fs::copy(bench.log("app.log"), bench.log(&format!("app.log.{round}"))).unwrap();
        fs::write(bench.log("app.log"), "").unwrap();
        bench.append("app.log", &lines(round * 10 + 5..round * 10 + 10));
        bench.expect(&messages(0..round * 10 + 10)).await;
    }
    // Shorter and longer than what was read.
    fs::write(bench.log("app.log"), lines(40..41)).unwrap();
    bench.expect(&messages(0..41)).await;
    fs::write(bench.log("app.log"), lines(41..60)).unwrap();
    bench.expect(&messages(0..60)).await;
    assert_eq!(bench.metric("trawl_sidecar_lost_bytes_total"), 0);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_files_are_read_to_their_end() {
    let mut bench = Bench::new();
    bench.append("app.log", &lines(0..3));
    bench.start().await;
    bench.expect(&messages(0..3)).await;
    let mut open = OpenOptions::new().append(true).open(bench.log("app.log")).unwrap();
    fs::remove_file(bench.log("app.log")).unwrap();
    open.write_all(lines(3..5).as_bytes()).unwrap();
    bench.expect(&messages(0..5)).await;
    bench.stop().await;
    // What is gone before it was read is counted.
    bench.append("other.log", &lines(5..8));
    bench.start().await;
    bench.expect(&messages(0..8)).await;
    bench.stop().await;
    bench.append("other.log", &lines(8..10));
    let checkpoint = bench.directory.path().join("state/checkpoint.json");
    let text = fs::read_to_string(&checkpoint).unwrap();
    let size = fs::metadata(bench.log("other.log")).unwrap().len();
    let mut state: Value = serde_json::from_str(&text).unwrap();
    for file in state["files"].as_array_mut().unwrap() {
        if file["name"] == "other.log" {
            file["size"] = size.into();
        }
    }
    fs::write(&checkpoint, state.to_string()).unwrap();
    fs::remove_file(bench.log("other.log")).unwrap();
    bench.start().await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while bench.metric("trawl_sidecar_lost_lines_total") != 2 {
        assert!(Instant::now() < deadline, "{}", bench.metric("trawl_sidecar_lost_lines_total"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_lines_are_kept_and_marked() {
    let mut bench = Bench::new();
    bench.append("app.log", "plain begins\n");
    bench.append("json.log", &lines(0..1));
    bench.start().await;
    let mut raw = b"bad \xff\xfe bytes\n".to_vec();
    raw.extend_from_slice(&[b'x'; 5_000]);
    raw.extend_from_slice(b"\npanic here\n\tat a\n\tat b\nlast without end");
    let mut file = OpenOptions::new().append(true).open(bench.log("app.log")).unwrap();
    file.write_all(&raw).unwrap();
    bench.append("json.log", "not json\n");
    let expected =
        ["plain begins", "bad \\xFF\\xFE bytes", &"x".repeat(1_000), "panic here\n\tat a\n\tat b", "not json"];
    let mut expected: Vec<String> = expected.iter().map(|text| (*text).to_owned()).collect();
    expected.extend(messages(0..1));
    bench.expect(&expected).await;
    // The line that has no end is shipped once it has one.
    bench.append("app.log", " now\n");
    expected.push("last without end now".to_owned());
    bench.expect(&expected).await;
    let marks = |text: &str| {
        bench.records().into_iter().find(|record| record["message"] == text).unwrap()["log"]["marks"].to_string()
    };
    assert_eq!(marks("bad \\xFF\\xFE bytes"), r#"["invalid_utf8"]"#);
    assert_eq!(marks(&"x".repeat(1_000)), r#"["cut"]"#);
    assert_eq!(marks("not json"), r#"["unparsed"]"#);
    assert_eq!(marks("plain begins"), "null");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sidecars_cannot_share_a_state_directory() {
    let mut bench = Bench::new();
    bench.start().await;
    let path = |name: &str| bench.directory.path().join(name);
    let mut config = Config::new(path("logs"), path("state"), "node");
    config.sinks = vec!["stdout:".parse().unwrap()];
    let second = run(config, &mut Registry::default(), Health::default(), CancellationToken::new());
    assert!(second.err().unwrap().to_string().contains("in use"));
    bench.stop().await;
}
