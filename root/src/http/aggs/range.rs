//! `range` and `date_range`: buckets given by their bounds.

use trawl_data::{
    date::{DateFormats, DateMath},
    mapping::FieldType,
};
use trawl_proto::v1;

use super::{Kind, Named, Rendering, buckets, date_histogram::formats, field, unsupported};
use crate::{
    aggregation::AggregationResult,
    error::Error,
    http::{
        error::{illegal, parsing},
        json::{Json, Members},
        keys,
        query::{Lowering, values},
    },
};

#[derive(Debug)]
struct Ranges {
    type_name: &'static str,
    field: String,
    ranges: Vec<One>,
    keyed: bool,
    /// Of `date_range`.
    dates: bool,
    formats: Option<DateFormats>,
}

#[derive(Debug, Default)]
struct One {
    key: String,
    from: Option<String>,
    to: Option<String>,
}

pub(super) fn parse(body: &Json) -> Result<Box<dyn Kind>, Error> {
    parse_either("range", false, body)
}

pub(super) fn parse_dates(body: &Json) -> Result<Box<dyn Kind>, Error> {
    parse_either("date_range", true, body)
}

fn parse_either(type_name: &'static str, dates: bool, body: &Json) -> Result<Box<dyn Kind>, Error> {
    let mut path = None;
    let mut ranges = Vec::new();
    let mut keyed = false;
    let mut date_formats = None;
    for (key, value) in keys::object(body, type_name)? {
        match key.as_str() {
            "field" => path = Some(field::name(value)?),
            "keyed" => keyed = keys::boolean(value, key)?,
            "format" if dates => date_formats = Some(formats(value)?),
            "ranges" => {
                let Some(elements) = value.as_array() else {
                    return Err(parsing(format!("[{type_name}] ranges must be an array")));
                };
                ranges = elements.iter().map(|element| one(element, type_name, dates)).collect::<Result<_, _>>()?;
            }
            _ => return Err(unsupported(type_name, key)),
        }
    }
    if ranges.is_empty() {
        return Err(illegal(format!("No [ranges] specified for the [{type_name}] aggregation")));
    }
    if ranges.len() > 1_000 {
        return Err(illegal(format!("more than [1000] ranges in a [{type_name}] aggregation")));
    }
    let field = field::required(path, type_name)?;
    Ok(Box::new(Ranges { type_name, field, ranges, keyed, dates, formats: date_formats }))
}

fn one(json: &Json, type_name: &str, dates: bool) -> Result<One, Error> {
    let mut range = One::default();
    for (key, value) in keys::object(json, "ranges")? {
        if *value == Json::Null {
            continue;
        }
        if !dates && matches!(key.as_str(), "from" | "to") {
            keys::float(value, key)?;
        }
        match key.as_str() {
            "key" => range.key = keys::text(value, key)?,
            "from" => range.from = Some(keys::text(value, key)?),
            "to" => range.to = Some(keys::text(value, key)?),
            _ => return Err(unsupported(type_name, key)),
        }
    }
    Ok(range)
}

impl Ranges {
    fn formats_of<'a>(&'a self, field_type: Option<&'a FieldType>) -> Option<&'a DateFormats> {
        match (&self.formats, field_type) {
            (Some(formats), _) | (None, Some(FieldType::Date { formats })) => Some(formats),
            _ => None,
        }
    }

    /// `from-to` with `*` for open ends.
    fn key(&self, from: Option<f64>, to: Option<f64>, formats: Option<&DateFormats>) -> String {
        let end = |bound: Option<f64>| match bound {
            None => "*".to_owned(),
            Some(ms) if self.dates => buckets::date(ms as i64, formats),
            Some(value) => buckets::double(value),
        };
        format!("{}-{}", end(from), end(to))
    }
}

impl Kind for Ranges {
    fn lower(&self, _: &Named<'_>, lowering: &mut Lowering<'_>) -> Result<v1::aggregation::Kind, Error> {
        let fits = if self.dates { FieldType::is_date } else { field::is_number };
        let field = field::check(lowering, &self.field, self.type_name, fits)?;
        let default = DateFormats::default();
        let formats = self.formats_of(field.map(|field| &field.field_type)).unwrap_or(&default);
        let now_ms = lowering.now_ms;
        let bound = |text: &Option<String>| {
            let Some(text) = text else { return Ok(None) };
            if !self.dates {
                return values::number(text).map(|number| Some(number.float()));
            }
            let math = DateMath { now_ms, round_up: false, offset_ms: 0 };
            values::date(text, formats, math).map(|ms| Some(ms as f64))
        };
        let ranges: Result<Vec<v1::RangeBucket>, Error> = self
            .ranges
            .iter()
            .map(|range| {
                Ok(v1::RangeBucket { key: range.key.clone(), from: bound(&range.from)?, to: bound(&range.to)? })
            })
            .collect();
        Ok(v1::aggregation::Kind::Range(v1::RangeAggregation { field: self.field.clone(), ranges: ranges? }))
    }

    fn is_bucket(&self) -> bool {
        true
    }

    fn type_name(&self, _: &AggregationResult) -> &'static str {
        self.type_name
    }

    fn render(&self, result: &AggregationResult, rendering: &Rendering<'_>) -> Members {
        let field = rendering.mapping.and_then(|mapping| mapping.field(&self.field));
        let formats = self.formats_of(field.map(|field| &field.field_type));
        let list = buckets::of(result)
            .0
            .iter()
            .map(|bucket| {
                let named = bucket.range_key.as_deref().filter(|key| self.ranges.iter().any(|range| range.key == *key));
                let key = named.map_or_else(|| self.key(bucket.from, bucket.to, formats), str::to_owned);
                let mut members: Members = Vec::new();
                if !self.keyed {
                    members.push(("key".to_owned(), key.as_str().into()));
                }
                for (name, bound) in [("from", bucket.from), ("to", bucket.to)] {
                    let Some(value) = bound else { continue };
                    members.push((name.to_owned(), value.into()));
                    if self.dates {
                        let text = buckets::date(value as i64, formats);
                        members.push((format!("{name}_as_string"), text.into()));
                    }
                }
                (key, buckets::bucket(members, bucket, rendering))
            })
            .collect();
        buckets::list(list, self.keyed)
    }
}
