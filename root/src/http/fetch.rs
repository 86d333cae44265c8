//! What is returned of documents: `_source` filters and `highlight`.

use trawl_proto::v1;

use super::{
    error::{illegal, parsing},
    filter_path::matches,
    json::Json,
    keys,
    params::Params,
    query::Lowering,
};
use crate::error::Error;

/// Names of the parameters that filter `_source`.
pub(crate) const SOURCE_PARAMS: &[&str] =
    &["_source", "_source_includes", "_source_excludes", "_source_include", "_source_exclude"];

/// Which part of the source is wanted.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SourceFilter {
    pub(crate) wanted: bool,
    pub(crate) includes: Vec<String>,
    pub(crate) excludes: Vec<String>,
}

impl Default for SourceFilter {
    fn default() -> Self {
        Self { wanted: true, includes: Vec::new(), excludes: Vec::new() }
    }
}

impl SourceFilter {
    /// From a body's `_source` key: a switch, a path, a list or an object.
    pub(crate) fn parse(json: &Json) -> Result<Self, Error> {
        match json {
            Json::Bool(wanted) => Ok(Self { wanted: *wanted, ..Self::default() }),
            Json::String(_) | Json::Array(_) => Ok(Self { includes: keys::texts(json, "_source")?, ..Self::default() }),
            Json::Object(members) => {
                let mut filter = Self::default();
                for (key, value) in members {
                    match key.as_str() {
                        "includes" | "include" => filter.includes = keys::texts(value, key)?,
                        "excludes" | "exclude" => filter.excludes = keys::texts(value, key)?,
                        _ => return Err(parsing(format!("Unknown key for a {} in [{key}].", value.token()))),
                    }
                }
                Ok(filter)
            }
            other => Err(parsing(format!(
                "Expected one of [VALUE_BOOLEAN, VALUE_STRING, START_ARRAY, START_OBJECT] but found [{}]",
                other.token()
            ))),
        }
    }

    /// From the query string; `None` when it says nothing about the source.
    pub(crate) fn from_params(params: &Params) -> Result<Option<Self>, Error> {
        if !SOURCE_PARAMS.iter().any(|name| params.get(name).is_some()) {
            return Ok(None);
        }
        let mut filter = Self::default();
        match params.get("_source") {
            None => {}
            Some("" | "true") => {}
            Some("false") => filter.wanted = false,
            Some(list) => filter.includes = super::params::list(list),
        }
        for name in ["_source_includes", "_source_include"] {
            filter.includes.extend(params.list(name).unwrap_or_default());
        }
        for name in ["_source_excludes", "_source_exclude"] {
            filter.excludes.extend(params.list(name).unwrap_or_default());
        }
        Ok(Some(filter))
    }

    /// The wire form.
    pub(crate) fn options(&self) -> v1::FetchOptions {
        v1::FetchOptions {
            source: self.wanted,
            source_includes: self.includes.clone(),
            source_excludes: self.excludes.clone(),
            highlight: None,
        }
    }
}

/// What to highlight.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HighlightSpec {
    fields: Vec<(String, Fragments)>,
    pre_tag: String,
    post_tag: String,
}

#[derive(Clone, Debug, PartialEq)]
struct Fragments {
    size: u32,
    max: u32,
    no_match_size: u32,
}

impl HighlightSpec {
    /// From a body's `highlight` key.
    pub(crate) fn parse(json: &Json) -> Result<Self, Error> {
        let mut fragments = Fragments { size: 100, max: 5, no_match_size: 0 };
        let mut spec = Self { fields: Vec::new(), pre_tag: "<em>".to_owned(), post_tag: "</em>".to_owned() };
        let mut fields: Vec<(&str, &Json)> = Vec::new();
        for (key, value) in keys::object(json, "highlight")? {
            match key.as_str() {
                "fields" => fields = listed(value)?,
                "pre_tags" => spec.pre_tag = first(value, key)?,
                "post_tags" => spec.post_tag = first(value, key)?,
                "tags_schema" if value.as_str() == Some("default") => {}
                _ => option(&mut fragments, key, value)?,
            }
        }
        for (name, body) in fields {
            let mut own = fragments.clone();
            for (key, value) in keys::object(body, name)? {
                option(&mut own, key, value)?;
            }
            spec.fields.push((name.to_owned(), own));
        }
        Ok(spec)
    }

    /// The fields that an index has, patterns resolved, in the order written.
    pub(crate) fn lower(&self, lowering: &mut Lowering<'_>) -> v1::Highlight {
        let mapping = lowering.mapping;
        let mut fields: Vec<v1::HighlightField> = Vec::new();
        let mut add = |path: &str, fragments: &Fragments| {
            if fields.iter().any(|known| known.field == path) {
                return;
            }
            fields.push(v1::HighlightField {
                field: path.to_owned(),
                fragment_size: fragments.size,
                fragments_max: fragments.max,
                no_match_size: fragments.no_match_size,
            });
        };
        for (pattern, fragments) in &self.fields {
            if pattern.contains('*') {
                lowering.uses_dynamic = true;
                let texts =
                    mapping.fields().filter(|field| field.field_type.is_text() || field.field_type.is_keyword());
                for field in texts.filter(|field| matches(pattern, &field.path)) {
                    add(&field.path, fragments);
                }
            } else if let Some(field) = lowering.field(pattern) {
                add(&field.path, fragments);
            }
        }
        v1::Highlight { fields, pre_tag: self.pre_tag.clone(), post_tag: self.post_tag.clone() }
    }
}

/// An object of fields, or a list of objects with one field each.
fn listed(json: &Json) -> Result<Vec<(&str, &Json)>, Error> {
    let single = std::slice::from_ref(json);
    let mut fields = Vec::new();
    for element in json.as_array().unwrap_or(single) {
        fields.extend(keys::object(element, "fields")?.iter().map(|(name, body)| (name.as_str(), body)));
    }
    Ok(fields)
}

fn first(json: &Json, key: &str) -> Result<String, Error> {
    keys::texts(json, key)?.into_iter().next().ok_or_else(|| illegal(format!("[highlight] [{key}] is empty")))
}

fn option(fragments: &mut Fragments, key: &str, value: &Json) -> Result<(), Error> {
    let refused = || illegal(format!("[highlight] does not support [{key}] with value [{}]", keys::shown(value)));
    match key {
        "fragment_size" => fragments.size = keys::count(value, key)?,
        "number_of_fragments" => fragments.max = keys::count(value, key)?,
        "no_match_size" => fragments.no_match_size = keys::count(value, key)?,
        "require_field_match" if !keys::boolean(value, key)? => return Err(refused()),
        "require_field_match" => {}
        "type" if matches!(value.as_str(), Some("unified" | "plain")) => {}
        "order" if value.as_str() == Some("score") => {}
        "encoder" if value.as_str() == Some("default") => {}
        "boundary_scanner" if value.as_str() == Some("sentence") => {}
        "type" | "order" | "encoder" | "boundary_scanner" => return Err(refused()),
        _ => return Err(Error::invalid("x_content_parse_exception", format!("[highlight] unknown field [{key}]"))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;
    use trawl_data::mapping::Mapping;

    use super::*;
    use crate::http::json;

    #[test]
    fn source_filters() {
        let parsed = |text: &str| SourceFilter::parse(&json::parse(text.as_bytes()).unwrap()).unwrap();
        assert!(!parsed("false").wanted);
        assert_eq!(parsed(r#""a.*""#).includes, ["a.*"]);
        assert_eq!(parsed(r#"["a","b"]"#).includes, ["a", "b"]);
        let both = parsed(r#"{"includes":"a","excludes":["b"]}"#);
        assert_eq!((both.includes, both.excludes), (vec!["a".to_owned()], vec!["b".to_owned()]));
        let params = Params::parse("_source=a,b&_source_excludes=c");
        let filter = SourceFilter::from_params(&params).unwrap().unwrap();
        assert_eq!((filter.includes.len(), filter.excludes.len()), (2, 1));
    }

    #[test]
    fn highlights() {
        let mapping = Mapping::parse(
            &json!({"properties": {"title": {"type": "text"}, "body": {"type": "text"}, "n": {"type": "long"}}}),
        )
        .unwrap();
        let body = br#"{"fields":[{"title":{"number_of_fragments":0}},{"*":{}},{"nothing":{}}],"pre_tags":["<b>"],"post_tags":["</b>"],"fragment_size":50}"#;
        let spec = HighlightSpec::parse(&json::parse(body).unwrap()).unwrap();
        let highlight = spec.lower(&mut Lowering::new("i", &mapping, 0));
        let fields: Vec<_> = highlight
            .fields
            .iter()
            .map(|field| (field.field.as_str(), field.fragment_size, field.fragments_max))
            .collect();
        assert_eq!(fields, [("title", 50, 0), ("body", 50, 5)]);
        assert_eq!(highlight.pre_tag, "<b>");
        for body in [r#"{"fields":{"title":{"foo":1}}}"#, r#"{"require_field_match":false}"#, r#"{"type":"fvh"}"#] {
            assert!(HighlightSpec::parse(&json::parse(body.as_bytes()).unwrap()).is_err(), "{body}");
        }
    }
}
