//! Checks a replica's files against their checksums: before it serves what it found on disk, when something wrote
//! to one of them, when something was odd, and all of them again now and then.
//!
//! Before serving: whatever was not found good within the last interval. While another leaf serves the shard there
//! is no hurry, so the reading is slowed down and takes as long as it takes. The only replica of a shard reads as
//! fast as it can, and after a short while serves and goes on checking meanwhile: many would rather have answers
//! from files that were good yesterday than none. Nothing is applied before either, because merging copies damage
//! into new files with checksums that match.
//!
//! A damaged replica leaves the serving set at once; opening finds the damage again and makes the replica anew.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tantivy::Index;
use tokio::time::Instant;

use super::Phase;
use super::tail::{Tail, blocking};
use super::trust::{Checked, Stamp};
use crate::checksum::{Checking, is_damage};
use crate::error::Error;
use crate::index::ReplicaDir;

/// Bytes that are read at a time.
const PART_BYTES: u64 = 8 << 20;
/// A pause before files are read again that could not be.
const RETRY_PAUSE: Duration = Duration::from_secs(60);

/// Which files to read.
#[derive(Clone, Copy, Debug)]
enum Scope {
    /// Those that something wrote to.
    Changed,
    /// Those that were not found good within so long.
    NotSince(Duration),
}

/// How fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    Full,
    /// So that searches do not feel it.
    Slow,
    /// As copies while another leaf serves the shard, else full.
    Fitting,
}

#[derive(Debug, Default)]
struct Findings {
    bytes: u64,
    /// The first damaged file, and what is wrong with it.
    damaged: Option<String>,
}

impl Tail {
    /// Returns when the index may be opened and served.
    ///
    /// # Errors
    /// [`Error::Damaged`] when a file is.
    pub(super) async fn check_before_serving(&self) -> Result<(), Error> {
        let (trust, config) = (&self.replica.trust, &self.shared.config.check);
        while trust.is_changed() {
            self.found(&self.check(Scope::Changed, Pace::Full).await?)?;
        }
        let is_served = self.replica.progress.borrow().phase == Phase::Serving;
        let is_off = config.bytes_per_second == 0 && !trust.is_lost();
        if trust.was_opened() || is_served || is_off {
            return Ok(());
        }
        self.replica.set_phase(Phase::Recovering, "checks its files");
        let checked = async {
            let _slot = self.shared.check_slots.acquire().await;
            self.check(Scope::NotSince(config.interval), Pace::Fitting).await
        };
        tokio::select! {
            findings = checked => {
                self.found(&findings?)?;
                trust.opened(true);
            }
            () = self.alone(config.wait) => {
                tracing::warn!(shard = %self.replica.shard(), "no other leaf serves the shard: serving before all files were checked");
                trust.opened(false);
            }
        }
        Ok(())
    }

    fn found(&self, findings: &Findings) -> Result<(), Error> {
        match &findings.damaged {
            Some(reason) => {
                self.replica.trust.lose();
                Err(Error::Damaged(reason.clone()))
            }
            None => Ok(()),
        }
    }

    /// Returns when no other leaf has served the shard for so long.
    async fn alone(&self, wait: Duration) {
        let mut views = self.viewer.subscribe();
        let mut since = Instant::now();
        loop {
            if !self.sources().is_empty() {
                since = Instant::now();
            }
            tokio::select! {
                () = tokio::time::sleep_until(since + wait), if self.sources().is_empty() => return,
                changed = views.changed() => if changed.is_err() { std::future::pending::<()>().await },
            }
        }
    }

    /// Checks files again whenever it is time or somebody asks; returns when one is damaged, having stopped the
    /// replica.
    pub(super) async fn check_now_and_then(&self) {
        let (replica, trust, config) = (&self.replica, &self.replica.trust, &self.shared.config.check);
        let mut failed = false;
        loop {
            let pause = match (failed, config.bytes_per_second, config.interval) {
                (true, ..) => Some(RETRY_PAUSE),
                (_, 0, _) | (_, _, Duration::ZERO) => None,
                _ if !trust.is_complete() => Some(Duration::ZERO),
                (_, _, interval) => Some(interval.saturating_sub(trust.checked.lock().age())),
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = trust.wanted.notified() => {}
            }
            let suspicion = trust.take_suspicion();
            let (scope, pace) = match (&suspicion, trust.is_complete()) {
                (Some(_), _) => (Scope::NotSince(Duration::ZERO), Pace::Full),
                (None, false) => (Scope::NotSince(config.interval), Pace::Slow),
                // Those that are not quite due are read along, so that this happens once per interval.
                (None, true) => (Scope::NotSince(config.interval / 2), Pace::Slow),
            };
            let Ok(_slot) = self.shared.background_check_slot.acquire().await else { return };
            let result = self.check(scope, pace).await;
            failed = result.is_err();
            match result {
                Ok(Findings { damaged: Some(reason), .. }) => {
                    tracing::error!(shard = %replica.shard(), reason, "the replica is damaged");
                    trust.lose();
                    replica.must_be_made_anew(reason);
                    return;
                }
                Ok(_) => trust.opened(true),
                Err(error) => {
                    tracing::warn!(shard = %replica.shard(), reason = error.reason(), "cannot check the replica's files");
                }
            }
        }
    }

    /// Reads files of the index in use, up to the first that is damaged. What was found good is noted.
    async fn check(&self, scope: Scope, pace: Pace) -> Result<Findings, Error> {
        let trust = &self.replica.trust;
        let (began, changed, mut findings) = (Instant::now(), trust.changed(), Findings::default());
        let dir = self.dir.clone();
        if let Some((path, files)) = blocking(move || list(&dir)).await? {
            self.take_note_of(&path, &files).await?;
            // Before they are read, so that nothing is written to them unnoticed afterwards.
            files.iter().for_each(|(name, _)| self.shared.files.add(&self.replica, &path.join(name)));
            let is_due = |name: &String, stamp: &Stamp| match scope {
                Scope::Changed => changed.contains_key(name),
                Scope::NotSince(age) => !trust.checked.lock().has(name, stamp, age),
            };
            let due: Vec<_> = files.into_iter().filter(|(name, stamp)| is_due(name, stamp)).collect();
            let all: u64 = due.iter().map(|(_, stamp)| stamp.bytes).sum();
            for (name, stamp) in due {
                if let Some(reason) = self.check_file(&path.join(&name), pace, &mut findings.bytes, all).await? {
                    trust.checked.lock().forget(&name);
                    findings.damaged = Some(format!("file {name} is damaged: {reason}"));
                    return Ok(findings);
                }
                trust.checked.lock().note(name, stamp);
            }
            let (dir, checked) = (self.dir.clone(), trust.checked.lock().clone());
            if findings.bytes > 0 {
                blocking(move || checked.save(&dir)).await?;
            }
        }
        // What was written to meanwhile stays.
        self.shared.files.look();
        trust.restore(&changed);
        let shard = self.replica.shard();
        tracing::debug!(%shard, ?scope, bytes = findings.bytes, took = ?began.elapsed(), "files match their checksums");
        Ok(findings)
    }

    /// What is known of these files, and of no others.
    async fn take_note_of(&self, path: &Path, files: &[(String, Stamp)]) -> Result<(), Error> {
        let trust = &self.replica.trust;
        if !trust.checked.lock().is_of(path) {
            let (dir, index) = (self.dir.clone(), path.to_owned());
            let loaded = blocking(move || Ok(Checked::load(&dir, &index))).await?;
            *trust.checked.lock() = loaded;
        }
        let names: BTreeSet<String> = files.iter().map(|(name, _)| name.clone()).collect();
        trust.checked.lock().retain(&names);
        Ok(())
    }

    /// What is wrong with a file, if anything is.
    async fn check_file(&self, path: &Path, pace: Pace, bytes: &mut u64, all: u64) -> Result<Option<String>, Error> {
        let own_path = path.to_owned();
        let mut next = blocking(move || Ok(Checking::begin(&own_path).map(|checking| (checking, 0)))).await?;
        loop {
            let (mut checking, read) = match next {
                Ok(next) => next,
                // Merged away meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                Err(error) if is_damage(&error) => return Ok(Some(error.to_string())),
                Err(error) => return Err(Error::io("read", path)(error)),
            };
            *bytes += read;
            self.replica.recovery.checks(*bytes, all);
            if checking.is_done() {
                let is_good = checking.is_good();
                return Ok((!is_good).then(|| "it does not match its checksum".to_owned()));
            }
            let rate = match pace {
                Pace::Full => None,
                Pace::Slow => Some(&self.shared.check_rate),
                Pace::Fitting => Some(&self.shared.opening_rate).filter(|_| !self.sources().is_empty()),
            };
            if let Some(rate) = rate {
                rate.pass(usize::try_from(read).unwrap_or(usize::MAX)).await;
            }
            next = blocking(move || Ok(checking.read(PART_BYTES).map(|read| (checking, read)))).await?;
        }
    }
}

/// An index directory, and its files.
type Listed = (PathBuf, Vec<(String, Stamp)>);

/// The files of the last commit that are there.
fn list(dir: &ReplicaDir) -> Result<Option<Listed>, Error> {
    let Some(path) = dir.peek()? else { return Ok(None) };
    let names = Index::open_in_dir(&path)?.load_metas()?.list_segment_files();
    let stamp = |name: &Path| std::fs::metadata(path.join(name)).ok().map(|metadata| Stamp::of(&metadata));
    let files = names.iter().filter_map(|name| Some((name.to_string_lossy().into_owned(), stamp(name)?)));
    let mut files: Vec<_> = files.collect();
    files.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(Some((path, files)))
}

/// What was found good of a copy that was just made, and the names of damaged files.
pub(crate) fn check_copy(path: &Path) -> Result<(Checked, Vec<String>), Error> {
    let mut checked = Checked::of(path);
    let mut damaged = Vec::new();
    for name in Index::open_in_dir(path)?.load_metas()?.list_segment_files() {
        let (file, name) = (path.join(&name), name.to_string_lossy().into_owned());
        let read = || {
            let stamp = Stamp::of(&std::fs::metadata(&file)?);
            let mut checking = Checking::begin(&file)?;
            while checking.read(PART_BYTES)? > 0 {}
            Ok(checking.is_good().then_some(stamp))
        };
        match read() {
            Ok(Some(stamp)) => checked.note(name, stamp),
            Err(error) if std::io::Error::kind(&error) == std::io::ErrorKind::NotFound => {}
            Err(error) if !is_damage(&error) => return Err(Error::io("read", file)(error)),
            Ok(None) | Err(_) => damaged.push(name),
        }
    }
    Ok((checked, damaged))
}

async fn sleep(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}
