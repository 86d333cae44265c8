//! `histogram`: buckets of equal width over a number.

use trawl_proto::v1;

use super::{Kind, Named, Rendering, buckets, field, unsupported};
use crate::{
    aggregation::{AggregationResult, BucketKey},
    error::Error,
    http::{
        error::illegal,
        json::{Json, Members},
        keys,
        query::Lowering,
    },
};

#[derive(Debug)]
struct Histogram {
    wire: v1::HistogramAggregation,
    keyed: bool,
}

pub(super) fn parse(body: &Json) -> Result<Box<dyn Kind>, Error> {
    const TYPE: &str = "histogram";
    let mut path = None;
    let mut wire = v1::HistogramAggregation::default();
    let mut keyed = false;
    for (key, value) in keys::object(body, TYPE)? {
        match key.as_str() {
            "field" => path = Some(field::name(value)?),
            "interval" => {
                wire.interval = keys::float(value, key)?;
                if wire.interval <= 0.0 {
                    return Err(illegal("[interval] must be >0 for histogram aggregation"));
                }
            }
            "offset" => wire.offset = keys::float(value, key)?,
            "min_doc_count" => wire.min_doc_count = keys::count(value, key)?.into(),
            "keyed" => keyed = keys::boolean(value, key)?,
            "extended_bounds" => (wire.extended_min, wire.extended_max) = bounds(value, key)?,
            "hard_bounds" => (wire.hard_min, wire.hard_max) = bounds(value, key)?,
            _ => return Err(unsupported(TYPE, key)),
        }
    }
    wire.field = field::required(path, TYPE)?;
    if wire.interval == 0.0 {
        return Err(illegal("Required [interval] for [histogram]"));
    }
    Ok(Box::new(Histogram { wire, keyed }))
}

fn bounds(json: &Json, key: &str) -> Result<(Option<f64>, Option<f64>), Error> {
    let mut bounds = (None, None);
    for (name, value) in keys::object(json, key)? {
        match name.as_str() {
            "min" => bounds.0 = Some(keys::float(value, name)?),
            "max" => bounds.1 = Some(keys::float(value, name)?),
            _ => return Err(unsupported(key, name)),
        }
    }
    match bounds {
        (Some(min), Some(max)) if min > max => {
            Err(illegal(format!("[{key}.min][{min}] cannot be greater than [{key}.max][{max}]")))
        }
        bounds => Ok(bounds),
    }
}

impl Kind for Histogram {
    fn lower(&self, _: &Named<'_>, lowering: &mut Lowering<'_>) -> Result<v1::aggregation::Kind, Error> {
        field::check(lowering, &self.wire.field, "histogram", field::is_number)?;
        Ok(v1::aggregation::Kind::Histogram(self.wire.clone()))
    }

    fn is_bucket(&self) -> bool {
        true
    }

    fn type_name(&self, _: &AggregationResult) -> &'static str {
        "histogram"
    }

    fn render(&self, result: &AggregationResult, rendering: &Rendering<'_>) -> Members {
        let list = buckets::of(result)
            .0
            .iter()
            .map(|bucket| {
                let key = match bucket.key {
                    BucketKey::Double(value) => value,
                    BucketKey::Long(value) => value as f64,
                    _ => 0.0,
                };
                let members = vec![("key".to_owned(), key.into())];
                (buckets::double(key), buckets::bucket(members, bucket, rendering))
            })
            .collect();
        buckets::list(list, self.keyed)
    }
}
