//! When a replica commits, what has to happen before, and what others see afterwards.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use trawl_proto::Seq;

use super::super::blocking;
use super::{Opened, SLOT_TIME};
use crate::error::Error;
use crate::replica::Phase;

/// A pause before rejections are handed to an unreachable engine again.
const LETTERS_PAUSE: Duration = Duration::from_millis(200);

impl Opened<'_> {
    /// When the next commit is due; `None` when nothing is pending or nobody asks for one.
    pub(in crate::replica) fn commit_due(&self) -> Option<Instant> {
        let since = self.pending_since?;
        let (applied, committed) = (self.applied().seq, self.committed().seq);
        if applied <= committed {
            return None;
        }
        let config = &self.tail.shared.config;
        let replica = &self.tail.replica;
        let (ids, bytes) = replica.pending.size();
        let target = self.target();
        let is_behind = committed < target;
        let has_to = ids >= config.pending_max
            || bytes >= config.pending_bytes_max
            || self.core.as_ref().is_some_and(|core| core.letters().bytes() >= config.letters_bytes_max)
            || (is_behind && applied >= target)
            || (since.elapsed() > SLOT_TIME && self.tail.shared.writer_slots.contended());
        if has_to {
            return Some(since);
        }
        let wanted = replica.commit_wanted.load(Ordering::Relaxed);
        let asked = (wanted > committed.0 && wanted <= applied.0)
            .then(|| self.committed_at.map_or(since, |at| at + config.commit_interval_min));
        // While catching up nobody can search, so commits come by size only.
        let regular = replica.refresh_interval().filter(|_| !is_behind).map(|interval| since + interval);
        match (asked, regular) {
            (Some(asked), Some(regular)) => Some(asked.min(regular)),
            (asked, regular) => asked.or(regular),
        }
    }

    /// When an unused writer is closed: at once when others wait for its slot.
    pub(in crate::replica) fn close_due(&self) -> Option<Instant> {
        if self.slot.is_none() || self.pending_since.is_some() {
            return None;
        }
        let is_wanted = self.tail.shared.writer_slots.contended();
        Some(if is_wanted { self.idle_since } else { self.idle_since + self.tail.shared.config.writer_idle })
    }

    /// Hands rejections over, and commits. Without the engine the commit has to wait; the caller comes
    /// again.
    pub(in crate::replica) async fn commit(&mut self) -> Result<(), Error> {
        if !self.hand_letters_over().await {
            tokio::time::sleep(LETTERS_PAUSE).await;
            return Ok(());
        }
        let shared = self.tail.shared.clone();
        if self.slot.is_none() {
            self.slot = Some(shared.writer_slots.acquire().await);
        }
        let Some(mut core) = self.core.take() else { return Ok(()) };
        let began = Instant::now();
        let slot = shared.apply_slots.acquire().await;
        let replica = self.tail.replica.clone();
        let (core, searcher) = blocking(move || {
            // Before the commit, so that behind a crash no outcome of what is committed is missing.
            replica.sync_outcomes()?;
            let searcher = core.commit()?;
            Ok((core, searcher))
        })
        .await?;
        drop(slot);
        // First the searcher, then the map: a real-time get asks the map first.
        let replica = &self.tail.replica;
        self.tail.show(searcher);
        replica.pending.clear();
        replica.publish(&core);
        self.core = Some(core);
        shared.metrics.commits.inc();
        shared.metrics.commit_seconds.observe(began.elapsed().as_secs_f64());
        self.pending_since = None;
        self.committed_at = Some(Instant::now());
        self.idle_since = Instant::now();
        if shared.writer_slots.contended() {
            return self.close().await;
        }
        self.measure().await
    }

    /// Whether the rejections since the last commit are kept in the engine.
    pub(in crate::replica) async fn hand_letters_over(&self) -> bool {
        let Some(core) = &self.core else { return true };
        let letters = core.letters().list();
        if letters.is_empty() {
            return true;
        }
        let (shared, shard) = (&self.tail.shared, self.tail.replica.shard());
        match shared.engine.letters.record(shard, core.applied(), letters.to_vec()).await {
            Ok(()) => {
                shared.metrics.dead_letters.inc_by(letters.len() as u64);
                true
            }
            Err(error) => {
                tracing::warn!(%shard, %error, "dead letters cannot be kept now, the commit waits");
                false
            }
        }
    }

    /// What has to be searchable before serving begins; nothing more once it has begun.
    pub(in crate::replica) fn target(&self) -> Seq {
        let replica = &self.tail.replica;
        match replica.progress.borrow().phase {
            Phase::Serving => self.target,
            _ => self.target.max(replica.serve_from()),
        }
    }

    /// Enters the serving phase when everything that was in the log at opening, or was refreshed
    /// since, is searchable.
    pub(in crate::replica) async fn serve_when_ready(&mut self) -> Result<(), Error> {
        let replica = &self.tail.replica;
        let is_serving = replica.progress.borrow().phase == Phase::Serving;
        if !is_serving && self.committed().seq >= self.target() {
            self.measure().await?;
            if !self.warm {
                replica.recovery.warms_up();
                self.tail.warm_up().await;
                self.warm = true;
            }
            if self.tail.replica.begin_serving() {
                self.tail.replica.recovery.end();
                tracing::info!(shard = %self.tail.replica.shard(), at = %self.committed(), "replica serves");
            }
        }
        Ok(())
    }

    /// Closes the writer once its merges are done, shows what they made, and gives the slot back.
    pub(in crate::replica) async fn close(&mut self) -> Result<(), Error> {
        let Some(mut core) = self.core.take() else { return Ok(()) };
        let (core, searcher) = blocking(move || {
            core.close_writer()?;
            let searcher = core.searcher()?;
            Ok((core, searcher))
        })
        .await?;
        self.core = Some(core);
        let segments = |searcher: &crate::ShardSearcher| searcher.searcher.segment_readers().len();
        let before = self.tail.replica.searcher.load().as_ref().map_or(0, |searcher| segments(searcher));
        if segments(&searcher) != before {
            self.tail.show(searcher);
        }
        self.slot = None;
        self.measure().await
    }

    pub(in crate::replica) async fn measure(&self) -> Result<(), Error> {
        let dir = self.tail.dir.clone();
        let bytes = blocking(move || Ok(dir.bytes())).await?;
        self.tail.replica.bytes_on_disk.store(bytes, Ordering::Relaxed);
        Ok(())
    }
}
