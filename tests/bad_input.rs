//! Bad input gets a clear error, costs only itself, and leaves the cluster well.
#![allow(missing_docs, clippy::unwrap_used)]

mod harness;

use harness::{Answer, Cluster};
use serde_json::{Value, json};

fn assert_refused(answer: &Answer, status: u16, part: &str) {
    assert_eq!(answer.status, status, "{}", answer.text);
    assert!(answer.text.contains(part), "{part:?} is not in {}", answer.text);
    assert!(answer.body["error"]["root_cause"].is_array(), "{}", answer.text);
    assert_eq!(answer.body["status"], status);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_search_is_refused_by_name_and_the_next_good_one_works() {
    let cluster = Cluster::start(1, 2).await;
    let client = &cluster.client;
    client
        .create_index("boats", 2, 1, json!({"properties": {"name": {"type": "text"}, "length": {"type": "integer"}}}))
        .await;
    client.bulk_index("boats", &[("a".to_owned(), json!({"name": "Anna", "length": 12}))], true).await;
    let search = async |body: Value| client.post("/boats/_search", body).await;

    assert_refused(&client.post("/ships/_search", json!({})).await, 404, "no such index [ships]");
    assert_refused(&search(json!({"query": {"nearly": {}}})).await, 400, "nearly");
    assert_refused(&search(json!({"query": {"match": {"name": {"query": "x", "shape": 1}}}})).await, 400, "shape");
    assert_refused(&search(json!({"fish": 1})).await, 400, "fish");
    assert_refused(&search(json!({"sort": ["weight"]})).await, 400, "weight");
    assert_refused(&search(json!({"sort": ["name"]})).await, 400, "name");
    assert_refused(&search(json!({"size": 10_001})).await, 400, "10000");
    assert_refused(&search(json!({"query": {"term": {"length": "long"}}})).await, 400, "long");
    assert_refused(&search(json!({"aggs": {"x": {"median": {"field": "length"}}}})).await, 400, "median");
    assert_refused(&client.get("/boats/_search?fish=1").await, 400, "fish");
    let unknown = client.get("/boats/_fish").await;
    assert_eq!((unknown.status, unknown.text.contains("/boats/_fish")), (400, true), "{}", unknown.text);

    let nested = format!("{}{{\"match_all\":{{}}}}{}", "{\"bool\":{\"must\":[".repeat(1_000), "]}}".repeat(1_000));
    let nested = format!("{{\"query\":{nested}}}").into_bytes();
    let answer = client.try_send("POST", "/boats/_search", Some(nested), &[]).await.unwrap();
    assert_eq!(answer.status, 400, "{}", answer.text);
    let clauses: Vec<Value> = (0..10_000).map(|number| json!({"term": {"length": number}})).collect();
    assert_refused(&search(json!({"query": {"bool": {"should": clauses}}})).await, 400, "1024");
    let answer = client.try_send("POST", "/boats/_search", Some(b"{\"query\":".to_vec()), &[]).await.unwrap();
    assert_eq!(answer.status, 400, "{}", answer.text);
    let answer = client
        .try_send("POST", "/boats/_search", Some(b"{\"query\":{\"match\":{\"name\":\"\xff\xfe\"}}}".to_vec()), &[])
        .await
        .unwrap();
    assert_eq!(answer.status, 400, "{}", answer.text);

    assert_eq!(
        client.search("boats", json!({"query": {"match": {"name": "anna"}}})).await["hits"]["total"]["value"],
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_write_is_refused_by_name_and_its_neighbours_are_kept() {
    let cluster = Cluster::start(1, 2).await;
    let client = &cluster.client;
    client
        .create_index("boats", 2, 1, json!({"dynamic": "strict", "properties": {"length": {"type": "integer"}}}))
        .await;
    let lines: &[&[u8]] = &[
        b"{\"index\":{\"_id\":\"1\"}}\n{\"length\":1}\n",
        b"{\"index\":{\"_id\":\"2\"}}\n{\"length\":\"long\"}\n",
        b"{\"index\":{\"_id\":\"3\"}}\n{\"length\":\n",
        b"{\"index\":{\"_id\":\"4\"}}\n{\"width\":2}\n",
        b"{\"index\":{\"_id\":\"5\"}}\n{\"length\":\"\xff\"}\n",
        b"{\"index\":{\"_id\":\"6\"}}\n[1]\n",
        b"{\"create\":{\"_id\":\"1\"}}\n{\"length\":2}\n",
        b"{\"delete\":{\"_id\":\"none\"}}\n",
        b"{\"index\":{\"_id\":\"7\"}}\n{\"length\":7}\n",
    ];
    let answer = client.try_send("POST", "/boats/_bulk?refresh=true", Some(lines.concat()), &[]).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text);
    let status: Vec<u64> = answer.body["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item.as_object().unwrap().values().next().unwrap()["status"].as_u64().unwrap())
        .collect();
    assert_eq!(status, [201, 400, 400, 400, 400, 400, 409, 404, 201], "{}", answer.text);
    let count = client.get("/boats/_count").await;
    assert_eq!(count.body["count"], 2, "{}", count.text);

    let bulk = async |body: &[u8]| client.try_send("POST", "/boats/_bulk", Some(body.to_vec()), &[]).await.unwrap();
    assert_eq!(bulk(b"{\"fish\":{\"_id\":\"1\"}}\n{}\n").await.status, 400);
    assert_eq!(bulk(b"").await.status, 400);
    assert_eq!(bulk(b"{\"index\":{\"_id\":\"1\"}}\n{\"length\":1}").await.status, 400);
    let too_large = vec![b' '; 101 << 20];
    // The server may close the connection before it has read everything.
    if let Ok(answer) = client.try_send("POST", "/boats/_bulk", Some(too_large), &[]).await {
        assert_eq!(answer.status, 413, "{}", answer.text);
    }
    assert_eq!(client.get("/boats/_count").await.body["count"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_made_again_under_its_name_while_a_leaf_was_away_has_only_the_new_documents() {
    let cluster = Cluster::start(1, 2).await;
    let client = &cluster.client;
    client.create_index("boats", 1, 1, json!({})).await;
    client.bulk_index("boats", &[("old".to_owned(), json!({"name": "old"}))], true).await;
    let up = nix::unistd::Pid::from_raw(cluster.up_pid());
    nix::sys::signal::kill(up, nix::sys::signal::Signal::SIGSTOP).unwrap();
    cluster.signal("leaf-1", nix::sys::signal::Signal::SIGKILL);
    assert_eq!(client.delete("/boats").await.status, 200);
    let created = client.put("/boats", json!({"settings": {"number_of_shards": 1, "number_of_replicas": 1}})).await;
    assert_eq!(created.status, 200, "{}", created.text);
    client.bulk_index("boats", &[("new".to_owned(), json!({"name": "new"}))], false).await;
    nix::sys::signal::kill(up, nix::sys::signal::Signal::SIGCONT).unwrap();
    cluster.green().await;
    client.get("/boats/_refresh").await;
    for leaf in ["leaf-0", "leaf-1"] {
        let answer = client.post(&format!("/boats/_search?preference=_prefer_nodes:{leaf}"), json!({})).await;
        assert_eq!(harness::ids(&answer.body), ["new"], "{}", answer.text);
    }
}
