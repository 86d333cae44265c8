//! Hears of writes to files that nobody may write to any more: the segment files of open replicas.
//!
//! A search reads them through the memory map, so whatever is written to them shows at once, and most of it would
//! not be noticed: a changed byte of a column is just another number. The operating system (inotify) notes each
//! write before the call that makes it returns; whoever has read from such files asks here before the answer
//! goes out. What changes without a write, a sector that rots, is found by the checks of
//! [`crate::replica::verify`] only.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Weak};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use parking_lot::Mutex;

use crate::replica::Replica;

/// The files being watched, of all replicas of a leaf.
pub struct FileWatch(Option<Mutex<Watching>>);

struct Watching {
    inotify: Inotify,
    files: HashMap<WatchDescriptor, (Weak<Replica>, String)>,
    /// Said once: files are not watched because the system does not let this process watch more.
    is_full: bool,
}

impl FileWatch {
    /// Watches nothing yet. Where the system gives no means to watch, it never will, and says so.
    pub fn new() -> Self {
        match Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK) {
            Ok(inotify) => Self(Some(Mutex::new(Watching { inotify, files: HashMap::new(), is_full: false }))),
            Err(error) => {
                tracing::warn!(%error, "files of replicas cannot be watched; damage shows at the next check only");
                Self(None)
            }
        }
    }

    /// Begins to watch a file of a replica. Watching it again is fine; a file that is removed is forgotten.
    pub fn add(&self, replica: &Arc<Replica>, path: &Path) {
        let Some(watching) = &self.0 else { return };
        let mut watching = watching.lock();
        match watching.inotify.add_watch(path, AddWatchFlags::IN_MODIFY) {
            Ok(watch) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                watching.files.insert(watch, (Arc::downgrade(replica), name));
            }
            // Merged away meanwhile.
            Err(nix::Error::ENOENT) => {}
            Err(error) if !watching.is_full => {
                watching.is_full = true;
                tracing::warn!(
                    %error,
                    path = %path.display(),
                    "not all files of replicas can be watched (see fs.inotify.max_user_watches); damage of the others \
                     shows at the next check only"
                );
            }
            Err(_) => {}
        }
    }

    /// Tells the replicas whose files were written to since the last look. Cheap when there were none.
    pub fn look(&self) {
        let Some(watching) = &self.0 else { return };
        let mut watching = watching.lock();
        while let Ok(events) = watching.inotify.read_events() {
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    watching.files.remove(&event.wd);
                } else if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    for (replica, name) in watching.files.values() {
                        replica.upgrade().into_iter().for_each(|replica| replica.distrust(name));
                    }
                } else if let Some((replica, name)) = watching.files.get(&event.wd)
                    && let Some(replica) = replica.upgrade()
                {
                    replica.distrust(name);
                }
            }
        }
    }
}

impl Default for FileWatch {
    fn default() -> Self {
        Self::new()
    }
}
