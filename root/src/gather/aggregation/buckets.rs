//! Buckets: their keys as users know them, their order, and the cut.

use std::cmp::Ordering;
use std::net::Ipv6Addr;

use tantivy::aggregation::Key;
use tantivy::aggregation::agg_result::{
    AggregationResult as Found, BucketEntries, BucketEntry, BucketResult, RangeBucketEntry,
};
use tantivy::time::OffsetDateTime;
use tantivy::time::format_description::well_known::Rfc3339;
use trawl_data::aggregation::{HALF, NANOS, RANGE_KEY, ValueKind};
use trawl_proto::v1;

use super::Merging;
use crate::aggregation::{AggregationResult, Bucket, BucketKey};
use crate::error::Error;

/// Buckets of a result, those of sub-aggregations included.
pub(super) fn count(result: &AggregationResult) -> usize {
    let AggregationResult::Buckets { buckets, .. } = result else { return 0 };
    let below = buckets.iter().flat_map(|bucket| &bucket.aggregations).map(|(_, result)| count(result)).sum::<usize>();
    buckets.len() + below
}

impl Merging {
    /// The buckets of a terms aggregation: all of them, ordered, then cut.
    pub(super) fn terms(
        &self,
        wanted: &v1::Aggregation,
        terms: &v1::TermsAggregation,
        found: Vec<BucketEntry>,
        kind: Option<ValueKind>,
    ) -> Result<AggregationResult, Error> {
        let mut buckets = Vec::with_capacity(found.len());
        for entry in found.into_iter().filter(|entry| entry.doc_count >= terms.min_doc_count) {
            let key = term_key(&entry, kind);
            buckets.push(self.bucket(wanted, key, entry)?);
        }
        let orders = terms.order.iter().map(|order| Order::new(wanted, order)).collect::<Result<Vec<_>, _>>()?;
        buckets.sort_by(|a, b| {
            let by_orders = orders.iter().map(|order| order.compare(a, b)).find(|ordering| ordering.is_ne());
            let by_count = || if orders.is_empty() { b.doc_count.cmp(&a.doc_count) } else { Ordering::Equal };
            by_orders.unwrap_or_else(by_count).then_with(|| compare_keys(&a.key, &b.key))
        });
        let others = buckets.iter().skip(terms.size as usize).map(|bucket| bucket.doc_count).sum();
        buckets.truncate(terms.size as usize);
        Ok(AggregationResult::Buckets { buckets, sum_other_doc_count: Some(others) })
    }

    /// The buckets of a histogram, by key.
    pub(super) fn histogram(
        &self,
        wanted: &v1::Aggregation,
        found: BucketEntries<BucketEntry>,
        kind: Option<ValueKind>,
    ) -> Result<AggregationResult, Error> {
        let entries = match found {
            BucketEntries::Vec(entries) => entries,
            BucketEntries::HashMap(entries) => entries.into_values().collect(),
        };
        let is_date =
            kind == Some(ValueKind::Date) || matches!(wanted.kind, Some(v1::aggregation::Kind::DateHistogram(_)));
        let buckets: Result<Vec<Bucket>, Error> = entries
            .into_iter()
            .map(|entry| {
                let value = number(&entry.key);
                let key = if is_date {
                    // Whether tantivy made milliseconds of the nanoseconds depends on what it merged last.
                    let ms = if entry.key_as_string.is_some() { value + HALF / NANOS } else { (value + HALF) / NANOS };
                    BucketKey::DateMs(ms.round() as i64)
                } else {
                    // No negative zero.
                    BucketKey::Double(value + 0.0)
                };
                self.bucket(wanted, key, entry)
            })
            .collect();
        Ok(AggregationResult::Buckets { buckets: buckets?, sum_other_doc_count: None })
    }

    /// The buckets of ranges, by their bounds.
    pub(super) fn ranges<'a>(
        &self,
        wanted: &v1::Aggregation,
        found: impl Iterator<Item = (&'a v1::RangeBucket, Option<Found>)>,
    ) -> Result<AggregationResult, Error> {
        let mut buckets = Vec::new();
        for (range, found) in found {
            let entry = match found {
                Some(Found::BucketResult(BucketResult::Range { buckets })) => entry_of(buckets),
                _ => None,
            };
            let (doc_count, aggregations) = match entry {
                Some(entry) => (entry.doc_count, self.results(&wanted.aggregations, entry.sub_aggregation)?),
                None => (0, self.empty(&wanted.aggregations)?),
            };
            buckets.push(Bucket {
                key: BucketKey::String(range.key.clone()),
                range_key: (!range.key.is_empty()).then(|| range.key.clone()),
                from: range.from,
                to: range.to,
                doc_count,
                aggregations,
            });
        }
        let bounds = |bucket: &Bucket| (bucket.from.unwrap_or(f64::NEG_INFINITY), bucket.to.unwrap_or(f64::INFINITY));
        buckets.sort_by(|a, b| {
            let (a, b) = (bounds(a), bounds(b));
            a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1))
        });
        Ok(AggregationResult::Buckets { buckets, sum_other_doc_count: None })
    }

    fn bucket(&self, wanted: &v1::Aggregation, key: BucketKey, entry: BucketEntry) -> Result<Bucket, Error> {
        Ok(Bucket {
            key,
            range_key: None,
            from: None,
            to: None,
            doc_count: entry.doc_count,
            aggregations: self.results(&wanted.aggregations, entry.sub_aggregation)?,
        })
    }
}

/// The bucket that was asked for. Tantivy tells buckets apart by their bounds as each column's type
/// shows them, so a shard without the column has an empty one of its own.
fn entry_of(buckets: BucketEntries<RangeBucketEntry>) -> Option<RangeBucketEntry> {
    let is_ours = |entry: &RangeBucketEntry| matches!(&entry.key, Key::Str(key) if key == RANGE_KEY);
    let entries: Vec<RangeBucketEntry> = match buckets {
        BucketEntries::Vec(entries) => entries,
        BucketEntries::HashMap(entries) => entries.into_values().collect(),
    };
    entries.into_iter().filter(is_ours).max_by_key(|entry| entry.doc_count)
}

fn number(key: &Key) -> f64 {
    match key {
        Key::F64(value) => *value,
        Key::I64(value) => *value as f64,
        Key::U64(value) => *value as f64,
        Key::Str(text) => text.parse().unwrap_or(0.0),
    }
}

/// A term as users know it: tantivy knows no booleans, dates or addresses in keys.
fn term_key(entry: &BucketEntry, kind: Option<ValueKind>) -> BucketKey {
    let is_double = kind == Some(ValueKind::Double);
    match (&entry.key, entry.key_as_string.as_deref()) {
        (_, Some("true")) => BucketKey::Boolean(true),
        (_, Some("false")) => BucketKey::Boolean(false),
        (Key::Str(text), _) if kind == Some(ValueKind::Date) => {
            date_ms(text).map_or_else(|| BucketKey::String(text.clone()), BucketKey::DateMs)
        }
        (Key::Str(text), _) if kind == Some(ValueKind::Ip) => BucketKey::String(address(text)),
        (Key::Str(text), _) => BucketKey::String(text.clone()),
        (Key::I64(value), _) if is_double => BucketKey::Double(*value as f64),
        (Key::U64(value), _) if is_double => BucketKey::Double(*value as f64),
        (Key::I64(value), _) => BucketKey::Long(*value),
        (Key::U64(value), _) => i64::try_from(*value).map_or(BucketKey::Double(*value as f64), BucketKey::Long),
        (Key::F64(value), _) => BucketKey::Double(*value),
    }
}

fn date_ms(text: &str) -> Option<i64> {
    let date = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from(date.unix_timestamp_nanos().div_euclid(1_000_000)).ok()
}

/// An address of the JSON field is 32 hexadecimal digits; an address field's is written out already.
fn address(text: &str) -> String {
    let bits = (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok()).flatten();
    bits.map_or_else(
        || text.to_owned(),
        |bits| {
            let address = Ipv6Addr::from_bits(bits);
            address.to_ipv4_mapped().map_or_else(|| address.to_string(), |v4| v4.to_string())
        },
    )
}

/// One key of the order of terms.
enum Order<'a> {
    Count(bool),
    Key(bool),
    /// A sub-aggregation and its property.
    Below(&'a str, &'a str, bool),
}

impl<'a> Order<'a> {
    fn new(wanted: &v1::Aggregation, order: &'a v1::BucketOrder) -> Result<Self, Error> {
        Ok(match order.by.as_str() {
            "_count" => Self::Count(order.descending),
            "_key" | "_term" => Self::Key(order.descending),
            path => {
                // The name may contain dots; the property is what follows the last one.
                let is_below = |name: &str| wanted.aggregations.iter().any(|below| below.name == name);
                let (name, property) = match path.rsplit_once('.') {
                    Some((name, property)) if is_below(name) => (name, property),
                    _ => (path, "value"),
                };
                if !is_below(name) {
                    return Err(Error::Invalid {
                        error_type: "aggregation_execution_exception",
                        reason: format!(
                            "Invalid aggregator order path [{path}]. The provided aggregation [{name}] either does not \
                             exist, or is a pipeline aggregation and cannot be used to sort the buckets."
                        ),
                        caused_by: None,
                    });
                }
                Self::Below(name, property, order.descending)
            }
        })
    }

    fn compare(&self, a: &Bucket, b: &Bucket) -> Ordering {
        let directed = |ordering: Ordering, descending: bool| if descending { ordering.reverse() } else { ordering };
        match self {
            Self::Count(descending) => directed(a.doc_count.cmp(&b.doc_count), *descending),
            Self::Key(descending) => directed(compare_keys(&a.key, &b.key), *descending),
            Self::Below(name, property, descending) => match (figure(a, name, property), figure(b, name, property)) {
                (Some(a), Some(b)) => directed(a.partial_cmp(&b).unwrap_or(Ordering::Equal), *descending),
                // Without a figure last, whatever the direction.
                (a, b) => b.is_some().cmp(&a.is_some()),
            },
        }
    }
}

fn figure(bucket: &Bucket, name: &str, property: &str) -> Option<f64> {
    let (_, result) = bucket.aggregations.iter().find(|(own, _)| own == name)?;
    match result {
        AggregationResult::Value(value) => *value,
        AggregationResult::Stats { count, min, max, avg, sum, extended } => match property {
            "count" => Some(*count as f64),
            "min" => *min,
            "max" => *max,
            "avg" => *avg,
            "sum" => Some(*sum),
            "sum_of_squares" => extended.as_ref()?.sum_of_squares,
            "variance" | "variance_population" => extended.as_ref()?.variance,
            "variance_sampling" => extended.as_ref()?.variance_sampling,
            "std_deviation" | "std_deviation_population" => extended.as_ref()?.std_deviation,
            "std_deviation_sampling" => extended.as_ref()?.std_deviation_sampling,
            _ => None,
        },
        AggregationResult::Buckets { buckets, .. } => {
            Some(buckets.iter().map(|bucket| bucket.doc_count).sum::<u64>() as f64)
        }
    }
}

/// Numbers by value, then dates and booleans, then strings bytewise.
fn compare_keys(a: &BucketKey, b: &BucketKey) -> Ordering {
    let rank = |key: &BucketKey| match key {
        BucketKey::Long(_) | BucketKey::Double(_) => 0,
        BucketKey::DateMs(_) => 1,
        BucketKey::Boolean(_) => 2,
        BucketKey::String(_) => 3,
    };
    match (a, b) {
        (BucketKey::Long(a), BucketKey::Long(b)) | (BucketKey::DateMs(a), BucketKey::DateMs(b)) => a.cmp(b),
        (BucketKey::Double(a), BucketKey::Double(b)) => a.total_cmp(b),
        (BucketKey::Long(a), BucketKey::Double(b)) => (*a as f64).total_cmp(b),
        (BucketKey::Double(a), BucketKey::Long(b)) => a.total_cmp(&(*b as f64)),
        (BucketKey::Boolean(a), BucketKey::Boolean(b)) => a.cmp(b),
        (BucketKey::String(a), BucketKey::String(b)) => a.cmp(b),
        (a, b) => rank(a).cmp(&rank(b)),
    }
}
