//! The apply state machine: from rows of the log to outcomes and an index.
//!
//! Outcomes are a pure function of the log: [`mod@decide`] decides, [`draft`] validates, [`state`] holds
//! what they depend on besides the documents. [`Core`] is the driver that puts the decisions into a
//! tantivy index; nothing it does to the disk changes an outcome. When it stops in the middle of a
//! row, everything since the last commit is thrown away with it and comes again from the log.
//!
//! ```text
//! opening ─> prepare (check a row, draft it ahead) ─> operation (apply one) ─> commit ─> opening, when made again
//! ```

pub mod backlog;
pub mod decide;
pub mod draft;
pub mod fault;
pub mod grow;
pub mod isolation;
pub mod keys;
pub mod layout;
pub mod letters;
mod opening;
mod operation;
pub mod pending;
mod prepare;
pub mod rebuild;
pub mod rows;
pub mod state;
pub mod tokens;
pub mod tombstones;
pub mod update;

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tantivy::IndexWriter;
use trawl_cluster::shard_log::Record;
use trawl_data::mapping::Mapping;
use trawl_proto::v1::operation::Kind;
use trawl_proto::v1::{Outcome, outcome};
use trawl_proto::{Generation, Incarnation, Seq, ShardKey};

use self::backlog::{Backlog, Incoming};
use self::isolation::{Drafter, Limits, Stalled};
use self::layout::Layout;
use self::letters::Letters;
use self::pending::Pending;
use self::prepare::{Prepared, decode};
use self::state::State;
use crate::ShardSearcher;
use crate::error::Error;
use crate::index::{IdLookup, ReplicaDir, ShardIndex, commit};
use crate::schema::FieldMap;

/// With more operations left out than this, those that the leader has forgotten (their log is trimmed) are
/// forgotten too.
const SKIPPED_MAX: usize = 1_024;
/// See [`Core::keep_sources_within`].
const SOURCE_BYTES_MAX: usize = 16 << 20;
/// The apply rules that this program knows.
///
/// Rules are everything that outcomes and documents depend on besides the log: what each kind of operation does,
/// what is a conflict or a rejection, how documents are analysed and typed, and the bounds of tombstones. All of it
/// as it is now, updates, versions from outside and skipped operations included, is version 1: no cluster has run
/// on anything less. Whoever changes a rule raises this, keeps the old one for rows of the old version, and has
/// roots give rows the new one only when every leaf's record names a program that knows it. A leaf that does not
/// stops at such a row, serving nothing, rather than come to something else than others.
pub const APPLY_VERSION: u32 = 1;

/// Gives a mapping version of the replica's index; called on blocking threads.
pub type Mappings = Box<dyn FnMut(u64) -> Result<Mapping, Error> + Send + Sync>;

/// Operations that no replica applies, and why; set by whoever follows the store.
pub type Skips = ArcSwap<BTreeMap<Generation, Arc<str>>>;

/// Why applying stopped. Whatever it is, the core has to be opened again from its last commit.
#[derive(Debug)]
pub enum Stop {
    /// Something failed.
    Error(Error),
    /// The index needs this many spare text fields first.
    Spares(u32),
    /// The row updates documents that only a commit shows again. Nothing of it was applied: unlike with
    /// the others, the core goes on behind a commit.
    Commit,
    /// The index is empty and should be made for the mapping version of the first row.
    Schema(u64),
    /// Nothing but to go on from the last commit.
    Again,
}

impl<E: Into<Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

/// One replica's index and state, owned by whoever applies at the moment.
pub struct Core {
    shard: ShardKey,
    dir: ReplicaDir,
    index: ShardIndex,
    state: State,
    committed: Generation,
    writer: Option<IndexWriter<Incoming>>,
    backlog: Backlog,
    writer_bytes: usize,
    source_bytes_max: usize,
    lookup: IdLookup,
    pending: Arc<Pending>,
    layout: Arc<Layout>,
    fields: Arc<FieldMap>,
    drafter: Drafter,
    ahead: Option<Prepared>,
    skips: Arc<Skips>,
    letters: Letters,
    mappings: Mappings,
}

impl Core {
    /// With bounds for drafting, and the operations to leave out.
    pub fn with(mut self, limits: Limits, skips: Arc<Skips>) -> Self {
        self.drafter = Drafter::new(limits);
        self.skips = skips;
        self
    }

    /// The last operation applied.
    pub fn applied(&self) -> Generation {
        self.state.at
    }

    /// The last operation that is durable in the index.
    pub fn committed(&self) -> Generation {
        self.committed
    }

    /// An operation that was applied here although no replica may: the leader had it skipped since.
    pub fn diverged(&self) -> Option<Generation> {
        let first = Generation { incarnation: self.state.at.incarnation, seq: Seq(0) };
        let skips = self.skips.load();
        skips.range(first..=self.state.at).map(|(at, _)| *at).find(|at| !self.state.skipped.contains(at))
    }

    /// Rejections since the last commit. They have to be kept elsewhere before the next.
    pub fn letters(&self) -> &Letters {
        &self.letters
    }

    /// The log's chain at the last row applied.
    pub fn chain(&self) -> u64 {
        self.state.chain
    }

    /// Logical to physical fields, as of the last row applied.
    pub fn fields(&self) -> &Arc<FieldMap> {
        &self.fields
    }

    /// The state that outcomes depend on.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Keeps at most about so many bytes of documents that are not committed for updates of them;
    /// beyond, such an update needs a commit first.
    pub fn keep_sources_within(&mut self, bytes_max: usize) {
        self.source_bytes_max = bytes_max;
    }

    /// Whether an index writer is open.
    pub fn has_writer(&self) -> bool {
        self.writer.is_some()
    }

    /// What to do when an operation takes long, once: let others apply meanwhile.
    pub fn when_stalled(&mut self, stalled: Stalled) {
        self.drafter.when_stalled(stalled);
    }

    /// Applies one row, and drafts the next meanwhile:
    ///
    /// 1. check that the row continues what is here,
    /// 2. get its documents drafted, if they have not been drafted ahead,
    /// 3. begin to draft the next row,
    /// 4. apply operation after operation.
    ///
    /// Returns their outcomes.
    pub fn apply(&mut self, record: &Record, next: Option<&Record>) -> Result<Vec<Outcome>, Stop> {
        let ahead = self.ahead.take().filter(|ahead| ahead.first == record.first && ahead.chain == record.chain);
        let batch = match &ahead {
            Some(ahead) => ahead.batch.clone(),
            None => Arc::new(decode(record)?),
        };
        self.check(record, &batch)?;
        let has_updates = batch.operations.iter().any(|operation| operation.kind() == Kind::Update);
        if has_updates && self.lacks_sources(&batch) {
            return Err(Stop::Commit);
        }
        if record.mapping_version != self.state.mapping_version {
            self.change_mapping(record)?;
        }
        let prepared = match ahead {
            Some(ahead) => ahead,
            None => self.prepare(record, batch.clone())?,
        };
        let drafts = self.drafts(record, prepared)?;
        if let Some(next) = next.filter(|_| !has_updates) {
            self.draft_ahead(next);
        }
        self.state.at.incarnation = record.incarnation;
        self.state.time_ms = record.time_ms;
        let keys_version = self.state.keys.version();
        let mut outcomes = Vec::with_capacity(batch.operations.len());
        for (operation, drafted) in batch.operations.iter().zip(drafts) {
            let seq = self.state.at.seq.next();
            let mut outcome = self.apply_operation(operation, drafted, seq)?;
            if let Some(returned) = &operation.returned {
                self.show(operation, returned, &mut outcome)?;
            }
            if outcome.result() == outcome::Result::Rejected {
                let known = self.known(&operation.id)?;
                self.letters.note(&self.shard, record.incarnation, &self.state, operation, known, &outcome);
            }
            outcomes.push(outcome);
            self.state.at.seq = seq;
        }
        // Updated documents are drafted as they come, so the next row had to wait.
        if let Some(next) = next.filter(|_| has_updates) {
            self.draft_ahead(next);
        }
        self.state.chain = record.chain;
        self.state.rows.push(record.last, record.chain);
        self.pending.keep_sources_within(self.source_bytes_max);
        if self.state.keys.version() != keys_version {
            self.renew_fields();
        }
        Ok(outcomes)
    }

    /// Takes over that the log has begun a new incarnation exactly where this replica stands; commits it.
    pub fn begin(&mut self, incarnation: Incarnation) -> Result<Arc<ShardSearcher>, Error> {
        self.state.at.incarnation = incarnation;
        self.commit()
    }

    /// Makes everything applied so far durable and returns a searcher on it.
    pub fn commit(&mut self) -> Result<Arc<ShardSearcher>, Error> {
        self.state.tombstones.expire(self.state.time_ms);
        if self.state.skipped.len() > SKIPPED_MAX {
            let skips = self.skips.load();
            self.state.skipped.retain(|at| skips.contains_key(at));
        }
        let physical = &self.index.physical;
        let payload = self.state.to_payload(physical.mapping_version, physical.spare_count());
        self.open_writer()?;
        if let Some(writer) = &mut self.writer {
            commit(writer, &payload)?;
        }
        self.committed = self.state.at;
        self.letters.clear();
        self.searcher()
    }

    /// A searcher on the last commit. Looks at the files anew, so it also sees finished merges.
    pub fn searcher(&mut self) -> Result<Arc<ShardSearcher>, Error> {
        self.index.reader.reload()?;
        let searcher = self.index.reader.searcher();
        self.lookup = IdLookup::open(&searcher, &self.index.physical)?;
        let (fields, physical) = (self.fields.clone(), self.index.physical.clone());
        let searcher = ShardSearcher::new(self.shard.clone(), self.committed, searcher, fields, physical);
        // Every search needs these columns; the first one should not pay for them.
        searcher.columns.identities(&searcher.searcher)?;
        Ok(Arc::new(searcher))
    }

    fn change_mapping(&mut self, record: &Record) -> Result<(), Stop> {
        let version = record.mapping_version;
        if self.state.at.seq == Seq(0) && version != self.index.physical.mapping_version {
            return Err(Stop::Schema(version));
        }
        let mapping = (self.mappings)(version)?;
        self.layout = Arc::new(Layout::new(&mapping, version, &self.index.physical));
        self.state.mapping_version = version;
        self.renew_fields();
        Ok(())
    }

    fn renew_fields(&mut self) {
        let (version, keys) = (self.state.mapping_version, self.state.keys.list());
        self.fields = Arc::new(FieldMap::new(&self.index.physical, &self.layout.mapping, version, keys));
    }
}

/// The message of a caught panic.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a message".to_owned())
}

#[cfg(test)]
mod tests;
