//! `stdout:` and `file:`: a document per line.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::{Again, Sent};
use crate::batch::Payload;

/// Appends lines.
pub struct Lines {
    /// `None` for standard output.
    path: Option<PathBuf>,
    /// Whether the end of the file was looked at since the start.
    mended: bool,
}

impl Lines {
    /// Standard output.
    pub fn stdout() -> Self {
        Self { path: None, mended: true }
    }

    /// A file. It is opened for every batch, so it may be rotated at any time.
    pub fn file(path: &Path) -> Self {
        Self { path: Some(path.to_owned()), mended: false }
    }

    /// Writes the payload.
    pub async fn send(&mut self, payload: &Payload) -> Result<Sent, Again> {
        let (path, body, mend) = (self.path.clone(), payload.body.clone(), !self.mended);
        let written = tokio::task::spawn_blocking(move || write(path.as_deref(), &body, mend)).await;
        match written {
            Ok(Ok(())) => {
                self.mended = true;
                Ok(Sent::default())
            }
            Ok(Err(error)) => {
                // Part of it may be there.
                self.mended = self.path.is_none();
                Err(Again::whole(error))
            }
            Err(error) => Err(Again::whole(error)),
        }
    }
}

fn write(path: Option<&Path>, body: &Bytes, mend: bool) -> std::io::Result<()> {
    let Some(path) = path else {
        let mut out = std::io::stdout().lock();
        out.write_all(body)?;
        return out.flush();
    };
    let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
    if mend {
        remove_torn_line(&mut file)?;
    }
    file.write_all(body)?;
    file.sync_data()
}

/// A write that was interrupted may have left a piece of a line, which is going to be written again as a whole.
fn remove_torn_line(file: &mut File) -> std::io::Result<()> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(());
    }
    let mut end = metadata.len();
    let mut piece = vec![0; 64 << 10];
    while end > 0 {
        let length = end.min(piece.len() as u64);
        file.seek(SeekFrom::Start(end - length))?;
        let piece = &mut piece[..usize::try_from(length).unwrap_or(0)];
        file.read_exact(piece)?;
        if let Some(at) = memchr::memrchr(b'\n', piece) {
            end = end - length + at as u64 + 1;
            break;
        }
        end -= length;
    }
    if end < metadata.len() {
        file.set_len(end)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_torn_line_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        for (before, after) in [("", "c\n"), ("a\n", "a\nc\n"), ("a\nb", "a\nc\n"), ("b", "c\n")] {
            std::fs::write(&path, before).unwrap();
            write(Some(&path), &Bytes::from_static(b"c\n"), true).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), after);
        }
    }
}
