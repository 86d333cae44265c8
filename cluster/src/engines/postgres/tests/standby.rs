//! A primary and its standby.

use std::time::Duration;

use futures::StreamExt;
use trawl_proto::{Epoch, Seq};

use super::{append, batch, bodies, open, persist, shard};
use crate::conformance::PATIENCE;
use crate::conformance::server::Server;
use crate::store::{Change, Write};
use crate::{Engine, Error};

/// Does what the leader does when it has compared all logs with the replicas.
async fn accept_history(engine: &Engine) {
    let history = persist(async || {
        let history = engine.log.new_history().await?;
        history.ok_or_else(|| Error::Unavailable("the history is not new yet".into()))
    });
    let history = history.await;
    persist(|| engine.log.accept_history(Epoch(1), &history)).await;
    assert_eq!(engine.log.new_history().await.unwrap(), None);
}

/// After a fail-over nothing is acknowledged before the leader has accepted the new history, in no process
/// and not as a repetition either; what came before that is known is not lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_wait_until_a_new_history_is_accepted() {
    let Some(mut primary) = Server::start(&[("fsync", "off")]) else { return };
    let standby = primary.standby("second");
    let url = primary.url_with(&standby);
    let engine = open(&url).await;
    let shard = shard(0);
    engine.log.create(Epoch(1), std::slice::from_ref(&shard)).await.unwrap();
    append(&*engine.log, batch(&shard, "a", Some("a".into()))).await.unwrap();
    tokio::task::block_in_place(|| {
        primary.stop();
        standby.promote();
    });
    let other = open(&url).await;
    for engine in [&engine, &other] {
        persist(|| engine.log.heads(std::slice::from_ref(&shard))).await;
        let started = tokio::time::Instant::now();
        let error = append(&*engine.log, batch(&shard, "a", Some("a".into()))).await.unwrap_err();
        assert!(error.to_string().contains("being compared"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(5));
    }
    let waiting = {
        let (log, batch) = (other.log.clone(), batch(&shard, "b", None));
        tokio::spawn(async move { persist(|| append(&*log, batch.clone())).await })
    };
    assert!(matches!(engine.log.accept_history(Epoch(1), "another").await, Err(Error::Unavailable(_))));
    assert!(!waiting.is_finished());
    accept_history(&engine).await;
    assert_eq!(waiting.await.unwrap().first, Seq(2));
    assert!(append(&*engine.log, batch(&shard, "a", Some("a".into()))).await.unwrap().duplicate);
    assert_eq!(other.log.new_history().await.unwrap(), None);
}

/// The primary is killed in the middle of appends and its synchronous standby promoted: the same instance
/// goes on there, and all that was acknowledged is there once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fail_over_loses_nothing_acknowledged() {
    let Some(mut primary) = Server::start(&[]) else { return };
    let standby = primary.standby("second");
    primary.wait_for_standby("second");
    let url = primary.url_with(&standby);
    let engine = open(&url).await;
    let shard = shard(0);
    engine.log.create(Epoch(1), std::slice::from_ref(&shard)).await.unwrap();
    engine.store.commit(&[], &[Write::Put("k".into(), "1".into())]).await.unwrap();
    let mut watch = engine.store.watch("");
    assert!(matches!(watch.next().await, Some(Change::Snapshot(..))));
    let mut appending = tokio::task::JoinSet::new();
    for n in 0..4 {
        let (log, shard) = (engine.log.clone(), shard.clone());
        appending.spawn(async move {
            let mut done = Vec::new();
            for step in 0..150 {
                let body = format!("{n} {step}");
                persist(|| append(&*log, batch(&shard, &*body, Some(body.clone())))).await;
                done.push(body);
            }
            done
        });
    }
    tokio::time::sleep(Duration::from_millis(150)).await;
    tokio::task::block_in_place(|| {
        primary.kill();
        standby.promote();
    });
    accept_history(&engine).await;
    let acknowledged = appending.join_all().await.concat();
    let mut found = bodies(&*engine.log, &shard).await;
    assert_eq!(found.len(), acknowledged.len());
    found.sort();
    let mut acknowledged = acknowledged;
    acknowledged.sort();
    assert_eq!(found, acknowledged);
    // Revisions of the other history are not compared with those of this one.
    let change = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap();
    assert!(matches!(&change, Change::Snapshot(entries, _) if entries.len() == 1), "{change:?}");
    engine.store.commit(&[], &[Write::Put("k".into(), "2".into())]).await.unwrap();
    let change = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap();
    assert!(matches!(change, Change::Changed(..)), "{change:?}");
}

/// A commit whose wait for the standby was cancelled is no acknowledgement, nor is the answer to its
/// repetition before the standby has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_for_the_standby_that_was_cancelled_is_no_acknowledgement() {
    let Some(primary) = Server::start(&[("fsync", "off")]) else { return };
    let mut standby = primary.standby("second");
    primary.wait_for_standby("second");
    let engine = open(&primary.url()).await;
    let shard = shard(0);
    engine.log.create(Epoch(1), std::slice::from_ref(&shard)).await.unwrap();
    standby.stop();
    let cancel = || {
        let waiting = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        let deadline = std::time::Instant::now() + PATIENCE;
        while primary.query(waiting).trim() == "0" {
            assert!(std::time::Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    for _ in 0..2 {
        let log = engine.log.clone();
        let batch = batch(&shard, "x", Some("id".into()));
        let appending = tokio::spawn(async move { append(&*log, batch).await });
        tokio::task::block_in_place(cancel);
        let result = appending.await.unwrap();
        let Err(error) = result else { panic!("{result:?}\n{}", primary.log()) };
        assert!(matches!(&error, Error::Unavailable(_)) && error.to_string().contains("standby"), "{error}");
    }
    let store = engine.store.clone();
    let committing = tokio::spawn(async move { store.commit(&[], &[Write::Put("k".into(), "".into())]).await });
    tokio::task::block_in_place(cancel);
    assert!(matches!(committing.await.unwrap(), Err(Error::Unavailable(_))));
    standby.restart();
    let appended = persist(|| append(&*engine.log, batch(&shard, "x", Some("id".into())))).await;
    assert!(appended.duplicate && appended.first == Seq(1));
    assert_eq!(bodies(&*engine.log, &shard).await, ["x"]);
}

/// A standby alone is not taken, and is told apart from a server that is down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_not_taken() {
    let Some(primary) = Server::start(&[("fsync", "off")]) else { return };
    let standby = primary.standby("second");
    let error = crate::connect(&standby.url(), &crate::EngineOptions::default()).await.unwrap_err();
    assert!(error.to_string().contains("standby"), "{error}");
    // Named first, it is passed over.
    let engine = open(&standby.url_with(&primary)).await;
    engine.log.create(Epoch(1), &[shard(0)]).await.unwrap();
}
