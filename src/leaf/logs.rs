//! The leaf's log directory: an application log and a query log, for a sidecar to follow.
//!
//! Both are written by a thread of their own behind a bounded queue, so that a slow or full disk never slows a search: what does
//! not fit into the queue, and what the disk does not take, is counted. Files are rotated by size and bounded by number.

use std::{
    io::{self, Write},
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use file_rotate::{ContentLimit, FileRotate, compression::Compression, suffix::AppendCount};
use prometheus_client::{encoding::EncodeMetric, metrics::counter::ConstCounter, registry::Registry};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use trawl_leaf::query_log::QueryLog;

use crate::load::size;

/// Lines that wait for the disk.
const QUEUE_LINES_MAX: usize = 8_192;

/// What a leaf writes, and how much of it is kept.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Logs")]
pub struct LogDirArgs {
    /// Also write an application log and a query log (JSON lines) into this directory
    #[arg(long, env = "TRAWL_LOG_DIR", value_name = "DIR")]
    pub log_dir: Option<PathBuf>,

    /// A log file that is larger is rotated
    #[arg(long, env = "TRAWL_LOG_FILE_SIZE", default_value = "16MiB", value_parser = size, value_name = "SIZE")]
    pub log_file_size: usize,

    /// Rotated files of each log that are kept
    #[arg(long, env = "TRAWL_LOG_FILES", default_value_t = 4, value_name = "N")]
    pub log_files: usize,

    /// Searches of a shard that take as long are all in the query log, as warnings
    #[arg(long, env = "TRAWL_QUERY_LOG_SLOW", default_value = "500ms", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub query_log_slow: Duration,

    /// Share of the other searches in the query log, from 0 to 1
    #[arg(long, env = "TRAWL_QUERY_LOG_SAMPLE", default_value_t = 0.01, value_name = "SHARE")]
    pub query_log_sample: f64,

    /// Searches on indices whose names begin like this are never in the query log
    #[arg(long, env = "TRAWL_QUERY_LOG_EXCLUDE", default_value = "logs-trawl-", value_name = "PREFIX")]
    pub query_log_exclude: String,
}

/// A log that is open. Lines are written until the guard is dropped.
pub struct LogFile {
    writer: NonBlocking,
    failed: Arc<AtomicU64>,
    dropped: ErrorCounter,
    _guard: WorkerGuard,
}

impl LogDirArgs {
    /// Opens `NAME` in the directory; `None` without one.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn open(&self, name: &str) -> io::Result<Option<LogFile>> {
        let Some(directory) = &self.log_dir else { return Ok(None) };
        std::fs::create_dir_all(directory)?;
        // It makes paths of its own out of this one.
        let path = directory.canonicalize()?.join(name);
        let failed = Arc::new(AtomicU64::new(0));
        let rotated = Rotated {
            path,
            bytes_max: self.log_file_size.max(1),
            files_max: self.log_files,
            file: None,
            failed: failed.clone(),
        };
        let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUE_LINES_MAX);
        let (writer, guard) = builder.thread_name("log-writer").finish(rotated);
        Ok(Some(LogFile { dropped: writer.error_counter(), writer, failed, _guard: guard }))
    }

    /// The settings of the query log that is written to this file.
    pub fn query_log(&self, file: &LogFile) -> QueryLog {
        let writer = file.writer();
        let write = move |line: &[u8]| {
            let mut whole = Vec::with_capacity(line.len() + 1);
            whole.extend_from_slice(line);
            whole.push(b'\n');
            // Never blocks and never fails: what does not fit is counted.
            let _ = writer.clone().write(&whole);
        };
        QueryLog {
            write: Arc::new(write),
            slow: self.query_log_slow,
            sample: self.query_log_sample,
            exclude: self.query_log_exclude.clone(),
        }
    }
}

impl LogFile {
    /// Writes lines.
    pub fn writer(&self) -> NonBlocking {
        self.writer.clone()
    }

    /// Registers how many lines are missing in it.
    pub fn register(&self, registry: &mut Registry, log: &'static str) {
        let lost = Lost { failed: self.failed.clone(), dropped: self.dropped.clone() };
        let name = format!("trawl_leaf_{log}_log_lost_lines");
        registry.register(name, "Lines that a full queue or the disk did not take", lost);
    }
}

#[derive(Clone, Debug)]
struct Lost {
    failed: Arc<AtomicU64>,
    dropped: ErrorCounter,
}

impl EncodeMetric for Lost {
    fn encode(&self, encoder: prometheus_client::encoding::MetricEncoder) -> Result<(), std::fmt::Error> {
        let dropped = u64::try_from(self.dropped.dropped_lines()).unwrap_or(u64::MAX);
        ConstCounter::new(self.failed.load(Ordering::Relaxed).saturating_add(dropped)).encode(encoder)
    }

    fn metric_type(&self) -> prometheus_client::metrics::MetricType {
        prometheus_client::metrics::MetricType::Counter
    }
}

/// A file that rotates by size. Whatever goes wrong with it is counted; it is opened anew with the next line.
struct Rotated {
    path: PathBuf,
    bytes_max: usize,
    files_max: usize,
    file: Option<FileRotate<AppendCount>>,
    failed: Arc<AtomicU64>,
}

impl Rotated {
    fn try_write(&mut self, line: &[u8]) -> io::Result<()> {
        // Rotating panics where the directory is gone and cannot be made.
        let written = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let file = self.file.get_or_insert_with(|| open(&self.path, self.bytes_max, self.files_max));
            file.write_all(line)
        }));
        written.unwrap_or_else(|_| Err(io::Error::other("rotating the log failed")))
    }
}

impl Write for Rotated {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.try_write(line).is_err() {
            self.file = None;
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn open(path: &Path, bytes_max: usize, files_max: usize) -> FileRotate<AppendCount> {
    let limit = ContentLimit::BytesSurpassed(bytes_max);
    FileRotate::new(path, AppendCount::new(files_max), limit, Compression::None, None)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn rotated(path: PathBuf) -> Rotated {
        Rotated { path, bytes_max: 1_000, files_max: 3, file: None, failed: Arc::default() }
    }

    #[test]
    fn files_are_bounded_in_size_and_number() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = rotated(directory.path().join("application.log"));
        for number in 0..500 {
            writeln!(log, "line number {number}").unwrap();
        }
        let sizes: Vec<u64> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .collect();
        assert_eq!(sizes.len(), 4, "{sizes:?}");
        assert!(sizes.iter().all(|size| *size < 1_100), "{sizes:?}");
        assert_eq!(log.failed.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_the_disk_does_not_take_is_counted_and_later_lines_are_written() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("logs");
        std::fs::write(&place, "not a directory").unwrap();
        let mut log = rotated(place.join("query.log"));
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        for _ in 0..3 {
            log.write_all(b"lost\n").unwrap();
        }
        std::panic::set_hook(hook);
        assert_eq!(log.failed.load(Ordering::Relaxed), 3);
        std::fs::remove_file(&place).unwrap();
        log.write_all(b"kept\n").unwrap();
        assert_eq!(std::fs::read_to_string(place.join("query.log")).unwrap(), "kept\n");
    }
}
