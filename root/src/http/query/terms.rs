//! `terms`: any of many values, score 1.

use trawl_proto::v1;

use super::{
    Lowering, Node, Parsed, build, members,
    term::{of_index, term_text},
    values,
};
use crate::{
    error::Error,
    http::{
        error::{illegal, parsing},
        json::Json,
        keys,
    },
};

/// Elasticsearch's `index.max_terms_count`.
const VALUES_MAX: usize = 65_536;

#[derive(Debug)]
struct Terms {
    field: String,
    texts: Vec<String>,
    boost: f32,
}

pub(super) fn parse(body: &Json) -> Result<Parsed, Error> {
    let mut boost = 1.0;
    let mut found: Option<(&str, &[Json])> = None;
    for (key, value) in members(body, "terms")? {
        match value {
            Json::Array(elements) if found.is_none() => found = Some((key, elements)),
            Json::Array(_) => return Err(parsing("[terms] query does not support multiple fields")),
            _ if key == "boost" => boost = keys::boost(value, "terms")?,
            Json::Object(_) => {
                return Err(parsing(format!("[terms] query does not support a terms lookup (field [{key}])")));
            }
            _ => return Err(super::unsupported("terms", key)),
        }
    }
    let Some((field, elements)) = found else {
        return Err(parsing("[terms] query requires a field name, followed by array of terms"));
    };
    if elements.len() > VALUES_MAX {
        return Err(illegal(format!(
            "The number of terms [{}] used in the Terms Query request has exceeded the allowed maximum of [{VALUES_MAX}]. This maximum can be set by changing the [index.max_terms_count] index level setting.",
            elements.len()
        )));
    }
    let texts: Result<Vec<String>, Error> = elements.iter().map(|element| term_text(element, "terms")).collect();
    Ok(Box::new(Terms { field: field.to_owned(), texts: texts?, boost }))
}

impl Node for Terms {
    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<v1::Query, Error> {
        lowering.clause()?;
        match self.field.as_str() {
            "_id" => return Ok(build::boosted(build::ids(self.texts.clone()), self.boost)),
            "_index" => {
                let hit = self.texts.iter().map(|text| of_index(lowering, text)).find(|query| !build::is_none(query));
                return Ok(build::boosted(hit.unwrap_or_else(build::none), self.boost));
            }
            _ => {}
        }
        let Some(field) = lowering.field(&self.field) else { return Ok(build::none()) };
        let mut points = Vec::with_capacity(self.texts.len());
        let mut ranges = Vec::new();
        for text in &self.texts {
            match values::point(lowering, field, text)? {
                Some(values) => points.extend(values),
                None => ranges.push(values::exact(lowering, field, text)?),
            }
        }
        let query = if ranges.is_empty() {
            build::term_set(&field.path, points)
        } else {
            ranges.push(build::term_set(&field.path, points));
            ranges.retain(|query| !build::is_none(query));
            build::constant(build::any(ranges, 1))
        };
        Ok(build::boosted(query, self.boost))
    }
}
