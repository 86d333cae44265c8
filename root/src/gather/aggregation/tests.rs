//! Merging one partial result or several gives the same.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use tantivy::aggregation::{AggContextParams, DistributedAggregationCollector};
use tantivy::query::AllQuery;
use tantivy::schema::{DateOptions, DateTimePrecision, NumericOptions, Schema, TextFieldIndexing, TextOptions};
use tantivy::{DateTime, Index, IndexWriter, TantivyDocument};
use trawl_proto::v1::{aggregation::Kind, metric_aggregation::Kind as Metric};

use super::*;
use crate::aggregation::BucketKey;

#[derive(Clone, Debug)]
struct Row {
    tag: Option<u8>,
    n: Option<i64>,
    price: Option<f64>,
    date_ms: Option<i64>,
    flag: Option<bool>,
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let row = (
        prop::option::of(0u8..8),
        prop::option::of(-20i64..40),
        prop::option::of((-300i32..300).prop_map(|n| f64::from(n) / 7.0)),
        prop::option::of((0i64..40).prop_map(|hours| 1_700_000_000_000 + hours * 3_600_000 + hours % 7)),
        prop::option::of(any::<bool>()),
    )
        .prop_map(|(tag, n, price, date_ms, flag)| Row { tag, n, price, date_ms, flag });
    prop::collection::vec(row, 0..60)
}

/// One shard's partial result. A shard none of whose rows has a field does not know it.
fn partial(rows: &[Row], wanted: &[v1::Aggregation]) -> (u32, Bytes) {
    let mut builder = Schema::builder();
    let number = NumericOptions::default().set_fast();
    let raw =
        TextOptions::default().set_fast("raw").set_indexing_options(TextFieldIndexing::default().set_tokenizer("raw"));
    let tag = builder.add_text_field("tag", raw);
    let n = builder.add_i64_field("n", number.clone());
    let price = builder.add_f64_field("price", number.clone());
    let flag = builder.add_bool_field("flag", number);
    let precise = DateOptions::default().set_fast().set_precision(DateTimePrecision::Milliseconds);
    let date = builder.add_date_field("date", precise);
    let index = Index::create_in_ram(builder.build());
    let mut writer: IndexWriter = index.writer_with_num_threads(1, 15_000_000).unwrap();
    for row in rows {
        let mut document = TantivyDocument::new();
        if let Some(value) = row.tag {
            document.add_text(tag, format!("t{value}"));
        }
        if let Some(value) = row.n {
            document.add_i64(n, value);
        }
        if let Some(value) = row.price {
            document.add_f64(price, value);
        }
        if let Some(value) = row.flag {
            document.add_bool(flag, value);
        }
        if let Some(value) = row.date_ms {
            document.add_date(date, DateTime::from_timestamp_millis(value));
        }
        writer.add_document(document).unwrap();
    }
    writer.commit().unwrap();
    let known = |field: &str| {
        rows.iter().any(|row| match field {
            "tag" => row.tag.is_some(),
            "n" => row.n.is_some(),
            "price" => row.price.is_some(),
            "date" => row.date_ms.is_some(),
            _ => row.flag.is_some(),
        })
    };
    let kind_of = |field: &str| match field {
        "tag" => ValueKind::Keyword,
        "n" => ValueKind::Long,
        "price" => ValueKind::Double,
        "date" => ValueKind::Date,
        _ => ValueKind::Boolean,
    };
    let resolve =
        |field: &str| known(field).then(|| AggregationField { column: field.to_owned(), kind: kind_of(field) });
    let request = to_tantivy(wanted, &resolve).unwrap();
    let collector = DistributedAggregationCollector::from_aggs(request, AggContextParams::default());
    let results = index.reader().unwrap().searcher().search(&AllQuery, &collector).unwrap();
    let kinds: BTreeMap<String, ValueKind> = ["tag", "n", "price", "date", "flag"]
        .into_iter()
        .filter(|field| known(field))
        .map(|field| (field.to_owned(), kind_of(field)))
        .collect();
    // Shards of different versions answer together.
    let format = 1 + rows.len() as u32 % 2;
    (format, Partial { kinds, results }.encode(format).unwrap().into())
}

fn aggregation(name: &str, kind: Kind, aggregations: Vec<v1::Aggregation>) -> v1::Aggregation {
    v1::Aggregation { name: name.to_owned(), kind: Some(kind), aggregations }
}

fn metric(name: &str, kind: Metric, field: &str) -> v1::Aggregation {
    let metric = v1::MetricAggregation { kind: kind.into(), field: field.to_owned(), missing: None };
    aggregation(name, Kind::Metric(metric), Vec::new())
}

fn terms(field: &str, size: u32, order: &[(&str, bool)]) -> Kind {
    let order = order.iter().map(|(by, descending)| v1::BucketOrder { by: (*by).to_owned(), descending: *descending });
    Kind::Terms(v1::TermsAggregation {
        field: field.to_owned(),
        size,
        min_doc_count: 1,
        order: order.collect(),
        missing: None,
    })
}

fn everything() -> Vec<v1::Aggregation> {
    let days = Kind::DateHistogram(v1::DateHistogramAggregation {
        field: "date".to_owned(),
        interval_ms: 7_200_000,
        ..Default::default()
    });
    let bounds = |from, to| v1::RangeBucket { key: String::new(), from, to };
    let ranges = |field: &str, ranges| Kind::Range(v1::RangeAggregation { field: field.to_owned(), ranges });
    let middle = 1_700_000_000_000.0 + 20.0 * 3_600_000.0;
    vec![
        aggregation(
            "tags",
            terms("tag", 3, &[]),
            vec![
                metric("price", Metric::Avg, "price"),
                aggregation("days", days.clone(), vec![metric("n", Metric::Stats, "n")]),
            ],
        ),
        aggregation(
            "by_price",
            terms("tag", 4, &[("price", true), ("_key", false)]),
            vec![metric("price", Metric::Max, "price")],
        ),
        aggregation("flags", terms("flag", 5, &[("_key", false)]), vec![]),
        aggregation("dates", terms("date", 5, &[("_key", true)]), vec![]),
        aggregation("days", days, vec![aggregation("tags", terms("tag", 2, &[]), vec![])]),
        aggregation(
            "steps",
            Kind::Histogram(v1::HistogramAggregation {
                field: "price".to_owned(),
                interval: 7.5,
                ..Default::default()
            }),
            vec![],
        ),
        aggregation(
            "ranges",
            ranges("n", vec![bounds(None, Some(3.5)), bounds(Some(-2.0), Some(12.0)), bounds(Some(5.0), Some(5.0))]),
            vec![metric("price", Metric::ExtendedStats, "price")],
        ),
        aggregation("spans", ranges("date", vec![bounds(None, Some(middle)), bounds(Some(middle), None)]), vec![]),
        metric("sum", Metric::Sum, "price"),
        metric("first", Metric::Min, "date"),
        metric("values", Metric::ValueCount, "tag"),
        aggregation(
            "distinct",
            Kind::Cardinality(v1::CardinalityAggregation { field: "tag".to_owned(), missing: None }),
            vec![],
        ),
    ]
}

fn named<'a>(results: &'a [(String, AggregationResult)], name: &str) -> &'a AggregationResult {
    &results.iter().find(|(own, _)| own == name).unwrap().1
}

fn counts(result: &AggregationResult) -> Vec<(BucketKey, u64)> {
    let AggregationResult::Buckets { buckets, .. } = result else { panic!("no buckets") };
    buckets.iter().map(|bucket| (bucket.key.clone(), bucket.doc_count)).collect()
}

/// Counts, keys and order are equal; figures over doubles up to the rounding of their sums.
fn assert_like(a: &[(String, AggregationResult)], b: &[(String, AggregationResult)]) {
    let near = |a: f64, b: f64| assert!((a - b).abs() <= 1e-9 * a.abs().max(1.0), "{a} {b}");
    assert_eq!(a.len(), b.len());
    for ((name, a), (other, b)) in a.iter().zip(b) {
        assert_eq!(name, other);
        match (a, b) {
            (
                AggregationResult::Buckets { buckets: a, sum_other_doc_count: x },
                AggregationResult::Buckets { buckets: b, sum_other_doc_count: y },
            ) => {
                assert_eq!(x, y, "{name}");
                assert_eq!(a.len(), b.len(), "{name}");
                for (a, b) in a.iter().zip(b) {
                    assert_eq!((&a.key, a.doc_count), (&b.key, b.doc_count), "{name}");
                    assert_like(&a.aggregations, &b.aggregations);
                }
            }
            (AggregationResult::Value(a), AggregationResult::Value(b)) => {
                assert_eq!(a.is_some(), b.is_some(), "{name}");
                near(a.unwrap_or(0.0), b.unwrap_or(0.0));
            }
            (
                AggregationResult::Stats { count: x, min: low, max: high, sum, .. },
                AggregationResult::Stats { count: y, min: other_low, max: other_high, sum: other, .. },
            ) => {
                assert_eq!((x, low, high), (y, other_low, other_high), "{name}");
                near(*sum, *other);
            }
            _ => panic!("{name}: {a:?} {b:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn three_shards_give_what_one_gives(rows in rows(), first in 0usize..60, second in 0usize..60) {
        let wanted = everything();
        let (low, high) = (first.min(second).min(rows.len()), first.max(second).min(rows.len()));
        let one = merge(&wanted, &[partial(&rows, &wanted)]).unwrap();
        let shards = [&rows[..low], &rows[low..high], &rows[high..]].map(|part| partial(part, &wanted));
        let three = merge(&wanted, &shards).unwrap();
        assert_like(&one, &three);

        let tag = |row: &Row| row.tag.map(|tag| BucketKey::String(format!("t{tag}")));
        let mut tags: Vec<(BucketKey, u64)> = Vec::new();
        for key in rows.iter().filter_map(tag) {
            match tags.iter_mut().find(|(own, _)| *own == key) {
                Some((_, count)) => *count += 1,
                None => tags.push((key, 1)),
            }
        }
        tags.sort_by(|(a, x), (b, y)| y.cmp(x).then_with(|| format!("{a:?}").cmp(&format!("{b:?}"))));
        tags.truncate(3);
        prop_assert_eq!(counts(named(&three, "tags")), tags);

        let in_days = counts(named(&three, "days"));
        for (key, count) in &in_days {
            let BucketKey::DateMs(from) = key else { panic!("not a date") };
            let inside = |row: &&Row| row.date_ms.is_some_and(|ms| (*from..from + 7_200_000).contains(&ms));
            prop_assert_eq!(*count, rows.iter().filter(inside).count() as u64);
        }
        prop_assert_eq!(
            in_days.iter().map(|(_, count)| count).sum::<u64>(),
            rows.iter().filter(|row| row.date_ms.is_some()).count() as u64
        );
        prop_assert_eq!(named(&three, "first"), &AggregationResult::Value(rows.iter().filter_map(|r| r.date_ms).min().map(|ms| ms as f64)));

        let inside = |low: f64, high: f64| {
            rows.iter().filter_map(|row| row.n).filter(|n| (low..high).contains(&(*n as f64))).count() as u64
        };
        let expected = vec![inside(-1e9, 3.5), inside(-2.0, 12.0), 0];
        prop_assert_eq!(counts(named(&three, "ranges")).into_iter().map(|(_, count)| count).collect::<Vec<_>>(), expected);
    }
}

/// Bytes that earlier builds wrote. When this fails, tantivy (or Trawl) writes its partial results in another way: that
/// is a new format, and what reads and writes the one before has to stay. `TRAWL_TEST_WRITE_PARTIALS=1` writes files
/// that are missing, for a new format.
#[test]
fn partial_results_of_earlier_builds_are_read() {
    let row = |number: i64| Row {
        tag: (number % 5 > 0).then_some((number % 5) as u8),
        n: (number % 7 > 0).then_some(number - 4),
        price: (number % 3 > 0).then_some(number as f64 / 7.0),
        date_ms: Some(1_700_000_000_000 + number * 3_600_000),
        flag: Some(number % 2 == 0),
    };
    let (wanted, rows) = (everything(), (0..24).map(row).collect::<Vec<_>>());
    for (format, rows) in [(1, &rows[..12]), (2, &rows[..13])] {
        let now = partial(rows, &wanted);
        let path = format!("{}/src/gather/aggregation/partial-{format}.bin", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("TRAWL_TEST_WRITE_PARTIALS").is_some() && !std::path::Path::new(&path).exists() {
            assert_eq!(now.0, if rows.len() == 12 { 1 } else { 2 });
            std::fs::write(&path, &now.1).unwrap();
        }
        let before: Bytes = std::fs::read(&path).unwrap().into();
        assert_like(&merge(&wanted, &[(format, before)]).unwrap(), &merge(&wanted, &[now]).unwrap());
    }
    let later = merge(&wanted, &[(9, Bytes::from_static(b"?"))]).unwrap_err();
    assert!(later.to_string().contains("format 9, this program reads [2, 1]"), "{later}");
}

#[test]
fn no_partial_result_gives_empty_results() {
    let results = merge(&everything(), &[]).unwrap();
    assert_eq!(results.len(), everything().len());
    assert_eq!(counts(named(&results, "tags")), []);
    assert_eq!(named(&results, "sum"), &AggregationResult::Value(Some(0.0)));
    assert_eq!(counts(named(&results, "spans")).len(), 2);
}

#[test]
fn too_many_buckets_are_refused_and_the_limit_is_named() {
    let far = v1::HistogramAggregation { field: "n".to_owned(), interval: 0.0001, ..Default::default() };
    let wanted = [aggregation("h", Kind::Histogram(far), Vec::new())];
    let row = |n| Row { tag: None, n: Some(n), price: None, date_ms: None, flag: None };
    let error = merge(&wanted, &[partial(&[row(0), row(39)], &wanted)]).unwrap_err();
    assert!(matches!(error, Error::Invalid { error_type: "too_many_buckets_exception", .. }), "{error}");
    assert!(error.to_string().contains("65536"));
}

#[test]
fn an_order_by_something_that_is_not_there_is_refused() {
    let wanted = [aggregation("t", terms("tag", 3, &[("nothing", true)]), Vec::new())];
    assert!(merge(&wanted, &[]).unwrap_err().to_string().contains("nothing"));
}
