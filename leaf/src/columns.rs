//! Open columns of a searcher, kept so that a query does not open them again.
//!
//! Opening a column costs some 20 µs; a query touches several per segment. A column that a segment
//! does not have is an empty list: no document of the segment has a value.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};
use tantivy::columnar::{DynamicColumn, StrColumn};
use tantivy::fastfield::Column;
use tantivy::{Searcher, SegmentOrdinal};

use crate::schema::{ID, TIE};

/// Lists of columns kept per searcher; beyond this, columns are opened for each use.
const COLUMNS_MAX: usize = 8_192;

/// All columns of one name in one segment, one per type.
pub type Columns = Arc<[DynamicColumn]>;

/// The hidden columns that rank hits, of one segment.
#[derive(Clone)]
pub struct Identity {
    /// `_tie`.
    pub tie: Column<u64>,
    /// `_id`.
    pub id: StrColumn,
}

impl Identity {
    /// The document's `_tie`.
    pub fn tie_of(&self, doc: u32) -> u64 {
        self.tie.first(doc).unwrap_or(0)
    }

    /// The document's `_id`.
    pub fn id_of(&self, doc: u32) -> tantivy::Result<String> {
        let mut text = String::new();
        if let Some(ord) = self.id.term_ords(doc).next() {
            self.id.ord_to_str(ord, &mut text)?;
        }
        Ok(text)
    }
}

/// The columns opened so far, and sums over them. Bounded by the number of segments and fields.
#[derive(Default)]
pub struct ColumnCache {
    columns: RwLock<HashMap<SegmentOrdinal, HashMap<String, Columns>>>,
    identities: OnceLock<Vec<Identity>>,
    tokens: Mutex<HashMap<String, u64>>,
}

impl ColumnCache {
    /// The columns of this physical name in a segment; empty when it has none.
    pub fn get(&self, searcher: &Searcher, segment: SegmentOrdinal, name: &str) -> tantivy::Result<Columns> {
        if let Some(columns) = self.columns.read().get(&segment).and_then(|names| names.get(name)) {
            return Ok(columns.clone());
        }
        let columns: Columns = searcher
            .segment_reader(segment)
            .fast_fields()
            .dynamic_column_handles(name)?
            .iter()
            .map(|handle| handle.open())
            .collect::<Result<Vec<_>, _>>()?
            .into();
        let mut cache = self.columns.write();
        if cache.values().map(HashMap::len).sum::<usize>() < COLUMNS_MAX {
            cache.entry(segment).or_default().insert(name.to_owned(), columns.clone());
        }
        Ok(columns)
    }

    /// `_tie` and `_id` of every segment, by segment ordinal.
    pub fn identities(&self, searcher: &Searcher) -> tantivy::Result<&[Identity]> {
        if let Some(identities) = self.identities.get() {
            return Ok(identities);
        }
        let mut identities = Vec::with_capacity(searcher.segment_readers().len());
        for reader in searcher.segment_readers() {
            let fast_fields = reader.fast_fields();
            let id = fast_fields.str(ID)?.ok_or_else(|| damaged(ID))?;
            identities.push(Identity { tie: fast_fields.u64(TIE)?, id });
        }
        Ok(self.identities.get_or_init(|| identities))
    }

    /// The sum of a u64 column over live documents: the exact number of tokens of a text field.
    pub fn sum_live(&self, searcher: &Searcher, name: &str) -> tantivy::Result<u64> {
        if let Some(sum) = self.tokens.lock().get(name) {
            return Ok(*sum);
        }
        let mut sum = 0u64;
        for (ordinal, reader) in (0..).zip(searcher.segment_readers()) {
            for column in self.get(searcher, ordinal, name)?.iter() {
                let DynamicColumn::U64(column) = column else { continue };
                sum += match reader.alive_bitset() {
                    None => column.values.iter().sum::<u64>(),
                    Some(alive) => alive.iter_alive().flat_map(|doc| column.values_for_doc(doc)).sum::<u64>(),
                };
            }
        }
        self.tokens.lock().insert(name.to_owned(), sum);
        Ok(sum)
    }
}

fn damaged(name: &str) -> tantivy::TantivyError {
    tantivy::TantivyError::InternalError(format!("a segment has no column {name}"))
}
