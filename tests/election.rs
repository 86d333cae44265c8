//! The leader is killed and paused again and again, through the real binary: another one leads soon, at a
//! higher epoch, and acts; the old one stands by when it goes on; no search fails or is partial meanwhile.
//!
//! `TRAWL_TEST_ELECTIONS` says how often (default 4).
#![allow(missing_docs, clippy::unwrap_used)]

mod harness;

use std::time::{Duration, Instant};

use harness::{
    Cluster,
    roots::{Roots, Searches, metric},
    wait_until,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::task::block_in_place;
use trawl_cluster::conformance::server::Server;

const ROOTS: usize = 3;
const DOCUMENTS: usize = 500;

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_or_paused_leader_is_followed_by_another_that_acts_on_sqlite() {
    followed("sqlite", Cluster::start(ROOTS, 2).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_or_paused_leader_is_followed_by_another_that_acts_on_postgresql() {
    let Some(server) = block_in_place(|| Server::start(&[])) else { return };
    followed("postgresql", Cluster::start_with(ROOTS, 2, &["--cluster", &server.url()]).await).await;
}

async fn followed(engine: &str, cluster: Cluster) {
    let rounds = std::env::var("TRAWL_TEST_ELECTIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let roots = Roots::of(&cluster);
    let client = &cluster.client;
    client.create_index("boats", 2, 1, json!({"properties": {"title": {"type": "text"}}})).await;
    let documents: Vec<(String, Value)> =
        (0..DOCUMENTS).map(|number| (format!("b{number}"), json!({"title": format!("boat {number}")}))).collect();
    client.bulk_index("boats", &documents, true).await;
    cluster.known_everywhere("boats").await;
    let searches = Searches::start(roots.clone(), "boats", DOCUMENTS as u64, false);
    let mut took = Vec::new();
    for round in 0..rounds {
        took.push(lose_leader(&cluster, &roots, round).await);
    }
    let searched = searches.stop().await;
    took.sort();
    println!(
        "{engine}: {rounds} leaders lost: another has acted after {:.2?} (median), {:.2?} (worst); {} searches \
         complete, {} not, the slowest {:.2?}",
        took[took.len() / 2],
        took[took.len() - 1],
        searched.complete,
        searched.faults.len(),
        searched.worst,
    );
    assert!(searched.complete > 50);
    assert_eq!(searched.faults, Vec::<String>::new());
}

/// Kills or pauses the leader; how long it took until another has acted.
async fn lose_leader(cluster: &Cluster, roots: &Roots, round: usize) -> Duration {
    let (old, epoch) = roots.leader().await.unwrap();
    let others = roots.except(&old);
    let signal = if round.is_multiple_of(2) { Signal::SIGKILL } else { Signal::SIGSTOP };
    let began = Instant::now();
    cluster.signal(&old, signal);
    others.later_leader(epoch).await;
    let leads = began.elapsed();
    // Only a leader that acts can have an index served.
    let settings = json!({"settings": {"number_of_replicas": 0}});
    let made = others.all[0].1.put(&format!("/round-{round}"), settings).await;
    assert_eq!(made.body["shards_acknowledged"], true, "{}", made.text);
    let acts = began.elapsed();
    println!("{signal} of {old} at epoch {epoch}: another leads after {leads:.2?}, has acted after {acts:.2?}");
    if signal == Signal::SIGSTOP {
        cluster.signal(&old, Signal::SIGCONT);
        wait_until("the old leader stands by", async || {
            metric(roots.client(&old), "trawl_root_leading").await == Some(0.0)
        })
        .await;
    }
    cluster.green().await;
    acts
}
