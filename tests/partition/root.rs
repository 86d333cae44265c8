//! The leader is cut off from the engine, but not from the leaves.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{
    Client, green,
    member::Member,
    proxy::{Link, Proxy},
    roots::{Roots, Searches, metric},
    wait_until,
    writes::{Write, Writes, spread},
};
use crate::{DOCUMENTS, Ground, all_found, make_indices, told};

const LEASE: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_root_cut_off_from_the_engine_serves_searches_and_leads_no_more() {
    let Some(ground) = Ground::start() else { return };
    let (link, linked) = ground.link().await;
    let url = ground.server.url();
    let _leaves = ["leaf-0", "leaf-1"]
        .map(|name| Member::leaf(&ground.log, name, &url, ground.directory.path(), &["--grpc", "127.0.0.1:0"]));
    let (_far, far) = Member::root(&ground.log, "far", &linked, &[]).await;
    wait_until("the root to be cut off leads", async || metric(&far, "trawl_root_leading").await == Some(1.0)).await;
    let (near_process, near) = Member::root(&ground.log, "near", &url, &[]).await;
    make_indices(&near).await;
    let roots =
        Roots { all: vec![("near".to_owned(), near), ("far".to_owned(), far)], patience: Duration::from_secs(1) };
    let mut written = cut(&ground, &roots, &link, Link::Broken).await;

    // The one that took over gives the lease back to the one that is to be cut off again.
    near_process.end().await;
    let far = roots.client("far").clone();
    wait_until("the root leads again", async || metric(&far, "trawl_root_leading").await == Some(1.0)).await;
    let (_near, near) = Member::root(&ground.log, "near", &url, &[]).await;
    let all = vec![("near".to_owned(), near.clone()), ("far".to_owned(), far)];
    written.extend(cut(&ground, &Roots { all, ..roots }, &link, Link::Silent).await);
    println!("{} acknowledged writes, all found", all_found(&near, &written).await);
}

/// Cuts the root `far` off from the engine for a while; what was written meanwhile.
async fn cut(ground: &Ground, roots: &Roots, link: &Proxy, how: Link) -> Vec<Write> {
    let length = std::env::var("TRAWL_TEST_CUT").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    let (near, far) = (roots.client("near"), roots.client("far"));
    let (leader, epoch) = roots.leader().await.unwrap();
    assert_eq!(leader, "far");
    let searches = [("near", near), ("far", far)]
        .map(|(name, root)| (name, Searches::start(Roots::only(name, root), "boats", DOCUMENTS, false)));
    let (near_writes, far_writes) = (
        Writes::start(near.clone(), "log", &format!("near {how:?}")),
        Writes::start(far.clone(), "log", &format!("far {how:?}")),
    );
    tokio::time::sleep(Duration::from_millis(500)).await;

    let says_so = || ground.log.count(&["not leading any more", "far"]);
    let before = says_so();
    link.set(how);
    let began = Instant::now();
    wait_until("the root leads no more", async || says_so() > before).await;
    let stepped_down = began.elapsed();
    let others = roots.except("far");
    others.later_leader(epoch).await;
    let leads = began.elapsed();
    let index = format!("meanwhile-{how:?}").to_lowercase();
    let made = near.put(&format!("/{index}"), json!({"settings": {"number_of_replicas": 0}})).await;
    assert_eq!(made.body["shards_acknowledged"], true, "{}", made.text);
    let acts = began.elapsed();
    tokio::time::sleep(Duration::from_secs(length).saturating_sub(began.elapsed())).await;
    let ended = Instant::now();
    link.set(Link::Whole);
    wait_until("the root has caught up", async || far.send("HEAD", &format!("/{index}"), None).await.status == 200)
        .await;
    let caught_up = ended.elapsed();
    let taken = back_in_writing(far).await - ended;
    assert_eq!(metric(far, "trawl_root_leading").await, Some(0.0), "it stands by");
    green(near).await;

    println!(
        "{how:?} for {length} s: the root stepped down after {stepped_down:.2?}, another leads after {leads:.2?} and has \
         acted after {acts:.2?}; back, it has caught up after {caught_up:.2?} and writes after {taken:.2?}"
    );
    for (name, stream) in searches {
        let searched = stream.stop().await;
        println!("  {}", told(name, &searched));
        assert_eq!(searched.faults, Vec::<String>::new());
        assert!(searched.complete > 50);
    }
    let (near_writes, far_writes) = (near_writes.stop().await, far_writes.stop().await);
    assert!(near_writes.iter().all(Write::is_acknowledged), "{near_writes:?}");
    let refused: Vec<&Write> = far_writes.iter().filter(|write| !write.is_acknowledged()).collect();
    let during = |write: &&Write| write.began > began && write.began + write.took < ended && write.is_acknowledged();
    println!(
        "  writes: near {} acknowledged; far {} acknowledged, refused after {}",
        near_writes.len(),
        far_writes.len() - refused.len(),
        spread(refused.iter().map(|write| write.took))
    );
    assert!(stepped_down < LEASE && acts < LEASE * 3 / 2, "{stepped_down:?} {acts:?}");
    assert!(refused.len() > 5 && refused.iter().all(|write| write.status == 503), "{refused:?}");
    assert_eq!(far_writes.iter().filter(during).count(), 0, "nothing is acknowledged without the engine");
    near_writes.into_iter().chain(far_writes).collect()
}

/// When a write through the root is taken.
async fn back_in_writing(root: &Client) -> Instant {
    wait_until("the root takes writes", async || {
        root.put("/log/_doc/probe?timeout=1s", json!({"title": "probe"})).await.status < 300
    })
    .await;
    Instant::now()
}
