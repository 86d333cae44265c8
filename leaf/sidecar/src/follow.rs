//! Follows the files of one directory: one thread that finds them, reads them, and hands batches to the lanes.
//!
//! One round:
//! 1. look at the directory, if it is time: files that appeared, were renamed, copied, removed ([`scan`]),
//! 2. read every file a little, parse, and put records into the batch ([`file`]),
//! 3. end records that waited long enough for lines that belong to them,
//! 4. hand the batch to the lanes when it is full or old enough, after what it depends on is durable,
//! 5. write the checkpoint, four times a second while it changes,
//! 6. sleep: briefly while lines keep coming, else until something changes ([`watch`]).

mod checkpoint;
mod file;
mod identity;
pub mod lines;
mod scan;
mod source;
mod watch;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::batch::Batch;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::ship::Lane;
use checkpoint::{Checkpoint, CheckpointFile, FileEntry};
use file::{Followed, Reading};
use source::Place;
pub use watch::Waker;
use watch::Watch;

/// Bytes read at once.
const PIECE_BYTES: usize = 128 << 10;
/// Pieces of one file before the next has its turn.
const PIECES_MAX: usize = 8;
/// Between rounds while lines keep coming.
const BUSY_PAUSE: Duration = Duration::from_millis(100);
/// Lines keep coming as long after the last one.
const BUSY_TIME: Duration = Duration::from_secs(2);
/// Between looks at the directory while lines keep coming.
const SCAN_TIME: Duration = Duration::from_millis(250);
/// Between checkpoints.
const CHECKPOINT_TIME: Duration = Duration::from_millis(250);
/// Generations that are over are remembered, so that their compressed leftovers are recognised.
const GONE_MAX: usize = 1_000;

/// What the follower says of itself.
#[derive(Debug, Default)]
pub struct Beat {
    /// The directory could be read, and the checkpoint written.
    pub well: AtomicBool,
}

/// The follower's state.
pub struct Follower {
    config: Config,
    metrics: Metrics,
    lanes: Vec<Arc<Lane>>,
    sinks: Vec<String>,
    beat: Arc<Beat>,
    checkpoint_file: CheckpointFile,
    files: Vec<Followed>,
    /// Generations of the last run whose files were not found yet.
    orphans: Vec<FileEntry>,
    orphans_until: Instant,
    /// Generations that are over.
    gone: Vec<FileEntry>,
    /// Files that are copies of what is known, or cannot be read.
    ignored: HashMap<Place, u128>,
    /// Files that may become one or the other, with their size and since when they have it.
    unclear: HashMap<Place, (u64, Instant)>,
    batch: Batch,
    batch_since: Option<Instant>,
    /// Something has to be durable before the batch ships.
    unsaved: bool,
    last_data: Instant,
    last_scan: Option<Instant>,
    last_checkpoint: Instant,
}

impl Follower {
    /// Reads the checkpoint.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read_checkpoint(config: &Config) -> io::Result<Checkpoint> {
        CheckpointFile::new(&config.state_dir).read()
    }

    /// Begins where the checkpoint ends.
    pub fn new(
        config: Config,
        checkpoint: Checkpoint,
        lanes: Vec<Arc<Lane>>,
        metrics: Metrics,
        beat: Arc<Beat>,
    ) -> Self {
        let (gone, orphans) = checkpoint.files.into_iter().partition(|entry| entry.done);
        let now = Instant::now();
        Self {
            batch: Batch::new(&config.sinks, &config.resource, &metrics),
            checkpoint_file: CheckpointFile::new(&config.state_dir),
            sinks: config.sinks.iter().map(|sink| sink.name.clone()).collect(),
            config,
            metrics,
            lanes,
            beat,
            files: Vec::new(),
            orphans,
            orphans_until: now + scan::UNCLEAR_TIME * 2,
            gone,
            ignored: HashMap::new(),
            unclear: HashMap::new(),
            batch_since: None,
            unsaved: false,
            last_data: now,
            last_scan: None,
            last_checkpoint: now,
        }
    }

    /// Follows until told to stop, then hands over what was read.
    pub fn run(&mut self, waker: Waker, woken: Receiver<()>, stop: &CancellationToken) {
        let watch = Watch::new(&self.config.log_dir.clone(), waker, woken);
        let mut buffer = vec![0; PIECE_BYTES];
        while !stop.is_cancelled() {
            if self.last_scan.is_none_or(|last| last.elapsed() >= SCAN_TIME) {
                self.look_at_directory();
            }
            let more = self.read_files(&mut buffer, stop);
            self.rest();
            self.flush_if_due(stop);
            self.checkpoint_if_due();
            if more && self.batch.bytes() < self.config.batch_bytes {
                continue;
            }
            self.sleep(&watch);
        }
        self.flush(stop);
    }

    /// The last checkpoint, after the lanes have ended.
    pub fn finish(&mut self) {
        self.save();
    }

    fn look_at_directory(&mut self) {
        self.last_scan = Some(Instant::now());
        match self.scan() {
            Ok(()) => self.beat.well.store(true, Ordering::Relaxed),
            Err(error) => {
                self.metrics.read_errors.inc();
                if self.beat.well.swap(false, Ordering::Relaxed) || self.files.is_empty() {
                    tracing::warn!(directory = %self.config.log_dir.display(), %error, "cannot read the directory");
                }
            }
        }
    }

    /// Reads a little of every file. Returns whether there is more.
    fn read_files(&mut self, buffer: &mut [u8], stop: &CancellationToken) -> bool {
        let mut more = false;
        for number in 0..self.files.len() {
            if stop.is_cancelled() {
                return false;
            }
            match self.read_file(number, buffer, stop) {
                Ok(unread) => more |= unread,
                Err(error) => {
                    self.metrics.read_errors.inc();
                    let file = &mut self.files[number];
                    tracing::warn!(file = file.name, %error, "cannot read");
                    // What is compressed and ends too early is going to for ever.
                    if file.source.as_ref().is_some_and(source::Source::is_packed) {
                        file.gone = true;
                        file.source = None;
                    }
                }
            }
        }
        self.metrics.bytes_behind.set(self.files.iter().map(|file| file.behind().cast_signed()).sum());
        more
    }

    fn read_file(&mut self, number: usize, buffer: &mut [u8], stop: &CancellationToken) -> io::Result<bool> {
        if !self.files[number].look()? {
            if !self.files[number].suspect {
                // It was cut off. A copy may have been made before, so the directory is looked at first.
                self.files[number].suspect = true;
                self.last_scan = None;
                return Ok(true);
            }
            self.truncated(number);
            return Ok(true);
        }
        for _ in 0..PIECES_MAX {
            if self.batch.bytes() >= self.config.batch_bytes || self.batch.records() >= self.config.batch_records {
                self.flush(stop);
                if self.batch.records() > 0 {
                    return Ok(true);
                }
            }
            let file = &mut self.files[number];
            let mut reading = Reading { batch: &mut self.batch, metrics: &self.metrics, node: &self.config.node };
            let (length, unsaved) = file.read_on(buffer, &mut reading)?;
            self.unsaved |= unsaved;
            if length == 0 {
                return Ok(false);
            }
            self.last_data = Instant::now();
            self.batch_since.get_or_insert(self.last_data);
        }
        Ok(true)
    }

    /// Ends what waited long enough, and generations that are over.
    fn rest(&mut self) {
        for file in &mut self.files {
            let mut reading = Reading { batch: &mut self.batch, metrics: &self.metrics, node: &self.config.node };
            if file.rest(self.config.join_time, &mut reading) {
                self.unsaved = true;
                self.batch_since.get_or_insert_with(Instant::now);
            }
        }
    }

    fn flush_if_due(&mut self, stop: &CancellationToken) {
        let due = self.batch_since.is_some_and(|since| since.elapsed() >= self.config.batch_time);
        let full = self.batch.bytes() >= self.config.batch_bytes || self.batch.records() >= self.config.batch_records;
        if due || full {
            self.flush(stop);
        }
    }

    /// Hands the batch to the lanes. Keeps it when what it depends on cannot be made durable.
    fn flush(&mut self, stop: &CancellationToken) {
        if self.unsaved && !self.save() {
            return;
        }
        self.batch_since = None;
        let touched =
            |file: &mut Followed| std::mem::take(&mut file.touched).then(|| (file.generation, file.resume_at()));
        let progress: Vec<_> = self.files.iter_mut().filter_map(touched).collect();
        if progress.is_empty() && self.batch.records() == 0 {
            return;
        }
        let pressed = self.files.iter().any(|file| file.gone && file.source.is_some());
        let payloads = self.batch.close(&Arc::new(progress));
        for (lane, payload) in self.lanes.iter().zip(payloads) {
            lane.offer(payload, pressed, stop);
        }
    }

    fn checkpoint_if_due(&mut self) {
        if self.last_checkpoint.elapsed() >= CHECKPOINT_TIME {
            self.save();
        }
    }

    /// Writes the checkpoint. Returns whether it is durable.
    fn save(&mut self) -> bool {
        self.last_checkpoint = Instant::now();
        let safe: Vec<_> = self.lanes.iter().map(|lane| (lane.name.clone(), lane.safe())).collect();
        let positions = |generation: u128| -> BTreeMap<String, u64> {
            let of = |(name, (safe, _)): &(String, (HashMap<u128, u64>, u64))| {
                (name.clone(), safe.get(&generation).copied().unwrap_or(0))
            };
            safe.iter().map(of).collect()
        };
        let mut entries: Vec<FileEntry> = self.gone.clone();
        entries.extend(self.orphans.iter().cloned());
        entries.extend(self.files.iter_mut().map(|file| {
            let positions = positions(file.generation);
            file.entry(positions)
        }));
        let taken = safe.iter().map(|(name, (_, seq))| (name.clone(), *seq)).collect();
        let checkpoint = Checkpoint { format: 1, files: entries, taken };
        match self.checkpoint_file.write(&checkpoint) {
            Ok(()) => {
                self.unsaved = false;
                self.retire(&checkpoint);
                true
            }
            Err(error) => {
                self.metrics.checkpoint_errors.inc();
                self.beat.well.store(false, Ordering::Relaxed);
                tracing::error!(%error, "cannot write the checkpoint; nothing new is shipped");
                false
            }
        }
    }

    /// Generations that are over and safe are only remembered.
    fn retire(&mut self, checkpoint: &Checkpoint) {
        let done: Vec<&FileEntry> = checkpoint.files.iter().filter(|entry| entry.done).collect();
        if done.len() == self.gone.len() {
            return;
        }
        let ended: Vec<u128> = done.iter().map(|entry| entry.generation()).collect();
        self.gone = done.into_iter().cloned().collect();
        let surplus = self.gone.len().saturating_sub(GONE_MAX);
        self.gone.drain(..surplus);
        let Self { files, ignored, .. } = self;
        files.retain(|file| {
            let over = ended.contains(&file.generation);
            if let (true, Some(place)) = (over, file.place) {
                // It may still be there, as compressed leftovers are.
                ignored.insert(place, file.generation);
            }
            !over
        });
        for generation in ended {
            self.lanes.iter().for_each(|lane| lane.forget(generation));
        }
        self.metrics.files.set(self.files.len().cast_signed() as i64);
    }

    fn sleep(&mut self, watch: &Watch) {
        if self.last_data.elapsed() < BUSY_TIME || self.batch_since.is_some() || self.unsaved {
            std::thread::sleep(BUSY_PAUSE);
            return;
        }
        let waits = self.files.iter().any(|file| file.is_waiting() || file.gone || file.suspect);
        let soon = waits || !self.unclear.is_empty() || !self.orphans.is_empty();
        watch.sleep(if soon { BUSY_PAUSE * 5 } else { Duration::MAX });
        // What it was woken by is not told again.
        self.last_scan = None;
    }
}
