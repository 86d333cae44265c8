//! `range`: values between bounds, score 1.

use trawl_data::{
    date::{DateFormats, DateMath, parse_offset},
    mapping::{Field, FieldType},
};
use trawl_proto::v1::{self, DynamicType, value::Kind};

use super::{
    Lowering, Node, Parsed, build, one_field,
    term::term_text,
    unsupported,
    values::{self, Number, wire},
};
use crate::{
    error::Error,
    http::{
        error::{illegal, parsing},
        json::Json,
        keys,
    },
};

/// Bounds on one field.
#[derive(Clone, Debug, Default)]
pub(super) struct Range {
    pub(super) field: String,
    pub(super) lower: Option<Limit>,
    pub(super) upper: Option<Limit>,
    pub(super) formats: Option<DateFormats>,
    /// Offset from UTC of dates that say none.
    pub(super) offset_ms: i64,
    pub(super) boost: Option<f32>,
}

/// One bound.
#[derive(Clone, Debug)]
pub(super) struct Limit {
    pub(super) text: String,
    /// Whether it is a JSON number.
    pub(super) is_number: bool,
    pub(super) inclusive: bool,
}

pub(super) fn parse(body: &Json) -> Result<Parsed, Error> {
    let (field, value) = one_field(body, "range")?;
    let mut range = Range { field: field.to_owned(), ..Range::default() };
    let Json::Object(members) = value else {
        return Err(parsing(format!("[range] query malformed, no start_object after field name [{field}]")));
    };
    for (key, value) in members {
        // A null bound is an open one.
        let limit = |inclusive| -> Result<Option<Limit>, Error> {
            match value {
                Json::Null => Ok(None),
                value => {
                    let is_number = matches!(value, Json::Number(_));
                    Ok(Some(Limit { text: term_text(value, "range")?, is_number, inclusive }))
                }
            }
        };
        match key.as_str() {
            "gt" => range.lower = limit(false)?,
            "gte" => range.lower = limit(true)?,
            "lt" => range.upper = limit(false)?,
            "lte" => range.upper = limit(true)?,
            "boost" => range.boost = Some(keys::boost(value, "range")?),
            "format" => {
                let names = keys::text(value, key)?;
                let formats = DateFormats::parse(&names)
                    .map_err(|name| illegal(format!("Invalid format: [{names}]: Unknown pattern [{name}]")))?;
                range.formats = Some(formats);
            }
            "time_zone" => {
                let zone = keys::text(value, key)?;
                range.offset_ms = parse_offset(&zone).ok_or_else(|| {
                    illegal(format!(
                        "[range] time_zone [{zone}] is not supported: it must be an offset such as [+01:00]"
                    ))
                })?;
            }
            _ => return Err(unsupported("range", key)),
        }
    }
    Ok(Box::new(range))
}

impl Node for Range {
    fn lower(&self, lowering: &mut Lowering<'_>) -> Result<v1::Query, Error> {
        let Some(field) = lowering.field(&self.field) else { return Ok(build::none()) };
        Ok(build::boosted(self.on(lowering, field)?, self.boost.unwrap_or(1.0)))
    }
}

impl Range {
    /// The range on a field.
    pub(super) fn on(&self, lowering: &mut Lowering<'_>, field: &Field) -> Result<v1::Query, Error> {
        lowering.clause()?;
        let path = field.path.as_str();
        if self.formats.is_some() && !field.field_type.is_date() {
            let kind = field.field_type.name();
            return Err(super::does_not_fit(
                "illegal_argument_exception",
                format!("Field [{path}] of type [{kind}] does not support DATE_FORMAT"),
            ));
        }
        let bounds = match &field.field_type {
            FieldType::Date { formats } => self.dates(lowering, self.formats.as_ref().unwrap_or(formats))?,
            FieldType::Ip => {
                let value = |limit: &Limit| {
                    values::ip(&limit.text)
                        .map(|value| (value, limit.inclusive))
                        .ok_or_else(|| values::not_an_ip(&limit.text))
                };
                (self.lower.as_ref().map(value).transpose()?, self.upper.as_ref().map(value).transpose()?)
            }
            FieldType::Boolean => {
                let value = |limit: &Limit| {
                    values::switch(&limit.text).map(|value| (wire(Kind::Boolean(value)), limit.inclusive))
                };
                (self.lower.as_ref().map(value).transpose()?, self.upper.as_ref().map(value).transpose()?)
            }
            FieldType::Text { .. } | FieldType::Keyword { .. } if field.dynamic.is_some() => {
                return self.mixed(lowering, field);
            }
            FieldType::Text { .. } | FieldType::Keyword { .. } => self.strings(),
            field_type => match field_type.integer_range() {
                Some(range) => match self.integers(range)? {
                    Some(bounds) => bounds,
                    None => return Ok(build::none()),
                },
                None => self.floats(*field_type == FieldType::Float)?,
            },
        };
        Ok(values::between(path, bounds.0, bounds.1))
    }

    fn strings(&self) -> Bounds {
        let value = |limit: &Limit| (build::string(limit.text.as_str()), limit.inclusive);
        (self.lower.as_ref().map(value), self.upper.as_ref().map(value))
    }

    /// A dynamic field with strings may hold values of other types. Bounds that are numbers are for
    /// numbers; others are for strings, and for the numbers and dates that they read as.
    fn mixed(&self, lowering: &Lowering<'_>, field: &Field) -> Result<v1::Query, Error> {
        let path = field.path.as_str();
        let limits = || self.lower.iter().chain(&self.upper);
        let numbers = if limits().all(|limit| values::number(&limit.text).is_ok()) {
            let number = |limit: &Limit| {
                let value = match values::number(&limit.text)? {
                    Number::Whole(value) => Kind::Long(value),
                    Number::Float(value) => Kind::Double(value),
                };
                Ok::<_, Error>((wire(value), limit.inclusive))
            };
            Some((self.lower.as_ref().map(number).transpose()?, self.upper.as_ref().map(number).transpose()?))
        } else {
            None
        };
        let of = |bounds: Bounds| values::between(path, bounds.0, bounds.1);
        if limits().any(|limit| limit.is_number) {
            return Ok(numbers.map_or_else(build::none, of));
        }
        let mut queries = vec![of(self.strings())];
        // The text forms under `.keyword` are compared as strings alone.
        if field.field_type.is_text() && limits().next().is_some() {
            let has = |kind: DynamicType| field.dynamic.is_some_and(|types| types & (1 << kind as u32) != 0);
            if has(DynamicType::DynamicLong) || has(DynamicType::DynamicDouble) {
                queries.extend(numbers.map(of));
            }
            if has(DynamicType::DynamicDate)
                && let Ok(bounds) = self.dates(lowering, &DateFormats::default())
            {
                queries.push(of(bounds));
            }
        }
        Ok(if queries.len() == 1 { queries.remove(0) } else { build::best(queries, 0.0) })
    }

    /// `gte` and `lt` take the first instant of what is written, `gt` and `lte` the last.
    fn dates(&self, lowering: &Lowering<'_>, formats: &DateFormats) -> Result<Bounds, Error> {
        let value = |limit: &Limit, round_up: bool| {
            let math = DateMath { now_ms: lowering.now_ms, round_up, offset_ms: self.offset_ms };
            values::date(&limit.text, formats, math).map(|ms| (wire(Kind::DateMs(ms)), limit.inclusive))
        };
        let lower = self.lower.as_ref().map(|limit| value(limit, !limit.inclusive)).transpose()?;
        let upper = self.upper.as_ref().map(|limit| value(limit, limit.inclusive)).transpose()?;
        Ok((lower, upper))
    }

    /// Bounds that are no whole numbers move to the next one inside; `None` when nothing is left.
    fn integers(&self, (least, greatest): (i64, i64)) -> Result<Option<Bounds>, Error> {
        let lower = match &self.lower {
            None => None,
            Some(limit) => match (values::number(&limit.text)?, limit.inclusive) {
                (Number::Whole(value), inclusive) => Some((value, inclusive)),
                (Number::Float(value), _) if value > greatest as f64 => return Ok(None),
                (Number::Float(value), _) if value < least as f64 => None,
                (Number::Float(value), inclusive) => Some((value.ceil() as i64, inclusive || value.fract() != 0.0)),
            },
        };
        let upper = match &self.upper {
            None => None,
            Some(limit) => match (values::number(&limit.text)?, limit.inclusive) {
                (Number::Whole(value), inclusive) => Some((value, inclusive)),
                (Number::Float(value), _) if value < least as f64 => return Ok(None),
                (Number::Float(value), _) if value > greatest as f64 => None,
                (Number::Float(value), inclusive) => Some((value.floor() as i64, inclusive || value.fract() != 0.0)),
            },
        };
        let bound = |(value, inclusive)| (wire(Kind::Long(value)), inclusive);
        Ok(Some((lower.map(bound), upper.map(bound))))
    }

    fn floats(&self, single: bool) -> Result<Bounds, Error> {
        let value = |limit: &Limit| {
            let value = values::number(&limit.text)?.float();
            let value = if single { f64::from(value as f32) } else { value };
            Ok::<_, Error>((wire(Kind::Double(value)), limit.inclusive))
        };
        Ok((self.lower.as_ref().map(value).transpose()?, self.upper.as_ref().map(value).transpose()?))
    }
}

type Bounds = (Option<(v1::Value, bool)>, Option<(v1::Value, bool)>);
