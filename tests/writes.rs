//! Writes as clients meet them: seen at once after a refresh, repeated safely, never swallowed.
#![allow(missing_docs, clippy::unwrap_used)]

mod harness;

use std::time::{Duration, Instant};

use harness::{Cluster, ids, wait_until};
use serde_json::{Value, json};

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

/// One call that writes, and the source it leaves behind (`None`: nothing).
struct Call {
    method: &'static str,
    path: &'static str,
    body: &'static str,
    source: Option<serde_json::Value>,
}

/// Every kind of call that writes, in an order in which each has an effect on document `1`.
fn every_kind_of_write() -> Vec<Call> {
    let call = |method, path, body, source| Call { method, path, body, source };
    vec![
        call("PUT", "/w/_create/1", r#"{"n":1}"#, Some(json!({"n": 1}))),
        call("PUT", "/w/_doc/1", r#"{"n":2}"#, Some(json!({"n": 2}))),
        call("POST", "/w/_update/1", r#"{"doc":{"m":3}}"#, Some(json!({"n": 2, "m": 3}))),
        call("POST", "/w/_bulk", "{\"update\":{\"_id\":\"1\"}}\n{\"doc\":{\"n\":4}}\n", Some(json!({"n": 4, "m": 3}))),
        call("DELETE", "/w/_doc/1", "", None),
        call("POST", "/w/_update/1", r#"{"doc":{"n":5},"doc_as_upsert":true}"#, Some(json!({"n": 5}))),
        call("POST", "/w/_bulk", "{\"index\":{\"_id\":\"1\"}}\n{\"n\":6}\n", Some(json!({"n": 6}))),
        call("POST", "/w/_bulk", "{\"delete\":{\"_id\":\"1\"}}\n", None),
        call("POST", "/w/_bulk", "{\"create\":{\"_id\":\"1\"}}\n{\"n\":7}\n", Some(json!({"n": 7}))),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_write_is_seen_as_it_asks() {
    let cluster = Cluster::start(2, 2).await;
    let roots = cluster.root_clients();
    for mode in ["true", "wait_for", "position", "get"] {
        // Without refreshes of its own, so that only what a write asks for is seen.
        let interval = if mode == "wait_for" { json!("1s") } else { json!(-1) };
        let settings = json!({"number_of_shards": 2, "number_of_replicas": 1, "refresh_interval": interval});
        assert_eq!(roots[0].put("/w", json!({"settings": settings})).await.status, 200);
        cluster.known_everywhere("w").await;
        for call in every_kind_of_write() {
            let refresh = if ["true", "wait_for"].contains(&mode) { mode } else { "false" };
            let path = format!("{}?refresh={refresh}", call.path);
            let body = Some(call.body.as_bytes().to_vec()).filter(|body| !body.is_empty());
            let written = roots[0].try_send(call.method, &path, body, &[]).await.unwrap();
            assert!(written.status < 300 && written.body["errors"] != true, "{mode} {path}: {}", written.text);
            let item = written.body["items"][0].as_object().and_then(|item| item.values().next());
            let forced = item.unwrap_or(&written.body)["forced_refresh"] == true;
            assert_eq!(forced, refresh != "false", "{mode} {path}: {}", written.text);
            if mode == "get" {
                for root in &roots {
                    let got = root.get("/w/_doc/1").await;
                    assert_eq!(got.body.get("_source"), call.source.as_ref(), "{path}: {}", got.text);
                    let got = root.post("/w/_mget", json!({"ids": ["1"]})).await;
                    assert_eq!(got.body["docs"][0].get("_source"), call.source.as_ref(), "{path}: {}", got.text);
                }
                continue;
            }
            let position = written.headers["x-trawl-position"].to_str().unwrap().to_owned();
            let headers: &[(&str, &str)] = if mode == "position" { &[("X-Trawl-After", &position)] } else { &[] };
            for leaf in ["leaf-0", "leaf-1"] {
                let path = format!("/w/_search?preference=_prefer_nodes:{leaf}");
                let found = roots[1].try_send("GET", &path, None, headers).await.unwrap();
                let sources: Vec<_> =
                    found.body["hits"]["hits"].as_array().unwrap().iter().map(|hit| hit["_source"].clone()).collect();
                assert_eq!(sources, Vec::from_iter(call.source.clone()), "{mode} {}: {}", call.path, found.text);
            }
        }
        roots[0].delete("/w").await;
        wait_until("the index is gone everywhere", async || roots[1].get("/w").await.status == 404).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_answer_as_in_elasticsearch() {
    let cluster = Cluster::start(2, 2).await;
    let [client, other] = &cluster.root_clients()[..] else { panic!("two roots") };
    client.create_index("u", 2, 1, json!({"properties": {"n": {"type": "long"}}})).await;
    cluster.known_everywhere("u").await;

    let missing = client.post("/u/_update/1", json!({"doc": {"n": 1}})).await;
    assert_eq!(missing.status, 404, "{}", missing.text);
    assert_eq!(missing.body["error"]["type"], "document_missing_exception");
    assert_eq!(missing.body["error"]["reason"], "[1]: document missing");
    assert_eq!(missing.body["error"]["root_cause"][0]["index"], "u");

    let begun = client.post("/u/_update/1", json!({"doc": {"n": 1}, "upsert": {"n": 7, "o": {"a": 1}}})).await;
    assert_eq!((begun.status, begun.body["result"].as_str()), (201, Some("created")), "{}", begun.text);
    let body = json!({"doc": {"n": 8, "o": {"b": [1, 2]}}, "_source": ["o.*"]});
    let changed = other.post("/u/_update/1?_source=o", body).await;
    assert_eq!((changed.status, changed.body["_version"].as_u64()), (200, Some(2)), "{}", changed.text);
    assert_eq!(changed.body["get"]["_source"], json!({"o": {"a": 1, "b": [1, 2]}}), "{}", changed.text);
    assert_eq!(changed.body["get"]["_seq_no"], changed.body["_seq_no"]);

    let noop = client.post("/u/_update/1", json!({"doc": {"o": {"b": [1, 2]}}})).await;
    assert_eq!((noop.status, noop.body["result"].as_str()), (200, Some("noop")), "{}", noop.text);
    assert_eq!((&noop.body["_version"], &noop.body["_seq_no"]), (&json!(2), &changed.body["_seq_no"]));
    assert_eq!(noop.body["_shards"], json!({"total": 0, "successful": 0, "failed": 0}));
    let forced = client.post("/u/_update/1", json!({"doc": {"n": 8}, "detect_noop": false})).await;
    assert_eq!((forced.body["result"].as_str(), &forced.body["_version"]), (Some("updated"), &json!(3)));

    // What a noop says of the document is what a condition can be made of.
    let at = |answer: &harness::Answer| {
        let (seq, term) = (answer.body["_seq_no"].as_u64().unwrap(), answer.body["_primary_term"].as_u64().unwrap());
        format!("/u/_update/1?if_seq_no={seq}&if_primary_term={term}")
    };
    let late = client.post(&at(&noop), json!({"doc": {"n": 9}})).await;
    assert_eq!(late.body["error"]["type"], "version_conflict_engine_exception", "{}", late.text);
    assert_eq!(client.post(&at(&forced), json!({"doc": {"n": 9}})).await.status, 200);
    let bad = client.post("/u/_update/1", json!({"doc": {"n": "word"}})).await;
    assert_eq!((bad.status, &bad.body["error"]["type"]), (400, &json!("document_parsing_exception")), "{}", bad.text);

    for (path, body, reason) in [
        (
            "/u/_update/1",
            json!({"script": {"source": "x"}}),
            "[script] is not supported in an update, only partial documents are",
        ),
        (
            "/u/_update/1",
            json!({"doc": {}, "scripted_upsert": true}),
            "[scripted_upsert] is not supported in an update, only partial documents are",
        ),
        ("/u/_update/1", json!({"dok": {}}), "[1:2] [UpdateRequest] unknown field [dok]"),
        ("/u/_update/1", json!({}), "Validation Failed: 1: script or doc is missing;"),
        ("/u/_update/1?require_alias=true", json!({"doc": {}}), "[require_alias] is not supported"),
    ] {
        let answer = client.post(path, body).await;
        assert_eq!((answer.status, answer.body["error"]["reason"].as_str()), (400, Some(reason)), "{}", answer.text);
    }

    let lines = [
        json!({"update": {"_id": "1", "_source": true, "retry_on_conflict": 3}}),
        json!({"doc": {"n": 10}}),
        json!({"update": {"_id": "1"}}),
        json!({"dok": {}}),
        json!({"update": {"_id": "2"}}),
        json!({"doc": {"n": 1}}),
        json!({"update": {"_id": "1"}}),
        json!({"upsert": {}}),
        json!({"update": {"_id": "3"}}),
        json!({"doc": {"n": 1}, "doc_as_upsert": true}),
        json!({"update": {"_id": "3"}}),
        json!({"doc": {"n": "word"}}),
        json!({"delete": {"_id": "3"}}),
    ];
    let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let answer = client.try_send("POST", "/u/_bulk", Some(body.into_bytes()), &[]).await.unwrap();
    let items: Vec<(&str, u64)> = answer.body["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item.as_object().unwrap().values().next().unwrap())
        .map(|item| {
            let word = item["result"].as_str().or(item["error"]["type"].as_str()).unwrap();
            (word, item["status"].as_u64().unwrap())
        })
        .collect();
    let expected = [
        ("updated", 200),
        ("x_content_parse_exception", 400),
        ("document_missing_exception", 404),
        ("action_request_validation_exception", 400),
        ("created", 201),
        ("document_parsing_exception", 400),
        ("deleted", 200),
    ];
    assert_eq!(items, expected, "{}", answer.text);
    assert_eq!(answer.body["items"][0]["update"]["get"]["_source"]["n"], 10, "{}", answer.text);
    assert_eq!(other.get("/u/_doc/1").await.body["_source"]["n"], 10);

    // Each update is answered with the document as it made it, not as those behind it did.
    let lines = [
        json!({"update": {"_id": "1", "_source": "n"}}),
        json!({"doc": {"n": 11}}),
        json!({"update": {"_id": "1", "_source": true}}),
        json!({"doc": {"n": 12, "o": null}}),
        json!({"update": {"_id": "1", "_source": {"excludes": "o"}}}),
        json!({"doc": {"n": 12}}),
        json!({"delete": {"_id": "1"}}),
    ];
    let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
    for root in [client, other] {
        let headers = [("idempotency-key", "three")];
        let answer = root.try_send("POST", "/u/_bulk", Some(body.clone().into_bytes()), &headers).await.unwrap();
        let gets: Vec<&Value> = (0..3).map(|at| &answer.body["items"][at]["update"]["get"]).collect();
        let sources: Vec<&Value> = gets.iter().map(|get| &get["_source"]).collect();
        let expected = [json!({"n": 11}), json!({"n": 12, "o": null}), json!({"n": 12})];
        assert_eq!(sources, expected.iter().collect::<Vec<_>>(), "{}", answer.text);
        assert_eq!(gets[0]["_seq_no"].as_u64().unwrap() + 1, gets[1]["_seq_no"].as_u64().unwrap());
        assert_eq!(gets[1]["_seq_no"], gets[2]["_seq_no"], "nothing was changed");
    }
    assert_eq!(client.get("/u/_doc/1").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_from_outside_may_only_grow_also_over_a_delete() {
    let cluster = Cluster::start(1, 2).await;
    let client = &cluster.client;
    client.create_index("v", 1, 1, json!({})).await;
    let status = async |method: &str, query: &str| {
        let body = (method == "PUT").then(|| json!({"a": query}));
        let answer = client.send(method, &format!("/v/_doc/1?{query}"), body).await;
        (answer.status, answer.body["_version"].as_u64().unwrap_or(0))
    };
    assert_eq!(status("PUT", "version=5&version_type=external").await, (201, 5));
    assert_eq!(status("PUT", "version=5&version_type=external").await, (409, 0));
    assert_eq!(status("PUT", "version=5&version_type=external_gte").await, (200, 5));
    assert_eq!(status("DELETE", "version=4&version_type=external").await, (409, 0));
    assert_eq!(status("DELETE", "version=9&version_type=external").await, (200, 9));
    assert_eq!(status("PUT", "version=8&version_type=external_gt").await, (409, 0));
    assert_eq!(status("PUT", "version=10&version_type=external").await, (201, 10));
    assert_eq!(status("PUT", "").await, (200, 11));
    assert_eq!(client.post("/v/_update/1", json!({"doc": {"b": 1}})).await.body["_version"], 12);
    let refused = client.put("/v/_doc/1?version=3", json!({})).await;
    assert_eq!(refused.body["error"]["type"], "action_request_validation_exception", "{}", refused.text);
    let refused = client.put("/v/_create/1?version=3&version_type=external", json!({})).await;
    assert!(refused.text.contains("create operations only support internal versioning"), "{}", refused.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_write_is_answered_with_its_first_outcomes_after_a_crash_of_everything() {
    let mut cluster = Cluster::start(2, 2).await;
    cluster.client.create_index("again", 2, 1, json!({"properties": {"n": {"type": "long"}}})).await;
    cluster.known_everywhere("again").await;
    let lines = [
        json!({"index": {}}),
        json!({"n": 1}),
        json!({"create": {"_id": "a"}}),
        json!({"n": 1}),
        json!({"index": {"_id": "b"}}),
        json!({"n": "word"}),
        json!({"update": {"_id": "a"}}),
        json!({"doc": {"n": 2}}),
        json!({"update": {"_id": "a"}}),
        json!({"doc": {"n": 2}}),
        json!({"update": {"_id": "none"}}),
        json!({"doc": {"n": 2}}),
        json!({"create": {"_id": "a"}}),
        json!({"n": 1}),
        json!({"delete": {"_id": "none"}}),
    ];
    let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let write = async |client: &harness::Client| {
        let key = [("Idempotency-Key", "once")];
        client.try_send("POST", "/again/_bulk", Some(body.clone().into_bytes()), &key).await.unwrap()
    };
    let first = write(&cluster.root_clients()[0]).await;
    assert_eq!(first.status, 200, "{}", first.text);
    assert!(!first.text.contains("accepted"), "{}", first.text);
    // More than a replica remembers in memory would not be needed: everything is killed, twice, once with
    // the outcomes only just written and once long after their commit.
    for round in 0..2 {
        cluster.kill_everything().await;
        cluster.up().await;
        cluster.green().await;
        for root in cluster.root_clients() {
            let again = write(&root).await;
            // The number of copies is of now; the rest is what it was.
            let outcomes = |answer: &harness::Answer| {
                let mut items = answer.body["items"].clone();
                for item in items.as_array_mut().unwrap() {
                    item.as_object_mut().unwrap().values_mut().for_each(|item| {
                        item.as_object_mut().unwrap().remove("_shards");
                    });
                }
                items
            };
            assert_eq!(outcomes(&again), outcomes(&first), "round {round}");
        }
        cluster.client.get("/again/_refresh").await;
        assert_eq!(cluster.client.get("/again/_count").await.body["count"], 2);
    }
    let seq = first.body["items"][1]["create"]["_seq_no"].as_u64().unwrap();
    let asked = async |shard: u32| cluster.client.get(&format!("/_trawl/operations/again/{shard}/{seq}")).await;
    let states = [asked(0).await.body["result"].clone(), asked(1).await.body["result"].clone()];
    assert!(states.contains(&json!("created")), "{states:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_is_not_held_writes_nothing() {
    let cluster = Cluster::start(1, 1).await;
    let client = &cluster.client;
    client.create_index("claimed", 1, 0, json!({})).await;
    let write = async |claim: &str| {
        let body = b"{\"index\":{\"_id\":\"1\"}}\n{}\n".to_vec();
        client.try_send("POST", "/claimed/_bulk", Some(body), &[("X-Trawl-Claim", claim)]).await.unwrap()
    };
    let lost = write("7-1").await;
    assert_eq!((lost.status, &lost.body["error"]["type"]), (409, &json!("claim_lost_exception")), "{}", lost.text);
    assert_eq!(write("seven").await.status, 400);
    assert_eq!(client.get("/claimed/_doc/1").await.status, 404);
}
