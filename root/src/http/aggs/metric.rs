//! `avg`, `min`, `max`, `sum`, `value_count`, `stats`, `extended_stats`.

use trawl_data::date::format_date;
use trawl_proto::v1::{self, metric_aggregation::Kind as Metric};

use super::{Kind, Named, Rendering, field, unsupported};
use crate::{
    aggregation::{AggregationResult, ExtendedStats},
    error::Error,
    http::{
        json::{Json, Members, object},
        keys,
        query::Lowering,
    },
};

#[derive(Debug)]
struct MetricOf {
    kind: Metric,
    type_name: &'static str,
    field: String,
    missing: Option<f64>,
    /// How many standard deviations the bounds are away.
    sigma: f64,
}

pub(super) fn parse(type_name: &str, body: &Json) -> Result<Box<dyn Kind>, Error> {
    let (kind, type_name) = match type_name {
        "avg" => (Metric::Avg, "avg"),
        "min" => (Metric::Min, "min"),
        "max" => (Metric::Max, "max"),
        "sum" => (Metric::Sum, "sum"),
        "value_count" => (Metric::ValueCount, "value_count"),
        "stats" => (Metric::Stats, "stats"),
        _ => (Metric::ExtendedStats, "extended_stats"),
    };
    let mut path = None;
    let mut missing = None;
    let mut sigma = 2.0;
    for (key, value) in keys::object(body, type_name)? {
        match key.as_str() {
            "field" => path = Some(field::name(value)?),
            "missing" => missing = Some(keys::float(value, key)?),
            "sigma" if kind == Metric::ExtendedStats => sigma = keys::float(value, key)?,
            _ => return Err(unsupported(type_name, key)),
        }
    }
    let field = field::required(path, type_name)?;
    Ok(Box::new(MetricOf { kind, type_name, field, missing, sigma }))
}

impl Kind for MetricOf {
    fn lower(&self, _: &Named<'_>, lowering: &mut Lowering<'_>) -> Result<v1::aggregation::Kind, Error> {
        let fits = if self.kind == Metric::ValueCount { field::is_any } else { field::is_numeric };
        field::check(lowering, &self.field, self.type_name, fits)?;
        Ok(v1::aggregation::Kind::Metric(v1::MetricAggregation {
            kind: self.kind.into(),
            field: self.field.clone(),
            missing: self.missing,
        }))
    }

    fn type_name(&self, _: &AggregationResult) -> &'static str {
        self.type_name
    }

    fn render(&self, result: &AggregationResult, rendering: &Rendering<'_>) -> Members {
        let field = rendering.mapping.and_then(|mapping| mapping.field(&self.field));
        let is_date = field.is_some_and(|field| field.field_type.is_date());
        match result {
            AggregationResult::Value(value) if self.kind == Metric::ValueCount => {
                vec![("value".to_owned(), (value.unwrap_or_default() as u64).into())]
            }
            AggregationResult::Value(value) => figure("value", *value, is_date),
            AggregationResult::Stats { count, min, max, avg, sum, extended } => {
                let mut members: Members = vec![("count".to_owned(), (*count).into())];
                for (name, value) in [("min", *min), ("max", *max), ("avg", *avg), ("sum", Some(*sum))] {
                    members.push((name.to_owned(), value.into()));
                }
                if is_date && *count > 0 {
                    for (name, value) in [("min", *min), ("max", *max), ("avg", *avg), ("sum", Some(*sum))] {
                        members.extend(as_string(name, value));
                    }
                }
                if let Some(extended) = extended {
                    members.extend(self.extended(extended, *avg));
                }
                members
            }
            AggregationResult::Buckets { .. } => Members::new(),
        }
    }
}

impl MetricOf {
    fn extended(&self, extended: &ExtendedStats, avg: Option<f64>) -> Members {
        let bound = |deviation: Option<f64>, sign: f64| Some(avg? + sign * self.sigma * deviation?);
        let population = extended.std_deviation_population;
        let sampling = extended.std_deviation_sampling;
        let bounds = object! {
            "upper" => bound(extended.std_deviation, 1.0),
            "lower" => bound(extended.std_deviation, -1.0),
            "upper_population" => bound(population, 1.0),
            "lower_population" => bound(population, -1.0),
            "upper_sampling" => bound(sampling, 1.0),
            "lower_sampling" => bound(sampling, -1.0),
        };
        let mut members: Members = [
            ("sum_of_squares", extended.sum_of_squares),
            ("variance", extended.variance),
            ("variance_population", extended.variance_population),
            ("variance_sampling", extended.variance_sampling),
            ("std_deviation", extended.std_deviation),
            ("std_deviation_population", population),
            ("std_deviation_sampling", sampling),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
        members.push(("std_deviation_bounds".to_owned(), bounds));
        members
    }
}

fn figure(name: &str, value: Option<f64>, is_date: bool) -> Members {
    let mut members: Members = vec![(name.to_owned(), value.into())];
    if is_date {
        members.extend(as_string(name, value));
    }
    members
}

fn as_string(name: &str, ms: Option<f64>) -> Option<(String, Json)> {
    ms.map(|ms| (format!("{name}_as_string"), format_date(ms as i64).into()))
}
