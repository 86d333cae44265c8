//! A root with real leaves in this process, over a real engine, without HTTP: the way of a write and of
//! a query from end to end. Whole clusters of processes are tested from the binary.
#![allow(clippy::unwrap_used)]

mod cluster;

use std::sync::Arc;
use std::time::Duration;

use trawl_data::mapping::Mapping;
use trawl_proto::v1;
use v1::query::Kind;

use self::cluster::Cluster;
use crate::request::*;
use crate::{Error, Root};

fn mapping() -> Mapping {
    let json = serde_json::json!({"properties": {
        "title": {"type": "text"}, "kind": {"type": "keyword"}, "year": {"type": "long"},
    }});
    Mapping::parse(&json).unwrap()
}

async fn create(root: &Root, name: &str, shards: u32, replicas: u32) {
    let index = CreateIndex {
        shards,
        replicas,
        refresh_interval: None,
        log_bytes_max: None,
        log_age_max: None,
        replace_after: None,
        mapping: mapping(),
    };
    let created = root.create_index(name, index, Duration::from_secs(20)).await.unwrap();
    assert!(created.shards_acknowledged);
}

fn put(index: &str, id: &str, source: serde_json::Value) -> WriteItem {
    let operation = v1::Operation {
        kind: v1::operation::Kind::Index.into(),
        id: id.to_owned(),
        source: source.to_string().into(),
        ..Default::default()
    };
    WriteItem { index: index.to_owned(), operation }
}

fn refreshed() -> WriteOptions {
    WriteOptions { refresh: Refresh::True, ..WriteOptions::default() }
}

const WORDS: [&str; 7] = ["fox", "quick", "brown", "dog", "lazy", "jumps", "over"];

/// 300 documents whose words and lengths differ.
fn library(index: &str) -> Vec<WriteItem> {
    let title = |n: usize| {
        let words = (0..1 + n % 9).map(|word| WORDS[(n * 3 + word * word + n / 7) % WORDS.len()]);
        words.collect::<Vec<_>>().join(" ")
    };
    let document = |n| serde_json::json!({"title": title(n), "kind": WORDS[n % 3], "year": 1900 + n % 50, "extra": n});
    (0..300).map(|n| put(index, &format!("doc-{n}"), document(n))).collect()
}

fn term(field: &str, text: &str) -> v1::Query {
    let value = v1::Value { kind: Some(v1::value::Kind::String(text.to_owned())) };
    v1::Query { kind: Some(Kind::Term(v1::Term { field: field.to_owned(), value: Some(value) })), boost: None }
}

fn should(queries: Vec<v1::Query>) -> v1::Query {
    let boolean = v1::Boolean { should: queries, minimum_should_match: 1, ..Default::default() };
    v1::Query { kind: Some(Kind::Boolean(boolean)), boost: None }
}

fn lower(query: v1::Query) -> Lower {
    let fetch = v1::FetchOptions { source: true, ..Default::default() };
    Arc::new(move |_: &IndexView| Ok(Lowered { query: query.clone(), fetch: fetch.clone(), ..Lowered::default() }))
}

fn request(index: &str, query: v1::Query) -> SearchRequest {
    SearchRequest::new(vec![index.to_owned()], lower(query))
}

fn ranking(response: &SearchResponse) -> Vec<(String, u32)> {
    response.hits.iter().map(|hit| (hit.id.clone(), hit.score.unwrap().to_bits())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_is_found_the_same_for_any_sharding_and_replica() {
    let cluster = Cluster::start(3).await;
    let root = &cluster.root;
    for (index, shards, replicas) in [("one", 1, 0), ("four", 4, 1), ("seven", 7, 2)] {
        create(root, index, shards, replicas).await;
        let written = root.write(library(index), refreshed()).await.unwrap();
        for item in &written.items {
            let outcome = &item.result.as_ref().unwrap().outcome;
            let created = |outcome: &v1::Outcome| outcome.result() == v1::outcome::Result::Created;
            assert!(matches!(outcome, WriteOutcome::Done(outcome) if created(outcome)), "{item:?}");
        }
        assert!(written.refreshed);
    }
    for query in
        [term("title", "fox"), should(vec![term("title", "quick"), term("title", "lazy"), term("kind", "dog")])]
    {
        let expected = root.search(request("one", query.clone())).await.unwrap();
        assert_eq!(expected.hits.len(), 10);
        for index in ["four", "seven"] {
            for turn in 0..3 {
                let mut request = request(index, query.clone());
                request.preference = Some(format!("_prefer_nodes:leaf-{turn}"));
                let response = root.search(request).await.unwrap();
                assert_eq!(response.shards.failed, 0);
                assert_eq!(response.total, expected.total);
                assert_eq!(response.max_score, expected.max_score);
                assert_eq!(ranking(&response), ranking(&expected), "{index} {turn}");
            }
        }
    }
    assert_eq!(root.metrics.statistics_asked.get(), 6, "the first search per index and query asks, the others know");
    let (count, shards) = root.count(&["four".to_owned()], &lower(term("kind", "fox"))).await.unwrap();
    assert_eq!((count, shards.successful), (100, 4));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_are_got_before_they_are_searchable() {
    let cluster = Cluster::start(2).await;
    let root = &cluster.root;
    // The index is made by the write.
    let items = vec![put("books", "a", serde_json::json!({"t": "x"})), put("books", "", serde_json::json!({"t": "y"}))];
    let written = root.write(items, WriteOptions::default()).await.unwrap();
    let automatic = written.items[1].id.clone();
    assert_eq!(automatic.len(), 22);
    let ids = vec![("a".to_owned(), None), ("missing".to_owned(), None), (automatic, None)];
    let options = v1::FetchOptions { source: true, ..Default::default() };
    let gotten = root.get("books", ids, true, options).await.unwrap();
    let sources: Vec<_> = gotten.into_iter().map(|got| got.unwrap().map(|document| document.source)).collect();
    assert_eq!(sources, [Some(r#"{"t":"x"}"#.into()), None, Some(r#"{"t":"y"}"#.into())]);
    let view = root.index_view_latest("books").await.unwrap();
    assert_eq!(view.mapping.field("t").unwrap().field_type.name(), "text");
    let health = root.wait_health(&[], HealthStatus::Green, Duration::from_secs(10)).await;
    assert_eq!(health.status, HealthStatus::Green);

    root.put_mapping(&["books".to_owned()], &serde_json::json!({"properties": {"n": {"type": "long"}}})).await.unwrap();
    assert_eq!(root.index_view("books").await.unwrap().record.mapping_version, 2);
    let contradiction = serde_json::json!({"properties": {"n": {"type": "keyword"}}});
    assert!(matches!(root.put_mapping(&["books".to_owned()], &contradiction).await, Err(Error::Invalid { .. })));
    root.delete_index(&["books".to_owned()]).await.unwrap();
    assert!(matches!(root.search(request("books", term("t", "x"))).await, Err(Error::NoSuchIndex(_))));
    cluster.nothing_left().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_makes_a_write_repeatable() {
    let cluster = Cluster::start(1).await;
    let root = &cluster.root;
    create(root, "books", 2, 0).await;
    let items = || vec![put("books", "", serde_json::json!({})), put("books", "", serde_json::json!({}))];
    let options = WriteOptions { idempotency_key: Some("once".to_owned()), ..refreshed() };
    let first = root.write(items(), options.clone()).await.unwrap();
    let again = root.write(items(), options).await.unwrap();
    assert_eq!(first.positions, again.positions);
    let ids = |result: &WriteResult| result.items.iter().map(|item| item.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&first), ids(&again));
    let everything = v1::Query { kind: Some(Kind::MatchAll(v1::MatchAll {})), boost: None };
    assert_eq!(root.count(&["books".to_owned()], &lower(everything)).await.unwrap().0, 2);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leaf_that_goes_away_loses_no_search() {
    let cluster = Cluster::start(3).await;
    let root = cluster.root.clone();
    create(&root, "safe", 4, 1).await;
    create(&root, "lone", 3, 0).await;
    root.write(library("safe"), refreshed()).await.unwrap();
    root.write(library("lone"), refreshed()).await.unwrap();
    let expected = root.search(request("safe", term("title", "fox"))).await.unwrap();
    let searching = tokio::spawn({
        let (root, expected) = (root.clone(), expected.clone());
        async move {
            for _ in 0..300 {
                let response = root.search(request("safe", term("title", "fox"))).await.unwrap();
                assert_eq!(response.shards.failed, 0, "{:?}", response.shards);
                assert_eq!(ranking(&response), ranking(&expected));
            }
        }
    });
    cluster.cut_off("leaf-1");
    searching.await.unwrap();
    let partial = root.search(request("lone", term("title", "fox"))).await.unwrap();
    assert_eq!((partial.shards.total, partial.shards.successful, partial.shards.failed), (3, 2, 1));
    assert!(!partial.hits.is_empty());
    assert!(partial.total.unwrap().value < expected.total.unwrap().value);
    assert_eq!(root.health(&["safe".to_owned()]).status, HealthStatus::Yellow);
    assert_eq!(root.health(&["lone".to_owned()]).status, HealthStatus::Red);
    let strict = SearchRequest { allow_partial: false, ..request("lone", term("title", "fox")) };
    assert!(matches!(root.search(strict).await, Err(Error::SearchFailed { .. })));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leaf_that_hangs_makes_a_partial_answer_in_time() {
    let cluster = Cluster::start(2).await;
    let root = &cluster.root;
    create(root, "books", 4, 0).await;
    root.write(library("books"), refreshed()).await.unwrap();
    let whole = root.search(request("books", term("title", "fox"))).await.unwrap();
    cluster.stall("leaf-1");
    let start = std::time::Instant::now();
    let hurried = SearchRequest { timeout: Duration::from_millis(400), ..request("books", term("title", "fox")) };
    let response = root.search(hurried).await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(700), "{:?}", start.elapsed());
    assert!(response.timed_out);
    assert_eq!((response.shards.successful, response.shards.failed), (2, 2));
    assert!(!response.hits.is_empty());
    assert!(response.total.unwrap().value < whole.total.unwrap().value);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_field_is_found_by_a_root_that_did_not_know_it() {
    let cluster = Cluster::start(2).await;
    let root = &cluster.root;
    create(root, "books", 2, 1).await;
    root.write(vec![put("books", "a", serde_json::json!({"first": "x"}))], refreshed()).await.unwrap();
    // As a query on a field does: by its type, and none when it is not there.
    let lower: Lower = Arc::new(|view: &IndexView| {
        let known = view.mapping.field("late").is_some();
        let query = if known {
            term("late", "word")
        } else {
            v1::Query { kind: Some(Kind::MatchNone(v1::MatchNone {})), boost: None }
        };
        let fetch = v1::FetchOptions { source: true, ..Default::default() };
        Ok(Lowered { query, fetch, uses_dynamic: true, ..Lowered::default() })
    });
    let search = || root.search(SearchRequest::new(vec!["books".to_owned()], lower.clone()));
    assert!(search().await.unwrap().hits.is_empty());
    root.write(vec![put("books", "b", serde_json::json!({"late": "a word"}))], refreshed()).await.unwrap();
    let found = search().await.unwrap();
    assert_eq!(found.hits.iter().map(|hit| hit.id.as_str()).collect::<Vec<_>>(), ["b"]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statistics_follow_writes_without_another_question() {
    let cluster = Cluster::start(2).await;
    let root = &cluster.root;
    create(root, "books", 2, 0).await;
    root.write(library("books"), refreshed()).await.unwrap();
    let query = || request("books", term("title", "fox"));
    let before = root.search(query()).await.unwrap();
    root.write(vec![put("books", "doc-1", serde_json::json!({"title": "fox fox fox"}))], refreshed()).await.unwrap();
    // The answer shows a newer generation and brings its numbers; they are used from then on.
    root.search(query()).await.unwrap();
    let after = root.search(query()).await.unwrap();
    assert_ne!(ranking(&before), ranking(&after));
    assert_eq!(root.metrics.statistics_asked.get(), 1);
    let fresh = SearchRequest { fresh_statistics: true, ..query() };
    assert_eq!(ranking(&root.search(fresh).await.unwrap()), ranking(&after));
    assert_eq!(root.metrics.statistics_asked.get(), 2);
    cluster.stop().await;
}
