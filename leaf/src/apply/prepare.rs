//! A row before it is applied: checked against what is here, and drafted, if it can be while the row before it is applied.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message;
use trawl_cluster::shard_log::{Record, chain};
use trawl_proto::v1::operation::{Kind, VersionType};
use trawl_proto::v1::{Batch, Operation};
use trawl_proto::{Generation, Seq};

use super::draft::error;
use super::isolation::{Drafted, Failure, Ticket};
use super::{APPLY_VERSION, Core};
use crate::error::Error;

/// The error type of operations that are skipped.
const POISON: &str = "poison_exception";
/// Larger rows are not drafted ahead, in bytes: two of them at once would take much memory.
const AHEAD_BYTES_MAX: usize = 2 << 20;

/// A row that is being drafted.
pub(super) struct Prepared {
    pub(super) first: Seq,
    pub(super) chain: u64,
    pub(super) batch: Arc<Batch>,
    ticket: Ticket<Drafted>,
}

impl Core {
    /// The row must be the very next one, link to the chain, and be of rules that are known.
    pub(super) fn check(&self, record: &Record, batch: &Batch) -> Result<(), Error> {
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
                "row {} needs apply rules {}, this program (Trawl {}) knows {APPLY_VERSION}: run a newer version here",
                record.first,
                record.apply_version,
                env!("CARGO_PKG_VERSION")
            )));
        }
        // Others may know it, so it is not rejected: that would be another outcome than theirs.
        if let Some(at) = batch.operations.iter().position(|operation| !is_known(operation)) {
            return Err(Error::Unreadable(format!(
                "operation {} is of a kind that this program (Trawl {}) does not know: run the version here that the \
                 root has which wrote it",
                record.first.0 + at as u64,
                env!("CARGO_PKG_VERSION")
            )));
        }
        if record.first.0 + batch.operations.len() as u64 != record.last.0 + 1 {
            return Err(Error::Unreadable(format!(
                "row {} to {} of the log has {} operations",
                record.first,
                record.last,
                batch.operations.len()
            )));
        }
        Ok(())
    }

    /// Hands a row to the drafting thread.
    pub(super) fn prepare(&mut self, record: &Record, batch: Arc<Batch>) -> Result<Prepared, Error> {
        let skips = self.skips.load();
        let skipped = skipped(&skips, record).map(|(place, _)| place).collect();
        let ticket = self.drafter.begin(&self.layout, &batch, skipped)?;
        Ok(Prepared { first: record.first, chain: record.chain, batch, ticket })
    }

    /// Begins to draft a row that is to be applied later, if that can be done with the present mapping.
    /// What is wrong with it is found when it is applied.
    pub(super) fn draft_ahead(&mut self, next: &Record) {
        if next.mapping_version == self.state.mapping_version
            && next.body.len() <= AHEAD_BYTES_MAX
            && let Ok(batch) = decode(next)
        {
            self.ahead = self.prepare(next, Arc::new(batch)).ok();
        }
    }

    /// The drafts of a row, one per operation, except those that are skipped: in their place stands the
    /// rejection.
    pub(super) fn drafts(&mut self, record: &Record, prepared: Prepared) -> Result<Vec<Drafted>, Error> {
        let skips = self.skips.clone();
        let at = |place: usize| Generation { incarnation: record.incarnation, seq: Seq(record.first.0 + place as u64) };
        let skip = |place: usize| skips.load().contains_key(&at(place));
        let mut drafts = self.drafter.finish(prepared.ticket, skip).map_err(|failure| match failure {
            Failure::Poison(place, reason) => Error::Poison { at: at(place), reason },
            Failure::Error(error) => error,
        })?;
        for (place, reason) in skipped(&self.skips.load(), record) {
            if let Some(drafted) = drafts.get_mut(place) {
                *drafted = Some(Err(error(POISON, reason.as_ref())));
                self.state.skipped.insert(at(place));
            }
        }
        Ok(drafts)
    }
}

pub(super) fn decode(record: &Record) -> Result<Batch, Error> {
    Batch::decode(record.body.clone())
        .map_err(|error| Error::Unreadable(format!("row {} of the log: {error}", record.first)))
}

/// The operations of a row that are to be left out: their places, and why.
fn skipped<'a>(
    skips: &'a BTreeMap<Generation, Arc<str>>,
    record: &Record,
) -> impl Iterator<Item = (usize, &'a Arc<str>)> + use<'a> {
    let (incarnation, first) = (record.incarnation, record.first);
    let row = Generation { incarnation, seq: first }..=Generation { incarnation, seq: record.last };
    skips.range(row).map(move |(at, reason)| ((at.seq.0 - first.0) as usize, reason))
}

/// Whether this program knows the numbers that an operation has. None at all is known: it is rejected.
fn is_known(operation: &Operation) -> bool {
    Kind::try_from(operation.kind).is_ok() && VersionType::try_from(operation.version_type).is_ok()
}
