//! Copying a replica from one leaf to another: how a replica is made anew that cannot go on from its
//! log, because the log was trimmed past it, its history broke, or its files are damaged.
//!
//! The source ([`server`]) links the files of its last commit into a directory of their own, under
//! the lock that keeps tantivy from removing files: they never change, so the links are the copy. The
//! target ([`client`]) fetches them, several at a time, each chunk with its checksum and resumed where
//! a connection broke; checks the whole index; and puts it in use. What was fetched is kept when a copy fails or the
//! process dies: the next one, from whichever leaf, fetches only what is missing or another file. Where it stands in the log travels
//! in the commit's payload, so from there it follows the log like any other replica. The files of outcomes come
//! along, so that a write that is repeated with its key is answered by a copy too.

pub mod client;
pub mod rate;
pub mod server;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

/// Limits of copying.
#[derive(Clone, Debug)]
pub struct CopyConfig {
    /// Copies that other leaves may take from this one at a time; one more is refused. Default 4.
    pub copies_max: usize,
    /// A copy that is asked for nothing for so long ends. Default 60 s.
    pub idle: Duration,
    /// Bytes per second that this leaf sends for all copies together; 0 for no limit. Default 200 MB/s: a sixth of what
    /// ten gigabits carry; set it to 40 MB/s or so where a gigabit is all there is.
    pub bytes_per_second: u64,
    /// Bytes of one message. Default 1 MiB.
    pub chunk_bytes: usize,
    /// Replicas that this leaf copies from others at a time; more wait for their turn. Default 2.
    pub replicas_at_once: usize,
    /// Files fetched at a time, of each. Default 4.
    pub files_at_once: usize,
    /// Attempts in a row that may bring no byte of a file before another source is tried. Default 5.
    pub attempts_max: u32,
    /// Between two attempts. Default 200 ms.
    pub retry: Duration,
    /// A source that sends nothing for so long is given up. Default 10 s.
    pub silence_max: Duration,
}

impl Default for CopyConfig {
    fn default() -> Self {
        Self {
            copies_max: 4,
            idle: Duration::from_secs(60),
            bytes_per_second: 200_000_000,
            chunk_bytes: 1 << 20,
            replicas_at_once: 2,
            files_at_once: 4,
            attempts_max: 5,
            retry: Duration::from_millis(200),
            silence_max: Duration::from_secs(10),
        }
    }
}

/// Whether a file of this name can be part of a copy: it becomes a path on the target.
fn is_plain(name: &str) -> bool {
    let mut parts = PathBuf::from(name)
        .components()
        .map(|part| matches!(part, std::path::Component::Normal(_)))
        .collect::<Vec<_>>();
    parts.pop() == Some(true) && parts.is_empty() && !name.contains(['/', '\\', '\0'])
}

/// Bytes at the end of a file of an index that hold its checksum, and more.
const END_BYTES: u64 = 128;

/// What an index file ends with: with its name and size, which file it is.
fn end_of(path: &Path) -> std::io::Result<u64> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    file.seek(SeekFrom::Start(bytes.saturating_sub(END_BYTES)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    // 0 is for files that may change.
    Ok(xxh3_64(&end).max(1))
}
