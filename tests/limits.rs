//! Limits as clients meet them: refused at once, named, counted; and an engine that is out of reach.
#![allow(missing_docs, clippy::unwrap_used)]

mod harness;

use std::time::{Duration, Instant};

use harness::{Client, Cluster, wait_until};
use serde_json::json;

async fn refusals(client: &Client, limit: &str) -> u64 {
    let text = client.get("/metrics").await.text;
    let name = format!("trawl_root_limit_refusals_total{{limit=\"{limit}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap_or_else(|| panic!("{limit} is not counted: {text}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_a_limit_is_refused_and_counted() {
    let env = [
        ("TRAWL_BODY_SIZE", "64KiB"),
        ("TRAWL_DOCUMENT_SIZE", "8KiB"),
        ("TRAWL_BULK_OPERATIONS", "10"),
        ("TRAWL_HTTP_CONNECTIONS", "64"),
    ];
    let cluster = Cluster::start_set(1, 1, &env).await;
    let client = &cluster.client;
    client.create_index("books", 1, 0, json!({})).await;

    let document = |bytes: usize| json!({"text": "x".repeat(bytes)});
    let answer = client.put("/books/_doc/1", document(9_000)).await;
    assert_eq!((answer.status, answer.body["error"]["type"].as_str().unwrap()), (413, "content_too_long_exception"));
    let answer = client.put("/books/_doc/1", document(70_000)).await;
    assert_eq!(answer.status, 413, "{}", answer.text);
    let bulk = async |bodies: &[serde_json::Value]| {
        let lines: String = bodies.iter().map(|body| format!("{{\"index\":{{}}}}\n{body}\n")).collect();
        client.try_send("POST", "/books/_bulk", Some(lines.into_bytes()), &[]).await.unwrap()
    };
    let answer = bulk(&[document(10), document(9_000), document(10)]).await;
    let statuses: Vec<u64> =
        (0..3).map(|place| answer.body["items"][place]["index"]["status"].as_u64().unwrap()).collect();
    assert_eq!((answer.status, statuses), (200, vec![201, 413, 201]), "{}", answer.text);
    let answer = bulk(&vec![document(1); 11]).await;
    assert_eq!(answer.status, 413, "{}", answer.text);
    assert_eq!(client.get("/books/_search?from=9999&size=2").await.status, 400);

    assert_eq!(refusals(client, "document_size").await, 2);
    assert_eq!(refusals(client, "body_size").await, 1);
    assert_eq!(refusals(client, "bulk_operations").await, 1);
    assert_eq!(refusals(client, "result_window").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn indices_are_bounded() {
    let cluster = Cluster::start_set(1, 1, &[("TRAWL_SHARDS_PER_LEAF", "205")]).await;
    let client = &cluster.client;
    let bulk = async |names: std::ops::Range<usize>| {
        let lines: String =
            names.map(|n| format!("{{\"create\":{{\"_index\":\"i{n:03}\",\"_id\":\"1\"}}}}\n{{}}\n")).collect();
        let answer = client.try_send("POST", "/_bulk", Some(lines.into_bytes()), &[]).await.unwrap();
        let items = answer.body["items"].as_array().unwrap().clone();
        // Durable is durable, whether a busy leaf has told the outcome in time or not.
        let statuses = items.iter().map(|item| item["create"]["status"].as_u64().unwrap());
        let statuses = statuses.map(|status| if status == 202 { 201 } else { status });
        statuses.fold(std::collections::BTreeMap::<u64, usize>::new(), |mut counts, status| {
            *counts.entry(status).or_default() += 1;
            counts
        })
    };
    // One request makes a hundred; the rest is to be sent again.
    assert_eq!(bulk(0..101).await, [(201, 100), (429, 1)].into());
    assert_eq!(refusals(client, "new_indices").await, 1);
    // Two copies each: there is room for two more.
    assert_eq!(bulk(100..102).await, [(201, 2)].into());
    assert_eq!(bulk(102..104).await, [(400, 2)].into());
    let answer = client.put("/more", json!({"settings": {"number_of_replicas": 1}})).await;
    assert_eq!((answer.status, answer.body["error"]["type"].as_str().unwrap()), (400, "validation_exception"));
    assert_eq!(refusals(client, "shards_per_leaf").await, 3);
    client.create_index("one", 1, 0, json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_was_just_made_is_known_to_every_root() {
    let cluster = Cluster::start(2, 1).await;
    let roots = cluster.root_clients();
    for round in 0..20 {
        let path = format!("/fresh-{round}");
        assert_eq!(roots[1].send("HEAD", &path, None).await.status, 404);
        let settings = json!({"settings": {"number_of_replicas": 0}});
        let made = roots[0].put(&format!("{path}?wait_for_active_shards=0"), settings).await;
        assert_eq!(made.status, 200, "{}", made.text);
        assert_eq!(roots[1].send("HEAD", &path, None).await.status, 200, "round {round}");
        assert_ne!(roots[1].get(&format!("{path}/_search")).await.status, 404, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_replicas_than_leaves_are_taken_with_a_warning() {
    let cluster = Cluster::start(1, 2).await;
    let client = &cluster.client;
    let settings = |replicas: u32| json!({"settings": {"number_of_replicas": replicas}});
    let fine = client.put("/fine", settings(1)).await;
    assert!(fine.status == 200 && !fine.headers.contains_key("warning"), "{}", fine.text);
    let many = client.put("/many", settings(3)).await;
    let warning = many.headers["warning"].to_str().unwrap();
    assert!(warning.starts_with("299 ") && warning.contains("there are 2 leaves"), "{warning}");
    let health = client.get("/_cluster/health").await.body;
    assert_eq!(health["status"], "yellow");
    let reason = health["trawl_reasons"][0].as_str().unwrap();
    assert!(reason.contains("[many]") && reason.contains("4 copies"), "{reason}");
}

/// The directory of the engine's files is moved away, and comes back.
#[tokio::test(flavor = "multi_thread")]
async fn without_its_engine_a_cluster_searches_and_refuses_writes_at_once() {
    let cluster = Cluster::start_set(1, 2, &[("TRAWL_ENGINE_TIME", "2s")]).await;
    let client = &cluster.client;
    client.create_index("books", 2, 1, json!({})).await;
    let documents: Vec<_> = (0..50).map(|number| (number.to_string(), json!({"n": number}))).collect();
    client.bulk_index("books", &documents, true).await;

    let (here, away) = (cluster.data_dir().join("cluster"), cluster.data_dir().join("cluster-away"));
    std::fs::rename(&here, &away).unwrap();
    let write = async || client.put("/books/_doc/x", json!({"n": 1})).await;
    let timed = async |status: u16, longest: Duration| {
        let started = Instant::now();
        let answer = write().await;
        assert_eq!(answer.status, status, "{}", answer.text);
        assert!(started.elapsed() < longest, "{:?}", started.elapsed());
        answer
    };
    timed(503, Duration::from_secs(4)).await;
    for _ in 0..5 {
        let answer = timed(503, Duration::from_secs(4)).await;
        assert!(answer.text.contains("unavailable_shards_exception"), "{}", answer.text);
        let found = client.get("/books/_search?size=0").await.body;
        assert_eq!((&found["hits"]["total"]["value"], &found["_shards"]["failed"]), (&json!(50), &json!(0)));
    }
    // Known to be gone: nobody waits to find out again.
    let started = Instant::now();
    let answers = futures_of(20, write).await;
    assert!(answers.iter().all(|answer| answer.status == 503));
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    let started = Instant::now();
    let created = client.put("/new", json!({})).await;
    assert_eq!(created.status, 503, "{}", created.text);
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());

    std::fs::rename(&away, &here).unwrap();
    wait_until("writes are taken again", async || write().await.status < 300).await;
    assert_eq!(client.send("POST", "/books/_refresh", None).await.status, 200);
    assert_eq!(client.get("/books/_count").await.body["count"], 51);
}

async fn futures_of<T>(count: usize, make: impl AsyncFn() -> T) -> Vec<T> {
    futures::future::join_all((0..count).map(|_| make())).await
}
