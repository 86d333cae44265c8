//! Buckets as Elasticsearch shows them.

use trawl_data::date::{DateFormats, format_date};

use super::{
    super::json::{Json, Members},
    Rendering, render,
};
use crate::aggregation::{AggregationResult, Bucket, BucketKey};

/// The buckets of a result, and how many documents other buckets have.
pub(super) fn of(result: &AggregationResult) -> (&[Bucket], Option<u64>) {
    match result {
        AggregationResult::Buckets { buckets, sum_other_doc_count } => (buckets, *sum_other_doc_count),
        _ => (&[], None),
    }
}

/// `key`, and `key_as_string` where that differs.
pub(super) fn key(bucket: &Bucket, formats: Option<&DateFormats>) -> Members {
    let member = |name: &str, value: Json| (name.to_owned(), value);
    match &bucket.key {
        BucketKey::String(text) => vec![member("key", text.as_str().into())],
        BucketKey::Long(value) => vec![member("key", (*value).into())],
        BucketKey::Double(value) => vec![member("key", (*value).into())],
        BucketKey::Boolean(value) => vec![
            member("key", i64::from(*value).into()),
            member("key_as_string", if *value { "true" } else { "false" }.into()),
        ],
        BucketKey::DateMs(ms) => {
            vec![member("key_as_string", date(*ms, formats).into()), member("key", (*ms).into())]
        }
    }
}

/// A date in a format.
pub(super) fn date(ms: i64, formats: Option<&DateFormats>) -> String {
    formats.map_or_else(|| format_date(ms), |formats| formats.format(ms))
}

/// A bucket: its key, its count, its sub-aggregations.
pub(super) fn bucket(mut members: Members, bucket: &Bucket, rendering: &Rendering<'_>) -> Json {
    members.push(("doc_count".to_owned(), bucket.doc_count.into()));
    let below = Rendering { children: &[], ..*rendering };
    members.extend(render(rendering.children, &bucket.aggregations, &below));
    Json::Object(members)
}

/// A list of buckets, or an object by key.
pub(super) fn list(buckets: Vec<(String, Json)>, keyed: bool) -> Members {
    let value = if keyed {
        Json::Object(buckets)
    } else {
        Json::Array(buckets.into_iter().map(|(_, bucket)| bucket).collect())
    };
    vec![("buckets".to_owned(), value)]
}

/// A double as Java prints it in keys: `1.0`, `2.5`.
pub(super) fn double(value: f64) -> String {
    format!("{value:?}")
}
