//! `date_histogram`: buckets of equal width over a date, UTC.
//!
//! Calendar units up to the week are of equal width in UTC; longer ones are not and are refused.

use trawl_data::{
    date::{DateFormats, DateMath, parse_offset},
    mapping::FieldType,
};
use trawl_proto::v1;

use super::{Kind, Named, Rendering, buckets, field, unsupported};
use crate::{
    aggregation::{AggregationResult, BucketKey},
    error::Error,
    http::{
        error::illegal,
        json::{Json, Members},
        keys, params,
        query::{Lowering, values},
    },
};

const DAY_MS: i64 = 86_400_000;
/// The epoch was a Thursday; weeks start on Mondays.
const MONDAY_MS: i64 = 4 * DAY_MS;

#[derive(Debug, Default)]
struct DateHistogram {
    field: String,
    interval_ms: u64,
    /// Where weeks start.
    phase_ms: i64,
    offset_ms: i64,
    min_doc_count: u64,
    keyed: bool,
    formats: Option<DateFormats>,
    extended: (Option<String>, Option<String>),
    hard: (Option<String>, Option<String>),
}

pub(super) fn parse(body: &Json) -> Result<Box<dyn Kind>, Error> {
    const TYPE: &str = "date_histogram";
    let mut path = None;
    let mut parsed = DateHistogram::default();
    for (key, value) in keys::object(body, TYPE)? {
        match key.as_str() {
            "field" => path = Some(field::name(value)?),
            "fixed_interval" | "calendar_interval" if parsed.interval_ms != 0 => {
                return Err(illegal("Cannot use [fixed_interval] with [calendar_interval] configuration option."));
            }
            "fixed_interval" => parsed.interval_ms = fixed(&keys::text(value, key)?)?,
            "calendar_interval" => (parsed.interval_ms, parsed.phase_ms) = calendar(&keys::text(value, key)?)?,
            "offset" => parsed.offset_ms = offset(value)?,
            "min_doc_count" => parsed.min_doc_count = keys::count(value, key)?.into(),
            "keyed" => parsed.keyed = keys::boolean(value, key)?,
            "format" => parsed.formats = Some(formats(value)?),
            "time_zone" => {
                let zone = keys::text(value, key)?;
                if parse_offset(&zone) != Some(0) {
                    return Err(illegal(format!(
                        "[date_histogram] time_zone [{zone}] is not supported, only [UTC] is"
                    )));
                }
            }
            "extended_bounds" => parsed.extended = bounds(value, key)?,
            "hard_bounds" => parsed.hard = bounds(value, key)?,
            "interval" => {
                return Err(illegal("[interval] is not supported: use [fixed_interval] or [calendar_interval]"));
            }
            _ => return Err(unsupported(TYPE, key)),
        }
    }
    parsed.field = field::required(path, TYPE)?;
    if parsed.interval_ms == 0 {
        return Err(illegal(
            "Invalid interval specified, must be non-null and non-empty: [fixed_interval] or [calendar_interval] is required",
        ));
    }
    Ok(Box::new(parsed))
}

/// Date formats by name.
pub(super) fn formats(json: &Json) -> Result<DateFormats, Error> {
    let names = keys::text(json, "format")?;
    DateFormats::parse(&names).map_err(|name| illegal(format!("Invalid format: [{names}]: Unknown pattern [{name}]")))
}

fn fixed(text: &str) -> Result<u64, Error> {
    let failed = || {
        illegal(format!(
            "failed to parse setting [date_histogram.fixedInterval] with value [{text}] as a time value: unit is missing or unrecognized"
        ))
    };
    let interval = params::duration(text, "date_histogram.fixedInterval").map_err(|_| failed())?;
    let ms = u64::try_from(interval.as_millis()).map_err(|_| failed())?;
    if ms == 0 || text.trim() == "-1" {
        return Err(illegal("Zero or negative time interval not supported"));
    }
    Ok(ms)
}

/// Width and phase of a calendar unit.
fn calendar(text: &str) -> Result<(u64, i64), Error> {
    Ok(match text {
        "second" | "1s" => (1_000, 0),
        "minute" | "1m" => (60_000, 0),
        "hour" | "1h" => (3_600_000, 0),
        "day" | "1d" => (86_400_000, 0),
        "week" | "1w" => (604_800_000, MONDAY_MS),
        "month" | "1M" | "quarter" | "1q" | "year" | "1y" => {
            return Err(illegal(format!("[date_histogram] calendar_interval [{text}] is not supported yet")));
        }
        _ => {
            return Err(illegal(format!("The supplied interval [{text}] could not be parsed as a calendar interval.")));
        }
    })
}

fn offset(json: &Json) -> Result<i64, Error> {
    let text = keys::text(json, "offset")?;
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(&text)),
    };
    if let Ok(ms) = rest.parse::<u32>() {
        return Ok(sign * i64::from(ms));
    }
    let offset = params::duration(rest, "offset")?;
    Ok(sign * i64::try_from(offset.as_millis()).unwrap_or(0))
}

fn bounds(json: &Json, key: &str) -> Result<(Option<String>, Option<String>), Error> {
    let mut bounds = (None, None);
    for (name, value) in keys::object(json, key)? {
        match name.as_str() {
            "min" => bounds.0 = Some(keys::text(value, name)?),
            "max" => bounds.1 = Some(keys::text(value, name)?),
            _ => return Err(unsupported(key, name)),
        }
    }
    Ok(bounds)
}

impl Kind for DateHistogram {
    fn lower(&self, _: &Named<'_>, lowering: &mut Lowering<'_>) -> Result<v1::aggregation::Kind, Error> {
        let field = field::check(lowering, &self.field, "date_histogram", FieldType::is_date)?;
        let default = DateFormats::default();
        let formats = match (&self.formats, field.map(|field| &field.field_type)) {
            (Some(formats), _) | (None, Some(FieldType::Date { formats })) => formats,
            _ => &default,
        };
        let now_ms = lowering.now_ms;
        let instant = |text: &Option<String>| {
            let math = DateMath { now_ms, round_up: false, offset_ms: 0 };
            text.as_deref().map(|text| values::date(text, formats, math)).transpose()
        };
        Ok(v1::aggregation::Kind::DateHistogram(v1::DateHistogramAggregation {
            field: self.field.clone(),
            interval_ms: self.interval_ms,
            offset_ms: self.phase_ms + self.offset_ms,
            min_doc_count: self.min_doc_count,
            extended_min_ms: instant(&self.extended.0)?,
            extended_max_ms: instant(&self.extended.1)?,
            hard_min_ms: instant(&self.hard.0)?,
            hard_max_ms: instant(&self.hard.1)?,
        }))
    }

    fn is_bucket(&self) -> bool {
        true
    }

    fn type_name(&self, _: &AggregationResult) -> &'static str {
        "date_histogram"
    }

    fn render(&self, result: &AggregationResult, rendering: &Rendering<'_>) -> Members {
        let of_field = rendering.mapping.and_then(|mapping| mapping.field(&self.field)).and_then(|field| match &field
            .field_type
        {
            FieldType::Date { formats } => Some(formats),
            _ => None,
        });
        let formats = self.formats.as_ref().or(of_field);
        let list = buckets::of(result)
            .0
            .iter()
            .map(|bucket| {
                let name = match bucket.key {
                    BucketKey::DateMs(ms) => buckets::date(ms, formats),
                    _ => String::new(),
                };
                (name, buckets::bucket(buckets::key(bucket, formats), bucket, rendering))
            })
            .collect();
        buckets::list(list, self.keyed)
    }
}
