//! Where readers put what they find: gives documents their id and passes events on in chunks over a bounded channel.

use std::io;
use std::sync::Arc;

use tokio::sync::mpsc;
use xxhash_rust::xxh3::xxh3_64;

use super::document::{CheckError, check};
use super::{Event, Fault, FaultKind, Opened, Place, Record};

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
}

/// The readers' side of the channel.
pub(super) struct Sink {
    sender: mpsc::Sender<Vec<Event>>,
    id_field: Option<String>,
    file: Arc<str>,
    file_hash: u64,
    made_id: MadeId,
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
            chunk: Vec::new(),
            chunk_bytes: 0,
        }
    }

    /// Everything that follows is about this file.
    pub(super) fn begin(&mut self, file: &str, made_id: MadeId) {
        self.file = Arc::from(file);
        self.file_hash = xxh3_64(file.as_bytes());
        self.made_id = made_id;
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
        let place = Place { file: self.file.clone(), line };
        self.push(Event::Fault(Fault { place, kind, reason: reason.into() }), 256)
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
        let id = id.unwrap_or_else(|| {
            let hash = match self.made_id {
                MadeId::NameAndPosition => self.file_hash,
                MadeId::ContentAndPosition => xxh3_64(&source),
            };
            format!("{hash:016x}-{position}")
        });
        let bytes = source.len() + 128;
        let place = Place { file: self.file.clone(), line };
        self.push(Event::Record(Record { place, id, id_given, source }), bytes)
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
