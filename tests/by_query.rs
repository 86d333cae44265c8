//! `_delete_by_query`, `_update_by_query` and `/_tasks` through the real binary.
#![allow(missing_docs, clippy::unwrap_used)]

mod harness;

use harness::{Client, Cluster, wait_until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

async fn count(client: &Client, index: &str) -> u64 {
    client.send("POST", &format!("/{index}/_refresh"), None).await;
    client.get(&format!("/{index}/_count")).await.body["count"].as_u64().unwrap()
}

fn documents(number: usize) -> Vec<(String, Value)> {
    (0..number).map(|n| (format!("d{n}"), json!({"n": n, "kind": if n % 2 == 0 { "even" } else { "odd" }}))).collect()
}

fn keywords() -> Value {
    json!({"properties": {"n": {"type": "long"}, "kind": {"type": "keyword"}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_deleted_and_indexed_again_by_query() {
    let cluster = Cluster::start(1, 2).await;
    let client = &cluster.client;
    client.create_index("books", 2, 0, keywords()).await;
    client.bulk_index("books", &documents(100), true).await;

    let even = json!({"query": {"term": {"kind": "even"}}});
    let answer = client.post("/books/_delete_by_query?refresh=true&scroll_size=7", even.clone()).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!((&answer.body["deleted"], &answer.body["total"]), (&json!(50), &json!(50)), "{}", answer.text);
    assert_eq!((&answer.body["version_conflicts"], &answer.body["failures"]), (&json!(0), &json!([])));
    assert_eq!(client.search("books", json!({"size": 0})).await["hits"]["total"]["value"], 50);

    let some = client.post("/books/_delete_by_query?max_docs=3&refresh", json!({"query": {"match_all": {}}})).await;
    assert_eq!((&some.body["deleted"], &some.body["total"]), (&json!(3), &json!(3)), "{}", some.text);
    let by_url = client.post("/books/_delete_by_query?q=n:99&refresh=true", json!({})).await;
    assert_eq!(by_url.body["total"].as_u64().unwrap(), by_url.body["deleted"].as_u64().unwrap());
    assert_eq!(client.get("/books/_count?q=n:99").await.body["count"], 0);

    for (path, body, reason) in [
        ("/books/_delete_by_query", json!({}), "query is missing"),
        ("/books/_update_by_query", json!({"script": {"source": "x"}}), "[script] is not supported"),
        ("/books/_delete_by_query?conflicts=x", even.clone(), "conflicts may only be"),
        ("/books/_delete_by_query", json!({"query": {"nonsense": {}}}), "nonsense"),
        ("/books/_delete_by_query?scroll_size=0", even.clone(), "scroll_size"),
    ] {
        let answer = client.post(path, body).await;
        assert_eq!(answer.status, 400, "{path} {}", answer.text);
        assert!(answer.text.contains(reason), "{path} {}", answer.text);
    }
    assert_eq!(client.post("/nowhere/_delete_by_query", even.clone()).await.status, 404);

    // The same with its key is the same task; another body with it is not.
    let keyed = async |body: &Value| {
        let key = [("idempotency-key", "once")];
        let path = "/books/_update_by_query?wait_for_completion=false";
        let body = Some(body.to_string().into_bytes());
        client.try_send("POST", path, body, &key).await.unwrap().body["task"].clone()
    };
    let first = keyed(&even).await;
    assert_eq!(keyed(&even).await, first);
    assert_ne!(keyed(&json!({"query": {"term": {"kind": "odd"}}})).await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_mapped_later_are_picked_up() {
    let cluster = Cluster::start(1, 1).await;
    let client = &cluster.client;
    client.create_index("books", 2, 0, json!({"dynamic": false, "properties": {"n": {"type": "long"}}})).await;
    client.bulk_index("books", &documents(30), true).await;
    client.put("/books/_mapping", json!({"properties": {"kind": {"type": "keyword"}}})).await;
    let odd = json!({"query": {"term": {"kind": "odd"}}, "size": 0});
    assert_eq!(client.search("books", odd.clone()).await["hits"]["total"]["value"], 0);
    let answer = client.send("POST", "/books/_update_by_query?refresh=true&conflicts=proceed", None).await;
    assert_eq!((&answer.body["updated"], &answer.body["total"]), (&json!(30), &json!(30)), "{}", answer.text);
    assert_eq!(client.search("books", odd).await["hits"]["total"]["value"], 15);
    assert_eq!(client.get("/books/_doc/d3").await.body["_version"], 2);
    assert_eq!(client.get("/books/_doc/d3").await.body["_source"], json!({"n": 3, "kind": "odd"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn newer_documents_are_conflicts() {
    let cluster = Cluster::start(1, 1).await;
    let client = &cluster.client;
    let settings = json!({"number_of_shards": 1, "number_of_replicas": 0, "refresh_interval": "-1"});
    client.put("/books", json!({"settings": settings, "mappings": keywords()})).await;
    client.bulk_index("books", &documents(10), true).await;
    // Searches do not see it yet.
    client.put("/books/_doc/d4", json!({"n": 400, "kind": "even"})).await;
    let all = json!({"query": {"match_all": {}}});
    let stopped = client.post("/books/_delete_by_query", all.clone()).await;
    assert_eq!(stopped.status, 409, "{}", stopped.text);
    assert_eq!(stopped.body["version_conflicts"], 1);
    assert_eq!(stopped.body["failures"][0]["id"], "d4", "{}", stopped.text);
    assert_eq!(stopped.body["failures"][0]["cause"]["type"], "version_conflict_engine_exception");
    client.bulk_index("books", &documents(10), true).await;
    client.put("/books/_doc/d4", json!({"n": 400, "kind": "even"})).await;
    let passed = client.post("/books/_delete_by_query?conflicts=proceed", all).await;
    assert_eq!(passed.status, 200, "{}", passed.text);
    assert_eq!((&passed.body["version_conflicts"], &passed.body["deleted"]), (&json!(1), &json!(9)));
    assert_eq!(count(client, "books").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_listed_waited_for_and_cancelled() {
    let cluster = Cluster::start(1, 1).await;
    let client = &cluster.client;
    client.create_index("books", 1, 0, keywords()).await;
    client.bulk_index("books", &documents(500), true).await;
    let all = json!({"query": {"match_all": {}}});
    let slow = "wait_for_completion=false&scroll_size=10&requests_per_second=20";
    let started = client.post(&format!("/books/_delete_by_query?{slow}"), all.clone()).await;
    assert_eq!(started.status, 200, "{}", started.text);
    let id = started.body["task"].as_str().unwrap().to_owned();
    let path = format!("/_tasks/{id}");
    wait_until("a batch is deleted", async || {
        client.get(&path).await.body["task"]["status"]["deleted"].as_u64().is_some_and(|deleted| deleted > 0)
    })
    .await;
    let listed = client.get("/_tasks?detailed&actions=*byquery").await;
    let task = &listed.body["nodes"]["trawl"]["tasks"][&id];
    assert_eq!(task["description"], "delete-by-query [books]", "{}", listed.text);
    assert_eq!(task["status"]["total"], 500);
    assert_eq!(client.get("/_tasks?actions=other*").await.body, json!({"nodes": {}}));
    let late = client.get(&format!("{path}?wait_for_completion=true&timeout=100ms")).await;
    assert_eq!(late.status, 408, "{}", late.text);
    let cancelled = client.post(&format!("{path}/_cancel"), json!({})).await;
    assert_eq!(cancelled.status, 200, "{}", cancelled.text);
    let ended = client.get(&format!("{path}?wait_for_completion=true&timeout=30s")).await;
    assert_eq!(ended.body["completed"], true, "{}", ended.text);
    assert_eq!(ended.body["response"]["canceled"], "by user request", "{}", ended.text);
    let deleted = ended.body["response"]["deleted"].as_u64().unwrap();
    assert!(deleted > 0 && deleted < 500, "{}", ended.text);
    assert_eq!(count(client, "books").await, 500 - deleted);
    assert_eq!(client.post(&format!("{path}/_cancel"), json!({})).await.status, 404);
    // It has a name where dead tasks are listed, and is not begun again with all that failed.
    let task = format!("task-{}", id.strip_prefix("trawl:").unwrap());
    let (code, text) = queue(client, &["dead", "list", "--index", "books"]).await;
    assert!(code == 0 && text.contains(&task) && text.contains("delete by query in books"), "{text}");
    let (code, text) = queue(client, &["dead", "replay", "--all"]).await;
    assert!(code == 0 && text.contains("tasks: 1 cancelled left alone"), "{text}");
    let (_, text) = queue(client, &["tasks", "--state", "dead"]).await;
    assert!(text.contains(&task) && text.contains("delete by query in books"), "{text}");
    assert_eq!(count(client, "books").await, 500 - deleted);
    assert_eq!(client.get("/_tasks/trawl:99999").await.status, 404);
    assert_eq!(client.get("/_tasks/nonsense").await.status, 400);

    let rest = client.post("/books/_delete_by_query?wait_for_completion=false", all).await;
    let path = format!("/_tasks/{}", rest.body["task"].as_str().unwrap());
    let ended = client.get(&format!("{path}?wait_for_completion=true&timeout=30s")).await;
    assert_eq!(ended.body["response"]["deleted"], 500 - deleted, "{}", ended.text);
    assert_eq!(client.get(&path).await.body["completed"], true, "kept for a while");
    let (code, text) = queue(client, &["dead", "replay", &task]).await;
    assert!(code == 0 && text.contains("tasks: 1 had been cancelled, 1 replayed"), "{text}");
}

/// `trawl queue` with these arguments: its exit code and what it said.
async fn queue(client: &Client, arguments: &[&str]) -> (i32, String) {
    let mut command = std::process::Command::new(harness::TRAWL);
    command.arg("queue").args(arguments).env("TRAWL_ENDPOINT", &client.endpoint);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("trawl queue {}\n{text}", arguments.join(" "));
    (output.status.code().unwrap(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_killed_in_the_middle_loses_and_repeats_nothing() {
    let number = std::env::var("TRAWL_TEST_DOCUMENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(3_000usize);
    let cluster = Cluster::start(2, 2).await;
    let roots = cluster.root_clients();
    roots[0].create_index("books", 2, 0, keywords()).await;
    roots[0].bulk_index("books", &documents(number), true).await;
    cluster.known_everywhere("books").await;
    let matching = number as u64 / 2;
    let slow = format!("wait_for_completion=false&scroll_size=50&requests_per_second={}", number / 10);
    // The root that is asked claims it at once.
    let even = json!({"query": {"term": {"kind": "even"}}});
    let started = roots[0].post(&format!("/books/_delete_by_query?{slow}"), even).await;
    let path = format!("/_tasks/{}", started.body["task"].as_str().unwrap());
    let deleted = async || roots[1].get(&path).await.body["task"]["status"]["deleted"].as_u64().unwrap_or(0);
    wait_until("some are deleted", async || deleted().await > matching / 10).await;
    assert!(deleted().await < matching, "it was over too soon");
    cluster.signal("root-0", Signal::SIGKILL);
    wait_until("the job has ended", async || roots[1].get(&path).await.body["completed"] == true).await;
    let ended = roots[1].get(&path).await;
    let response = &ended.body["response"];
    assert_eq!((&response["deleted"], &response["total"]), (&json!(matching), &json!(matching)), "{}", ended.text);
    assert_eq!((&response["version_conflicts"], &response["failures"]), (&json!(0), &json!([])), "{}", ended.text);
    assert_eq!(count(&roots[1], "books").await, number as u64 - matching);
    // Each document was indexed once and deleted at most once: the logs have no operation more.
    let status = roots[1].get("/_trawl/cluster").await.body;
    let applied: u64 =
        status["shards"].as_array().unwrap().iter().map(|shard| shard["applied"].as_u64().unwrap()).sum();
    assert_eq!(applied, number as u64 + matching, "{status}");
}
