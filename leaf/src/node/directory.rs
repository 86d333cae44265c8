//! A leaf's data directory: locked by one process, one directory per replica.
//!
//! ```text
//! DATA_DIR/lock                        held while the leaf runs
//! DATA_DIR/store-revision              the newest store revision that directories were compared with
//! DATA_DIR/shards/INDEX_UID/NUMBER/    one replica
//! ```

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use trawl_cluster::View;
use trawl_proto::ShardKey;

use crate::error::Error;
use crate::index::ReplicaDir;

/// A locked data directory. Cheap to clone; unlocked when the last clone is gone.
#[derive(Clone, Debug)]
pub struct DataDir {
    root: PathBuf,
    _lock: Arc<File>,
}

impl DataDir {
    /// Makes the directory if it is missing, and locks it.
    ///
    /// # Errors
    /// [`Error::DataDirLocked`] when another process has it.
    pub fn lock(root: &Path) -> Result<Self, Error> {
        fs::create_dir_all(root.join("shards")).map_err(Error::io("create", root))?;
        let path = root.join("lock");
        let file = File::create(&path).map_err(Error::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { root: root.to_owned(), _lock: Arc::new(file) }),
            Err(fs::TryLockError::WouldBlock) => Err(Error::DataDirLocked(root.to_owned())),
            Err(fs::TryLockError::Error(error)) => Err(Error::io("lock", path)(error)),
        }
    }

    /// Where the replica of a shard is kept.
    pub fn replica(&self, shard: &ShardKey) -> ReplicaDir {
        ReplicaDir::new(self.root.join("shards").join(shard.index_uid.as_str()).join(shard.number.to_string()))
    }

    /// Removes replicas of indices that are gone, and of shards that are assigned to others only.
    /// `keep` is never touched. A store that is older than one seen before removes nothing: it is
    /// another store, or one that was restored.
    pub fn clean(&self, view: &View, keep: &HashSet<ShardKey>) -> Result<(), Error> {
        let seen_path = self.root.join("store-revision");
        let seen: u64 = fs::read_to_string(&seen_path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        if view.revision.0 < seen {
            tracing::warn!(seen, now = view.revision.0, "the store is older than before: no replica is removed");
            return Ok(());
        }
        for (shard, path) in self.replicas()? {
            let is_index_gone = !view.uids.contains_key(&shard.index_uid);
            let is_elsewhere = view.assignments.get(&shard).is_some_and(|record| !record.leaves.is_empty());
            if !keep.contains(&shard) && (is_index_gone || is_elsewhere) {
                tracing::info!(%shard, path = %path.display(), "removing a replica that is not assigned to this leaf");
                fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
                if let Some(index) = path.parent() {
                    // Fails while other shards of the index are there.
                    let _ = fs::remove_dir(index);
                }
            }
        }
        fs::write(&seen_path, view.revision.0.to_string()).map_err(Error::io("write", seen_path))
    }

    /// All replicas on disk.
    fn replicas(&self) -> Result<Vec<(ShardKey, PathBuf)>, Error> {
        let mut found = Vec::new();
        for (uid, path) in directories(&self.root.join("shards"))? {
            for (number, path) in directories(&path)? {
                if let Ok(number) = number.parse() {
                    found.push((ShardKey::new(uid.clone(), number), path));
                }
            }
        }
        Ok(found)
    }
}

fn directories(path: &Path) -> Result<Vec<(String, PathBuf)>, Error> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", path)(error)),
    };
    Ok(entries
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .collect())
}
