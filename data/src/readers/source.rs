//! From an input to its files: walks directories, opens, counts the bytes read, and hands each file to its reader.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::runtime::Handle;

use super::compression::{Compression, Sampled, decode, fault};
use super::csv_types::{Table, table};
use super::detect::{detect, is_utf16};
use super::piece::Piece;
use super::sink::{MadeId, Sink, Stop};
use super::text::About;
use super::{
    FaultKind, Format, Input, Mark, Opened, ReadOptions, csv, debian, json, mapping, ndjson, piece, remote, text,
};

/// How much of a file's beginning is looked at to find its format and a mapping.
const SAMPLE_BYTES: usize = 256 * 1024;
/// How much of a plain range is read at once.
const RANGE_BUFFER_BYTES: usize = 128 * 1024;

/// Reads one input to its end. Fails only when nobody listens any more.
pub(super) fn read_input(
    input: &Input,
    options: &ReadOptions,
    counter: &Arc<AtomicU64>,
    runtime: Option<&Handle>,
    sink: &mut Sink,
) -> Result<(), Stop> {
    let mut reader = FileReader { options, counter, runtime, sink };
    match input {
        Input::Stdin => {
            reader.sink.begin("-", MadeId::ContentAndPosition);
            reader.stream(Box::new(io::stdin()), &About { path: None, modified: None })
        }
        Input::Bytes { name, bytes } => {
            reader.sink.begin(name, MadeId::NameAndPosition);
            let about = About { path: Some(name.clone()), modified: None };
            reader.stream(Box::new(io::Cursor::new(bytes.clone())), &about)
        }
        Input::Path(path) if path.is_dir() => reader.directory(path),
        Input::Path(path) => reader.file(path),
        Input::Url(url) => reader.url(url),
        Input::Piece(piece) => reader.piece(piece),
    }
}

/// The stored bytes of all inputs; `None` when that cannot be known.
pub fn bytes_total(inputs: &[Input]) -> Option<u64> {
    inputs.iter().try_fold(0, |total, input| {
        Some(
            total
                + match input {
                    Input::Stdin | Input::Url(_) => return None,
                    Input::Piece(piece) => piece.bytes(),
                    Input::Bytes { bytes, .. } => bytes.len() as u64,
                    Input::Path(path) if path.is_dir() => {
                        let mut bytes = 0;
                        walk(path, &mut |found| {
                            if let Ok(path) = found {
                                bytes += fs::metadata(path).map_or(0, |metadata| metadata.len());
                            }
                            Ok(())
                        })
                        .ok();
                        bytes
                    }
                    Input::Path(path) => match fs::metadata(path) {
                        Ok(metadata) if metadata.is_file() => metadata.len(),
                        Ok(_) => return None,
                        Err(_) => 0,
                    },
                },
        )
    })
}

struct FileReader<'a> {
    options: &'a ReadOptions,
    counter: &'a Arc<AtomicU64>,
    runtime: Option<&'a Handle>,
    sink: &'a mut Sink,
}

/// What was found out of the beginning of a file.
pub(super) struct Examined {
    pub(super) compression: Compression,
    pub(super) format: Format,
    pub(super) table: Option<Table>,
    /// Whether there is anything in it.
    pub(super) empty: bool,
    pub(super) reader: Sampled<Box<dyn BufRead + Send>>,
}

impl Examined {
    pub(super) fn mapping(&self) -> serde_json::Value {
        mapping::fitting(self.format, self.table.as_ref(), self.reader.sample())
    }
}

/// Decompresses, and finds out the format and what belongs to it.
pub(super) fn examine(
    name: &str,
    stored: Box<dyn Read + Send>,
    options: &ReadOptions,
) -> Result<Examined, (FaultKind, String)> {
    let (compression, decoded) =
        decode(stored).map_err(|error| piece::fault(&error).unwrap_or((FaultKind::CannotRead, error.to_string())))?;
    let reader = Sampled::new(decoded, SAMPLE_BYTES);
    let format = match options.format {
        Format::Auto => detect(name, reader.sample(), reader.is_whole()),
        format => Some(format),
    };
    let Some(format) = format else {
        let reason = match is_utf16(reader.sample()) {
            true => "UTF-16 text: only UTF-8 can be read",
            false => "a binary file of unknown format; if it is text, --format says of which: ndjson, json, csv or tsv",
        };
        return Err((FaultKind::NotText, reason.to_owned()));
    };
    let table = match format {
        Format::Csv | Format::Tsv => {
            let delimiter = (format == Format::Tsv).then_some(b'\t');
            table(reader.sample(), reader.is_whole(), delimiter, &options.field_types)
        }
        _ => None,
    };
    let empty = reader.sample().is_empty();
    Ok(Examined { compression, format, table, empty, reader })
}

impl FileReader<'_> {
    fn directory(&mut self, path: &Path) -> Result<(), Stop> {
        files(path, &mut |found| match found {
            Ok(path) => self.file(&path),
            Err((path, error)) => {
                self.sink.begin(&name(&path), MadeId::NameAndPosition);
                self.sink.fault(0, FaultKind::CannotRead, error.to_string())
            }
        })
    }

    fn file(&mut self, path: &Path) -> Result<(), Stop> {
        let name = name(path);
        self.sink.begin(&name, MadeId::NameAndPosition);
        match File::open(path) {
            Ok(file) => {
                let modified = file.metadata().and_then(|metadata| metadata.modified()).ok();
                self.stream(Box::new(file), &About { path: Some(name), modified })
            }
            Err(error) => self.sink.fault(0, FaultKind::CannotRead, error.to_string()),
        }
    }

    /// Every object that the URL stands for, each as one stream.
    fn url(&mut self, url: &str) -> Result<(), Stop> {
        let listed = match self.runtime {
            Some(runtime) => runtime.block_on(remote::objects(url)),
            None => Err("no runtime to read it with".to_owned()),
        };
        for url in listed.clone().unwrap_or_default() {
            self.object(&url)?;
        }
        if let Err(reason) = listed {
            self.sink.begin(&remote::name(url), MadeId::NameAndPosition);
            self.sink.fault(0, FaultKind::CannotRead, reason)?;
        }
        Ok(())
    }

    fn object(&mut self, url: &str) -> Result<(), Stop> {
        let name = remote::name(url);
        // As when it is cut, see `cut`.
        self.sink.begin(&name, MadeId::NameAndOffset);
        let Some(runtime) = self.runtime else { return Ok(()) };
        let remote = remote::Remote::new(url);
        let probed = remote.and_then(|remote| Ok((runtime.block_on(remote.probe())?, remote)));
        match probed {
            Ok((probe, remote)) => {
                let range = 0..probe.identity.size;
                let reader = remote.reader(runtime.clone(), range, Some(probe.identity));
                self.stream(Box::new(reader), &About { path: Some(name), modified: None })
            }
            Err(reason) => self.sink.fault(0, FaultKind::CannotRead, reason),
        }
    }

    /// Reads one stream: decompress, find the format, read it.
    fn stream(&mut self, stored: Box<dyn Read + Send>, about: &About) -> Result<(), Stop> {
        let counted = Counted { reader: stored, counter: self.counter.clone() };
        let file = self.sink.file().clone();
        let mut examined = match examine(&file, Box::new(counted), self.options) {
            Ok(examined) => examined,
            Err((kind, reason)) => return self.sink.fault(0, kind, reason),
        };
        let (compression, format) = (examined.compression, examined.format);
        if !examined.empty {
            let mapping = examined.mapping();
            self.sink.opened(Opened { file, format, compression, mapping })?;
        }
        let table = examined.table.take();
        let result = self.documents(&mut examined.reader, format, table.as_ref(), Mark::START, about);
        self.ended(compression, result)
    }

    /// Reads what a piece still holds.
    fn piece(&mut self, piece: &Piece) -> Result<(), Stop> {
        let made_id = if piece.lines { MadeId::NameAndPosition } else { MadeId::NameAndOffset };
        self.sink.begin(&piece.name, made_id);
        self.sink.input(piece.number);
        let start = piece.from();
        // Only a range of a plain file can be entered in its middle; a whole file may be compressed.
        let entered = if piece.range.is_some() { start.offset } else { 0 };
        let stored = match piece.open(entered, self.runtime) {
            Ok(stored) => stored,
            Err((kind, reason)) => return self.sink.fault(0, kind, reason),
        };
        let counted = Counted { reader: stored.bytes, counter: self.counter.clone() };
        let decoded = match piece.range {
            Some(_) => {
                let reader: Box<dyn BufRead + Send> = Box::new(BufReader::with_capacity(RANGE_BUFFER_BYTES, counted));
                Ok((Compression::Plain, reader))
            }
            None => decode(Box::new(counted)),
        };
        let (compression, mut reader) = match decoded {
            Ok(decoded) => decoded,
            Err(error) => return self.ended(Compression::Plain, Err(Stop::Io { line: 0, error })),
        };
        let file = self.sink.file().clone();
        self.sink.opened(Opened { file, format: piece.format, compression, mapping: serde_json::Value::Null })?;
        let mut begin = if piece.range.is_some() { start } else { Mark::START };
        if piece.range.is_none() && start.offset > 0 {
            if matches!(piece.format, Format::Ndjson | Format::Csv | Format::Tsv | Format::Debian) {
                let skipped = io::copy(&mut (&mut reader).take(start.offset), &mut io::sink());
                if let Err(error) = skipped {
                    return self.ended(compression, Err(Stop::Io { line: 0, error }));
                }
                begin = start;
            } else {
                self.sink.skip_through(start.offset);
            }
        }
        let about = About { path: Some(piece.name.clone()), modified: stored.modified };
        let result = self.documents(&mut reader, piece.format, piece.table.as_ref(), begin, &about);
        self.ended(compression, result)
    }

    /// Hands the content to the reader of its format.
    fn documents(
        &mut self,
        reader: &mut dyn BufRead,
        format: Format,
        table: Option<&Table>,
        start: Mark,
        about: &About,
    ) -> Result<(), Stop> {
        let bytes_max = self.options.record_bytes_max;
        match (format, table) {
            (Format::Ndjson, _) => ndjson::read(reader, bytes_max, start, self.sink),
            (Format::Json, _) => json::read(reader, bytes_max, self.sink),
            (Format::Debian, _) => debian::read(reader, bytes_max, start, self.sink),
            (Format::Csv | Format::Tsv, Some(table)) => csv::read(reader, bytes_max, table, start, self.sink),
            (Format::Csv | Format::Tsv, None) => self.no_header(reader),
            (Format::Text | Format::Auto, _) => text::read(reader, bytes_max, about, self.sink),
        }
    }

    /// A table without columns: empty, or its header is longer than what is looked at.
    fn no_header(&mut self, reader: &mut dyn BufRead) -> Result<(), Stop> {
        let mut start = Vec::new();
        let read = (&mut *reader).take(SAMPLE_BYTES as u64).read_to_end(&mut start);
        read.map_err(|error| Stop::Io { line: 1, error })?;
        if start.trim_ascii().is_empty() {
            return drain(reader);
        }
        self.sink.fault(1, FaultKind::TooLong, format!("no header within the first {SAMPLE_BYTES} bytes"))
    }

    /// Reports a stream that ended before its end.
    fn ended(&mut self, compression: Compression, result: Result<(), Stop>) -> Result<(), Stop> {
        match result {
            Err(Stop::Io { line, error }) => {
                let (kind, reason) = piece::fault(&error).unwrap_or_else(|| fault(compression, &error));
                self.sink.fault(line, kind, reason)
            }
            other => other,
        }
    }
}

/// Meets the error, if any, behind a beginning that holds nothing.
pub(super) fn drain(reader: &mut dyn BufRead) -> Result<(), Stop> {
    io::copy(reader, &mut io::sink()).map(drop).map_err(|error| Stop::Io { line: 1, error })
}

/// A file, or what could not be read in looking for files.
type Found = Result<PathBuf, (PathBuf, io::Error)>;

/// Visits every regular file below a directory, sorted by name level by level; hidden ones are left out, links to
/// directories are not followed. That there is none is an error.
pub(super) fn files(directory: &Path, visit: &mut dyn FnMut(Found) -> Result<(), Stop>) -> Result<(), Stop> {
    let mut any = false;
    walk(directory, &mut |found| {
        any = true;
        visit(found)
    })?;
    if any {
        return Ok(());
    }
    visit(Err((directory.to_owned(), io::Error::other("a directory without files"))))
}

fn walk(directory: &Path, visit: &mut dyn FnMut(Found) -> Result<(), Stop>) -> Result<(), Stop> {
    let entries = match fs::read_dir(directory).and_then(|entries| entries.collect::<io::Result<Vec<_>>>()) {
        Ok(entries) => entries,
        Err(error) => return visit(Err((directory.to_owned(), error))),
    };
    let mut paths: Vec<PathBuf> = entries
        .into_iter()
        .filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."))
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    for path in paths {
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => walk(&path, visit)?,
            Ok(_) => match fs::metadata(&path) {
                Ok(metadata) if metadata.is_file() => visit(Ok(path))?,
                Ok(_) => {}
                // A link that leads nowhere.
                Err(error) => visit(Err((path, error)))?,
            },
            Err(error) => visit(Err((path, error)))?,
        }
    }
    Ok(())
}

/// The path as it is shown and made into ids: `./notes//a.md` is `notes/a.md`.
pub(super) fn name(path: &Path) -> String {
    let components = path.components().filter(|component| *component != Component::CurDir);
    components.collect::<PathBuf>().to_string_lossy().into_owned()
}

struct Counted<R> {
    reader: R,
    counter: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.counter.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}
