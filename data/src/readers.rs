//! Readers: the adapters that turn any input into one stream of JSON documents.
//!
//! ```text
//! input (file, directory, stdin, bytes)
//!   -> source:      which files, opened, their bytes counted
//!   -> compression: by magic bytes; gz, zst, lz4, xz, bz2 or plain
//!   -> detect:      the format, by content where it is not given
//!   -> ndjson | json | csv | debian | text
//!   -> sink:        records and faults in small chunks over a bounded channel
//! ```
//!
//! Everything here blocks, so it runs on a thread of its own; [`read`] starts that thread and returns the receiving end.
//! Memory is bounded whatever the size of a file: one sample of its beginning, one record (at most `record_bytes_max`)
//! and a few chunks in the channel. What cannot be read is a [`Fault`] with its place and reason, and reading goes on:
//! nothing is dropped silently.

mod compression;
mod csv;
mod csv_types;
mod cut;
mod debian;
mod detect;
mod document;
mod json;
mod lines;
mod lz4;
mod mapping;
mod ndjson;
mod piece;
mod remote;
mod sink;
mod source;
mod text;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

pub use compression::Compression;
pub use csv_types::{Column, Kind, Table};
pub use cut::{Cut, CutOptions, Cutting, can_be_cut, cut};
pub(crate) use mapping::field_types;
pub use piece::{Identity, Location, Piece, Range};
pub use source::bytes_total;

/// Chunks that may wait between the reading thread and the consumer.
const CHANNEL_CHUNKS: usize = 4;

/// What a file contains, apart from its compression.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Found out from the content.
    #[default]
    Auto,
    /// One JSON object a line.
    Ndjson,
    /// One JSON array of objects, or objects one after the other over any number of lines.
    Json,
    /// Delimited values with a header line; the delimiter (`,` `;` tab or `|`) is found out from the content.
    Csv,
    /// As `Csv`, delimited by tabs.
    Tsv,
    /// Paragraphs of `Field: value` lines, as Debian's `Packages` files.
    Debian,
    /// Plain text or Markdown: the whole file is one document.
    Text,
}

impl Format {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Ndjson => "ndjson",
            Self::Json => "json",
            Self::Csv => "csv",
            Self::Tsv => "tsv",
            Self::Debian => "debian",
            Self::Text => "text",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Ok(match name.to_ascii_lowercase().as_str() {
            "auto" => Self::Auto,
            "ndjson" | "jsonl" => Self::Ndjson,
            "json" => Self::Json,
            "csv" => Self::Csv,
            "tsv" => Self::Tsv,
            "debian" => Self::Debian,
            "text" | "markdown" => Self::Text,
            _ => return Err(format!("unknown format `{name}`: auto, ndjson, json, csv, tsv, debian or text")),
        })
    }
}

/// Where documents come from.
#[derive(Clone, Debug)]
pub enum Input {
    /// A file, or a directory of files.
    Path(PathBuf),
    /// Standard input.
    Stdin,
    /// Bytes that the program carries, under a name for messages and ids.
    Bytes {
        /// Stands for the file's name.
        name: String,
        /// The content, compressed or not.
        bytes: Bytes,
    },
    /// An object behind `s3://`, `http://` or `https://`; with `s3://` and a `/` at the end everything below it.
    Url(String),
    /// A file or a range of one, made by [`cut`].
    Piece(Box<Piece>),
}

impl Input {
    /// The input that an argument of the command line means: `-` is standard input.
    pub fn from_argument(argument: &str) -> Self {
        match argument {
            "-" => Self::Stdin,
            _ if remote::is_url(argument) => Self::Url(argument.to_owned()),
            _ => Self::Path(PathBuf::from(argument)),
        }
    }
}

/// How to read.
#[derive(Clone, Debug)]
pub struct ReadOptions {
    /// The format of every input; `Auto` finds it out file by file.
    pub format: Format,
    /// The field (dotted path) whose value is the document's id; default: the format's natural id, else the position.
    pub id_field: Option<String>,
    /// The longest line, paragraph, array element or text file, in bytes; default 10 MiB.
    pub record_bytes_max: usize,
    /// The types that the index already gives to fields (dotted path to type name). Cells of delimited values are typed
    /// accordingly; columns it does not name are typed by what the first rows hold.
    pub field_types: BTreeMap<String, String>,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { format: Format::Auto, id_field: None, record_bytes_max: 10 * 1024 * 1024, field_types: BTreeMap::new() }
    }
}

/// A place in an input: for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file as it was named; `-` for standard input.
    pub file: Arc<str>,
    /// The line, from 1, on which the document begins; 0 means the file as a whole.
    pub line: u64,
    /// The byte at which the document begins, where lines were not counted.
    pub offset: Option<u64>,
}

/// A position between two documents of an input, from where reading can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mark {
    /// Bytes before it, after decompression.
    pub offset: u64,
    /// The line that begins there, from 1.
    pub line: u64,
}

impl Mark {
    /// The beginning of an input.
    pub const START: Self = Self { offset: 0, line: 1 };
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.offset) {
            (0, _) => write!(f, "{}", self.file),
            (_, Some(offset)) => write!(f, "{} at byte {offset}", self.file),
            (line, None) => write!(f, "{}:{line}", self.file),
        }
    }
}

/// One document.
#[derive(Clone, Debug)]
pub struct Record {
    /// Where it begins.
    pub place: Place,
    /// Its id: from the id field, natural to its format, or made from the input's name and the position.
    pub id: String,
    /// Whether another document of the same input may have the same id; false for ids made from positions.
    pub id_given: bool,
    /// A JSON object on one line.
    pub source: Vec<u8>,
    /// Which input it is from: its number.
    pub input: u32,
    /// Where reading goes on behind it.
    pub next: Mark,
}

/// Why something could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// The file or directory could not be opened or read.
    CannotRead,
    /// The file is no longer the one that was cut into pieces.
    Changed,
    /// The compressed stream ends too early; what came before it was read.
    Truncated,
    /// The compressed stream is damaged; what came before the damage was read.
    Corrupt,
    /// Not UTF-8.
    InvalidUtf8,
    /// Not JSON.
    InvalidJson,
    /// JSON, but not an object.
    NotAnObject,
    /// Longer than `record_bytes_max`.
    TooLong,
    /// A row has more or fewer values than the header has columns.
    WrongColumns,
    /// A quoted value that is never closed.
    UnclosedQuote,
    /// A paragraph that is not one of `Field: value` lines, or names no package.
    InvalidParagraph,
    /// The id field is missing, or is not a string, number or boolean.
    NoId,
    /// A binary file where text was expected.
    NotText,
}

impl FaultKind {
    /// Its name in counts.
    pub fn name(self) -> &'static str {
        match self {
            Self::CannotRead => "cannot_read",
            Self::Changed => "changed",
            Self::Truncated => "truncated_stream",
            Self::Corrupt => "corrupt_stream",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::InvalidJson => "invalid_json",
            Self::NotAnObject => "not_an_object",
            Self::TooLong => "too_long",
            Self::WrongColumns => "wrong_columns",
            Self::UnclosedQuote => "unclosed_quote",
            Self::InvalidParagraph => "invalid_paragraph",
            Self::NoId => "no_id",
            Self::NotText => "not_text",
        }
    }

    /// Whether a file, or the rest of one, could not be read: that says nothing of the documents in it, and another
    /// attempt may read it.
    pub fn is_unread(self) -> bool {
        matches!(self, Self::CannotRead | Self::Changed)
    }
}

/// Something that could not be read.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Where.
    pub place: Place,
    /// What kind.
    pub kind: FaultKind,
    /// Why, for a person.
    pub reason: String,
    /// Which input it is of: its number.
    pub input: u32,
    /// Where reading goes on behind it.
    pub next: Mark,
}

/// A file was opened and its format is known. Comes before everything else about it.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The file.
    pub file: Arc<str>,
    /// Its format; never `Auto`.
    pub format: Format,
    /// Its compression.
    pub compression: Compression,
    /// A mapping (the object under `mappings`) that fits the format and the beginning of the file.
    pub mapping: serde_json::Value,
}

/// What reading produces.
#[derive(Clone, Debug)]
pub enum Event {
    /// A file begins.
    Opened(Box<Opened>),
    /// A document.
    Record(Record),
    /// Something that is not one.
    Fault(Fault),
}

/// The receiving end of a reading thread. Dropping it ends the thread.
pub struct Reading {
    /// Events in order, a chunk at a time; closed at the end of the last input.
    pub events: mpsc::Receiver<Vec<Event>>,
    /// Bytes read so far, as they are stored (compressed).
    pub bytes_read: Arc<AtomicU64>,
    /// Bytes of all inputs, as they are stored; `None` when standard input is one of them.
    pub bytes_total: Option<u64>,
    thread: std::thread::JoinHandle<()>,
}

impl Reading {
    /// Whether the thread ended by itself; `false` when it panicked, so that a bug is not taken for the end of the input.
    /// Waits for it, so call it once `events` is closed.
    pub fn ended_well(self) -> bool {
        drop(self.events);
        self.thread.join().is_ok()
    }
}

/// Starts a thread that reads all inputs in order.
///
/// # Errors
/// When the thread cannot be started.
pub fn read(inputs: Vec<Input>, options: ReadOptions) -> std::io::Result<Reading> {
    let bytes_total = bytes_total(&inputs);
    Ok(Reading { bytes_total, ..read_from(inputs, options)? })
}

/// As [`read`], of inputs that are still being found.
///
/// # Errors
/// When the thread cannot be started.
pub fn read_from<I>(inputs: I, options: ReadOptions) -> std::io::Result<Reading>
where
    I: IntoIterator<Item = Input> + Send + 'static,
{
    let (sender, events) = mpsc::channel(CHANNEL_CHUNKS);
    let bytes_read = Arc::new(AtomicU64::new(0));
    let counter = bytes_read.clone();
    let runtime = tokio::runtime::Handle::try_current().ok();
    let thread = std::thread::Builder::new().name("reader".to_owned()).spawn(move || {
        let mut sink = sink::Sink::new(sender, options.id_field.clone());
        for (number, input) in inputs.into_iter().enumerate() {
            sink.input(u32::try_from(number).unwrap_or(u32::MAX));
            if source::read_input(&input, &options, &counter, runtime.as_ref(), &mut sink).is_err() {
                return;
            }
        }
        sink.flush().ok();
    })?;
    Ok(Reading { events, bytes_read, bytes_total: None, thread })
}

#[cfg(test)]
mod tests;
