//! Replicas that are made anew from another leaf's, over a wire that breaks.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::index::ReplicaDir;

/// Two leaves that hold one shard, of which the first has documents and a trimmed log.
struct Pair {
    cluster: Cluster,
    shard: ShardKey,
    documents: u64,
    /// The last rows that were loaded, each of 250 documents.
    rows: Vec<Appended>,
}

impl Pair {
    async fn new(documents: u64) -> (Self, Leaf) {
        Self::with(documents, |_| {}).await
    }

    async fn with(documents: u64, change: impl FnOnce(&mut Config)) -> (Self, Leaf) {
        let cluster = Cluster::new().await;
        cluster.create_index("books", "uid-1", 1, None).await;
        let mut pair = Self { cluster, shard: ShardKey::new("uid-1", 0), documents, rows: Vec::new() };
        let mut config = pair.config("leaf-0");
        change(&mut config);
        let mut leaf = pair.cluster.start(config).await;
        leaf.serving(&pair.shard).await;
        let mut random = StdRng::seed_from_u64(1);
        for chunk in (0..documents).collect::<Vec<_>>().chunks(250) {
            let text = |random: &mut StdRng| {
                (0..40).map(|_| format!("{:x}", random.random::<u32>())).collect::<Vec<_>>().join(" ")
            };
            let operations =
                chunk.iter().map(|n| index(&format!("d{n}"), &json!({"title": text(&mut random), "n": n})));
            let row = pair.cluster.append(&pair.shard, operations.collect()).await;
            pair.rows.push(row);
        }
        let last = *pair.rows.last().unwrap();
        assert_eq!(leaf.refresh(&pair.shard, last).await, None);
        pair.cluster.trim(&pair.shard, last.last).await;
        (pair, leaf)
    }

    /// Small chunks, and patience for slow ones.
    fn config(&self, name: &str) -> Config {
        let mut config = self.cluster.config_of(name);
        config.copy.chunk_bytes = 16 << 10;
        config.copy.retry = Duration::from_millis(10);
        config
    }

    async fn assign(&self, leaves: &[&str]) {
        let record = AssignmentRecord {
            format: 1,
            leaves: leaves.iter().map(|name| (*name).into()).collect(),
            leaving: Vec::new(),
        };
        let put = Write::Put(keys::assignment(&self.shard), serde_json::to_vec(&record).unwrap().into());
        self.cluster.engine.store.commit(&[], &[put]).await.unwrap();
    }

    /// Both hold what was loaded, go on from the log alike, and need no copy when they start again.
    async fn agree(&self, a: &mut Leaf, b: &mut Leaf) {
        let (one, other) = (a.serving(&self.shard).await, b.serving(&self.shard).await);
        assert_eq!((one.documents, other.documents), (self.documents, self.documents));
        let more = vec![index("d1", &json!({"title": "changed"})), index("more", &json!({"title": "more"}))];
        let more = self.cluster.append(&self.shard, more).await;
        for leaf in [a, b] {
            assert_eq!(leaf.refresh(&self.shard, more).await, None);
            let outcomes = leaf.outcomes(&self.shard, more).await;
            assert_eq!(outcomes.iter().map(v1::Outcome::result).collect::<Vec<_>>(), [Came::Updated, Came::Created]);
            assert_eq!(leaf.search(&self.shard, 0).await.matched, self.documents + 1);
            let documents = leaf.get(&self.shard, &["d0", "d1", "more"], false).await;
            assert_eq!(documents.iter().map(|document| document.version).collect::<Vec<_>>(), [1, 2, 1]);
        }
    }
}

/// A wire in front of a leaf that can be cut and can flip bytes.
struct Wire {
    address: SocketAddr,
    /// Connections are cut after so many bytes; doubled each time, so that there is an end to it.
    cut_after: Arc<AtomicU64>,
    flip: Arc<AtomicBool>,
    cuts: Arc<AtomicU64>,
    flips: Arc<AtomicU64>,
}

impl Wire {
    async fn to(target: Arc<parking_lot::Mutex<Option<SocketAddr>>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wire = Self {
            address: listener.local_addr().unwrap(),
            cut_after: Arc::new(AtomicU64::new(u64::MAX)),
            flip: Arc::default(),
            cuts: Arc::default(),
            flips: Arc::default(),
        };
        let (cut_after, flip, cuts, flips) =
            (wire.cut_after.clone(), wire.flip.clone(), wire.cuts.clone(), wire.flips.clone());
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Some(target) = *target.lock() else { continue };
                let Ok(far) = TcpStream::connect(target).await else { continue };
                let (cut_after, flip, cuts, flips) = (cut_after.clone(), flip.clone(), cuts.clone(), flips.clone());
                tokio::spawn(async move {
                    let (mut near_read, mut near_write) = near.into_split();
                    let (mut far_read, mut far_write) = far.into_split();
                    let up = tokio::spawn(async move { tokio::io::copy(&mut near_read, &mut far_write).await });
                    let (mut buffer, mut passed) = (vec![0; 4096], 0);
                    while let Ok(bytes @ 1..) = far_read.read(&mut buffer).await {
                        passed += bytes as u64;
                        // In the middle of a large piece there is nothing but a chunk's data.
                        if bytes == buffer.len() && passed > 50_000 && flip.swap(false, Ordering::SeqCst) {
                            buffer[bytes / 2] ^= 0x10;
                            flips.fetch_add(1, Ordering::SeqCst);
                        }
                        if passed > cut_after.load(Ordering::SeqCst) {
                            cut_after.fetch_add(passed, Ordering::SeqCst);
                            cuts.fetch_add(1, Ordering::SeqCst);
                            break;
                        }
                        if near_write.write_all(&buffer[..bytes]).await.is_err() {
                            break;
                        }
                    }
                    up.abort();
                });
            }
        });
        wire
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_replica_copies_where_the_log_does_not_reach_back() {
    let (pair, mut source) = Pair::new(500).await;
    pair.assign(&["leaf-0", "leaf-1"]).await;
    let mut target = pair.cluster.start(pair.config("leaf-1")).await;
    target.serving(&pair.shard).await;
    // Whoever repeats a write with its key is answered by the copy too.
    for row in &pair.rows {
        let outcomes = target.outcomes(&pair.shard, *row).await;
        assert_eq!(outcomes.len(), 250);
        assert!(outcomes.iter().all(|outcome| outcome.result() == Came::Created));
    }
    pair.agree(&mut source, &mut target).await;
    // The source has let go of its copy, and a target that starts again needs none.
    let copies = pair.config("leaf-0").data_dir.join("copies");
    until("the copy has ended", || std::fs::read_dir(&copies).map_or(0, Iterator::count) == 0).await;
    source.stop().await;
    target.stop().await;
    let mut target = pair.cluster.start(pair.config("leaf-1")).await;
    assert_eq!(target.serving(&pair.shard).await.documents, 501);
    target.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_connections_and_flipped_bytes_cost_time_only() {
    let target_of_wire = Arc::default();
    let wire = Wire::to(Arc::clone(&target_of_wire)).await;
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (pair, mut source) = Pair::with(2_000, |config| {
        config.grpc = address;
        config.grpc_advertised = Some(wire.address.to_string());
    })
    .await;
    *target_of_wire.lock() = Some(address);
    wire.cut_after.store(60_000, Ordering::SeqCst);
    wire.flip.store(true, Ordering::SeqCst);
    pair.assign(&["leaf-0", "leaf-1"]).await;
    let mut target = pair.cluster.start(pair.config("leaf-1")).await;
    pair.agree(&mut source, &mut target).await;
    println!("{} cuts, {} flips", wire.cuts.load(Ordering::SeqCst), wire.flips.load(Ordering::SeqCst));
    assert!(wire.cuts.load(Ordering::SeqCst) >= 2 && wire.flips.load(Ordering::SeqCst) == 1);
    source.stop().await;
    target.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_goes_on_elsewhere_when_its_source_dies_and_after_a_restart_of_the_target() {
    let slow = |config: &mut Config| config.copy.bytes_per_second = 400_000;
    let (pair, mut first) = Pair::with(2_000, slow).await;
    pair.assign(&["leaf-0", "leaf-1"]).await;
    let mut config = pair.config("leaf-1");
    slow(&mut config);
    let mut second = pair.cluster.start(config).await;
    // The target is stopped in the middle of its copy and started again.
    let is_midway = |status: &v1::ReplicaStatus| status.copied_bytes > 50_000;
    let midway = second.until_status(&pair.shard, is_midway).await;
    assert!(midway.copied_bytes < midway.copy_bytes, "{midway:?}");
    assert!(midway.reason.contains("copied from leaf leaf-0"), "{midway:?}");
    assert_eq!(midway.state(), State::Recovering);
    second.stop().await;
    let mut config = pair.config("leaf-1");
    slow(&mut config);
    let mut second = pair.cluster.start(config).await;
    second.serving(&pair.shard).await;

    // A third one copies from one of them, which goes away in the middle.
    pair.assign(&["leaf-0", "leaf-1", "leaf-2"]).await;
    let mut third = pair.cluster.start(pair.config("leaf-2")).await;
    let midway = third.until_status(&pair.shard, is_midway).await;
    let (mut left, gone) = if midway.reason.contains("leaf-0") { (second, first) } else { (first, second) };
    gone.task.abort();
    pair.agree(&mut left, &mut third).await;
    first = left;
    first.stop().await;
    third.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_damaged_or_marked_is_made_anew() {
    let (pair, mut source) = Pair::new(500).await;
    pair.assign(&["leaf-0", "leaf-1"]).await;
    let config = pair.config("leaf-1");
    let path = replica_path(&config, "uid-1");
    let dir = ReplicaDir::new(&path);
    let mut target = pair.cluster.start(config.clone()).await;
    target.serving(&pair.shard).await;
    let damages: [fn(&ReplicaDir); 4] = [
        |dir| std::fs::remove_file(dir.peek().unwrap().unwrap().join("meta.json")).unwrap(),
        |dir| std::fs::write(dir.path().join("CURRENT"), "index-77").unwrap(),
        |dir| dir.make_anew("a test said so").unwrap(),
        |dir| {
            let index = dir.peek().unwrap().unwrap();
            let segment = std::fs::read_dir(index)
                .unwrap()
                .flatten()
                .find(|file| file.path().extension().is_some_and(|e| e == "term"));
            std::fs::write(segment.unwrap().path(), "x").unwrap();
        },
    ];
    for damage in damages {
        target.stop().await;
        damage(&dir);
        target = pair.cluster.start(config.clone()).await;
        let status = target.serving(&pair.shard).await;
        assert_eq!(status.documents, 500);
        assert_eq!(dir.anew().unwrap(), None);
    }
    pair.agree(&mut source, &mut target).await;

    // Nobody to copy from: the replica says so, and goes on when somebody is there again.
    source.stop().await;
    target.stop().await;
    dir.make_anew("a test said so").unwrap();
    let mut target = pair.cluster.start(config).await;
    let status = target.until_status(&pair.shard, |status| status.state() == State::Failed).await;
    assert!(status.reason.contains("a test said so; no other leaf serves this shard"), "{}", status.reason);
    let source = pair.cluster.start(pair.config("leaf-0")).await;
    assert_eq!(target.serving(&pair.shard).await.documents, 501);
    source.stop().await;
    target.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_replica_without_others_begins_anew_from_a_log_that_reaches_back() {
    let cluster = Cluster::new().await;
    cluster.create_index("books", "uid-1", 1, None).await;
    let shard = ShardKey::new("uid-1", 0);
    let mut leaf = cluster.start(cluster.config()).await;
    cluster.append(&shard, vec![index("a", &json!({"n": 1}))]).await;
    leaf.serving(&shard).await;
    leaf.stop().await;
    let dir = ReplicaDir::new(replica_path(&cluster.config(), "uid-1"));
    std::fs::remove_file(dir.peek().unwrap().unwrap().join("meta.json")).unwrap();
    let mut leaf = cluster.start(cluster.config()).await;
    assert_eq!(leaf.serving(&shard).await.documents, 1);
    assert_eq!(cluster.engine.log.heads(&[shard]).await.unwrap()[0].as_ref().unwrap().last, Seq(1));
    leaf.stop().await;
}

/// In stored documents, where no search notices.
fn flip_a_bit(index: &std::path::Path) -> String {
    let store = std::fs::read_dir(index).unwrap().flatten().map(|file| file.path());
    let store = store.filter(|path| path.extension().is_some_and(|extension| extension == "store"));
    let store = store.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&store).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(&store, bytes).unwrap();
    store.file_name().unwrap().to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_is_found_before_the_replica_serves_and_the_replica_made_anew() {
    let (pair, mut source) = Pair::new(500).await;
    pair.assign(&["leaf-0", "leaf-1"]).await;
    let config = pair.config("leaf-1");
    let dir = ReplicaDir::new(replica_path(&config, "uid-1"));
    let mut target = pair.cluster.start(config.clone()).await;
    target.serving(&pair.shard).await;
    target.stop().await;
    let damaged = dir.peek().unwrap().unwrap();
    flip_a_bit(&damaged);
    let mut target = pair.cluster.start(config).await;
    until("another index is in use", || dir.peek().unwrap().unwrap() != damaged && dir.anew().unwrap().is_none()).await;
    pair.agree(&mut source, &mut target).await;
    assert!(tantivy::Index::open_in_dir(dir.peek().unwrap().unwrap()).unwrap().validate_checksum().unwrap().is_empty());
    source.stop().await;
    target.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_hears_from_whoever_copies_that_its_files_are_damaged() {
    let unchecked = |config: &mut Config| config.check.bytes_per_second = 0;
    let (pair, source) = Pair::with(500, unchecked).await;
    source.stop().await;
    let mut config = pair.config("leaf-0");
    unchecked(&mut config);
    let name = flip_a_bit(&ReplicaDir::new(replica_path(&config, "uid-1")).peek().unwrap().unwrap());
    let mut source = pair.cluster.start(config).await;
    source.serving(&pair.shard).await;
    pair.assign(&["leaf-0", "leaf-1"]).await;
    let target = pair.cluster.start(pair.config("leaf-1")).await;
    let status = source.until_status(&pair.shard, |status| status.state() == State::Failed).await;
    assert!(status.reason.contains(&name) && status.reason.contains("no other leaf serves"), "{}", status.reason);
    source.stop().await;
    target.stop().await;
}
