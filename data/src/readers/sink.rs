//! Where readers put what they find: gives documents their id and passes events on in chunks over a bounded channel.

use std::io;
use std::sync::Arc;

use tokio::sync::mpsc;
use xxhash_rust::xxh3::xxh3_64;

use super::document::{CheckError, check};
use super::{Event, Fault, FaultKind, Mark, Opened, Place, Record};

/// A chunk is passed on when it holds this much.
const CHUNK_BYTES: usize = 128 * 1024;
/// Or this many events.
const CHUNK_EVENTS: usize = 1024;

/// Why reading a file ends before its end.
#[derive(Debug)]
pub(super) enum Stop {
    /// Nobody listens any more: end everything.
    Gone,
    /// The file cannot be read further; the line is where it failed.
    Io { line: u64, error: io::Error },
}

/// How ids are made for documents that bring none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MadeId {
    /// Of the input's name and the position: loading a file again, also an edited one, replaces its documents.
    NameAndPosition,
    /// Of the content and the position, for standard input: every stream has the same name, and one must not replace
    /// the documents of another.
    ContentAndPosition,
    /// Of the input's name and the offset in bytes, for a range whose line numbers are not known.
    NameAndOffset,
}

/// The readers' side of the channel.
pub(super) struct Sink {
    sender: mpsc::Sender<Vec<Event>>,
    id_field: Option<String>,
    file: Arc<str>,
    file_hash: u64,
    made_id: MadeId,
    input: u32,
    start: Mark,
    next: Mark,
    /// What ends at or before this offset has been passed on by an earlier reading.
    passed: u64,
    chunk: Vec<Event>,
    chunk_bytes: usize,
}

impl Sink {
    pub(super) fn new(sender: mpsc::Sender<Vec<Event>>, id_field: Option<String>) -> Self {
        Self {
            sender,
            id_field,
            file: Arc::from(""),
            file_hash: 0,
            made_id: MadeId::NameAndPosition,
            input: 0,
            start: Mark::START,
            next: Mark::START,
            passed: 0,
            chunk: Vec::new(),
            chunk_bytes: 0,
        }
    }

    /// Everything that follows is about this file.
    pub(super) fn begin(&mut self, file: &str, made_id: MadeId) {
        self.file = Arc::from(file);
        self.file_hash = xxh3_64(file.as_bytes());
        self.made_id = made_id;
        self.at(Mark::START, Mark::START);
        self.passed = 0;
    }

    /// Everything that follows comes from the input of this number.
    pub(super) fn input(&mut self, number: u32) {
        self.input = number;
    }

    /// Leaves out what ends at or before the offset.
    pub(super) fn skip_through(&mut self, offset: u64) {
        self.passed = offset;
    }

    /// What follows begins at `start`; what comes after it begins at `next`.
    pub(super) fn at(&mut self, start: Mark, next: Mark) {
        self.start = start;
        self.next = next;
    }

    /// Whether what begins at `start` was passed on earlier.
    fn is_passed(&self) -> bool {
        self.passed > 0 && self.next.offset <= self.passed
    }

    fn place(&self, line: u64) -> Place {
        let offset = (self.made_id == MadeId::NameAndOffset && line > 0).then_some(self.start.offset);
        Place { file: self.file.clone(), line, offset }
    }

    pub(super) fn file(&self) -> &Arc<str> {
        &self.file
    }

    pub(super) fn opened(&mut self, opened: Opened) -> Result<(), Stop> {
        self.push(Event::Opened(Box::new(opened)), 0)?;
        // Passed on at once: the consumer makes the index while the first documents are being read.
        self.flush()
    }

    /// Bytes that claim to be a JSON object; a fault when they are not.
    pub(super) fn unchecked(&mut self, line: u64, position: u64, source: Vec<u8>) -> Result<(), Stop> {
        if self.is_passed() {
            return Ok(());
        }
        match check(&source, self.id_field.as_deref()) {
            Ok(id) => self.push_record(line, position, id, source),
            Err(error) => self.check_failed(line, error),
        }
    }

    /// An object that a reader made itself, with the format's natural id if it has one.
    pub(super) fn record(
        &mut self,
        line: u64,
        position: u64,
        natural_id: Option<String>,
        source: Vec<u8>,
    ) -> Result<(), Stop> {
        if self.is_passed() {
            return Ok(());
        }
        let id = match self.id_field.as_deref() {
            None => natural_id,
            Some(field) => match check(&source, Some(field)) {
                Ok(id) => id,
                Err(error) => return self.check_failed(line, error),
            },
        };
        self.push_record(line, position, id, source)
    }

    pub(super) fn fault(&mut self, line: u64, kind: FaultKind, reason: impl Into<String>) -> Result<(), Stop> {
        if self.is_passed() && line > 0 {
            return Ok(());
        }
        let (place, input, next) = (self.place(line), self.input, self.next);
        self.push(Event::Fault(Fault { place, kind, reason: reason.into(), input, next }), 256)
    }

    /// Passes on what has gathered, waiting for room.
    pub(super) fn flush(&mut self) -> Result<(), Stop> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        self.chunk_bytes = 0;
        self.sender.blocking_send(std::mem::take(&mut self.chunk)).map_err(|_| Stop::Gone)
    }

    fn check_failed(&mut self, line: u64, error: CheckError) -> Result<(), Stop> {
        self.fault(line, error.kind, error.reason)
    }

    fn push_record(&mut self, line: u64, position: u64, id: Option<String>, source: Vec<u8>) -> Result<(), Stop> {
        let id_given = id.is_some();
        let id = id.unwrap_or_else(|| match self.made_id {
            MadeId::NameAndPosition => format!("{:016x}-{position}", self.file_hash),
            MadeId::ContentAndPosition => format!("{:016x}-{position}", xxh3_64(&source)),
            MadeId::NameAndOffset => format!("{:016x}-@{}", self.file_hash, self.start.offset),
        });
        let bytes = source.len() + 128;
        let (place, input, next) = (self.place(line), self.input, self.next);
        self.push(Event::Record(Record { place, id, id_given, source, input, next }), bytes)
    }

    fn push(&mut self, event: Event, bytes: usize) -> Result<(), Stop> {
        self.chunk.push(event);
        self.chunk_bytes += bytes;
        if self.chunk_bytes >= CHUNK_BYTES || self.chunk.len() >= CHUNK_EVENTS {
            self.flush()?;
        }
        Ok(())
    }
}
