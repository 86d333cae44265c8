//! NDJSON: one JSON object a line; blank lines mean nothing.

use std::io::BufRead;

use super::lines::{Line, Lines, without_return};
use super::sink::{Sink, Stop};
use super::{FaultKind, Mark};

/// Reads to the end.
pub(super) fn read(reader: &mut dyn BufRead, bytes_max: usize, start: Mark, sink: &mut Sink) -> Result<(), Stop> {
    let mut lines = Lines::new(reader, bytes_max, start);
    loop {
        let start = lines.mark();
        let number = start.line;
        let found = match lines.next()? {
            None => return Ok(()),
            Some(Line::TooLong { bytes }) => Err(bytes),
            Some(Line::Text(line)) => {
                let line = without_return(line);
                if line.trim_ascii().is_empty() {
                    continue;
                }
                Ok(one_line(line))
            }
        };
        sink.at(start, lines.mark());
        match found {
            Ok(source) => sink.unchecked(number, number, source)?,
            Err(bytes) => too_long(sink, number, "line", bytes, bytes_max)?,
        }
    }
}

/// Reports something that is longer than the limit.
pub(super) fn too_long(sink: &mut Sink, line: u64, what: &str, bytes: u64, bytes_max: usize) -> Result<(), Stop> {
    sink.fault(line, FaultKind::TooLong, too_long_reason(what, bytes, bytes_max))
}

/// The same in words.
pub(super) fn too_long_reason(what: &str, bytes: u64, bytes_max: usize) -> String {
    format!("{what} of {bytes} bytes is over the limit of {bytes_max}")
}

/// A copy without line breaks: in valid JSON they stand only between tokens, where a space means the same.
pub(super) fn one_line(source: &[u8]) -> Vec<u8> {
    let mut line = source.to_vec();
    for byte in &mut line {
        if *byte == b'\n' || *byte == b'\r' {
            *byte = b' ';
        }
    }
    line
}
