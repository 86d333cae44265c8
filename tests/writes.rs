//! Writes as clients meet them: seen at once after a refresh, repeated safely, never swallowed.
#![allow(missing_docs, clippy::unwrap_used)]

mod harness;

use std::time::{Duration, Instant};

use harness::{Cluster, ids};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_refreshed_write_is_seen_on_every_replica_also_while_replicas_begin_to_serve() {
    let cluster = Cluster::start(2, 3).await;
    let roots = cluster.root_clients();
    for round in 0..15 {
        let index = format!("fresh-{round}");
        // Created by the write itself: its replicas begin to serve while it is acknowledged and refreshed.
        let settings = json!({"settings": {"number_of_shards": 2, "number_of_replicas": 2}});
        assert_eq!(roots[0].put(&format!("/{index}"), settings).await.status, 200);
        cluster.known_everywhere(&index).await;
        let documents: Vec<_> = (0..20).map(|number| (format!("d{number}"), json!({"n": number}))).collect();
        roots[0].bulk_index(&index, &documents, true).await;
        for root in &roots {
            for leaf in ["leaf-0", "leaf-1", "leaf-2"] {
                let path = format!("/{index}/_search?preference=_prefer_nodes:{leaf}&size=0");
                let answer = root.get(&path).await;
                assert_eq!(answer.body["hits"]["total"]["value"], 20, "round {round}, {leaf}: {}", answer.text);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_makes_repeating_safe_and_swallows_nothing_else() {
    let cluster = Cluster::start(2, 2).await;
    let roots = cluster.root_clients();
    roots[0].create_index("keyed", 2, 1, json!({})).await;
    cluster.known_everywhere("keyed").await;
    let key = [("Idempotency-Key", "k1")];
    let write = async |root: usize, body: &str| {
        let body = Some(body.as_bytes().to_vec());
        roots[root].try_send("POST", "/keyed/_bulk?refresh=true", body, &key).await.unwrap()
    };
    let two = "{\"index\":{}}\n{\"a\":1}\n{\"index\":{\"_id\":\"named\"}}\n{\"a\":2}\n";
    let (first, again) = (write(0, two).await, write(1, two).await);
    assert_eq!(first.body["items"], again.body["items"], "the first outcomes again");
    assert_eq!(roots[0].get("/keyed/_count").await.body["count"], 2);

    let other = write(0, "{\"index\":{\"_id\":\"other\"}}\n{\"a\":3}\n").await;
    assert_eq!(other.body["errors"], false, "{}", other.text);
    assert_eq!(roots[0].get("/keyed/_doc/other").await.body["found"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_sees_itself_by_its_position_without_a_refresh() {
    let cluster = Cluster::start(2, 2).await;
    let roots = cluster.root_clients();
    let settings = json!({"settings": {"number_of_shards": 2, "number_of_replicas": 1, "refresh_interval": -1}});
    assert_eq!(roots[0].put("/slow", settings).await.status, 200);
    cluster.known_everywhere("slow").await;
    for number in 0..10 {
        let written = roots[0].put(&format!("/slow/_doc/{number}"), json!({"n": number})).await;
        assert_eq!(written.status, 201, "{}", written.text);
        let position = written.headers["x-trawl-position"].to_str().unwrap().to_owned();
        let after = [("X-Trawl-After", position.as_str())];
        let found = roots[1].try_send("GET", &format!("/slow/_search?q=n:{number}"), None, &after).await.unwrap();
        assert_eq!(found.status, 200, "{}", found.text);
        assert_eq!(ids(&found.body), [number.to_string()], "{}", found.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_to_an_index_that_is_deleted_meanwhile_says_so_soon() {
    let cluster = Cluster::start(1, 1).await;
    let client = cluster.client.clone();
    client.create_index("gone", 1, 0, json!({})).await;
    cluster.signal("leaf-0", nix::sys::signal::Signal::SIGSTOP);
    let writing = tokio::spawn({
        let client = client.clone();
        async move { (client.put("/gone/_doc/1", json!({"a": 1})).await, Instant::now()) }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    client.delete("/gone").await;
    cluster.signal("leaf-0", nix::sys::signal::Signal::SIGCONT);
    let continued = Instant::now();
    let (answer, answered) = writing.await.unwrap();
    // Either the leaf applied it before it heard of the deletion, or the write is told of it.
    assert!([201, 404].contains(&answer.status), "{}", answer.text);
    assert!(answered.saturating_duration_since(continued) < Duration::from_secs(5), "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aggregation_too_large_for_one_answer_is_refused_by_name() {
    let cluster = Cluster::start(1, 1).await;
    let client = &cluster.client;
    client.create_index("wide", 1, 0, json!({"properties": {"k": {"type": "keyword"}}})).await;
    let value = |number: usize| format!("{number}-{}", "x".repeat(200));
    for from in (0..50_000).step_by(5_000) {
        let documents: Vec<_> =
            (from..from + 5_000).map(|number| (format!("d{number}"), json!({"k": value(number)}))).collect();
        client.bulk_index("wide", &documents, false).await;
    }
    client.get("/wide/_refresh").await;
    let body = json!({"size": 0, "aggs": {"all": {"terms": {"field": "k"}}}});
    let answer = client.post("/wide/_search", body).await;
    assert_eq!(answer.status, 400, "{}", answer.text);
    assert!(answer.text.contains("too_many_buckets"), "{}", answer.text);
    let body = json!({"size": 0, "aggs": {"all": {"cardinality": {"field": "k"}}}});
    assert_eq!(client.post("/wide/_search", body).await.status, 200);
}
