//! Delimited values (RFC 4180, read leniently): splits records, and turns each row into an object by the header's names.
//!
//! A quoted value may hold line breaks, so one quote that is never closed would swallow the rest of a file. Such a record is
//! reported on the line where it begins, and reading goes on with the line after it.

use std::io::{BufRead, Write};

use super::csv_types::{Kind, Table, is_number};
use super::lines::{Kept, Line, Lines};
use super::ndjson::too_long_reason;
use super::sink::{Sink, Stop};
use super::{FaultKind, Mark};

/// Splits records into fields, line by line.
pub(super) struct Splitter {
    delimiter: u8,
    bytes: Vec<u8>,
    ends: Vec<usize>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    FieldStart,
    Plain,
    Quoted,
    /// After a quote inside a quoted field: its end, or the first half of a doubled quote.
    QuoteSeen,
}

impl Splitter {
    pub(super) fn new(delimiter: u8) -> Self {
        Self { delimiter, bytes: Vec::new(), ends: Vec::new(), state: State::FieldStart }
    }

    /// Forgets the record.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.state = State::FieldStart;
    }

    /// Takes one line (without its line feed); returns whether the record ends with it.
    pub(super) fn line(&mut self, line: &[u8]) -> bool {
        let (text, returned) = match line.strip_suffix(b"\r") {
            Some(text) => (text, true),
            None => (line, false),
        };
        for &byte in text {
            self.byte(byte);
        }
        if self.state == State::Quoted {
            self.bytes.extend_from_slice(if returned { b"\r\n" } else { b"\n" });
            return false;
        }
        self.ends.push(self.bytes.len());
        self.state = State::FieldStart;
        true
    }

    fn byte(&mut self, byte: u8) {
        match self.state {
            State::Quoted if byte == b'"' => self.state = State::QuoteSeen,
            State::Quoted => self.bytes.push(byte),
            State::QuoteSeen if byte == b'"' => {
                self.bytes.push(b'"');
                self.state = State::Quoted;
            }
            State::FieldStart if byte == b'"' => self.state = State::Quoted,
            _ if byte == self.delimiter => {
                self.ends.push(self.bytes.len());
                self.state = State::FieldStart;
            }
            _ => {
                self.bytes.push(byte);
                self.state = State::Plain;
            }
        }
    }

    /// The number of fields of the complete record.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The fields of the complete record, as bytes.
    pub(super) fn fields(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start..*end])
    }

    /// Whether the record is one empty line.
    pub(super) fn is_blank(&self) -> bool {
        self.ends.len() == 1 && self.bytes.trim_ascii().is_empty()
    }
}

/// Reads the rows below the header, which stands at the beginning of the file.
pub(super) fn read(
    reader: &mut dyn BufRead,
    bytes_max: usize,
    table: &Table,
    start: Mark,
    sink: &mut Sink,
) -> Result<(), Stop> {
    let mut lines = Lines::new(reader, bytes_max, start);
    let mut splitter = Splitter::new(table.delimiter);
    let keys = keys(table);
    let mut header_seen = start.offset > 0;
    loop {
        let start = match next_record(&mut lines, &mut splitter, bytes_max)? {
            Found::End => return Ok(()),
            Found::Fault(start, kind, reason) => {
                // Reading cannot be taken up before the header.
                sink.at(start, if header_seen { lines.mark() } else { Mark::START });
                sink.fault(start.line, kind, reason)?;
                continue;
            }
            Found::Record(start) => start,
        };
        if splitter.is_blank() {
            continue;
        }
        if !header_seen {
            header_seen = true;
            continue;
        }
        sink.at(start, lines.mark());
        let number = start.line;
        if splitter.len() != table.columns.len() {
            let reason = format!("{} values where the header has {} columns", splitter.len(), table.columns.len());
            sink.fault(number, FaultKind::WrongColumns, reason)?;
            continue;
        }
        match object(&splitter, table, &keys) {
            Ok(source) => sink.record(number, number, None, source)?,
            Err(column) => {
                let reason = format!("invalid UTF-8 in column [{column}]");
                sink.fault(number, FaultKind::InvalidUtf8, reason)?;
            }
        }
    }
}

/// Tells where each record behind the header ends, and the header itself; `false` ends it. Returns where it ended.
pub(super) fn boundaries(
    reader: &mut dyn BufRead,
    bytes_max: usize,
    delimiter: u8,
    mut each: impl FnMut(Mark) -> bool,
) -> Result<Mark, Stop> {
    let mut lines = Lines::new(reader, bytes_max, Mark::START);
    let mut splitter = Splitter::new(delimiter);
    let mut header_seen = false;
    loop {
        let found = next_record(&mut lines, &mut splitter, bytes_max)?;
        header_seen |= matches!(found, Found::Record(_)) && !splitter.is_blank();
        if matches!(found, Found::End) || (header_seen && !each(lines.mark())) {
            return Ok(lines.mark());
        }
    }
}

/// What stands next in a table.
enum Found {
    /// A record, now in the splitter, that begins here.
    Record(Mark),
    /// Something that is none.
    Fault(Mark, FaultKind, String),
    /// Nothing.
    End,
}

/// Fills the splitter with the next record.
fn next_record(lines: &mut Lines<'_>, splitter: &mut Splitter, bytes_max: usize) -> Result<Found, Stop> {
    splitter.clear();
    let first = lines.mark();
    // Where the lines after the record's first begin, and they themselves, kept to read them again if its quote is never
    // closed.
    let mut second = first;
    let mut following: Vec<Kept> = Vec::new();
    let mut bytes = 0;
    loop {
        let is_first = bytes == 0;
        match lines.next()? {
            None if is_first => return Ok(Found::End),
            None => break,
            Some(Line::TooLong { bytes: length }) if is_first => {
                return Ok(Found::Fault(first, FaultKind::TooLong, too_long_reason("line", length, bytes_max)));
            }
            Some(Line::TooLong { bytes }) => {
                following.push(lines.keep(Err(bytes)));
                break;
            }
            Some(Line::Text(line)) => {
                bytes += line.len() + 1;
                let too_many = bytes > bytes_max + 1;
                if !too_many && splitter.line(line) {
                    return Ok(Found::Record(first));
                }
                if !is_first {
                    let line = line.to_vec();
                    following.push(lines.keep(Ok(line)));
                }
                if too_many {
                    break;
                }
            }
        }
        if is_first {
            second = lines.mark();
        }
    }
    lines.put_back(second, following);
    Ok(Found::Fault(first, FaultKind::UnclosedQuote, "a quote that begins here is not closed".to_owned()))
}

/// Every column's name as JSON, with its colon.
fn keys(table: &Table) -> Vec<Vec<u8>> {
    let key = |name: &str| format!("{}:", serde_json::Value::from(name)).into_bytes();
    table.columns.iter().map(|column| key(&column.name)).collect()
}

/// One row as an object. Empty values are left out: they are no values. Fails with the column that is not UTF-8.
fn object<'t>(splitter: &Splitter, table: &'t Table, keys: &[Vec<u8>]) -> Result<Vec<u8>, &'t str> {
    let mut source = Vec::with_capacity(splitter.bytes.len() + keys.iter().map(|key| key.len() + 4).sum::<usize>());
    source.push(b'{');
    for ((field, column), key) in splitter.fields().zip(&table.columns).zip(keys) {
        let text = std::str::from_utf8(field).map_err(|_| column.name.as_str())?;
        if text.trim().is_empty() {
            continue;
        }
        if source.len() > 1 {
            source.push(b',');
        }
        source.extend_from_slice(key);
        value(&mut source, text, column.kind);
    }
    source.push(b'}');
    Ok(source)
}

/// A number stays as it is written (`1.10` is a valid JSON number). What does not fit its column stays a string, and the
/// index decides.
fn value(source: &mut Vec<u8>, text: &str, kind: Kind) {
    let trimmed = text.trim();
    match kind {
        Kind::Long | Kind::Double if is_number(trimmed) => source.extend_from_slice(trimmed.as_bytes()),
        Kind::Boolean if trimmed.eq_ignore_ascii_case("true") => source.extend_from_slice(b"true"),
        Kind::Boolean if trimmed.eq_ignore_ascii_case("false") => source.extend_from_slice(b"false"),
        Kind::Date => write_string(source, trimmed),
        _ => write_string(source, text),
    }
}

fn write_string(source: &mut Vec<u8>, text: &str) {
    // Writing to a vector cannot fail.
    write!(source, "{}", serde_json::Value::from(text)).ok();
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn split(text: &str, delimiter: u8) -> Vec<Vec<String>> {
        let mut splitter = Splitter::new(delimiter);
        let mut records = Vec::new();
        for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
            if splitter.line(line.as_bytes()) {
                let field = |field: &[u8]| String::from_utf8(field.to_vec()).unwrap();
                records.push(splitter.fields().map(field).collect());
                splitter.clear();
            }
        }
        records
    }

    #[test]
    fn quotes_and_breaks() {
        assert_eq!(split("a,\"b \"\"c\"\", d\",\r\n", b','), [["a", "b \"c\", d", ""]]);
        assert_eq!(split("\"two\nlines\";x\n", b';'), [["two\nlines", "x"]]);
        assert_eq!(split("5\" pipe,b\n", b','), [["5\" pipe", "b"]]);
    }

    proptest! {
        #[test]
        fn reads_what_the_csv_crate_writes(rows in prop::collection::vec(prop::collection::vec("[a-c,\"\n\r é]{0,6}", 2..4), 1..6)) {
            let mut writer = ::csv::WriterBuilder::new().flexible(true).from_writer(Vec::new());
            for row in &rows {
                writer.write_record(row).unwrap();
            }
            let text = String::from_utf8(writer.into_inner().unwrap()).unwrap();
            prop_assert_eq!(split(&text, b','), rows);
        }
    }
}
