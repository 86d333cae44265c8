//! What a sink has not taken yet, on disk: payloads in the order they came, in segment files.
//!
//! ```text
//! 00000000000000000001.seg   frame frame frame …     oldest, read from the front
//! 00000000000000000009.seg   frame …                 newest, appended to
//! frame: magic u32 · length of the rest u32 · xxh3 of the rest u64 · seq u64 · length of about u32 · about (JSON) · body (zstd)
//! ```
//!
//! A frame is durable when [`Buffer::push`] returns. A frame that a crash cut short ends its segment; what it held is read
//! again from the file it came from. Past the limit the oldest segment goes, and its records are counted.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::batch::{About, Payload};

const MAGIC: u32 = 0x5452_4c31;
const HEAD_BYTES: usize = 16;
const SEGMENT_BYTES: u64 = 8 << 20;
/// A frame that says it is larger is damaged.
const FRAME_BYTES_MAX: u32 = 256 << 20;

/// The buffer of one sink.
#[derive(Debug)]
pub struct Buffer {
    directory: PathBuf,
    segments: VecDeque<Segment>,
    bytes_max: u64,
    segment_bytes: u64,
    /// Open for appending: the last segment.
    writer: Option<File>,
    /// The front frame, once it was read, and how long it is.
    front: Option<(Payload, u64)>,
    last_seq: u64,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    /// The number of its first frame.
    first_seq: u64,
    bytes: u64,
    /// Where the front frame begins.
    read_at: u64,
    /// Records behind that.
    records: u64,
}

impl Buffer {
    /// Opens what is there. Frames up to `taken` are known to have been taken.
    ///
    /// # Errors
    /// The directory cannot be read or made.
    pub fn open(directory: &Path, bytes_max: u64, taken: u64) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let mut paths: Vec<PathBuf> = std::fs::read_dir(directory)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
            .collect();
        paths.sort();
        let segment_bytes = (bytes_max / 4).clamp(1, SEGMENT_BYTES);
        let mut buffer = Self {
            directory: directory.to_owned(),
            segments: VecDeque::new(),
            bytes_max,
            segment_bytes,
            writer: None,
            front: None,
            last_seq: taken,
        };
        for path in paths {
            let (segment, last_seq) = scan(path, taken)?;
            buffer.last_seq = buffer.last_seq.max(last_seq);
            if segment.records == 0 {
                std::fs::remove_file(&segment.path)?;
            } else {
                buffer.segments.push_back(segment);
            }
        }
        Ok(buffer)
    }

    /// The highest number of a frame that was ever here, as far as known.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Whether the limit has dropped a payload that was here.
    pub fn has_dropped(&self, seq: u64) -> bool {
        self.segments.front().is_none_or(|first| seq < first.first_seq)
    }

    /// Whether more than half of what may be here is.
    pub fn is_half_full(&self) -> bool {
        self.bytes() > self.bytes_max / 2
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Appends payloads; they are durable when this returns. Returns how many records the limit dropped.
    ///
    /// # Errors
    /// What was written before may be there; it comes again.
    pub fn push(&mut self, payloads: &[Arc<Payload>]) -> io::Result<u64> {
        let mut dropped = 0;
        for payload in payloads {
            let frame = frame(payload)?;
            let full = self.segments.back().is_none_or(|last| last.bytes >= self.segment_bytes);
            if full || self.writer.is_none() {
                self.begin_segment(payload.seq)?;
            }
            let (Some(writer), Some(last)) = (&mut self.writer, self.segments.back_mut()) else { continue };
            if let Err(error) = writer.write_all(&frame).and_then(|()| writer.sync_data()) {
                // The next one must not follow a piece of this one.
                let _ = writer.set_len(last.bytes);
                self.writer = None;
                return Err(error);
            }
            last.bytes += frame.len() as u64;
            last.records += payload.about.records;
            self.last_seq = self.last_seq.max(payload.seq);
            dropped += self.keep_limit()?;
        }
        Ok(dropped)
    }

    /// The oldest payload, and how many records before it turned out to be damaged.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn front(&mut self) -> io::Result<(Option<Payload>, u64)> {
        let mut damaged = 0;
        while self.front.is_none() {
            let Some(segment) = self.segments.front_mut() else { break };
            let mut file = File::open(&segment.path)?;
            file.seek(SeekFrom::Start(segment.read_at))?;
            match read_frame(&mut BufReader::new(file))? {
                Some(front) => self.front = Some(front),
                None => {
                    damaged += segment.records;
                    self.remove_front_segment()?;
                }
            }
        }
        Ok((self.front.as_ref().map(|(payload, _)| payload.clone()), damaged))
    }

    /// The oldest payload was taken, if it still is the oldest.
    ///
    /// # Errors
    /// Its segment cannot be removed.
    pub fn pop(&mut self, seq: u64) -> io::Result<()> {
        self.front()?;
        // It may have been dropped at the limit meanwhile.
        let Some((front, length)) = self.front.take_if(|(front, _)| front.seq == seq) else { return Ok(()) };
        let Some(segment) = self.segments.front_mut() else { return Ok(()) };
        segment.read_at += length;
        segment.records = segment.records.saturating_sub(front.about.records);
        if segment.read_at >= segment.bytes {
            self.remove_front_segment()?;
        }
        Ok(())
    }

    fn begin_segment(&mut self, seq: u64) -> io::Result<()> {
        let path = self.directory.join(format!("{seq:020}.seg"));
        self.writer = Some(OpenOptions::new().create(true).truncate(true).write(true).open(&path)?);
        File::open(&self.directory)?.sync_all()?;
        self.segments.push_back(Segment { path, first_seq: seq, bytes: 0, read_at: 0, records: 0 });
        Ok(())
    }

    fn keep_limit(&mut self) -> io::Result<u64> {
        let mut dropped = 0;
        while self.bytes() > self.bytes_max && self.segments.len() > 1 {
            dropped += self.segments.front().map_or(0, |segment| segment.records);
            self.front = None;
            self.remove_front_segment()?;
        }
        Ok(dropped)
    }

    fn remove_front_segment(&mut self) -> io::Result<()> {
        self.front = None;
        if let Some(segment) = self.segments.pop_front() {
            std::fs::remove_file(&segment.path)?;
        }
        if self.segments.is_empty() {
            self.writer = None;
        }
        Ok(())
    }
}

fn frame(payload: &Payload) -> io::Result<Vec<u8>> {
    let about = serde_json::to_vec(&payload.about)?;
    let body = zstd::bulk::compress(&payload.body, 1)?;
    let mut rest = Vec::with_capacity(12 + about.len() + body.len());
    rest.extend_from_slice(&payload.seq.to_le_bytes());
    rest.extend_from_slice(&u32::try_from(about.len()).unwrap_or(u32::MAX).to_le_bytes());
    rest.extend_from_slice(&about);
    rest.extend_from_slice(&body);
    let length = u32::try_from(rest.len()).map_err(|_| io::Error::other("a payload is too large for a frame"))?;
    let mut frame = Vec::with_capacity(HEAD_BYTES + rest.len());
    frame.extend_from_slice(&MAGIC.to_le_bytes());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&xxhash_rust::xxh3::xxh3_64(&rest).to_le_bytes());
    frame.extend_from_slice(&rest);
    Ok(frame)
}

/// The next frame and its length; `None` at the end, and where there is none that is whole.
fn read_frame(file: &mut impl Read) -> io::Result<Option<(Payload, u64)>> {
    let mut head = [0; HEAD_BYTES];
    if !read_whole(file, &mut head)? {
        return Ok(None);
    }
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let length = word(4);
    if word(0) != MAGIC || !(12..=FRAME_BYTES_MAX).contains(&length) {
        return Ok(None);
    }
    let hash = u64::from(word(8)) | (u64::from(word(12)) << 32);
    let mut rest = Vec::new();
    file.take(u64::from(length)).read_to_end(&mut rest)?;
    if rest.len() < length as usize || xxhash_rust::xxh3::xxh3_64(&rest) != hash {
        return Ok(None);
    }
    let (seq, after) = rest.split_at(8);
    let (about_bytes, after) = after.split_at(4);
    let about_bytes = about_bytes.try_into().map_or(0, u32::from_le_bytes) as usize;
    let Some((about, body)) = after.split_at_checked(about_bytes) else { return Ok(None) };
    let Ok(about) = serde_json::from_slice::<About>(about) else { return Ok(None) };
    let body = zstd::stream::decode_all(body)?;
    let seq = seq.try_into().map_or(0, u64::from_le_bytes);
    let payload = Payload { seq, about, body: Bytes::from(body), progress: Arc::default() };
    Ok(Some((payload, HEAD_BYTES as u64 + u64::from(length))))
}

fn read_whole(file: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// What a segment holds behind the frames that were taken, and the number of its last frame.
fn scan(path: PathBuf, taken: u64) -> io::Result<(Segment, u64)> {
    let mut file = BufReader::new(File::open(&path)?);
    let mut segment = Segment { path, first_seq: 0, bytes: 0, read_at: 0, records: 0 };
    let mut last_seq = 0;
    while let Some((payload, length)) = read_frame(&mut file)? {
        if segment.bytes == 0 {
            segment.first_seq = payload.seq;
        }
        segment.bytes += length;
        last_seq = payload.seq;
        if payload.seq <= taken {
            segment.read_at = segment.bytes;
        } else {
            segment.records += payload.about.records;
        }
    }
    Ok((segment, last_seq))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn payload(seq: u64, bytes: usize) -> Arc<Payload> {
        // Not compressible, so that sizes mean something.
        let body: Vec<u8> = (0..bytes as u64)
            .flat_map(|n| xxhash_rust::xxh3::xxh3_64(&(n ^ (seq << 32)).to_le_bytes()).to_le_bytes())
            .take(bytes)
            .collect();
        let about = About { records: 2, key: seq.to_string(), ..About::default() };
        Arc::new(Payload { seq, about, body: body.into(), progress: Arc::default() })
    }

    fn drain(buffer: &mut Buffer) -> Vec<u64> {
        let mut seqs = Vec::new();
        while let (Some(front), _) = buffer.front().unwrap() {
            assert_eq!(front.body, payload(front.seq, front.body.len()).body);
            seqs.push(front.seq);
            buffer.pop(front.seq).unwrap();
        }
        seqs
    }

    #[test]
    fn what_goes_in_comes_out_also_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let mut buffer = Buffer::open(directory.path(), 1 << 20, 0).unwrap();
        for seq in 1..=20 {
            assert_eq!(buffer.push(&[payload(seq, 30_000)]).unwrap(), 0);
        }
        for seq in 1..=3 {
            assert_eq!(buffer.front().unwrap().0.unwrap().seq, seq);
            buffer.pop(seq).unwrap();
        }
        drop(buffer);
        let mut again = Buffer::open(directory.path(), 1 << 20, 3).unwrap();
        assert_eq!(again.last_seq(), 20);
        again.push(&[payload(21, 10)]).unwrap();
        assert_eq!(drain(&mut again), (4..=21).collect::<Vec<_>>());
        assert!(again.is_empty());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_oldest_goes_past_the_limit_and_is_counted() {
        let directory = tempfile::tempdir().unwrap();
        let mut buffer = Buffer::open(directory.path(), 100_000, 0).unwrap();
        let dropped: u64 = (1..=50).map(|seq| buffer.push(&[payload(seq, 10_000)]).unwrap()).sum();
        assert!(buffer.bytes() <= 100_000);
        let left = drain(&mut buffer);
        assert_eq!(*left.last().unwrap(), 50);
        assert_eq!(dropped, 2 * (50 - left.len() as u64));
    }

    #[test]
    fn a_torn_frame_ends_its_segment() {
        let directory = tempfile::tempdir().unwrap();
        let mut buffer = Buffer::open(directory.path(), 1 << 20, 0).unwrap();
        buffer.push(&[payload(1, 100), payload(2, 100)]).unwrap();
        drop(buffer);
        let path = directory.path().join(format!("{:020}.seg", 1));
        let length = std::fs::metadata(&path).unwrap().len();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(length - 5).unwrap();
        let mut again = Buffer::open(directory.path(), 1 << 20, 0).unwrap();
        again.push(&[payload(3, 100)]).unwrap();
        assert_eq!(drain(&mut again), [1, 3]);
    }
}
