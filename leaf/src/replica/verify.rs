//! Checks a replica's files against their checksums, once after it was opened, in the background: a
//! flipped bit is found before a search trips over it, and the replica is made anew.
//!
//! One replica of a leaf at a time and at a limited rate, so that searches do not feel it.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tantivy::Index;
use tantivy::directory::error::OpenReadError;

use super::tail::{Tail, blocking};
use crate::error::Error;

impl Tail {
    /// Returns when all files of the present commit were found good, or marks the replica, wakes its tail,
    /// and returns.
    pub(super) async fn verify(&self) {
        let per_second = self.shared.config.copy.verify_bytes_per_second;
        if per_second == 0 || self.replica.verified.load(Ordering::Relaxed) {
            return;
        }
        let Ok(_slot) = self.shared.verify_slot.acquire().await else { return };
        let shard = self.replica.shard();
        match self.verify_files(per_second).await {
            Ok(Verdict { bytes, took, damaged }) if damaged.is_empty() => {
                tracing::info!(%shard, bytes, ?took, "the replica's files match their checksums");
                self.replica.verified.store(true, Ordering::Relaxed);
            }
            Ok(Verdict { damaged, .. }) => {
                let reason = format!("files do not match their checksums: {}", damaged.join(", "));
                tracing::error!(%shard, reason, "the replica is damaged");
                let (dir, marked) = (self.dir.clone(), reason.clone());
                match blocking(move || dir.make_anew(&marked)).await {
                    Ok(()) => self.replica.must_be_made_anew(reason),
                    Err(error) => tracing::error!(%shard, reason = error.reason(), "cannot mark the replica"),
                }
            }
            Err(error) => tracing::warn!(%shard, reason = error.reason(), "cannot check the replica's files"),
        }
    }

    async fn verify_files(&self, per_second: u64) -> Result<Verdict, Error> {
        let mut verdict = Verdict { bytes: 0, took: Duration::ZERO, damaged: Vec::new() };
        let dir = self.dir.clone();
        let opened = blocking(move || {
            let Some(path) = dir.peek()? else { return Ok(None) };
            let index = Index::open_in_dir(&path)?;
            let files: Vec<PathBuf> = index.load_metas()?.list_segment_files().into_iter().collect();
            Ok(Some((path, index, files)))
        });
        let Some((path, index, files)) = opened.await? else { return Ok(verdict) };
        for file in files {
            let (index, whole) = (index.clone(), path.join(&file));
            let began = Instant::now();
            let (bytes, good) = blocking(move || {
                let bytes = std::fs::metadata(&whole).map_or(0, |metadata| metadata.len());
                let good = match index.directory().validate_checksum(&file) {
                    Ok(good) => good,
                    // Never there, or merged away since.
                    Err(OpenReadError::FileDoesNotExist(_)) => true,
                    Err(error) => !Error::Index(error.into()).is_damage(),
                };
                Ok((bytes, (good || !whole.exists()).then_some(()).ok_or(file)))
            })
            .await?;
            verdict.bytes += bytes;
            verdict.took += began.elapsed();
            if let Err(file) = good {
                verdict.damaged.push(file.display().to_string());
            }
            let pause = Duration::from_secs_f64(bytes as f64 / per_second as f64);
            tokio::time::sleep(pause.saturating_sub(began.elapsed())).await;
        }
        Ok(verdict)
    }
}

struct Verdict {
    bytes: u64,
    /// Without the pauses.
    took: Duration,
    damaged: Vec<String>,
}
