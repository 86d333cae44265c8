//! One immutable, searchable state of a replica.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tantivy::Searcher;
use trawl_proto::{Generation, ShardKey};

use crate::columns::ColumnCache;
use crate::schema::{FieldMap, PhysicalSchema};

/// A replica as of one commit. Everything that reads works on one of these; whoever holds it keeps
/// its files readable.
pub struct ShardSearcher {
    /// The shard.
    pub shard: ShardKey,
    /// Unique within the process; never 0.
    pub id: u64,
    /// What it contains.
    pub generation: Generation,
    /// Tantivy's view of the commit.
    pub searcher: Searcher,
    /// Logical to physical fields.
    pub fields: Arc<FieldMap>,
    /// The schema that the physical fields belong to.
    pub physical: Arc<PhysicalSchema>,
    /// Open columns.
    pub columns: ColumnCache,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// The id that the next searcher gets at the earliest.
pub fn next_id() -> u64 {
    NEXT_ID.load(Ordering::SeqCst)
}

impl ShardSearcher {
    /// A searcher with a new id and no open columns.
    pub fn new(
        shard: ShardKey,
        generation: Generation,
        searcher: Searcher,
        fields: Arc<FieldMap>,
        physical: Arc<PhysicalSchema>,
    ) -> Self {
        let id = NEXT_ID.fetch_add(1, Ordering::SeqCst);
        Self { shard, id, generation, searcher, fields, physical, columns: ColumnCache::default() }
    }
}

impl std::fmt::Debug for ShardSearcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardSearcher")
            .field("shard", &self.shard)
            .field("id", &self.id)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}
