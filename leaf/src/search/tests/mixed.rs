//! Dynamic fields with values of several types: whatever order they came in, and on however many
//! shards, of which some may have seen only some of the types, the answers are those of a scan.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use rand::seq::SliceRandom;
use serde_json::{Value as Json, json};
use tantivy::aggregation::AggregationLimitsGuard;
use tantivy::aggregation::agg_result::{AggregationResult, BucketResult};
use tantivy::aggregation::intermediate_agg_result::IntermediateAggregationResults;
use trawl_data::aggregation::{AggregationField, Partial, ValueKind, to_tantivy};
use trawl_data::date::detect_date;
use trawl_proto::v1::{sort_value, value};

use super::*;
use crate::search::tests::corpus::string;

/// One value of the mixed field `f`.
#[derive(Clone, Debug, PartialEq)]
enum Mixed {
    Number(Json),
    Boolean(bool),
    Date(String),
    Text(String),
}

impl Mixed {
    fn random(random: &mut StdRng) -> Self {
        match random.random_range(0..10) {
            0..=2 => Self::Number(json!(random.random_range(-3..12))),
            3 | 4 => Self::Number(json!(f64::from(random.random_range(-6..24)) / 2.0)),
            5 => Self::Boolean(random.random_bool(0.5)),
            6 => Self::Date(format!("2024-01-{:02}", random.random_range(1..20))),
            _ => Self::Text(["5", "5.0", "10", "apple", "true", "b 5", "-1", ""][random.random_range(0..8)].to_owned()),
        }
    }

    fn json(&self) -> Json {
        match self {
            Self::Number(number) => number.clone(),
            Self::Boolean(value) => json!(value),
            Self::Date(text) | Self::Text(text) => json!(text),
        }
    }

    /// As `.keyword` has it.
    fn text(&self) -> String {
        match self.json() {
            Json::String(text) => text,
            other => other.to_string(),
        }
    }

    fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => number.as_f64(),
            _ => None,
        }
    }

    /// For sorting: numbers, switches and dates by value, then strings.
    fn key(&self) -> SortedKey {
        match self {
            Self::Number(number) => (0, number.as_f64().unwrap(), String::new()),
            Self::Boolean(value) => (0, f64::from(u8::from(*value)), String::new()),
            Self::Date(text) => (0, detect_date(text).unwrap() as f64, String::new()),
            Self::Text(text) => (1, 0.0, text.clone()),
        }
    }
}

/// A sort key, `_tie` and `_id`.
type Ranked = (Option<SortedKey>, u64, String);
/// Whether it is a string, its number, its text.
type SortedKey = (u8, f64, String);

fn compare_keys(a: &SortedKey, b: &SortedKey) -> Ordering {
    a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then_with(|| a.2.cmp(&b.2))
}

struct Case {
    documents: BTreeMap<String, Vec<Mixed>>,
    /// 1 shard, and 4 with the documents in another order.
    arrangements: Vec<Shards>,
}

impl Case {
    fn random(random: &mut StdRng) -> Self {
        let documents: BTreeMap<String, Vec<Mixed>> = (0..random.random_range(1..60))
            .map(|number| {
                let values = [0, 1, 1, 1, 1, 2, 3][random.random_range(0..7)];
                (format!("d{number}"), (0..values).map(|_| Mixed::random(random)).collect())
            })
            .collect();
        let arrangements = [1usize, 4]
            .map(|shards| {
                let mut order: Vec<_> = documents.iter().collect();
                order.shuffle(random);
                // Like types together, so that some shards see only some of them.
                if random.random_bool(0.5) {
                    order.sort_by_key(|(_, values)| values.first().map(|value| value.key().0));
                }
                let size = order.len().div_ceil(shards).max(1);
                let mut parts: Vec<Vec<(String, Json)>> = order
                    .chunks(size)
                    .map(|part| part.iter().map(|(id, values)| ((*id).clone(), source(values))).collect())
                    .collect();
                parts.iter_mut().for_each(|part| part.shuffle(random));
                Shards::of(parts, random)
            })
            .into();
        Self { documents, arrangements }
    }

    /// Every arrangement finds exactly the documents that have a fitting value.
    fn check(&self, query: query::Kind, what: &str, fits: impl Fn(&Mixed) -> bool) {
        let query = query_of(query::Kind::ConstantScore(Box::new(v1::ConstantScore {
            query: Some(Box::new(query_of(query))),
        })));
        let mut expected: Vec<&str> =
            self.documents.iter().filter(|(_, values)| values.iter().any(&fits)).map(|(id, _)| id.as_str()).collect();
        expected.sort_unstable();
        for (number, shards) in self.arrangements.iter().enumerate() {
            let answer = ask(shards, &query, |request| request.hits_max = 1_000).unwrap();
            let mut found: Vec<&str> = answer.hits.iter().map(|hit| hit.id.as_str()).collect();
            found.sort_unstable();
            assert_eq!(found, expected, "arrangement {number}, {what}: {query:?}, {:?}", self.documents);
        }
    }
}

/// As a document brings them: alone or in an array.
fn source(values: &[Mixed]) -> Json {
    match values {
        [] => json!({"other": 1}),
        [only] => json!({"f": only.json()}),
        several => json!({"f": several.iter().map(Mixed::json).collect::<Vec<_>>()}),
    }
}

fn term_of(field: &str, value: v1::Value) -> query::Kind {
    query::Kind::Term(v1::Term { field: field.to_owned(), value: Some(value) })
}

fn number_of(value: f64) -> v1::Value {
    v1::Value { kind: Some(value::Kind::Double(value)) }
}

fn range_of(field: &str, lower: Option<v1::Value>, upper: Option<v1::Value>) -> query::Kind {
    let bound = |value: v1::Value| v1::Bound { value: Some(value), inclusive: true };
    query::Kind::Range(v1::Range { field: field.to_owned(), lower: lower.map(bound), upper: upper.map(bound) })
}

fn cases() -> impl Iterator<Item = (StdRng, Case)> {
    let seeds = std::env::var("TRAWL_TEST_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(12u64);
    (0..seeds).map(|seed| {
        let mut random = StdRng::seed_from_u64(700 + seed);
        let case = Case::random(&mut random);
        (random, case)
    })
}

#[test]
fn values_of_all_types_are_found_whatever_came_where_first() {
    for (mut random, case) in cases() {
        let text = |random: &mut StdRng| Mixed::random(random).text();
        for _ in 0..12 {
            let wanted = text(&mut random);
            case.check(term_of("f.keyword", string(&wanted)), "keyword", |value| value.text() == wanted);
            let others = [wanted.clone(), text(&mut random)];
            let values = others.iter().map(|text| string(text)).collect();
            let set = query::Kind::TermSet(v1::TermSet { field: "f.keyword".to_owned(), values });
            case.check(set, "keywords", |value| others.contains(&value.text()));

            // A word of the text, or a value of another type that reads so.
            let means = |value: &Mixed| match value {
                Mixed::Text(text) => text.split([' ', '-']).any(|word| word == wanted),
                Mixed::Number(number) => wanted.parse().ok() == number.as_f64(),
                other => other.text() == wanted,
            };
            if !wanted.is_empty() && !wanted.contains([' ', '-']) {
                case.check(term_of("f", string(&wanted)), "term", means);
            }
            let prefix = wanted.chars().take(1).collect::<String>();
            let starts = |value: &Mixed| value.text().starts_with(&prefix);
            let kind = query::Kind::Prefix(v1::Prefix { field: "f.keyword".to_owned(), prefix: prefix.clone() });
            case.check(kind, "prefix", starts);

            let (low, high) = (f64::from(random.random_range(-5..8)), f64::from(random.random_range(0..14)));
            let inside = |value: &Mixed| value.number().is_some_and(|number| number >= low && number <= high);
            for field in ["f", "f.keyword"] {
                case.check(range_of(field, Some(number_of(low)), Some(number_of(high))), "range", inside);
            }
            let low = text(&mut random);
            let above = |value: &Mixed| value.text() >= low;
            case.check(range_of("f.keyword", Some(string(&low)), None), "keyword range", above);
        }
        for field in ["f", "f.keyword"] {
            case.check(query::Kind::Exists(v1::Exists { field: field.to_owned() }), "exists", |_| true);
        }
    }
}

/// A hit's sort value as the model's key.
fn key_of(value: &v1::SortValue) -> Option<SortedKey> {
    let Some(sort_value::Kind::Value(v1::Value { kind: Some(kind) })) = &value.kind else { return None };
    Some(match kind {
        value::Kind::Long(value) | value::Kind::DateMs(value) => (0, *value as f64, String::new()),
        value::Kind::Double(value) => (0, *value, String::new()),
        value::Kind::Boolean(value) => (0, f64::from(u8::from(*value)), String::new()),
        value::Kind::String(text) => (1, 0.0, text.clone()),
        value::Kind::Ip(_) => panic!("no addresses here"),
    })
}

#[test]
fn mixed_values_sort_by_number_and_then_by_text_on_any_number_of_shards() {
    for (mut random, case) in cases() {
        for descending in [false, true] {
            let better = |a: &SortedKey, b: &SortedKey| {
                let ordering = compare_keys(a, b);
                if descending { ordering.reverse() } else { ordering }
            };
            let mut expected: Vec<Ranked> = case
                .documents
                .iter()
                .map(|(id, values)| {
                    let best = values.iter().map(Mixed::key).min_by(|a, b| better(a, b));
                    (best, trawl_data::routing::tie(id), id.clone())
                })
                .collect();
            let in_order = |a: &Ranked, b: &Ranked| {
                let keys = match (&a.0, &b.0) {
                    (Some(a), Some(b)) => better(a, b),
                    (a, b) => b.is_some().cmp(&a.is_some()),
                };
                keys.then(a.1.cmp(&b.1)).then_with(|| a.2.cmp(&b.2))
            };
            expected.sort_by(in_order);
            let by = sort_key::By::Field("f.keyword".to_owned());
            let sort = vec![v1::SortKey { by: Some(by), descending, ..Default::default() }];
            let all = query_of(query::Kind::MatchAll(v1::MatchAll {}));
            for shards in &case.arrangements {
                let page = random.random_range(1..8);
                let mut found: Vec<Ranked> = Vec::new();
                let mut after: Vec<v1::SortValue> = Vec::new();
                // Pages by the field alone would skip equals: the whole at once, then from a value on.
                for hits_max in [1_000, page] {
                    let answer = ask(shards, &all, |request| {
                        request.sort = sort.clone();
                        request.hits_max = 1_000;
                    })
                    .unwrap();
                    found = answer.hits.iter().map(|hit| (key_of(&hit.sort[0]), hit.tie, hit.id.clone())).collect();
                    found.sort_by(in_order);
                    let place = (hits_max as usize).min(answer.hits.len()) - 1;
                    after = answer.hits[place].sort.clone();
                }
                assert_eq!(found, expected, "descending {descending}, {:?}", case.documents);
                let Some(last) = key_of(&after[0]) else { continue };
                let rest = ask(shards, &all, |request| {
                    request.sort = sort.clone();
                    request.search_after = after.clone();
                    request.hits_max = 1_000;
                })
                .unwrap();
                let mut rest: Vec<String> = rest.hits.iter().map(|hit| hit.id.clone()).collect();
                let mut behind: Vec<String> = expected
                    .iter()
                    .filter(|(key, ..)| key.as_ref().is_none_or(|key| better(key, &last).is_gt()))
                    .map(|(.., id)| id.clone())
                    .collect();
                rest.sort_unstable();
                behind.sort_unstable();
                assert_eq!(rest, behind, "after {last:?}, descending {descending}");
            }
        }
    }
}

#[test]
fn terms_of_mixed_values_are_their_texts() {
    for (_, case) in cases() {
        let mut expected: BTreeMap<String, u64> = BTreeMap::new();
        for values in case.documents.values() {
            let mut texts: Vec<String> = values.iter().map(Mixed::text).collect();
            texts.sort_unstable();
            texts.dedup();
            texts.into_iter().for_each(|text| *expected.entry(text).or_default() += 1);
        }
        let terms =
            v1::TermsAggregation { field: "f.keyword".to_owned(), size: 100, min_doc_count: 1, ..Default::default() };
        let kind = Some(v1::aggregation::Kind::Terms(terms));
        let wanted = vec![v1::Aggregation { name: "a".to_owned(), kind, aggregations: Vec::new() }];
        for shards in &case.arrangements {
            let mut merged: Option<IntermediateAggregationResults> = None;
            for searcher in &shards.searchers {
                let request = v1::SearchRequest { aggregations: wanted.clone(), ..Default::default() };
                let query = Some(query_of(query::Kind::MatchAll(v1::MatchAll {})));
                let index = v1::IndexSearch { query, ..Default::default() };
                let cancel = Cancel::new(Instant::now() + Duration::from_secs(60));
                let result = search_shard(searcher, &request, &index, &v1::ShardSearch::default(), &cancel);
                assert_eq!(result.failure, None);
                let partial: Partial = Partial::decode(result.aggregation_format, result.aggregations.clone()).unwrap();
                aggregation::merge(&mut merged, partial.results).unwrap();
            }
            let resolve = |field: &str| Some(AggregationField { column: field.to_owned(), kind: ValueKind::Keyword });
            let aggregations = to_tantivy(&wanted, &resolve).unwrap();
            let results = merged.unwrap().into_final_result(aggregations, AggregationLimitsGuard::default()).unwrap();
            let AggregationResult::BucketResult(BucketResult::Terms { buckets, .. }) = &results.0["a"] else {
                panic!("not terms")
            };
            let found: BTreeMap<String, u64> = buckets
                .iter()
                .map(|bucket| {
                    let tantivy::aggregation::Key::Str(key) = &bucket.key else { panic!("not a string") };
                    (key.clone(), bucket.doc_count)
                })
                .collect();
            assert_eq!(found, expected);
        }
    }
}

#[test]
fn numbers_alone_compare_as_numbers_whichever_shard_saw_fractions() {
    let mut random = StdRng::seed_from_u64(3);
    let values: Vec<Json> =
        vec![json!(5), json!(5.0), json!(-1), json!(2.5), json!(10), json!(9_007_199_254_740_993i64)];
    let documents: Vec<(String, Json)> =
        values.iter().enumerate().map(|(number, value)| (format!("d{number}"), json!({"f": value}))).collect();
    let whole: Vec<_> = documents.iter().filter(|(_, source)| source["f"].is_i64()).cloned().collect();
    let other: Vec<_> = documents.iter().filter(|(_, source)| !source["f"].is_i64()).cloned().collect();
    let shards = Shards::of(vec![whole, other], &mut random);
    let five = query_of(query::Kind::TermSet(v1::TermSet {
        field: "f".to_owned(),
        values: vec![number_of(5.0), v1::Value { kind: Some(value::Kind::Long(5)) }],
    }));
    assert_eq!(ask(&shards, &five, |_| ()).unwrap().matched, 2);
    let exact = query_of(term_of("f", v1::Value { kind: Some(value::Kind::Long(9_007_199_254_740_993)) }));
    assert_eq!(ask(&shards, &exact, |_| ()).unwrap().matched, 1);
    let by = Some(sort_key::By::Field("f".to_owned()));
    let sort = vec![v1::SortKey { by, as_double: true, ..Default::default() }];
    let all = query_of(query::Kind::MatchAll(v1::MatchAll {}));
    let answer = ask(&shards, &all, |request| request.sort = sort.clone()).unwrap();
    for hit in &answer.hits {
        let Some(sort_value::Kind::Value(value)) = &hit.sort[0].kind else { panic!("no value") };
        assert!(matches!(value.kind, Some(value::Kind::Double(_))), "{value:?}");
    }
}
