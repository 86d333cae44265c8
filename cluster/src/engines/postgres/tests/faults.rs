//! Servers that are killed and connections that are cut, in the middle of everything.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use trawl_proto::{Epoch, Generation, Incarnation, Seq, ShardKey};

use super::super::connect::Connector;
use super::super::database::Database;
use super::super::url::Target;
use super::{append, batch, bodies, open, persist, shard};
use crate::conformance::PATIENCE;
use crate::conformance::server::Server;
use crate::dead_letters::{DeadLetter, LetterKey};
use crate::store::{Change, Guard, Revision, Store, Update, Write};
use crate::work_queue::NewTask;
use crate::{Engine, EngineOptions, Error, LEASE_TIME};

/// How often the server is struck. `TRAWL_TEST_STRIKES` sets another number.
fn strikes() -> usize {
    std::env::var("TRAWL_TEST_STRIKES").ok().and_then(|strikes| strikes.parse().ok()).unwrap_or(4)
}

/// What workers did that was acknowledged.
#[derive(Default)]
struct Done {
    worker: usize,
    bodies: Vec<String>,
    increments: u64,
    tasks: Vec<u64>,
    letters: u64,
}

/// Does one thing after the other, each again until it is acknowledged, until told to stop.
async fn work(n: usize, engine: Engine, stop: Arc<AtomicBool>) -> Done {
    let shards = [shard(0), shard(1 + n as u32)];
    let mut done = Done { worker: n, ..Done::default() };
    let mut step = 0u64;
    while !stop.load(Ordering::Relaxed) {
        step += 1;
        let shard = &shards[step as usize % 2];
        let body = format!("{n} {step}");
        // The id makes the repetition safe.
        let appended = persist(|| append(&*engine.log, batch(shard, &*body, Some(body.clone())))).await;
        assert!(appended.first > Seq(0));
        done.bodies.push(format!("{shard} {body}"));
        if step.is_multiple_of(3) {
            increment(&*engine.store, &format!("counter/{n}"), done.increments).await;
            done.increments += 1;
        }
        if step.is_multiple_of(4) {
            let key = body.clone();
            let task = || NewTask { key: Some(key.clone()), body: Bytes::new(), attempts_max: 1_000 };
            let id = persist(|| engine.queue.push("kind", vec![task()])).await[0];
            done.tasks.push(id.0);
            let lease = Duration::from_secs(600);
            if let Ok(Some(claim)) = engine.queue.claim("kind", lease, "w").await {
                let _ = engine.queue.ack(claim.receipt, Bytes::new()).await;
            }
        }
        if step.is_multiple_of(5) {
            done.letters += 1;
            let at = Generation { incarnation: Incarnation(1), seq: Seq(done.letters) };
            let shard = &shards[1];
            let letter = DeadLetter {
                key: LetterKey { shard: shard.clone(), at },
                id: "with a \0 zero".to_owned(),
                operation: Bytes::from(body.clone()),
                mapping_version: 1,
                error_type: "type".to_owned(),
                reason: "a \0 reason".to_owned(),
                time_ms: 1,
            };
            persist(|| engine.letters.record(shard, at, vec![letter.clone()])).await;
        }
        if step.is_multiple_of(7) {
            let head = persist(|| engine.log.heads(&shards[1..])).await[0].clone().unwrap();
            assert!(head.last.0 * 2 + 2 >= step);
        }
    }
    done
}

/// Raises a counter that nobody else writes from `from`, exactly once.
async fn increment(store: &dyn Store, key: &str, from: u64) {
    persist(|| async move {
        let entry = store.get(key).await?;
        let value = |entry: &crate::store::Entry| std::str::from_utf8(&entry.value).unwrap().parse::<u64>().unwrap();
        if entry.as_ref().map_or(0, value) == from + 1 {
            // It had taken place although nobody said so.
            return Ok(());
        }
        assert_eq!(entry.as_ref().map_or(0, value), from);
        let guard = match &entry {
            Some(entry) => Guard::At(key.to_owned(), entry.revision),
            None => Guard::Absent(key.to_owned()),
        };
        let write = Write::Put(key.to_owned(), Bytes::from((from + 1).to_string()));
        match store.commit(&[guard], &[write]).await {
            Ok(_) => Ok(()),
            Err(Error::Conflict(_)) => Err(Error::Unavailable("look again".into())),
            Err(error) => Err(error),
        }
    })
    .await;
}

/// Follows the counters: what it sees never goes back, and what it has seen in the end is what there is.
async fn follow(store: Arc<dyn Store>, stop: Arc<AtomicBool>) -> BTreeMap<String, u64> {
    let mut watch = store.watch("counter/");
    let mut seen: BTreeMap<String, (u64, Revision)> = BTreeMap::new();
    let mut at = Revision(0);
    while !(stop.load(Ordering::Relaxed) && seen.contains_key("counter/end")) {
        let change = tokio::time::timeout(4 * PATIENCE, watch.next()).await.expect("the watch stands still").unwrap();
        let (entries, revision) = match change {
            Change::Snapshot(entries, revision) => (entries, revision),
            Change::Changed(updates, revision) => {
                let put = |update| match update {
                    Update::Put(entry) => entry,
                    Update::Deleted(key) => panic!("nobody deleted {key}"),
                };
                (updates.into_iter().map(put).collect(), revision)
            }
        };
        assert!(revision >= at, "{revision:?} after {at:?}");
        at = revision;
        for entry in entries {
            let value = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
            let before = seen.insert(entry.key.clone(), (value, entry.revision));
            assert!(before.is_none_or(|(before, written)| before <= value && written <= entry.revision), "{entry:?}");
        }
    }
    seen.into_iter().map(|(key, (value, _))| (key, value)).collect()
}

/// Lets three instances work while the server is struck, and checks that what was acknowledged is there
/// exactly once.
async fn survives(mut server: Server, strike: impl Fn(&mut Server)) {
    const WORKERS: usize = 3;
    let mut engines = Vec::new();
    for _ in 0..WORKERS {
        engines.push(open(&server.url()).await);
    }
    let shards: Vec<ShardKey> = (0..=WORKERS as u32).map(shard).collect();
    engines[0].log.create(Epoch(1), &shards).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let follower = tokio::spawn(follow(engines[0].store.clone(), stop.clone()));
    let mut tail = engines[1].log.tail(&shards[0], Seq(0));
    let tailing = tokio::spawn(async move {
        let mut last = Seq(0);
        while let Some(record) = tail.next().await {
            let record = record.unwrap();
            assert_eq!(record.first, last.next());
            last = record.last;
            if &record.body[..] == b"end" {
                return last;
            }
        }
        panic!("the tail ended");
    });
    let mut workers = tokio::task::JoinSet::new();
    for (n, engine) in engines.iter().enumerate() {
        workers.spawn(work(n, engine.clone(), stop.clone()));
    }
    for n in 0..strikes() {
        tokio::time::sleep(Duration::from_millis(300 + 170 * n as u64 % 400)).await;
        tokio::task::block_in_place(|| strike(&mut server));
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    stop.store(true, Ordering::Relaxed);
    let mut done = workers.join_all().await;
    done.sort_by_key(|done| done.worker);
    let end = [Write::Put("counter/end".into(), "0".into())];
    persist(|| engines[2].store.commit(&[], &end)).await;
    let seen = follower.await.unwrap();
    for (n, done) in done.iter().enumerate() {
        assert_eq!(seen.get(&format!("counter/{n}")).copied().unwrap_or(0), done.increments);
    }
    persist(|| append(&*engines[0].log, batch(&shards[0], "end", Some("end".into())))).await;
    let end = tokio::time::timeout(4 * PATIENCE, tailing).await.expect("the tail stands still").unwrap();

    let engine = open(&server.url()).await;
    let mut found = Vec::new();
    for shard in &shards {
        found.extend(bodies(&*engine.log, shard).await.into_iter().map(|body| format!("{shard} {body}")));
    }
    assert_eq!(bodies(&*engine.log, &shards[0]).await.len() as u64, end.0);
    let unique: HashSet<&String> = found.iter().collect();
    assert_eq!(unique.len(), found.len(), "something was appended twice");
    let acknowledged: Vec<&String> = done.iter().flat_map(|done| &done.bodies).collect();
    assert!(acknowledged.iter().all(|body| unique.contains(body)), "something acknowledged is lost");
    assert_eq!(found.len(), acknowledged.len() + 1);
    let tasks: HashSet<u64> = done.iter().flat_map(|done| done.tasks.iter().copied()).collect();
    assert_eq!(tasks.len(), done.iter().map(|done| done.tasks.len()).sum::<usize>());
    let counts = engine.queue.counts("kind").await.unwrap();
    assert_eq!(counts.ready + counts.claimed + counts.done, tasks.len() as u64, "{counts:?}");
    let letters = engine.letters.counts().await.unwrap();
    assert_eq!(letters.kept, done.iter().map(|done| done.letters).sum::<u64>());
    println!("{} appends, {} tasks, {} letters acknowledged", acknowledged.len(), tasks.len(), letters.kept);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_or_doubled_when_the_server_is_killed() {
    let Some(server) = Server::start(&[]) else { return };
    survives(server, |server| {
        server.kill();
        server.restart();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_or_doubled_when_connections_are_cut() {
    let Some(server) = Server::start(&[("fsync", "off")]) else { return };
    survives(server, |server| {
        for _ in 0..3 {
            let own = "pid <> pg_backend_pid() AND backend_type = 'client backend'";
            server.query(&format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {own}"));
            std::thread::sleep(Duration::from_millis(30));
        }
    })
    .await;
}

/// While the server is away calls fail soon, and reads and writes go on when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_is_told_soon() {
    let Some(mut server) = Server::start(&[("fsync", "off")]) else { return };
    let engine = open(&server.url()).await;
    engine.log.create(Epoch(1), &[shard(0)]).await.unwrap();
    append(&*engine.log, batch(&shard(0), "x", Some("id".into()))).await.unwrap();
    server.kill();
    for _ in 0..20 {
        let asked = Instant::now();
        let results = [
            append(&*engine.log, batch(&shard(0), "y", None)).await.map(|_| ()),
            engine.log.heads(&[shard(0)]).await.map(|_| ()),
            engine.store.get("k").await.map(|_| ()),
            engine.store.commit(&[], &[Write::Put("k".into(), Bytes::new())]).await.map(|_| ()),
            engine.queue.claim("k", PATIENCE, "w").await.map(|_| ()),
            engine.letters.counts().await.map(|_| ()),
        ];
        assert!(results.iter().all(|result| matches!(result, Err(Error::Unavailable(_)))), "{results:?}");
        assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    }
    server.restart();
    let again = persist(|| append(&*engine.log, batch(&shard(0), "x", Some("id".into())))).await;
    assert!(again.duplicate);
    assert_eq!(bodies(&*engine.log, &shard(0)).await, ["x"]);
}

/// A process that is paused or cut off while it holds what every commit needs does not hold it for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_stands_still_holds_up_nobody_for_long() {
    let Some(url) = Server::shared() else { return };
    let engine = open(&url).await;
    let database = Database::new(Connector::new(Target::parse(&url).unwrap(), &EngineOptions::default()), 1);
    let mut stuck = database.begin_briefly().await.unwrap();
    let raise = sqlx::query("UPDATE store SET revision = revision + 1 RETURNING revision");
    stuck.fetch_optional("write to", raise).await.unwrap();
    let asked = Instant::now();
    engine.store.commit(&[], &[Write::Put("k".into(), Bytes::new())]).await.unwrap();
    assert!(asked.elapsed() < LEASE_TIME * 2 / 3, "{:?}", asked.elapsed());
    assert!(stuck.commit().await.is_err());
}
