//! Leaves that are paused while they still count as alive: late calls go to other replicas, within a budget.
#![allow(missing_docs, clippy::unwrap_used)]

mod harness;

use harness::{Client, Cluster, roots::metric};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const DOCUMENTS: usize = 500;

async fn cluster(hedge_budget: &str) -> Cluster {
    let cluster = Cluster::start_set(1, 2, &[("TRAWL_HEDGE_BUDGET", hedge_budget)]).await;
    cluster.client.create_index("boats", 2, 1, json!({"properties": {"title": {"type": "text"}}})).await;
    let documents: Vec<_> =
        (0..DOCUMENTS).map(|n| (format!("b{n}"), json!({"title": format!("boat number {n}")}))).collect();
    cluster.client.bulk_index("boats", &documents, true).await;
    cluster.green().await;
    cluster
}

async fn search(client: &Client) {
    let answer = client.search("boats", json!({"query": {"match": {"title": "boat"}}, "size": 3})).await;
    assert_eq!((&answer["_shards"]["failed"], &answer["timed_out"]), (&json!(0), &json!(false)), "{answer}");
    assert_eq!(answer["hits"]["total"]["value"], DOCUMENTS, "{answer}");
}

async fn counted(client: &Client, name: &str) -> f64 {
    metric(client, &format!("trawl_root_{name}_total")).await.unwrap()
}

/// Whether no root or leaf counts as gone.
async fn all_alive(client: &Client) -> bool {
    let nodes = client.get("/_trawl/cluster").await.body;
    nodes["leaves"].as_array().unwrap().iter().all(|leaf| leaf["alive"] == Value::Bool(true))
}

/// A leaf that is stopped says nothing, and its connection stays open: without hedges its searches would wait until it
/// counts as gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_leaf_keeps_no_search_waiting() {
    let cluster = cluster("0.05").await;
    for _ in 0..60 {
        search(&cluster.client).await;
    }
    let mut searches = 60;
    let mut while_alive = 0;
    for leaf in ["leaf-0", "leaf-1", "leaf-0"] {
        cluster.signal(leaf, Signal::SIGSTOP);
        for _ in 0..15 {
            search(&cluster.client).await;
        }
        while_alive += u32::from(all_alive(&cluster.client).await);
        cluster.signal(leaf, Signal::SIGCONT);
        // It is asked again, and answers.
        for _ in 0..60 {
            search(&cluster.client).await;
        }
        searches += 75;
    }
    let (hedges, won) = (counted(&cluster.client, "hedges").await, counted(&cluster.client, "hedges_won").await);
    println!("{searches} searches, {hedges} hedges, {won} won; {while_alive} of 3 pauses went unnoticed otherwise");
    assert!(won >= 1.0);
    // Two phases with up to two calls each, and the burst.
    assert!(hedges <= 10.0 + 0.05 * 4.0 * f64::from(searches), "{hedges} hedges");
    assert!(while_alive >= 1, "every pause was longer than the lease: searches waited for it");
    assert!(counted(&cluster.client, "calls_cancelled").await >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_budget_nothing_is_asked_twice() {
    let cluster = cluster("0").await;
    for _ in 0..40 {
        search(&cluster.client).await;
    }
    cluster.signal("leaf-0", Signal::SIGSTOP);
    for _ in 0..3 {
        search(&cluster.client).await;
    }
    cluster.signal("leaf-0", Signal::SIGCONT);
    assert_eq!(counted(&cluster.client, "hedges").await, 0.0);
}
