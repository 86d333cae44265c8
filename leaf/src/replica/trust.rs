//! How far a replica's files can be relied on: which were found to match their checksums, and which were written to
//! since.
//!
//! What was found good is kept in a file beside the index, so that a leaf that starts again reads only what is new.
//! It is worth nothing after the machine started again, which is when files are most likely to be damaged, and a
//! file counts only as long as its size and time are what they were.
//!
//! ```text
//! DATA_DIR/shards/INDEX_UID/NUMBER/CHECKED      what was found good
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;
use trawl_proto::clock::unix_ms;
use trawl_proto::failure;
use trawl_proto::v1::Failure;
use trawl_proto::v1::failure::Kind;

use super::{Phase, Replica};
use crate::error::Error;
use crate::index::ReplicaDir;
use crate::searcher;

/// At most so often are all files read because a search failed: a query that always fails must not keep the disk
/// busy.
const SUSPICION_INTERVAL: Duration = Duration::from_secs(60);
const FORMAT: u32 = 1;

/// What is believed of a replica's files.
#[derive(Default)]
pub struct Trust {
    /// Searchers with a smaller number read files that were found damaged.
    since: AtomicU64,
    /// Whether `changed` is not empty.
    is_changed: AtomicBool,
    /// Files that were written to since they were opened, and how often; checked before anything is answered from
    /// them again.
    changed: Mutex<BTreeMap<String, u64>>,
    /// Whether the replica was checked, as far as it had to be, since it was opened first or lost.
    was_opened: AtomicBool,
    /// Whether damage was found since then.
    is_lost: AtomicBool,
    /// Whether that was left for later.
    is_incomplete: AtomicBool,
    /// Why all files are to be checked soon.
    suspicion: Mutex<Option<String>>,
    /// When a check that somebody asked for was begun last.
    suspected_at: Mutex<Option<Instant>>,
    /// Wakes whoever checks files.
    pub(super) wanted: Notify,
    /// What was found good.
    pub(super) checked: Mutex<Checked>,
    /// Segments whose files are watched, with the generation of their deletes.
    pub(super) watched: Mutex<BTreeSet<(String, Option<u64>)>>,
}

/// Files of one index directory that were found good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checked {
    format: u32,
    /// The machine's boot.
    boot: String,
    /// Name of the index directory.
    index: String,
    files: BTreeMap<String, Stamp>,
}

/// A file as it was when it was found good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    /// Its size.
    pub(super) bytes: u64,
    modified_ns: u64,
    /// When it was read, in milliseconds since the epoch.
    at_ms: u64,
}

impl Stamp {
    /// Of a file that is read now.
    pub(super) fn of(metadata: &Metadata) -> Self {
        let modified = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        let modified_ns = u64::try_from(modified.as_nanos()).unwrap_or(u64::MAX);
        Self { bytes: metadata.len(), modified_ns, at_ms: unix_ms() }
    }

    /// Whether a file that was found good as `self` is still the same, and was read not longer than `age_ms` ago.
    fn holds(&self, now: &Self, age_ms: u64) -> bool {
        let is_same = self.bytes == now.bytes && self.modified_ns == now.modified_ns;
        is_same && self.at_ms <= now.at_ms && now.at_ms - self.at_ms < age_ms
    }
}

impl Checked {
    /// Nothing yet, of an index directory.
    pub(super) fn of(index: &Path) -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let index = index.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { format: FORMAT, boot: boot.trim().to_owned(), index, files: BTreeMap::new() }
    }

    /// What is noted of the index directory; nothing when the note is of another one, or of another boot.
    pub(super) fn load(dir: &ReplicaDir, index: &Path) -> Self {
        let fresh = Self::of(index);
        let noted = dir.checked().and_then(|text| serde_json::from_str::<Self>(&text).ok());
        let is_of_this = |noted: &Self| {
            let is_same = (noted.format, &noted.boot, &noted.index) == (FORMAT, &fresh.boot, &fresh.index);
            is_same && !noted.boot.is_empty()
        };
        noted.filter(is_of_this).unwrap_or(fresh)
    }

    /// The same for an index that was moved to another directory.
    pub(crate) fn of_index(self, index: &Path) -> Self {
        Self { files: self.files, ..Self::of(index) }
    }

    /// Notes it beside the index.
    pub(crate) fn save(&self, dir: &ReplicaDir) -> Result<(), Error> {
        let text = serde_json::to_string(self).map_err(|error| Error::Unreadable(error.to_string()))?;
        dir.set_checked(&text)
    }

    /// Whether it is of this index directory.
    pub(super) fn is_of(&self, index: &Path) -> bool {
        index.file_name().is_some_and(|name| name.to_string_lossy() == self.index)
    }

    /// Whether a file was found good within so long a time and has not changed since.
    pub(super) fn has(&self, name: &str, now: &Stamp, age: Duration) -> bool {
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        self.files.get(name).is_some_and(|stamp| stamp.holds(now, age_ms))
    }

    /// A file was found good.
    pub(super) fn note(&mut self, name: String, stamp: Stamp) {
        self.files.insert(name, stamp);
    }

    /// A file was found damaged.
    pub(super) fn forget(&mut self, name: &str) {
        self.files.remove(name);
    }

    /// Forgets all but these.
    pub(super) fn retain(&mut self, names: &BTreeSet<String>) {
        self.files.retain(|name, _| names.contains(name));
    }

    /// How long ago the file was read that was not read for the longest time.
    pub(super) fn age(&self) -> Duration {
        let oldest = self.files.values().map(|stamp| stamp.at_ms).min();
        Duration::from_millis(oldest.map_or(0, |at| unix_ms().saturating_sub(at)))
    }
}

impl Trust {
    /// Whether files were written to and not checked since.
    pub(super) fn is_changed(&self) -> bool {
        self.is_changed.load(Ordering::SeqCst)
    }

    /// Those files, and how often they were written to.
    pub(super) fn changed(&self) -> BTreeMap<String, u64> {
        self.changed.lock().clone()
    }

    /// They were found good, unless they were written to since then again.
    pub(super) fn restore(&self, good: &BTreeMap<String, u64>) {
        let mut changed = self.changed.lock();
        changed.retain(|name, times| good.get(name) != Some(times));
        self.is_changed.store(!changed.is_empty(), Ordering::SeqCst);
    }

    /// Whether the files were checked, as far as they had to be, to be opened.
    pub(super) fn was_opened(&self) -> bool {
        self.was_opened.load(Ordering::SeqCst)
    }

    /// Whether all files were checked at some time.
    pub(super) fn is_complete(&self) -> bool {
        !self.is_incomplete.load(Ordering::SeqCst)
    }

    /// Whether damage was found, and nothing has taken its place yet.
    pub(super) fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::SeqCst)
    }

    /// The files were checked, all of them or as many as there was time for.
    pub(super) fn opened(&self, all: bool) {
        self.is_incomplete.store(!all, Ordering::SeqCst);
        self.is_lost.store(false, Ordering::SeqCst);
        self.was_opened.store(true, Ordering::SeqCst);
    }

    /// What is open now is damaged; opening looks at all that was not found good.
    pub(super) fn lose(&self) {
        self.was_opened.store(false, Ordering::SeqCst);
        self.is_lost.store(true, Ordering::SeqCst);
        self.since.store(searcher::next_id(), Ordering::SeqCst);
        let mut changed = self.changed.lock();
        changed.clear();
        self.is_changed.store(false, Ordering::SeqCst);
    }

    /// Why all files are to be checked, if they are; asked by whoever begins to.
    pub(super) fn take_suspicion(&self) -> Option<String> {
        let suspicion = self.suspicion.lock().take();
        if suspicion.is_some() {
            *self.suspected_at.lock() = Some(Instant::now());
        }
        suspicion
    }
}

impl Replica {
    /// A file of it was written to: nothing is answered from it before it was checked.
    pub fn distrust(&self, file: &str) {
        {
            let mut changed = self.trust.changed.lock();
            self.trust.is_changed.store(true, Ordering::SeqCst);
            let times = changed.entry(file.to_owned()).or_default();
            *times += 1;
            if *times > 1 {
                return;
            }
        }
        tracing::warn!(shard = %self.shard, file, "a file of the replica was changed on disk; it is checked");
        self.progress.send_modify(|progress| {
            if progress.phase == Phase::Serving {
                (progress.phase, progress.reason) =
                    (Phase::Recovering, format!("file {file} was changed on disk and is checked").into());
            }
        });
        self.changed.notify_one();
        self.wake.notify_one();
    }

    /// Something was odd that damaged files would explain: they are all checked soon, while it goes on serving.
    pub fn suspect_files(&self, reason: &str) {
        let was_recent = self.trust.suspected_at.lock().is_some_and(|at| at.elapsed() < SUSPICION_INTERVAL);
        let mut suspicion = self.trust.suspicion.lock();
        if was_recent || suspicion.is_some() {
            return;
        }
        tracing::warn!(shard = %self.shard, reason, "the replica's files are checked, because they may be damaged");
        *suspicion = Some(reason.to_owned());
        self.trust.wanted.notify_one();
    }

    /// Whether what was just read from a searcher may be answered.
    ///
    /// # Errors
    /// `UNAVAILABLE` when its files were found damaged or written to meanwhile: another replica has to be asked.
    pub fn vouch(&self, searcher: u64) -> Result<(), Failure> {
        if self.trust.is_changed() || searcher < self.trust.since.load(Ordering::SeqCst) {
            let reason = format!("files of shard {} were damaged or changed on disk", self.shard);
            return Err(failure(Kind::Unavailable, reason));
        }
        Ok(())
    }
}

/// Whether a failure is one that damaged files would explain.
pub fn looks_like_damage(failure: &Failure) -> bool {
    failure.kind() == Kind::Internal
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use trawl_proto::ShardKey;

    use super::*;

    #[test]
    fn what_was_checked_counts_only_while_it_is_the_same_and_recent() {
        let dir = tempfile::tempdir().unwrap();
        let replica = ReplicaDir::new(dir.path());
        let index = dir.path().join("index-3");
        let stamp = Stamp { bytes: 10, modified_ns: 77, at_ms: 1_000_000 };
        let mut checked = Checked::load(&replica, &index);
        checked.note("a.store".to_owned(), stamp);
        checked.save(&replica).unwrap();
        assert_eq!(Checked::load(&replica, &index), checked);
        assert_eq!(Checked::load(&replica, &dir.path().join("index-4")).files.len(), 0);
        let hour = Duration::from_secs(3_600);
        let later = |ms: u64| Stamp { at_ms: stamp.at_ms + ms, ..stamp };
        assert!(checked.has("a.store", &later(5), hour));
        assert!(!checked.has("a.store", &later(3_600_000), hour), "it is too long ago");
        assert!(!checked.has("b.store", &later(5), hour));
        assert!(!checked.has("a.store", &Stamp { bytes: 11, ..later(5) }, hour));
        assert!(!checked.has("a.store", &Stamp { modified_ns: 78, ..later(5) }, hour));
        assert!(!checked.has("a.store", &Stamp { at_ms: 999_999, ..stamp }, hour), "a clock that was set back");
        replica.set_checked("nonsense").unwrap();
        assert_eq!(Checked::load(&replica, &index).files.len(), 0);
        let other = Checked { boot: "another".to_owned(), ..checked };
        other.save(&replica).unwrap();
        assert_eq!(Checked::load(&replica, &index).files.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn failing_searches_have_files_checked_now_and_then_only() {
        let replica = Replica::new(ShardKey::new("u", 0), 1, Arc::default());
        replica.suspect_files("one");
        replica.suspect_files("two");
        assert_eq!(replica.trust.take_suspicion().as_deref(), Some("one"));
        replica.suspect_files("three");
        assert_eq!(replica.trust.take_suspicion(), None);
        tokio::time::sleep(SUSPICION_INTERVAL).await;
        replica.suspect_files("four");
        assert_eq!(replica.trust.take_suspicion().as_deref(), Some("four"));
    }

    #[test]
    fn nothing_is_answered_from_changed_or_damaged_files() {
        let replica = Replica::new(ShardKey::new("u", 0), 1, Arc::default());
        let old = searcher::next_id() - 1;
        assert!(replica.vouch(old).is_ok());
        replica.distrust("a.idx");
        replica.distrust("b.idx");
        assert!(replica.vouch(old).is_err());
        replica.trust.restore(&[("a.idx".to_owned(), 1)].into());
        assert!(replica.vouch(old).is_err(), "the other was not checked yet");
        let before = replica.trust.changed();
        replica.distrust("b.idx");
        replica.trust.restore(&before);
        assert!(replica.vouch(old).is_err(), "it was written to again meanwhile");
        replica.trust.restore(&replica.trust.changed());
        assert!(replica.vouch(old).is_ok());
        replica.distrust("a.idx");
        replica.trust.lose();
        assert!(replica.vouch(old).is_err(), "pinned searchers of the damaged index");
        assert!(replica.vouch(searcher::next_id()).is_ok());
    }
}
