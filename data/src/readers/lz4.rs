//! LZ4 frames, one after the other, with truncation noticed.
//!
//! `lz4_flex` takes a stream that ends between two blocks for one that is complete. So the bytes on their way to it are
//! followed through the frame format (<https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md>) far enough to know
//! whether the end is the end of a frame.

use std::io::{self, BufRead, Read};

use lz4_flex::frame::FrameDecoder;

/// Decodes frames until the end of the input.
pub(super) struct Lz4Reader<R: BufRead> {
    decoder: FrameDecoder<Followed<R>>,
}

impl<R: BufRead> Lz4Reader<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { decoder: FrameDecoder::new(Followed { reader, part: Part::Magic, missing: 4, seen: Vec::new() }) }
    }
}

impl<R: BufRead> Read for Lz4Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let read = self.decoder.read(buffer)?;
            if read > 0 {
                return Ok(read);
            }
            // Nothing: a frame is over, or the input.
            let followed = self.decoder.get_mut();
            let at_frame_end = followed.part == Part::Magic && followed.seen.is_empty();
            if followed.reader.fill_buf()?.is_empty() {
                if at_frame_end {
                    return Ok(0);
                }
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the lz4 stream ends inside a frame"));
            }
            if !at_frame_end {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the lz4 stream is damaged"));
            }
        }
    }
}

/// The part of a frame that comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Magic,
    Flags,
    RestOfHeader { flags: u8 },
    BlockSize { flags: u8 },
    Block { flags: u8 },
    EndChecksum,
}

struct Followed<R> {
    reader: R,
    part: Part,
    missing: usize,
    seen: Vec<u8>,
}

impl<R: Read> Read for Followed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.follow(&buffer[..read]);
        Ok(read)
    }
}

impl<R> Followed<R> {
    fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(self.missing.min(bytes.len()));
            self.missing -= now.len();
            bytes = later;
            // Only short parts are kept, to read them; blocks are only counted.
            if !matches!(self.part, Part::Block { .. }) {
                self.seen.extend_from_slice(now);
            }
            if self.missing == 0 {
                self.advance();
            }
        }
    }

    fn advance(&mut self) {
        let seen = std::mem::take(&mut self.seen);
        (self.part, self.missing) = match self.part {
            Part::Magic => (Part::Flags, 1),
            Part::Flags => {
                let flags = seen.first().copied().unwrap_or_default();
                let content_size = if flags & 0b1000 != 0 { 8 } else { 0 };
                let dictionary = if flags & 0b1 != 0 { 4 } else { 0 };
                // The block descriptor and the header's checksum: one byte each.
                (Part::RestOfHeader { flags }, 2 + content_size + dictionary)
            }
            Part::RestOfHeader { flags } => (Part::BlockSize { flags }, 4),
            Part::BlockSize { flags } => {
                let size = seen.iter().rev().fold(0_u32, |size, byte| size << 8 | u32::from(*byte));
                match size {
                    0 if flags & 0b100 != 0 => (Part::EndChecksum, 4),
                    0 => (Part::Magic, 4),
                    _ => {
                        let checksum = if flags & 0b1_0000 != 0 { 4 } else { 0 };
                        (Part::Block { flags }, (size & 0x7fff_ffff) as usize + checksum)
                    }
                }
            }
            Part::Block { flags } => (Part::BlockSize { flags }, 4),
            Part::EndChecksum => (Part::Magic, 4),
        };
        if self.missing == 0 {
            // A stored block of no bytes: valid, if pointless.
            self.advance();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write;

    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

    use super::*;

    fn frame(text: &[u8], info: FrameInfo) -> Vec<u8> {
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn every_cut_is_noticed() {
        let text: Vec<u8> = (0..200_000_u32).flat_map(|number| number.to_string().into_bytes()).collect();
        for (checksums, mode) in [(false, BlockMode::Independent), (true, BlockMode::Linked)] {
            let info = FrameInfo::new()
                .block_size(BlockSize::Max64KB)
                .block_mode(mode)
                .block_checksums(checksums)
                .content_checksum(checksums);
            let mut bytes = frame(&text, info.clone());
            let one = bytes.len();
            bytes.extend(frame(b"a second frame", info));
            let mut all = Vec::new();
            Lz4Reader::new(bytes.as_slice()).read_to_end(&mut all).unwrap();
            assert!(all.starts_with(&text) && all.ends_with(b"a second frame"));
            for cut in (1..one).step_by(997).chain(one - 8..one).chain(one + 1..bytes.len()) {
                let mut part = Vec::new();
                let error = Lz4Reader::new(&bytes[..cut]).read_to_end(&mut part).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "cut at {cut}: {error}");
                assert!(all.starts_with(&part));
            }
        }
    }
}
