//! Making a replica's index again, with twice as many spare text fields, beside the one in use.
//!
//! ```text
//! in use:   ── commit C ── applies and serves on ──────────── applied A ── commit ── gone
//!                  │                                                         │
//! growing:         └─ documents of C ── log behind C, commits ── … ── log through A ── in use
//! ```
//!
//! What a replica holds is a pure function of the log, so the grown index at A is the old one at A. Until
//! the end only the old one is named by `CURRENT`: a crash in between loses nothing but the work.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tantivy::Searcher;
use trawl_cluster::shard_log::Record;
use trawl_proto::{Seq, ShardKey, v1};

use super::isolation::Limits;
use super::state::State;
use super::{Core, Mappings, Skips, Stop, rebuild};
use crate::ShardSearcher;
use crate::error::Error;
use crate::index::{ReplicaDir, ShardIndex};
use crate::schema::PhysicalSchema;

/// A commit to start from, and what the grown replica has to be like.
pub struct Growth {
    shard: ShardKey,
    dir: ReplicaDir,
    searcher: Searcher,
    physical: Arc<PhysicalSchema>,
    payload: v1::CommitPayload,
    writer_bytes: usize,
    limits: Limits,
    skips: Arc<Skips>,
}

/// A replica in a directory that is not in use yet.
pub struct Grown {
    core: Core,
    path: PathBuf,
}

impl Core {
    /// How many spare text fields are not given out.
    pub fn spares_left(&self) -> u32 {
        self.index.physical.spare_count().saturating_sub(self.state.keys.spares_used())
    }

    /// What it takes to grow from the last commit. Nothing may be committing meanwhile.
    pub fn growth(&self) -> Result<Growth, Error> {
        self.index.reader.reload()?;
        let path = self.dir.peek()?.ok_or_else(|| Error::Damaged("there is no index to grow".to_owned()))?;
        Ok(Growth {
            shard: self.shard.clone(),
            dir: self.dir.clone(),
            searcher: self.index.reader.searcher(),
            physical: self.index.physical.clone(),
            payload: ShardIndex::payload(&path)?,
            writer_bytes: self.writer_bytes,
            limits: self.drafter.limits().clone(),
            skips: self.skips.clone(),
        })
    }
}

impl Growth {
    /// The position of the commit.
    pub fn seq(&self) -> Seq {
        Seq(self.payload.seq)
    }

    /// Writes the commit's documents into a new index. Ends early, with an error, when told to.
    pub fn build(self, mut mappings: Mappings, stop: &AtomicBool) -> Result<Grown, Error> {
        let Self { shard, dir, searcher, physical, payload, writer_bytes, limits, skips } = self;
        let old = rebuild::Old { searcher, physical, payload };
        let path = rebuild::build(&dir, old, 0, writer_bytes, &mut mappings, stop)?;
        let payload = ShardIndex::payload(&path)?;
        let schema_mapping = mappings(payload.schema_mapping_version)?;
        let physical = PhysicalSchema::new(&schema_mapping, payload.schema_mapping_version, payload.spares);
        let index = ShardIndex::open(&path, Arc::new(physical))?;
        let state = State::from_payload(payload);
        let core = Core::over(shard, dir, index, state, writer_bytes, Arc::default(), mappings)?;
        Ok(Grown { core: core.with(limits, skips), path })
    }
}

impl Grown {
    /// The last operation applied.
    pub fn applied(&self) -> Seq {
        self.core.applied().seq
    }

    /// Applies rows that end at `last` or before, and commits when much is pending. Outcomes were told
    /// when the replica in use applied them.
    pub fn apply(&mut self, rows: &[Record], last: Seq, pending_max: usize, bytes_max: u64) -> Result<(), Error> {
        let rows: Vec<&Record> = rows.iter().take_while(|row| row.last <= last).collect();
        let mut place = 0;
        while let Some(row) = rows.get(place) {
            match self.core.apply(row, rows.get(place + 1).copied()) {
                Ok(_) => place += 1,
                Err(Stop::Commit) => self.commit()?,
                Err(Stop::Error(error)) => return Err(error),
                Err(stop) => return Err(Error::Damaged(format!("the grown index stops as well: {stop:?}"))),
            }
            let (ids, bytes) = self.core.pending.size();
            if ids >= pending_max || bytes + self.core.letters().bytes() as u64 >= bytes_max {
                self.commit()?;
            }
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Error> {
        self.core.commit()?;
        self.core.pending.clear();
        Ok(())
    }

    /// Takes the place of the replica in use, which stands at the same position, and is gone with this:
    /// commits, and is named as the index in use.
    pub fn replace(self, old: Core) -> Result<(Core, Arc<ShardSearcher>), Error> {
        let Self { mut core, path } = self;
        if (core.applied(), core.chain()) != (old.applied(), old.chain()) {
            return Err(Error::Damaged(format!(
                "grown to {}, but the replica is at {}",
                core.applied(),
                old.applied()
            )));
        }
        let searcher = core.commit()?;
        core.pending = old.pending.clone();
        if old.writer.is_none() {
            core.close_writer()?;
        }
        drop(old);
        core.dir.publish(&path)?;
        core.dir.current()?;
        Ok((core, searcher))
    }

    /// As [`Self::replace`], when the replica in use stopped in the middle of a row: it has to be opened
    /// anew, and goes on from here.
    pub fn replace_stopped(self) -> Result<(), Error> {
        let Self { mut core, path } = self;
        core.commit()?;
        core.dir.publish(&path)
    }

    /// Removes what was made.
    pub fn discard(self) {
        let Self { core, path } = self;
        drop(core);
        if let Err(error) = std::fs::remove_dir_all(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove an index that is not used");
        }
    }
}
