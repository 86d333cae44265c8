//! The query phase's calls: what each leaf is asked, and what its answer means per shard.

use std::sync::Arc;
use std::time::Duration;

use trawl_data::aggregation::formats;
use trawl_proto::v1;

use super::Part;
use crate::hedging::Phase;
use crate::leaf_client::LeafClient;
use crate::plan::Target;
use crate::request::SearchRequest;
use crate::scatter::{Scatter, Scattered, by_position};
use crate::statistics::Numbers;

/// Everything that a finished query phase leaves behind.
pub(super) struct QueryPhase {
    /// What was asked, and where.
    pub targets: Vec<Target>,
    /// The part of each target.
    pub part_of: Vec<usize>,
    /// The statistics used.
    pub numbers: Numbers,
    /// One result or failure per target.
    pub scattered: Scattered<v1::ShardSearchResult>,
}

/// Searches all targets.
#[allow(clippy::too_many_arguments)]
pub(super) async fn search(
    scatter: &Scatter<'_>,
    request: &SearchRequest,
    parts: &[Part],
    targets: &[Target],
    part_of: &[usize],
    numbers: &Numbers,
    statistics: &[v1::IndexStatistics],
    fetch_along: bool,
) -> Scattered<v1::ShardSearchResult> {
    let shard_search = |at: usize| v1::ShardSearch {
        shard: targets[at].shard.number,
        statistics_generation: numbers[at].as_ref().map(|numbers| numbers.generation.into()),
        at_least_seq: at_least(&request.after, &targets[at]),
    };
    let protocol = scatter.leaves.protocol();
    let calls = |asked: &[usize]| {
        let groups = groups(parts, part_of, asked);
        let calls = groups.into_iter().map(|group| {
            let lowered = &parts[part_of[group[0]]].lowered;
            v1::SearchRequest {
                query_id: request.query_id.clone(),
                trace_id: request.trace_id.clone(),
                indices: index_searches(parts, part_of, &group, &shard_search, statistics),
                hits_max: if request.size == 0 { 0 } else { request.from + request.size },
                sort: lowered.sort.clone(),
                search_after: lowered.search_after.clone(),
                track_scores: request.track_scores,
                count_up_to: request.track_total.count_up_to(),
                min_score: request.min_score,
                aggregations: lowered.aggregations.clone(),
                fetch: fetch_along.then(|| lowered.fetch.clone()),
                aggregation_formats: formats_to_name(protocol, &lowered.aggregations),
            }
        });
        calls.collect::<Vec<_>>()
    };
    let aggregates = parts.iter().any(|part| !part.lowered.aggregations.is_empty());
    let phase = if aggregates { Phase::Aggregate } else { Phase::Search };
    scatter
        .run(phase, targets, &|leaf, asked, timeout: Duration| {
            let calls = calls(&asked);
            Box::pin(async move {
                let answers =
                    futures::future::try_join_all(calls.into_iter().map(|call| one_call(&leaf, call, timeout)));
                let results = answers.await?.into_iter().flatten();
                Ok(by_position(targets, &asked, results))
            })
        })
        .await
}

/// The formats of partial aggregations that a leaf may answer in; protocol 1 had one and did not name it.
fn formats_to_name(protocol: u32, aggregations: &[v1::Aggregation]) -> Vec<u32> {
    if protocol < 2 || aggregations.is_empty() { Vec::new() } else { formats(protocol).to_vec() }
}

async fn one_call(
    leaf: &Arc<LeafClient>,
    request: v1::SearchRequest,
    timeout: Duration,
) -> Result<Vec<v1::ShardSearchResult>, v1::Failure> {
    Ok(leaf.search(request, timeout).await?.shards)
}

/// Counts on all targets.
pub(super) async fn count(scatter: &Scatter<'_>, parts: &[Part], targets: &[Target]) -> Scattered<v1::ShardCount> {
    let part_of = super::part_of(parts, targets);
    let shard_search = |at: usize| v1::ShardSearch { shard: targets[at].shard.number, ..Default::default() };
    let part_of = &part_of;
    scatter
        .run(Phase::Count, targets, &|leaf, asked, timeout: Duration| {
            let indices = index_searches(parts, part_of, &asked, &shard_search, &[]);
            Box::pin(async move {
                let response = leaf.count(v1::CountRequest { indices }, timeout).await?;
                Ok(by_position(targets, &asked, response.shards))
            })
        })
        .await
}

/// Shards whose requests differ in nothing but index and query share a call. Nearly always that is
/// one group: indices with different mappings may lower sort values differently.
fn groups(parts: &[Part], part_of: &[usize], asked: &[usize]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for at in asked {
        let alike = |group: &&mut Vec<usize>| {
            let (here, there) = (&parts[part_of[*at]].lowered, &parts[part_of[group[0]]].lowered);
            here.sort == there.sort
                && here.search_after == there.search_after
                && here.aggregations == there.aggregations
                && here.fetch == there.fetch
        };
        match groups.iter_mut().find(alike) {
            Some(group) => group.push(*at),
            None => groups.push(vec![*at]),
        }
    }
    groups
}

/// The asked targets by index. Targets of one index stand together.
fn index_searches(
    parts: &[Part],
    part_of: &[usize],
    asked: &[usize],
    shard_search: &dyn Fn(usize) -> v1::ShardSearch,
    statistics: &[v1::IndexStatistics],
) -> Vec<v1::IndexSearch> {
    let mut indices: Vec<v1::IndexSearch> = Vec::new();
    for at in asked {
        let Part { view, lowered, terms } = &parts[part_of[*at]];
        match indices.last_mut().filter(|last| last.index_uid == view.record.uid.as_str()) {
            Some(index) => index.shards.push(shard_search(*at)),
            None => indices.push(v1::IndexSearch {
                index_uid: view.record.uid.0.clone(),
                mapping_version: view.record.mapping_version,
                query: Some(lowered.query.clone()),
                shards: vec![shard_search(*at)],
                statistics: statistics.get(part_of[*at]).filter(|_| !terms.is_empty()).cloned(),
            }),
        }
    }
    indices
}

/// The seq that the reader wants to have seen on a shard; 0 for none.
fn at_least(after: &[v1::Position], target: &Target) -> u64 {
    let here = after.iter().filter(|position| {
        let shard = position.shard.as_ref();
        shard.is_some_and(|shard| {
            shard.number == target.shard.number && shard.index_uid == target.shard.index_uid.as_str()
        })
    });
    here.filter_map(|position| position.generation).map(|generation| generation.seq).max().unwrap_or(0)
}
