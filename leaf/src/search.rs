//! The query phase of one shard, and the fetch phase where both are one call.
//!
//! [`search_shard`] tells the whole story; what it calls, in order: [`build`] makes physical what the
//! wire says in logical names, [`plan`] is the result, [`score`] the score that is the same
//! everywhere, [`sort`] the order, [`collect`] the best hits, [`count`] the number of matches.
//! Everything is synchronous, runs on the search pool, and stops at the deadline.

pub mod build;
pub mod collect;
pub mod count;
pub mod docs;
pub mod interval;
pub mod phrase;
pub mod plan;
pub mod score;
pub mod sort;
pub mod top;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tantivy::TantivyError;
use trawl_proto::failure;
use trawl_proto::v1::{self, Failure, failure::Kind};

pub use build::{Plan, ScoringTerm};

use crate::aggregation::Limits;
use crate::statistics::{Statistics, plan_statistics};
use crate::{ShardSearcher, aggregation};
use collect::{Collected, Ranked, Wanted};

pub use crate::fetch::fetch_documents;

/// When a search has to stop: at its deadline, or when nobody waits for it any more.
#[derive(Clone, Debug)]
pub struct Cancel {
    deadline: Instant,
    flag: Arc<AtomicBool>,
    limits: Limits,
}

impl Cancel {
    /// Stops at the deadline.
    pub fn new(deadline: Instant) -> Self {
        Self { deadline, flag: Arc::default(), limits: Limits::default() }
    }

    /// The same with other limits than the default ones.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Stops now.
    pub fn cancel(&self) {
        self.flag.store(true, Ordering::Relaxed);
    }

    /// Whether it is time to stop.
    pub fn expired(&self) -> bool {
        self.flag.load(Ordering::Relaxed) || Instant::now() >= self.deadline
    }

    /// The deadline.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What a search may use.
    pub fn limits(&self) -> Limits {
        self.limits
    }
}

/// The failure that an error of tantivy is: what the request asked for, or a defect here.
pub fn failed(error: &TantivyError) -> Failure {
    match error {
        TantivyError::InvalidArgument(reason) => failure(Kind::Invalid, reason.clone()),
        TantivyError::AggregationError(error) => failure(Kind::Invalid, aggregation::reason(error)),
        other => failure(Kind::Internal, other.to_string()),
    }
}

/// Searches one shard.
///
/// 1. Translate the query and the order into this replica's physical fields.
/// 2. Score with the statistics of the whole index; send the shard's own along when they changed.
/// 3. Collect the best hits, and the aggregations.
/// 4. Count the matches, as far as asked and not known by then.
/// 5. Fetch the documents, when query and fetch are one call.
pub fn search_shard(
    searcher: &Arc<ShardSearcher>,
    request: &v1::SearchRequest,
    index: &v1::IndexSearch,
    shard: &v1::ShardSearch,
    cancel: &Cancel,
) -> v1::ShardSearchResult {
    let started = Instant::now();
    let mut result = run(searcher, request, index, shard, cancel)
        .unwrap_or_else(|failure| v1::ShardSearchResult { failure: Some(failure), ..Default::default() });
    result.shard = Some((&searcher.shard).into());
    result.generation = Some(searcher.generation.into());
    result.fields_version = searcher.fields.fields_version();
    result.searcher = searcher.id;
    result.search_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    result
}

fn run(
    searcher: &Arc<ShardSearcher>,
    request: &v1::SearchRequest,
    index: &v1::IndexSearch,
    shard: &v1::ShardSearch,
    cancel: &Cancel,
) -> Result<v1::ShardSearchResult, Failure> {
    if cancel.expired() {
        return Err(failure(Kind::Deadline, "the deadline passed before the search began"));
    }
    let query = index.query.as_ref().ok_or_else(|| failure(Kind::Invalid, "a search without a query"))?;
    let plan = build::build(&searcher.fields, &searcher.physical, query)?;
    let order = sort::Order::new(searcher, &request.sort)?;
    let after = order.after(&request.search_after)?;
    let aggregations = aggregation::prepare(searcher, &request.aggregations)?;
    let aggregation_format = match aggregations {
        Some(_) => aggregation::format(&request.aggregation_formats)?,
        None => 0,
    };

    let is_known = shard.statistics_generation.is_some_and(|known| known == v1::Generation::from(searcher.generation));
    let fresh = if is_known && index.statistics.is_some() { None } else { Some(plan_statistics(searcher, &plan)?) };
    let own = v1::IndexStatistics::default();
    let used = index.statistics.as_ref().or(fresh.as_ref()).unwrap_or(&own);
    let statistics = Statistics::new(used, &plan.scoring_terms);

    let wanted = Wanted {
        searcher,
        root: &plan.root,
        statistics: &statistics,
        order: &order,
        after: after.as_deref(),
        hits_max: request.hits_max as usize,
        track_scores: request.track_scores,
        min_score: request.min_score,
        aggregations: aggregations.as_ref().map(|prepared| &prepared.aggregations),
        cancel,
    };
    let counts_only = request.hits_max == 0 && aggregations.is_none() && request.min_score.is_none();
    let collected =
        if counts_only { Collected::default() } else { collect::collect(&wanted).map_err(|error| failed(&error))? };
    let counted = counted(&wanted, &collected, request.count_up_to)?;

    let collected_hits = collected.hits;
    let mut result = v1::ShardSearchResult {
        fresh_statistics: if is_known { None } else { fresh },
        matched: counted.matched,
        matched_exact: counted.exact,
        max_score: collected.max_score,
        timed_out: collected.timed_out || counted.timed_out,
        aggregations: aggregation::encode(collected.aggregations, aggregations, aggregation_format)?.into(),
        aggregation_format,
        ..Default::default()
    };
    result.hits = hits(searcher, &order, &collected_hits).map_err(|error| failed(&error))?;
    if let Some(options) = &request.fetch {
        let addresses: Vec<v1::HitAddress> = result
            .hits
            .iter()
            .map(|hit| v1::HitAddress { segment: hit.segment, doc: hit.doc, id: hit.id.clone() })
            .collect();
        let documents = fetch_documents(searcher, &addresses, false, Some(query), options)?;
        for (hit, document) in result.hits.iter_mut().zip(documents) {
            hit.document = Some(document);
        }
    }
    Ok(result)
}

/// The number of matches: known when all were visited, else counted as far as asked.
fn counted(wanted: &Wanted<'_>, collected: &Collected, up_to: u64) -> Result<count::Counted, Failure> {
    if let Some(matched) = collected.matched {
        return Ok(count::Counted { matched, exact: !collected.timed_out, timed_out: collected.timed_out });
    }
    let seen = collected.hits.len() as u64;
    if up_to == 0 || collected.timed_out {
        return Ok(count::Counted { matched: seen, exact: false, timed_out: collected.timed_out });
    }
    if wanted.hits_max > collected.hits.len() && wanted.hits_max > 0 && wanted.after.is_none() {
        // Pruning drops nothing before there are as many hits as asked for.
        return Ok(count::Counted { matched: seen, exact: true, timed_out: false });
    }
    count::count(wanted.searcher, wanted.root, up_to, wanted.cancel).map_err(|error| failed(&error))
}

fn hits(searcher: &ShardSearcher, order: &sort::Order, ranked: &[Ranked]) -> tantivy::Result<Vec<v1::Hit>> {
    let identities = searcher.columns.identities(&searcher.searcher)?;
    let mut hits = Vec::with_capacity(ranked.len());
    for hit in ranked {
        let id = match identities.get(hit.segment as usize) {
            Some(identity) => identity.id_of(hit.doc)?,
            None => String::new(),
        };
        let sort = if order.is_by_score() {
            let all = [sort::Key::Score(hit.score), sort::Key::Tie(hit.tie), sort::Key::Text(id.as_str().into())];
            all.iter().take(order.key_count()).map(sort::Key::to_proto).collect()
        } else {
            hit.keys.iter().map(sort::Key::to_proto).collect()
        };
        hits.push(v1::Hit {
            score: hit.score,
            tie: hit.tie,
            id,
            segment: hit.segment,
            doc: hit.doc,
            sort,
            document: None,
        });
    }
    Ok(hits)
}

/// Counts the live documents that match, all of them.
///
/// # Errors
/// `INVALID` for a query that cannot be carried out, `DEADLINE` when time ran out.
pub fn count_shard(searcher: &ShardSearcher, query: &v1::Query, cancel: &Cancel) -> Result<u64, Failure> {
    let plan = build::build(&searcher.fields, &searcher.physical, query)?;
    let counted = count::count(searcher, &plan.root, u64::MAX, cancel).map_err(|error| failed(&error))?;
    if counted.timed_out {
        return Err(failure(Kind::Deadline, "the deadline passed while counting"));
    }
    Ok(counted.matched)
}

/// See [`crate::statistics::shard_statistics`].
pub use crate::statistics::shard_statistics;
