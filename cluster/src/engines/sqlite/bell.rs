//! A few bytes in a file by which processes tell each other that they have committed.
//!
//! Reading them costs a microsecond, where asking SQLite costs two thread switches and a handful of
//! file locks. Whoever commits rings afterwards, so who hears the bell finds the commit. It is no more
//! than a hint: a process that dies between its commit and its ring is found out by asking SQLite now
//! and then.
//!
//! There is a second, softer bell for commits that others need not hear of at once.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a bell says. No two rings are the same.
pub(super) type Tone = [u8; 16];

/// What both bells say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tones {
    /// The bell's.
    pub(super) loud: Tone,
    /// The softer bell's.
    pub(super) soft: Tone,
}

/// The bell of one database.
#[derive(Debug)]
pub(super) struct Bell {
    file: File,
    /// Tells this instance's rings from all others'.
    instance: u64,
    rings: AtomicU64,
}

impl Bell {
    /// Opens `NAME.bell` beside the database, making it if it is missing.
    pub(super) fn open(database: &Path) -> io::Result<Self> {
        let path = database.with_extension("bell");
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
        let bell = Self { file, instance: rand::random(), rings: AtomicU64::new(0) };
        // Takes up its block on the disk now, so that a full disk does not silence it.
        bell.ring_softly();
        bell.ring();
        Ok(bell)
    }

    /// Tells everyone. What goes wrong here is made up for by asking SQLite.
    pub(super) fn ring(&self) {
        self.ring_at(0);
    }

    /// Tells everyone who listens for it.
    pub(super) fn ring_softly(&self) {
        self.ring_at(size_of::<Tone>() as u64);
    }

    fn ring_at(&self, offset: u64) {
        let mut tone = Tone::default();
        tone[..8].copy_from_slice(&self.instance.to_le_bytes());
        tone[8..].copy_from_slice(&self.rings.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        if let Err(error) = self.file.write_all_at(&tone, offset) {
            tracing::debug!(%error, "cannot ring");
        }
    }

    /// Whether this instance rang last.
    pub(super) fn is_own(&self, tone: &Tone) -> bool {
        tone[..8] == self.instance.to_le_bytes()
    }

    /// The last rings; `None` when they cannot be read. A ring that is being written may be heard as
    /// something else, and is heard again afterwards.
    pub(super) fn tones(&self) -> Option<Tones> {
        let mut bytes = [0; size_of::<Tones>()];
        self.file.read_exact_at(&mut bytes, 0).ok()?;
        let (mut tones, (loud, soft)) = (Tones::default(), bytes.split_at(size_of::<Tone>()));
        tones.loud.copy_from_slice(loud);
        tones.soft.copy_from_slice(soft);
        Some(tones)
    }
}
