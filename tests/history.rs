//! An engine that lost history (a backup was restored, a standby that was behind took over), and replicas
//! that lost theirs, through the real binary: nothing acknowledged is lost and all replicas agree.
#![allow(missing_docs, clippy::unwrap_used)]

mod harness;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use harness::{Client, Cluster, member::Member, wait_until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::task::block_in_place;
use trawl_cluster::conformance::server::Server;
use trawl_proto::ShardKey;

const SHARDS: u32 = 2;

fn mappings() -> Value {
    json!({"properties": {"title": {"type": "text"}, "number": {"type": "long"}}})
}

/// Writes documents one bulk after the other and notes what was acknowledged with which content.
struct Writer {
    acknowledged: BTreeMap<String, Value>,
}

impl Writer {
    async fn write(&mut self, client: &Client, range: std::ops::Range<usize>, content: &str) {
        for start in range.clone().step_by(40) {
            self.write_all(client, start..range.end.min(start + 40), content).await;
        }
    }

    /// In one bulk.
    async fn write_all(&mut self, client: &Client, range: std::ops::Range<usize>, content: &str) {
        let document = |number| json!({"title": format!("{content} {number}"), "number": number});
        let documents: Vec<_> = range.map(|number| (format!("d{number}"), document(number))).collect();
        client.bulk_index("log", &documents, false).await;
        self.acknowledged.extend(documents);
    }

    /// Writes in one bulk, again and again, until everything is taken; returns the primary terms in which
    /// any of it was acknowledged.
    async fn persist(&mut self, client: &Client, range: std::ops::Range<usize>, content: &str) -> BTreeSet<u64> {
        let mut body = String::new();
        for number in range {
            let (id, source) =
                (format!("d{number}"), json!({"title": format!("{content} {number}"), "number": number}));
            body += &format!("{}\n{source}\n", json!({"index": {"_id": id}}));
            self.acknowledged.insert(id, source);
        }
        let terms = std::sync::Mutex::new(BTreeSet::new());
        wait_until("everything is taken", async || {
            let sent = client.try_send("POST", "/log/_bulk?timeout=1s", Some(body.clone().into_bytes()), &[]).await;
            let Ok(answer) = sent else { return false };
            let items = answer.body["items"].as_array().cloned().unwrap_or_default();
            let taken: Vec<_> =
                items.iter().filter(|item| item["index"]["status"].as_u64().is_some_and(|s| s < 300)).collect();
            terms.lock().unwrap().extend(taken.iter().filter_map(|item| item["index"]["_primary_term"].as_u64()));
            !items.is_empty() && taken.len() == items.len()
        })
        .await;
        terms.into_inner().unwrap()
    }

    async fn delete(&mut self, client: &Client, number: usize) {
        let id = format!("d{number}");
        client.bulk("log", format!("{}\n", json!({"delete": {"_id": id}})), false).await;
        self.acknowledged.remove(&id);
    }

    /// Every leaf's replicas hold exactly what was acknowledged.
    async fn check(&self, cluster: &Cluster) {
        cluster.green().await;
        let refreshed = cluster.client.get("/log/_refresh").await;
        assert_eq!(refreshed.body["_shards"]["failed"], 0, "{}", refreshed.text);
        let mut first: Option<BTreeMap<String, Value>> = None;
        for leaf in ["leaf-0", "leaf-1"] {
            let found = everything(&cluster.client, leaf).await;
            let contents: BTreeMap<_, _> = found.iter().map(|(id, hit)| (id.clone(), hit["_source"].clone())).collect();
            assert_eq!(contents.len(), self.acknowledged.len(), "documents on {leaf}");
            assert_eq!(contents, self.acknowledged, "documents on {leaf}");
            match &first {
                None => first = Some(found),
                Some(first) => assert_eq!(*first, found, "both replicas agree on seqs, terms and versions too"),
            }
        }
    }
}

/// All documents with their seqs, as one leaf's replicas have them.
async fn everything(client: &Client, leaf: &str) -> BTreeMap<String, Value> {
    let (mut found, mut after) = (BTreeMap::new(), Value::Null);
    loop {
        let mut body = json!({"size": 1000, "sort": [{"number": "asc"}], "seq_no_primary_term": true, "version": true});
        if !after.is_null() {
            body["search_after"] = after;
        }
        let answer = client.post(&format!("/log/_search?preference=_only_nodes:{leaf}"), body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.body["_shards"]["failed"], 0, "{}", answer.text);
        let hits = answer.body["hits"]["hits"].as_array().unwrap().clone();
        let Some(last) = hits.last() else { return found };
        after = last["sort"].clone();
        for hit in hits {
            let kept = json!({"_source": hit["_source"], "_seq_no": hit["_seq_no"],
                "_primary_term": hit["_primary_term"], "_version": hit["_version"]});
            assert!(found.insert(hit["_id"].as_str().unwrap().to_owned(), kept).is_none(), "twice: {hit}");
        }
    }
}

/// The logs of a SQLite engine at rest: its file and what is written ahead of it.
fn log_files(cluster: &Cluster) -> Vec<PathBuf> {
    let dir = cluster.data_dir().join("cluster");
    ["logs.db", "logs.db-wal", "logs.db-shm"].map(|name| dir.join(name)).to_vec()
}

fn copy_files(files: &[PathBuf], to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in files {
        if file.exists() {
            std::fs::copy(file, to.join(file.file_name().unwrap())).unwrap();
        }
    }
}

fn restore(files: &[PathBuf], from: &Path) {
    for file in files {
        let _ = std::fs::remove_file(file);
        let kept = from.join(file.file_name().unwrap());
        if kept.exists() {
            std::fs::copy(kept, file).unwrap();
        }
    }
}

async fn incarnations(cluster: &Cluster) -> Vec<u64> {
    let status = cluster.client.get("/_trawl/cluster").await.body;
    status["shards"].as_array().unwrap().iter().filter_map(|shard| shard["incarnation"].as_u64()).collect()
}

/// Loads, backs the logs up, and loads more; returns with everything stopped. When it `lags`, one of two
/// replicas has not seen the last of it.
async fn load_and_lose(cluster: &mut Cluster, writer: &mut Writer, backup: &Path, lags: bool) {
    cluster.client.create_index("log", SHARDS, 1, mappings()).await;
    writer.write(&cluster.client, 0..800, "before").await;
    cluster.kill_everything().await;
    copy_files(&log_files(cluster), backup);
    cluster.up().await;
    cluster.green().await;
    writer.write(&cluster.client, 400..1_000, "lost").await;
    if lags {
        cluster.signal("leaf-1", Signal::SIGSTOP);
    }
    writer.write(&cluster.client, 950..1_200, "lost last").await;
    for number in [3, 500, 1_100] {
        writer.delete(&cluster.client, number).await;
    }
    // What no replica has committed when everything is killed is nowhere but in the log.
    wait_until("leaf-0 has committed all", async || {
        let body = json!({"query": {"match": {"title": "lost last"}}, "track_total_hits": true, "size": 0});
        let all = cluster
            .client
            .post("/log/_search?preference=_only_nodes:leaf-0", json!({"size": 0, "track_total_hits": true}));
        let last = cluster.client.post("/log/_search?preference=_only_nodes:leaf-0", body);
        let (all, last) = (all.await, last.await);
        let total = |answer: &harness::Answer| answer.body["hits"]["total"]["value"].as_u64();
        total(&all) == Some(writer.acknowledged.len() as u64) && total(&last).is_some_and(|found| found > 0)
    })
    .await;
    if !lags {
        cluster.client.get("/log/_refresh").await;
    }
    cluster.kill_everything().await;
    restore(&log_files(cluster), backup);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_of_the_logs_loses_nothing() {
    let backup = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(1, 2).await;
    let mut writer = Writer { acknowledged: BTreeMap::new() };
    load_and_lose(&mut cluster, &mut writer, backup.path(), false).await;
    cluster.up().await;
    wait_until("a new incarnation", async || incarnations(&cluster).await.iter().all(|number| *number == 2)).await;
    writer.check(&cluster).await;
    // Life goes on, in the new incarnation.
    let written = cluster.client.put("/log/_doc/d1", json!({"title": "after", "number": 1})).await;
    assert_eq!(written.body["_primary_term"], 2, "{}", written.text);
    writer.acknowledged.insert("d1".to_owned(), json!({"title": "after", "number": 1}));
    writer.write(&cluster.client, 1_150..1_300, "after").await;
    writer.check(&cluster).await;
    // And through a crash.
    cluster.kill_everything().await;
    cluster.up().await;
    writer.check(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_on_a_log_that_had_lost_its_tail_is_not_lost_either() {
    let backup = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(1, 2).await;
    let mut writer = Writer { acknowledged: BTreeMap::new() };
    load_and_lose(&mut cluster, &mut writer, backup.path(), true).await;
    // A root by itself takes writes, more than were lost, before any leaf can look at the logs.
    let (root, client) = Member::root(cluster.log(), "root-0", &cluster.url(), &[]).await;
    writer.write_all(&client, 700..2_000, "grown").await;
    drop(root);
    cluster.up().await;
    wait_until("a new incarnation", async || {
        let incarnations = incarnations(&cluster).await;
        incarnations.len() == 2 * SHARDS as usize && incarnations.iter().all(|number| *number == 2)
    })
    .await;
    writer.check(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_that_lost_its_disk_copies_what_the_log_does_not_have_any_more() {
    let backup = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(1, 2).await;
    let mut writer = Writer { acknowledged: BTreeMap::new() };
    // After a repair the log begins behind what the replicas hold: nothing in it reaches back.
    load_and_lose(&mut cluster, &mut writer, backup.path(), false).await;
    cluster.up().await;
    writer.check(&cluster).await;
    cluster.kill_everything().await;
    std::fs::remove_dir_all(cluster.data_dir().join("leaf-1").join("shards")).unwrap();
    cluster.up().await;
    writer.write(&cluster.client, 0..100, "after").await;
    writer.check(&cluster).await;
}

/// A primary, and a standby that may be behind.
struct Servers {
    primary: Server,
    standby: Server,
}

impl Servers {
    /// `None` where PostgreSQL is not installed.
    fn start() -> Option<Self> {
        block_in_place(|| {
            let primary = Server::start(&[("fsync", "off")])?;
            let standby = primary.standby("second");
            primary.wait_for_standby("second");
            Some(Self { primary, standby })
        })
    }

    async fn cluster(&self) -> Cluster {
        Cluster::start_with(1, 2, &["--cluster", &self.primary.url_with(&self.standby)]).await
    }

    /// What is acknowledged from here on is on the primary only.
    fn part(&mut self) {
        block_in_place(|| {
            self.primary.wait_for_standby("");
            self.standby.stop();
        });
    }

    /// The primary dies, and the standby takes over with what it had.
    fn fail_over(&mut self) {
        block_in_place(|| {
            self.primary.kill();
            self.standby.restart();
            self.standby.promote();
        });
    }
}

/// Whether every replica is in this incarnation.
async fn all_at(cluster: &Cluster, incarnation: u64) -> bool {
    let incarnations = incarnations(cluster).await;
    incarnations.len() == 2 * SHARDS as usize && incarnations.iter().all(|number| *number == incarnation)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_was_behind_takes_over_and_nothing_is_lost() {
    let Some(mut servers) = Servers::start() else { return };
    let mut cluster = servers.cluster().await;
    let mut writer = Writer { acknowledged: BTreeMap::new() };
    cluster.client.create_index("log", SHARDS, 1, mappings()).await;
    writer.write(&cluster.client, 0..300, "before").await;
    servers.part();
    writer.write(&cluster.client, 200..500, "lost").await;
    for number in [3, 250, 400] {
        writer.delete(&cluster.client, number).await;
    }
    servers.fail_over();
    let terms = writer.persist(&cluster.client, 350..600, "after").await;
    assert_eq!(terms, BTreeSet::from([2]), "nothing is acknowledged on a log that has lost its tail");
    wait_until("a new incarnation", async || all_at(&cluster, 2).await).await;
    writer.check(&cluster).await;
    // A leaf that lost its disk copies: the log begins behind what the replicas held.
    cluster.kill_everything().await;
    std::fs::remove_dir_all(cluster.data_dir().join("leaf-1").join("shards")).unwrap();
    cluster.up().await;
    writer.write(&cluster.client, 0..100, "later").await;
    writer.check(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_has_grown_past_what_the_replicas_hold_loses_nothing_either() {
    let Some(mut servers) = Servers::start() else { return };
    let cluster = servers.cluster().await;
    let mut writer = Writer { acknowledged: BTreeMap::new() };
    cluster.client.create_index("log", SHARDS, 1, mappings()).await;
    writer.write(&cluster.client, 0..300, "before").await;
    servers.part();
    writer.write(&cluster.client, 200..500, "lost").await;
    // Those who could tell what was lost are waited for, but not for ever.
    for leaf in ["leaf-0", "leaf-1"] {
        cluster.signal(leaf, Signal::SIGSTOP);
    }
    let failed = std::time::Instant::now();
    servers.fail_over();
    let terms = writer.persist(&cluster.client, 400..1_500, "grown").await;
    assert_eq!(terms, BTreeSet::from([1]));
    assert!(failed.elapsed() > std::time::Duration::from_secs(10), "appends wait for the leaves");
    for leaf in ["leaf-0", "leaf-1"] {
        cluster.signal(leaf, Signal::SIGCONT);
    }
    wait_until("a new incarnation", async || all_at(&cluster, 2).await).await;
    writer.check(&cluster).await;
    assert_eq!(writer.persist(&cluster.client, 0..50, "after").await, BTreeSet::from([2]));
    writer.check(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_log_was_trimmed_meanwhile_copies_from_the_other() {
    let Some(url) = block_in_place(Server::shared) else { return };
    let cluster = Cluster::start_with(1, 2, &["--cluster", &url]).await;
    let client = &cluster.client;
    let mut writer = Writer { acknowledged: BTreeMap::new() };
    let settings = json!({"number_of_shards": 1, "number_of_replicas": 1, "trawl.log_size": "64kb"});
    let made = client.put("/log", json!({"settings": settings, "mappings": mappings()})).await;
    assert_eq!(made.status, 200, "{}", made.text);
    cluster.green().await;
    writer.write(client, 0..100, "before").await;
    let engine = trawl_cluster::connect(&url, &trawl_cluster::EngineOptions::default()).await.unwrap();
    let uid = client.get("/log").await.body["log"]["settings"]["index"]["uuid"].as_str().unwrap().to_owned();
    let shards = [ShardKey::new(uid, 0)];
    let head = async || engine.log.heads(&shards).await.unwrap()[0].clone().unwrap();
    cluster.signal("leaf-1", Signal::SIGSTOP);
    let stopped_at = head().await.last;
    let mut next = 100;
    // When the log is full writes wait until the leader trims it past the leaf that is away.
    while head().await.trimmed <= stopped_at {
        let noise: String = (0..250).map(|_| format!("{:x} ", rand::random::<u64>())).collect();
        writer.persist(client, next..next + 20, &noise).await;
        next += 20;
    }
    cluster.signal("leaf-1", Signal::SIGCONT);
    writer.check(&cluster).await;
}
