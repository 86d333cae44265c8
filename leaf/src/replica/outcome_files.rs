//! Outcomes in files beside the index: what the ring in memory has forgotten, and what a restart would
//! forget.
//!
//! ```text
//! DIR/outcomes/00000000000000000001      records of rows, the first begins with operation 1
//! DIR/outcomes/00000000000000250001      … and so on; the oldest file goes when its time is over
//!
//! record: length of the message (u32) | xxh3_64 of the message (u64) | v1::OutcomeRow
//! ```
//!
//! Outcomes are a pure function of the log, so the files are only ever a memory: what is missing at
//! their end comes again as rows are applied again. They are made durable before each commit, which is
//! why nothing is missing behind one. At opening they are cut back to the commit, and believed only as
//! far as the chain of the log that the commit knows confirms them.

mod copied;

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use trawl_cluster::shard_log::Record;
use trawl_proto::v1::{Outcome, OutcomeRow, OutcomeRun};
use trawl_proto::{Incarnation, Seq};
use xxhash_rust::xxh3::xxh3_64;

use crate::apply::rows::Point;
use crate::apply::state::State;
use crate::error::Error;

pub use copied::{adopt, take};

/// The directory beside the index.
const DIR: &str = "outcomes";
/// Bytes before a record's message.
const HEAD_BYTES: usize = 12;
/// A longer message is damage: a row of the log has at most some hundred thousand operations.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Between two places of a file that can be sought, in bytes.
const MARK_BYTES: u64 = 8 << 10;
/// Records are gathered to about so many bytes before they are written.
const BUFFER_BYTES: usize = 64 << 10;
/// Files that the time and the bytes that are kept are divided among.
const FILES: u64 = 8;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long, by the log's time.
    pub time: Duration,
    /// How many bytes of files, about.
    pub bytes_max: u64,
}

/// The files of one replica, open for appending.
#[derive(Debug)]
pub struct OutcomeFiles {
    dir: PathBuf,
    limits: Limits,
    /// From the oldest to the newest; only the last one grows.
    files: VecDeque<LogFile>,
    /// The last one.
    current: Option<Arc<File>>,
    buffer: Vec<u8>,
    /// Written since the last [`OutcomeFiles::unsynced`].
    unsynced: Vec<Arc<File>>,
}

#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    /// Places of records: seq of the first operation, and the offset.
    marks: Vec<(u64, u64)>,
    /// Seq of the first and the last operation.
    first: u64,
    last: u64,
    first_ms: u64,
    last_ms: u64,
    bytes: u64,
}

/// Where a range of outcomes is to be found; see [`OutcomeFiles::find`].
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    offset: u64,
}

impl OutcomeFiles {
    /// Opens what is there and cuts it back to a commit's state. What that state does not confirm is
    /// thrown away.
    pub fn open(replica_dir: &Path, limits: Limits, state: &State) -> Result<Self, Error> {
        let dir = replica_dir.join(DIR);
        fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        let paths = list(&dir)?;
        let mut this =
            Self { dir, limits, files: VecDeque::new(), current: None, buffer: Vec::new(), unsynced: Vec::new() };
        let points: HashMap<u64, u64> = state.rows.points().map(|point| (point.seq.0, point.chain)).collect();
        let mut confirmed = None;
        let mut scanned = Vec::new();
        for (number, path) in paths.iter().enumerate() {
            let (file, good) = scan(path, |row, last| points.get(&last) == Some(&row.chain))?;
            confirmed = good.map(|good| (number, good)).or(confirmed);
            scanned.push(file);
        }
        let (newest, good) = confirmed.map_or((0, None), |(number, good)| (number, Some(good)));
        for (number, (path, file)) in paths.iter().zip(scanned).enumerate() {
            match file {
                Some(file) if number < newest => this.files.push_back(file),
                _ if number == newest && good.is_some() => {}
                _ => fs::remove_file(path).map_err(Error::io("remove", path))?,
            }
        }
        if let Some(good) = good {
            let mut file = OpenOptions::new().write(true).open(&good.path).map_err(Error::io("open", &good.path))?;
            file.set_len(good.bytes).map_err(Error::io("cut", &good.path))?;
            file.seek(SeekFrom::End(0)).map_err(Error::io("seek in", &good.path))?;
            this.files.push_back(good);
            this.current = Some(Arc::new(file));
        }
        Ok(this)
    }

    /// Adds a row's outcomes. They may stay in memory until [`OutcomeFiles::flush`].
    pub fn append(&mut self, record: &Record, outcomes: &[Outcome]) -> Result<(), Error> {
        let row = OutcomeRow {
            incarnation: record.incarnation.0,
            first: record.first.0,
            time_ms: record.time_ms,
            chain: record.chain,
            runs: runs(outcomes),
        };
        let message = row.encode_to_vec();
        self.make_room(record)?;
        let Some(file) = self.files.back_mut() else { return Ok(()) };
        file.mark(record.first.0);
        (file.last, file.last_ms) = (record.last.0, record.time_ms);
        file.bytes += (HEAD_BYTES + message.len()) as u64;
        self.buffer.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.buffer.extend_from_slice(&xxh3_64(&message).to_le_bytes());
        self.buffer.extend_from_slice(&message);
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    /// Writes what is gathered, so that it can be read.
    pub fn flush(&mut self) -> Result<(), Error> {
        let (Some(mut file), Some(log)) = (self.current.as_deref(), self.files.back()) else { return Ok(()) };
        if self.buffer.is_empty() {
            return Ok(());
        }
        if let Err(error) = file.write_all(&self.buffer) {
            // Part of it may be there. It will be written again as a whole, and nothing may stand before it.
            let whole = log.bytes - self.buffer.len() as u64;
            let _ = file.set_len(whole).and_then(|()| file.seek(SeekFrom::Start(whole)));
            return Err(Error::io("write", &log.path)(error));
        }
        self.buffer.clear();
        if let Some(file) = self.current.as_ref().filter(|file| !self.unsynced.iter().any(|one| Arc::ptr_eq(one, file)))
        {
            self.unsynced.push(file.clone());
        }
        Ok(())
    }

    /// Files that have to be synced to make everything so far durable; flushes first.
    pub fn unsynced(&mut self) -> Result<Vec<Arc<File>>, Error> {
        self.flush()?;
        Ok(std::mem::take(&mut self.unsynced))
    }

    /// Where to read outcomes of `first..=last`; flushes first.
    pub fn find(&mut self, first: u64, last: u64) -> Result<Vec<Place>, Error> {
        self.flush()?;
        let overlap = |file: &&LogFile| file.first <= last && file.last >= first;
        let place = |file: &LogFile| {
            let at = file.marks.partition_point(|(seq, _)| *seq <= first).saturating_sub(1);
            Place { path: file.path.clone(), offset: file.marks.get(at).map_or(0, |(_, offset)| *offset) }
        };
        Ok(self.files.iter().filter(overlap).map(place).collect())
    }

    /// Begins a new file and removes old ones where it is time to.
    fn make_room(&mut self, record: &Record) -> Result<(), Error> {
        let keep_ms = u64::try_from(self.limits.time.as_millis()).unwrap_or(u64::MAX);
        let is_full = self.files.back().is_none_or(|file| {
            file.bytes >= self.limits.bytes_max / FILES
                || record.time_ms.saturating_sub(file.first_ms) >= (keep_ms / FILES).max(1)
        });
        if is_full || self.current.is_none() {
            self.flush()?;
            let path = self.dir.join(format!("{:020}", record.first.0));
            let file = File::create(&path).map_err(Error::io("create", &path))?;
            File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(Error::io("sync", &self.dir))?;
            self.current = Some(Arc::new(file));
            self.files.push_back(LogFile::new(path, record.first.0, record.time_ms));
        }
        while self.files.len() > 1 {
            let bytes: u64 = self.files.iter().map(|file| file.bytes).sum();
            let Some(oldest) = self.files.front() else { break };
            let is_over = record.time_ms.saturating_sub(oldest.last_ms) > keep_ms;
            if !is_over && bytes <= self.limits.bytes_max {
                break;
            }
            fs::remove_file(&oldest.path).map_err(Error::io("remove", &oldest.path))?;
            self.files.pop_front();
        }
        Ok(())
    }
}

impl LogFile {
    fn new(path: PathBuf, first: u64, first_ms: u64) -> Self {
        Self { path, marks: Vec::new(), first, last: first, first_ms, last_ms: first_ms, bytes: 0 }
    }

    /// Notes where the record of this operation begins, now and then.
    fn mark(&mut self, first: u64) {
        if self.marks.last().is_none_or(|(_, offset)| offset + MARK_BYTES <= self.bytes) {
            self.marks.push((first, self.bytes));
        }
    }

    fn copy_until(&self, bytes: u64, last: u64, last_ms: u64) -> Self {
        let marks = self.marks.iter().copied().filter(|(_, offset)| *offset < bytes).collect();
        Self { path: self.path.clone(), marks, first: self.first, last, first_ms: self.first_ms, last_ms, bytes }
    }
}

impl Place {
    /// The outcomes of `first..=last` from here on, with the incarnations of their rows. A file that is
    /// gone meanwhile has none.
    pub fn read(&self, first: u64, last: u64) -> Result<Vec<(Incarnation, Outcome)>, Error> {
        let mut found = Vec::new();
        self.rows(last, |row| {
            let incarnation = Incarnation(row.incarnation);
            let outcomes = outcomes(&row).filter(|outcome| (first..=last).contains(&outcome.seq));
            found.extend(outcomes.map(|outcome| (incarnation, outcome)));
        })?;
        Ok(found)
    }

    /// Where the rows that overlap `first..=last` begin, and the points at their ends.
    pub fn points(&self, first: u64, last: u64) -> Result<Vec<(Seq, Point)>, Error> {
        let mut found = Vec::new();
        self.rows(last, |row| {
            let seq = Seq(last_of(&row));
            if seq.0 >= first {
                found.push((Seq(row.first), Point { seq, chain: row.chain }));
            }
        })?;
        Ok(found)
    }

    /// Goes over the rows from here on that begin at or before `last`.
    fn rows(&self, last: u64, mut with: impl FnMut(OutcomeRow)) -> Result<(), Error> {
        let mut file = match File::open(&self.path) {
            Ok(file) => io::BufReader::with_capacity(MARK_BYTES as usize, file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io("open", &self.path)(error)),
        };
        file.seek(SeekFrom::Start(self.offset)).map_err(Error::io("seek in", &self.path))?;
        while let Some((row, _)) = next_row(&mut file).map_err(Error::io("read", &self.path))? {
            if row.first > last {
                break;
            }
            with(row);
        }
        Ok(())
    }
}

/// Reads a file: all of it that is whole (`None` when that is nothing), and the same up to the last row
/// that is confirmed.
#[allow(clippy::type_complexity)]
fn scan(
    path: &Path,
    is_confirmed: impl Fn(&OutcomeRow, u64) -> bool,
) -> Result<(Option<LogFile>, Option<LogFile>), Error> {
    let mut reader = io::BufReader::with_capacity(BUFFER_BYTES, File::open(path).map_err(Error::io("open", path))?);
    let mut whole: Option<LogFile> = None;
    let mut confirmed = None;
    while let Some((row, bytes)) = next_row(&mut reader).map_err(Error::io("read", path))? {
        let last = last_of(&row);
        let file = whole.get_or_insert_with(|| LogFile::new(path.to_owned(), row.first, row.time_ms));
        file.mark(row.first);
        (file.last, file.last_ms) = (last, row.time_ms);
        file.bytes += bytes;
        if is_confirmed(&row, last) {
            confirmed = Some((file.bytes, last, row.time_ms));
        }
    }
    let good =
        whole.as_ref().zip(confirmed).map(|(file, (bytes, last, last_ms))| file.copy_until(bytes, last, last_ms));
    Ok((whole, good))
}

/// The next whole record, and its bytes; `None` at the end and at the first one that is damaged.
fn next_row(reader: &mut impl Read) -> io::Result<Option<(OutcomeRow, u64)>> {
    let mut head = [0; HEAD_BYTES];
    if !fill(reader, &mut head)? {
        return Ok(None);
    }
    let [a, b, c, d, sum @ ..] = head;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    if length > MESSAGE_BYTES_MAX {
        return Ok(None);
    }
    let mut message = Vec::new();
    reader.by_ref().take(length as u64).read_to_end(&mut message)?;
    if message.len() < length || xxh3_64(&message) != u64::from_le_bytes(sum) {
        return Ok(None);
    }
    Ok(OutcomeRow::decode(message.as_slice()).ok().map(|row| (row, (HEAD_BYTES + length) as u64)))
}

/// The files of a directory in the order of their names; none where there is no directory.
fn list(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io("list", dir))?,
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

/// Whether there was enough.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Equal outcomes after each other, as a load of new documents has them, are one run.
fn runs(outcomes: &[Outcome]) -> Vec<OutcomeRun> {
    let mut runs: Vec<OutcomeRun> = Vec::new();
    for outcome in outcomes {
        // Documents would take the room of many outcomes; whoever asks late reads them from the index.
        let none = bytes::Bytes::new();
        let plain = Outcome { seq: 0, document: none, document_routing: None, ..outcome.clone() };
        match runs.last_mut() {
            Some(run) if run.outcome.as_ref() == Some(&plain) => run.length += 1,
            _ => runs.push(OutcomeRun { length: 1, outcome: Some(plain) }),
        }
    }
    runs
}

fn last_of(row: &OutcomeRow) -> u64 {
    let operations: u64 = row.runs.iter().map(|run| u64::from(run.length)).sum();
    (row.first + operations).saturating_sub(1)
}

fn outcomes(row: &OutcomeRow) -> impl Iterator<Item = Outcome> + '_ {
    let all = row
        .runs
        .iter()
        .flat_map(|run| std::iter::repeat_n(run.outcome.clone().unwrap_or_default(), run.length as usize));
    (row.first..).zip(all).map(|(seq, outcome)| Outcome { seq, ..outcome })
}

#[cfg(test)]
mod tests;
