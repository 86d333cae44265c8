//! A leaf's data directory: locked by one process, one directory per replica.
//!
//! ```text
//! DATA_DIR/lock                        held while the leaf runs
//! DATA_DIR/store-revision              the newest store revision that was seen
//! DATA_DIR/kept                        replicas of which the store knew no more when it was found to be older
//!                                      than before: kept until a person removes this file
//! DATA_DIR/shards/INDEX_UID/NUMBER/    one replica
//! DATA_DIR/copies/ID/                  what another leaf copies at the moment
//! ```

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use trawl_cluster::View;
use trawl_proto::ShardKey;

use crate::error::Error;
use crate::index::ReplicaDir;

/// Writes a small file as a whole: on a full disk the old one stays.
fn replace(path: &Path, content: &str) -> Result<(), Error> {
    let fresh = path.with_extension("new");
    fs::write(&fresh, content).and_then(|()| fs::rename(&fresh, path)).map_err(Error::io("write", path))
}

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

    /// Notes the store's revision. A store that is older than one seen before was restored, or is another
    /// one: the replicas that it does not know are noted as well, and kept until a person decides.
    pub fn saw(&self, view: &View) -> Result<(), Error> {
        let seen_path = self.root.join("store-revision");
        let seen: u64 = fs::read_to_string(&seen_path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        if view.revision.0 < seen {
            let unknown = self.replicas()?.into_iter().map(|(shard, _)| shard);
            let unknown = unknown.filter(|shard| !view.uids.contains_key(&shard.index_uid));
            let kept: BTreeSet<String> = unknown.map(|shard| shard.to_string()).chain(self.kept()?).collect();
            let path = self.root.join("kept");
            tracing::error!(seen, now = view.revision.0, ?kept, list = %path.display(),
                "the store is older than before: replicas that it does not know are kept until the list is removed");
            let text: String = kept.iter().map(|shard| format!("{shard}\n")).collect();
            replace(&path, &text)?;
        }
        if view.revision.0 != seen {
            replace(&seen_path, &view.revision.0.to_string())?;
        }
        Ok(())
    }

    fn kept(&self) -> Result<BTreeSet<String>, Error> {
        let path = self.root.join("kept");
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
            Err(error) => Err(Error::io("read", path)(error)),
        }
    }

    /// Removes replicas of indices that are gone, and of shards that are assigned to others only.
    /// `keep` is never touched, nor what was noted by [`Self::saw`].
    pub fn clean(&self, view: &View, keep: &HashSet<ShardKey>) -> Result<(), Error> {
        let kept = self.kept()?;
        for (shard, path) in self.replicas()? {
            let is_index_gone = !view.uids.contains_key(&shard.index_uid);
            let is_elsewhere = view.assignments.get(&shard).is_some_and(|record| !record.leaves.is_empty());
            let is_kept = keep.contains(&shard) || kept.contains(&shard.to_string());
            if !is_kept && (is_index_gone || is_elsewhere) {
                tracing::info!(%shard, path = %path.display(), "removing a replica that is not assigned to this leaf");
                fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
                if let Some(index) = path.parent() {
                    // Fails while other shards of the index are there.
                    let _ = fs::remove_dir(index);
                }
            }
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use trawl_cluster::store::Revision;

    use super::*;

    #[test]
    fn a_store_that_was_restored_removes_no_replica() {
        let root = tempfile::tempdir().unwrap();
        let dir = DataDir::lock(root.path()).unwrap();
        let view = |revision| {
            let mut view = View::default();
            view.revision = Revision(revision);
            view
        };
        let shard = ShardKey::new("uid-1", 0);
        let path = dir.replica(&shard).path().to_owned();
        fs::create_dir_all(&path).unwrap();
        dir.saw(&view(100)).unwrap();
        // The store knows nothing of the index, because it is older; and goes on from there.
        dir.saw(&view(90)).unwrap();
        dir.saw(&view(200)).unwrap();
        dir.clean(&view(200), &HashSet::new()).unwrap();
        assert!(path.exists());
        // An index that is deleted later is removed all the same.
        let later = dir.replica(&ShardKey::new("uid-2", 3)).path().to_owned();
        fs::create_dir_all(&later).unwrap();
        dir.clean(&view(201), &HashSet::new()).unwrap();
        assert!(path.exists() && !later.exists());
        fs::remove_file(root.path().join("kept")).unwrap();
        dir.clean(&view(202), &HashSet::new()).unwrap();
        assert!(!path.exists());
    }
}
