//! The SQLite engine: the suite of all engines, and what is particular about files.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;
use tempfile::TempDir;
use trawl_proto::{Epoch, Seq, ShardKey};

use crate::conformance::{Open, PATIENCE, Size};
use crate::shard_log::Append;
use crate::store::{Change, Write};
use crate::{Engine, EngineOptions, Error, connect};

mod full;
mod kill;

fn fresh() -> Option<(TempDir, Open)> {
    let directory = TempDir::new().unwrap();
    let open = fresh_in(&directory.path().join("not/yet/there"));
    Some((directory, open))
}

fn fresh_in(directory: &Path) -> Open {
    let url = format!("sqlite:{}", directory.display());
    Arc::new(move |options| {
        let url = url.clone();
        Box::pin(async move { connect(&url, &options).await.unwrap() })
    })
}

crate::conformance_suite!(fresh);

/// The size of all files in a directory and below.
fn size_of(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size_of(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

/// The write-ahead log takes 64 MiB at most, and as much is kept of free pages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trimmed_log_stays_small_on_disk() {
    let (directory, open) = fresh().unwrap();
    let path = directory.path().to_owned();
    let size: Size = Arc::new(move || Box::pin(std::future::ready(size_of(&path))));
    crate::conformance::bounds::a_trimmed_log_stays_small_on_disk(&open, &size, 130 << 20).await;
}

async fn open(directory: &Path) -> Result<Engine, Error> {
    connect(&format!("sqlite:{}", directory.display()), &EngineOptions::default()).await
}

async fn execute(file: PathBuf, statement: &'static str) {
    let mut connection = SqliteConnection::connect(&format!("sqlite:{}", file.display())).await.unwrap();
    sqlx::query(statement).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

fn batch(shard: &ShardKey, body: &str) -> Append {
    let body = Bytes::from(body.to_owned());
    Append {
        shard: shard.clone(),
        mapping_version: 1,
        operations: 1,
        body,
        message_id: None,
        claim: None,
        log_bytes_max: None,
    }
}

#[tokio::test]
async fn urls_of_other_forms_are_refused() {
    for url in ["", "sqlite:", "sqlite", "nats://there", "postgres", "postgres://h"] {
        assert!(matches!(connect(url, &EngineOptions::default()).await, Err(Error::BadUrl { .. })), "{url}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_may_open_a_fresh_directory_at_once() {
    let directory = TempDir::new().unwrap();
    let opening = (0..8).map(|_| open(directory.path()));
    let engines: Vec<Engine> = futures::future::try_join_all(opening).await.unwrap();
    let shard = ShardKey::new("i", 0);
    engines[0].log.create(Epoch(1), std::slice::from_ref(&shard)).await.unwrap();
    for (n, engine) in engines.iter().enumerate() {
        engine.store.commit(&[], &[Write::Put(n.to_string(), Bytes::new())]).await.unwrap();
        engine.log.append(vec![batch(&shard, "x")]).await.unwrap().pop().unwrap().unwrap();
    }
    assert_eq!(engines[7].store.list("").await.unwrap().0.len(), 8);
}

#[tokio::test]
async fn a_newer_file_and_a_file_of_something_else_are_refused() {
    let directory = TempDir::new().unwrap();
    drop(open(directory.path()).await.unwrap());
    execute(directory.path().join("logs.db"), "PRAGMA user_version = 99").await;
    let error = open(directory.path()).await.unwrap_err();
    assert!(matches!(&error, Error::Corrupt(reason) if reason.contains("newer")), "{error}");

    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("store.db"), "no database at all".repeat(500)).unwrap();
    let error = open(directory.path()).await.unwrap_err();
    assert!(matches!(&error, Error::Corrupt(reason) if reason.contains("store.db")), "{error}");

    let file = tempfile::NamedTempFile::new().unwrap();
    let error = open(&file.path().join("below")).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
}

#[tokio::test]
async fn damaged_rows_are_noticed() {
    let shard = ShardKey::new("i", 0);
    for damage in [
        "UPDATE records SET body = x'00' || substr(body, 2) WHERE first = 2",
        "UPDATE records SET chain = chain + 1 WHERE first = 2",
        "UPDATE records SET previous_chain = previous_chain + 1 WHERE first = 2",
        "UPDATE records SET codec = 7 WHERE first = 2",
        "UPDATE records SET body_bytes = 5 WHERE first = 2",
        "DELETE FROM records WHERE first = 2",
    ] {
        let directory = TempDir::new().unwrap();
        let engine = open(directory.path()).await.unwrap();
        engine.log.create(Epoch(1), std::slice::from_ref(&shard)).await.unwrap();
        for n in 0..3 {
            engine.log.append(vec![batch(&shard, &format!("{n}").repeat(300))]).await.unwrap();
        }
        execute(directory.path().join("logs.db"), damage).await;
        let error = engine.log.read(&shard, Seq(0), usize::MAX).await.unwrap_err();
        assert!(matches!(error, Error::Corrupt(_)), "{damage}: {error}");
        let items: Vec<_> = engine.log.tail(&shard, Seq(0)).collect().await;
        assert!(matches!(items.last(), Some(Err(Error::Corrupt(_)))), "{damage}");
    }
}

#[tokio::test]
async fn a_directory_that_was_moved_away_is_unavailable_until_it_is_back() {
    let directory = TempDir::new().unwrap();
    let (here, away) = (directory.path().join("here"), directory.path().join("away"));
    let engine = open(&here).await.unwrap();
    let shard = ShardKey::new("i", 0);
    engine.log.create(Epoch(1), std::slice::from_ref(&shard)).await.unwrap();
    let mut tail = engine.log.tail(&shard, Seq(0));
    let mut watch = engine.store.watch("");
    assert!(matches!(watch.next().await, Some(Change::Snapshot(..))));

    std::fs::rename(&here, &away).unwrap();
    let error = engine.log.append(vec![batch(&shard, "x")]).await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable(_)) && error.to_string().contains("logs.db"), "{error}");
    let error = engine.store.commit(&[], &[Write::Put("k".into(), Bytes::new())]).await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable(_)) && error.to_string().contains("store.db"), "{error}");

    std::fs::rename(&away, &here).unwrap();
    engine.log.append(vec![batch(&shard, "x")]).await.unwrap().pop().unwrap().unwrap();
    engine.store.commit(&[], &[Write::Put("k".into(), Bytes::new())]).await.unwrap();
    let record = tokio::time::timeout(PATIENCE, tail.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(record.body, "x");
    let change = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap();
    assert!(matches!(change, Change::Changed(..)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_at_once() {
    let directory = TempDir::new().unwrap();
    let options = EngineOptions { append_queue_bytes_max: 10 << 10, ..EngineOptions::default() };
    let engine = connect(&format!("sqlite:{}", directory.path().display()), &options).await.unwrap();
    let shard = ShardKey::new("i", 0);
    engine.log.create(Epoch(1), std::slice::from_ref(&shard)).await.unwrap();
    let body = "x".repeat(4 << 10);
    let appends = (0..20).map(|_| engine.log.append(vec![batch(&shard, &body)]));
    let results = futures::future::join_all(appends).await;
    let taken = results.iter().filter(|result| result.is_ok()).count();
    assert!((2..20).contains(&taken), "{taken}");
    assert!(results.iter().all(|result| matches!(result, Ok(_) | Err(Error::Busy))));
    assert_eq!(engine.log.heads(&[shard]).await.unwrap()[0].as_ref().unwrap().last, Seq(taken as u64));
}
