//! The PostgreSQL engine: the suite of all engines, and what is particular about servers.
#![allow(clippy::unwrap_used)]

mod faults;
mod size;
mod standby;
mod tls;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use trawl_proto::{Epoch, Seq, ShardKey};

use crate::conformance::server::Server;
use crate::conformance::{Open, PATIENCE};
use crate::shard_log::{Append, Appended, ShardLog};
use crate::{Engine, EngineOptions, Error, connect};

fn fresh() -> Option<((), Open)> {
    let url = Server::shared()?;
    let open: Open = Arc::new(move |options: EngineOptions| {
        let url = url.clone();
        Box::pin(async move { connect(&url, &options).await.unwrap() })
    });
    Some(((), open))
}

crate::conformance_suite!(fresh);

async fn open(url: &str) -> Engine {
    connect(url, &EngineOptions::default()).await.unwrap()
}

fn shard(number: u32) -> ShardKey {
    ShardKey::new("i", number)
}

fn batch(shard: &ShardKey, body: impl Into<String>, id: Option<String>) -> Append {
    Append {
        shard: shard.clone(),
        mapping_version: 1,
        operations: 1,
        body: Bytes::from(body.into()),
        message_id: id,
        claim: None,
        log_bytes_max: None,
    }
}

async fn append(log: &dyn ShardLog, batch: Append) -> Result<Appended, Error> {
    log.append(vec![batch]).await?.pop().unwrap()
}

/// Repeats what fails because the engine is out of reach.
async fn persist<T, F: Future<Output = Result<T, Error>>>(attempt: impl Fn() -> F) -> T {
    let trying = async {
        loop {
            match attempt().await {
                Ok(done) => return done,
                Err(Error::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("{error:?}"),
            }
        }
    };
    tokio::time::timeout(4 * PATIENCE, trying).await.expect("the engine did not come back")
}

/// All bodies of a log, checked to follow each other.
async fn bodies(log: &dyn ShardLog, shard: &ShardKey) -> Vec<String> {
    let (mut after, mut bodies) = (Seq(0), Vec::new());
    loop {
        let records = log.read(shard, after, 1 << 20).await.unwrap();
        let Some(last) = records.last() else { return bodies };
        after = last.last;
        bodies.extend(records.iter().map(|record| String::from_utf8(record.body.to_vec()).unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_may_make_the_schema_at_once() {
    let Some(url) = Server::shared() else { return };
    let engines = futures::future::join_all((0..8).map(|_| open(&url))).await;
    engines[0].log.create(Epoch(1), &[shard(0)]).await.unwrap();
    for engine in &engines {
        append(&*engine.log, batch(&shard(0), "x", None)).await.unwrap();
    }
    assert_eq!(bodies(&*engines[7].log, &shard(0)).await.len(), 8);
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let Some(server) = Server::start(&[("fsync", "off")]) else { return };
    drop(open(&server.url()).await);
    server.query("UPDATE trawl.schema_version SET version = 99");
    let error = connect(&server.url(), &EngineOptions::default()).await.unwrap_err();
    assert!(matches!(&error, Error::Corrupt(reason) if reason.contains("newer")), "{error}");
}

#[tokio::test]
async fn an_owner_of_little_may_use_it_and_a_wrong_password_is_told_without_it() {
    let Some(server) = Server::start(&[("fsync", "off")]) else { return };
    server.query("CREATE ROLE little LOGIN PASSWORD 'small'");
    server.query("CREATE SCHEMA own AUTHORIZATION little");
    let url = server
        .url()
        .replace("trawl:", "little:")
        .replace(&server.url()["postgres://trawl:".len()..server.url().find('@').unwrap()], "small");
    let engine = open(&format!("{url}?schema=own")).await;
    engine.log.create(Epoch(1), &[shard(0)]).await.unwrap();
    append(&*engine.log, batch(&shard(0), "x", None)).await.unwrap();
    let error = connect(&url, &EngineOptions::default()).await.unwrap_err();
    assert!(error.to_string().contains("permission denied"), "{error}");

    let wrong = format!("{}?schema=own", url.replace("small", "wrong-word"));
    let error = connect(&wrong, &EngineOptions::default()).await.unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(text.contains("authentication failed") && !text.contains("wrong-word"), "{text}");

    server.write_file("word", "small\n");
    let url = url.replace(":small", "");
    drop(open(&format!("{url}?schema=own&password_file={}", server.data().join("word").display())).await);
}
