//! From an input to its files: walks directories, opens, counts the bytes read, and hands each file to its reader.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::compression::{Sampled, decode, fault};
use super::csv_types::table;
use super::detect::detect;
use super::sink::{MadeId, Sink, Stop};
use super::text::About;
use super::{FaultKind, Format, Input, Opened, ReadOptions, csv, debian, json, mapping, ndjson, text};

/// How much of a file's beginning is looked at to find its format and a mapping.
const SAMPLE_BYTES: usize = 256 * 1024;

/// Reads one input to its end. Fails only when nobody listens any more.
pub(super) fn read_input(
    input: &Input,
    options: &ReadOptions,
    counter: &Arc<AtomicU64>,
    sink: &mut Sink,
) -> Result<(), Stop> {
    let mut reader = FileReader { options, counter, sink };
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
    }
}

/// The stored bytes of all inputs; `None` when that cannot be known.
pub(super) fn bytes_total(inputs: &[Input]) -> Option<u64> {
    inputs.iter().try_fold(0, |total, input| {
        Some(
            total
                + match input {
                    Input::Stdin => return None,
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
    sink: &'a mut Sink,
}

impl FileReader<'_> {
    fn directory(&mut self, path: &Path) -> Result<(), Stop> {
        walk(path, &mut |found| match found {
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

    /// Reads one stream: decompress, find the format, read it.
    fn stream(&mut self, stored: Box<dyn Read + Send>, about: &About) -> Result<(), Stop> {
        let counted = Counted { reader: stored, counter: self.counter.clone() };
        let (compression, decoded) = match decode(Box::new(counted)) {
            Ok(decoded) => decoded,
            Err(error) => return self.sink.fault(0, FaultKind::CannotRead, error.to_string()),
        };
        let mut reader = Sampled::new(decoded, SAMPLE_BYTES);
        let file = self.sink.file().clone();
        let bytes_max = self.options.record_bytes_max;

        let format = match self.options.format {
            Format::Auto => detect(&file, reader.sample(), reader.is_whole()),
            format => Some(format),
        };
        let Some(format) = format else {
            return self.sink.fault(0, FaultKind::NotText, "a binary file of unknown format");
        };
        let table = match format {
            Format::Csv | Format::Tsv => {
                let delimiter = (format == Format::Tsv).then_some(b'\t');
                table(reader.sample(), reader.is_whole(), delimiter, &self.options.field_types)
            }
            _ => None,
        };
        if !reader.sample().is_empty() {
            let mapping = mapping::fitting(format, table.as_ref(), reader.sample());
            self.sink.opened(Opened { file, format, compression, mapping })?;
        }

        let result = match (format, &table) {
            (Format::Ndjson, _) => ndjson::read(&mut reader, bytes_max, self.sink),
            (Format::Json, _) => json::read(&mut reader, bytes_max, self.sink),
            (Format::Debian, _) => debian::read(&mut reader, bytes_max, self.sink),
            (Format::Csv | Format::Tsv, Some(table)) => csv::read(&mut reader, bytes_max, table, self.sink),
            (Format::Csv | Format::Tsv, None) if reader.sample().trim_ascii().is_empty() => drain(&mut reader),
            (Format::Csv | Format::Tsv, None) => {
                self.sink.fault(1, FaultKind::TooLong, format!("no header within the first {SAMPLE_BYTES} bytes"))
            }
            (Format::Text | Format::Auto, _) => text::read(&mut reader, bytes_max, about, self.sink),
        };
        match result {
            Err(Stop::Io { line, error }) => {
                let (kind, reason) = fault(compression, &error);
                self.sink.fault(line, kind, reason)
            }
            other => other,
        }
    }
}

/// Meets the error, if any, behind a beginning that holds nothing.
fn drain(reader: &mut dyn Read) -> Result<(), Stop> {
    io::copy(reader, &mut io::sink()).map(drop).map_err(|error| Stop::Io { line: 1, error })
}

/// Visits every regular file below a directory, sorted by name level by level; hidden ones are left out, links to
/// directories are not followed.
fn walk(
    directory: &Path,
    visit: &mut dyn FnMut(Result<PathBuf, (PathBuf, io::Error)>) -> Result<(), Stop>,
) -> Result<(), Stop> {
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
            Ok(_) if path.is_file() => visit(Ok(path))?,
            Ok(_) => {}
            Err(error) => visit(Err((path, error)))?,
        }
    }
    Ok(())
}

/// The path as it is shown and made into ids: `./notes//a.md` is `notes/a.md`.
fn name(path: &Path) -> String {
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
