//! The loader against a small server that speaks `_bulk` and is not always willing.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use bytes::Bytes;
use serde_json::{Value, json};

use super::*;

/// How the server treats requests.
#[derive(Clone, Copy, Default)]
struct Mood {
    /// Every so many-th bulk request is answered with this status as a whole.
    refuse: Option<(u64, u16)>,
    /// Every so many-th document is refused with 429.
    refuse_item: Option<u64>,
    /// Every so many-th document is taken, and answered with 503.
    deny_item: Option<u64>,
    /// Applies the request, then answers 503, every so many-th time: an answer that is lost.
    lose_answer: Option<u64>,
    /// Bodies above this are 413.
    body_max: Option<usize>,
}

#[derive(Default)]
struct Server {
    mood: Mood,
    requests: AtomicU64,
    documents_seen: AtomicU64,
    /// What was decided, by key and content, as if every document were a shard of its own.
    keys: Mutex<HashMap<(String, Vec<u8>), Value>>,
    /// Id to source and how many times it was applied.
    documents: Mutex<BTreeMap<String, (Value, u64)>>,
    created: Mutex<Option<Value>>,
    refreshed: AtomicU64,
}

fn answer(value: &Value) -> Response {
    ([(CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

async fn mapping(State(server): State<Arc<Server>>) -> Response {
    match &*server.created.lock().unwrap() {
        Some(body) => answer(&json!({ "catches": { "mappings": body["mappings"] } })),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn create(State(server): State<Arc<Server>>, body: Bytes) -> Response {
    *server.created.lock().unwrap() = Some(serde_json::from_slice(&body).unwrap());
    answer(&json!({ "acknowledged": true }))
}

async fn bulk(
    State(server): State<Arc<Server>>,
    Path(index): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    assert_eq!(index, "catches");
    let mood = server.mood;
    let is_turn = |count: u64, every: Option<u64>| every.is_some_and(|every| count.is_multiple_of(every));
    let request = server.requests.fetch_add(1, Ordering::SeqCst);
    if let Some((every, status)) = mood.refuse.filter(|(every, _)| request % every == 0) {
        let error =
            json!({ "error": { "type": "es_rejected_execution_exception", "reason": format!("every {every}th") } });
        let status = StatusCode::from_u16(status).unwrap();
        return (status, [("retry-after", "0")], error.to_string()).into_response();
    }
    if mood.body_max.is_some_and(|max| body.len() > max) {
        return (StatusCode::PAYLOAD_TOO_LARGE, "too large").into_response();
    }
    let key = headers["idempotency-key"].to_str().unwrap().to_owned();
    let lines: Vec<&[u8]> = body.split(|byte| *byte == b'\n').collect();
    let mut keys = server.keys.lock().unwrap();
    let mut items = Vec::new();
    for pair in lines.chunks_exact(2) {
        let seen = server.documents_seen.fetch_add(1, Ordering::SeqCst);
        let decided = (key.clone(), pair.concat());
        let item = match keys.get(&decided) {
            Some(item) => item.clone(),
            None if is_turn(seen, mood.refuse_item) => {
                json!({ "status": 429, "error": { "type": "es_rejected_execution_exception", "reason": "full" } })
            }
            None => {
                let item = decide(&server, pair);
                keys.insert(decided, item.clone());
                item
            }
        };
        let item = match is_turn(seen, mood.deny_item) {
            true => json!({ "status": 503, "error": { "type": "unavailable", "reason": "no answer in time" } }),
            false => item,
        };
        items.push(json!({ "index": item }));
    }
    let reply = json!({ "errors": false, "items": items });
    if is_turn(request, mood.lose_answer) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    answer(&reply)
}

/// Takes a document or refuses it for good.
fn decide(server: &Server, pair: &[&[u8]]) -> Value {
    let action: Value = serde_json::from_slice(pair[0]).unwrap();
    let source: Value = serde_json::from_slice(pair[1]).unwrap();
    if source["year"].is_string() {
        return json!({ "status": 400, "error": { "type": "document_parsing_exception", "reason": "failed to parse" } });
    }
    let mut documents = server.documents.lock().unwrap();
    let entry = documents.entry(action["index"]["_id"].as_str().unwrap().to_owned()).or_insert((Value::Null, 0));
    *entry = (source, entry.1 + 1);
    json!({ "status": 201 })
}

async fn serve(mood: Mood) -> (Arc<Server>, String) {
    let server = Arc::new(Server { mood, ..Server::default() });
    let cluster = async || answer(&json!({ "leaves": [{}, {}, {}] }));
    let refresh = async |State(server): State<Arc<Server>>| {
        server.refreshed.fetch_add(1, Ordering::SeqCst);
        answer(&json!({}))
    };
    let router = Router::new()
        .route("/{index}/_mapping", get(mapping))
        .route("/{index}", put(create))
        .route("/{index}/_bulk", post(bulk))
        .route("/{index}/_refresh", get(refresh))
        .route("/_trawl/cluster", get(cluster))
        .layer(axum::extract::DefaultBodyLimit::disable())
        .with_state(server.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (server, endpoint)
}

fn options(endpoint: &str, text: String) -> LoadOptions {
    let input = Input::Bytes { name: "input".to_owned(), bytes: Bytes::from(text) };
    LoadOptions {
        batch_bytes: 2_000,
        retry_for: Duration::from_secs(20),
        ..LoadOptions::new(endpoint, "catches", vec![input])
    }
}

fn lines(documents: u64) -> String {
    (0..documents).map(|number| format!("{{\"number\": {number}, \"text\": \"some words\"}}\n")).collect()
}

/// Every document arrived, each applied exactly once.
fn assert_all_once(server: &Server, documents: u64) {
    let stored = server.documents.lock().unwrap();
    assert_eq!(stored.len() as u64, documents);
    assert!(stored.values().all(|(_, times)| *times == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loads_everything_and_makes_the_index() {
    let (server, endpoint) = serve(Mood::default()).await;
    let options = LoadOptions { refresh: true, replicas: Some(2), ..options(&endpoint, lines(1_000)) };
    let report = load(options, &Quiet).await.unwrap();
    assert_eq!((report.loaded, report.rejected_total(), report.retries), (1_000, 0, 0));
    assert_all_once(&server, 1_000);
    let created = server.created.lock().unwrap().clone().unwrap();
    assert_eq!(created["settings"], json!({ "number_of_shards": 3, "number_of_replicas": 2 }));
    assert_eq!(created["mappings"]["properties"]["text"]["type"], "text");
    assert_eq!(server.refreshed.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unwilling_server_gets_everything_once() {
    let moods = [
        Mood { refuse: Some((3, 429)), ..Mood::default() },
        Mood { refuse: Some((2, 503)), ..Mood::default() },
        Mood { refuse_item: Some(17), ..Mood::default() },
        Mood { deny_item: Some(19), ..Mood::default() },
        Mood { lose_answer: Some(3), ..Mood::default() },
        Mood {
            refuse_item: Some(50),
            deny_item: Some(40),
            lose_answer: Some(4),
            body_max: Some(900),
            ..Mood::default()
        },
    ];
    for mood in moods {
        let (server, endpoint) = serve(mood).await;
        let report = load(options(&endpoint, lines(500)), &Quiet).await.unwrap();
        assert_eq!((report.loaded, report.rejected_total()), (500, 0));
        assert_all_once(&server, 500);
    }
}

#[tokio::test]
async fn rejections_have_their_place() {
    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>);
    impl Observer for Heard {
        fn rejected(&self, rejection: &Rejection) {
            self.0.lock().unwrap().push(format!("{} {}", rejection.place, rejection.kind));
        }
    }
    let (_, endpoint) = serve(Mood { body_max: Some(2_500), ..Mood::default() }).await;
    let long = "x".repeat(3_000);
    let text = format!("{{\"year\": 1}}\n{{\"year\": \"abc\"}}\nnot json\n{{\"long\": \"{long}\"}}\n{{\"year\": 2}}\n");
    let heard = Heard::default();
    let report = load(options(&endpoint, text), &heard).await.unwrap();
    assert_eq!(report.loaded, 2);
    let mut lines = heard.0.into_inner().unwrap();
    lines.sort();
    assert_eq!(lines, ["input:2 document_parsing_exception", "input:3 invalid_json", "input:4 content_too_large"]);
    let shown = report.to_string();
    assert!(
        shown.contains("rejected 3 (1 content_too_large, 1 document_parsing_exception, 1 invalid_json)"),
        "{shown}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_document_of_an_id_wins() {
    let (server, endpoint) = serve(Mood { refuse_item: Some(7), lose_answer: Some(5), ..Mood::default() }).await;
    let text = (0..600).map(|number| format!("{{\"id\": {}, \"number\": {number}}}\n", number % 20)).collect();
    let options = LoadOptions { id_field: Some("id".to_owned()), batch_bytes: 600, ..options(&endpoint, text) };
    let report = load(options, &Quiet).await.unwrap();
    assert_eq!(report.loaded, 600);
    let documents = server.documents.lock().unwrap();
    assert_eq!(documents.len(), 20);
    assert!(documents.values().all(|(source, _)| source["number"].as_u64().unwrap() >= 580));
}

#[tokio::test]
async fn gives_up_clearly() {
    let (_, endpoint) = serve(Mood { refuse: Some((1, 429)), ..Mood::default() }).await;
    let busy = LoadOptions { retry_for: Duration::from_millis(300), ..options(&endpoint, lines(10)) };
    let error = load(busy, &Quiet).await.unwrap_err();
    assert!(matches!(&error, LoadError::GaveUp { last, .. } if last.contains("429")), "{error}");

    let (_, endpoint) = serve(Mood { refuse: Some((1, 400)), ..Mood::default() }).await;
    let error = load(options(&endpoint, lines(10)), &Quiet).await.unwrap_err();
    assert!(matches!(&error, LoadError::Refused { status: 400, .. }), "{error}");

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let away = LoadOptions { retry_for: Duration::from_millis(200), ..options(&nobody, lines(10)) };
    let error = load(away, &Quiet).await.unwrap_err();
    assert!(error.to_string().contains(&nobody) && error.to_string().contains("trawl up"), "{error}");

    assert!(matches!(load(options("ftp://x", lines(1)), &Quiet).await, Err(LoadError::BadEndpoint(_))));
}
