//! A piece of work for a reader: a whole file, or a range of a plain one that begins and ends between two documents.
//!
//! A piece says everything that was found out when the file was cut, so that whoever reads it, wherever and however often,
//! makes the same documents of it; and which file it was, so that nothing is made of another one that took its place.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::remote::{self, Remote};
use super::{FaultKind, Format, Mark, Table};

/// Where the bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Location {
    /// A file, by its absolute path.
    Path(PathBuf),
    /// An object behind `s3://`, `http://` or `https://`.
    Url(String),
}

/// Which content it was that was cut.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Stored bytes.
    pub size: u64,
    /// Nanoseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified_ns: Option<u64>,
    /// What the server calls this version of the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
}

/// A part of a plain file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Where it begins.
    pub from: Mark,
    /// The offset at which it ends.
    pub to: u64,
}

/// A file or a range of one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Piece {
    /// The file as it was named: for messages and for the ids of documents that bring none.
    pub name: String,
    /// Where it is.
    pub location: Location,
    /// Which content it was.
    pub identity: Identity,
    /// Which part of it; `None`: all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<Range>,
    /// Whether the line at the beginning of the range is known; else ids are made of offsets.
    pub lines: bool,
    /// What it contains; never `Auto`.
    pub format: Format,
    /// Its columns, for delimited values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<Table>,
    /// Its number among the pieces that are read together; told with every event.
    #[serde(skip)]
    pub number: u32,
    /// From where to go on reading; what ends before was passed on earlier.
    #[serde(skip, default = "start")]
    pub resume: Mark,
}

fn start() -> Mark {
    Mark::START
}

impl Piece {
    /// Stored bytes of it.
    pub fn bytes(&self) -> u64 {
        self.range.map_or(self.identity.size, |range| range.to - range.from.offset)
    }

    /// Where reading begins: at the range's beginning, or where it was left.
    pub(super) fn from(&self) -> Mark {
        let from = self.range.map_or(Mark::START, |range| range.from);
        if self.resume.offset > from.offset { self.resume } else { from }
    }

    /// The stored bytes from `offset` on, and when the file was changed last.
    pub(super) fn open(&self, offset: u64, runtime: Option<&Handle>) -> Result<Stored, (FaultKind, String)> {
        let to = self.range.map_or(self.identity.size, |range| range.to);
        match &self.location {
            Location::Path(path) => {
                let cannot = |error: io::Error| (FaultKind::CannotRead, format!("{}: {error}", path.display()));
                let mut file = File::open(path).map_err(cannot)?;
                let metadata = file.metadata().map_err(cannot)?;
                if Identity::of(&metadata) != self.identity {
                    return Err((FaultKind::Changed, changed(&path.display().to_string())));
                }
                file.seek(SeekFrom::Start(offset)).map_err(cannot)?;
                let modified = metadata.modified().ok();
                Ok(Stored { bytes: Box::new(file.take(to.saturating_sub(offset))), modified })
            }
            Location::Url(url) => {
                let cannot = |reason: String| (FaultKind::CannotRead, reason);
                let runtime = runtime.ok_or_else(|| cannot(format!("{url}: no runtime to read it with")))?;
                let remote = Remote::new(url).map_err(cannot)?;
                let reader = remote.reader(runtime.clone(), offset..to, Some(self.identity.clone()));
                Ok(Stored { bytes: Box::new(reader), modified: None })
            }
        }
    }
}

/// An opened file.
pub(super) struct Stored {
    pub(super) bytes: Box<dyn Read + Send>,
    pub(super) modified: Option<SystemTime>,
}

impl Identity {
    /// Of a file here.
    pub(super) fn of(metadata: &Metadata) -> Self {
        let since = metadata.modified().ok().and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        let modified_ns = since.and_then(|since| u64::try_from(since.as_nanos()).ok());
        Self { size: metadata.len(), modified_ns, etag: None }
    }
}

/// Says that a file is another one now.
pub(super) fn changed(name: &str) -> String {
    format!("{name} has changed since it was cut into tasks: load it again")
}

/// What an error while reading stored bytes means when it is not the content that is at fault.
pub(super) fn fault(error: &io::Error) -> Option<(FaultKind, String)> {
    let remote = error.get_ref()?.downcast_ref::<remote::Error>()?;
    Some(match remote {
        remote::Error::Changed(reason) => (FaultKind::Changed, reason.clone()),
        remote::Error::CannotRead(reason) => (FaultKind::CannotRead, reason.clone()),
    })
}
