//! Figures over values.

use tantivy::aggregation::agg_result::MetricResult;
use trawl_data::aggregation::{NANOS, ValueKind};
use trawl_proto::v1::metric_aggregation::Kind;

use crate::aggregation::{AggregationResult, ExtendedStats};

/// A metric's result; `None` when tantivy's is of another kind.
pub(super) fn result(wanted: Kind, found: MetricResult, kind: Option<ValueKind>) -> Option<AggregationResult> {
    // Tantivy computes with nanoseconds, users see milliseconds.
    let is_date = kind == Some(ValueKind::Date);
    let scale = |value: f64| if is_date { value / NANOS } else { value };
    // A date is a whole millisecond; doubles of nanoseconds are off by up to 256.
    let exact = |value: f64| if is_date { (value / NANOS).round() } else { value };
    Some(match (wanted, found) {
        (Kind::Avg, MetricResult::Average(found)) => AggregationResult::Value(found.value.map(scale)),
        (Kind::Min, MetricResult::Min(found)) => AggregationResult::Value(found.value.map(exact)),
        (Kind::Max, MetricResult::Max(found)) => AggregationResult::Value(found.value.map(exact)),
        (Kind::Sum, MetricResult::Sum(found)) => AggregationResult::Value(Some(found.value.map_or(0.0, scale))),
        (Kind::ValueCount, MetricResult::Count(found)) => AggregationResult::Value(Some(found.value.unwrap_or(0.0))),
        (Kind::Stats, MetricResult::Stats(found)) => AggregationResult::Stats {
            count: found.count,
            min: found.min.map(exact),
            max: found.max.map(exact),
            avg: found.avg.map(scale),
            sum: scale(found.sum),
            extended: None,
        },
        (Kind::ExtendedStats, MetricResult::ExtendedStats(found)) => {
            let sum = scale(found.sum);
            let squares = found.sum_of_squares.filter(|_| found.count > 0).map(|squares| scale(scale(squares)));
            AggregationResult::Stats {
                count: found.count,
                min: found.min.map(exact),
                max: found.max.map(exact),
                avg: found.avg.map(scale),
                sum,
                extended: Some(extended(found.count, sum, squares)),
            }
        }
        _ => return None,
    })
}

/// The number of distinct values.
pub(super) fn cardinality(found: MetricResult) -> Option<AggregationResult> {
    match found {
        MetricResult::Cardinality(found) => Some(AggregationResult::Value(Some(found.value.unwrap_or(0.0)))),
        _ => None,
    }
}

/// As Elasticsearch computes them, from the two sums alone: these are compensated, so the figures do
/// not depend on how the values fell into shards.
fn extended(count: u64, sum: f64, sum_of_squares: Option<f64>) -> ExtendedStats {
    let n = count as f64;
    let deviations = sum_of_squares.map(|squares| (squares - sum * sum / n).max(0.0));
    let population = deviations.map(|deviations| deviations / n);
    let sampling = deviations.filter(|_| count > 1).map(|deviations| deviations / (n - 1.0));
    ExtendedStats {
        sum_of_squares,
        variance: population,
        variance_population: population,
        variance_sampling: sampling,
        std_deviation: population.map(f64::sqrt),
        std_deviation_population: population.map(f64::sqrt),
        std_deviation_sampling: sampling.map(f64::sqrt),
    }
}
