//! Lists of fields with boosts and wildcards: `["title^3", "body", "name.*"]`.

use trawl_data::mapping::Field;

use super::{
    super::{error::illegal, filter_path::matches, json::Json, keys},
    Lowering,
};
use crate::error::Error;

/// One entry of a `fields` list.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldPattern {
    /// A dotted path, perhaps with `*`.
    pub pattern: String,
    /// Factor on its score.
    pub boost: f32,
}

impl FieldPattern {
    /// From `path` or `path^boost`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let (pattern, boost) = match text.rsplit_once('^') {
            None => (text, 1.0),
            Some((pattern, boost)) => {
                let value: Option<f32> = boost.parse().ok().filter(|value: &f32| value.is_finite() && *value >= 0.0);
                let failed = || illegal(format!("Could not parse boost [{boost}] of field [{text}]"));
                (pattern, value.ok_or_else(failed)?)
            }
        };
        Ok(Self { pattern: pattern.to_owned(), boost })
    }

    /// From a list or a single text.
    pub fn parse_all(json: &Json) -> Result<Vec<Self>, Error> {
        keys::texts(json, "fields")?.iter().map(|text| Self::parse(text)).collect()
    }

    /// Whether it may stand for several fields.
    pub fn is_wildcard(&self) -> bool {
        self.pattern.contains('*')
    }
}

/// A field to search, with its boost.
pub type Boosted<'a> = (&'a Field, f32);

/// The fields that patterns stand for in an index, in the order of the patterns and, within one, by
/// path; a field named several times counts once, boosts multiplied. No pattern at all stands for
/// every text field (every keyword when there is no text). Fields that the index does not have are left out.
pub fn resolve<'a>(lowering: &mut Lowering<'a>, patterns: &[FieldPattern]) -> Vec<Boosted<'a>> {
    let mapping = lowering.mapping;
    if patterns.is_empty() {
        lowering.uses_dynamic = true;
        let of =
            |wanted: fn(&Field) -> bool| mapping.fields().filter(move |field| wanted(field)).map(|field| (field, 1.0));
        let texts: Vec<Boosted<'a>> = of(|field| field.field_type.is_text()).collect();
        if texts.is_empty() {
            return of(|field| field.field_type.is_keyword()).collect();
        }
        return texts;
    }
    let mut found: Vec<Boosted<'a>> = Vec::new();
    let mut add = |field: &'a Field, boost: f32| match found.iter_mut().find(|(known, _)| known.path == field.path) {
        Some((_, known)) => *known *= boost,
        None => found.push((field, boost)),
    };
    for pattern in patterns {
        if pattern.is_wildcard() {
            lowering.uses_dynamic = true;
            for field in mapping.fields().filter(|field| matches(&pattern.pattern, &field.path)) {
                add(field, pattern.boost);
            }
        } else if let Some(field) = lowering.field(&pattern.pattern) {
            add(field, pattern.boost);
        }
    }
    found
}
