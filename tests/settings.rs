//! Settings of an index that is in use: shown, changed through any root, and in force on all.
#![allow(missing_docs, clippy::unwrap_used)]

mod harness;

use harness::{Client, Cluster, wait_until};
use serde_json::{Value, json};

/// A document of so many bytes that do not compress to nothing.
fn document(bytes: usize) -> Value {
    let mut state = 1u64;
    let words = std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        format!("{:08x} ", state >> 32)
    });
    json!({"text": words.take(bytes / 9).collect::<String>()})
}

async fn change(client: &Client, index: &str, settings: Value) {
    let answer = client.put(&format!("/{index}/_settings"), settings).await;
    assert_eq!((answer.status, &answer.body), (200, &json!({"acknowledged": true})), "{}", answer.text);
}

async fn refused(client: &Client, settings: Value) -> String {
    let answer = client.put("/books/_settings", settings).await;
    assert_eq!((answer.status, &answer.body["error"]["type"]), (400, &json!("illegal_argument_exception")));
    answer.body["error"]["reason"].as_str().unwrap().to_owned()
}

/// Writes until the status is as wanted.
async fn written(client: &Client, path: &str, bytes: usize, status: fn(u16) -> bool) {
    let document = document(bytes);
    let write = async || client.put(path, document.clone()).await;
    wait_until("a write is answered as the settings are", async || status(write().await.status)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_changed_while_an_index_is_used() {
    // Slow enough that replicas fall behind.
    let env = [("TRAWL_INJECT_APPLY_DELAY", "100ms"), ("TRAWL_OUTCOME_TIME", "50ms")];
    let cluster = Cluster::start_set(2, 1, &env).await;
    let roots = cluster.root_clients();
    let settings = json!({"settings": {"number_of_replicas": 0, "refresh_interval": "-1"}});
    assert_eq!(roots[0].put("/books", settings).await.status, 200);
    cluster.known_everywhere("books").await;

    // A root hears of what another did a moment later.
    let shows = async |root: usize, name: &str, value: Value| {
        let shown = async || roots[root].get("/books/_settings?flat_settings").await.body["books"]["settings"].clone();
        wait_until("the setting is shown", async || shown().await[format!("index.trawl.{name}")] == value).await;
    };
    shows(1, "log_size", Value::Null).await;
    let defaults = roots[1].get("/books/_settings?include_defaults").await.body["books"]["defaults"].clone();
    assert_eq!(defaults, json!({"index": {"trawl": {"log_size": "-1", "log_age": "-1"}}}));

    // The size of the log.
    change(&roots[0], "books", json!({"index": {"trawl": {"log_size": "64kb"}}})).await;
    shows(1, "log_size", json!("65536b")).await;
    written(&roots[1], "/books/_doc/long", 300_000, |status| status == 429).await;
    change(&roots[0], "_all", json!({"settings": {"trawl.log_size": null}})).await;
    shows(1, "log_size", Value::Null).await;
    written(&roots[1], "/books/_doc/long", 300_000, |status| status < 300).await;

    // How old what it keeps may be.
    change(&roots[1], "books", json!({"index.trawl.log_age": "1s"})).await;
    shows(0, "log_age", json!("1s")).await;
    written(&roots[0], "/books/_doc/late", 10, |status| status == 429).await;
    change(&roots[1], "books", json!({"trawl": {"log_age": -1}})).await;
    written(&roots[0], "/books/_doc/late", 10, |status| status < 300).await;

    // The refresh interval: nothing was to be found by itself until now.
    change(&roots[1], "books", json!({"refresh_interval": "100ms"})).await;
    let total = async || roots[0].get("/books/_count").await.body["count"].as_u64();
    wait_until("what was written is found", async || total().await == Some(2)).await;

    let reason = refused(&roots[0], json!({"number_of_shards": 3, "trawl.log_age": "9s"})).await;
    let expected = "Can't update non dynamic settings [[index.number_of_shards]] for open indices [[books/";
    assert!(reason.starts_with(expected), "{reason}");
    let reason = refused(&roots[0], json!({"index": {"trawl": {"log_colour": "red"}}})).await;
    assert!(reason.starts_with("unknown setting [index.trawl.log_colour] "), "{reason}");
    let reason = refused(&roots[0], json!({"trawl.log_size": "64"})).await;
    assert!(reason.contains("[index.trawl.log_size] with value [64] as a size in bytes"), "{reason}");
    let answer = roots[0].put("/books/_settings", json!({})).await;
    assert_eq!((answer.status, &answer.body["error"]["type"]), (400, &json!("action_request_validation_exception")));
    assert_eq!(roots[0].put("/books,films/_settings", json!({"trawl.log_age": "9s"})).await.status, 404);
    // Nothing of a change that was refused is done.
    shows(0, "log_age", Value::Null).await;
}
