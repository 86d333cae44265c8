//! `terms`: a bucket per value.

use trawl_proto::v1;

use super::{Kind, Named, Rendering, buckets, field, unsupported};
use crate::{
    aggregation::{AggregationResult, BucketKey},
    error::Error,
    http::{
        error::{illegal, parsing},
        json::{Json, Members},
        keys,
        query::Lowering,
    },
};

#[derive(Debug)]
struct Terms {
    field: String,
    size: u32,
    min_doc_count: u64,
    order: Vec<v1::BucketOrder>,
    missing: Option<String>,
}

pub(super) fn parse(name: &str, body: &Json) -> Result<Box<dyn Kind>, Error> {
    const TYPE: &str = "terms";
    let mut path = None;
    let mut terms = Terms { field: String::new(), size: 10, min_doc_count: 1, order: Vec::new(), missing: None };
    for (key, value) in keys::object(body, TYPE)? {
        match key.as_str() {
            "field" => path = Some(field::name(value)?),
            "size" => {
                terms.size = keys::count(value, key)?;
                if terms.size == 0 {
                    return Err(illegal(format!("[size] must be greater than 0. Found [0] in [{name}]")));
                }
            }
            "min_doc_count" => {
                terms.min_doc_count = keys::count(value, key)?.into();
                if terms.min_doc_count == 0 {
                    return Err(illegal(format!(
                        "[min_doc_count] of [0] is not supported in terms aggregation [{name}]"
                    )));
                }
            }
            "missing" => terms.missing = Some(keys::text(value, key)?),
            "order" => terms.order = order(value)?,
            // Counts are exact for any size, and how they are collected is not for the client to say.
            "shard_size" => drop(keys::count(value, key)?),
            "execution_hint" | "collect_mode" => drop(keys::text(value, key)?),
            "show_term_doc_count_error" if !keys::boolean(value, key)? => {}
            _ => return Err(unsupported(TYPE, key)),
        }
    }
    terms.field = field::required(path, TYPE)?;
    Ok(Box::new(terms))
}

/// `{"_count": "desc"}` or a list of such.
fn order(json: &Json) -> Result<Vec<v1::BucketOrder>, Error> {
    let single = std::slice::from_ref(json);
    let mut orders = Vec::new();
    for element in json.as_array().unwrap_or(single) {
        for (by, direction) in keys::object(element, "order")? {
            let descending = match keys::text(direction, by)?.to_ascii_lowercase().as_str() {
                "asc" => false,
                "desc" => true,
                other => return Err(parsing(format!("Unknown order direction [{other}]"))),
            };
            let by = if by == "_term" { "_key" } else { by };
            orders.push(v1::BucketOrder { by: by.to_owned(), descending });
        }
    }
    Ok(orders)
}

impl Kind for Terms {
    fn lower(&self, named: &Named<'_>, lowering: &mut Lowering<'_>) -> Result<v1::aggregation::Kind, Error> {
        for order in &self.order {
            let first = order.by.split('.').next().unwrap_or_default();
            let known = matches!(order.by.as_str(), "_count" | "_key")
                || named.children.iter().any(|child| child.name == first);
            if !known {
                return Err(illegal(format!(
                    "Invalid aggregator order path [{}]. The provided aggregation [{first}] either does not exist, or is a pipeline aggregation and cannot be used to sort the buckets.",
                    order.by
                )));
            }
        }
        let field = field::check(lowering, &self.field, "terms", field::is_any)?;
        Ok(v1::aggregation::Kind::Terms(v1::TermsAggregation {
            field: self.field.clone(),
            size: self.size,
            min_doc_count: self.min_doc_count,
            order: self.order.clone(),
            missing: field::missing(lowering, field, &self.missing)?,
        }))
    }

    fn is_bucket(&self) -> bool {
        true
    }

    fn type_name(&self, result: &AggregationResult) -> &'static str {
        match buckets::of(result).0.first().map(|bucket| &bucket.key) {
            Some(BucketKey::Long(_) | BucketKey::Boolean(_) | BucketKey::DateMs(_)) => "lterms",
            Some(BucketKey::Double(_)) => "dterms",
            Some(BucketKey::String(_)) | None => "sterms",
        }
    }

    fn render(&self, result: &AggregationResult, rendering: &Rendering<'_>) -> Members {
        let (found, other) = buckets::of(result);
        let list = found
            .iter()
            .map(|bucket| {
                let mut key = buckets::key(bucket, None);
                // Here, unlike in histograms, the key comes first.
                key.sort_by_key(|(name, _)| name != "key");
                buckets::bucket(key, bucket, rendering)
            })
            .collect::<Vec<_>>();
        vec![
            ("doc_count_error_upper_bound".to_owned(), 0_u32.into()),
            ("sum_other_doc_count".to_owned(), other.unwrap_or_default().into()),
            ("buckets".to_owned(), list.into()),
        ]
    }
}
