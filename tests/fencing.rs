//! A leader that was paused between deciding and writing, and goes on after another has taken over, is refused by
//! the engine whatever it writes to: keys and logs that its successor has written to, and those that it has not
//! touched. The refusal is counted and logged, nothing is written, and the old leader stands by.
//!
//! `TRAWL_TEST_FENCINGS` says how often each of the four is tried (default 1).
#![allow(missing_docs, clippy::unwrap_used)]

mod harness;

use std::path::{Path, PathBuf};

use harness::{
    Cluster,
    roots::{Roots, Searches, metric},
    wait_until,
};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::task::block_in_place;
use trawl_cluster::{Engine, EngineOptions, catalog::keys, conformance::server::Server, shard_log::Head, store::Entry};
use trawl_proto::ShardKey;

const ROOTS: usize = 3;
const REFUSED: &str = "trawl_root_fenced_total";

/// What the leader was about to write when it was paused.
#[derive(Clone, Copy, Debug)]
enum Late {
    /// The assignment of an index that has been there for long, to keys that the successor has not touched.
    OldKey,
    /// The assignment of a new index, to keys that nobody has written yet.
    NewKey,
    /// The assignment of a new index, which the successor has written meanwhile.
    TouchedKey,
    /// The log of a new index.
    Log,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_leader_is_refused_on_every_key_on_sqlite() {
    let holds = tempfile::tempdir().unwrap();
    let env = [("TRAWL_INJECT_HOLD", holds.path().to_str().unwrap())];
    let cluster = Cluster::start_set(ROOTS, 3, &env).await;
    refused_everywhere("sqlite", cluster, holds.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_leader_is_refused_on_every_key_on_postgresql() {
    let Some(server) = block_in_place(|| Server::start(&[])) else { return };
    let holds = tempfile::tempdir().unwrap();
    let env = [("TRAWL_INJECT_HOLD", holds.path().to_str().unwrap())];
    let cluster = Cluster::start_as(ROOTS, 3, &["--cluster", &server.url()], &env).await;
    refused_everywhere("postgresql", cluster, holds.path()).await;
}

async fn refused_everywhere(engine: &str, cluster: Cluster, holds: &Path) {
    let rounds = std::env::var("TRAWL_TEST_FENCINGS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let test = Test {
        roots: Roots::of(&cluster),
        engine: trawl_cluster::connect(&cluster.url(), &EngineOptions::default()).await.unwrap(),
        holds: Holds(holds.to_owned()),
        cluster,
    };
    let client = &test.cluster.client;
    client.create_index("old", 1, 0, json!({"properties": {"title": {"type": "text"}}})).await;
    client.bulk_index("old", &[("1".to_owned(), json!({"title": "boat"}))], true).await;
    test.cluster.known_everywhere("old").await;
    let searches = Searches::start(test.roots.clone(), "old", 1, false);
    for round in 0..rounds {
        for late in [Late::OldKey, Late::NewKey, Late::TouchedKey, Late::Log] {
            test.round(late, round).await;
        }
    }
    let searched = searches.stop().await;
    println!(
        "{engine}: {} late writes refused; {} searches complete, {} not",
        4 * rounds,
        searched.complete,
        searched.faults.len()
    );
    assert_eq!(searched.faults, Vec::<String>::new());
}

struct Test {
    cluster: Cluster,
    roots: Roots,
    engine: Engine,
    holds: Holds,
}

impl Test {
    /// 1. Give the leader something to do, and pause it when it has decided and not yet written.
    /// 2. Wait until another leads, and has decided the same; it writes, or is held back as well.
    /// 3. Let the old one go on. It has to be refused, and nothing may have changed.
    /// 4. Let the new one do its work.
    async fn round(&self, late: Late, round: usize) {
        let what = if matches!(late, Late::Log) { "create-logs" } else { "assign" };
        let names: Vec<&str> = self.roots.all.iter().map(|(name, _)| name.as_str()).collect();
        let (old, epoch) = self.roots.leader().await.unwrap();
        names.iter().for_each(|name| self.holds.hold(name, what));
        let index = self.ask_for(late, round).await;
        wait_until("the leader is about to write", async || self.holds.waits(&old)).await;
        self.cluster.signal(&old, Signal::SIGSTOP);

        let others = self.roots.except(&old);
        let (new, now) = others.later_leader(epoch).await;
        let shard = ShardKey::new(self.uid(&others, &index).await, 0);
        match late {
            Late::TouchedKey => {
                names.iter().filter(|name| **name != old).for_each(|name| self.holds.release(name));
                wait_until("the new leader has written", async || self.state(&shard).await.0.is_some()).await;
            }
            _ => wait_until("the new leader is about to write", async || self.holds.waits(&new)).await,
        }
        let before = self.state(&shard).await;

        let refused = metric(self.roots.client(&new), REFUSED).await;
        let logged = || self.cluster.log().count(&["refused by the engine", &format!("node={old}"), what]);
        let logged_before = logged();
        self.holds.release(&old);
        self.cluster.signal(&old, Signal::SIGCONT);
        let root = self.roots.client(&old);
        wait_until("the old leader was refused, says so, and stands by", async || {
            let counted = metric(root, REFUSED).await;
            let leading = metric(root, "trawl_root_leading").await;
            counted > Some(0.0) && leading == Some(0.0) && logged() == logged_before + 1
        })
        .await;
        assert_eq!(self.state(&shard).await, before, "what was refused has written nothing");
        assert_eq!(metric(self.roots.client(&new), REFUSED).await, refused, "the new leader is not refused");
        assert_eq!(self.roots.leader().await, Some((new.clone(), now)));

        names.iter().for_each(|name| self.holds.release(name));
        self.cluster.green().await;
        println!("{late:?}: {old} at epoch {epoch} was refused once {new} led at epoch {now}");
        self.restart(&old).await;
    }

    /// Something that the leader has to write for.
    async fn ask_for(&self, late: Late, round: usize) -> String {
        if matches!(late, Late::OldKey) {
            let copies = json!({"index": {"number_of_replicas": 1 + round % 2}});
            self.roots.ask("PUT", "/old/_settings", Some(&copies)).await.unwrap();
            return "old".to_owned();
        }
        let index = format!("{late:?}-{round}").to_lowercase();
        let (client, path) = (self.cluster.client.clone(), format!("/{index}"));
        // The answer waits until the index is served, or its root is paused.
        let made = tokio::spawn(async move {
            let body = json!({"settings": {"number_of_replicas": 0}}).to_string().into_bytes();
            client.try_send("PUT", &path, Some(body), &[]).await
        });
        drop(made);
        index
    }

    async fn uid(&self, roots: &Roots, index: &str) -> String {
        let found = std::sync::Mutex::new(String::new());
        wait_until("the index is known", async || {
            let answer = roots.ask("GET", &format!("/{index}/_settings"), None).await;
            let uid = answer.as_ref().and_then(|answer| answer.body[index]["settings"]["index"]["uuid"].as_str());
            *found.lock().unwrap() = uid.unwrap_or_default().to_owned();
            uid.is_some()
        })
        .await;
        found.into_inner().unwrap()
    }

    /// What the engine has of the shard.
    async fn state(&self, shard: &ShardKey) -> (Option<Entry>, Option<Head>) {
        let assignment = self.engine.store.get(&keys::assignment(shard)).await.unwrap();
        let heads = self.engine.log.heads(std::slice::from_ref(shard)).await.unwrap();
        (assignment, heads.into_iter().next().unwrap())
    }

    /// Counters begin anew.
    async fn restart(&self, name: &str) {
        let pid = self.cluster.process(name).pid;
        self.cluster.signal(name, Signal::SIGTERM);
        wait_until("the root is another process, and ready", async || {
            let ready = self.roots.client(name).try_send("GET", "/readyz", None, &[]).await;
            self.cluster.process(name).pid != pid && ready.is_ok_and(|answer| answer.status == 200)
        })
        .await;
    }
}

/// The writes that leaders hold back.
struct Holds(PathBuf);

impl Holds {
    fn hold(&self, root: &str, what: &str) {
        let _ = std::fs::remove_file(self.0.join(format!("{root}.held")));
        std::fs::write(self.0.join(root), what).unwrap();
    }

    fn release(&self, root: &str) {
        let _ = std::fs::remove_file(self.0.join(root));
    }

    fn waits(&self, root: &str) -> bool {
        self.0.join(format!("{root}.held")).exists()
    }
}
