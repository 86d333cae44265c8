//! Rejected documents: kept once, listed anywhere, mended, replayed, dropped, bounded.
#![allow(missing_docs, clippy::unwrap_used)]

mod harness;

use harness::{Client, Cluster, ids, wait_until};
use serde_json::{Value, json};

const LETTERS: &str = "/_trawl/dead_letters";

/// The listing once `kept` letters are there.
async fn letters(client: &Client, kept: u64) -> Vec<Value> {
    wait_until("the letters are kept", async || client.get(LETTERS).await.body["kept"] == kept).await;
    let mut letters = client.get(LETTERS).await.body["letters"].as_array().unwrap().clone();
    letters.sort_by_key(|letter| letter["_id"].to_string());
    letters
}

async fn bulk(client: &Client, documents: &[(&str, &str)]) -> Vec<u64> {
    let line = |(id, source): &(&str, &str)| format!("{}\n{source}\n", json!({"index": {"_id": id}}));
    let body = documents.iter().map(line).collect::<String>().into_bytes();
    let written = client.try_send("POST", "/strict/_bulk?refresh=true", Some(body), &[]).await.unwrap();
    let items = written.body["items"].as_array().unwrap_or_else(|| panic!("{}", written.text));
    items.iter().map(|item| item["index"]["status"].as_u64().unwrap()).collect()
}

async fn post(client: &Client, what: &str, body: Value) -> Value {
    let answer = client.post(&format!("{LETTERS}/{what}?pretty"), body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.body
}

fn mapping() -> Value {
    json!({"dynamic": "strict", "properties": {"n": {"type": "long"}, "t": {"type": "text"}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_rejected_is_kept_once_mended_and_replayed_once() {
    let mut cluster = Cluster::start(2, 2).await;
    cluster.client.create_index("strict", 2, 1, mapping()).await;
    cluster.known_everywhere("strict").await;
    let documents = [
        ("a", r#"{"n":1,"t":"fine"}"#),
        ("b", r#"{"n":2,"colour":"red and blue"}"#),
        ("c", r#"{"n":3,"t":"fine too"}"#),
        ("d", r#"{"n":4,"t":"not json""#),
        ("e", r#"{"n":5,"colour":"green"}"#),
    ];
    assert_eq!(bulk(&cluster.client, &documents).await, [201, 400, 201, 400, 400]);

    // On any root, one letter each although two replicas rejected them.
    for root in cluster.root_clients() {
        let list = letters(&root, 3).await;
        assert_eq!(list.iter().map(|letter| letter["_id"].as_str().unwrap()).collect::<Vec<_>>(), ["b", "d", "e"]);
        let (b, d) = (&list[0], &list[1]);
        assert_eq!((&b["index"], &b["operation"]), (&json!("strict"), &json!("index")), "{b}");
        assert_eq!(b["document"], json!({"n": 2, "colour": "red and blue"}));
        assert_eq!(b["error"]["type"], "strict_dynamic_mapping_exception", "{b}");
        assert!(b["error"]["reason"].as_str().unwrap().contains("[colour]"), "{b}");
        assert_eq!(d["document"], r#"{"n":4,"t":"not json""#, "{d}");
        let one = root.get(&format!("{LETTERS}/{}", b["id"].as_str().unwrap())).await;
        assert_eq!(one.body, *b, "{}", one.text);
        let page = root.get(&format!("{LETTERS}?index=strict&size=2")).await.body["letters"].clone();
        let last = page[1]["id"].as_str().unwrap();
        let rest = root.get(&format!("{LETTERS}?index=strict&after={last}")).await.body["letters"].clone();
        assert_eq!((page.as_array().unwrap().len(), rest.as_array().unwrap().len()), (2, 1));
    }

    // It survives everything.
    cluster.kill_everything().await;
    cluster.up().await;
    cluster.green().await;
    let client = cluster.client.clone();
    let list = letters(&client, 3).await;

    // Not mended yet: the new rejection takes the old one's place.
    let handled = post(&client, "_replay", json!({"ids": [list[1]["id"], "nothing/0/1/1"]})).await;
    assert_eq!(
        (&handled["replayed"], &handled["still_rejected"], &handled["missing"]),
        (&json!(0), &json!(1), &json!(1))
    );
    let again = letters(&client, 3).await;
    assert_ne!(again[1]["id"], list[1]["id"]);
    assert_eq!(again[1]["document"], list[1]["document"]);

    // One was written in another form since: it stays as it is now.
    assert_eq!(bulk(&client, &[("e", r#"{"n":55}"#)]).await, [201]);
    let fields = json!({"properties": {"colour": {"type": "text"}}});
    assert_eq!(client.put("/strict/_mapping", fields).await.status, 200);
    let handled = post(&client, "_replay", json!({"index": "strict"})).await;
    let counts = ["replayed", "still_rejected", "conflicts", "failed"].map(|name| handled[name].as_u64().unwrap());
    assert_eq!(counts, [1, 1, 1, 0], "{handled}");
    assert_eq!(client.get("/strict/_refresh").await.status, 200);
    let found = client.search("strict", json!({"query": {"match": {"colour": "red"}}})).await;
    assert_eq!(ids(&found), ["b"]);
    assert_eq!(client.get("/strict/_count").await.body["count"], 4);
    let e = client.get("/strict/_doc/e").await.body;
    assert_eq!((&e["_source"], &e["_version"]), (&json!({"n": 55}), &json!(1)));

    // It is still a letter, as is the one that is not JSON.
    let left = letters(&client, 2).await;
    assert_eq!((&left[0]["_id"], &left[1]["_id"]), (&json!("d"), &json!("e")));
    assert_eq!(post(&client, "_drop", json!({"ids": [left[1]["id"]]})).await["dropped"], 1);
    let handled = post(&client, "_drop", json!({"ids": [left[0]["id"]]})).await;
    assert_eq!((&handled["dropped"], &handled["missing"]), (&json!(1), &json!(0)));
    assert!(letters(&client, 0).await.is_empty());
    for bad in [json!({}), json!({"all": false}), json!({"ids": ["x"]}), json!({"all": true, "index": "strict"})] {
        assert_eq!(client.post(&format!("{LETTERS}/_drop"), bad.clone()).await.status, 400, "{bad}");
    }
    assert_eq!(client.get(&format!("{LETTERS}/{}", left[0]["id"].as_str().unwrap())).await.status, 404);
}

/// As if nothing had been rejected: the latest counts, and what was deleted since stays deleted.
#[tokio::test(flavor = "multi_thread")]
async fn the_latest_letter_of_a_document_counts_and_a_delete_does_too() {
    let cluster = Cluster::start(1, 2).await;
    let client = &cluster.client;
    client.create_index("strict", 1, 1, mapping()).await;
    let rejected = async |id: &str, n: u64| {
        let answer = client.put(&format!("/strict/_doc/{id}"), json!({"n": n, "colour": "x"})).await;
        assert_eq!(answer.status, 400, "{}", answer.text);
    };
    for id in ["there", "gone"] {
        assert_eq!(client.put(&format!("/strict/_doc/{id}"), json!({"n": 0})).await.status, 201);
    }
    for n in 1..4 {
        rejected("new", n).await;
        rejected("there", n).await;
    }
    rejected("gone", 1).await;
    assert_eq!(client.delete("/strict/_doc/gone").await.status, 200);
    let counts = ["replayed", "superseded", "still_rejected", "conflicts", "failed"];
    let counts = |handled: &Value| counts.map(|name| handled[name].as_u64().unwrap());

    letters(client, 7).await;
    // Nothing is mended yet: each letter has a new one in its place.
    assert_eq!(counts(&post(client, "_replay", json!({"all": true})).await), [0, 0, 7, 0, 0]);
    letters(client, 7).await;
    let fields = json!({"properties": {"colour": {"type": "text"}}});
    assert_eq!(client.put("/strict/_mapping", fields).await.status, 200);
    assert_eq!(counts(&post(client, "_replay", json!({"index": "strict"})).await), [2, 4, 0, 1, 0]);
    for id in ["new", "there"] {
        assert_eq!(client.get(&format!("/strict/_doc/{id}")).await.body["_source"]["n"], 3, "{id}");
    }
    assert_eq!(client.get("/strict/_doc/gone").await.status, 404);
    // What nobody wrote stays until it is dropped.
    assert_eq!(letters(client, 1).await[0]["_id"], "gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_are_kept_and_the_rest_is_counted() {
    let cluster = Cluster::start_with(1, 2, &["--leaf-arg=--dead-letters=3"]).await;
    cluster.client.create_index("strict", 1, 1, mapping()).await;
    for number in 0..5 {
        let source = json!({"n": number, "colour": "x"}).to_string();
        assert_eq!(bulk(&cluster.client, &[(&number.to_string(), &source)]).await, [400]);
    }
    let counted = async || cluster.client.get(LETTERS).await.body["aged_out"] == 2;
    wait_until("the oldest made room", counted).await;
    let list = letters(&cluster.client, 3).await;
    assert_eq!(list.iter().map(|letter| letter["_id"].as_str().unwrap()).collect::<Vec<_>>(), ["2", "3", "4"]);
    let metrics = cluster.client.get("/metrics").await.text;
    for line in ["trawl_root_dead_letters_kept 3", "trawl_root_dead_letters_aged_out 2"] {
        assert!(metrics.contains(line), "{line}");
    }
    let handled = post(&cluster.client, "_drop", json!({"all": true})).await;
    assert_eq!(handled["dropped"], 3);
}
