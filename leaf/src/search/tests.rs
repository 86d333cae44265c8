//! Search against brute force: every kind of query on random corpora, over shards, segments, updates
//! and deletes, compared hit by hit and to the last bit of the score with a naive scan of the live
//! documents.

#![allow(clippy::unwrap_used)]

mod corpus;
mod mixed;
mod naive;

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use trawl_proto::v1::{query, sort_key};

use self::corpus::{Corpus, Shards, query_of};
use super::*;

/// The hits of all shards, merged as the root does.
struct Answer {
    hits: Vec<v1::Hit>,
    matched: u64,
    exact: bool,
    max_score: Option<f32>,
}

fn ask(shards: &Shards, query: &v1::Query, change: impl Fn(&mut v1::SearchRequest)) -> Result<Answer, Failure> {
    let mut request = v1::SearchRequest { hits_max: 10, count_up_to: u64::MAX, ..Default::default() };
    change(&mut request);
    let statistics = shards.statistics(query);
    let index = v1::IndexSearch { query: Some(query.clone()), statistics: Some(statistics), ..Default::default() };
    let cancel = Cancel::new(Instant::now() + Duration::from_secs(60));
    let mut answer = Answer { hits: Vec::new(), matched: 0, exact: true, max_score: None };
    for searcher in &shards.searchers {
        let shard = v1::ShardSearch { statistics_generation: Some(searcher.generation.into()), ..Default::default() };
        let result = search_shard(searcher, &request, &index, &shard, &cancel);
        if let Some(failure) = result.failure {
            return Err(failure);
        }
        assert!(!result.timed_out);
        assert!(result.fresh_statistics.is_none());
        answer.hits.extend(result.hits);
        answer.matched += result.matched;
        answer.exact &= result.matched_exact;
        answer.max_score = answer.max_score.into_iter().chain(result.max_score).max_by(f32::total_cmp);
    }
    if request.sort.is_empty() {
        answer.hits.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.tie.cmp(&b.tie)).then(a.id.cmp(&b.id)));
    }
    answer.hits.truncate(request.hits_max as usize);
    Ok(answer)
}

fn ranked(hits: &[v1::Hit]) -> Vec<(String, u32)> {
    hits.iter().map(|hit| (hit.id.clone(), hit.score.to_bits())).collect()
}

/// Compares one query on one arrangement of the corpus with the naive scan.
fn check(corpus: &Corpus, shards: &Shards, query: &v1::Query, hits_max: usize, context: &str) {
    let expected = naive::search(corpus, query);
    let answer = ask(shards, query, |request| request.hits_max = u32::try_from(hits_max).unwrap()).unwrap();
    assert_eq!(answer.matched, expected.len() as u64, "{context}: matches of {query:?}");
    assert!(answer.exact);
    let best: Vec<(String, u32)> =
        expected.iter().take(hits_max).map(|(id, score)| (id.clone(), score.to_bits())).collect();
    assert_eq!(ranked(&answer.hits), best, "{context}: hits of {query:?}");
    if hits_max > 0 {
        assert_eq!(answer.max_score.map(f32::to_bits), best.first().map(|best| best.1), "{context}");
    }
    let counted: u64 = shards.searchers.iter().map(|searcher| count(searcher, query)).sum();
    assert_eq!(counted, expected.len() as u64, "{context}: count of {query:?}");
}

fn count(searcher: &ShardSearcher, query: &v1::Query) -> u64 {
    count_shard(searcher, query, &Cancel::new(Instant::now() + Duration::from_secs(60))).unwrap()
}

#[test]
fn every_query_ranks_as_a_naive_scan_does_for_any_sharding() {
    let seeds = std::env::var("TRAWL_TEST_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(5u64);
    for seed in 0..seeds {
        let mut random = StdRng::seed_from_u64(seed);
        let corpus = Corpus::random(&mut random, 150);
        for shard_count in [1usize, 3] {
            let shards = Shards::build(&corpus, shard_count, shard_count > 1 || seed % 2 == 0, &mut random);
            for number in 0..250 {
                let query = corpus::random_query(&mut random, &corpus, 3);
                let hits_max = [0, 1, 3, 10, 500][random.random_range(0..5)];
                check(
                    &corpus,
                    &shards,
                    &query,
                    hits_max,
                    &format!("seed {seed}, {shard_count} shards, query {number}"),
                );
            }
        }
    }
}

#[test]
fn pruning_loses_no_hit_whatever_the_average_lengths() {
    for seed in 0..2u64 {
        let mut random = StdRng::seed_from_u64(100 + seed);
        // Thousands of documents make blocks; segments with long and with short texts make averages
        // that differ from the index's.
        let corpus = Corpus::random(&mut random, 4_000);
        let shards = Shards::build_by_length(&corpus, 3);
        for number in 0..60 {
            let terms: Vec<v1::Query> = (0..random.random_range(1..5))
                .map(|_| v1::Query {
                    boost: [None, Some(2.5), Some(0.3)][random.random_range(0..3)],
                    ..corpus::term("title", &corpus::word(&mut random))
                })
                .collect();
            let is_and = random.random_bool(0.4);
            let (must, should) = if is_and { (terms, Vec::new()) } else { (Vec::new(), terms) };
            let boolean = v1::Boolean { must, should, minimum_should_match: u32::from(!is_and), ..Default::default() };
            let query = query_of(query::Kind::Boolean(boolean));
            check(&corpus, &shards, &query, 10, &format!("seed {seed}, query {number}"));
        }
    }
}

#[test]
fn pages_by_search_after_are_the_whole_list() {
    let mut random = StdRng::seed_from_u64(7);
    let corpus = Corpus::random(&mut random, 120);
    let shards = Shards::build(&corpus, 1, true, &mut random);
    let by = |by, descending| v1::SortKey { by: Some(by), descending, ..Default::default() };
    let sorts = [
        vec![by(sort_key::By::Score(true), true), by(sort_key::By::Tie(true), false)],
        vec![by(sort_key::By::Field("tag".to_owned()), false), by(sort_key::By::Tie(true), false)],
        vec![by(sort_key::By::Field("n".to_owned()), true), by(sort_key::By::Id(true), true)],
        vec![by(sort_key::By::Field("x".to_owned()), false), by(sort_key::By::Id(true), false)],
    ];
    let query = query_of(query::Kind::Boolean(v1::Boolean {
        should: vec![
            corpus::term("title", "w0"),
            corpus::term("title", "w1"),
            query_of(query::Kind::MatchAll(v1::MatchAll {})),
        ],
        minimum_should_match: 1,
        ..Default::default()
    }));
    for sort in sorts {
        let all = ask(&shards, &query, |request| {
            request.sort = sort.clone();
            request.hits_max = 1_000;
        })
        .unwrap();
        assert_eq!(all.hits.len(), corpus.live().count());
        let mut paged: Vec<v1::Hit> = Vec::new();
        loop {
            let after = paged.last().map(|hit| hit.sort.clone()).unwrap_or_default();
            let page = ask(&shards, &query, |request| {
                request.sort = sort.clone();
                request.search_after = after.clone();
                request.hits_max = 7;
            })
            .unwrap();
            if page.hits.is_empty() {
                break;
            }
            paged.extend(page.hits);
        }
        let ids = |hits: &[v1::Hit]| hits.iter().map(|hit| hit.id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&paged), ids(&all.hits), "{sort:?}");
    }
}

#[test]
fn sorting_by_fields_agrees_with_a_naive_sort() {
    for seed in 0..3u64 {
        let mut random = StdRng::seed_from_u64(40 + seed);
        let corpus = Corpus::random(&mut random, 100);
        let shards = Shards::build(&corpus, 1, true, &mut random);
        for field in ["n", "d", "tag", "flag", "date", "x", "ip", "tags", "nowhere", "y.keyword"] {
            for (descending, missing_first) in [(false, false), (true, false), (false, true), (true, true)] {
                let by = Some(sort_key::By::Field(field.to_owned()));
                let sort = vec![v1::SortKey { by, descending, missing_first, ..Default::default() }];
                let all = query_of(query::Kind::MatchAll(v1::MatchAll {}));
                for hits_max in [5u32, 1_000] {
                    let found = ask(&shards, &all, |request| {
                        request.sort = sort.clone();
                        request.hits_max = hits_max;
                    })
                    .unwrap();
                    let ids: Vec<String> = found.hits.iter().map(|hit| hit.id.clone()).collect();
                    let expected = naive::sorted(&corpus, field, descending, missing_first);
                    assert_eq!(
                        ids,
                        expected[..expected.len().min(hits_max as usize)],
                        "{field} {descending} {missing_first}"
                    );
                    assert!(found.hits.iter().all(|hit| hit.score.is_nan() && hit.sort.len() == 1));
                }
            }
        }
        let text = vec![v1::SortKey { by: Some(sort_key::By::Field("title".to_owned())), ..Default::default() }];
        let all = query_of(query::Kind::MatchAll(v1::MatchAll {}));
        let refused = ask(&shards, &all, |request| request.sort = text.clone()).map(|_| ()).unwrap_err();
        assert_eq!(refused.kind(), Kind::Invalid);
    }
}

#[test]
fn min_score_leaves_out_and_does_not_count() {
    let mut random = StdRng::seed_from_u64(9);
    let corpus = Corpus::random(&mut random, 150);
    let shards = Shards::build(&corpus, 2, true, &mut random);
    for _ in 0..60 {
        let query = corpus::random_query(&mut random, &corpus, 3);
        let expected = naive::search(&corpus, &query);
        let Some((_, min)) = expected.get(expected.len() / 2).cloned() else { continue };
        let kept: Vec<(String, u32)> = expected
            .iter()
            .filter(|(_, score)| *score >= min)
            .map(|(id, score)| (id.clone(), score.to_bits()))
            .collect();
        let answer = ask(&shards, &query, |request| {
            request.min_score = Some(min);
            request.hits_max = 1_000;
        })
        .unwrap();
        assert_eq!(ranked(&answer.hits), kept, "{query:?}");
        assert_eq!(answer.matched, kept.len() as u64);
    }
}

#[test]
fn counting_stops_early_and_says_so() {
    let mut random = StdRng::seed_from_u64(11);
    let corpus = Corpus::random(&mut random, 200);
    let shards = Shards::build(&corpus, 1, false, &mut random);
    let terms = vec![corpus::term("title", "w0"), corpus::term("title", "w1")];
    let boolean = v1::Boolean { should: terms, minimum_should_match: 1, ..Default::default() };
    let query = query_of(query::Kind::Boolean(boolean));
    let answer = ask(&shards, &query, |request| request.count_up_to = 5).unwrap();
    assert!(answer.matched > 5 && !answer.exact);
    let nothing = ask(&shards, &query, |request| request.count_up_to = 0).unwrap();
    assert!(!nothing.exact);
}

#[test]
fn what_is_over_a_limit_or_malformed_is_invalid_and_named() {
    let mut random = StdRng::seed_from_u64(12);
    let corpus = Corpus::random(&mut random, 5);
    let shards = Shards::build(&corpus, 1, false, &mut random);
    let refused = |query: &v1::Query| {
        let searcher = &shards.searchers[0];
        build::build(&searcher.fields, &searcher.physical, query).map(|_| ()).unwrap_err()
    };
    let mut deep = corpus::term("title", "w0");
    for _ in 0..100 {
        deep = query_of(query::Kind::Boolean(v1::Boolean { must: vec![deep], ..Default::default() }));
    }
    assert!(refused(&deep).reason.contains("nested"));
    let wide = v1::Boolean { should: vec![corpus::term("title", "w0"); 1_025], ..Default::default() };
    assert!(refused(&query_of(query::Kind::Boolean(wide))).reason.contains("1024"));
    let negative = v1::Query { boost: Some(-1.0), ..corpus::term("title", "w0") };
    assert!(refused(&negative).reason.contains("boost"));
    assert_eq!(refused(&v1::Query::default()).kind(), Kind::Invalid);
}

#[test]
fn a_search_past_its_deadline_or_cancelled_fails_fast() {
    let mut random = StdRng::seed_from_u64(13);
    let corpus = Corpus::random(&mut random, 5);
    let shards = Shards::build(&corpus, 1, false, &mut random);
    let query = Some(query_of(query::Kind::MatchAll(v1::MatchAll {})));
    let index = v1::IndexSearch { query, ..Default::default() };
    let cancel = Cancel::new(Instant::now() + Duration::from_secs(60));
    cancel.cancel();
    let request = v1::SearchRequest { hits_max: 10, ..Default::default() };
    let result = search_shard(&shards.searchers[0], &request, &index, &v1::ShardSearch::default(), &cancel);
    assert_eq!(result.failure.unwrap().kind(), Kind::Deadline);
}

#[test]
fn a_replica_that_is_newer_sends_its_own_statistics() {
    let mut random = StdRng::seed_from_u64(14);
    let corpus = Corpus::random(&mut random, 50);
    let shards = Shards::build(&corpus, 1, true, &mut random);
    let query = corpus::term("title", "w0");
    let index = v1::IndexSearch { query: Some(query.clone()), ..Default::default() };
    let request = v1::SearchRequest {
        hits_max: 10,
        fetch: Some(v1::FetchOptions { source: true, ..Default::default() }),
        ..Default::default()
    };
    let cancel = Cancel::new(Instant::now() + Duration::from_secs(60));
    let result = search_shard(&shards.searchers[0], &request, &index, &v1::ShardSearch::default(), &cancel);
    let fresh = result.fresh_statistics.unwrap();
    assert_eq!(fresh.documents, corpus.live().count() as u64);
    assert_eq!(fresh.terms[0].documents, naive::search(&corpus, &query).len() as u64);
    let tokens: usize = corpus.live().map(|document| document.title.len()).sum();
    assert_eq!(fresh.fields[0].tokens, tokens as u64);
    for hit in result.hits {
        let document = hit.document.unwrap();
        assert_eq!(document.id, hit.id);
        let expected = corpus.live().find(|document| document.id == hit.id).unwrap();
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&document.source).unwrap(), expected.source());
    }
}

#[test]
fn aggregations_count_live_documents_over_segments() {
    use tantivy::aggregation::AggregationLimitsGuard;
    use tantivy::aggregation::agg_result::{AggregationResult, BucketResult};
    use trawl_data::aggregation::{Partial, ValueKind};

    let mut random = StdRng::seed_from_u64(21);
    let corpus = Corpus::random(&mut random, 200);
    let shards = Shards::build(&corpus, 1, true, &mut random);
    let terms = |field: &str| {
        let terms = v1::TermsAggregation { field: field.to_owned(), size: 10, min_doc_count: 1, ..Default::default() };
        let kind = Some(v1::aggregation::Kind::Terms(terms));
        v1::Aggregation { name: field.to_owned(), kind, aggregations: Vec::new() }
    };
    let wanted = vec![terms("tag"), terms("tags"), terms("y.keyword"), terms("nowhere")];
    let query = corpus::term("body", "w1");
    let request = v1::SearchRequest { aggregations: wanted.clone(), ..Default::default() };
    let index = v1::IndexSearch { query: Some(query.clone()), ..Default::default() };
    let cancel = Cancel::new(Instant::now() + Duration::from_secs(60));
    let searcher = &shards.searchers[0];
    let result = search_shard(searcher, &request, &index, &v1::ShardSearch::default(), &cancel);
    assert_eq!(result.failure, None);
    let partial: Partial = Partial::decode(result.aggregation_format, result.aggregations.clone()).unwrap();
    assert_eq!(partial.kinds.get("tag"), Some(&ValueKind::Keyword));
    assert_eq!(partial.kinds.get("nowhere"), None);

    let prepared = aggregation::prepare(searcher, &wanted).unwrap().unwrap();
    let found = partial.results.into_final_result(prepared.aggregations, AggregationLimitsGuard::default()).unwrap();
    let matching: Vec<String> = naive::search(&corpus, &query).into_iter().map(|(id, _)| id).collect();
    let matching: Vec<_> = corpus.live().filter(|document| matching.contains(&document.id)).collect();
    let count = |field: &str, key: &str| {
        let has = |document: &&&corpus::Document| match field {
            "tag" => document.tag.as_deref() == Some(key),
            "tags" => document.tags.iter().any(|tag| tag == key),
            _ => document.y.as_deref() == Some(key),
        };
        matching.iter().filter(has).count() as u64
    };
    for aggregation in &wanted {
        let field = &aggregation.name;
        let AggregationResult::BucketResult(BucketResult::Terms { buckets, .. }) = &found.0[field] else {
            panic!("not terms")
        };
        assert_eq!(buckets.is_empty(), field == "nowhere");
        for bucket in buckets {
            let tantivy::aggregation::Key::Str(key) = &bucket.key else { panic!("not a string") };
            assert_eq!(bucket.doc_count, count(field, key), "{field} {key}");
        }
    }

    let text = v1::SearchRequest { aggregations: vec![terms("title")], ..Default::default() };
    let refused = search_shard(searcher, &text, &index, &v1::ShardSearch::default(), &cancel).failure.unwrap();
    assert_eq!(refused.kind(), Kind::Invalid);
    assert!(refused.reason.contains("Text fields are not optimised"));
    let tight = cancel.clone().with_limits(Limits { memory_bytes: 1, buckets: 1 });
    let refused = search_shard(searcher, &request, &index, &v1::ShardSearch::default(), &tight).failure.unwrap();
    assert!(refused.reason.starts_with("too_many_buckets"), "{refused:?}");
}
