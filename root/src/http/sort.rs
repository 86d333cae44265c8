//! `sort` and `search_after`.

use trawl_data::date::{DateFormats, DateMath};
use trawl_data::mapping::{Field, FieldType};
use trawl_proto::v1::{self, sort_key, sort_value, value::Kind};

use super::{
    aggs::fielddata,
    error::{illegal, parsing},
    json::Json,
    keys,
    query::{Lowering, values},
};
use crate::error::Error;

/// How many sort keys a request may have.
const KEYS_MAX: usize = 32;

/// One key of the order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SortSpec {
    by: By,
    descending: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum By {
    Score,
    Tie,
    Id,
    Field { path: String, mode: sort_key::Mode, missing: Missing, unmapped: bool },
}

#[derive(Clone, Debug, PartialEq)]
enum Missing {
    Last,
    First,
    Value(String),
}

/// Parses the value of a body's `sort` key. Sorting by score alone is the same as not sorting: empty.
pub(crate) fn parse(json: &Json) -> Result<Vec<SortSpec>, Error> {
    let mut specs = Vec::new();
    let single = std::slice::from_ref(json);
    for element in json.as_array().unwrap_or(single) {
        match element {
            Json::String(text) => specs.push(plain(text, None)?),
            Json::Object(members) => {
                for (name, body) in members {
                    specs.push(one(name, body)?);
                }
            }
            other => {
                return Err(parsing(format!(
                    "malformed sort format, within the sort array, an object, or an actual string are allowed, found [{}]",
                    other.token()
                )));
            }
        }
    }
    checked(specs)
}

/// Parses `?sort=field:desc,other`.
pub(crate) fn parse_text(text: &str) -> Result<Vec<SortSpec>, Error> {
    let specs: Result<Vec<SortSpec>, Error> = super::params::list(text)
        .iter()
        .map(|part| match part.rsplit_once(':') {
            Some((name, direction)) => plain(name, Some(descends(direction)?)),
            None => plain(part, None),
        })
        .collect();
    checked(specs?)
}

fn checked(specs: Vec<SortSpec>) -> Result<Vec<SortSpec>, Error> {
    if specs.len() > KEYS_MAX {
        return Err(illegal(format!("more than [{KEYS_MAX}] sort keys")));
    }
    if specs == [SortSpec { by: By::Score, descending: true }] {
        return Ok(Vec::new());
    }
    Ok(specs)
}

fn plain(name: &str, descending: Option<bool>) -> Result<SortSpec, Error> {
    let by = match name {
        "" => return Err(illegal("a sort key without a field")),
        "_score" => By::Score,
        "_doc" | "_shard_doc" => By::Tie,
        "_id" => By::Id,
        "_geo_distance" | "_script" => return Err(illegal(format!("sort by [{name}] is not supported"))),
        path => By::Field {
            path: path.to_owned(),
            mode: sort_key::Mode::Unspecified,
            missing: Missing::Last,
            unmapped: false,
        },
    };
    let descending = descending.unwrap_or(by == By::Score);
    Ok(SortSpec { by, descending })
}

fn descends(text: &str) -> Result<bool, Error> {
    match text.to_ascii_lowercase().as_str() {
        "asc" => Ok(false),
        "desc" => Ok(true),
        _ => Err(illegal(format!("Unknown SortOrder [{text}]"))),
    }
}

fn one(name: &str, body: &Json) -> Result<SortSpec, Error> {
    let mut spec = plain(name, None)?;
    let Json::Object(members) = body else {
        spec.descending = descends(&keys::text(body, name)?)?;
        return Ok(spec);
    };
    for (key, value) in members {
        match (key.as_str(), &mut spec.by) {
            ("order", _) => spec.descending = descends(&keys::text(value, key)?)?,
            ("mode", By::Field { mode, .. }) => {
                *mode = match keys::text(value, key)?.as_str() {
                    "min" => sort_key::Mode::Min,
                    "max" => sort_key::Mode::Max,
                    other => {
                        return Err(illegal(format!("sort mode [{other}] is not supported, only [min] and [max] are")));
                    }
                }
            }
            ("missing", By::Field { missing, .. }) => {
                *missing = match keys::text(value, key)?.as_str() {
                    "_last" => Missing::Last,
                    "_first" => Missing::First,
                    other => Missing::Value(other.to_owned()),
                }
            }
            ("unmapped_type", By::Field { unmapped, .. }) => {
                keys::text(value, key)?;
                *unmapped = true;
            }
            _ => {
                return Err(Error::invalid("x_content_parse_exception", format!("[field_sort] unknown field [{key}]")));
            }
        }
    }
    Ok(spec)
}

/// The keys on one index.
pub(crate) fn lower(specs: &[SortSpec], lowering: &mut Lowering<'_>) -> Result<Vec<v1::SortKey>, Error> {
    specs.iter().map(|spec| spec.lower(lowering)).collect()
}

impl SortSpec {
    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<v1::SortKey, Error> {
        let mut key = v1::SortKey { descending: self.descending, ..Default::default() };
        key.by = Some(match &self.by {
            By::Score => sort_key::By::Score(true),
            By::Tie => sort_key::By::Tie(true),
            By::Id => sort_key::By::Id(true),
            By::Field { path, mode, missing, unmapped } => {
                let field = sortable(lowering, path, *unmapped)?;
                key.mode = (*mode).into();
                key.as_double = field.is_some_and(|field| field.field_type == FieldType::Double);
                match missing {
                    Missing::Last => {}
                    Missing::First => key.missing_first = true,
                    Missing::Value(text) => {
                        key.missing_value = match field {
                            Some(field) => {
                                values::point(lowering, field, text)?.and_then(|values| values.into_iter().next())
                            }
                            None => None,
                        }
                    }
                }
                sort_key::By::Field(path.clone())
            }
        });
        Ok(key)
    }
}

/// The field of a sort key; `None` when it is unknown and may be.
fn sortable<'a>(lowering: &mut Lowering<'a>, path: &str, unmapped: bool) -> Result<Option<&'a Field>, Error> {
    let index = lowering.index;
    match lowering.field(path) {
        Some(field) if field.field_type.is_text() => Err(illegal(fielddata(path, index))),
        Some(field) => Ok(Some(field)),
        None if unmapped => Ok(None),
        None => {
            Err(Error::invalid("query_shard_exception", format!("No mapping found for [{path}] in order to sort on")))
        }
    }
}

/// Checks that there are as many values as keys.
pub(crate) fn check_after(specs: &[SortSpec], after: &[Json]) -> Result<(), Error> {
    if specs.is_empty() {
        return Err(illegal("Sort must contain at least one field."));
    }
    let keys = specs.len();
    if after.len() != keys {
        return Err(illegal(format!("search_after has {} value(s) but sort has {keys}.", after.len())));
    }
    Ok(())
}

/// The values of `search_after` on one index.
pub(crate) fn lower_after(
    specs: &[SortSpec],
    after: &[Json],
    lowering: &mut Lowering<'_>,
) -> Result<Vec<v1::SortValue>, Error> {
    let by_score = [SortSpec { by: By::Score, descending: true }];
    let specs = if specs.is_empty() { &by_score[..] } else { specs };
    let values: Result<Vec<v1::SortValue>, Error> = specs
        .iter()
        .zip(after)
        .map(|(spec, json)| Ok(v1::SortValue { kind: Some(after_value(spec, json, lowering)?) }))
        .collect();
    values
}

fn after_value(spec: &SortSpec, json: &Json, lowering: &mut Lowering<'_>) -> Result<sort_value::Kind, Error> {
    use sort_value::Kind as Sorted;
    if !json.is_scalar() {
        return Err(illegal(format!("Can't handle [search_after] value of type [{}]", json.token())));
    }
    let failed = |name: &str| illegal(format!("Failed to parse search_after value for field [{name}]."));
    let text = json.scalar_text();
    let Some(text) = text else { return Ok(Sorted::Null(true)) };
    match &spec.by {
        By::Score => Ok(Sorted::Score(text.parse().map_err(|_| failed("_score"))?)),
        By::Tie => Ok(Sorted::Tie(text.parse().map_err(|_| failed("_shard_doc"))?)),
        By::Id => Ok(Sorted::Value(values::wire(Kind::String(text)))),
        By::Field { path, unmapped, .. } => {
            let field = sortable(lowering, path, *unmapped)?;
            Ok(Sorted::Value(field_value(field, json, &text, lowering)?.ok_or_else(|| failed(path))?))
        }
    }
}

/// A sort value of a field, as [`super::render`] shows it in hits.
fn field_value(
    field: Option<&Field>,
    json: &Json,
    text: &str,
    lowering: &Lowering<'_>,
) -> Result<Option<v1::Value>, Error> {
    let field_type = field.map(|field| &field.field_type);
    let value = match (field_type, json) {
        (Some(FieldType::Date { .. }), Json::Number(number)) => number.as_i64().map(Kind::DateMs),
        (Some(FieldType::Date { formats }), _) => Some(Kind::DateMs(instant(text, formats, lowering.now_ms)?)),
        (Some(FieldType::Boolean), Json::Number(number)) => number.as_i64().map(|value| Kind::Boolean(value != 0)),
        // A dynamic field may hold numbers beside strings.
        (Some(FieldType::Keyword { .. }), Json::Number(_)) if field.is_some_and(|field| field.dynamic.is_some()) => {
            number(text)
        }
        (Some(FieldType::Keyword { .. } | FieldType::Text { .. }), _) => Some(Kind::String(text.to_owned())),
        (None, Json::Number(_)) => number(text),
        (None, _) => Some(Kind::String(text.to_owned())),
        (Some(_), _) => {
            let Some(field) = field else { return Ok(None) };
            return Ok(values::point(lowering, field, text)?.and_then(|values| values.into_iter().next()));
        }
    };
    Ok(value.map(values::wire))
}

/// The instant of a date as text: in the field's formats, else as milliseconds or in ISO 8601. A whole day
/// stands for its beginning.
fn instant(text: &str, formats: &DateFormats, now_ms: i64) -> Result<i64, Error> {
    let math = DateMath { now_ms, round_up: false, offset_ms: 0 };
    values::date(text, formats, math)
        .or_else(|error| values::date(text, &DateFormats::default(), math).map_err(|_| error))
}

fn number(text: &str) -> Option<Kind> {
    Some(match values::number(text).ok()? {
        values::Number::Whole(value) => Kind::Long(value),
        values::Number::Float(value) => Kind::Double(value),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;
    use trawl_data::mapping::Mapping;

    use super::*;
    use crate::http::json;

    fn mapping() -> Mapping {
        Mapping::parse(&json!({"properties": {
            "title": {"type": "text"}, "tag": {"type": "keyword"}, "year": {"type": "integer"}, "when": {"type": "date"}
        }}))
        .unwrap()
    }

    fn lowered(text: &str) -> Result<Vec<v1::SortKey>, Error> {
        let specs = parse(&json::parse(text.as_bytes()).unwrap())?;
        lower(&specs, &mut Lowering::new("books", &mapping(), 0))
    }

    #[test]
    fn all_forms() {
        let keys = lowered(
            r#"["_score",{"year":"desc"},{"tag":{"order":"asc","mode":"max","missing":"_first"}},"when","_doc","_id"]"#,
        )
        .unwrap();
        assert_eq!(keys.iter().map(|key| key.descending).collect::<Vec<_>>(), [true, true, false, false, false, false]);
        assert_eq!(keys[1].by, Some(sort_key::By::Field("year".into())));
        assert_eq!((keys[2].mode(), keys[2].missing_first), (sort_key::Mode::Max, true));
        assert_eq!(keys[4].by, Some(sort_key::By::Tie(true)));
        assert!(lowered(r#""_score""#).unwrap().is_empty());
        assert_eq!(lowered(r#"{"x":{"unmapped_type":"long"}}"#).unwrap().len(), 1);
        assert_eq!(lowered(r#"{"year":{"missing":7}}"#).unwrap()[0].missing_value, Some(values::wire(Kind::Long(7))));
        assert_eq!(parse_text("year:desc,_score").unwrap().len(), 2);
    }

    #[test]
    fn errors_are_worded_as_in_elasticsearch() {
        let reason = |text: &str| lowered(text).unwrap_err().to_string();
        assert_eq!(reason(r#""nothing""#), "No mapping found for [nothing] in order to sort on");
        assert!(reason(r#""title""#).starts_with("Fielddata is disabled on [title] in [books]."));
        assert_eq!(reason(r#"{"year":{"foo":1}}"#), "[field_sort] unknown field [foo]");
        assert_eq!(reason(r#"{"year":"up"}"#), "Unknown SortOrder [up]");
        let specs = parse(&json::parse(br#"["year","tag"]"#).unwrap()).unwrap();
        assert_eq!(
            check_after(&specs, &[Json::Null]).unwrap_err().to_string(),
            "search_after has 1 value(s) but sort has 2."
        );
    }

    #[test]
    fn search_after_has_the_types_of_the_fields() {
        let specs = parse(&json::parse(br#"["year","tag","when","_shard_doc"]"#).unwrap()).unwrap();
        let after = json::parse(br#"[2000,"a",null,18446744073709551615]"#).unwrap();
        let mapping = mapping();
        let values = lower_after(&specs, after.as_array().unwrap(), &mut Lowering::new("books", &mapping, 0)).unwrap();
        let kinds: Vec<_> = values.into_iter().filter_map(|value| value.kind).collect();
        assert_eq!(kinds[0], sort_value::Kind::Value(values::wire(Kind::Long(2000))));
        assert_eq!(kinds[1], sort_value::Kind::Value(values::wire(Kind::String("a".into()))));
        assert_eq!(kinds[2], sort_value::Kind::Null(true));
        assert_eq!(kinds[3], sort_value::Kind::Tie(u64::MAX));
    }

    #[test]
    fn search_after_takes_dates_as_they_are_shown_and_as_text() {
        let specs = parse(&json::parse(br#"["when"]"#).unwrap()).unwrap();
        let mapping = mapping();
        for after in ["[86400000]", r#"["86400000"]"#, r#"["1970-01-02"]"#, r#"["1970-01-02T00:00:00.000Z"]"#] {
            let after = json::parse(after.as_bytes()).unwrap();
            let mut lowering = Lowering::new("books", &mapping, 0);
            let values = lower_after(&specs, after.as_array().unwrap(), &mut lowering).unwrap();
            let expected = sort_value::Kind::Value(values::wire(Kind::DateMs(86_400_000)));
            assert_eq!(values[0].kind, Some(expected), "{after:?}");
        }
        assert_eq!(check_after(&[], &[Json::Null]).unwrap_err().to_string(), "Sort must contain at least one field.");
    }
}
