//! A leaf is cut off, from the roots and other leaves, from the engine, or from all: another replica answers, its
//! replicas are replaced after the grace period, and it comes back without harm.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::harness::{
    Client, green,
    member::{Member, free_address},
    proxy::{Link, Proxy},
    roots::{Roots, Searches},
    wait_until,
    writes::{Write, Writes},
};
use crate::{DOCUMENTS, Ground, all_found, make_indices, replicas, told};

/// How long the leaf may be missing before its replicas are replaced.
const GRACE: &str = "2s";

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_cut_off_from_the_roots_only_is_replaced_and_comes_back() {
    replaced("from the roots", true, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_cut_off_from_the_engine_only_is_replaced_and_comes_back() {
    replaced("from the engine", false, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_cut_off_from_everything_is_replaced_and_comes_back() {
    replaced("from everything", true, true).await;
}

async fn replaced(name: &str, from_roots: bool, from_engine: bool) {
    let Some(ground) = Ground::start() else { return };
    let url = ground.server.url();
    let (engine, linked) = ground.link().await;
    let address = free_address().to_string();
    let wire = Proxy::start(address.clone()).await;
    let directory = ground.directory.path();
    let advertised = wire.address.to_string();
    let far = ["--grpc", &address, "--grpc-advertised", &advertised];
    let _far = Member::leaf(&ground.log, "far", &linked, directory, &far);
    let _leaves =
        ["leaf-1", "leaf-2"].map(|leaf| Member::leaf(&ground.log, leaf, &url, directory, &["--grpc", "127.0.0.1:0"]));
    let args = ["--replace-after", GRACE];
    let (_first, first) = Member::root(&ground.log, "root-0", &url, &args).await;
    let (_second, second) = Member::root(&ground.log, "root-1", &url, &args).await;
    wait_until("three leaves are there", async || leaves(&first).await == 3).await;
    make_indices(&first).await;
    wait_until("each leaf has its share", async || held(&first).await.get("far") == Some(&4)).await;
    let searches = [("root-0", &first), ("root-1", &second)]
        .map(|(name, root)| (name, Searches::start(Roots::only(name, root), "boats", DOCUMENTS, false)));
    let writes = Writes::start(second.clone(), "log", "document");
    tokio::time::sleep(Duration::from_millis(500)).await;

    if from_roots {
        wire.set(Link::Silent);
    }
    if from_engine {
        engine.set(Link::Silent);
    }
    let began = Instant::now();
    wait_until("others serve in place of the leaf", async || {
        let held = held(&first).await;
        !held.contains_key("far") && held.values().sum::<usize>() == 12
    })
    .await;
    let replaced = began.elapsed();
    wire.set(Link::Whole);
    engine.set(Link::Whole);
    let back = Instant::now();
    wait_until("the leaf has its share again", async || {
        let held = held(&first).await;
        held.get("far") == Some(&4) && held.values().sum::<usize>() == 12
    })
    .await;
    println!(
        "cut off {name}: replaced after {replaced:.1?}; has its share again {:.1?} after the return",
        back.elapsed()
    );
    green(&first).await;
    for (name, stream) in searches {
        let searched = stream.stop().await;
        println!("  {}", told(name, &searched));
        assert_eq!(searched.faults, Vec::<String>::new());
    }
    let written = writes.stop().await;
    println!("  {} of {} writes acknowledged, all found", all_found(&first, &written).await, written.len());
    assert!(written.iter().all(Write::is_acknowledged), "{written:?}");
    agree(&first).await;
}

async fn leaves(client: &Client) -> usize {
    client.get("/_trawl/cluster").await.body["leaves"].as_array().map_or(0, Vec::len)
}

/// How many replicas serve on each leaf; none is listed as serving that is not, and empty when others are there.
async fn held(client: &Client) -> BTreeMap<String, usize> {
    let mut held = BTreeMap::new();
    for (_, leaf, _, state, _) in replicas(client).await {
        if state != "serving" {
            return BTreeMap::new();
        }
        *held.entry(leaf).or_default() += 1;
    }
    held
}

/// All replicas of a shard hold as many documents.
async fn agree(client: &Client) {
    let refreshed = client.get("/_refresh").await;
    assert_eq!(refreshed.body["_shards"]["failed"], 0, "{}", refreshed.text);
    let mut counts: BTreeMap<(String, u64), Vec<u64>> = BTreeMap::new();
    for (index, _, shard, _, documents) in replicas(client).await {
        counts.entry((index, shard)).or_default().push(documents);
    }
    assert!(counts.values().all(|counts| counts.len() == 2 && counts[0] == counts[1]), "{counts:?}");
}
