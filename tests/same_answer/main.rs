//! The same answer everywhere: hits, order, scores to the last bit, totals and buckets are those of
//! one fresh index over the live documents, for any number of shards, any replica and any history.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../harness/mod.rs"]
mod harness;
mod queries;
mod reference;

use harness::{Client, Cluster, ids};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use reference::Reference;
use serde_json::{Value, json};
use trawl_data::analysis::Analyzer;

const WORDS: &[&str] = &[
    "net", "nets", "boat", "tide", "tidal", "harbour", "storm", "cod", "haddock", "sonar", "winch", "quay", "the",
    "of", "deep", "sea", "trawl", "trawler", "catch", "north",
];
const CATEGORIES: &[&str] = &["gear", "vessel", "weather", "species"];

fn mappings() -> Value {
    json!({"properties": {
        "title": {"type": "text", "fields": {"raw": {"type": "keyword"}}},
        "body": {"type": "text", "analyzer": "english"},
        "category": {"type": "keyword"},
        "tags": {"type": "keyword"},
        "year": {"type": "integer"},
        "price": {"type": "double"},
        "recorded": {"type": "date"},
        "open": {"type": "boolean"},
        "place": {"properties": {"name": {"type": "keyword"}}}
    }})
}

fn analyzers() -> Vec<(&'static str, Analyzer)> {
    vec![("title", Analyzer::parse("standard").unwrap()), ("body", Analyzer::parse("english").unwrap())]
}

const KEYWORDS: &[&str] = &["category", "tags", "place.name", "title.raw"];

fn text(random: &mut StdRng, words: std::ops::Range<usize>) -> String {
    let count = random.random_range(words);
    (0..count).map(|_| *WORDS.choose(random).unwrap()).collect::<Vec<_>>().join(" ")
}

fn document(random: &mut StdRng) -> Value {
    let mut document = json!({
        "title": text(random, 1..6),
        "body": text(random, 0..40),
        "category": CATEGORIES.choose(random).unwrap(),
        "tags": (0..random.random_range(0..3)).map(|_| *WORDS.choose(random).unwrap()).collect::<Vec<_>>(),
        "year": random.random_range(1990..2020),
        "open": random.random_bool(0.5),
        "recorded": format!("20{:02}-0{}-1{}", random.random_range(10..20), random.random_range(1..10), random.random_range(0..10)),
        "place": {"name": CATEGORIES.choose(random).unwrap()},
    });
    if random.random_bool(0.7) {
        document["price"] = json!(f64::from(random.random_range(0..400)) / 4.0);
    }
    document
}

/// Loads documents into an index, then updates a tenth and deletes a twentieth; returns what is live.
async fn churn(client: &Client, index: &str, documents: &mut Vec<(String, Value)>, random: &mut StdRng) {
    for number in 0..documents.len() / 10 {
        let place = random.random_range(0..documents.len());
        documents[place].1 = document(random);
        let changed = [documents[place].clone()];
        client.bulk_index(index, &changed, number % 7 == 0).await;
    }
    for _ in 0..documents.len() / 20 {
        let (id, _) = documents.swap_remove(random.random_range(0..documents.len()));
        client.bulk(index, format!("{}\n", json!({"delete": {"_id": id}})), false).await;
    }
    let refreshed = client.get(&format!("/{index}/_refresh")).await;
    assert_eq!(refreshed.body["_shards"]["failed"], 0, "{}", refreshed.text);
}

/// Compares one search with what it has to be; returns the worst score difference.
async fn compare(client: &Client, index: &str, preference: &str, reference: &Reference, query: &Value) -> f32 {
    let expected = reference.ranked(query);
    let path = format!("/{index}/_search?search_type=query_then_fetch{preference}");
    let answer = client.post(&path, json!({"query": query, "size": 50, "track_total_hits": true})).await;
    let context = format!("{index} {preference} {query}\n{}", answer.text);
    assert_eq!(answer.status, 200, "{context}");
    assert_eq!(answer.body["_shards"]["failed"], 0, "{context}");
    assert_eq!(answer.body["hits"]["total"]["value"], expected.len(), "{context}");
    let hits = answer.body["hits"]["hits"].as_array().unwrap();
    assert_eq!(hits.len(), expected.len().min(50), "{context}");
    let mut worst = 0.0f32;
    for (hit, expected) in hits.iter().zip(&expected) {
        let score = hit["_score"].as_f64().unwrap() as f32;
        worst = worst.max((score - expected.score).abs());
        assert_eq!(
            score.to_bits(),
            expected.score.to_bits(),
            "{} scores {score}, not {expected:?}: {context}",
            hit["_id"]
        );
        assert_eq!(hit["_id"], expected.id.as_str(), "{context}");
    }
    worst
}

/// Compares searches sorted by fields, page by page.
async fn compare_sorted(client: &Client, index: &str, reference: &Reference) {
    for (field, descending) in
        [("year", false), ("year", true), ("price", false), ("price", true), ("category", true), ("recorded", false)]
    {
        let mut expected: Vec<(Option<Value>, u64, &str)> = reference
            .documents
            .iter()
            .map(|(id, source)| (source.get(field).cloned(), trawl_data::routing::tie(id), id.as_str()))
            .collect();
        expected.sort_by(|a, b| order(&a.0, &b.0, descending).then(a.1.cmp(&b.1)).then(a.2.cmp(b.2)));
        let expected: Vec<&str> = expected.iter().map(|(_, _, id)| *id).collect();
        let order = if descending { "desc" } else { "asc" };
        let mut found = Vec::new();
        let mut after = Value::Null;
        while found.len() < expected.len() {
            let mut body = json!({"size": 37, "sort": [{field: order}, "_doc"]});
            if !after.is_null() {
                body["search_after"] = after;
            }
            let page = client.search(index, body).await;
            let page_ids = ids(&page);
            assert!(!page_ids.is_empty(), "{index} by {field} ends after {} of {}", found.len(), expected.len());
            found.extend(page_ids);
            after = page["hits"]["hits"].as_array().unwrap().last().unwrap()["sort"].clone();
        }
        assert_eq!(found, expected, "{index} by {field} {order}");
    }
}

fn order(a: &Option<Value>, b: &Option<Value>, descending: bool) -> std::cmp::Ordering {
    match (a, b) {
        (None, None) => std::cmp::Ordering::Equal,
        (None, _) => std::cmp::Ordering::Greater,
        (_, None) => std::cmp::Ordering::Less,
        (Some(a), Some(b)) => {
            let order = match (a.as_f64(), b.as_f64()) {
                (Some(a), Some(b)) => a.total_cmp(&b),
                _ => a.as_str().cmp(&b.as_str()),
            };
            if descending { order.reverse() } else { order }
        }
    }
}

/// Compares buckets with what counting the documents gives.
async fn compare_aggregations(client: &Client, index: &str, reference: &Reference) {
    let body = json!({"size": 0, "aggs": {
        "by_category": {"terms": {"field": "category", "size": 3}, "aggs": {"price": {"stats": {"field": "price"}}}},
        "by_tag": {"terms": {"field": "tags", "size": 5}},
        "years": {"histogram": {"field": "year", "interval": 5}},
        "ranges": {"range": {"field": "year", "ranges": [{"to": 2000}, {"from": 2000, "to": 2010}, {"from": 2010}]}},
        "places": {"cardinality": {"field": "place.name"}},
        "months": {"date_histogram": {"field": "recorded", "fixed_interval": "30d"}}
    }});
    let answer = client.search(index, body).await;
    let aggregations = &answer["aggregations"];
    for (name, field, size) in [("by_category", "category", 3), ("by_tag", "tags", 5)] {
        let mut counts = std::collections::BTreeMap::<String, u64>::new();
        for (_, source) in &reference.documents {
            let distinct: std::collections::BTreeSet<_> =
                reference::values(source, field).into_iter().map(|value| value.as_str().unwrap().to_owned()).collect();
            distinct.into_iter().for_each(|key| *counts.entry(key).or_default() += 1);
        }
        let total: u64 = counts.values().sum();
        let mut counts: Vec<(String, u64)> = counts.into_iter().collect();
        counts.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        counts.truncate(size);
        let buckets = aggregations[name]["buckets"].as_array().unwrap();
        let found: Vec<(String, u64)> = buckets
            .iter()
            .map(|bucket| (bucket["key"].as_str().unwrap().to_owned(), bucket["doc_count"].as_u64().unwrap()))
            .collect();
        assert_eq!(found, counts, "{index} {name}");
        let kept: u64 = counts.iter().map(|(_, count)| count).sum();
        assert_eq!(aggregations[name]["sum_other_doc_count"], total - kept, "{index} {name}: {answer}");
    }
    for bucket in aggregations["by_category"]["buckets"].as_array().unwrap() {
        let prices: Vec<f64> = reference
            .documents
            .iter()
            .filter(|(_, source)| source["category"] == bucket["key"])
            .filter_map(|(_, source)| source["price"].as_f64())
            .collect();
        assert_eq!(bucket["price"]["count"], prices.len(), "{index} {bucket}");
        assert_eq!(bucket["price"]["sum"].as_f64(), Some(prices.iter().sum()), "{index} {bucket}");
    }
    let years = |from: i64, to: i64| {
        let within = |source: &Value| (from..to).contains(&source["year"].as_i64().unwrap());
        reference.documents.iter().filter(|(_, source)| within(source)).count()
    };
    for bucket in aggregations["years"]["buckets"].as_array().unwrap() {
        let from = bucket["key"].as_f64().unwrap() as i64;
        assert_eq!(bucket["doc_count"], years(from, from + 5), "{index} {bucket}");
    }
    let ranges: Vec<u64> = aggregations["ranges"]["buckets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|bucket| bucket["doc_count"].as_u64().unwrap())
        .collect();
    assert_eq!(ranges, [years(0, 2000) as u64, years(2000, 2010) as u64, years(2010, 9999) as u64]);
    assert_eq!(aggregations["places"]["value"], CATEGORIES.len(), "{index}");
    let months: u64 = aggregations["months"]["buckets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|bucket| bucket["doc_count"].as_u64().unwrap())
        .sum();
    assert_eq!(months as usize, reference.documents.len(), "{index}: {answer}");
}

/// Every way to ask: each root, and each leaf's replicas preferred in turn.
async fn compare_everywhere(cluster: &Cluster, indices: &[&str], reference: &Reference, queries: &[Value]) -> f32 {
    let leaves: Vec<String> =
        cluster.processes().into_iter().filter(|process| process.role == "leaf").map(|leaf| leaf.name).collect();
    let mut worst = 0.0f32;
    for client in cluster.root_clients() {
        for index in indices {
            for (number, query) in queries.iter().enumerate() {
                let preference = format!("&preference=_prefer_nodes:{}", leaves[number % leaves.len()]);
                worst = worst.max(compare(&client, index, "", reference, query).await);
                worst = worst.max(compare(&client, index, &preference, reference, query).await);
            }
            compare_sorted(&client, index, reference).await;
            compare_aggregations(&client, index, reference).await;
        }
    }
    worst
}

#[tokio::test(flavor = "multi_thread")]
async fn any_sharding_and_history_gives_the_answer_of_one_fresh_index() {
    let seed: u64 = std::env::var("TRAWL_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    println!("seed {seed} (TRAWL_TEST_SEED)");
    let mut random = StdRng::seed_from_u64(seed);
    let cluster = Cluster::start(2, 4).await;
    let client = &cluster.client;
    let layouts = [("one", 1, 1), ("four", 4, 1), ("seven", 7, 2)];
    for (index, shards, replicas) in layouts {
        client.create_index(index, shards, replicas, mappings()).await;
    }
    let mut documents: Vec<(String, Value)> =
        (0..400).map(|number| (format!("d{number}"), document(&mut random))).collect();
    for (index, _, _) in layouts {
        for chunk in documents.chunks(57) {
            client.bulk_index(index, chunk, false).await;
        }
        client.get(&format!("/{index}/_refresh")).await;
    }
    let queries = queries::all(&mut random, WORDS, 60);
    let names: Vec<&str> = layouts.iter().map(|(name, _, _)| *name).collect();
    let fresh = Reference::new(documents.clone(), &analyzers(), KEYWORDS);
    let worst = compare_everywhere(&cluster, &names, &fresh, &queries).await;

    let before = documents.clone();
    for (index, _, _) in layouts {
        documents = before.clone();
        churn(client, index, &mut documents, &mut StdRng::seed_from_u64(seed + 1)).await;
    }
    let churned = Reference::new(documents, &analyzers(), KEYWORDS);
    let worst = worst.max(compare_everywhere(&cluster, &names, &churned, &queries).await);
    println!("{} queries on {} indices, worst score difference {worst}", queries.len(), layouts.len());
}

/// The documents of `TRAWL_TEST_CORPUS` (NDJSON, gzip, with `id`, `title`, `body`), else the samples.
fn corpus() -> Vec<(String, Value)> {
    let packed = match std::env::var_os("TRAWL_TEST_CORPUS") {
        Some(path) => std::fs::read(path).unwrap(),
        None => trawl_data::samples::samples().1.to_vec(),
    };
    let lines = std::io::BufReader::new(flate2::read::MultiGzDecoder::new(packed.as_slice()));
    std::io::BufRead::lines(lines)
        .map(|line| {
            let document: Value = serde_json::from_str(&line.unwrap()).unwrap();
            (document["id"].as_str().unwrap().to_owned(), document)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn real_text_ranks_the_same_on_any_number_of_shards() {
    let mut random = StdRng::seed_from_u64(5);
    let documents = corpus();
    let words: Vec<String> = documents
        .iter()
        .flat_map(|(_, source)| source["body"].as_str().unwrap_or_default().split_whitespace())
        .filter(|word| word.len() > 1 && word.chars().all(char::is_alphabetic))
        .map(str::to_lowercase)
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let cluster = Cluster::start(1, 3).await;
    let layouts = [("one", 1, 0), ("four", 4, 1), ("seven", 7, 2)];
    for (index, shards, replicas) in layouts {
        cluster.client.create_index(index, shards, replicas, mappings()).await;
        for chunk in documents.chunks(1_000) {
            cluster.client.bulk_index(index, chunk, false).await;
        }
        cluster.client.get(&format!("/{index}/_refresh")).await;
    }
    let queries = queries::all(&mut random, &words, 54);
    let reference = Reference::new(documents, &analyzers(), KEYWORDS);
    let mut worst = 0.0f32;
    for (index, _, _) in layouts {
        for (number, query) in queries.iter().enumerate() {
            let preference = format!("&preference=_prefer_nodes:leaf-{}", number % 3);
            worst = worst.max(compare(&cluster.client, index, &preference, &reference, query).await);
        }
        compare_sorted(&cluster.client, index, &reference).await;
    }
    println!("{} documents, {} queries, worst score difference {worst}", reference.documents.len(), queries.len());
}
