//! Inputs behind `http://` and `s3://`, read by the real binary from a small server that speaks just enough of both.
#![allow(missing_docs, clippy::unwrap_used)]

mod harness;

use std::{
    collections::BTreeMap,
    io::Write,
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{
        HeaderMap, Method, StatusCode,
        header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_MATCH, LAST_MODIFIED, RANGE},
    },
    response::{IntoResponse, Response},
};
use harness::{Cluster, TRAWL};
use serde_json::json;

/// Objects by path; `/plain/…` knows no ranges.
struct Objects {
    objects: BTreeMap<String, Vec<u8>>,
    ranges: AtomicU64,
    unsigned: AtomicU64,
}

const MODIFIED: &str = "Sun, 01 Feb 2026 10:00:00 GMT";

fn etag(content: &[u8]) -> String {
    format!("\"{:x}-{}\"", content.len(), content.first().copied().unwrap_or_default())
}

async fn serve(State(objects): State<Arc<Objects>>, request: Request) -> Response {
    let uri = request.uri().clone();
    let headers = request.headers();
    if uri.path().starts_with("/bucket") && !headers.contains_key("authorization") {
        objects.unsigned.fetch_add(1, Ordering::SeqCst);
        return StatusCode::FORBIDDEN.into_response();
    }
    if uri.query().is_some_and(|query| query.contains("list-type=2")) {
        return list(&objects, uri.query().unwrap());
    }
    match objects.objects.get(uri.path()) {
        Some(content) => object(&objects, content, request.method(), headers, uri.path()),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn object(objects: &Objects, content: &[u8], method: &Method, headers: &HeaderMap, path: &str) -> Response {
    if headers.get(IF_MATCH).is_some_and(|wanted| wanted != etag(content).as_str()) {
        return StatusCode::PRECONDITION_FAILED.into_response();
    }
    let range = headers.get(RANGE).filter(|_| !path.starts_with("/plain")).map(|range| range.to_str().unwrap());
    let mut response = Response::builder().header(ETAG, etag(content)).header(LAST_MODIFIED, MODIFIED);
    let body = match range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-')) {
        Some((from, to)) => {
            objects.ranges.fetch_add(1, Ordering::SeqCst);
            let from: usize = from.parse().unwrap();
            let to = to.parse::<usize>().unwrap().min(content.len() - 1);
            response = response.status(StatusCode::PARTIAL_CONTENT).header(ACCEPT_RANGES, "bytes");
            response = response.header(CONTENT_RANGE, format!("bytes {from}-{to}/{}", content.len()));
            content[from..=to].to_vec()
        }
        None => content.to_vec(),
    };
    response = response.header(CONTENT_LENGTH, body.len());
    response.body(if method == Method::HEAD { Body::empty() } else { Body::from(body) }).unwrap()
}

fn list(objects: &Objects, query: &str) -> Response {
    let prefix = query.split('&').find_map(|part| part.strip_prefix("prefix=")).unwrap_or_default();
    let prefix = format!("/bucket/{}", prefix.replace("%2F", "/"));
    let entry = |(path, content): (&String, &Vec<u8>)| {
        let key = path.strip_prefix("/bucket/").unwrap();
        format!(
            "<Contents><Key>{key}</Key><LastModified>2026-02-01T10:00:00.000Z</LastModified><ETag>{}</ETag><Size>{}</Size></Contents>",
            etag(content).replace('"', "&quot;"),
            content.len()
        )
    };
    let entries: String = objects.objects.iter().filter(|(path, _)| path.starts_with(&prefix)).map(entry).collect();
    let body = format!(
        "<?xml version=\"1.0\"?><ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"
    );
    ([("content-type", "application/xml")], body).into_response()
}

async fn start(objects: BTreeMap<String, Vec<u8>>) -> (Arc<Objects>, String) {
    let objects = Arc::new(Objects { objects, ranges: AtomicU64::new(0), unsigned: AtomicU64::new(0) });
    let router = Router::new().fallback(serve).with_state(objects.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (objects, address)
}

async fn trawl(arguments: &[&str], s3: &str) -> (Option<i32>, String) {
    let mut command = Command::new(TRAWL);
    command.args(["--log", "warn"]).args(arguments).stdin(Stdio::null());
    command.env("AWS_ENDPOINT", s3).env("AWS_ALLOW_HTTP", "true").env("AWS_REGION", "nowhere");
    command.env("AWS_ACCESS_KEY_ID", "someone").env("AWS_SECRET_ACCESS_KEY", "secret");
    let output: Output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("trawl {}\n{text}", arguments.join(" "));
    (output.status.code(), text)
}

fn lines(range: std::ops::Range<usize>) -> Vec<u8> {
    range.map(|number| format!("{}\n", json!({"number": number, "text": "a boat"}))).collect::<String>().into_bytes()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

async fn count(cluster: &Cluster, index: &str) -> u64 {
    cluster.client.get(&format!("/{index}/_refresh")).await;
    cluster.client.get(&format!("/{index}/_count")).await.body["count"].as_u64().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_loaded_whole_in_ranges_and_below_a_prefix() {
    let cluster = Cluster::start(1, 1).await;
    let (objects, address) = start(BTreeMap::from([
        ("/files/a.ndjson".to_owned(), lines(0..20_000)),
        ("/plain/b.ndjson.gz".to_owned(), gzip(&lines(20_000..21_000))),
        ("/bucket/days/1.ndjson".to_owned(), lines(0..1_000)),
        ("/bucket/days/2.ndjson.gz".to_owned(), gzip(&lines(1_000..2_000))),
        ("/bucket/days/3.csv".to_owned(), b"number,text\n2000,a boat\n".to_vec()),
        ("/bucket/other.ndjson".to_owned(), lines(5_000..6_000)),
    ]))
    .await;
    let endpoint = cluster.client.endpoint.clone();
    let (plain, packed) = (format!("{address}/files/a.ndjson?key=secret"), format!("{address}/plain/b.ndjson.gz"));

    let load = ["load", "--endpoint", &endpoint, "--index", "web", &plain, &packed];
    let (code, text) = trawl(&load, &address).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(!text.contains("secret"), "{text}");
    assert_eq!(count(&cluster, "web").await, 21_000);

    // The same in pieces: the documents have the same ids.
    let before = objects.ranges.load(Ordering::SeqCst);
    let enqueue =
        ["load", "--enqueue", "--endpoint", &endpoint, "--index", "web", "--task-bytes", "100KiB", &plain, &packed];
    let (code, text) = trawl(&enqueue, &address).await;
    assert_eq!(code, Some(0), "{text}");
    let worker = ["worker", "--endpoint", &endpoint, "--until-empty", "--concurrency", "2"];
    let (code, text) = trawl(&worker, &address).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("loaded 21000 documents"), "{text}");
    assert_eq!(count(&cluster, "web").await, 21_000);
    assert!(objects.ranges.load(Ordering::SeqCst) > before + 8);

    let load = ["load", "--endpoint", &endpoint, "--index", "days", "s3://bucket/days/"];
    let (code, text) = trawl(&load, &address).await;
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(count(&cluster, "days").await, 2_001);
    assert_eq!(objects.unsigned.load(Ordering::SeqCst), 0);

    for missing in ["s3://bucket/nothing.ndjson", "s3://bucket/nothing/", "gs://bucket/x"] {
        let (code, text) = trawl(&["load", "--endpoint", &endpoint, "--index", "days", missing], &address).await;
        assert_eq!(code, Some(1), "{missing}: {text}");
        assert!(text.contains("could not be read: 1 file") && text.contains(missing), "{text}");
    }
}
