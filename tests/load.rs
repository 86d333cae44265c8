//! `trawl load` and `trawl search` as a person uses them, on files of many forms and conditions.
#![allow(missing_docs, clippy::unwrap_used)]

mod harness;

use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use harness::{Client, Cluster, TRAWL};
use serde_json::{Value, json};

async fn trawl(arguments: &[&str], stdin: Option<&[u8]>) -> Output {
    let mut command = Command::new(TRAWL);
    command.args(["--log", "warn"]).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let bytes = stdin.unwrap_or_default().to_vec();
    std::thread::spawn(move || input.write_all(&bytes));
    tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap()
}

async fn load(cluster: &Cluster, index: &str, more: &[&str], files: &[&Path], stdin: Option<&[u8]>) -> (i32, String) {
    let mut arguments = vec!["load", "--endpoint", &cluster.client.endpoint, "--index", index];
    arguments.extend(more);
    arguments.extend(files.iter().map(|path| path.to_str().unwrap()));
    let output = trawl(&arguments, stdin).await;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("trawl {}\n{text}", arguments.join(" "));
    (output.status.code().unwrap(), text)
}

async fn count(client: &Client, index: &str) -> u64 {
    client.get(&format!("/{index}/_refresh")).await;
    client.get(&format!("/{index}/_count")).await.body["count"].as_u64().unwrap()
}

fn ndjson(lines: usize) -> String {
    (0..lines)
        .map(|number| {
            format!(
                "{}\n",
                json!({"id": format!("n{number}"), "title": format!("boat {number}"), "length": number % 40})
            )
        })
        .collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_is_found_out_loaded_and_searchable() {
    let cluster = Cluster::start(1, 2).await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let client = &cluster.client;

    let plain = file("a.json", ndjson(1_000).as_bytes());
    assert_eq!(load(&cluster, "plain", &["--id", "id"], &[&plain], None).await.0, 0);
    assert_eq!(count(client, "plain").await, 1_000);
    assert_eq!(client.get("/plain/_doc/n7").await.body["_source"]["title"], "boat 7");
    assert_eq!(client.get("/plain/_settings").await.body["plain"]["settings"]["index"]["number_of_shards"], "2");
    // The same again replaces, whether ids come from the documents or from their places.
    assert_eq!(load(&cluster, "plain", &["--id", "id"], &[&plain], None).await.0, 0);
    assert_eq!(count(client, "plain").await, 1_000);

    let packed = file("b.bin", &gzip(ndjson(300).as_bytes()));
    assert_eq!(load(&cluster, "packed", &[], &[&packed], None).await.0, 0);
    assert_eq!(load(&cluster, "packed", &[], &[&packed], None).await.0, 0);
    assert_eq!(count(client, "packed").await, 300);

    let csv = file("c.csv", b"name,length,open\n\"Anna, the first\",12,true\nBertha,7,false\n");
    assert_eq!(load(&cluster, "csv", &["--id", "name", "--refresh"], &[&csv], None).await.0, 0);
    let answer = client.search("csv", json!({"query": {"range": {"length": {"gte": 10}}}})).await;
    assert_eq!(harness::ids(&answer), ["Anna, the first"], "{answer}");

    let packages = b"Package: trawl\nVersion: 1.0\nInstalled-Size: 10\nDescription: search cluster\n A long text about it.\n .\n More.\n\nPackage: net\nVersion: 2\nDescription: for fish\n";
    let packages = file("Packages", packages);
    assert_eq!(load(&cluster, "packages", &[], &[&packages], None).await.0, 0);
    assert_eq!(client.get("/packages/_doc/trawl").await.body["found"], true);

    let texts = folder.path().join("texts");
    std::fs::create_dir(&texts).unwrap();
    std::fs::write(texts.join("one.md"), "# Sonar\n\nHow a sonar works.\n").unwrap();
    std::fs::write(texts.join("two.txt"), "Winches and nets").unwrap();
    assert_eq!(load(&cluster, "texts", &["--refresh"], &[&texts], None).await.0, 0);
    assert_eq!(count(client, "texts").await, 2);

    assert_eq!(load(&cluster, "piped", &[], &[Path::new("-")], Some(ndjson(50).as_bytes())).await.0, 0);
    assert_eq!(count(client, "piped").await, 50);

    let found = trawl(&["search", "--endpoint", &client.endpoint, "--index", "texts", "sonar"], None).await;
    let text = String::from_utf8_lossy(&found.stdout).into_owned();
    assert!(found.status.success() && text.contains("Sonar") && text.contains("1 hit"), "{text}");
    let raw = trawl(&["search", "--endpoint", &client.endpoint, "--index", "texts", "--json", "sonar"], None).await;
    let raw: Value = serde_json::from_slice(&raw.stdout).unwrap();
    assert_eq!(raw["hits"]["total"]["value"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_input_is_reported_by_line_and_the_rest_is_loaded() {
    let cluster = Cluster::start(1, 2).await;
    let folder = tempfile::tempdir().unwrap();
    let mut lines = ndjson(20).into_bytes();
    lines.extend(b"{\"id\": \"broken\n");
    lines.extend(b"{\"id\": \"utf\xff8\"}\n");
    lines.extend(b"[1, 2]\n");
    lines.extend(format!("{{\"title\": \"{}\"}}\n", "x".repeat(50 << 20)).into_bytes());
    lines.extend(ndjson(30).into_bytes());
    let path = folder.path().join("damaged.ndjson");
    std::fs::write(&path, &lines).unwrap();
    let (code, text) = load(&cluster, "damaged", &[], &[&path], None).await;
    assert_eq!(code, 1);
    for line in [21, 22, 23, 24] {
        assert!(text.contains(&format!("damaged.ndjson:{line}")), "line {line}");
    }
    assert_eq!(count(&cluster.client, "damaged").await, 50);

    let whole = gzip(ndjson(5_000).as_bytes());
    let path = folder.path().join("cut.ndjson.gz");
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let (code, _) = load(&cluster, "cut", &[], &[&path], None).await;
    assert_eq!(code, 1);
    assert!((1_000..4_000).contains(&count(&cluster.client, "cut").await));

    // A NUL byte spoils its line, not a file whose name says what it is.
    let path = folder.path().join("nul.ndjson");
    std::fs::write(&path, format!("{}{{\"id\": \"a\0b\"}}\n{}", ndjson(3), ndjson(5))).unwrap();
    let (code, text) = load(&cluster, "nul", &[], &[&path], None).await;
    assert_eq!(code, 1);
    assert!(text.contains("nul.ndjson:4: rejected: invalid_json") && text.contains("loaded 8 documents"), "{text}");
    assert_eq!(count(&cluster.client, "nul").await, 8);
    let unnamed = folder.path().join("nul");
    std::fs::copy(&path, &unnamed).unwrap();
    let (code, text) = load(&cluster, "unnamed", &[], &[&unnamed], None).await;
    assert!(code == 1 && text.contains("if it is text, --format says of which"), "{text}");
    let (code, text) = load(&cluster, "unnamed", &["--format", "ndjson"], &[&unnamed], None).await;
    assert!(code == 1 && text.contains("nul:4: rejected") && text.contains("loaded 8 documents"), "{text}");

    let mappings = json!({"properties": {"length": {"type": "integer"}}});
    cluster.client.create_index("typed", 2, 0, mappings).await;
    let (code, text) = load(
        &cluster,
        "typed",
        &[],
        &[Path::new("-")],
        Some(b"{\"length\": 1}\n{\"length\": \"long\"}\n{\"length\": 3}\n"),
    )
    .await;
    assert_eq!(code, 1);
    assert!(text.contains(":2") && text.contains("document_parsing_exception"), "{text}");
    assert_eq!(count(&cluster.client, "typed").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_read_are_counted_apart_and_the_others_are_loaded() {
    let cluster = Cluster::start(1, 1).await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("good.ndjson"), ndjson(40)).unwrap();
    std::fs::create_dir_all(path("hollow/within")).unwrap();
    std::fs::create_dir(path("linked")).unwrap();
    std::os::unix::fs::symlink(path("gone"), path("linked/nowhere.ndjson")).unwrap();
    std::fs::write(path("linked/some.ndjson"), "{\"title\": \"one\"}\nno document\n").unwrap();
    // Opened by anybody, read by nobody.
    let unreadable = Path::new("/proc/self/mem").to_owned();
    let files = [path("missing.ndjson"), path("hollow"), path("good.ndjson"), path("linked"), unreadable];
    let files: Vec<&Path> = files.iter().map(|path| path.as_path()).collect();
    let (code, text) = load(&cluster, "mixed", &[], &files, None).await;
    assert_eq!(code, 1);
    assert!(text.contains("; rejected 1 (1 invalid_json); could not be read: 4 files"), "{text}");
    for file in ["missing.ndjson", "hollow", "linked/nowhere.ndjson", "proc/self/mem"] {
        assert!(text.contains(&format!("{file}: could not be read: ")), "{file}");
    }
    assert_eq!(count(&cluster.client, "mixed").await, 41);

    // The same when the place in a pipe is not noted, and when nothing is left to load.
    let (code, text) = load(&cluster, "mixed", &[], &[files[0], Path::new("-")], Some(b"{\"title\": \"two\"}\n")).await;
    assert_eq!(code, 1);
    assert!(text.contains("loaded 1 document (") && text.contains("; rejected 0; could not be read: 1 file"), "{text}");
    let (code, text) = load(&cluster, "mixed", &[], &files[..2], None).await;
    assert_eq!(code, 1);
    assert!(text.contains("loaded 0 documents (") && text.contains("could not be read: 2 files"), "{text}");
    let (code, text) = load(&cluster, "mixed", &["--enqueue"], &files, None).await;
    assert_eq!(code, 1);
    assert!(text.contains("enqueued 1 task from 2 files") && text.contains("could not be read: 4 files"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_names_the_roots_and_the_command_line_wins_over_the_environment() {
    let cluster = Cluster::start(1, 1).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("some.ndjson");
    std::fs::write(&file, ndjson(5)).unwrap();
    let engine = format!("sqlite:{}", cluster.data_dir().join("cluster").display());
    let run = async |arguments: &[&str], name: &str, value: &str| {
        let mut command = Command::new(TRAWL);
        command.args(["--log", "warn"]).args(arguments).env(name, value).stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        println!("{name}={value} trawl {}\n{text}", arguments.join(" "));
        (output.status.code().unwrap(), text)
    };
    let file = file.to_str().unwrap();
    let (endpoint, nowhere) = (cluster.client.endpoint.as_str(), "http://127.0.0.1:9");
    let load = ["load", "--index", "some", "--id", "id"];
    assert_eq!(run(&[&load[..], &[file]].concat(), "TRAWL_CLUSTER", &engine).await.0, 0);
    let direct = [&load[..], &["--endpoint", endpoint, file]].concat();
    assert_eq!(run(&direct, "TRAWL_CLUSTER", "sqlite:/nowhere").await.0, 0);
    let enqueue = [&load[..], &["--enqueue", "--cluster", &engine, file]].concat();
    assert_eq!(run(&enqueue, "TRAWL_ENDPOINT", nowhere).await.0, 0);
    let (code, text) = run(&["worker", "--until-empty", "--cluster", &engine], "TRAWL_ENDPOINT", nowhere).await;
    assert!(code == 0 && text.contains("loaded 5 documents"), "{text}");
    let (code, text) =
        run(&["worker", "--until-empty", "--endpoint", endpoint], "TRAWL_CLUSTER", "sqlite:/nowhere").await;
    assert_eq!(code, 0, "{text}");
    let nowhere = ["worker", "--until-empty", "--retry-for", "0s"];
    let (code, text) = run(&nowhere, "TRAWL_CLUSTER", "sqlite:/nowhere").await;
    assert!(code == 1 && text.contains("there is no cluster engine in /nowhere"), "{text}");
    assert!(!Path::new("/nowhere").exists());
    assert_eq!(count(&cluster.client, "some").await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_not_there_is_a_clear_error() {
    let output = trawl(&["search", "--endpoint", "http://127.0.0.1:9", "boat"], None).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("127.0.0.1:9"), "{output:?}");
}
