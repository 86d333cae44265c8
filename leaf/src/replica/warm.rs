//! What a replica does just before it serves, so that its first searches are not slow: the columns that every search
//! needs are opened, the dictionaries of its text fields too, and the last few queries that its source answered
//! are run, if it was copied from one.
//!
//! Bounded in time: what is not warm by then is warmed by searches. Files need not be read for that: those that were
//! copied or checked just now are in the system's page cache as far as there is room.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prost::Message;
use trawl_proto::v1;

use super::tail::{Tail, blocking};
use crate::ShardSearcher;
use crate::apply::panic_message;
use crate::schema::{PRIMARY_TERM, Physical, ROUTING, SEQ_NO, VERSION};
use crate::search::{Cancel, search_shard};

/// All of it takes at most so long.
const TIME_MAX: Duration = Duration::from_secs(1);
/// Queries that are remembered.
const QUERIES_MAX: usize = 8;
/// Larger ones are not.
const QUERY_BYTES_MAX: usize = 8 << 10;
/// One in so long a time is remembered.
const NOTE_INTERVAL: Duration = Duration::from_secs(1);

/// A few queries that were answered lately.
#[derive(Default)]
pub struct Recent(Mutex<Queries>);

#[derive(Default)]
struct Queries {
    noted_at: Option<Instant>,
    queries: VecDeque<v1::SearchRequest>,
}

impl Recent {
    /// Remembers the search of one shard now and then. Cheap when it does not.
    pub fn note(&self, request: &v1::SearchRequest, index: usize) {
        let Some(mut queries) = self.0.try_lock() else { return };
        let Some(search) = request.indices.get(index) else { return };
        if queries.noted_at.is_some_and(|at| at.elapsed() < NOTE_INTERVAL) {
            return;
        }
        queries.noted_at = Some(Instant::now());
        let shards = Vec::new();
        let search = v1::IndexSearch { shards, statistics: None, ..search.clone() };
        let request =
            v1::SearchRequest { query_id: String::new(), indices: vec![search], fetch: None, ..request.clone() };
        if request.encoded_len() > QUERY_BYTES_MAX || queries.queries.contains(&request) {
            return;
        }
        if queries.queries.len() >= QUERIES_MAX {
            queries.queries.pop_front();
        }
        queries.queries.push_back(request);
    }

    /// Those that are remembered, oldest first.
    pub fn list(&self) -> Vec<v1::SearchRequest> {
        self.0.lock().queries.iter().cloned().collect()
    }

    /// Takes over what another leaf remembers.
    pub fn adopt(&self, queries: Vec<v1::SearchRequest>) {
        let small = queries.into_iter().filter(|query| query.encoded_len() <= QUERY_BYTES_MAX);
        self.0.lock().queries = small.take(QUERIES_MAX).collect();
    }
}

impl Tail {
    /// Warms up the present searcher. Whatever goes wrong shows in searches, if at all.
    pub(super) async fn warm_up(&self) {
        let Some(searcher) = self.replica.searcher.load_full() else { return };
        let queries = self.replica.recent.list();
        let began = Instant::now();
        let warmed = blocking(move || Ok(warm(&searcher, &queries, began + TIME_MAX))).await;
        let shard = self.replica.shard();
        match warmed {
            Ok(queries) => tracing::debug!(%shard, queries, took = ?began.elapsed(), "the replica is warm"),
            Err(error) => tracing::warn!(%shard, reason = error.reason(), "cannot warm the replica up"),
        }
    }
}

/// Returns how many queries were run.
fn warm(searcher: &Arc<ShardSearcher>, queries: &[v1::SearchRequest], until: Instant) -> usize {
    let fields: Vec<_> = searcher.fields.text_fields().map(|(_, part)| part).collect();
    for segment in 0..searcher.searcher.segment_readers().len() as u32 {
        for name in [SEQ_NO, VERSION, PRIMARY_TERM, ROUTING] {
            let _ = searcher.columns.get(&searcher.searcher, segment, name);
        }
        for part in &fields {
            let Physical::Text { field, .. } = part else { continue };
            let _ = searcher.searcher.segment_reader(segment).inverted_index(*field);
            if Instant::now() >= until {
                return 0;
            }
        }
    }
    for part in &fields {
        if let Physical::Text { length_name, .. } = part
            && Instant::now() < until
        {
            let _ = searcher.columns.sum_live(&searcher.searcher, length_name);
        }
    }
    let mut ran = 0;
    for request in queries {
        let cancel = Cancel::new(until);
        if cancel.expired() {
            break;
        }
        let (Some(search), shard) = (request.indices.first(), v1::ShardSearch::default()) else { continue };
        let run = || search_shard(searcher, request, search, &shard, &cancel);
        // A query of death does not die here.
        if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
            tracing::warn!(shard = %searcher.shard, panic = panic_message(panic.as_ref()), "a query panicked at warming up");
        }
        ran += 1;
    }
    ran
}
