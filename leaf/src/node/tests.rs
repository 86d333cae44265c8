//! A leaf over the real engine and the real wire.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use prost::Message;
use serde_json::json;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use trawl_cluster::catalog::{AssignmentRecord, IndexRecord, keys};
use trawl_cluster::shard_log::{Append, Appended};
use trawl_cluster::store::Write;
use trawl_cluster::{EngineOptions, connect};
use trawl_proto::v1::leaf_client::LeafClient;
use trawl_proto::v1::operation::Kind;
use trawl_proto::v1::outcome::Result as Came;
use trawl_proto::v1::replica_status::State;
use trawl_proto::v1::{self, Operation};
use trawl_proto::{Epoch, NodeName, Seq};

use super::*;

mod cluster;
mod copy;
mod retire;

use self::cluster::{Cluster, Leaf};

const PATIENCE: Duration = Duration::from_secs(20);

fn index(id: &str, source: &serde_json::Value) -> Operation {
    let source = source.to_string().into_bytes().into();
    Operation { kind: Kind::Index.into(), id: id.to_owned(), source, ..Operation::default() }
}

async fn until(what: &str, good: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !good() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn replica_path(config: &Config, uid: &str) -> std::path::PathBuf {
    Path::new(&config.data_dir).join("shards").join(uid).join("0")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_is_applied_searched_and_there_after_a_restart() {
    let cluster = Cluster::new().await;
    cluster.create_index("books", "uid-1", 1, None).await;
    let shard = ShardKey::new("uid-1", 0);
    let mut leaf = cluster.start(cluster.config()).await;
    leaf.serving(&shard).await;
    let key = keys::serving(&shard, &"leaf-0".into());
    let deadline = Instant::now() + PATIENCE;
    while cluster.engine.store.get(&key).await.unwrap().is_none() {
        assert!(Instant::now() < deadline, "no serving record");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    let operations = vec![
        index("a", &json!({"title": "one", "n": 1})),
        index("b", &json!({"title": "two", "n": "x"})),
        index("a", &json!({"title": "three", "tag": "dynamic"})),
    ];
    let first = cluster.append(&shard, operations).await;
    let outcomes = leaf.outcomes(&shard, first).await;
    let came: Vec<_> = outcomes.iter().map(|outcome| (outcome.result(), outcome.version)).collect();
    assert_eq!(came, [(Came::Created, 1), (Came::Rejected, 0), (Came::Updated, 2)]);
    let error = outcomes[1].error.clone().unwrap();
    assert_eq!(error.r#type, "document_parsing_exception");
    assert!(error.reason.contains("in document with id 'b'"), "{}", error.reason);

    // Nothing is committed yet: a search does not see it, a real-time get does.
    assert_eq!(leaf.search(&shard, 0).await.matched, 0);
    assert_eq!(leaf.get(&shard, &["a"], false).await[0].id, "");
    let documents = leaf.get(&shard, &["a", "b"], true).await;
    assert_eq!((documents[0].id.as_str(), documents[0].version, documents[0].seq), ("a", 2, 3));
    assert_eq!(documents[1].id, "");
    assert_eq!(leaf.search(&shard, 0).await.matched, 1);

    let second = cluster.append(&shard, vec![index("c", &json!({"title": "read your writes"}))]).await;
    let found = leaf.search(&shard, second.last.0).await;
    assert_eq!((found.failure, found.matched), (None, 2));
    let third = cluster.append(&shard, vec![index("d", &json!({"n": 4}))]).await;
    assert_eq!(leaf.refresh(&shard, third).await, None);
    let status = leaf.status(&shard).await.unwrap();
    assert_eq!((status.documents, status.applied, status.committed), (3, 5, 5));
    assert_eq!(status.dynamic_fields.iter().map(|field| field.path.as_str()).collect::<Vec<_>>(), ["tag"]);
    let fourth = cluster.append(&shard, vec![index("e", &json!({"n": 5}))]).await;
    leaf.outcomes(&shard, fourth).await;
    leaf.stop().await;
    assert_eq!(cluster.engine.store.get(&key).await.unwrap(), None);

    let mut leaf = cluster.start(cluster.config()).await;
    let status = leaf.serving(&shard).await;
    assert_eq!((status.documents, status.committed), (4, 6));
    // A repeated write is still answered with its first outcomes.
    assert_eq!(leaf.outcomes(&shard, first).await, outcomes);
    leaf.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_append_is_found_and_committed_after_the_refresh_interval() {
    let cluster = Cluster::new().await;
    cluster.create_index("books", "uid-1", 2, Some(50)).await;
    let shard = ShardKey::new("uid-1", 1);
    let mut leaf = cluster.start(cluster.config()).await;
    leaf.serving(&shard).await;
    // Nobody calls the leaf about these.
    for n in 0..20 {
        cluster.append(&shard, vec![index(&format!("{n}"), &json!({"n": n}))]).await;
    }
    // The searcher is there a moment before the position is told.
    let status = leaf.until_status(&shard, |status| status.documents == 20 && status.committed == 20).await;
    assert_eq!(status.applied, 20);
    leaf.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directories_of_indices_that_are_gone_are_removed() {
    let cluster = Cluster::new().await;
    let config = cluster.config();
    cluster.create_index("books", "uid-1", 1, Some(50)).await;
    let mut leaf = cluster.start(config.clone()).await;
    leaf.serving(&ShardKey::new("uid-1", 0)).await;
    assert!(replica_path(&config, "uid-1").is_dir());
    let error = LeafNode::start(config.clone(), cluster.engine.clone(), &mut Registry::default()).await;
    assert!(matches!(error.err(), Some(Error::DataDirLocked(_))));
    leaf.stop().await;

    // Deleted and made again under the same name while the leaf was away.
    cluster.delete_index("books", "uid-1", 1).await;
    cluster.create_index("books", "uid-2", 1, Some(50)).await;
    let mut leaf = cluster.start(config.clone()).await;
    leaf.serving(&ShardKey::new("uid-2", 0)).await;
    until("the old replica is still there", || !replica_path(&config, "uid-1").exists()).await;
    assert_eq!(leaf.status(&ShardKey::new("uid-1", 0)).await, None);

    // And while it is here.
    cluster.delete_index("books", "uid-2", 1).await;
    until("the replica is still there", || !replica_path(&config, "uid-2").exists()).await;
    leaf.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_index_fails_with_a_reason_and_leaves_the_serving_set() {
    let cluster = Cluster::new().await;
    let config = cluster.config();
    cluster.create_index("books", "uid-1", 1, Some(20)).await;
    let shard = ShardKey::new("uid-1", 0);
    let mut leaf = cluster.start(config.clone()).await;
    cluster.append(&shard, vec![index("a", &json!({}))]).await;
    leaf.until_status(&shard, |status| status.committed == 1).await;
    leaf.stop().await;
    // Neither the log nor another leaf has what is damaged.
    cluster.trim(&shard, Seq(1)).await;
    let current = replica_path(&config, "uid-1").join("CURRENT");
    let name = std::fs::read_to_string(&current).unwrap();
    std::fs::write(&current, "index-77").unwrap();
    let mut leaf = cluster.start(config.clone()).await;
    let status = leaf.until_status(&shard, |status| status.state() == State::Failed).await;
    assert!(status.reason.contains("index-77"), "{}", status.reason);
    let failure = leaf.search(&shard, 0).await.failure.unwrap();
    assert_eq!(failure.kind(), v1::failure::Kind::Unavailable);
    // It is tried again by itself.
    std::fs::write(&current, name).unwrap();
    leaf.serving(&shard).await;
    leaf.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_needs_more_spare_fields_is_made_again_while_it_serves() {
    let cluster = Cluster::new().await;
    cluster.create_index("books", "uid-1", 1, None).await;
    let shard = ShardKey::new("uid-1", 0);
    let mut leaf = cluster.start(cluster.config()).await;
    leaf.serving(&shard).await;
    let document = |from: usize| {
        serde_json::Value::Object((from..from + 25).map(|n| (format!("f{n}"), json!(format!("word{n}")))).collect())
    };
    for (number, from) in [0, 25, 50, 75].into_iter().enumerate() {
        let appended = cluster.append(&shard, vec![index(&number.to_string(), &document(from))]).await;
        let outcomes = leaf.outcomes(&shard, appended).await;
        assert_eq!(outcomes[0].result(), Came::Created);
        if number % 2 == 0 {
            assert_eq!(leaf.refresh(&shard, appended).await, None);
        }
        assert_eq!(leaf.status(&shard).await.unwrap().state(), State::Serving);
    }
    let found = leaf.search(&shard, 4).await;
    assert_eq!((found.failure, found.matched), (None, 4));
    assert_eq!(leaf.status(&shard).await.unwrap().dynamic_fields.len(), 100);
    leaf.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mapping_that_came_before_the_first_write_gets_fields_of_its_own() {
    let cluster = Cluster::new().await;
    cluster.create_index("books", "uid-1", 1, None).await;
    let shard = ShardKey::new("uid-1", 0);
    let mut leaf = cluster.start(cluster.config()).await;
    leaf.serving(&shard).await;
    // The leaf's view may not show it when the batch comes: then it is fetched from the store.
    let mapping = json!({"properties": {"title": {"type": "text"}, "late": {"type": "date"}}});
    let put = Write::Put(keys::mapping(&"uid-1".into(), 2), serde_json::to_vec(&mapping).unwrap().into());
    cluster.engine.store.commit(&[], &[put]).await.unwrap();
    let operations = vec![index("a", &json!({"late": "2024-01-02"})), index("b", &json!({"late": "never"}))];
    let appended = cluster.append_with(&shard, operations, 2).await;
    let came: Vec<Came> = leaf.outcomes(&shard, appended).await.iter().map(v1::Outcome::result).collect();
    assert_eq!(came, [Came::Created, Came::Rejected]);
    assert_eq!(leaf.refresh(&shard, appended).await, None);
    let status = leaf.status(&shard).await.unwrap();
    assert_eq!((status.state(), status.documents, status.dynamic_fields.len()), (State::Serving, 1, 0));
    leaf.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_lost_its_tail_is_noticed_and_nothing_here_is_lost() {
    let cluster = Cluster::new().await;
    cluster.create_index("books", "uid-1", 1, None).await;
    let shard = ShardKey::new("uid-1", 0);
    let mut leaf = cluster.start(cluster.config()).await;
    leaf.serving(&shard).await;
    cluster.append(&shard, vec![index("a", &json!({})), index("b", &json!({}))]).await;
    leaf.until_status(&shard, |status| status.applied == 2).await;
    assert!(leaf.client.broken(v1::BrokenRequest {}).await.unwrap().into_inner().shards.is_empty());
    cluster.engine.log.remove(Epoch(1), std::slice::from_ref(&shard)).await.unwrap();
    cluster.engine.log.create(Epoch(1), std::slice::from_ref(&shard)).await.unwrap();
    let other = cluster.append(&shard, vec![index("c", &json!({}))]).await;
    let status = leaf.until_status(&shard, |status| status.broken).await;
    assert!(status.reason.contains("the log ends at 1 of incarnation 1, the replica is at 1:2"), "{}", status.reason);
    // What was applied is committed, and searched as before; outcomes would be of other operations.
    assert_eq!((status.state(), status.committed), (State::Serving, 2));
    assert_eq!(leaf.search(&shard, 0).await.matched, 2);
    let request = v1::OutcomesRequest {
        shard: Some((&shard).into()),
        incarnation: 1,
        first_seq: other.first.0,
        last_seq: other.last.0,
    };
    let outcomes = leaf.client.outcomes(request).await.unwrap().into_inner();
    assert_eq!((outcomes.outcomes.len(), outcomes.failure.is_some()), (0, true));
    assert_eq!(leaf.client.broken(v1::BrokenRequest {}).await.unwrap().into_inner().shards, [(&shard).into()]);
    let history = v1::HistoryRequest { shard: Some((&shard).into()), points: true, ..v1::HistoryRequest::default() };
    let history = leaf.client.history(history).await.unwrap().into_inner();
    assert_eq!(history.committed, Some(v1::Generation { incarnation: 1, seq: 2 }));
    assert_eq!(history.rows.unwrap().chains, [history.chain]);
    leaf.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_shards_than_writers_take_turns() {
    let cluster = Cluster::new().await;
    let mut config = cluster.config();
    config.writers_max = 1;
    cluster.create_index("books", "uid-1", 3, Some(50)).await;
    let mut leaf = cluster.start(config).await;
    let shards: Vec<ShardKey> = (0..3).map(|number| ShardKey::new("uid-1", number)).collect();
    for round in 0..3 {
        for shard in &shards {
            cluster.append(shard, vec![index(&format!("{round}"), &json!({"n": round}))]).await;
        }
    }
    for shard in &shards {
        leaf.until_status(shard, |status| status.documents == 3).await;
    }
    leaf.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn applying_goes_on_while_an_index_is_made_again_with_more_spares() {
    let cluster = Cluster::new().await;
    cluster.create_index("books", "uid", 1, Some(100)).await;
    let shard = ShardKey::new("uid", 0);
    let mut leaf = cluster.start(cluster.config()).await;
    leaf.serving(&shard).await;
    let document = |id: String, source: serde_json::Value| {
        let source = source.to_string().into_bytes().into();
        Operation { kind: Kind::Index.into(), id, source, ..Operation::default() }
    };
    let text = "some words that take a little while to be analysed and indexed again ".repeat(20);
    for batch in 0..10 {
        let documents = (0..200).map(|n| document(format!("d{batch}-{n}"), json!({"title": text, "n": n}))).collect();
        cluster.append(&shard, documents).await;
    }
    let dir = cluster.dir.path().join("leaf-0/shards/uid/0");
    let indices = || {
        let entries = std::fs::read_dir(&dir).unwrap().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("index-")).count()
    };
    // 24 of 32 spares: 8 are left.
    let wide = |from: usize, to: usize| {
        let fields: serde_json::Map<String, _> = (from..to).map(|n| (format!("t{n}"), json!("word"))).collect();
        serde_json::Value::Object(fields)
    };
    let appended = cluster.append(&shard, vec![document("wide".to_owned(), wide(0, 24))]).await;
    leaf.until_status(&shard, |status| status.applied >= appended.last.0).await;
    let (mut during, mut last) = (0, appended.last);
    let deadline = Instant::now() + PATIENCE;
    let mut number = 0;
    while leaf.spares(&dir) < 64 {
        assert!(Instant::now() < deadline, "the index was not made again; {during} writes were applied meanwhile");
        let is_growing = indices() == 2;
        // An update and a delete of what the base has, and a new document.
        let operations = vec![
            document("d0-0".to_owned(), json!({"title": "changed", "n": number})),
            Operation { kind: Kind::Delete.into(), id: format!("d1-{}", number % 200), ..Operation::default() },
            document(format!("new-{number}"), json!({"title": "changed", "n": number, "t1": "more"})),
        ];
        let appended = cluster.append(&shard, operations).await;
        last = appended.last;
        let status = leaf.until_status(&shard, |status| status.applied >= last.0).await;
        assert_eq!(status.state(), State::Serving, "{status:?}");
        assert!(leaf.refresh(&shard, appended).await.is_none());
        if is_growing && indices() == 2 && leaf.spares(&dir) < 64 {
            during += 1;
        }
        number += 1;
    }
    assert!(during > 0, "nothing was applied while the index was made again");
    let appended = cluster.append(&shard, vec![document("wider".to_owned(), wide(20, 50))]).await;
    let outcomes = leaf.outcomes(&shard, appended).await;
    assert_eq!(outcomes[0].result(), Came::Created);
    assert!(leaf.refresh(&shard, appended).await.is_none());
    let status = leaf.status(&shard).await.unwrap();
    let gone = number.min(200) as u64;
    assert_eq!(status.documents, 2_000 - gone + number as u64 + 2, "after {number} rounds through {last}");
    leaf.stop().await;

    // What is named by CURRENT is whole: it opens and goes on.
    let mut leaf = cluster.start(cluster.config()).await;
    let again = leaf.serving(&shard).await;
    assert_eq!((again.documents, again.applied), (status.documents, status.applied));
    assert_eq!(indices(), 1);
    leaf.stop().await;
}
