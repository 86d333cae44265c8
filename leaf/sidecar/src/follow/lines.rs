//! Bytes of a file to lines, whatever pieces they are read in: pure.

/// One line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// Without the line's end, at most as many bytes as a line may have.
    pub bytes: &'a [u8],
    /// Offset of its first byte in the file.
    pub start: u64,
    /// Offset behind its end.
    pub end: u64,
    /// How many bytes were left out because it is too long.
    pub cut_bytes: u64,
    /// Whether it had an end.
    pub terminated: bool,
    /// A record ends before it, whatever it looks like.
    pub after_break: bool,
}

/// Cuts lines out of a file's bytes. Holds at most one line, and of that at most `bytes_max`.
#[derive(Debug)]
pub struct Cutter {
    partial: Vec<u8>,
    cut_bytes: u64,
    /// Where the partial line begins.
    start: u64,
    /// Behind the last byte fed.
    end: u64,
    bytes_max: usize,
    /// Sorted offsets at which a line ends although it has no end.
    breaks: Vec<u64>,
}

impl Cutter {
    /// Begins at an offset where a line begins.
    pub fn new(offset: u64, bytes_max: usize, breaks: Vec<u64>) -> Self {
        Self { partial: Vec::new(), cut_bytes: 0, start: offset, end: offset, bytes_max, breaks }
    }

    /// Where the next byte to feed stands.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Where the line begins that is not complete; the same as [`Cutter::end`] if there is none.
    pub fn line_start(&self) -> u64 {
        self.start
    }

    fn is_break(&self, offset: u64) -> bool {
        !self.breaks.is_empty() && self.breaks.binary_search(&offset).is_ok()
    }

    /// A record ends at an offset, which is not before any other.
    pub fn add_break(&mut self, at: u64) {
        if self.breaks.last() != Some(&at) {
            self.breaks.push(at);
        }
    }

    /// Breaks at or behind an offset; earlier ones are forgotten.
    pub fn breaks_from(&mut self, offset: u64) -> &[u64] {
        self.breaks.retain(|at| *at >= offset);
        &self.breaks
    }

    /// Feeds the next bytes.
    pub fn feed(&mut self, mut bytes: &[u8], mut line: impl FnMut(&Line<'_>)) {
        while let Some(at) = self.breaks.iter().copied().find(|at| *at > self.end) {
            let before = usize::try_from(at - self.end).unwrap_or(usize::MAX);
            let Some((front, back)) = bytes.split_at_checked(before) else { break };
            self.feed_unbroken(front, &mut line);
            self.finish(&mut line);
            bytes = back;
        }
        self.feed_unbroken(bytes, &mut line);
    }

    /// Ends the partial line, if there is one.
    pub fn finish(&mut self, mut line: impl FnMut(&Line<'_>)) {
        if self.start < self.end {
            line(&Line {
                bytes: &self.partial,
                start: self.start,
                end: self.end,
                cut_bytes: self.cut_bytes,
                terminated: false,
                after_break: self.is_break(self.start),
            });
            self.clear();
        }
    }

    fn clear(&mut self) {
        self.partial.clear();
        self.partial.shrink_to(64 << 10);
        self.cut_bytes = 0;
        self.start = self.end;
    }

    fn feed_unbroken(&mut self, mut bytes: &[u8], line: &mut impl FnMut(&Line<'_>)) {
        while let Some(length) = memchr::memchr(b'\n', bytes) {
            let (content, rest) = (&bytes[..length], &bytes[length + 1..]);
            if self.start == self.end {
                self.end += length as u64 + 1;
                let kept = &content[..length.min(self.bytes_max)];
                let cut_bytes = (length - kept.len()) as u64;
                line(&Line {
                    bytes: bare(kept, cut_bytes),
                    start: self.start,
                    end: self.end,
                    cut_bytes,
                    terminated: true,
                    after_break: self.is_break(self.start),
                });
                self.start = self.end;
            } else {
                self.keep(content);
                self.end += 1;
                line(&Line {
                    bytes: bare(&self.partial, self.cut_bytes),
                    start: self.start,
                    end: self.end,
                    cut_bytes: self.cut_bytes,
                    terminated: true,
                    after_break: self.is_break(self.start),
                });
                self.clear();
            }
            bytes = rest;
        }
        self.keep(bytes);
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = self.bytes_max.saturating_sub(self.partial.len()).min(bytes.len());
        self.partial.extend_from_slice(&bytes[..room]);
        self.cut_bytes += (bytes.len() - room) as u64;
        self.end += bytes.len() as u64;
    }
}

/// Windows ends lines with two bytes.
fn bare(bytes: &[u8], cut_bytes: u64) -> &[u8] {
    if cut_bytes > 0 { bytes } else { bytes.strip_suffix(b"\r").unwrap_or(bytes) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    type Owned = (Vec<u8>, u64, u64, u64, bool);

    fn cut(content: &[u8], from: u64, pieces: &[usize], max: usize, breaks: &[u64]) -> Vec<Owned> {
        let mut lines = Vec::new();
        let mut take = |line: &Line<'_>| {
            lines.push((line.bytes.to_vec(), line.start, line.end, line.cut_bytes, line.terminated));
        };
        let mut cutter = Cutter::new(from, max, breaks.to_vec());
        let mut rest = &content[usize::try_from(from).unwrap()..];
        let mut sizes = pieces.iter().copied().cycle();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(sizes.next().unwrap().clamp(1, rest.len()));
            cutter.feed(piece, &mut take);
            rest = after;
        }
        cutter.finish(&mut take);
        lines
    }

    #[test]
    fn long_lines_are_cut_and_say_so() {
        let lines = cut(b"abcdef\r\nxy\r\nz", 0, &[4], 3, &[]);
        assert_eq!(lines[0], (b"abc".to_vec(), 0, 8, 4, true));
        assert_eq!(lines[1], (b"xy".to_vec(), 8, 12, 0, true));
        assert_eq!(lines[2], (b"z".to_vec(), 12, 13, 0, false));
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference_and_nothing_is_dropped(
            content in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 1..200),
            pieces in prop::collection::vec(1_usize..20, 1..5),
            max in 1_usize..30,
            breaks in prop::collection::btree_set(1_u64..200, 0..4),
        ) {
            let breaks: Vec<u64> = breaks.into_iter().filter(|at| *at < content.len() as u64).collect();
            let lines = cut(&content, 0, &pieces, max, &breaks);
            prop_assert_eq!(&lines, &cut(&content, 0, &[content.len()], max, &breaks));
            let mut at = 0;
            for (bytes, start, end, cut_bytes, terminated) in &lines {
                prop_assert_eq!(*start, at);
                prop_assert!(bytes.len() <= max);
                let ends = u64::from(*terminated);
                let kept = end - start - ends - cut_bytes;
                prop_assert!(kept == bytes.len() as u64 || kept == bytes.len() as u64 + 1);
                at = *end;
            }
            prop_assert_eq!(at, content.len() as u64);
            // From the start of any line on it is the same.
            for (number, line) in lines.iter().enumerate() {
                prop_assert_eq!(&lines[number..], &cut(&content, line.1, &pieces, max, &breaks)[..]);
            }
        }
    }
}
