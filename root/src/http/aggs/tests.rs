//! Every aggregation parsed, lowered and rendered, and every bad one refused by name.
#![allow(clippy::unwrap_used)]

use serde_json::json;
use trawl_data::mapping::Mapping;

use super::*;
use crate::{
    aggregation::{Bucket, BucketKey, ExtendedStats},
    http::json,
};

fn mapping() -> Mapping {
    Mapping::parse(&json!({"properties": {
        "title": {"type": "text"}, "tag": {"type": "keyword"}, "year": {"type": "integer"},
        "price": {"type": "double"}, "live": {"type": "boolean"}, "when": {"type": "date"}
    }}))
    .unwrap()
}

fn parsed(text: &str) -> Result<Vec<Aggregation>, Error> {
    parse(&json::parse(text.as_bytes()).unwrap())
}

fn lowered(text: &str) -> Result<Vec<v1::Aggregation>, Error> {
    lower(&parsed(text)?, &mut Lowering::new("books", &mapping(), 0))
}

fn rendered(text: &str, results: Vec<(&str, AggregationResult)>) -> String {
    let results: Vec<(String, AggregationResult)> =
        results.into_iter().map(|(name, result)| (name.to_owned(), result)).collect();
    let mapping = mapping();
    let rendering = Rendering { mapping: Some(&mapping), ..Rendering::default() };
    String::from_utf8(Json::Object(render(&parsed(text).unwrap(), &results, &rendering)).to_bytes()).unwrap()
}

fn bucket(key: BucketKey, doc_count: u64) -> Bucket {
    Bucket { key, range_key: None, from: None, to: None, doc_count, aggregations: Vec::new() }
}

fn buckets(buckets: Vec<Bucket>) -> AggregationResult {
    AggregationResult::Buckets { buckets, sum_other_doc_count: Some(7) }
}

#[test]
fn terms() {
    let text = r#"{"t":{"terms":{"field":"tag","size":2,"order":[{"p.max":"desc"},{"_key":"asc"}],"missing":"none"},"aggs":{"p":{"stats":{"field":"price"}}}}}"#;
    let aggregations = lowered(text).unwrap();
    let Some(v1::aggregation::Kind::Terms(terms)) = &aggregations[0].kind else { panic!("not terms") };
    assert_eq!((terms.field.as_str(), terms.size, terms.min_doc_count, terms.order.len()), ("tag", 2, 1, 2));
    assert!(terms.missing.is_some());
    assert_eq!(aggregations[0].aggregations[0].name, "p");

    let stats = AggregationResult::Stats { count: 0, min: None, max: None, avg: None, sum: 0.0, extended: None };
    let mut first = bucket(BucketKey::String("a".into()), 3);
    first.aggregations = vec![("p".into(), stats)];
    assert_eq!(
        rendered(text, vec![("t", buckets(vec![first]))]),
        r#"{"t":{"doc_count_error_upper_bound":0,"sum_other_doc_count":7,"buckets":[{"key":"a","doc_count":3,"p":{"count":0,"min":null,"max":null,"avg":null,"sum":0.0}}]}}"#
    );
    assert_eq!(
        rendered(
            r#"{"t":{"terms":{"field":"live"}}}"#,
            vec![("t", buckets(vec![bucket(BucketKey::Boolean(true), 1)]))]
        ),
        r#"{"t":{"doc_count_error_upper_bound":0,"sum_other_doc_count":7,"buckets":[{"key":1,"key_as_string":"true","doc_count":1}]}}"#
    );
}

#[test]
fn histograms() {
    let text = r#"{"h":{"date_histogram":{"field":"when","calendar_interval":"week"}}}"#;
    let Some(v1::aggregation::Kind::DateHistogram(histogram)) = lowered(text).unwrap().remove(0).kind else {
        panic!("not a date histogram")
    };
    assert_eq!((histogram.interval_ms, histogram.offset_ms), (604_800_000, 345_600_000));
    assert_eq!(
        rendered(text, vec![("h", buckets(vec![bucket(BucketKey::DateMs(0), 2)]))]),
        r#"{"h":{"buckets":[{"key_as_string":"1970-01-01T00:00:00.000Z","key":0,"doc_count":2}]}}"#
    );
    assert_eq!(
        rendered(
            r#"{"h":{"histogram":{"field":"price","interval":5,"keyed":true}}}"#,
            vec![("h", buckets(vec![bucket(BucketKey::Double(5.0), 2)]))]
        ),
        r#"{"h":{"buckets":{"5.0":{"key":5.0,"doc_count":2}}}}"#
    );
}

#[test]
fn ranges_and_metrics() {
    let range = Bucket { to: Some(5.0), ..bucket(BucketKey::String("*-5".into()), 1) };
    assert_eq!(
        rendered(r#"{"r":{"range":{"field":"price","ranges":[{"to":5}]}}}"#, vec![("r", buckets(vec![range]))]),
        r#"{"r":{"buckets":[{"key":"*-5.0","to":5.0,"doc_count":1}]}}"#
    );
    assert_eq!(
        rendered(r#"{"m":{"max":{"field":"when"}}}"#, vec![("m", AggregationResult::Value(Some(0.0)))]),
        r#"{"m":{"value":0.0,"value_as_string":"1970-01-01T00:00:00.000Z"}}"#
    );
    assert_eq!(
        rendered(r#"{"c":{"cardinality":{"field":"tag"}}}"#, vec![("c", AggregationResult::Value(Some(3.0)))]),
        r#"{"c":{"value":3}}"#
    );
    let extended = Some(ExtendedStats { std_deviation: Some(1.0), ..ExtendedStats::default() });
    let stats =
        AggregationResult::Stats { count: 1, min: Some(1.0), max: Some(1.0), avg: Some(1.0), sum: 1.0, extended };
    let text = rendered(r#"{"e":{"extended_stats":{"field":"price"}}}"#, vec![("e", stats)]);
    assert!(text.contains(r#""std_deviation_bounds":{"upper":3.0,"lower":-1.0,"#), "{text}");
}

#[test]
fn errors_name_the_part() {
    for (text, reason) in [
        (r#"{"x":{"foo":{}}}"#, "Unknown aggregation type [foo]"),
        (r#"{"x":{"terms":{"field":"tag","foo":1}}}"#, "[terms] unknown field [foo]"),
        (r#"{"x":{}}"#, "Missing definition for aggregation [x]"),
        (r#"{"x":{"avg":{"field":"tag"}}}"#, "Field [tag] of type [keyword] is not supported for aggregation [avg]"),
        (
            r#"{"x":{"avg":{"field":"price"},"aggs":{"y":{"avg":{"field":"price"}}}}}"#,
            "Aggregator [x] of type [avg] cannot accept sub-aggregations",
        ),
        (
            r#"{"x":{"date_histogram":{"field":"when","calendar_interval":"month"}}}"#,
            "[date_histogram] calendar_interval [month] is not supported yet",
        ),
        (r#"{"x":{"terms":{"field":"tag","size":0}}}"#, "[size] must be greater than 0. Found [0] in [x]"),
    ] {
        assert_eq!(lowered(text).unwrap_err().to_string(), reason, "{text}");
    }
    let error = lowered(r#"{"x":{"terms":{"field":"title"}}}"#).unwrap_err().to_string();
    assert!(error.starts_with("Fielddata is disabled on [title] in [books]. Text fields are not optimised"), "{error}");
    lowered(r#"{"x":{"terms":{"field":"unknown"}}}"#).unwrap();
}
