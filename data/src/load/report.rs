//! What loading tells: while it goes on, to an [`Observer`]; at the end, in a [`Report`].

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::task::Tally;
use crate::readers::{Compression, Format, Place};

/// A document that was not loaded.
#[derive(Clone, Debug)]
pub struct Rejection {
    /// Where it stands.
    pub place: Place,
    /// The kind: what counts are kept by.
    pub kind: String,
    /// Why.
    pub reason: String,
}

/// How far loading is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Documents acknowledged.
    pub loaded: u64,
    /// Documents rejected.
    pub rejected: u64,
    /// Bytes read, as they are stored (compressed).
    pub bytes_read: u64,
    /// Bytes to read, if known.
    pub bytes_total: Option<u64>,
    /// Bytes of documents acknowledged.
    pub bytes_loaded: u64,
    /// Time since the beginning.
    pub elapsed: Duration,
}

/// Is told what happens. Called often and from the loading task: must not block for long.
pub trait Observer: Send + Sync {
    /// A file begins.
    fn opened(&self, _file: &str, _format: Format, _compression: Compression) {}
    /// The present state, several times a second.
    fn progress(&self, _progress: &Progress) {}
    /// A document was not loaded.
    fn rejected(&self, _rejection: &Rejection) {}
    /// A file, or the rest of one, could not be read.
    fn unread(&self, _place: &Place, _reason: &str) {}
    /// The load goes on from where an earlier run of it was interrupted, which had come to these counts.
    fn resuming(&self, _earlier: &Tally) {}
    /// The claim on the load ran out, because the cluster was away or this process was paused; it is claimed again.
    fn retaking(&self) {}
    /// A batch is sent again after a pause.
    fn retrying(&self, _reason: &str, _pause: Duration) {}
}

/// An observer that ignores everything.
pub struct Quiet;

impl Observer for Quiet {}

/// What was loaded.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Documents acknowledged.
    pub loaded: u64,
    /// Of these, documents that took the place of one with the same `_id`, from this load or before.
    pub replaced: u64,
    /// Bytes of these.
    pub bytes_loaded: u64,
    /// Documents rejected, by kind.
    pub rejected: BTreeMap<String, u64>,
    /// Files that could not be read, wholly or to their end.
    pub unread: u64,
    /// Requests sent again.
    pub retries: u64,
    /// What an earlier, interrupted run of the same load had come to.
    pub earlier: Tally,
    /// How long it took.
    pub elapsed: Duration,
}

impl Report {
    /// The number of everything rejected.
    pub fn rejected_total(&self) -> u64 {
        self.rejected.values().sum()
    }

    /// Whether everything there was is loaded.
    pub fn is_complete(&self) -> bool {
        self.rejected_total() + self.earlier.rejected_total() + self.unread == 0
    }

    /// Documents per second.
    pub fn documents_per_second(&self) -> f64 {
        self.loaded as f64 / self.elapsed.as_secs_f64().max(1e-3)
    }
}

/// So many of what has a plural with an s: "1 file", "2 files".
pub fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.documents_per_second();
        let megabytes = self.bytes_loaded as f64 / 1e6;
        write!(
            f,
            "loaded {} ({megabytes:.1} MB) in {:.1} s, {rate:.0} docs/s",
            counted(self.loaded, "document"),
            self.elapsed.as_secs_f64()
        )?;
        if self.replaced > 0 {
            write!(f, "; {} of them replaced documents with the same _id", self.replaced)?;
        }
        let rejected = self.rejected_total();
        write!(f, "; rejected {rejected}")?;
        if rejected > 0 {
            let kinds: Vec<String> = self.rejected.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
            write!(f, " ({})", kinds.join(", "))?;
        }
        if self.unread > 0 {
            write!(f, "; could not be read: {}", counted(self.unread, "file"))?;
        }
        let (loaded, rejected) = (self.earlier.loaded, self.earlier.rejected_total());
        if loaded + rejected > 0 {
            write!(f, "; {loaded} more had been loaded before the interruption")?;
        }
        if rejected > 0 {
            write!(f, " and {rejected} rejected")?;
        }
        if self.retries > 0 {
            write!(f, "; {} sent again", counted(self.retries, "request"))?;
        }
        Ok(())
    }
}
