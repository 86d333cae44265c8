//! Cases of the store.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use tokio_util::sync::CancellationToken;
use trawl_proto::NodeName;

use super::{Open, engine, next};
use crate::catalog::keys;
use crate::store::{Change, Entry, Guard, Revision, Store, Update, Write};
use crate::{EngineOptions, Error, Lease, lease};

fn put(key: &str, value: impl Into<String>) -> Write {
    Write::Put(key.to_owned(), Bytes::from(value.into()))
}

fn delete(key: &str) -> Write {
    Write::Delete(key.to_owned())
}

fn at(key: &str, revision: Revision) -> Guard {
    Guard::At(key.to_owned(), revision)
}

fn absent(key: &str) -> Guard {
    Guard::Absent(key.to_owned())
}

/// A commit takes place if all its guards hold, else not at all, and names the first that does not.
pub async fn guards_decide_commits(open: &Open) {
    let (store, other) = (engine(open).await.store, engine(open).await.store);
    let first = store.commit(&[absent("a"), absent("b")], &[put("a", "1"), put("b", "1")]).await.unwrap();
    assert_eq!(other.get("a").await.unwrap().unwrap().revision, first);

    let second = other.commit(&[at("a", first)], &[put("a", "2")]).await.unwrap();
    assert!(second > first);
    for (guards, broken) in [
        (vec![at("a", first)], at("a", first)),
        (vec![at("b", first), at("a", first)], at("a", first)),
        (vec![at("a", second), absent("b")], absent("b")),
        (vec![at("c", second)], at("c", second)),
        (vec![at("a", Revision(second.0 + 1))], at("a", Revision(second.0 + 1))),
    ] {
        match store.commit(&guards, &[put("a", "x"), put("c", "x"), delete("b")]).await {
            Err(Error::Conflict(guard)) => assert_eq!(guard, broken),
            other => panic!("{guards:?} gave {other:?}"),
        }
    }
    assert_eq!(store.get("c").await.unwrap(), None);
    assert_eq!(store.get("b").await.unwrap().unwrap().revision, first);

    let third = store.commit(&[at("a", second)], &[delete("a"), put("d", "")]).await.unwrap();
    assert_eq!(other.get("a").await.unwrap(), None);
    assert_eq!(other.get("d").await.unwrap().unwrap().value, Bytes::new());
    assert!(matches!(other.commit(&[at("a", third)], &[put("a", "x")]).await, Err(Error::Conflict(_))));
    let fourth = other.commit(&[absent("a")], &[put("a", "3")]).await.unwrap();
    let fifth = store.commit(&[], &[delete("nothing")]).await.unwrap();
    assert!(fourth > third && fifth >= fourth);
}

/// A list is sorted by key as bytes, and holds exactly what has the prefix.
pub async fn lists_are_sorted_and_of_one_revision(open: &Open) {
    let store = engine(open).await.store;
    assert_eq!(store.list("").await.unwrap(), (vec![], Revision(0)));
    let keys = ["a", "a/", "a/1", "a/10", "a/2", "a/é", "a/\u{10ffff}", "a0", "b", "%", "a_", "A/1"];
    for key in keys {
        store.commit(&[], &[put(key, key)]).await.unwrap();
    }
    let last = store.commit(&[], &[put("gone", ""), put("a/3", "")]).await.unwrap();
    let last = store.commit(&[at("gone", last)], &[delete("gone"), delete("a/3")]).await.unwrap();
    for prefix in ["", "a", "a/", "a/1", "a/\u{10ffff}", "\u{10ffff}", "%", "a_", "z"] {
        let mut expected: Vec<&str> = keys.into_iter().filter(|key| key.starts_with(prefix)).collect();
        expected.sort_unstable();
        let (entries, revision) = store.list(prefix).await.unwrap();
        assert_eq!(entries.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), expected, "{prefix:?}");
        assert!(entries.iter().all(|entry| entry.value == entry.key.as_bytes()));
        assert_eq!(revision, last);
    }
}

/// Competing increments by compare-and-set, through two instances, all count.
pub async fn no_increment_is_lost(open: &Open) {
    let stores = [engine(open).await.store, engine(open).await.store];
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..6 {
        let store = stores[n % 2].clone();
        tasks.spawn(async move {
            for _ in 0..10 {
                increment(&*store, "counter").await;
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(stores[0].get("counter").await.unwrap().unwrap().value, "60");
}

async fn increment(store: &dyn Store, key: &str) -> Revision {
    loop {
        let entry = store.get(key).await.unwrap();
        let (guard, value) = match &entry {
            Some(entry) => (at(key, entry.revision), std::str::from_utf8(&entry.value).unwrap().parse().unwrap()),
            None => (absent(key), 0u64),
        };
        match store.commit(&[guard], &[put(key, (value + 1).to_string())]).await {
            Ok(revision) => return revision,
            Err(Error::Conflict(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Follows a watch and checks it while doing so.
struct Follower {
    changes: BoxStream<'static, Change>,
    entries: BTreeMap<String, Entry>,
    revision: Revision,
    snapshots: u32,
    /// How often each key was seen put.
    puts: BTreeMap<String, u32>,
}

impl Follower {
    fn new(changes: BoxStream<'static, Change>) -> Self {
        Self { changes, entries: BTreeMap::new(), revision: Revision(0), snapshots: 0, puts: BTreeMap::new() }
    }

    async fn step(&mut self) {
        match next(&mut self.changes).await {
            Change::Snapshot(entries, revision) => {
                assert!(entries.is_sorted_by(|a, b| a.key < b.key));
                self.entries = entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
                self.revision = revision;
                self.snapshots += 1;
            }
            Change::Changed(updates, revision) => {
                assert!(self.snapshots > 0, "a watch begins with a snapshot");
                assert!(revision > self.revision && !updates.is_empty());
                let mut last = self.revision;
                for update in updates {
                    match update {
                        Update::Put(entry) => {
                            assert!(
                                entry.revision >= last && entry.revision > self.revision && entry.revision <= revision
                            );
                            last = entry.revision;
                            *self.puts.entry(entry.key.clone()).or_default() += 1;
                            self.entries.insert(entry.key.clone(), entry);
                        }
                        Update::Deleted(key) => {
                            self.entries.remove(&key);
                        }
                    }
                }
                self.revision = revision;
            }
        }
    }

    async fn follow_to(&mut self, revision: Revision) {
        while self.revision < revision {
            self.step().await;
        }
    }
}

/// Watches through two instances, while both commit, see all there is to see, in order.
pub async fn watches_miss_nothing_and_keep_the_order(open: &Open) {
    let stores = [engine(open).await.store, engine(open).await.store];
    stores[0].commit(&[], &[put("w/old", ""), put("other", "")]).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..4usize {
        let store = stores[n % 2].clone();
        tasks.spawn(async move {
            for step in 0..15 {
                // Written once each, so a watch that skips any is found out.
                store.commit(&[], &[put(&format!("w/once/{n}/{step}"), "")]).await.unwrap();
                increment(&*store, "w/counter").await;
                store.commit(&[], &[put(&format!("w/brief/{n}"), "")]).await.unwrap();
                store.commit(&[], &[delete(&format!("w/brief/{n}")), put("other", "")]).await.unwrap();
            }
        });
    }
    let mut early: Vec<Follower> = stores.iter().map(|store| Follower::new(store.watch("w/"))).collect();
    for follower in &mut early {
        follower.step().await;
    }
    let known: Vec<BTreeMap<String, Entry>> = early.iter().map(|follower| follower.entries.clone()).collect();
    tasks.join_all().await;
    let end = stores[1].commit(&[], &[put("w/end", "")]).await.unwrap();
    let late = stores.iter().map(|store| Follower::new(store.watch("w/")));
    let (expected, _) = stores[0].list("w/").await.unwrap();
    let expected: BTreeMap<String, Entry> = expected.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
    assert_eq!(expected.len(), 4 * 15 + 3);
    for (n, mut follower) in early.into_iter().chain(late).enumerate() {
        follower.follow_to(end).await;
        assert_eq!(follower.entries, expected);
        assert_eq!(follower.snapshots, 1);
        if let Some(known) = known.get(n) {
            let once = |key: &&String| key.starts_with("w/once/") && !known.contains_key(*key);
            for key in expected.keys().filter(once) {
                assert_eq!(follower.puts.get(key), Some(&1), "{key}");
            }
        }
    }
}

/// A watch that fell behind what is remembered of deleted keys starts over with a snapshot.
pub async fn a_late_watch_gets_a_snapshot_again(open: &Open) {
    let store = open(EngineOptions { tombstones_max: 4, ..EngineOptions::default() }).await.store;
    store.commit(&[], &[put("k/stays", ""), put("k/goes", "")]).await.unwrap();
    let mut follower = Follower::new(store.watch("k/"));
    follower.step().await;
    store.commit(&[], &[delete("k/goes")]).await.unwrap();
    for n in 0..30 {
        let key = format!("k/{n}");
        store.commit(&[], &[put(&key, "")]).await.unwrap();
        store.commit(&[], &[delete(&key)]).await.unwrap();
    }
    let end = store.commit(&[], &[put("k/end", "")]).await.unwrap();
    follower.follow_to(end).await;
    assert_eq!(follower.snapshots, 2);
    assert_eq!(follower.entries.keys().collect::<Vec<_>>(), ["k/end", "k/stays"]);
}

/// Keys and values over their limit are refused by name.
pub async fn limits_are_kept(open: &Open) {
    let store = open(EngineOptions { value_bytes_max: 10, ..EngineOptions::default() }).await.store;
    store.commit(&[], &[put("a", "0123456789")]).await.unwrap();
    let value = store.commit(&[], &[put("a", "0123456789+")]).await;
    assert!(matches!(value, Err(Error::TooLarge { what: "value", bytes: 11, bytes_max: 10 })), "{value:?}");
    let key = store.commit(&[], &[put(&"k".repeat(2_000), "")]).await;
    assert!(matches!(key, Err(Error::TooLarge { what: "key", .. })), "{key:?}");
}

/// What was committed is there after all instances have been closed.
pub async fn entries_outlive_the_engine(open: &Open) {
    let revision = {
        let store = engine(open).await.store;
        store.commit(&[], &[put("a", "1"), put("b", "1")]).await.unwrap();
        store.commit(&[], &[put("a", "2"), delete("b")]).await.unwrap()
    };
    let store = engine(open).await.store;
    let (entries, now) = store.list("").await.unwrap();
    assert_eq!(now, revision);
    assert_eq!(entries, [Entry { key: "a".into(), value: "2".into(), revision }]);
    assert!(store.commit(&[at("a", revision)], &[delete("a")]).await.unwrap() > revision);
}

/// Two who take several keys at once, in different orders: one gets all of them, the other none.
pub async fn a_commit_over_several_keys_loses_to_another(open: &Open) {
    const KEYS: usize = 5;
    let stores = [engine(open).await.store, engine(open).await.store];
    let key = |n: usize| format!("key/{n}");
    for round in 0..12 {
        let mut at_start = Vec::new();
        for n in 0..KEYS {
            // Half of the keys are there, guarded by their revision; the others are guarded as absent.
            let write = if n % 2 == 0 { put(&key(n), format!("round {round}")) } else { delete(&key(n)) };
            stores[0].commit(&[], &[write]).await.unwrap();
            let revision = stores[0].get(&key(n)).await.unwrap().map(|entry| entry.revision);
            at_start.push(revision.map_or(absent(&key(n)), |revision| at(&key(n), revision)));
        }
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..4 {
            let (store, mut guards) = (stores[n % 2].clone(), at_start.clone());
            guards.rotate_left(n);
            let writes: Vec<Write> =
                (0..KEYS).map(|k| put(&key((k + 3 * n) % KEYS), format!("{round} by {n}"))).collect();
            tasks.spawn(async move {
                let guarded = guards.clone();
                match store.commit(&guards, &writes).await {
                    Ok(_) => Some(n),
                    Err(Error::Conflict(guard)) => {
                        assert_eq!(guard, guarded[0], "the first guard that does not hold is named");
                        None
                    }
                    Err(error) => panic!("{error}"),
                }
            });
        }
        let winners: Vec<usize> = tasks.join_all().await.into_iter().flatten().collect();
        assert_eq!(winners.len(), 1);
        let (entries, _) = stores[1].list("key/").await.unwrap();
        assert_eq!(entries.len(), KEYS);
        assert!(entries.iter().all(|entry| entry.value == format!("{round} by {}", winners[0])), "{entries:?}");
        assert!(entries.iter().all(|entry| entry.revision == entries[0].revision));
    }
}

/// A leader that was deposed without knowing is refused also on keys that its successor never touched.
pub async fn a_deposed_leader_is_refused_on_untouched_keys(open: &Open) {
    let stores = [engine(open).await.store, engine(open).await.store];
    let shutdown = CancellationToken::new();
    let lease = |n: usize| {
        let config = lease::Config {
            name: NodeName(format!("root-{n}")),
            process: format!("process {n}"),
            lease_time: Duration::from_secs(600),
        };
        Lease::run(stores[n].clone(), config, shutdown.clone())
    };
    let first = lease(0);
    let epoch = first.leading().wait_for(Option::is_some).await.unwrap().unwrap();
    let guards = first.fence().guards(epoch).unwrap();
    stores[0].commit(&guards, &[put("assignment/a", "1")]).await.unwrap();
    // The process stops here, as if paused: what it holds is older than it knows.
    let record = stores[1].get(keys::LEASE_EPOCH).await.unwrap().unwrap();
    let guard = at(keys::LEASE_EPOCH, record.revision);
    stores[1].commit(&[guard], &[Write::Put(record.key, record.value)]).await.unwrap();
    for key in ["assignment/a", "assignment/never", "serving/never"] {
        for write in [put(key, "late"), delete(key)] {
            let refused = stores[0].commit(&guards, &[write]).await;
            assert!(
                matches!(&refused, Err(Error::Conflict(Guard::At(key, _))) if key == keys::LEASE_EPOCH),
                "{refused:?}"
            );
        }
    }
    assert_eq!(stores[1].get("assignment/a").await.unwrap().unwrap().value, "1");
    assert_eq!(stores[1].get("assignment/never").await.unwrap(), None);
    shutdown.cancel();
}

/// Commits that are not urgent reach every watch all the same, in order with the others.
pub async fn unhurried_commits_are_seen_too(open: &Open) {
    let stores = [engine(open).await.store, engine(open).await.store];
    let first = stores[0].commit_unhurried(&[absent("beat/0")], &[put("beat/0", "0")]).await.unwrap();
    let mut followers: Vec<Follower> = stores.iter().map(|store| Follower::new(store.watch("beat/"))).collect();
    let mut last = first;
    for n in 1..=3 {
        last = stores[n % 2].commit_unhurried(&[at("beat/0", last)], &[put("beat/0", n.to_string())]).await.unwrap();
    }
    assert!(matches!(stores[1].commit_unhurried(&[at("beat/0", first)], &[]).await, Err(Error::Conflict(_))));
    for follower in &mut followers {
        follower.follow_to(last).await;
        assert_eq!(follower.entries["beat/0"].value, "3");
    }
    // One that is urgent takes along what came before.
    stores[0].commit_unhurried(&[], &[put("beat/1", "")]).await.unwrap();
    last = stores[1].commit(&[], &[put("beat/2", "")]).await.unwrap();
    for follower in &mut followers {
        follower.follow_to(last).await;
        assert_eq!(follower.entries.keys().collect::<Vec<_>>(), ["beat/0", "beat/1", "beat/2"]);
    }
}
