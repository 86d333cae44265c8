//! Making a replica's index again with more spare text fields, from its stored documents.
//!
//! Each document is parsed with the mapping version that it was applied with, so it gives the same
//! values as then; its hidden fields are kept. The commit's state stays as it is.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tantivy::schema::Value;
use tantivy::{Searcher, SegmentReader, TantivyDocument, TantivyError};
use trawl_proto::v1;

use super::draft::{Draft, HiddenValues};
use super::keys::Keys;
use super::layout::Layout;
use super::tokens::Analyzers;
use super::{Mappings, panic_message};
use crate::error::Error;
use crate::index::{ReplicaDir, ShardIndex, commit};
use crate::schema::{ID, MAPPING_VERSION, PRIMARY_TERM, PhysicalSchema, SEQ_NO, VERSION};

/// A commit: its documents, what their fields are for, its payload.
pub struct Old {
    /// Its documents.
    pub searcher: Searcher,
    /// What their fields are for.
    pub physical: Arc<PhysicalSchema>,
    /// Its state.
    pub payload: v1::CommitPayload,
}

/// Writes all documents of `old` into a new index with twice as many spares, or as often doubled as
/// `spares_min` needs, and returns where it is. It is not in use yet.
///
/// # Errors
/// Also when told to `stop`; nothing is left behind then.
pub fn build(
    dir: &ReplicaDir,
    old: Old,
    spares_min: u32,
    writer_bytes: usize,
    mappings: &mut Mappings,
    stop: &AtomicBool,
) -> Result<PathBuf, Error> {
    let path = dir.begin()?;
    let built = write(&path, old, spares_min, writer_bytes, mappings, stop);
    if built.is_err()
        && let Err(error) = std::fs::remove_dir_all(&path)
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove an unfinished index");
    }
    built.map(|()| path)
}

fn write(
    path: &Path,
    old: Old,
    spares_min: u32,
    writer_bytes: usize,
    mappings: &mut Mappings,
    stop: &AtomicBool,
) -> Result<(), Error> {
    let Old { searcher, physical: old, mut payload } = old;
    let mut spares = payload.spares.max(1);
    while spares < spares_min || spares == payload.spares {
        spares = spares.saturating_mul(2);
    }
    payload.spares = spares;
    let schema_mapping = mappings(payload.schema_mapping_version)?;
    let physical = Arc::new(PhysicalSchema::new(&schema_mapping, payload.schema_mapping_version, spares));
    let new = ShardIndex::create(path, physical, &payload)?;
    let mut writer = new.writer(writer_bytes)?;
    let keys = Keys::from_proto(payload.dynamic_fields.clone());
    let mut copier =
        Copier { physical: new.physical.clone(), keys, layouts: HashMap::new(), analyzers: Analyzers::default() };
    for reader in searcher.segment_readers() {
        copier.copy(reader, &old, mappings, |document| {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Unreadable("the rebuild was stopped".to_owned()));
            }
            writer.add_document(document.into())?;
            Ok(())
        })?;
    }
    commit(&mut writer, &payload)?;
    writer.wait_merging_threads()?;
    Ok(())
}

struct Copier {
    physical: Arc<PhysicalSchema>,
    keys: Keys,
    layouts: HashMap<u64, Layout>,
    analyzers: Analyzers,
}

impl Copier {
    fn copy(
        &mut self,
        reader: &SegmentReader,
        old: &PhysicalSchema,
        mappings: &mut Mappings,
        mut write: impl FnMut(TantivyDocument) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let columns = reader.fast_fields();
        let ids = columns.str(ID)?.ok_or_else(|| Error::Damaged("a segment has no _id column".to_owned()))?;
        let seqs = columns.u64(SEQ_NO)?;
        let versions = columns.u64(VERSION)?;
        let terms = columns.u64(PRIMARY_TERM)?;
        let mapping_versions = columns.u64(MAPPING_VERSION)?;
        let store = reader.get_store_reader(1).map_err(TantivyError::from)?;
        let mut id = String::new();
        for doc in reader.doc_ids_alive() {
            let ord = ids.term_ords(doc).next().unwrap_or_default();
            id.clear();
            ids.ord_to_str(ord, &mut id).map_err(TantivyError::from)?;
            let stored: TantivyDocument = store.get(doc)?;
            let first = |field| stored.get_first(field).map(|value| value.as_value());
            let values = HiddenValues {
                id: &id,
                routing: first(old.hidden.routing).and_then(|value| value.as_str()),
                seq: seqs.first(doc).unwrap_or_default(),
                version: versions.first(doc).unwrap_or_default(),
                primary_term: terms.first(doc).unwrap_or_default(),
                source: first(old.hidden.source).and_then(|value| value.as_bytes()).unwrap_or_default(),
            };
            let mapping_version = mapping_versions.first(doc).unwrap_or_default();
            write(self.document(&values, mapping_version, mappings)?)?;
        }
        Ok(())
    }

    fn document(
        &mut self,
        values: &HiddenValues<'_>,
        mapping_version: u64,
        mappings: &mut Mappings,
    ) -> Result<TantivyDocument, Error> {
        if !self.layouts.contains_key(&mapping_version) {
            let layout = Layout::new(&mappings(mapping_version)?, mapping_version, &self.physical);
            self.layouts.insert(mapping_version, layout);
        }
        let layout = &self.layouts[&mapping_version];
        let analyzers = &mut self.analyzers;
        let parse = std::panic::AssertUnwindSafe(|| Draft::parse(layout, values.id, values.source, analyzers));
        let draft = std::panic::catch_unwind(parse)
            .map_err(|panic| {
                Error::Damaged(format!("document {:?} panics: {}", values.id, panic_message(panic.as_ref())))
            })?
            .map_err(|error| {
                Error::Damaged(format!("stored document {:?} is not valid: {}", values.id, error.reason))
            })?;
        Ok(draft.finish(&self.physical, layout, &self.keys, values))
    }
}
