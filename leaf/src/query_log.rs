//! The query log: a line of JSON per shard search, for slow and failed ones and a sample of the others. Lines go to whatever
//! the process writes them with, which must not block; nothing is rendered of a search that is not written.

mod text;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tantivy::time::OffsetDateTime;
use tantivy::time::format_description::well_known::Rfc3339;
use trawl_proto::v1::failure::Kind;
use trawl_proto::v1::{self, Failure, ShardSearchResult};

use crate::replica::Replica;

/// Takes one line, without its end. Must return at once.
pub type WriteLine = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// Which searches are written.
#[derive(Clone)]
pub struct QueryLog {
    /// Where lines go.
    pub write: WriteLine,
    /// Searches that take as long, waiting included, are all written, as warnings. Default 500 ms.
    pub slow: Duration,
    /// The share of the others that is written, from 0 to 1. Default 0.01.
    pub sample: f64,
    /// Indices whose names begin like this are left out: those that the lines themselves end up in. Default `logs-trawl-`.
    pub exclude: String,
}

impl fmt::Debug for QueryLog {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("QueryLog")
            .field("slow", &self.slow)
            .field("sample", &self.sample)
            .finish_non_exhaustive()
    }
}

/// What came of a shard search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Ok,
    /// The deadline cut it short.
    Partial,
    /// Whoever asked went away.
    Cancelled,
    /// There was no room to wait in.
    Rejected,
    Failed,
}

#[derive(Serialize)]
struct Entry<'a> {
    timestamp: String,
    level: &'static str,
    message: String,
    query_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    trace_id: &'a str,
    index: &'a str,
    shard: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<String>,
    fingerprint: String,
    query: String,
    matched: u64,
    returned: usize,
    queue_us: u64,
    search_us: u64,
    took_us: u64,
    outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

/// A search that is under way; dropped before it is done, it was cancelled.
pub struct Watched<'a> {
    log: Option<&'a QueryLog>,
    request: &'a v1::SearchRequest,
    search: &'a v1::IndexSearch,
    shard: u32,
    index: Arc<str>,
    started: Instant,
}

/// Watches the search of one shard.
pub fn watch<'a>(
    log: Option<&'a QueryLog>,
    request: &'a v1::SearchRequest,
    search: &'a v1::IndexSearch,
    shard: u32,
    replica: Option<&Replica>,
) -> Watched<'a> {
    let index = replica.map(Replica::index_name).unwrap_or_default();
    let log = log.filter(|log| !index.starts_with(&log.exclude));
    Watched { log, request, search, shard, index, started: Instant::now() }
}

impl Watched<'_> {
    /// It is done.
    pub fn done(mut self, result: &ShardSearchResult) {
        if let Some(log) = self.log.take() {
            let outcome = match &result.failure {
                Some(failure) if failure.kind() == Kind::Rejected => Outcome::Rejected,
                Some(failure) if failure.kind() == Kind::Deadline => Outcome::Partial,
                Some(_) => Outcome::Failed,
                None if result.timed_out => Outcome::Partial,
                None => Outcome::Ok,
            };
            self.note(log, outcome, result);
        }
    }

    fn note(&self, log: &QueryLog, outcome: Outcome, result: &ShardSearchResult) {
        let took = self.started.elapsed();
        let slow = took >= log.slow;
        let ordinary = matches!(outcome, Outcome::Ok | Outcome::Cancelled) && !slow;
        if ordinary && rand::random::<f64>() >= log.sample {
            return;
        }
        let level = match outcome {
            Outcome::Failed => "error",
            _ if ordinary => "info",
            _ => "warn",
        };
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let (query, fingerprint) = text::of(self.search.query.as_ref(), &self.request.aggregations);
        let entry = Entry {
            timestamp: now(),
            level,
            message: format!(
                "{} {:.1} ms: {query}",
                if slow { "slow search" } else { "search" },
                took.as_secs_f64() * 1e3
            ),
            query_id: &self.request.query_id,
            trace_id: &self.request.trace_id,
            index: if self.index.is_empty() { &self.search.index_uid } else { &self.index },
            shard: self.shard,
            generation: result.generation.map(|of| format!("{}:{}", of.incarnation, of.seq)),
            fingerprint,
            query,
            matched: result.matched,
            returned: result.hits.len(),
            queue_us: result.queue_us,
            search_us: result.search_us,
            took_us: micros(took),
            outcome,
            reason: result.failure.as_ref().map(|Failure { reason, .. }| reason.as_str()),
        };
        if let Ok(line) = serde_json::to_vec(&entry) {
            (log.write)(&line);
        }
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        if let Some(log) = self.log.take() {
            self.note(log, Outcome::Cancelled, &ShardSearchResult::default());
        }
    }
}

fn now() -> String {
    let nanos = i128::from(trawl_proto::clock::unix_ms()) * 1_000_000;
    let now = OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    now.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn failed_and_slow_searches_are_written_and_others_by_lot() {
        let lines: Arc<Mutex<Vec<serde_json::Value>>> = Arc::default();
        let own = lines.clone();
        let write: WriteLine = Arc::new(move |line| own.lock().unwrap().push(serde_json::from_slice(line).unwrap()));
        let mut log = QueryLog { write, slow: Duration::from_secs(60), sample: 0.0, exclude: "logs-trawl-".to_owned() };
        let request = v1::SearchRequest { query_id: "q".to_owned(), ..v1::SearchRequest::default() };
        let search = v1::IndexSearch { index_uid: "u".to_owned(), ..v1::IndexSearch::default() };
        let done = |log: &QueryLog, failure: Option<Kind>| {
            let failure = failure.map(|kind| trawl_proto::failure(kind, "why"));
            let result = ShardSearchResult { matched: 7, failure, ..ShardSearchResult::default() };
            watch(Some(log), &request, &search, 3, None).done(&result);
        };
        done(&log, None);
        assert!(lines.lock().unwrap().is_empty());
        done(&log, Some(Kind::Internal));
        done(&log, Some(Kind::Rejected));
        drop(watch(Some(&log), &request, &search, 3, None));
        log.slow = Duration::ZERO;
        drop(watch(Some(&log), &request, &search, 3, None));
        done(&log, None);
        let outcomes: Vec<_> = lines
            .lock()
            .unwrap()
            .iter()
            .map(|line| format!("{} {}", line["level"].as_str().unwrap(), line["outcome"].as_str().unwrap()))
            .collect();
        assert_eq!(outcomes, ["error failed", "warn rejected", "warn cancelled", "warn ok"]);
        assert_eq!(lines.lock().unwrap()[3]["matched"], 7);
    }
}
