//! Checks one file of an index against the checksum at its end.
//!
//! Tantivy ends each file with a footer: `{"version":…,"crc":…}`, the footer's length and a magic number, four
//! bytes each, little endian. Its own check reads a whole file at once through the memory map, where a sector
//! that cannot be read kills the process. This one reads a part at a time, so that it can be slowed down and
//! stopped, and an unreadable sector is an error like any other.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use crc32fast::Hasher;
use serde::Deserialize;

/// Behind the footer: its length, and a number that says that it is one.
const TAIL_BYTES: u64 = 8;
const MAGIC: u32 = 1337;
/// A footer has some ninety bytes.
const FOOTER_BYTES_MAX: u64 = 50_000;
const BUFFER_BYTES: usize = 256 << 10;
/// What the operating system says when a disk cannot read what is on it.
const EIO: i32 = 5;

#[derive(Deserialize)]
struct Footer {
    crc: u32,
}

/// A file on the way of being checked.
pub struct Checking {
    file: File,
    hasher: Hasher,
    /// Bytes that have not been read yet, without the footer.
    left: u64,
    expected: u32,
    buffer: Vec<u8>,
}

impl Checking {
    /// Opens a file and reads its footer.
    ///
    /// # Errors
    /// See [`is_damage`]; `NotFound` for a file that is not there.
    pub fn begin(path: &Path) -> io::Result<Self> {
        let invalid = |what| io::Error::new(ErrorKind::InvalidData, what);
        let mut file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let body = bytes.checked_sub(TAIL_BYTES).ok_or_else(|| invalid("it is too short"))?;
        file.seek(SeekFrom::Start(body))?;
        let mut tail = [0; TAIL_BYTES as usize];
        file.read_exact(&mut tail)?;
        let (length, magic) = tail.split_at(4);
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0u32, |number, byte| (number << 8) | u32::from(*byte));
        let length = u64::from(number(length));
        if number(magic) != MAGIC || length > FOOTER_BYTES_MAX.min(body) {
            return Err(invalid("it does not end with a footer"));
        }
        let left = body - length;
        file.seek(SeekFrom::Start(left))?;
        let mut footer = Vec::new();
        (&file).take(length).read_to_end(&mut footer)?;
        let footer: Footer = serde_json::from_slice(&footer).map_err(|_| invalid("its footer cannot be read"))?;
        file.seek(SeekFrom::Start(0))?;
        Ok(Self { file, hasher: Hasher::new(), left, expected: footer.crc, buffer: vec![0; BUFFER_BYTES] })
    }

    /// Reads on, at most about so many bytes; returns how many it read, 0 at the end.
    ///
    /// # Errors
    /// As [`Checking::begin`].
    pub fn read(&mut self, bytes_max: u64) -> io::Result<u64> {
        let mut read = 0;
        while read < bytes_max && self.left > 0 {
            let length = BUFFER_BYTES.min(usize::try_from(self.left).unwrap_or(usize::MAX));
            let buffer = &mut self.buffer[..length];
            self.file.read_exact(buffer)?;
            self.hasher.update(buffer);
            self.left -= length as u64;
            read += length as u64;
        }
        Ok(read)
    }

    /// Whether everything was read.
    pub fn is_done(&self) -> bool {
        self.left == 0
    }

    /// Whether everything was read and is what was written.
    pub fn is_good(self) -> bool {
        self.left == 0 && self.hasher.finalize() == self.expected
    }
}

/// Whether an error says that the file itself is damaged: it is cut short, is none, or lies on a bad sector.
pub fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) || error.raw_os_error() == Some(EIO)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tantivy::schema::{FAST, STORED, Schema, TEXT};
    use tantivy::{Index, doc};

    use super::*;

    fn check(path: &Path) -> io::Result<bool> {
        let mut checking = Checking::begin(path)?;
        while checking.read(1 << 20)? > 0 {}
        Ok(checking.is_good())
    }

    /// Every file of a real index is good as it is, and damaged with any byte changed or missing; tantivy's own
    /// check says the same.
    #[test]
    fn it_finds_every_changed_byte_that_tantivy_finds() {
        let dir = tempfile::tempdir().unwrap();
        let mut schema = Schema::builder();
        let text = schema.add_text_field("text", TEXT | STORED);
        let number = schema.add_u64_field("number", FAST);
        let index = Index::create_in_dir(dir.path(), schema.build()).unwrap();
        let mut writer = index.writer_with_num_threads(1, 15_000_000).unwrap();
        for n in 0..200u64 {
            writer.add_document(doc!(text => format!("some words and {n}"), number => n)).unwrap();
        }
        writer.commit().unwrap();
        let metas = index.load_metas().unwrap();
        let files: Vec<_> = metas.list_segment_files().into_iter().filter(|f| dir.path().join(f).exists()).collect();
        assert!(files.len() >= 5, "{files:?}");
        for name in files {
            let path = dir.path().join(&name);
            assert!(check(&path).unwrap(), "{name:?}");
            let whole = std::fs::read(&path).unwrap();
            for at in [0, whole.len() / 3, whole.len() / 2] {
                let mut bytes = whole.clone();
                bytes[at] ^= 0x40;
                std::fs::write(&path, &bytes).unwrap();
                let found = !check(&path).unwrap_or(false);
                let tantivy = !index.directory().validate_checksum(&name).unwrap_or(false);
                assert_eq!((found, tantivy), (true, true), "{name:?} at {at}");
            }
            for cut in [1, 5, whole.len() / 2, whole.len()] {
                std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
                assert!(is_damage(&check(&path).unwrap_err()), "{name:?} without its last {cut}");
            }
            std::fs::write(&path, whole).unwrap();
        }
        let missing = check(&dir.path().join("missing")).unwrap_err();
        assert!(missing.kind() == ErrorKind::NotFound && !is_damage(&missing));
    }
}
