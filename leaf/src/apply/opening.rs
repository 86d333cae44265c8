//! How a core comes and goes: opened as of its last commit, closed when its merges are done, its index made again.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use trawl_proto::ShardKey;

use super::backlog::Backlog;
use super::isolation::{Drafter, Limits};
use super::layout::Layout;
use super::letters::Letters;
use super::pending::Pending;
use super::state::State;
use super::{Core, Mappings, SOURCE_BYTES_MAX, rebuild};
use crate::error::Error;
use crate::index::{IdLookup, ReplicaDir, ShardIndex};
use crate::schema::{FieldMap, PhysicalSchema, SPARES_DEFAULT};

impl Core {
    /// Opens the replica as of its last commit, or makes an empty one for `mapping_version`.
    pub fn open(
        shard: ShardKey,
        dir: ReplicaDir,
        mapping_version: u64,
        writer_bytes: usize,
        pending: Arc<Pending>,
        mut mappings: Mappings,
    ) -> Result<Self, Error> {
        let (index, state) = match dir.current()? {
            Some(path) => {
                let payload = ShardIndex::payload(&path)?;
                let schema_mapping = mappings(payload.schema_mapping_version)?;
                let physical = PhysicalSchema::new(&schema_mapping, payload.schema_mapping_version, payload.spares);
                (ShardIndex::open(&path, Arc::new(physical))?, State::from_payload(payload))
            }
            None => {
                let physical = PhysicalSchema::new(&mappings(mapping_version)?, mapping_version, SPARES_DEFAULT);
                let state = State::new(mapping_version);
                let path = dir.begin()?;
                let payload = state.to_payload(mapping_version, physical.spare_count());
                let index = ShardIndex::create(&path, Arc::new(physical), &payload)?;
                dir.publish(&path)?;
                (index, state)
            }
        };
        Self::over(shard, dir, index, state, writer_bytes, pending, mappings)
    }

    /// An opened index and the state of its last commit.
    pub(super) fn over(
        shard: ShardKey,
        dir: ReplicaDir,
        index: ShardIndex,
        state: State,
        writer_bytes: usize,
        pending: Arc<Pending>,
        mut mappings: Mappings,
    ) -> Result<Self, Error> {
        let mapping = mappings(state.mapping_version)?;
        let layout = Layout::new(&mapping, state.mapping_version, &index.physical);
        let fields = FieldMap::new(&index.physical, &mapping, state.mapping_version, state.keys.list());
        let lookup = IdLookup::open(&index.reader.searcher(), &index.physical)?;
        pending.clear();
        Ok(Self {
            committed: state.at,
            shard,
            dir,
            index,
            state,
            writer: None,
            backlog: Backlog::default(),
            writer_bytes,
            source_bytes_max: SOURCE_BYTES_MAX,
            lookup,
            pending,
            layout: Arc::new(layout),
            fields: Arc::new(fields),
            drafter: Drafter::new(Limits::default()),
            ahead: None,
            skips: Arc::default(),
            letters: Letters::default(),
            mappings,
        })
    }

    /// Closes the writer when its merges are done. Everything has to be committed before.
    pub fn close_writer(&mut self) -> Result<(), Error> {
        self.drafter.rest();
        if let Some(writer) = self.writer.take() {
            writer.wait_merging_threads()?;
        }
        Ok(())
    }

    /// Closes the writer without a commit. Merges are waited for here too: one that ended later would remove files that
    /// whoever opens the index next has just read of.
    fn abandon_writer(&mut self) {
        if let Some(writer) = self.writer.take()
            && let Err(error) = writer.wait_merging_threads()
        {
            tracing::debug!(shard = %self.shard, %error, "index writer ended");
        }
    }

    /// Makes the index again with at least `spares` spare text fields from the documents of the last
    /// commit. Uncommitted operations are lost and come again from the log: open anew afterwards.
    pub fn rebuild(mut self, spares: u32) -> Result<(), Error> {
        self.abandon_writer();
        let payload = match self.dir.current()? {
            Some(path) => ShardIndex::payload(&path)?,
            None => return Err(Error::Damaged("there is no index to rebuild".to_owned())),
        };
        self.index.reader.reload()?;
        let old =
            rebuild::Old { searcher: self.index.reader.searcher(), physical: self.index.physical.clone(), payload };
        let never = AtomicBool::new(false);
        let path = rebuild::build(&self.dir, old, spares, self.writer_bytes, &mut self.mappings, &never)?;
        self.dir.publish(&path)
    }

    /// Makes the empty index again for the mapping version of the first row.
    pub fn recreate(mut self, mapping_version: u64) -> Result<(), Error> {
        self.abandon_writer();
        let physical = PhysicalSchema::new(&(self.mappings)(mapping_version)?, mapping_version, SPARES_DEFAULT);
        let payload = State::new(mapping_version).to_payload(mapping_version, physical.spare_count());
        let path = self.dir.begin()?;
        ShardIndex::create(&path, Arc::new(physical), &payload)?;
        self.dir.publish(&path)
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.abandon_writer();
    }
}
