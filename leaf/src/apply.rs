//! The apply state machine: from rows of the log to outcomes and an index.
//!
//! Outcomes are a pure function of the log: [`mod@decide`] decides, [`draft`] validates, [`state`] holds
//! what they depend on besides the documents. [`Core`] is the driver that puts the decisions into a
//! tantivy index; nothing it does to the disk changes an outcome. When it stops in the middle of a
//! row, everything since the last commit is thrown away with it and comes again from the log.

pub mod decide;
pub mod draft;
pub mod keys;
pub mod layout;
pub mod pending;
pub mod rebuild;
pub mod state;
pub mod tokens;
pub mod tombstones;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use prost::Message;
use tantivy::{IndexWriter, Term};
use trawl_cluster::shard_log::{Record, chain};
use trawl_data::mapping::{FIELDS_MAX, Mapping};
use trawl_proto::v1::operation::Kind;
use trawl_proto::v1::{Batch, Operation, OperationError, Outcome};
use trawl_proto::{Generation, Seq, ShardKey};

use self::decide::{Effect, Known, Stamp, decide, rejected};
use self::draft::{Draft, HiddenValues, error};
use self::layout::Layout;
use self::pending::Pending;
use self::state::State;
use self::tokens::Analyzers;
use crate::ShardSearcher;
use crate::error::Error;
use crate::index::{IdLookup, ReplicaDir, ShardIndex, commit};
use crate::schema::{FieldMap, PhysicalSchema, SPARES_DEFAULT, fields};

/// The longest `_id`, in bytes, as in Elasticsearch.
const ID_BYTES_MAX: usize = 512;
/// The apply rules that this program knows.
pub const APPLY_VERSION: u32 = 1;

/// Gives a mapping version of the replica's index; called on blocking threads.
pub type Mappings = Box<dyn FnMut(u64) -> Result<Mapping, Error> + Send + Sync>;

/// Why applying stopped. Whatever it is, the core has to be opened again from its last commit.
#[derive(Debug)]
pub enum Stop {
    /// Something failed.
    Error(Error),
    /// The index needs this many spare text fields first.
    Spares(u32),
    /// The index is empty and should be made for the mapping version of the first row.
    Schema(u64),
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
    writer: Option<IndexWriter>,
    writer_bytes: usize,
    lookup: IdLookup,
    pending: Arc<Pending>,
    layout: Layout,
    fields: Arc<FieldMap>,
    analyzers: Analyzers,
    mappings: Mappings,
}

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
            writer_bytes,
            lookup,
            pending,
            layout,
            fields: Arc::new(fields),
            analyzers: Analyzers::default(),
            mappings,
        })
    }

    /// The last operation applied.
    pub fn applied(&self) -> Generation {
        self.state.at
    }

    /// The last operation that is durable in the index.
    pub fn committed(&self) -> Generation {
        self.committed
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

    /// Whether an index writer is open.
    pub fn has_writer(&self) -> bool {
        self.writer.is_some()
    }

    /// Applies one row: checks that it continues what is here, then applies operation after
    /// operation. Returns their outcomes.
    pub fn apply(&mut self, record: &Record) -> Result<Vec<Outcome>, Stop> {
        let batch = self.check(record)?;
        if record.mapping_version != self.state.mapping_version {
            self.change_mapping(record)?;
        }
        self.state.at.incarnation = record.incarnation;
        self.state.time_ms = record.time_ms;
        let keys_version = self.state.keys.version();
        let mut outcomes = Vec::with_capacity(batch.operations.len());
        for operation in &batch.operations {
            let seq = self.state.at.seq.next();
            outcomes.push(self.apply_operation(operation, seq)?);
            self.state.at.seq = seq;
        }
        self.state.chain = record.chain;
        if self.state.keys.version() != keys_version {
            self.renew_fields();
        }
        Ok(outcomes)
    }

    /// Makes everything applied so far durable and returns a searcher on it.
    pub fn commit(&mut self) -> Result<Arc<ShardSearcher>, Error> {
        self.state.tombstones.expire(self.state.time_ms);
        let physical = &self.index.physical;
        let payload = self.state.to_payload(physical.mapping_version, physical.spare_count());
        self.open_writer()?;
        if let Some(writer) = &mut self.writer {
            commit(writer, &payload)?;
        }
        self.committed = self.state.at;
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

    /// Closes the writer when its merges are done. Everything has to be committed before.
    pub fn close_writer(&mut self) -> Result<(), Error> {
        if let Some(writer) = self.writer.take() {
            writer.wait_merging_threads()?;
        }
        Ok(())
    }

    /// Makes the index again with at least `spares` spare text fields from the documents of the last
    /// commit. Uncommitted operations are lost and come again from the log: open anew afterwards.
    pub fn rebuild(mut self, spares: u32) -> Result<(), Error> {
        drop(self.writer.take());
        let payload = match self.dir.current()? {
            Some(path) => ShardIndex::payload(&path)?,
            None => return Err(Error::Damaged("there is no index to rebuild".to_owned())),
        };
        rebuild::rebuild(&self.dir, &self.index, payload, spares, self.writer_bytes, &mut self.mappings)
    }

    /// Makes the empty index again for the mapping version of the first row.
    pub fn recreate(mut self, mapping_version: u64) -> Result<(), Error> {
        drop(self.writer.take());
        let physical = PhysicalSchema::new(&(self.mappings)(mapping_version)?, mapping_version, SPARES_DEFAULT);
        let payload = State::new(mapping_version).to_payload(mapping_version, physical.spare_count());
        let path = self.dir.begin()?;
        ShardIndex::create(&path, Arc::new(physical), &payload)?;
        self.dir.publish(&path)
    }

    /// The row must be the very next one, link to the chain, and be readable.
    fn check(&self, record: &Record) -> Result<Batch, Error> {
        let expected = self.state.at.seq.next();
        if record.first != expected || record.incarnation < self.state.at.incarnation {
            return Err(Error::History(format!(
                "operation {expected} of incarnation {} should come next, but the row begins with {} of {}",
                self.state.at.incarnation, record.first, record.incarnation
            )));
        }
        if chain(self.state.chain, record.first, &record.body) != record.chain {
            return Err(Error::History(format!(
                "the row at {} does not link to the row before it as this replica applied it",
                record.first
            )));
        }
        if record.apply_version > APPLY_VERSION {
            return Err(Error::Unreadable(format!(
                "row {} needs apply rules {}, this program knows {APPLY_VERSION}",
                record.first, record.apply_version
            )));
        }
        let batch = Batch::decode(record.body.clone())
            .map_err(|error| Error::Unreadable(format!("row {} of the log: {error}", record.first)))?;
        if record.first.0 + batch.operations.len() as u64 != record.last.0 + 1 {
            return Err(Error::Unreadable(format!(
                "row {} to {} of the log has {} operations",
                record.first,
                record.last,
                batch.operations.len()
            )));
        }
        Ok(batch)
    }

    fn change_mapping(&mut self, record: &Record) -> Result<(), Stop> {
        let version = record.mapping_version;
        if self.state.at.seq == Seq(0) && version != self.index.physical.mapping_version {
            return Err(Stop::Schema(version));
        }
        let mapping = (self.mappings)(version)?;
        self.layout = Layout::new(&mapping, version, &self.index.physical);
        self.state.mapping_version = version;
        self.renew_fields();
        Ok(())
    }

    fn renew_fields(&mut self) {
        let (version, keys) = (self.state.mapping_version, self.state.keys.list());
        self.fields = Arc::new(FieldMap::new(&self.index.physical, &self.layout.mapping, version, keys));
    }

    fn apply_operation(&mut self, operation: &Operation, seq: Seq) -> Result<Outcome, Stop> {
        let draft = match operation.kind() {
            Kind::Delete => Ok(None),
            Kind::Index | Kind::Create => self.draft(operation, seq)?.map(Some),
            Kind::Update => Err(error("illegal_argument_exception", "updates are not applied yet")),
            Kind::Unspecified => Err(error("illegal_argument_exception", "the operation has no kind")),
        };
        let draft = match draft.and_then(|draft| self.validate(operation, draft)) {
            Ok(draft) => draft,
            Err(error) => return Ok(rejected(seq.0, error)),
        };
        let known = self.known(&operation.id)?;
        let (outcome, effect) = decide(known, operation, seq.0);
        let primary_term = self.state.at.incarnation.0;
        match effect {
            Effect::Nothing => {}
            Effect::Delete { version, exists } => {
                self.open_writer()?;
                if exists {
                    self.remove(&operation.id);
                }
                let stamp = Stamp { seq: seq.0, primary_term, version };
                self.state.tombstones.insert(&operation.id, stamp, self.state.time_ms);
                self.pending.insert(&operation.id, None, 0);
            }
            Effect::Put { version, replaces } => {
                let Some(draft) = draft else { return Ok(outcome) };
                let wanted = draft.wanted();
                let spares = self.state.keys.spares_needed(&wanted);
                if spares > self.index.physical.spare_count() {
                    return Err(Stop::Spares(spares));
                }
                self.state.keys.learn(&wanted);
                let values = HiddenValues {
                    id: &operation.id,
                    routing: operation.routing.as_deref(),
                    seq: seq.0,
                    version,
                    primary_term,
                    source: &operation.source,
                };
                let document = draft.finish(&self.index.physical, &self.layout, &self.state.keys, &values);
                self.open_writer()?;
                if replaces {
                    self.remove(&operation.id);
                }
                if let Some(writer) = &self.writer {
                    writer.add_document(document)?;
                }
                self.state.tombstones.remove(&operation.id);
                let stamp = Stamp { seq: seq.0, primary_term, version };
                self.pending.insert(&operation.id, Some(stamp), operation.source.len());
            }
        }
        Ok(outcome)
    }

    /// Parses the document. A panic is contained: the operation is tried once more by itself, and a
    /// second panic stops the replica with the reason.
    fn draft(&mut self, operation: &Operation, seq: Seq) -> Result<Result<Draft, OperationError>, Error> {
        for attempt in 0..2 {
            let layout = &self.layout;
            let analyzers = &mut self.analyzers;
            let parse = AssertUnwindSafe(|| {
                #[cfg(test)]
                tests::poison(operation);
                Draft::parse(layout, &operation.id, &operation.source, analyzers)
            });
            match catch_unwind(parse) {
                Ok(draft) => return Ok(draft),
                Err(panic) => {
                    self.analyzers = Analyzers::default();
                    let reason = panic_message(panic.as_ref());
                    tracing::error!(shard = %self.shard, %seq, attempt, reason, "an operation panicked");
                    if attempt > 0 {
                        return Err(Error::Poison { seq, reason });
                    }
                }
            }
        }
        Err(Error::Poison { seq, reason: "panicked".to_owned() })
    }

    fn validate(&self, operation: &Operation, draft: Option<Draft>) -> Result<Option<Draft>, OperationError> {
        let length = operation.id.len();
        if length == 0 || length > ID_BYTES_MAX {
            let reason = match length {
                0 => "the id of an operation is empty".to_owned(),
                _ => format!("id is too long, must be no longer than {ID_BYTES_MAX} bytes but was: {length}"),
            };
            return Err(error("illegal_argument_exception", reason));
        }
        if let Some(draft) = &draft {
            let fresh = self.state.keys.count_new(&draft.wanted());
            let unmapped = || fields::unmapped(&self.layout.mapping, self.state.keys.list()).count();
            if fresh > 0 && self.layout.mapping.size() + unmapped() + fresh > FIELDS_MAX {
                return Err(error(
                    "illegal_argument_exception",
                    format!("Limit of total fields [{FIELDS_MAX}] has been exceeded while adding new fields [{fresh}]"),
                ));
            }
        }
        Ok(draft)
    }

    fn known(&self, id: &str) -> Result<Known, Error> {
        let live = match self.pending.get(id) {
            Some(pending) => pending,
            None => self.lookup.find(id)?,
        };
        Ok(match live {
            Some(stamp) => Known::Live(stamp),
            None => match self.state.tombstones.get(id, self.state.time_ms) {
                Some(stamp) => Known::Deleted(stamp),
                None => Known::Absent,
            },
        })
    }

    fn remove(&mut self, id: &str) {
        if let Some(writer) = &self.writer {
            writer.delete_term(Term::from_field_text(self.index.physical.hidden.id, id));
        }
    }

    fn open_writer(&mut self) -> Result<(), Error> {
        if self.writer.is_none() {
            self.writer = Some(self.index.writer(self.writer_bytes)?);
        }
        Ok(())
    }
}

/// The message of a caught panic.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a message".to_owned())
}

#[cfg(test)]
mod tests;
