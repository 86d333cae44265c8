//! What can go wrong with a replica or a leaf, by what happens next.

use std::path::PathBuf;

use tantivy::TantivyError;
use tantivy::directory::error::{OpenDirectoryError, OpenReadError};
use trawl_cluster::protocol::Refusal;
use trawl_proto::Generation;

/// How `std::io::Error` shows ENOSPC, EDQUOT and EFBIG, and how tantivy shows them inside of its own.
const NO_ROOM: [&str; 6] = ["(os error 28)", "(os error 122)", "(os error 27)", "code: 28,", "code: 122,", "code: 27,"];

/// An error of a replica or of the leaf.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster engine failed; the replica goes on when it is back.
    #[error("cluster engine: {0}")]
    Engine(#[from] trawl_cluster::Error),
    /// The index could not be read or written; the replica stops and is tried again.
    #[error("index: {0}")]
    Index(#[from] TantivyError),
    /// A file could not be read or written; the replica stops and is tried again.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// What is on disk does not fit together.
    #[error("damaged replica: {0}")]
    Damaged(String),
    /// The log does not continue what the replica holds.
    #[error("log does not continue this replica: {0}")]
    History(String),
    /// The replica cannot go on from the log: it has to be made anew from another.
    #[error("this replica has to be made anew: {0}")]
    Anew(String),
    /// Another leaf could not give a copy of its replica.
    #[error("cannot copy from leaf {leaf}: {reason}")]
    Copy {
        /// The other leaf.
        leaf: String,
        /// Why not.
        reason: String,
    },
    /// Another leaf gives as many copies as it may already.
    #[error("leaf {0} is giving as many copies as it may")]
    Busy(String),
    /// A row of the log, or a mapping, cannot be understood.
    #[error("unreadable: {0}")]
    Unreadable(String),
    /// An operation panics or hangs whenever it is tried; the replica waits before it until the leader has
    /// it skipped.
    #[error("operation {at} cannot be applied: {reason}")]
    Poison {
        /// The operation.
        at: Generation,
        /// What it did.
        reason: String,
    },
    /// Too many threads hang in operations; only a restart of the process ends them.
    #[error("{count} threads hang in documents that never end; restart this leaf")]
    Abandoned {
        /// How many.
        count: i64,
    },
    /// Another process uses the data directory.
    #[error("data directory {0} is in use by another process")]
    DataDirLocked(PathBuf),
    /// The gRPC server failed.
    #[error("grpc server: {0}")]
    Server(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// This leaf does not speak the cluster's protocol.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Another process has registered under this leaf's name.
    #[error("another process has registered under the name {0}")]
    Replaced(String),
}

impl Error {
    /// Wraps an I/O error with what was tried.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// Whether what is on disk is damaged, as far as an error at opening tells.
    pub fn is_damage(&self) -> bool {
        use std::io::ErrorKind;
        // A file that ends early or holds nonsense; any other trouble may be over the next time.
        let is_nonsense = |kind| matches!(kind, ErrorKind::UnexpectedEof | ErrorKind::InvalidData);
        match self {
            Self::Anew(_) | Self::Damaged(_) => true,
            Self::Index(
                TantivyError::IoError(io_error) | TantivyError::OpenReadError(OpenReadError::IoError { io_error, .. }),
            ) => is_nonsense(io_error.kind()),
            Self::Index(error) => matches!(
                error,
                TantivyError::DataCorruption(_)
                    | TantivyError::IncompatibleIndex(_)
                    | TantivyError::OpenReadError(
                        OpenReadError::FileDoesNotExist(_) | OpenReadError::IncompatibleIndex(_)
                    )
                    | TantivyError::OpenDirectoryError(OpenDirectoryError::DoesNotExist(_))
                    | TantivyError::SchemaError(_)
            ),
            _ => false,
        }
    }

    /// Whether there is no room on the disk (or within a quota) for what had to be written. Tantivy keeps
    /// the operating system's error as text in places, so the text is what is looked at.
    pub fn is_disk_full(&self) -> bool {
        let reason = self.reason();
        NO_ROOM.iter().any(|text| reason.contains(text))
    }

    /// The whole chain of causes in one line, for a reason that a person reads.
    pub fn reason(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let part = error.to_string();
            if !text.contains(&part) {
                text.push_str(": ");
                text.push_str(&part);
            }
            cause = error.source();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_full_disk_is_told_from_other_trouble() {
        let os = |code| std::io::Error::from_raw_os_error(code);
        assert!(Error::io("write", "/x")(os(28)).is_disk_full());
        assert!(Error::Index(TantivyError::IoError(Arc::new(os(28)))).is_disk_full());
        assert!(Error::Index(TantivyError::IoError(Arc::new(os(122)))).is_disk_full());
        assert!(!Error::io("write", "/x")(os(13)).is_disk_full());
        assert!(!Error::Index(TantivyError::ErrorInThread("killed".to_owned())).is_disk_full());
    }
}
