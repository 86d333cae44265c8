//! Which files there are, and what each is to what is known: the same under another name, a copy, a leftover, or new.

use std::collections::HashSet;
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Follower;
use super::checkpoint::{FileEntry, unhex};
use super::file::{Followed, Reading, lines_in};
use super::identity::{Kinship, goes_on, kinship};
use super::source::{Place, Source};
use crate::config::glob;

/// A file whose kinship is unclear is a file of its own when it did not grow for as long.
pub const UNCLEAR_TIME: Duration = Duration::from_secs(3);

/// A file in the directory.
struct Found {
    path: PathBuf,
    name: String,
    place: Place,
    metadata: Metadata,
}

impl Follower {
    /// Looks at the directory and takes up what appeared in it.
    pub(super) fn scan(&mut self) -> io::Result<()> {
        let found = self.list()?;
        let places: HashSet<Place> = found.iter().map(|found| found.place).collect();
        for file in &mut self.files {
            // A leftover stays one, wherever its bytes are read.
            file.gone |= file.place.is_none_or(|place| !places.contains(&place));
        }
        self.ignored.retain(|place, _| places.contains(place));
        self.unclear.retain(|place, _| places.contains(place));
        let mut waiting = 0;
        for found in &found {
            let known = self.files.iter().any(|file| file.place == Some(found.place));
            if known || self.ignored.contains_key(&found.place) || found.metadata.len() == 0 {
                continue;
            }
            if self.files.len() >= self.config.files_max {
                waiting += 1;
                continue;
            }
            if let Err(error) = self.take_up(found) {
                self.metrics.read_errors.inc();
                tracing::debug!(file = found.name, %error, "cannot be read yet");
            }
        }
        self.metrics.files.set(i64::try_from(self.files.len()).unwrap_or(i64::MAX));
        self.metrics.files_waiting.set(waiting);
        if !self.orphans.is_empty() && Instant::now() > self.orphans_until && waiting == 0 {
            self.give_up_orphans();
        }
        Ok(())
    }

    /// Regular files, oldest change first.
    fn list(&self) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.config.log_dir)? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()).map(str::to_owned) else { continue };
            if name.starts_with('.') || self.config.exclude.iter().any(|pattern| glob(pattern, &name)) {
                continue;
            }
            // Links as those of Kubernetes are followed; what is gone by now is gone.
            let Ok(metadata) = std::fs::metadata(&path) else { continue };
            if metadata.is_file() {
                found.push(Found { place: Place::of(&metadata), path, name, metadata });
            }
        }
        found.sort_by_key(|found| found.metadata.modified().ok());
        Ok(found)
    }

    fn take_up(&mut self, found: &Found) -> io::Result<()> {
        let settled = self.is_settled(found);
        let Some(mut source) = Source::open(&found.path)? else {
            tracing::warn!(file = found.name, "compressed in a way that is not known, left out");
            self.metrics.read_errors.inc();
            self.ignored.insert(found.place, 0);
            return Ok(());
        };
        let head = match source.head() {
            Ok(head) => head,
            // A compressed file that is still being written ends too early.
            Err(_) if !settled => return Ok(()),
            Err(error) => {
                self.ignored.insert(found.place, 0);
                return Err(error);
            }
        };
        if head.is_empty() {
            return Ok(());
        }
        let size = if source.is_packed() { u64::MAX } else { found.metadata.len() };
        if let Some(at) = self.orphans.iter().position(|entry| self.is_continued(entry, found, &head, size)) {
            let entry = self.orphans.remove(at);
            self.resume(&entry, found, source);
            return Ok(());
        }
        let again = self.gone.iter().position(|entry| self.is_again(entry, found, &head, size));
        if let Some(at) = again {
            if source.is_packed() {
                self.ignore(found, self.gone[at].generation());
            } else {
                // It was away for a while.
                let entry = self.gone.remove(at);
                self.resume(&entry, found, source);
            }
            return Ok(());
        }
        let mut unclear = false;
        // Rotation by renaming makes a new file of the old name, which may well begin like the old one did.
        let may_be_copy = |name: &str| source.is_packed() || name != found.name;
        for number in 0..self.files.len() {
            if !may_be_copy(&self.files[number].name) {
                continue;
            }
            match kinship(&self.files[number].head, &head) {
                Kinship::None => {}
                Kinship::Unclear => unclear = true,
                Kinship::Copy => {
                    self.files[number].copy = Some(found.path.clone());
                    let generation = self.files[number].generation;
                    self.ignore(found, generation);
                    return Ok(());
                }
            }
        }
        let copied = self
            .gone
            .iter()
            .find(|entry| may_be_copy(&entry.name) && kinship(&unhex(&entry.head), &head) == Kinship::Copy);
        if let Some(generation) = copied.map(FileEntry::generation) {
            self.ignore(found, generation);
            return Ok(());
        }
        if (unclear || source.is_packed()) && !settled {
            return Ok(());
        }
        self.unclear.remove(&found.place);
        self.begin(&found.name, head, found.place, source);
        Ok(())
    }

    /// Whether the file has kept its size for a while.
    fn is_settled(&mut self, found: &Found) -> bool {
        let now = Instant::now();
        let size = found.metadata.len();
        let (seen, since) = self.unclear.get(&found.place).copied().unwrap_or((size, now));
        let since = if seen == size { since } else { now };
        self.unclear.insert(found.place, (size, since));
        since.elapsed() >= UNCLEAR_TIME
    }

    fn ignore(&mut self, found: &Found, generation: u128) {
        tracing::debug!(file = found.name, generation = format!("{generation:032x}"), "a copy of what is known");
        self.unclear.remove(&found.place);
        self.ignored.insert(found.place, generation);
        self.metrics.copies.inc();
    }

    /// Whether a generation of the last run goes on in this file.
    fn is_continued(&self, entry: &FileEntry, found: &Found, head: &[u8], size: u64) -> bool {
        let known = unhex(&entry.head);
        let safe = entry.safe_for_all(&self.sinks);
        let same_place = found.place == Place { device: entry.device, inode: entry.inode };
        if same_place {
            return goes_on(&known, safe, head, size);
        }
        kinship(&known, head) == Kinship::Copy && size >= safe && (size == u64::MAX || found.name != entry.name)
    }

    /// Whether this is the file of a generation that seemed to be over.
    fn is_again(&self, entry: &FileEntry, found: &Found, head: &[u8], size: u64) -> bool {
        let same_place = found.place == Place { device: entry.device, inode: entry.inode };
        same_place && !entry.head.is_empty() && goes_on(&unhex(&entry.head), entry.read, head, size)
    }

    fn resume(&mut self, entry: &FileEntry, found: &Found, source: Source) {
        self.unclear.remove(&found.place);
        let file = Followed::resume(&self.config, entry, &self.sinks, found.place, source);
        tracing::debug!(file = found.name, from = file.read(), "goes on");
        for lane in &self.lanes {
            lane.recall(file.generation, entry.safe.get(&lane.name).copied().unwrap_or(0));
        }
        self.files.push(file);
        // What reading it again finds has to be found under the same conditions after the next crash.
        self.unsaved = true;
    }

    fn begin(&mut self, name: &str, head: Vec<u8>, place: Place, source: Source) {
        self.metrics.generations.inc();
        self.unclear.remove(&place);
        // What is compressed does not grow any more.
        let gone = source.is_packed();
        let mut file = Followed::begin(&self.config, rand::random(), name, head, place, source);
        file.gone = gone;
        self.files.push(file);
        self.unsaved = true;
    }

    /// The file of a generation was cut off, or written anew: the generation goes on in the copy, if there is one, and
    /// another begins.
    pub(super) fn truncated(&mut self, number: usize) {
        let file = &mut self.files[number];
        file.suspect = false;
        let place = file.place;
        let copy = file.copy.take().and_then(|path| copy_of(&path, &file.head, file.read()));
        match copy {
            Some((source, place)) => {
                file.source = Some(source);
                file.place = Some(place);
                file.gone = true;
                self.ignored.remove(&place);
            }
            None => {
                let (bytes, lines) = file.lost();
                if bytes > 0 {
                    tracing::warn!(file = file.name, bytes, "cut off before it was read to its end");
                }
                self.metrics.bytes_lost.inc_by(bytes);
                self.metrics.lines_lost.inc_by(lines);
                let mut reading = Reading { batch: &mut self.batch, metrics: &self.metrics, node: &self.config.node };
                file.cut_off(&mut reading);
            }
        }
        // The next look at the directory takes up what is in the place now.
        self.last_scan = None;
        self.unsaved = true;
        self.batch_since.get_or_insert_with(Instant::now);
        if let Some(place) = place {
            self.ignored.remove(&place);
        }
    }

    /// Files of the last run that are not there any more: what they had is lost, and counted.
    fn give_up_orphans(&mut self) {
        for mut entry in std::mem::take(&mut self.orphans) {
            let safe = entry.safe_for_all(&self.sinks);
            let bytes = entry.size.saturating_sub(safe);
            if bytes > 0 {
                let lines = lines_in(bytes, entry.lines, entry.read);
                tracing::warn!(file = entry.name, bytes, "is gone before it was shipped to its end");
                self.metrics.bytes_lost.inc_by(bytes);
                self.metrics.lines_lost.inc_by(lines);
            }
            entry.done = true;
            let generation = entry.generation();
            self.lanes.iter().for_each(|lane| lane.forget(generation));
            self.gone.push(entry);
        }
    }
}

/// The copy, if it holds what was not read yet.
fn copy_of(path: &Path, head: &[u8], read: u64) -> Option<(Source, Place)> {
    let mut source = Source::open(path).ok()??;
    let metadata = source.metadata().ok()?;
    let long_enough = source.is_packed() || metadata.len() >= read;
    (long_enough && source.head().ok()?.starts_with(head)).then(|| (source, Place::of(&metadata)))
}
