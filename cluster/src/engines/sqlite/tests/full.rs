//! A disk that is full, and has room again.

use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use rand::Rng;
use trawl_proto::{Epoch, Generation, Incarnation, Seq, ShardKey};

use super::kill::assert_sound;
use super::{batch, open};
use crate::Error;
use crate::conformance::trim;
use crate::shard_log::{Append, ShardLog};
use crate::store::Write;
use crate::work_queue::NewTask;

/// A small file system in memory; unmounted at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None`, said loudly, where mounting is not allowed.
    fn mount(bytes: u64) -> Option<Self> {
        let directory = tempfile::TempDir::new().unwrap();
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(directory.path())
            .output();
        match done {
            Ok(done) if done.status.success() => Some(Self(directory)),
            other => {
                eprintln!("SKIPPED: a tmpfs cannot be mounted here, a full disk was not tested: {other:?}");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes up all the room there is but `left` bytes.
    fn fill(&self, left: usize) -> PathBuf {
        let path = self.path().join("filler");
        let mut file = std::fs::File::create(&path).unwrap();
        while std::io::Write::write_all(&mut file, &[7; 4_096]).is_ok() {}
        let length = file.metadata().unwrap().len();
        file.set_len(length.saturating_sub(left as u64)).unwrap();
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

fn random_batch(shard: &ShardKey, bytes: usize) -> Append {
    let mut body = vec![0; bytes];
    rand::rng().fill(&mut body[..]);
    Append { body: body.into(), ..batch(shard, "") }
}

async fn append(log: &dyn ShardLog, batch: Append) -> Result<Seq, Error> {
    Ok(log.append(vec![batch]).await?.remove(0)?.last)
}

fn assert_says_full(error: &Error, file: &str) {
    let text = error.to_string();
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    assert!(text.contains(file) && text.contains("the disk is full"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_said_and_harms_nothing() {
    let Some(disk) = SmallDisk::mount(16 << 20) else { return };
    let directory = disk.path().join("cluster");
    let engine = open(&directory).await.unwrap();
    let shard = ShardKey::new("i", 0);
    engine.log.create(Epoch(1), std::slice::from_ref(&shard)).await.unwrap();
    engine.store.commit(&[], &[Write::Put("k".into(), Bytes::from("before"))]).await.unwrap();
    for round in 0..4 {
        // Somebody else fills it, to different brims.
        let filler = disk.fill(round * 30_000);
        let mut acknowledged = engine.log.heads(std::slice::from_ref(&shard)).await.unwrap()[0].clone().unwrap().last;
        let refused = loop {
            match append(&*engine.log, random_batch(&shard, 100_000)).await {
                Ok(last) => acknowledged = last,
                Err(error) => break error,
            }
        };
        assert_says_full(&refused, "logs.db");
        // Whatever is small still fits, or is refused in the same way.
        let value = Bytes::from(vec![7; 200_000]);
        let done = [
            engine
                .store
                .commit(&[], &[Write::Put("k".into(), value)])
                .await
                .map(|_| ())
                .map_err(|error| (error, "store.db")),
            engine
                .queue
                .push("k", vec![NewTask { key: None, body: Bytes::from(vec![7; 200_000]), attempts_max: 1 }])
                .await
                .map(|_| ())
                .map_err(|error| (error, "logs.db")),
            engine
                .letters
                .record(&shard, Generation { incarnation: Incarnation(1), seq: Seq(round as u64 + 1) }, Vec::new())
                .await
                .map_err(|error| (error, "logs.db")),
        ];
        for (error, file) in done.into_iter().filter_map(Result::err) {
            assert_says_full(&error, file);
        }
        // Reading goes on.
        let head = engine.log.heads(std::slice::from_ref(&shard)).await.unwrap()[0].clone().unwrap();
        assert_eq!(head.last, acknowledged);
        engine.log.read(&shard, head.trimmed, usize::MAX).await.unwrap();
        assert!(engine.store.get("k").await.unwrap().is_some());

        std::fs::remove_file(filler).unwrap();
        assert_eq!(append(&*engine.log, random_batch(&shard, 1_000)).await.unwrap(), acknowledged.next());
        trim(&*engine.log, &shard, acknowledged).await;
        engine.store.commit(&[], &[Write::Put("k".into(), Bytes::from("after"))]).await.unwrap();
        assert_sound(&directory).await;
    }
    drop(engine);
    // And another process finds it all.
    let engine = open(&directory).await.unwrap();
    assert_eq!(engine.store.get("k").await.unwrap().unwrap().value, "after");
    append(&*engine.log, random_batch(&shard, 1_000)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opening_on_a_full_disk_says_so() {
    let Some(disk) = SmallDisk::mount(8 << 20) else { return };
    let directory = disk.path().join("cluster");
    for left in [0, 4_096, 8_192, 20_000, 50_000] {
        let filler = disk.fill(left);
        if let Err(error) = open(&directory).await {
            assert!(matches!(error, Error::Unavailable(_)), "{left}: {error:?}");
            let text = error.to_string();
            assert!(text.contains(&directory.display().to_string()), "{text}");
        }
        std::fs::remove_file(filler).unwrap();
    }
    let engine = open(&directory).await.unwrap();
    engine.store.commit(&[], &[Write::Put("k".into(), Bytes::new())]).await.unwrap();
    drop(engine);
    assert_sound(&directory).await;
}
