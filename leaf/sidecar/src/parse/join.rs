//! Lines of a file to records: a stack trace is one record, and so are the pieces of a long line of a container.
//!
//! What is joined depends on the content alone, and on *breaks*: offsets where a record ends because nothing came for a
//! while. Breaks are durable before the record ships, so that reading again after a crash gives the same records with the
//! same ids.

use std::borrow::Cow;

use super::{Custom, Format, cri, plain};
use crate::follow::lines::Line;
use crate::record::{Marks, Record, Value};

/// How much one record may hold.
#[derive(Clone, Copy, Debug)]
pub struct JoinLimits {
    /// Bytes; beyond them the next line begins a new record.
    pub bytes_max: usize,
    /// Lines.
    pub lines_max: u32,
}

/// Takes the records: the record, the offset of its first byte and that behind its last.
pub trait Emit: FnMut(&mut Record<'_>, u64, u64) {}
impl<F: FnMut(&mut Record<'_>, u64, u64)> Emit for F {}

/// Joins the lines of one file.
#[derive(Debug)]
pub struct Joiner {
    format: Option<Format>,
    custom: Vec<Custom>,
    limits: JoinLimits,
    pending: Option<Pending>,
}

/// The beginning of a record that may go on.
#[derive(Debug)]
struct Pending {
    text: String,
    start: u64,
    end: u64,
    lines: u32,
    marks: Marks,
    head: plain::Head,
    wrapped: Option<Wrapping>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wrapping {
    time_ns: i64,
    stream: &'static str,
    /// The next line of the stream goes on where this one stopped.
    open: bool,
}

impl Joiner {
    /// For a file of a known format, or one that its first line shows.
    pub fn new(format: Option<Format>, custom: Vec<Custom>, limits: JoinLimits) -> Self {
        Self { format, custom, limits, pending: None }
    }

    /// The format, once it is known.
    pub fn format(&self) -> Option<&Format> {
        self.format.as_ref()
    }

    /// Where the record that may go on begins.
    pub fn pending_from(&self) -> Option<u64> {
        self.pending.as_ref().map(|pending| pending.start)
    }

    /// Takes the next line.
    pub fn line(&mut self, line: &Line<'_>, emit: &mut impl Emit) {
        if line.after_break {
            flush(&mut self.pending, emit);
        }
        let (text, invalid_utf8) = as_text(line.bytes);
        let marks = Marks { cut_bytes: line.cut_bytes, invalid_utf8, unterminated: !line.terminated, unparsed: false };
        if self.format.is_none() {
            self.format = Some(Format::detect(&text, &self.custom));
        }
        match &self.format {
            Some(Format::Cri) => match cri::unwrap(&text) {
                Some(wrapped) => self.unwrapped(wrapped, line, marks, emit),
                None => self.text(&text, line, Marks { unparsed: true, ..marks }, None, emit),
            },
            Some(Format::Plain) | None => self.text(&text, line, marks, None, emit),
            Some(format) => match format.single(&text) {
                Some(mut record) => {
                    flush(&mut self.pending, emit);
                    record.marks = record.marks.and(marks);
                    emit(&mut record, line.start, line.end);
                }
                None => self.text(&text, line, Marks { unparsed: true, ..marks }, None, emit),
            },
        }
    }

    /// Ends the record that may go on.
    pub fn flush(&mut self, emit: &mut impl Emit) {
        flush(&mut self.pending, emit);
    }

    fn unwrapped(&mut self, wrapped: cri::Wrapped<'_>, line: &Line<'_>, marks: Marks, emit: &mut impl Emit) {
        let wrapping = Wrapping { time_ns: wrapped.time_ns, stream: wrapped.stream, open: wrapped.partial };
        let continues = self.pending.as_ref().is_some_and(|pending| {
            pending.wrapped.is_some_and(|before| before.open && before.stream == wrapping.stream)
        });
        // A line alone that is a record of its own needs no copy.
        if !continues
            && !wrapped.partial
            && let Some(mut record) = Format::any(wrapped.content)
        {
            flush(&mut self.pending, emit);
            record.marks = record.marks.and(marks);
            finish_wrapped(&mut record, wrapping);
            emit(&mut record, line.start, line.end);
            return;
        }
        self.text(wrapped.content, line, marks, Some(wrapping), emit);
    }

    /// Adds a line of text to the pending record, or begins another.
    fn text(&mut self, text: &str, line: &Line<'_>, marks: Marks, wrapped: Option<Wrapping>, emit: &mut impl Emit) {
        if let Some(pending) = &mut self.pending
            && pending.takes(text, wrapped, marks, self.limits)
        {
            pending.end = line.end;
            pending.lines += 1;
            pending.marks = pending.marks.and(marks);
            return;
        }
        flush(&mut self.pending, emit);
        self.pending = Some(Pending {
            text: text.to_owned(),
            start: line.start,
            end: line.end,
            lines: 1,
            marks,
            head: plain::Head::of(text),
            wrapped,
        });
    }
}

impl Pending {
    /// Appends the text if it belongs to this record.
    fn takes(&mut self, text: &str, wrapped: Option<Wrapping>, marks: Marks, limits: JoinLimits) -> bool {
        let fits = self.text.len() + text.len() < limits.bytes_max && self.lines < limits.lines_max;
        let open = self.wrapped.is_some_and(|before| before.open);
        let same = self.wrapped.map(|before| before.stream) == wrapped.map(|now| now.stream)
            && self.marks.unparsed == marks.unparsed;
        if !fits || !same || !(open || self.head.takes(text)) {
            return false;
        }
        if !open {
            self.text.push('\n');
        }
        self.text.push_str(text);
        if let (Some(before), Some(now)) = (&mut self.wrapped, wrapped) {
            before.open = now.open;
        }
        true
    }
}

fn flush(pending: &mut Option<Pending>, emit: &mut impl Emit) {
    let Some(mut pending) = pending.take() else { return };
    // Blank lines that follow a record are of no use in it.
    let kept = pending.text.trim_end_matches(['\n', ' ', '\t']).len();
    if kept > 0 {
        pending.text.truncate(kept);
    }
    let whole = pending.wrapped.and_then(|_| Format::any(&pending.text));
    let mut record = whole.unwrap_or_else(|| plain::parse(&pending.text));
    record.marks = record.marks.and(pending.marks);
    if let Some(wrapping) = pending.wrapped {
        record.marks.unterminated |= wrapping.open;
        finish_wrapped(&mut record, wrapping);
    }
    emit(&mut record, pending.start, pending.end);
}

fn finish_wrapped(record: &mut Record<'_>, wrapping: Wrapping) {
    record.time_ns = record.time_ns.or(Some(wrapping.time_ns));
    record.fields.push((Cow::Borrowed("log.iostream"), Value::Text(Cow::Borrowed(wrapping.stream))));
}

/// The bytes as text; what is not UTF-8 becomes `\xNN`, so that it is kept.
fn as_text(bytes: &[u8]) -> (Cow<'_, str>, bool) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Cow::Borrowed(text), false),
        Err(_) => {
            let mut text = String::with_capacity(bytes.len() + 32);
            for chunk in bytes.utf8_chunks() {
                text.push_str(chunk.valid());
                for byte in chunk.invalid() {
                    text.push_str(&format!("\\x{byte:02X}"));
                }
            }
            (Cow::Owned(text), true)
        }
    }
}

#[cfg(test)]
#[path = "join_tests.rs"]
mod tests;
