//! What survives a crash: which files there are, under which generation, and how far each sink has them.
//!
//! One JSON file, replaced atomically and synced. Two things in it are written *before* what depends on them ships: a
//! file's generation (and format), and breaks and days, which decide where records begin and into which index they go.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The first bytes of a file that tell it from others: at most as many.
pub const HEAD_BYTES: usize = 256;

/// Everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Format of this file; 1.
    pub format: u32,
    /// Files that are there, and the last that were.
    pub files: Vec<FileEntry>,
    /// Per sink, the number of the last payload that it took.
    pub taken: BTreeMap<String, u64>,
}

/// One generation of a file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Random, as 32 hexadecimal digits; never used twice.
    pub generation: String,
    /// The name under which it was first seen.
    pub name: String,
    /// Where it was last seen.
    pub device: u64,
    /// See `device`.
    pub inode: u64,
    /// Its first bytes, hexadecimal.
    pub head: String,
    /// Its size when last seen.
    pub size: u64,
    /// Lines read, for an estimate of what was lost should it be gone.
    pub lines: u64,
    /// Bytes read.
    pub read: u64,
    /// Name of its format, once known.
    pub parser: Option<String>,
    /// Offsets at which a record ends because nothing came for a while.
    pub breaks: Vec<u64>,
    /// From which offset on records without a time of their own belong to which day.
    pub days: Vec<(u64, i64)>,
    /// Per sink, everything before is taken or on disk.
    pub safe: BTreeMap<String, u64>,
    /// It is gone, or cut off, and everything in it is safe.
    pub done: bool,
}

impl FileEntry {
    /// The generation as a number.
    pub fn generation(&self) -> u128 {
        u128::from_str_radix(&self.generation, 16).unwrap_or(0)
    }

    /// From where on it has to be read for these sinks.
    pub fn safe_for_all(&self, sinks: &[String]) -> u64 {
        sinks.iter().map(|sink| self.safe.get(sink).copied().unwrap_or(0)).min().unwrap_or(0)
    }
}

/// The file.
#[derive(Debug)]
pub struct CheckpointFile {
    path: PathBuf,
    directory: PathBuf,
    written: Option<Vec<u8>>,
}

impl CheckpointFile {
    /// In the state directory.
    pub fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join("checkpoint.json"), directory: state_dir.to_owned(), written: None }
    }

    /// What was written last; empty if there was nothing.
    ///
    /// # Errors
    /// It cannot be read. Beginning anew would ship everything again, so that is for a person to decide.
    pub fn read(&self) -> io::Result<Checkpoint> {
        match std::fs::read(&self.path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| io::Error::other(format!("{}: {error}", self.path.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Checkpoint::default()),
            Err(error) => Err(error),
        }
    }

    /// Replaces it; durable when this returns. Writes nothing if nothing changed.
    ///
    /// # Errors
    /// The old one is still there.
    pub fn write(&mut self, checkpoint: &Checkpoint) -> io::Result<()> {
        let bytes = serde_json::to_vec(checkpoint)?;
        if self.written.as_ref() == Some(&bytes) {
            return Ok(());
        }
        let fresh = self.path.with_extension("json.new");
        let mut file = File::create(&fresh)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&fresh, &self.path)?;
        File::open(&self.directory)?.sync_all()?;
        self.written = Some(bytes);
        Ok(())
    }
}

/// Hexadecimal digits of bytes.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes of hexadecimal digits.
pub fn unhex(digits: &str) -> Vec<u8> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.as_bytes().chunks(2).filter_map(byte).collect()
}
