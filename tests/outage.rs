//! The whole cluster engine goes away and comes back, through the real binary: searches go on, all complete; the
//! leader steps down by its own clock; writes are refused quickly, and taken again when the engine is back; one leads
//! again, and acts; what was acknowledged is there.
//!
//! `TRAWL_TEST_OUTAGE` says for how many seconds it is away (default 8).
#![allow(missing_docs, clippy::unwrap_used)]

mod harness;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use harness::{
    Client, Cluster,
    roots::{Roots, Searches, metric},
    wait_until,
    writes::{Write, Writes, found, spread},
};
use serde_json::json;
use tokio::task::block_in_place;
use trawl_cluster::conformance::{locked::Locked, server::Server};

const ROOTS: usize = 2;
/// The lease time; a leader that cannot renew it stops leading after two thirds of it.
const LEASE: Duration = Duration::from_secs(3);
/// How long the engine may take before it counts as out of reach (`--engine-time`).
const ENGINE_TIME: Duration = Duration::from_secs(5);

/// A way to be away.
enum Outage {
    /// PostgreSQL stands still: connections are open, and nobody answers.
    Paused(Server),
    /// PostgreSQL was killed, and is started again.
    Killed(Server),
    /// SQLite's files are locked by another program.
    Locked(PathBuf, Option<Locked>),
    /// SQLite's directory is not where it was.
    Moved(PathBuf),
}

impl Outage {
    async fn begin(&mut self) {
        match self {
            Self::Paused(server) => server.pause(),
            Self::Killed(server) => block_in_place(|| server.kill()),
            Self::Locked(directory, locked) => *locked = Some(Locked::take(directory).await),
            Self::Moved(directory) => std::fs::rename(&directory, directory.with_extension("away")).unwrap(),
        }
    }

    async fn end(&mut self) {
        match self {
            Self::Paused(server) => server.resume(),
            Self::Killed(server) => block_in_place(|| server.restart()),
            Self::Locked(_, locked) => locked.take().unwrap().release().await,
            Self::Moved(directory) => std::fs::rename(directory.with_extension("away"), directory).unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_stands_still() {
    let Some(server) = block_in_place(|| Server::start(&[])) else { return };
    let cluster = Cluster::start_with(ROOTS, 2, &["--cluster", &server.url()]).await;
    survived("postgresql stands still", cluster, Outage::Paused(server)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_is_killed() {
    let Some(server) = block_in_place(|| Server::start(&[])) else { return };
    let cluster = Cluster::start_with(ROOTS, 2, &["--cluster", &server.url()]).await;
    survived("postgresql is killed", cluster, Outage::Killed(server)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_is_locked_by_another_program() {
    let cluster = Cluster::start(ROOTS, 2).await;
    let directory = cluster.data_dir().join("cluster");
    survived("sqlite is locked", cluster, Outage::Locked(directory, None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directory_of_sqlite_is_moved_away() {
    let cluster = Cluster::start(ROOTS, 2).await;
    let directory = cluster.data_dir().join("cluster");
    survived("sqlite is moved away", cluster, Outage::Moved(directory)).await;
}

async fn survived(name: &str, cluster: Cluster, mut outage: Outage) {
    let length = std::env::var("TRAWL_TEST_OUTAGE").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    let (client, roots) = (&cluster.client, Roots::of(&cluster));
    let mappings = json!({"properties": {"title": {"type": "text"}}});
    for index in ["boats", "log"] {
        client.create_index(index, 2, 1, mappings.clone()).await;
        cluster.known_everywhere(index).await;
    }
    let documents: Vec<_> =
        (0..500).map(|number| (format!("b{number}"), json!({"title": format!("boat {number}")}))).collect();
    client.bulk_index("boats", &documents, true).await;
    // Each root by itself: none may need the other.
    let searches: Vec<_> =
        roots.all.iter().map(|(name, root)| Searches::start(Roots::only(name, root), "boats", 500, false)).collect();
    let writes: Vec<_> = roots.all.iter().map(|(name, root)| Writes::start(root.clone(), "log", name)).collect();
    tokio::time::sleep(Duration::from_secs(1)).await;

    let (leader, epoch) = roots.leader().await.unwrap();
    outage.begin().await;
    let began = Instant::now();
    let says_so = || cluster.log().count(&["not leading any more", &leader]);
    wait_until("the leader steps down", async || says_so() > 0).await;
    let stepped_down = began.elapsed();
    assert_eq!(metric(roots.client(&leader), "trawl_root_leading").await, Some(0.0));
    let control = control_write(client).await;
    tokio::time::sleep(Duration::from_secs(length).saturating_sub(began.elapsed())).await;

    let without: Vec<usize> = writes.iter().map(Writes::acknowledged).collect();
    let ended = Instant::now();
    outage.end().await;
    let back = Instant::now();
    roots.later_leader(epoch).await;
    let leads = back.elapsed();
    let made = client.put("/after", json!({"settings": {"number_of_replicas": 0}})).await;
    assert_eq!(made.body["shards_acknowledged"], true, "{}", made.text);
    let acts = back.elapsed();
    cluster.green().await;
    wait_until("each root takes writes again", async || {
        writes.iter().zip(&without).all(|(stream, without)| stream.acknowledged() > *without)
    })
    .await;

    let mut written = Vec::new();
    for stream in writes {
        written.extend(stream.stop().await);
    }
    let (mut complete, mut faults, mut slowest) = (0, Vec::new(), Duration::ZERO);
    for stream in searches {
        let searched = stream.stop().await;
        complete += searched.complete;
        faults.extend(searched.faults);
        slowest = searched.worst.max(slowest);
    }
    println!(
        "{name} for {:.1?}: the leader stepped down after {stepped_down:.2?}; back, another leads after {leads:.2?} \
         and has acted after {acts:.2?}; searches: {complete} complete, {} not, the slowest {slowest:.1?}",
        back - began,
        faults.len()
    );
    judge_writes(client, &written, began, (ended, back)).await;
    println!("  making an index: refused after {control:.1?}");
    assert!(stepped_down < LEASE, "{stepped_down:?}");
    assert!(control < ENGINE_TIME * 2, "{control:?}");
    assert_eq!(faults, Vec::<String>::new());
}

/// A write of the catalog is refused as well; how long that took.
async fn control_write(client: &Client) -> Duration {
    let began = Instant::now();
    let made = client.put("/during", json!({"settings": {"number_of_replicas": 0}})).await;
    assert_eq!(made.status, 503, "{}", made.text);
    began.elapsed()
}

/// What was acknowledged is there, and what was not was refused in time.
async fn judge_writes(client: &Client, written: &[Write], began: Instant, (ended, back): (Instant, Instant)) {
    let refused: Vec<&Write> = written.iter().filter(|write| !write.is_acknowledged()).collect();
    let acknowledged = written.len() - refused.len();
    let found = found(client, "log", written).await;
    let first = written.iter().filter(|write| write.is_acknowledged()).map(|write| write.began + write.took);
    let first = first.filter(|at| *at > back).min().unwrap();
    println!(
        "  writes: {acknowledged} acknowledged, {found} of them found; refused after {}; the first acknowledged {:.1?} \
         after the return",
        spread(refused.iter().map(|write| write.took)),
        first - back
    );
    assert!(refused.len() > 20, "{refused:?}");
    assert!(refused.iter().all(|write| write.status == 503), "{refused:?}");
    // The first waits until the engine counts as out of reach, and now and then one tries again; with a tick.
    assert!(refused.iter().all(|write| write.took < ENGINE_TIME + Duration::from_secs(1)), "{refused:?}");
    let quick = refused.iter().filter(|write| write.took < Duration::from_millis(250)).count();
    assert!(quick * 10 >= refused.len() * 9, "{quick} of {} were refused at once", refused.len());
    let during = |write: &&Write| write.began > began && write.began + write.took < ended && write.is_acknowledged();
    assert_eq!(written.iter().filter(during).count(), 0, "nothing is acknowledged without the engine");
    assert_eq!(found, acknowledged);
}
