//! Compression, recognised by its magic bytes, and the small reader that lets one look at a stream's beginning.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read};

use super::FaultKind;
use super::lz4::Lz4Reader;

/// What an xz stream may make its decoder hold; `xz -9` needs 65 MiB.
const XZ_MEMORY_MAX: u64 = 256 * 1024 * 1024;
const BUFFER_BYTES: usize = 128 * 1024;

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    Plain,
    /// gzip, also several members one after the other.
    Gzip,
    /// Zstandard.
    Zstd,
    /// LZ4 frames.
    Lz4,
    /// xz.
    Xz,
    /// bzip2.
    Bzip2,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
            Self::Xz => "xz",
            Self::Bzip2 => "bzip2",
        })
    }
}

/// The decoded content of a stream of stored bytes.
pub(super) fn decode(stored: Box<dyn Read + Send>) -> io::Result<(Compression, Box<dyn BufRead + Send>)> {
    let stored = Sampled::new(BufReader::with_capacity(BUFFER_BYTES, stored), 10);
    let compression = recognise(stored.sample());
    let decoded: Box<dyn Read + Send> = match compression {
        Compression::Plain => return Ok((compression, Box::new(stored))),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(stored)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(stored)?),
        Compression::Lz4 => Box::new(Lz4Reader::new(stored)),
        Compression::Xz => {
            let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY_MAX, liblzma::stream::CONCATENATED);
            Box::new(liblzma::bufread::XzDecoder::new_stream(stored, stream.map_err(io::Error::other)?))
        }
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(stored)),
    };
    Ok((compression, Box::new(BufReader::with_capacity(BUFFER_BYTES, decoded))))
}

fn recognise(start: &[u8]) -> Compression {
    match start {
        [0x1f, 0x8b, 8, ..] => Compression::Gzip,
        // Zstandard also begins with a frame to be skipped, as `pzstd` writes it.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        [0x04, 0x22, 0x4d, 0x18, ..] => Compression::Lz4,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59] => Compression::Bzip2,
        // The end of stream mark at once: a compressed nothing.
        [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72, 0x45, 0x38, 0x50, 0x90] => Compression::Bzip2,
        _ => Compression::Plain,
    }
}

/// What an error while reading means.
pub(super) fn fault(compression: Compression, error: &io::Error) -> (FaultKind, String) {
    if compression == Compression::Plain || error.raw_os_error().is_some() {
        return (FaultKind::CannotRead, error.to_string());
    }
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return (FaultKind::Truncated, format!("the {compression} stream ends too early"));
    }
    let detail = error.to_string();
    // zstd and others report an early end in words only.
    if detail.contains("incomplete frame") {
        return (FaultKind::Truncated, format!("the {compression} stream ends too early"));
    }
    (FaultKind::Corrupt, format!("the {compression} stream is damaged: {detail}"))
}

/// The name without the ending of a compression.
pub(super) fn without_ending(name: &str) -> &str {
    let ending = |ending: &&str| name.len() > ending.len() && name.to_ascii_lowercase().ends_with(*ending);
    match [".gz", ".zst", ".lz4", ".xz", ".bz2"].iter().find(|known| ending(known)) {
        Some(found) => name.get(..name.len() - found.len()).unwrap_or(name),
        None => name,
    }
}

/// A reader whose beginning was read ahead. An error met while doing so comes when the reader gets there.
pub(super) struct Sampled<R> {
    sample: Vec<u8>,
    position: usize,
    error: Option<io::Error>,
    whole: bool,
    rest: R,
}

impl<R: BufRead> Sampled<R> {
    pub(super) fn new(mut rest: R, bytes: usize) -> Self {
        let mut sample = Vec::with_capacity(bytes);
        let result = (&mut rest).take(bytes as u64).read_to_end(&mut sample);
        let whole = sample.len() < bytes;
        Self { sample, position: 0, error: result.err(), whole, rest }
    }

    /// The beginning.
    pub(super) fn sample(&self) -> &[u8] {
        &self.sample
    }

    /// Whether the beginning is everything that can be read.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }
}

impl<R: BufRead> BufRead for Sampled<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position < self.sample.len() {
            return Ok(&self.sample[self.position..]);
        }
        if !self.sample.is_empty() {
            self.sample = Vec::new();
            self.position = 0;
        }
        match self.error.take() {
            Some(error) => Err(error),
            None => self.rest.fill_buf(),
        }
    }

    fn consume(&mut self, amount: usize) {
        if self.position < self.sample.len() {
            self.position += amount;
        } else {
            self.rest.consume(amount);
        }
    }
}

impl<R: BufRead> Read for Sampled<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut available = self.fill_buf()?;
        let read = available.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}
