//! Aggregations of the wire as tantivy's, the same on the leaf that collects and the root that merges.
//!
//! No shard cuts its list of terms: every bucket travels, and the root alone orders and cuts, so the
//! result does not depend on the sharding. Three things are done differently from a plain translation:
//!
//! - Each range is an aggregation of its own (tantivy refuses ranges that overlap), see [`range_name`].
//! - A histogram over dates is a plain histogram in nanoseconds that is marked as normalised: tantivy's
//!   `date_histogram` guesses the unit from whichever segment was merged last, and guesses wrong when
//!   that segment has no date.
//! - Bounds on dates are half a millisecond lower than asked. Doubles have steps of 256 ns at today's
//!   nanoseconds, and dates are whole milliseconds, so this makes every comparison exact.

mod partial;

use serde::{Deserialize, Serialize};
use tantivy::aggregation::Key;
use tantivy::aggregation::agg_req::{Aggregation, AggregationVariants, Aggregations};
use tantivy::aggregation::bucket::{
    HistogramAggregation, HistogramBounds, RangeAggregation, RangeAggregationRange, TermsAggregation,
};
use tantivy::aggregation::metric::{
    AverageAggregation, CardinalityAggregationReq, CountAggregation, ExtendedStatsAggregation, MaxAggregation,
    MinAggregation, StatsAggregation, SumAggregation,
};
use trawl_proto::v1::{self, aggregation::Kind, metric_aggregation, value};

pub use partial::{FIRST_FORMAT, Partial, PartialError, format_for, formats};

use crate::mapping::FieldType;

/// Levels of sub-aggregations.
pub const DEPTH_MAX: usize = 16;
/// Aggregations of one request, ranges counted one by one.
pub const AGGREGATIONS_MAX: usize = 1_000;
/// Nanoseconds in a millisecond.
pub const NANOS: f64 = 1_000_000.0;
/// Half a millisecond, in nanoseconds.
pub const HALF: f64 = 500_000.0;
/// Name of the one bucket of each range's own aggregation.
pub const RANGE_KEY: &str = "range";
/// More terms than any shard can hold, so nothing is cut; tantivy computes ten times it in a `u32`.
const TERMS_MAX: u32 = u32::MAX / 10;
/// A field name that no schema has: a column without any value.
const NO_COLUMN: &str = "_none";

/// What an aggregation has to know of a field's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ValueKind {
    /// Analysed text, which cannot be aggregated.
    Text,
    /// Strings.
    Keyword,
    /// Whole numbers of any width.
    Long,
    /// Numbers with fractions.
    Double,
    /// Booleans.
    Boolean,
    /// Dates.
    Date,
    /// Addresses.
    Ip,
}

impl ValueKind {
    /// Of a field's type.
    pub fn of(field_type: &FieldType) -> Self {
        match field_type {
            FieldType::Text { .. } => Self::Text,
            FieldType::Keyword { .. } => Self::Keyword,
            FieldType::Long | FieldType::Integer | FieldType::Short | FieldType::Byte => Self::Long,
            FieldType::Double | FieldType::Float => Self::Double,
            FieldType::Boolean => Self::Boolean,
            FieldType::Date { .. } => Self::Date,
            FieldType::Ip => Self::Ip,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Keyword => "keyword",
            Self::Long => "long",
            Self::Double => "double",
            Self::Boolean => "boolean",
            Self::Date => "date",
            Self::Ip => "ip",
        }
    }
}

/// Where an aggregation finds its values.
#[derive(Clone, Debug)]
pub struct AggregationField {
    /// The column's name.
    pub column: String,
    /// What the logical field holds.
    pub kind: ValueKind,
}

/// The logical field that an aggregation is of.
pub fn field_of(aggregation: &v1::Aggregation) -> Option<&str> {
    Some(match aggregation.kind.as_ref()? {
        Kind::Terms(terms) => &terms.field,
        Kind::Histogram(histogram) => &histogram.field,
        Kind::DateHistogram(histogram) => &histogram.field,
        Kind::Range(range) => &range.field,
        Kind::Metric(metric) => &metric.field,
        Kind::Cardinality(cardinality) => &cardinality.field,
    })
}

/// An aggregation that cannot be carried out, with a sentence that names it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AggregationError(pub String);

/// The name of the aggregation that range number `range` of the aggregation `name` becomes.
pub fn range_name(name: &str, range: usize) -> String {
    format!("{name}\u{1f}{range}")
}

/// Tantivy's form of the aggregations. `resolve` finds a logical field; `None` is a field without any
/// value here, which gives empty results.
///
/// # Errors
/// An [`AggregationError`] for what the field's type does not allow and for what is over a limit.
pub fn to_tantivy(
    aggregations: &[v1::Aggregation],
    resolve: &dyn Fn(&str) -> Option<AggregationField>,
) -> Result<Aggregations, AggregationError> {
    let mut total = 0;
    translate_all(aggregations, resolve, 1, &mut total)
}

fn translate_all(
    aggregations: &[v1::Aggregation],
    resolve: &dyn Fn(&str) -> Option<AggregationField>,
    depth: usize,
    total: &mut usize,
) -> Result<Aggregations, AggregationError> {
    if depth > DEPTH_MAX {
        return Err(AggregationError(format!("aggregations are nested deeper than {DEPTH_MAX} levels")));
    }
    let mut translated = Aggregations::default();
    for aggregation in aggregations {
        let name = &aggregation.name;
        let kind =
            aggregation.kind.as_ref().ok_or_else(|| AggregationError(format!("aggregation [{name}] has no kind")))?;
        let variants: Vec<(String, AggregationVariants)> = match kind {
            Kind::Range(range) => ranges(name, range, resolve)?,
            other => vec![(name.clone(), variant(name, other, resolve)?)],
        };
        *total += variants.len();
        if *total > AGGREGATIONS_MAX {
            return Err(AggregationError(format!(
                "a request has more than {AGGREGATIONS_MAX} aggregations and ranges"
            )));
        }
        for (name, agg) in variants {
            let sub_aggregation = translate_all(&aggregation.aggregations, resolve, depth + 1, total)?;
            let translation = Aggregation { agg, sub_aggregation };
            if translated.insert(name.clone(), translation).is_some() {
                return Err(AggregationError(format!("two aggregations are named [{name}]")));
            }
        }
    }
    Ok(translated)
}

fn variant(
    name: &str,
    kind: &Kind,
    resolve: &dyn Fn(&str) -> Option<AggregationField>,
) -> Result<AggregationVariants, AggregationError> {
    match kind {
        Kind::Terms(terms) => {
            if terms.min_doc_count == 0 {
                return Err(AggregationError(format!(
                    "[min_doc_count] of terms aggregation [{name}] must be at least 1"
                )));
            }
            let field = find(&terms.field, resolve)?;
            Ok(AggregationVariants::Terms(TermsAggregation {
                missing: missing_key(name, terms.missing.as_ref(), field.as_ref())?,
                field: column(field),
                size: Some(TERMS_MAX),
                segment_size: Some(TERMS_MAX),
                show_term_doc_count_error: Some(false),
                // Counts are complete only after the merge.
                min_doc_count: Some(1),
                order: None,
                include: None,
                exclude: None,
            }))
        }
        Kind::Histogram(histogram) => {
            let field = find(&histogram.field, resolve)?;
            check_numeric(&histogram.field, field.as_ref(), "histogram")?;
            histogram_variant(name, histogram, field)
        }
        Kind::DateHistogram(histogram) => {
            let field = find(&histogram.field, resolve)?;
            if let Some(AggregationField { kind, .. }) = &field
                && *kind != ValueKind::Date
            {
                return Err(unsupported(&histogram.field, *kind, "date_histogram"));
            }
            let ms = |value: i64| value as f64;
            let interval = histogram.interval_ms as f64;
            let plain = v1::HistogramAggregation {
                field: histogram.field.clone(),
                interval,
                offset: ms(histogram.offset_ms),
                min_doc_count: histogram.min_doc_count,
                extended_min: histogram.extended_min_ms.map(ms),
                extended_max: histogram.extended_max_ms.map(ms),
                hard_min: histogram.hard_min_ms.map(ms),
                hard_max: histogram.hard_max_ms.map(ms),
            };
            Ok(AggregationVariants::Histogram(date_histogram(name, &plain, column(field))?))
        }
        Kind::Metric(metric) => metric_variant(metric, resolve),
        Kind::Cardinality(cardinality) => {
            let field = find(&cardinality.field, resolve)?;
            Ok(AggregationVariants::Cardinality(CardinalityAggregationReq {
                missing: missing_key(name, cardinality.missing.as_ref(), field.as_ref())?,
                field: column(field),
            }))
        }
        Kind::Range(_) => Err(AggregationError(format!("range aggregation [{name}] is translated elsewhere"))),
    }
}

fn find(
    field: &str,
    resolve: &dyn Fn(&str) -> Option<AggregationField>,
) -> Result<Option<AggregationField>, AggregationError> {
    let found = resolve(field);
    if found.as_ref().is_some_and(|found| found.kind == ValueKind::Text) {
        return Err(AggregationError(format!(
            "Text fields are not optimised for operations that require per-document field data like aggregations and \
             sorting, so these operations are disabled by default. Please use a keyword field instead. Alternatively, \
             set fielddata=true on [{field}] in order to load field data by uninverting the inverted index. Note that \
             this can use significant memory."
        )));
    }
    Ok(found)
}

fn column(field: Option<AggregationField>) -> String {
    field.map_or_else(|| NO_COLUMN.to_owned(), |field| field.column)
}

fn unsupported(field: &str, kind: ValueKind, aggregation: &str) -> AggregationError {
    AggregationError(format!(
        "Field [{field}] of type [{}] is not supported for aggregation [{aggregation}]",
        kind.name()
    ))
}

fn check_numeric(name: &str, field: Option<&AggregationField>, aggregation: &str) -> Result<(), AggregationError> {
    match field.map(|field| field.kind) {
        Some(kind @ (ValueKind::Keyword | ValueKind::Boolean | ValueKind::Ip)) => {
            Err(unsupported(name, kind, aggregation))
        }
        _ => Ok(()),
    }
}

fn missing_key(
    name: &str,
    missing: Option<&v1::Value>,
    field: Option<&AggregationField>,
) -> Result<Option<Key>, AggregationError> {
    let Some(kind) = missing.and_then(|value| value.kind.as_ref()) else { return Ok(None) };
    let is_plain =
        field.is_none_or(|field| !matches!(field.kind, ValueKind::Date | ValueKind::Boolean | ValueKind::Ip));
    match kind {
        value::Kind::String(text) if is_plain => Ok(Some(Key::Str(text.clone()))),
        value::Kind::Long(number) if is_plain => Ok(Some(Key::I64(*number))),
        value::Kind::Double(number) if is_plain => Ok(Some(Key::F64(*number))),
        _ => {
            Err(AggregationError(format!("[missing] of aggregation [{name}] is not supported for this type of field")))
        }
    }
}

fn bounds(min: Option<f64>, max: Option<f64>) -> Option<HistogramBounds> {
    (min.is_some() || max.is_some())
        .then(|| HistogramBounds { min: min.unwrap_or(f64::MIN), max: max.unwrap_or(f64::MAX) })
}

fn check_histogram(name: &str, histogram: &v1::HistogramAggregation) -> Result<(), AggregationError> {
    if !histogram.interval.is_finite() || histogram.interval <= 0.0 || !histogram.offset.is_finite() {
        return Err(AggregationError(format!("[interval] of histogram [{name}] must be a positive number")));
    }
    Ok(())
}

fn extended(histogram: &v1::HistogramAggregation) -> Option<HistogramBounds> {
    // They add empty buckets, which are wanted only when empty buckets are. One bound alone cannot be
    // told to tantivy; the root sends both or none.
    (histogram.min_doc_count == 0 && histogram.extended_min.is_some() && histogram.extended_max.is_some())
        .then(|| bounds(histogram.extended_min, histogram.extended_max))
        .flatten()
}

fn histogram_variant(
    name: &str,
    histogram: &v1::HistogramAggregation,
    field: Option<AggregationField>,
) -> Result<AggregationVariants, AggregationError> {
    if field.as_ref().is_some_and(|field| field.kind == ValueKind::Date) {
        return Ok(AggregationVariants::Histogram(date_histogram(name, histogram, column(field))?));
    }
    check_histogram(name, histogram)?;
    Ok(AggregationVariants::Histogram(HistogramAggregation {
        field: column(field),
        interval: histogram.interval,
        offset: Some(histogram.offset),
        min_doc_count: Some(histogram.min_doc_count),
        hard_bounds: bounds(histogram.hard_min, histogram.hard_max),
        extended_bounds: extended(histogram),
        keyed: false,
        is_normalized_to_ns: false,
    }))
}

/// A histogram over dates; `histogram` is in milliseconds.
fn date_histogram(
    name: &str,
    histogram: &v1::HistogramAggregation,
    column: String,
) -> Result<HistogramAggregation, AggregationError> {
    check_histogram(name, histogram)?;
    let nanos = |bounds: HistogramBounds| HistogramBounds {
        min: if bounds.min == f64::MIN { f64::MIN } else { bounds.min * NANOS - HALF },
        max: if bounds.max == f64::MAX { f64::MAX } else { bounds.max * NANOS + HALF },
    };
    let exact = |bounds: HistogramBounds| HistogramBounds { min: bounds.min * NANOS, max: bounds.max * NANOS };
    Ok(HistogramAggregation {
        field: column,
        interval: histogram.interval * NANOS,
        offset: Some(histogram.offset * NANOS - HALF),
        min_doc_count: Some(histogram.min_doc_count),
        hard_bounds: bounds(histogram.hard_min, histogram.hard_max).map(nanos),
        extended_bounds: extended(histogram).map(exact),
        keyed: false,
        is_normalized_to_ns: true,
    })
}

fn ranges(
    name: &str,
    range: &v1::RangeAggregation,
    resolve: &dyn Fn(&str) -> Option<AggregationField>,
) -> Result<Vec<(String, AggregationVariants)>, AggregationError> {
    let field = find(&range.field, resolve)?;
    check_numeric(&range.field, field.as_ref(), "range")?;
    let kind = field.as_ref().map(|field| field.kind);
    let bound = |value: f64| match kind {
        Some(ValueKind::Date) => value * NANOS - HALF,
        Some(ValueKind::Double) | None => value,
        // A whole number is at least 1.5 when it is at least 2.
        Some(_) => value.ceil(),
    };
    let column = column(field);
    Ok(range
        .ranges
        .iter()
        .enumerate()
        .filter(|(_, range)| !is_empty(range))
        .map(|(number, range)| {
            let only = RangeAggregationRange {
                key: Some(RANGE_KEY.to_owned()),
                from: range.from.map(bound),
                to: range.to.map(bound),
            };
            let aggregation = RangeAggregation { field: column.clone(), ranges: vec![only], keyed: false };
            (range_name(name, number), AggregationVariants::Range(aggregation))
        })
        .collect())
}

/// Whether nothing can be in a range; it is not asked for then.
pub fn is_empty(range: &v1::RangeBucket) -> bool {
    matches!((range.from, range.to), (Some(from), Some(to)) if from >= to)
}

fn metric_variant(
    metric: &v1::MetricAggregation,
    resolve: &dyn Fn(&str) -> Option<AggregationField>,
) -> Result<AggregationVariants, AggregationError> {
    use metric_aggregation::Kind as Metric;
    let field = find(&metric.field, resolve)?;
    let name = match metric.kind() {
        Metric::Avg => "avg",
        Metric::Min => "min",
        Metric::Max => "max",
        Metric::Sum => "sum",
        Metric::ValueCount => "value_count",
        Metric::Stats => "stats",
        Metric::ExtendedStats => "extended_stats",
        Metric::Unspecified => return Err(AggregationError(format!("a metric on [{}] has no kind", metric.field))),
    };
    if metric.kind() != Metric::ValueCount {
        check_numeric(&metric.field, field.as_ref(), name)?;
    }
    let is_date = field.as_ref().is_some_and(|field| field.kind == ValueKind::Date);
    let missing = metric.missing.map(|value| if is_date { value * NANOS } else { value });
    let field = column(field);
    Ok(match metric.kind() {
        Metric::Avg => AggregationVariants::Average(AverageAggregation { field, missing }),
        Metric::Min => AggregationVariants::Min(MinAggregation { field, missing }),
        Metric::Max => AggregationVariants::Max(MaxAggregation { field, missing }),
        Metric::Sum => AggregationVariants::Sum(SumAggregation { field, missing, none_if_no_match: None }),
        Metric::ValueCount => AggregationVariants::Count(CountAggregation { field, missing }),
        Metric::Stats => AggregationVariants::Stats(StatsAggregation { field, missing }),
        Metric::ExtendedStats | Metric::Unspecified => {
            AggregationVariants::ExtendedStats(ExtendedStatsAggregation { field, missing, sigma: None })
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn text(_: &str) -> Option<AggregationField> {
        Some(AggregationField { column: "m0".to_owned(), kind: ValueKind::Text })
    }

    fn long(_: &str) -> Option<AggregationField> {
        Some(AggregationField { column: "m1".to_owned(), kind: ValueKind::Long })
    }

    fn terms(name: &str) -> v1::Aggregation {
        let terms = v1::TermsAggregation { field: "f".to_owned(), size: 3, min_doc_count: 1, ..Default::default() };
        v1::Aggregation { name: name.to_owned(), kind: Some(Kind::Terms(terms)), aggregations: Vec::new() }
    }

    #[test]
    fn text_fields_and_doubled_names_are_refused() {
        assert!(to_tantivy(&[terms("a")], &text).unwrap_err().0.contains("Text fields are not optimised"));
        assert!(to_tantivy(&[terms("a"), terms("a")], &long).unwrap_err().0.contains("[a]"));
    }

    #[test]
    fn depth_is_bounded() {
        let mut nested = terms("a");
        for _ in 0..DEPTH_MAX {
            nested = v1::Aggregation { aggregations: vec![nested], ..terms("a") };
        }
        assert!(to_tantivy(&[nested], &long).unwrap_err().0.contains("nested"));
    }

    #[test]
    fn ranges_may_overlap_and_keep_whole_numbers_exact() {
        let range = v1::RangeAggregation {
            field: "f".to_owned(),
            ranges: vec![
                v1::RangeBucket { from: Some(1.5), to: Some(4.0), ..Default::default() },
                v1::RangeBucket { from: Some(2.0), to: None, ..Default::default() },
                v1::RangeBucket { from: Some(3.0), to: Some(3.0), ..Default::default() },
            ],
        };
        let aggregation =
            v1::Aggregation { name: "r".to_owned(), kind: Some(Kind::Range(range)), aggregations: vec![] };
        let translated = to_tantivy(&[aggregation], &long).unwrap();
        assert_eq!(translated.len(), 2);
        let AggregationVariants::Range(first) = &translated[&range_name("r", 0)].agg else { panic!("not a range") };
        assert_eq!(first.ranges[0].from, Some(2.0));
    }
}
