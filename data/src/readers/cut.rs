//! Cuts inputs into pieces that can be read apart from each other, in any order.
//!
//! A plain file of lines, rows or paragraphs longer than a piece is cut between two of them; everything else is one piece.
//! A file here is scanned to its end for that, which counts its lines, so that documents have the same ids and places in
//! messages as when the file is read in one go; and a row may only be told from a line break inside quotes by reading from
//! the beginning. An object elsewhere is looked at around each cut only; its documents are known by their byte offset.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::piece::{Identity, Location, Piece, Range};
use super::remote::{self, Remote};
use super::sink::Stop;
use super::source::{Examined, drain, examine, files, name};
use super::{Compression, Fault, FaultKind, Format, Input, Mark, Opened, Place, ReadOptions, csv};

/// Pieces that wait for the consumer.
const CHANNEL_CUTS: usize = 64;
const BUFFER_BYTES: usize = 1024 * 1024;

/// How to cut.
#[derive(Clone, Debug)]
pub struct CutOptions {
    /// How the pieces are going to be read.
    pub read: ReadOptions,
    /// Size of a piece, in stored bytes; default 16 MiB.
    pub piece_bytes: u64,
}

impl Default for CutOptions {
    fn default() -> Self {
        Self { read: ReadOptions::default(), piece_bytes: 16 * 1024 * 1024 }
    }
}

/// What cutting produces.
#[derive(Clone, Debug)]
pub enum Cut {
    /// A file with something in it begins.
    Opened(Box<Opened>),
    /// A piece of the file that was opened last.
    Piece(Box<Piece>),
    /// A file that cannot be read at all.
    Fault(Fault),
}

/// The receiving end of a cutting thread. Dropping it ends the thread.
pub struct Cutting {
    /// Cuts in the order of the inputs; closed at the end of the last one.
    pub cuts: mpsc::Receiver<Cut>,
    thread: std::thread::JoinHandle<()>,
}

impl Cutting {
    /// Whether the thread ended by itself rather than by a panic. Waits for it.
    pub fn ended_well(self) -> bool {
        drop(self.cuts);
        self.thread.join().is_ok()
    }
}

/// Whether an input can be read again from any of its pieces: not standard input, a pipe, or bytes in memory.
pub fn can_be_cut(input: &Input) -> bool {
    match input {
        Input::Path(path) => std::fs::metadata(path).map_or(true, |found| found.is_file() || found.is_dir()),
        Input::Url(_) => true,
        Input::Stdin | Input::Bytes { .. } | Input::Piece(_) => false,
    }
}

/// Starts a thread that cuts all inputs in order.
///
/// # Errors
/// When the thread cannot be started.
pub fn cut(inputs: Vec<Input>, options: CutOptions) -> io::Result<Cutting> {
    let (sender, cuts) = mpsc::channel(CHANNEL_CUTS);
    let cutter = Cutter { options, sender, runtime: Handle::try_current().ok() };
    let thread = std::thread::Builder::new().name("cutter".to_owned()).spawn(move || {
        for input in inputs {
            if cutter.input(&input).is_err() {
                return;
            }
        }
    })?;
    Ok(Cutting { cuts, thread })
}

struct Cutter {
    options: CutOptions,
    sender: mpsc::Sender<Cut>,
    runtime: Option<Handle>,
}

/// A file about to be cut.
struct Source {
    name: String,
    location: Location,
    identity: Identity,
    /// Whether any part of it can be had without the rest.
    ranges: bool,
}

impl Cutter {
    fn input(&self, input: &Input) -> Result<(), Stop> {
        match input {
            Input::Path(path) if path.is_dir() => files(path, &mut |found| match found {
                Ok(path) => self.path(&path),
                Err((path, error)) => self.fault(&name(&path), FaultKind::CannotRead, error.to_string()),
            }),
            Input::Path(path) => self.path(path),
            Input::Url(url) => self.url(url),
            Input::Piece(piece) => self.send(Cut::Piece(piece.clone())),
            Input::Stdin | Input::Bytes { .. } => {
                self.fault("-", FaultKind::CannotRead, "standard input cannot be cut into tasks".to_owned())
            }
        }
    }

    fn path(&self, path: &Path) -> Result<(), Stop> {
        let opened = || {
            let file = File::open(path)?;
            let metadata = file.metadata()?;
            if !metadata.is_file() {
                return Err(io::Error::other("not a file: it cannot be cut into tasks"));
            }
            Ok((file, metadata, std::path::absolute(path)?))
        };
        match opened() {
            Ok((file, metadata, absolute)) => {
                let identity = Identity::of(&metadata);
                let source = Source { name: name(path), location: Location::Path(absolute), identity, ranges: true };
                self.file(source, Box::new(file))
            }
            Err(error) => self.fault(&name(path), FaultKind::CannotRead, error.to_string()),
        }
    }

    fn url(&self, url: &str) -> Result<(), Stop> {
        let Some(runtime) = &self.runtime else { return Ok(()) };
        let urls = match runtime.block_on(remote::objects(url)) {
            Ok(urls) => urls,
            Err(reason) => return self.fault(&remote::name(url), FaultKind::CannotRead, reason),
        };
        for url in urls {
            let name = remote::name(&url);
            let probed = Remote::new(&url).and_then(|remote| Ok((runtime.block_on(remote.probe())?, remote)));
            match probed {
                Ok((probe, remote)) => {
                    let size = probe.identity.size;
                    let reader = remote.reader(runtime.clone(), 0..size, Some(probe.identity.clone()));
                    let (identity, ranges) = (probe.identity, probe.ranges);
                    let source = Source { name, location: Location::Url(url), identity, ranges };
                    self.file(source, Box::new(reader))?;
                }
                Err(reason) => self.fault(&name, FaultKind::CannotRead, reason)?,
            }
        }
        Ok(())
    }

    /// Finds out what a file holds and cuts it.
    fn file(&self, source: Source, stored: Box<dyn Read + Send>) -> Result<(), Stop> {
        let mut examined = match examine(&source.name, stored, &self.options.read) {
            Ok(examined) => examined,
            Err((kind, reason)) => return self.fault(&source.name, kind, reason),
        };
        if examined.empty && examined.compression == Compression::Plain {
            return match drain(&mut examined.reader) {
                Err(Stop::Io { error, .. }) => self.fault(&source.name, FaultKind::CannotRead, error.to_string()),
                other => other,
            };
        }
        let (format, compression) = (examined.format, examined.compression);
        if !examined.empty {
            let (file, mapping) = (Arc::from(source.name.as_str()), examined.mapping());
            self.send(Cut::Opened(Box::new(Opened { file, format, compression, mapping })))?;
        }
        let long = source.identity.size > self.options.piece_bytes;
        let cuttable = matches!(format, Format::Ndjson | Format::Debian)
            || matches!((&examined.table, &source.location), (Some(_), Location::Path(_)));
        if !(long && cuttable && source.ranges && compression == Compression::Plain) {
            return self.piece(&source, &examined, None);
        }
        let result = match &source.location {
            Location::Path(path) => self.local(&source, path, &examined),
            Location::Url(url) => self.remote(&source, url, &examined),
        };
        match result {
            Err(Stop::Io { error, .. }) => self.fault(&source.name, FaultKind::CannotRead, error.to_string()),
            other => other,
        }
    }

    fn local(&self, source: &Source, path: &Path, examined: &Examined) -> Result<(), Stop> {
        let failed = |error| Stop::Io { line: 0, error };
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, File::open(path).map_err(failed)?);
        let mut pieces = Pieces { cutter: self, source, examined, from: Mark::START };
        let piece_bytes = self.options.piece_bytes;
        let end = match &examined.table {
            Some(table) => {
                let mut stopped = Ok(());
                let bytes_max = self.options.read.record_bytes_max;
                let end = csv::boundaries(&mut reader, bytes_max, table.delimiter, |mark| {
                    if mark.offset >= pieces.from.offset + piece_bytes {
                        stopped = pieces.until(mark);
                    }
                    stopped.is_ok()
                });
                stopped?;
                end?
            }
            None => {
                let mut scanner = Scanner::new(examined.format, Mark::START);
                loop {
                    let target = pieces.from.offset + piece_bytes;
                    match scanner.boundary(&mut reader, target).map_err(failed)? {
                        Some(mark) => pieces.until(mark)?,
                        None => break scanner.at,
                    }
                }
            }
        };
        pieces.until(end)
    }

    fn remote(&self, source: &Source, url: &str, examined: &Examined) -> Result<(), Stop> {
        let Some(runtime) = &self.runtime else { return Ok(()) };
        let failed = |reason: String| Stop::Io { line: 0, error: io::Error::other(reason) };
        let size = source.identity.size;
        let mut pieces = Pieces { cutter: self, source, examined, from: Mark::START };
        loop {
            let target = pieces.from.offset + self.options.piece_bytes;
            if target >= size {
                return pieces.until(Mark { offset: size, line: 1 });
            }
            // From the byte before, for the line feed may be the last one of this piece.
            let remote = Remote::new(url).map_err(failed)?;
            let mut reader =
                BufReader::new(remote.reader(runtime.clone(), target - 1..size, Some(source.identity.clone())));
            let mut scanner = Scanner::new(examined.format, Mark { offset: target - 1, line: 1 });
            scanner.line_begun();
            let found = scanner.boundary(&mut reader, target - 1).map_err(|error| Stop::Io { line: 0, error })?;
            pieces.until(Mark { offset: found.map_or(size, |mark| mark.offset), line: 1 })?;
        }
    }

    fn piece(&self, source: &Source, examined: &Examined, range: Option<Range>) -> Result<(), Stop> {
        self.send(Cut::Piece(Box::new(Piece {
            name: source.name.clone(),
            location: source.location.clone(),
            identity: source.identity.clone(),
            range,
            lines: matches!(source.location, Location::Path(_)),
            format: examined.format,
            table: examined.table.clone(),
            number: 0,
            resume: Mark::START,
        })))
    }

    fn fault(&self, file: &str, kind: FaultKind, reason: String) -> Result<(), Stop> {
        let place = Place { file: Arc::from(file), line: 0, offset: None };
        self.send(Cut::Fault(Fault { place, kind, reason, input: 0, next: Mark::START }))
    }

    fn send(&self, cut: Cut) -> Result<(), Stop> {
        self.sender.blocking_send(cut).map_err(|_| Stop::Gone)
    }
}

/// The pieces of one file, each beginning where the one before ends.
struct Pieces<'a> {
    cutter: &'a Cutter,
    source: &'a Source,
    examined: &'a Examined,
    from: Mark,
}

impl Pieces<'_> {
    fn until(&mut self, to: Mark) -> Result<(), Stop> {
        if to.offset > self.from.offset {
            let range = Range { from: self.from, to: to.offset };
            self.cutter.piece(self.source, self.examined, Some(range))?;
        }
        self.from = to;
        Ok(())
    }
}

/// Finds ends of lines, or of paragraphs, counting lines.
struct Scanner {
    /// Whether only blank lines end something.
    paragraphs: bool,
    at: Mark,
    /// Whether the line at hand is blank so far.
    blank: bool,
}

impl Scanner {
    fn new(format: Format, at: Mark) -> Self {
        Self { paragraphs: format == Format::Debian, at, blank: true }
    }

    /// The scanner stands in the middle of a line.
    fn line_begun(&mut self) {
        self.blank = false;
    }

    /// The first boundary behind `target`, or `None` at the end of the input.
    fn boundary(&mut self, reader: &mut impl BufRead, target: u64) -> io::Result<Option<Mark>> {
        loop {
            let bytes = reader.fill_buf()?;
            if bytes.is_empty() {
                return Ok(None);
            }
            let before = usize::try_from(target.saturating_sub(self.at.offset)).unwrap_or(usize::MAX).min(bytes.len());
            if before > 0 {
                self.at.line += memchr::memchr_iter(b'\n', &bytes[..before]).count() as u64;
                self.blank = bytes[before - 1] == b'\n';
                self.consume(reader, before);
                continue;
            }
            let Some(end) = memchr::memchr(b'\n', bytes) else {
                self.blank &= bytes.trim_ascii().is_empty();
                let length = bytes.len();
                self.consume(reader, length);
                continue;
            };
            let ends = !self.paragraphs || (self.blank && bytes[..end].trim_ascii().is_empty());
            self.blank = true;
            self.at.line += 1;
            self.consume(reader, end + 1);
            if ends {
                return Ok(Some(self.at));
            }
        }
    }

    fn consume(&mut self, reader: &mut impl BufRead, bytes: usize) {
        reader.consume(bytes);
        self.at.offset += bytes as u64;
    }
}

#[cfg(test)]
mod tests;
