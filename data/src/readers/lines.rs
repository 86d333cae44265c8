//! Lines of bounded length, with their numbers, from any buffered reader.

use std::collections::VecDeque;
use std::io::{BufRead, Read};

use super::Mark;
use super::sink::Stop;

/// One line.
pub(super) enum Line<'a> {
    /// Without its line feed; a carriage return before it is still there.
    Text(&'a [u8]),
    /// Longer than the limit; skipped without holding it.
    TooLong {
        /// Its length.
        bytes: u64,
    },
}

/// Reads lines one by one.
pub(super) struct Lines<'r> {
    reader: &'r mut dyn BufRead,
    bytes_max: usize,
    /// Number of the line that was returned last.
    number: u64,
    /// Where the line after it begins.
    next: u64,
    /// How far the reader itself is.
    read: (u64, u64),
    buffer: Vec<u8>,
    again: VecDeque<Kept>,
}

/// A line that was read and may be returned once more.
pub(super) struct Kept {
    number: u64,
    next: u64,
    /// Its text, or its length when that is too long.
    text: Result<Vec<u8>, u64>,
}

impl<'r> Lines<'r> {
    /// Lines of a reader that stands at `start`.
    pub(super) fn new(reader: &'r mut dyn BufRead, bytes_max: usize, start: Mark) -> Self {
        let number = start.line.saturating_sub(1);
        let read = (number, start.offset);
        Self { reader, bytes_max, number, next: start.offset, read, buffer: Vec::new(), again: VecDeque::new() }
    }

    /// The number, from 1, of the line that `next` returned last.
    #[cfg(test)]
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Where the line begins that `next` returns next.
    pub(super) fn mark(&self) -> Mark {
        Mark { line: self.number + 1, offset: self.next }
    }

    /// A copy of the line that `next` returned last, for `put_back`.
    pub(super) fn keep(&self, text: Result<Vec<u8>, u64>) -> Kept {
        Kept { number: self.number, next: self.next, text }
    }

    /// Goes back to `mark`, where these lines begin; `next` returns them once more.
    pub(super) fn put_back(&mut self, mark: Mark, lines: Vec<Kept>) {
        self.number = mark.line - 1;
        self.next = mark.offset;
        for line in lines.into_iter().rev() {
            self.again.push_front(line);
        }
    }

    /// The next line, or `None` at the end. A byte order mark at the beginning is dropped.
    pub(super) fn next(&mut self) -> Result<Option<Line<'_>>, Stop> {
        if let Some(Kept { number, next, text }) = self.again.pop_front() {
            (self.number, self.next) = (number, next);
            return Ok(Some(match text {
                Ok(text) => {
                    self.buffer = text;
                    Line::Text(&self.buffer)
                }
                Err(bytes) => Line::TooLong { bytes },
            }));
        }
        let first = self.read.1 == 0;
        self.buffer.clear();
        self.read.0 += 1;
        (self.number, self.next) = self.read;
        // One byte over the limit for the line feed, one more to see that the line is too long.
        let limit = self.bytes_max as u64 + 2;
        let read = self.fill(limit)?;
        if read == 0 {
            self.read.0 -= 1;
            self.number -= 1;
            return Ok(None);
        }
        let too_long = if self.buffer.last() == Some(&b'\n') {
            self.buffer.pop();
            None
        } else if read == limit {
            Some(read + self.skip()?)
        } else {
            None
        };
        self.next = self.read.1;
        if let Some(bytes) = too_long {
            return Ok(Some(Line::TooLong { bytes }));
        }
        if self.buffer.len() > self.bytes_max {
            return Ok(Some(Line::TooLong { bytes: self.buffer.len() as u64 }));
        }
        let start = if first && self.buffer.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        Ok(Some(Line::Text(&self.buffer[start..])))
    }

    fn fill(&mut self, limit: u64) -> Result<u64, Stop> {
        let line = self.number;
        let read = (&mut *self.reader).take(limit).read_until(b'\n', &mut self.buffer);
        let read = read.map_err(|error| Stop::Io { line, error })? as u64;
        self.read.1 += read;
        Ok(read)
    }

    /// Skips the rest of a line; returns how many bytes, without the line feed.
    fn skip(&mut self) -> Result<u64, Stop> {
        let mut skipped = 0;
        loop {
            self.buffer.clear();
            let read = self.fill(64 * 1024)?;
            if self.buffer.last() == Some(&b'\n') {
                return Ok(skipped + read - 1);
            }
            if read == 0 {
                return Ok(skipped);
            }
            skipped += read;
        }
    }
}

/// The line without a carriage return at its end.
pub(super) fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn all(text: &[u8], bytes_max: usize) -> Vec<(u64, String)> {
        let mut reader = std::io::BufReader::with_capacity(7, text);
        let mut lines = Lines::new(&mut reader, bytes_max, Mark::START);
        let mut found = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            let text = match line {
                Line::Text(text) => String::from_utf8(text.to_vec()).unwrap(),
                Line::TooLong { bytes } => format!("<{bytes}>"),
            };
            found.push((lines.number(), text));
        }
        found
    }

    #[test]
    fn lines_have_numbers_and_a_limit() {
        let found = all(b"\xef\xbb\xbfone\n\n12345\n123456\n1234567890123\nlast", 5);
        let expected = [(1, "<6>"), (2, ""), (3, "12345"), (4, "<6>"), (5, "<13>"), (6, "last")];
        assert_eq!(found, expected.map(|(number, text)| (number, text.to_owned())));
        assert_eq!(all(b"\xef\xbb\xbfone\n", 9), [(1, "one".to_owned())]);
        assert_eq!(all(b"", 9), []);
        assert_eq!(all(b"123456", 5), [(1, "<6>".to_owned())]);
    }
}
