//! JSON that is not one object a line: one array of objects, or objects one after the other over any number of lines.
//!
//! Elements are cut out by counting brackets outside of strings, so memory holds one element at a time; whether an element
//! is valid is checked once it is cut out. Damage inside an element costs that element; a bracket too few or too many can
//! cost its neighbours, and a string that is never closed the rest of the file, always reported.

use std::io::BufRead;

use super::ndjson::{one_line, too_long};
use super::sink::{Sink, Stop};
use super::{FaultKind, Mark};

/// Reads to the end.
pub(super) fn read(reader: &mut dyn BufRead, bytes_max: usize, sink: &mut Sink) -> Result<(), Stop> {
    let mut scanner = Scanner { bytes_max, sink, at: Mark::START, ordinal: 0, in_array: None, element: None };
    let mut first = true;
    loop {
        let line = scanner.at.line;
        let bytes = reader.fill_buf().map_err(|error| Stop::Io { line, error })?;
        if bytes.is_empty() {
            return scanner.end();
        }
        let length = bytes.len();
        let start = if first && bytes.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        first = false;
        scanner.at.offset += start as u64;
        for &byte in &bytes[start..] {
            scanner.byte(byte)?;
        }
        reader.consume(length);
    }
}

struct Scanner<'s> {
    bytes_max: usize,
    sink: &'s mut Sink,
    /// Of the byte that comes next.
    at: Mark,
    ordinal: u64,
    /// Whether the elements stand in an array; `None` before the first one.
    in_array: Option<bool>,
    element: Option<Element>,
}

/// An element being cut out.
struct Element {
    start: Mark,
    bytes: Vec<u8>,
    length: u64,
    depth: u32,
    in_string: bool,
    escaped: bool,
}

impl Scanner<'_> {
    fn byte(&mut self, byte: u8) -> Result<(), Stop> {
        if self.element.is_some() {
            self.inside(byte)?;
        } else {
            self.between(byte)?;
        }
        self.at.offset += 1;
        if byte == b'\n' {
            self.at.line += 1;
        }
        Ok(())
    }

    fn between(&mut self, byte: u8) -> Result<(), Stop> {
        match byte {
            b'[' if self.in_array.is_none() => self.in_array = Some(true),
            b']' if self.in_array == Some(true) => self.in_array = None,
            b',' if self.in_array == Some(true) => {}
            _ if byte.is_ascii_whitespace() => {}
            _ => {
                self.in_array.get_or_insert(false);
                self.element = Some(Element {
                    start: self.at,
                    bytes: Vec::new(),
                    length: 0,
                    depth: 0,
                    in_string: false,
                    escaped: false,
                });
                self.inside(byte)?;
            }
        }
        Ok(())
    }

    fn inside(&mut self, byte: u8) -> Result<(), Stop> {
        let Some(element) = &mut self.element else { return Ok(()) };
        let in_array = self.in_array == Some(true);
        // A number or word ends before what follows it; objects, arrays and strings end with their last byte.
        if element.depth == 0 && !element.in_string && element.length > 0 {
            let ends = byte.is_ascii_whitespace() || (in_array && matches!(byte, b',' | b']'));
            if ends {
                self.cut()?;
                return self.between(byte);
            }
        }
        element.length += 1;
        if element.bytes.len() < self.bytes_max {
            element.bytes.push(byte);
        }
        if element.in_string {
            match byte {
                _ if element.escaped => element.escaped = false,
                b'\\' => element.escaped = true,
                b'"' => element.in_string = false,
                _ => {}
            }
        } else {
            match byte {
                b'"' => element.in_string = true,
                b'{' | b'[' => element.depth += 1,
                b'}' | b']' => element.depth = element.depth.saturating_sub(1),
                _ => {}
            }
        }
        if element.depth == 0 && !element.in_string && matches!(byte, b'}' | b']' | b'"') {
            self.cut()?;
        }
        Ok(())
    }

    fn cut(&mut self) -> Result<(), Stop> {
        let Some(element) = self.element.take() else { return Ok(()) };
        self.ordinal += 1;
        let line = element.start.line;
        // The byte at hand may belong to what follows: reading goes on behind it either way.
        self.sink.at(element.start, Mark { offset: self.at.offset + 1, ..self.at });
        if element.length > self.bytes_max as u64 {
            return too_long(self.sink, line, "element", element.length, self.bytes_max);
        }
        self.sink.unchecked(line, self.ordinal, one_line(&element.bytes))
    }

    fn end(&mut self) -> Result<(), Stop> {
        let open = self.element.as_ref().is_some_and(|element| element.depth > 0 || element.in_string);
        if open {
            let start = self.element.take().map_or(self.at, |element| element.start);
            self.sink.at(start, self.at);
            let reason = "the element that begins here is never closed";
            return self.sink.fault(start.line, FaultKind::InvalidJson, reason);
        }
        self.cut()?;
        if self.in_array == Some(true) {
            let reason = "the array is not closed: the file ends too early";
            self.sink.at(self.at, self.at);
            return self.sink.fault(self.at.line, FaultKind::InvalidJson, reason);
        }
        Ok(())
    }
}
