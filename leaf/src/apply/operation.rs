//! One operation: what it comes to, and its effect on the index.

use bytes::Bytes;
use tantivy::schema::Value;
use tantivy::{TantivyError, Term};
use trawl_data::mapping::FIELDS_MAX;
use trawl_proto::v1::operation::Kind;
use trawl_proto::v1::{Batch, Operation, OperationError, Outcome, ReturnedSource, outcome::Result as Came};
use trawl_proto::{Generation, Seq};

use super::backlog::Incoming;
use super::decide::{Effect, Known, Stamp, decide, rejected};
use super::draft::{Draft, HiddenValues, error};
use super::isolation::{Drafted, Failure};
use super::pending::Touched;
use super::update::{Present, Resolved, resolve};
use super::{Core, Stop};
use crate::error::Error;
use crate::fetch::SourceFilter;
use crate::schema::fields;

/// The longest `_id`, in bytes, as in Elasticsearch.
const ID_BYTES_MAX: usize = 512;

impl Core {
    pub(super) fn apply_operation(
        &mut self,
        operation: &Operation,
        drafted: Drafted,
        seq: Seq,
    ) -> Result<Outcome, Stop> {
        let written;
        let (operation, drafted) = match (operation.kind(), drafted) {
            (Kind::Update, None) => match self.resolve_update(operation, seq)? {
                (Resolved::Outcome(outcome), _) => return Ok(outcome),
                (Resolved::Write(operation), drafted) => {
                    written = operation;
                    (&written, drafted)
                }
            },
            (_, drafted) => (operation, drafted),
        };
        let draft = match (operation.kind(), drafted) {
            (_, Some(drafted)) => drafted.map(Some),
            (Kind::Delete, None) => Ok(None),
            _ => Err(error("illegal_argument_exception", "the operation has no kind")),
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
                self.pending.delete(&operation.id);
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
                let document = self.backlog.enter(document, operation.source.len());
                self.add(document)?;
                self.state.tombstones.remove(&operation.id);
                let stamp = Stamp { seq: seq.0, primary_term, version };
                // A copy, so that one document does not hold the memory of its whole row.
                let source = Some(Bytes::copy_from_slice(&operation.source));
                self.pending.put(&operation.id, Touched { stamp, routing: operation.routing.clone(), source });
            }
        }
        Ok(outcome)
    }

    /// Adds the document of an update that was just applied to its outcome.
    pub(super) fn show(
        &self,
        operation: &Operation,
        returned: &ReturnedSource,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        if matches!(outcome.result(), Came::Created | Came::Updated | Came::Noop) {
            let present = self.present(&operation.id)?;
            outcome.document = SourceFilter::new(&returned.includes, &returned.excludes).of_bytes(present.source);
            outcome.document_routing = present.routing;
        }
        Ok(())
    }

    pub(super) fn validate(
        &self,
        operation: &Operation,
        draft: Option<Draft>,
    ) -> Result<Option<Draft>, OperationError> {
        let length = operation.id.len();
        if length == 0 || length > ID_BYTES_MAX {
            let reason = match length {
                0 => "the id of an operation is empty".to_owned(),
                _ => format!("id is too long, must be no longer than {ID_BYTES_MAX} bytes but was: {length}"),
            };
            return Err(error("illegal_argument_exception", reason));
        }
        if let Some(draft) = &draft {
            let (wanted, mapping) = (draft.wanted(), &self.layout.mapping);
            let new: Vec<&str> = self.state.keys.new_of(&wanted).filter(|key| mapping.field(key).is_none()).collect();
            let unmapped = || fields::unmapped(mapping, self.state.keys.list()).count();
            // The whole index is counted by the leader, which closes the mapping when it is full.
            let (fresh, is_refused) = match mapping.closed() {
                Some(closed) => {
                    let fresh = new.iter().filter(|key| !closed.contains(**key)).count();
                    (fresh, fresh > 0)
                }
                None => (new.len(), !new.is_empty() && mapping.size() + unmapped() + new.len() > FIELDS_MAX),
            };
            if is_refused {
                return Err(error(
                    "illegal_argument_exception",
                    format!("Limit of total fields [{FIELDS_MAX}] has been exceeded while adding new fields [{fresh}]"),
                ));
            }
        }
        Ok(draft)
    }

    pub(super) fn known(&self, id: &str) -> Result<Known, Error> {
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

    /// What an update comes to, given the document as it stands now; with the draft of what is to be
    /// written.
    pub(super) fn resolve_update(&mut self, operation: &Operation, seq: Seq) -> Result<(Resolved, Drafted), Error> {
        let known = self.known(&operation.id)?;
        let present = match known {
            Known::Live(_) => Some(self.present(&operation.id)?),
            Known::Absent | Known::Deleted(_) => None,
        };
        let at = Generation { incarnation: self.state.at.incarnation, seq };
        let (layout, operation) = (self.layout.clone(), operation.clone());
        let resolved = self.drafter.alone(move |tools| {
            let resolved = resolve(known, present.as_ref(), &operation, seq.0);
            let drafted = match &resolved {
                Resolved::Outcome(_) => None,
                Resolved::Write(operation) => {
                    tools.strike(&operation.source);
                    Some(Draft::parse(&layout, &operation.id, &operation.source, tools.analyzers))
                }
            };
            (resolved, drafted)
        });
        resolved.map_err(|failure| match failure {
            Failure::Poison(_, reason) => Error::Poison { at, reason },
            Failure::Error(error) => error,
        })
    }

    /// A live document.
    pub(super) fn present(&self, id: &str) -> Result<Present, Error> {
        let lost = || Error::Damaged(format!("the source of document {id:?} is not there"));
        if let Some(Some(touched)) = self.pending.document(id) {
            return Ok(Present { source: touched.source.ok_or_else(lost)?, routing: touched.routing });
        }
        let hidden = &self.index.physical.hidden;
        let stored = self.lookup.document(id)?.ok_or_else(lost)?;
        let first = |field| stored.get_first(field).map(|value| value.as_value());
        let source = first(hidden.source).and_then(|value| value.as_bytes()).ok_or_else(lost)?;
        let routing = first(hidden.routing).and_then(|value| value.as_str()).map(str::to_owned);
        Ok(Present { source: Bytes::copy_from_slice(source), routing })
    }

    /// Whether the row updates a document whose source only a commit shows again.
    pub(super) fn lacks_sources(&self, batch: &Batch) -> bool {
        let mut updates = batch.operations.iter().filter(|operation| operation.kind() == Kind::Update);
        updates.any(|operation| self.pending.lacks_source(&operation.id))
    }

    pub(super) fn remove(&mut self, id: &str) {
        if let Some(writer) = &self.writer {
            writer.delete_term(Term::from_field_text(self.index.physical.hidden.id, id));
        }
    }

    pub(super) fn add(&mut self, document: Incoming) -> Result<(), Error> {
        let Some(Err(error)) = self.writer.as_ref().map(|writer| writer.add_document(document)) else { return Ok(()) };
        // All that adding can say is that the writer's thread has stopped; asked for a commit, the writer
        // says what stopped it. It is of no use any more.
        if let TantivyError::ErrorInThread(_) = error
            && let Some(mut writer) = self.writer.take()
            && let Err(cause) = writer.prepare_commit()
        {
            return Err(cause.into());
        }
        Err(error.into())
    }

    pub(super) fn open_writer(&mut self) -> Result<(), Error> {
        if self.writer.is_none() {
            self.writer = Some(self.index.writer(self.writer_bytes)?);
        }
        Ok(())
    }
}
