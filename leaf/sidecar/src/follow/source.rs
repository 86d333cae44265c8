//! The bytes of a file: as they are, or decompressed.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use super::checkpoint::HEAD_BYTES;

/// Where a file is, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The device.
    pub device: u64,
    /// The inode on it.
    pub inode: u64,
}

impl Place {
    /// Of a file's metadata.
    pub fn of(metadata: &std::fs::Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// How a file's bytes are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// As they are.
    Plain,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
    /// In a way that is not known here: bzip2, xz, zip.
    Unknown,
}

impl Packing {
    /// What a file's first bytes show.
    pub fn of(head: &[u8]) -> Self {
        let starts = |magic: &[u8]| head.starts_with(magic);
        match () {
            () if starts(&[0x1f, 0x8b]) => Self::Gzip,
            () if starts(&[0x28, 0xb5, 0x2f, 0xfd]) => Self::Zstd,
            () if starts(b"BZh") || starts(&[0xfd, b'7', b'z', b'X', b'Z']) || starts(b"PK\x03\x04") => Self::Unknown,
            () => Self::Plain,
        }
    }
}

/// An open file.
pub struct Source {
    file: File,
    /// For compressed files: what comes next is at `unpacked_at`.
    unpack: Option<Box<dyn Read + Send>>,
    unpacked_at: u64,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Source").field("file", &self.file).field("packed", &self.unpack.is_some()).finish()
    }
}

impl Source {
    /// Opens a file; `None` when its packing is not known.
    ///
    /// # Errors
    /// It cannot be opened or read.
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        let file = File::open(path)?;
        let mut magic = [0; 6];
        let length = file.read_at(&mut magic, 0)?;
        let unpack = match Packing::of(&magic[..length]) {
            Packing::Unknown => return Ok(None),
            Packing::Plain => None,
            packing => Some(unpacker(&file, packing)?),
        };
        Ok(Some(Self { file, unpack, unpacked_at: 0 }))
    }

    /// Whether it is compressed: such a file does not grow.
    pub fn is_packed(&self) -> bool {
        self.unpack.is_some()
    }

    /// Metadata of the open file.
    ///
    /// # Errors
    /// Of the system.
    pub fn metadata(&self) -> io::Result<std::fs::Metadata> {
        self.file.metadata()
    }

    /// The first bytes, decompressed.
    ///
    /// # Errors
    /// It cannot be read, or what is there is no whole piece yet.
    pub fn head(&mut self) -> io::Result<Vec<u8>> {
        let mut head = vec![0; HEAD_BYTES];
        let length = match &mut self.unpack {
            None => self.file.read_at(&mut head, 0)?,
            Some(_) => {
                self.rewind()?;
                let mut read = 0;
                while read < HEAD_BYTES {
                    match self.read_at(read as u64, &mut head[read..])? {
                        0 => break,
                        more => read += more,
                    }
                }
                read
            }
        };
        head.truncate(length);
        Ok(head)
    }

    /// Reads at an offset; 0 is the end for now.
    ///
    /// # Errors
    /// It cannot be read; for compressed files also when it ends too early, as one does that is still being written.
    pub fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        if self.unpack.is_none() {
            return self.file.read_at(buffer, offset);
        }
        if offset < self.unpacked_at {
            self.rewind()?;
        }
        let Some(unpack) = &mut self.unpack else { return Ok(0) };
        while self.unpacked_at < offset {
            let skip = usize::try_from(offset - self.unpacked_at).unwrap_or(usize::MAX).min(buffer.len());
            match unpack.read(&mut buffer[..skip])? {
                0 => return Ok(0),
                skipped => self.unpacked_at += skipped as u64,
            }
        }
        let length = unpack.read(buffer)?;
        self.unpacked_at += length as u64;
        Ok(length)
    }

    fn rewind(&mut self) -> io::Result<()> {
        let mut magic = [0; 6];
        let length = self.file.read_at(&mut magic, 0)?;
        self.unpack = Some(unpacker(&self.file, Packing::of(&magic[..length]))?);
        self.unpacked_at = 0;
        Ok(())
    }
}

fn unpacker(file: &File, packing: Packing) -> io::Result<Box<dyn Read + Send>> {
    let mut file = file.try_clone()?;
    file.seek(SeekFrom::Start(0))?;
    let file = BufReader::with_capacity(64 << 10, file);
    Ok(match packing {
        Packing::Zstd => Box::new(zstd::stream::Decoder::with_buffer(file)?),
        _ => Box::new(MultiGzDecoder::new(file)),
    })
}
