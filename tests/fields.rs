//! Dynamic fields through the real binary: values of mixed types over shards, and the limit of fields.
#![allow(missing_docs, clippy::unwrap_used)]

mod harness;

use harness::{Cluster, ids, wait_until};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn mixed_values_answer_the_same_on_one_shard_and_on_four() {
    let cluster = Cluster::start(1, 2).await;
    let client = &cluster.client;
    let values = [
        json!(5),
        json!("5"),
        json!(5.5),
        json!("apple"),
        json!(10),
        json!(-2),
        json!(true),
        json!("2024-01-05"),
        json!("zebra 5"),
        json!(7),
        json!([1, "one"]),
    ];
    let documents: Vec<(String, Value)> =
        values.iter().enumerate().map(|(number, value)| (format!("d{number}"), json!({"f": value}))).collect();
    client.create_index("one", 1, 0, json!({})).await;
    client.create_index("four", 4, 0, json!({})).await;
    client.bulk_index("one", &documents, true).await;
    let backwards: Vec<_> = documents.iter().rev().cloned().collect();
    client.bulk_index("four", &backwards, true).await;

    let sorted = |query: Value| json!({"query": query, "sort": [{"f.keyword": "asc"}, "_id"], "size": 50});
    let searches = [
        (json!({"term": {"f": 5}}), vec!["d0", "d1", "d8"]),
        (json!({"term": {"f.keyword": 5}}), vec!["d0", "d1"]),
        (json!({"terms": {"f.keyword": ["apple", 7, true, "2024-01-05"]}}), vec!["d6", "d9", "d7", "d3"]),
        (json!({"range": {"f": {"gte": 5, "lt": 10}}}), vec!["d0", "d2", "d9"]),
        (json!({"prefix": {"f.keyword": "5"}}), vec!["d0", "d2", "d1"]),
        (json!({"exists": {"field": "f"}}), vec!["d5", "d10", "d6", "d0", "d2", "d9", "d4", "d7", "d1", "d3", "d8"]),
    ];
    for (query, expected) in searches {
        for index in ["one", "four"] {
            let found = client.search(index, sorted(query.clone())).await;
            assert_eq!(ids(&found), expected, "{index} {query}");
        }
    }
    let aggregation =
        json!({"size": 0, "aggs": {"a": {"terms": {"field": "f.keyword", "order": {"_key": "asc"}, "size": 50}}}});
    let one = client.search("one", aggregation.clone()).await;
    let four = client.search("four", aggregation).await;
    assert_eq!(one["aggregations"], four["aggregations"]);
    assert_eq!(one["aggregations"]["a"]["buckets"].as_array().unwrap().len(), 11);
    for index in ["one", "four"] {
        let mut found = Vec::new();
        let mut body = sorted(json!({"match_all": {}}));
        body["size"] = json!(3);
        loop {
            let page = client.search(index, body.clone()).await;
            let hits = page["hits"]["hits"].as_array().unwrap();
            let Some(last) = hits.last() else { break };
            body["search_after"] = last["sort"].clone();
            found.extend(ids(&page));
        }
        assert_eq!(found, ["d5", "d10", "d6", "d0", "d2", "d9", "d4", "d7", "d1", "d3", "d8"], "{index}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_takes_about_a_thousand_fields_over_all_its_shards() {
    let cluster = Cluster::start(2, 2).await;
    let client = &cluster.client;
    client.create_index("wide", 2, 1, json!({})).await;
    let refused = |answer: &harness::Answer| answer.text.contains("Limit of total fields [1000] has been exceeded");
    let document = |from: usize| Value::Object((from..from + 10).map(|n| (format!("f{n}"), json!(n))).collect());
    let taken = std::sync::atomic::AtomicUsize::new(0);
    wait_until("a new field is refused", async || {
        let at = taken.load(std::sync::atomic::Ordering::Relaxed);
        let answer = client.post("/wide/_doc?refresh=false", document(at)).await;
        if refused(&answer) {
            assert_eq!(answer.status, 400, "{}", answer.text);
            return true;
        }
        assert_eq!(answer.status, 201, "{}", answer.text);
        taken.fetch_add(10, std::sync::atomic::Ordering::Relaxed);
        // As fast as clients are, the leader looks once a second: near the limit they wait for it.
        if at >= 1_000 {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        false
    })
    .await;
    let taken = taken.load(std::sync::atomic::Ordering::Relaxed);
    assert!((1_000..1_900).contains(&taken), "{taken} fields were taken");
    // Every shard takes every field that some shard has, and no shard takes another.
    for number in 0..20 {
        let known = client.put(&format!("/wide/_doc/k{number}"), document(number * 40)).await;
        assert_eq!(known.status, 201, "{}", known.text);
        let unknown = client.put(&format!("/wide/_doc/u{number}"), json!({"g": number})).await;
        assert!(refused(&unknown), "{}", unknown.text);
    }
    client.send("POST", "/wide/_refresh", None).await;
    let mapping = client.get("/wide/_mapping").await.body;
    assert_eq!(mapping["wide"]["mappings"]["properties"].as_object().unwrap().len(), taken);
}
